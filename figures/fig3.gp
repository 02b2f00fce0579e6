# Figure 3: forward throughput of the dense kernels on all twelve masks at one length, GQA (study 7).
#run fig3
#select --where "mask=regular,heterogeneous mode=gqa pass=fwd kernel=naive,sdpa,fa2,fa3,cudnn,flex,flashmask" --at seqlen=8K --x mask
#caption Forward throughput of the dense kernels on all twelve masks at one length, GQA.
load "figures/masks.gp"
