# Figure 4: block-sparse kernels at half of the blocks kept (study 7).
#run fig4 table3 table4
#select --where "mask=uniform_block_sparse ratio=0.5 kernel=vsa,vsa_triton,fa2_sparse,flashinfer" --panel pass,mode,block
#caption Throughput of the block-sparse kernels, half of the key blocks kept.
PANELS = "fwd/mha/64 bwd/mha/64 fwd/gqa/128 fwd/mha/128"
COLS = 2; Y = "rate"
TITLE(p) = pass_title(part(p, 1)).", blocks of ".part(p, 3)
MODE(p) = mode_title(part(p, 2))
load "figures/sweep.gp"
