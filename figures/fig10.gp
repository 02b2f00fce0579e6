# Figure 10: FULL and CAUSAL SLIDING WINDOW over the sequence length, forward and backward, GQA and MHA (study 7).
#run fig10
#select --where "mask=sliding_window,sliding_window_causal kernel=naive,sdpa,fa2,fa3,cudnn,flex,flashmask" --panel mask,pass,mode
#caption Throughput of the dense kernels on FULL (a-d) and CAUSAL (e-h) SLIDING WINDOW masks.
PANELS = "sliding_window/fwd/gqa sliding_window/fwd/mha sliding_window/bwd/gqa sliding_window/bwd/mha sliding_window_causal/fwd/gqa sliding_window_causal/fwd/mha sliding_window_causal/bwd/gqa sliding_window_causal/bwd/mha"
COLS = 2; Y = "rate"
TITLE(p) = mask_title(part(p, 1)).", ".part(p, 2)
MODE(p) = mode_title(part(p, 3))
load "figures/sweep.gp"
