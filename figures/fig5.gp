# Figure 5: per-rank throughput of the context-parallel schedules on FULL DOCUMENT, forward (study 7).
#run fig5
#select --where "mask=full_document_long pass=fwd cp!=none" --panel transport,pass --series cp --x ranks --at tokens=8K
#caption Per-rank throughput, by the slowest rank, of the context-parallel schedules on FULL DOCUMENT, forward.
TITLE(p) = part(p, 1).", ".pass_title(part(p, 2))
load "figures/ranks.gp"
