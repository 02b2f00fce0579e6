# Figure 16: peak memory of the dense kernels on the six regular masks (study 7).
#run fig8 fig9 fig10
#select --where "mask=regular kernel=naive,sdpa,fa2,fa3,cudnn,flex,flashmask" --panel mask,mode,pass --y peak_mem_bytes/1e9
#caption Peak memory of the dense kernels on the six regular masks; rows are masks, columns GQA and MHA, forward and backward.
PANELS = "full/gqa/fwd full/gqa/bwd full/mha/fwd full/mha/bwd causal/gqa/fwd causal/gqa/bwd causal/mha/fwd causal/mha/bwd sliding_window/gqa/fwd sliding_window/gqa/bwd sliding_window/mha/fwd sliding_window/mha/bwd sliding_window_causal/gqa/fwd sliding_window_causal/gqa/bwd sliding_window_causal/mha/fwd sliding_window_causal/mha/bwd full_document/gqa/fwd full_document/gqa/bwd full_document/mha/fwd full_document/mha/bwd causal_document/gqa/fwd causal_document/gqa/bwd causal_document/mha/fwd causal_document/mha/bwd"
COLS = 4; Y = "memory"; PANEL_H = 2.6
SHORT(m) = m eq "sliding_window_causal" ? "CAUSAL WINDOW" : m eq "sliding_window" ? "FULL WINDOW" : \
  m eq "full_document" ? "FULL DOC." : m eq "causal_document" ? "CAUSAL DOC." : m eq "share_question" ? "SHARED QUEST." : \
  m eq "prefix_lm_document" ? "PREFIX DOC." : m eq "prefix_lm_causal" ? "PREFIX CAUSAL" : \
  m eq "block_causal_document" ? "BLOCK CAUSAL" : m eq "causal_blockwise" ? "BLOCKWISE" : mask_title(m)
TITLE(p) = SHORT(part(p, 1)).", ".part(p, 3)
MODE(p) = mode_title(part(p, 2))
load "figures/sweep.gp"
