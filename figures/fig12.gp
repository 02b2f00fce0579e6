# Figure 12: SHARED QUESTION and CAUSAL BLOCKWISE over the sequence length, forward and backward, GQA and MHA (study 7).
#run fig12
#select --where "mask=share_question,causal_blockwise kernel=naive,sdpa,fa2,fa3,cudnn,flex,flashmask" --panel mask,pass,mode
#caption Throughput of the dense kernels on SHARED QUESTION (a-d) and CAUSAL BLOCKWISE (e-h) masks.
PANELS = "share_question/fwd/gqa share_question/fwd/mha share_question/bwd/gqa share_question/bwd/mha causal_blockwise/fwd/gqa causal_blockwise/fwd/mha causal_blockwise/bwd/gqa causal_blockwise/bwd/mha"
COLS = 2; Y = "rate"
TITLE(p) = mask_title(part(p, 1)).", ".part(p, 2)
MODE(p) = mode_title(part(p, 3))
load "figures/sweep.gp"
