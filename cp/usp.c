// usp.c -- USP: Ulysses over groups of `heads` ranks, Ring P2P between the groups (study 6.6). With the
// heads first, a node's ranks exchange heads and the ring runs between nodes: few, large hops. The study's
// code had it the other way round (study 9.3), which is `usp_context_first`.
#include "cp.h"

static const char *arrange(const struct attn_problem *p, int ranks, const struct cp_wish *wish,
                           struct cp_grid *grid) {
  const struct cp_wish one_window = {.heads = wish->heads, .context = wish->context, .windows = 1};
  return cp_arrange_hybrid(p, ranks, &one_window, grid);
}

extern const struct cp_schedule cp_usp, cp_usp_context_first;
const struct cp_schedule cp_usp = {.name = "usp",
                                   .summary =
                                       "Ulysses between neighbours, Ring P2P between their groups",
                                   .arrange = arrange,
                                   .plan = cp_heads_plan,
                                   .forward = cp_heads_forward,
                                   .backward = cp_heads_backward};
const struct cp_schedule cp_usp_context_first = {.name = "usp_context_first",
                                                 .summary =
                                                     "the same with the ring between neighbours",
                                                 .context_first = true,
                                                 .arrange = arrange,
                                                 .plan = cp_heads_plan,
                                                 .forward = cp_heads_forward,
                                                 .backward = cp_heads_backward};
