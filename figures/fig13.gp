# Figure 13: GLOBAL SLIDING over the sequence length, forward and backward, GQA and MHA (study 7).
#run fig13
#select --where "mask=global_sliding_window kernel=naive,sdpa,fa2,fa3,cudnn,flex,flashmask" --panel mask,pass,mode
#caption Throughput of the dense kernels on the GLOBAL SLIDING mask.
PANELS = "global_sliding_window/fwd/gqa global_sliding_window/fwd/mha global_sliding_window/bwd/gqa global_sliding_window/bwd/mha"
COLS = 2; Y = "rate"
TITLE(p) = mask_title(part(p, 1)).", ".part(p, 2)
MODE(p) = mode_title(part(p, 3))
load "figures/sweep.gp"
