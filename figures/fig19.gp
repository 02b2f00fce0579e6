# Figure 19: peak memory of the block-sparse kernels, blocks of 64, MHA, by the fraction of blocks kept (study 7).
#run fig18
#select --where "mask=uniform_block_sparse block=64 mode=mha ratio=0.2,0.5,0.8 kernel=vsa,vsa_triton,fa2_sparse,flashinfer" --panel ratio,pass --y peak_mem_bytes/1e9
#caption Peak memory of the block-sparse kernels with blocks of 64 and MHA, at 20, 50 and 80 % of the key blocks kept.
PANELS = "0.2/fwd 0.2/bwd 0.5/fwd 0.5/bwd 0.8/fwd 0.8/bwd"
COLS = 2; Y = "memory"
TITLE(p) = sprintf("%g %% kept, ", 100 * real(part(p, 1))).pass_title(part(p, 2))
MODE(p) = "MHA"
load "figures/sweep.gp"
