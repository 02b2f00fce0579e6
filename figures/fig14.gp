# Figure 14: BLOCK CAUSAL DOCUMENT over the sequence length, forward and backward, GQA and MHA (study 7).
#run fig14
#select --where "mask=block_causal_document kernel=naive,sdpa,fa2,fa3,cudnn,flex,flashmask" --panel mask,pass,mode
#caption Throughput of the dense kernels on the BLOCK CAUSAL DOCUMENT mask.
PANELS = "block_causal_document/fwd/gqa block_causal_document/fwd/mha block_causal_document/bwd/gqa block_causal_document/bwd/mha"
COLS = 2; Y = "rate"
TITLE(p) = mask_title(part(p, 1)).", ".part(p, 2)
MODE(p) = mode_title(part(p, 3))
load "figures/sweep.gp"
