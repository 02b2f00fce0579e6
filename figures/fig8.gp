# Figure 8: FULL and CAUSAL over the sequence length, forward and backward, GQA and MHA (study 7).
#run fig8
#select --where "mask=full,causal kernel=naive,sdpa,fa2,fa3,cudnn,flex,flashmask" --panel mask,pass,mode
#caption Throughput of the dense kernels on FULL (a-d) and CAUSAL (e-h) masks.
PANELS = "full/fwd/gqa full/fwd/mha full/bwd/gqa full/bwd/mha causal/fwd/gqa causal/fwd/mha causal/bwd/gqa causal/bwd/mha"
COLS = 2; Y = "rate"
TITLE(p) = mask_title(part(p, 1)).", ".part(p, 2)
MODE(p) = mode_title(part(p, 3))
load "figures/sweep.gp"
