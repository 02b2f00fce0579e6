// volume.c -- bytes that one rank sends in one pass, as closed formulas (study 6.3 to 6.7), against which
// the transports' own counts are held. Written from the grid alone, not from the schedules' loops.
#include "cp.h"

int64_t cp_volume(const struct cp_grid *g, const struct attn_problem *p, int32_t context_rows,
                  enum attn_pass pass) {
  const bool bwd = pass == ATTN_BWD;
  const int64_t a = g->heads, r = g->context;
  const int64_t b = cp_elem_bytes(p->dtype), rows = context_rows / a;
  const int64_t heads_q = p->heads_q / a, heads_kv = p->heads_kv < a ? 1 : p->heads_kv / a;
  const int64_t grad_bytes = p->heads_kv < a ? 4 : b; // copies of a head are summed in fp32
  // Exchange of heads: q, o (or dO, dQ) and k, v (or dK, dV), a share to each of the others.
  const int64_t heads =
      (a - 1) * rows * p->dim * 2 * (heads_q * b + heads_kv * (bwd ? grad_bytes : b));
  const int64_t kv = 2 * context_rows * heads_kv * p->dim; // elements of K and V of one block
  // K and V of every block but the own, and as many sums of dK and dV: none leaves home, and each ends there.
  return heads + (r - 1) * kv * (b + (bwd ? 4 : 0));
}
