// ulysses.c -- DeepSpeed-Ulysses: all-to-all from tokens to heads, attention over the whole sequence on a
// share of the heads, all-to-all back (study 6.3). Every mask, perfect balance, as many ranks as heads;
// KV heads are copied when there are fewer than ranks. The exchange goes in pieces of heads, one under
// the other's kernel (heads.c).
#include "cp.h"

static const char *arrange(const struct attn_problem *p, int ranks, const struct cp_wish *wish,
                           struct cp_grid *grid) {
  grid->heads = ranks;
  return cp_heads_why_not(p, ranks);
}

extern const struct cp_schedule cp_ulysses;
const struct cp_schedule cp_ulysses = {
    .name = "ulysses",
    .summary = "all-to-all: a rank has all tokens, and a share of the heads",
    .arrange = arrange,
    .plan = cp_heads_plan,
    .forward = cp_heads_forward,
    .backward = cp_heads_backward};
