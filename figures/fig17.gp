# Figure 17: peak memory of the dense kernels on the six heterogeneous masks (study 7).
#run fig11 fig12 fig13 fig14
#select --where "mask=heterogeneous kernel=naive,sdpa,fa2,fa3,cudnn,flex,flashmask" --panel mask,mode,pass --y peak_mem_bytes/1e9
#caption Peak memory of the dense kernels on the six heterogeneous masks; rows are masks, columns GQA and MHA, forward and backward.
PANELS = "share_question/gqa/fwd share_question/gqa/bwd share_question/mha/fwd share_question/mha/bwd causal_blockwise/gqa/fwd causal_blockwise/gqa/bwd causal_blockwise/mha/fwd causal_blockwise/mha/bwd global_sliding_window/gqa/fwd global_sliding_window/gqa/bwd global_sliding_window/mha/fwd global_sliding_window/mha/bwd prefix_lm_causal/gqa/fwd prefix_lm_causal/gqa/bwd prefix_lm_causal/mha/fwd prefix_lm_causal/mha/bwd prefix_lm_document/gqa/fwd prefix_lm_document/gqa/bwd prefix_lm_document/mha/fwd prefix_lm_document/mha/bwd block_causal_document/gqa/fwd block_causal_document/gqa/bwd block_causal_document/mha/fwd block_causal_document/mha/bwd"
COLS = 4; Y = "memory"; PANEL_H = 2.6
SHORT(m) = m eq "sliding_window_causal" ? "CAUSAL WINDOW" : m eq "sliding_window" ? "FULL WINDOW" : \
  m eq "full_document" ? "FULL DOC." : m eq "causal_document" ? "CAUSAL DOC." : m eq "share_question" ? "SHARED QUEST." : \
  m eq "prefix_lm_document" ? "PREFIX DOC." : m eq "prefix_lm_causal" ? "PREFIX CAUSAL" : \
  m eq "block_causal_document" ? "BLOCK CAUSAL" : m eq "causal_blockwise" ? "BLOCKWISE" : mask_title(m)
TITLE(p) = SHORT(part(p, 1)).", ".part(p, 3)
MODE(p) = mode_title(part(p, 2))
load "figures/sweep.gp"
