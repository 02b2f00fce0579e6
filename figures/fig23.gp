# Figure 23: per-rank throughput of the context-parallel schedules on FULL DOCUMENT, backward (study 7).
#run fig23
#select --where "mask=full_document_long pass=bwd cp!=none" --panel transport,pass --series cp --x ranks --at tokens=8K
#caption Per-rank throughput, by the slowest rank, of the context-parallel schedules on FULL DOCUMENT, backward.
TITLE(p) = part(p, 1).", ".pass_title(part(p, 2))
load "figures/ranks.gp"
