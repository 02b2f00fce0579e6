# Open question C: the rate of each representation on one engine (study 8); what they take is in open_c.gp.
#run open_c
#select --where "mask=regular,heterogeneous mode=gqa pass=fwd kernel=fa2,fa3,flex,flashmask,flashmask_v3,spans" --at seqlen=8K --x mask
#title Open question C: what a compact representation costs in rate
#caption Forward rate of the representations on one engine, all twelve masks at one length, GQA. spans is ours.
load "figures/masks.gp"
