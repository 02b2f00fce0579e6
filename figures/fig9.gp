# Figure 9: FULL DOCUMENT and CAUSAL DOCUMENT over the sequence length, forward and backward, GQA and MHA (study 7).
#run fig9
#select --where "mask=full_document,causal_document kernel=naive,sdpa,fa2,fa3,cudnn,flex,flashmask" --panel mask,pass,mode
#caption Throughput of the dense kernels on FULL DOCUMENT (a-d) and CAUSAL DOCUMENT (e-h) masks.
PANELS = "full_document/fwd/gqa full_document/fwd/mha full_document/bwd/gqa full_document/bwd/mha causal_document/fwd/gqa causal_document/fwd/mha causal_document/bwd/gqa causal_document/bwd/mha"
COLS = 2; Y = "rate"
TITLE(p) = mask_title(part(p, 1)).", ".part(p, 2)
MODE(p) = mode_title(part(p, 3))
load "figures/sweep.gp"
