# Figure 11: PREFIX LM CAUSAL and PREFIX LM DOCUMENT over the sequence length, forward and backward, GQA and MHA (study 7).
#run fig11
#select --where "mask=prefix_lm_causal,prefix_lm_document kernel=naive,sdpa,fa2,fa3,cudnn,flex,flashmask" --panel mask,pass,mode
#caption Throughput of the dense kernels on PREFIX LM CAUSAL (a-d) and PREFIX LM DOCUMENT (e-h) masks.
PANELS = "prefix_lm_causal/fwd/gqa prefix_lm_causal/fwd/mha prefix_lm_causal/bwd/gqa prefix_lm_causal/bwd/mha prefix_lm_document/fwd/gqa prefix_lm_document/fwd/mha prefix_lm_document/bwd/gqa prefix_lm_document/bwd/mha"
COLS = 2; Y = "rate"
TITLE(p) = mask_title(part(p, 1)).", ".part(p, 2)
MODE(p) = mode_title(part(p, 3))
load "figures/sweep.gp"
