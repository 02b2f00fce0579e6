# Open question D: variable blocks (mask 14), for which the study published no result (study 5.2, 8).
#run variable
#select --where "mask=variable_block_sparse kernel=flashinfer,flex_sparse" --panel pass,block --at seqlen=16K --x ratio
#title Open question D: variable blocks
#caption Rate on variable blocks of 256 and of 512 keys and queries on average, by the fraction of blocks kept, over the pairs that are truly kept.
PANELS = "fwd/256 bwd/256 fwd/512 bwd/512"
COLS = 2; Y = "rate"
TITLE(p) = pass_title(part(p, 1)).", ".part(p, 2)." on average"
MODE(p) = "MHA"
load "figures/sweep.gp"
