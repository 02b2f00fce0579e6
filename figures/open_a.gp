# Open question A: block-sparse kernels with GQA, forward and backward (study 8).
#run open_a
#select --where "mask=uniform_block_sparse mode=gqa kernel=vsa,vsa_triton,fa2_sparse,flashinfer,flex_sparse" --panel pass,block --at seqlen=32K --x ratio
#title Open question A: block-sparse attention with GQA, backward too
#caption Rate of the block-sparse kernels with GQA by the fraction of key blocks kept, backward too, over the pairs that are truly kept.
PANELS = "fwd/64 bwd/64 fwd/128 bwd/128"
COLS = 2; Y = "rate"
TITLE(p) = pass_title(part(p, 1)).", blocks of ".part(p, 2)
MODE(p) = "GQA"
load "figures/sweep.gp"
