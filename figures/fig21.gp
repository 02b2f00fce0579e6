# Figure 21: per-rank throughput of the context-parallel schedules on CAUSAL, forward and backward (study 7).
#run fig21
#select --where "mask=causal cp!=none" --panel transport,pass --series cp --x ranks --at tokens=8K
#caption Per-rank throughput, by the slowest rank, of the context-parallel schedules on CAUSAL, forward and backward.
TITLE(p) = part(p, 1).", ".pass_title(part(p, 2))
load "figures/ranks.gp"
