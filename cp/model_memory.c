// model_memory.c -- bytes that a rank holds under a schedule, by formula: what plan.c, heads.c, ring.c and
// ring_allgather.c allocate, which cp/model_test.c holds it against.
#include "model.h"

int64_t cp_buffer_bytes(const struct cp_schedule *schedule, const struct cp_grid *g,
                        const struct attn_problem *p, int32_t context_rows) {
  const int64_t b = cp_elem_bytes(p->dtype),
                heads_kv = p->heads_kv < g->heads ? 1 : p->heads_kv / g->heads;
  const int64_t q = (int64_t)context_rows * (p->heads_q / g->heads) * p->dim,
                k = (int64_t)context_rows * heads_kv * p->dim;
  if (schedule->gathers)
    return 2 * k * b * g->context + (p->backward ? 4 * q + 8 * k * g->context + 8 * k : 0);
  const int64_t q_piece = q / g->pieces,
                k_piece = heads_kv < g->pieces ? k / heads_kv : k / g->pieces;
  const bool parts = g->context > 1, sums = p->heads_kv < g->heads;
  const int size = g->context / g->windows;
  int64_t bytes = 0;
  if (g->heads > 1) // stage, q, o or what ranks meet in, k, v; dO, dQ, dK, dV
    bytes += (g->direct ? 32 * g->heads : 3 * q * b) + 8 * k + 2 * k * b +
             (p->backward ? 2 * q * b + 2 * k * b : 0);
  if (parts || (p->backward && sums))
    bytes += 4 * q_piece;
  const int near = size - 1 < 2 * g->blocks ? size - 1 : 2 * g->blocks;
  bytes += 2 * k_piece * b * near + (g->windows > 1 ? 4 * k_piece * b : 0);
  return bytes + (p->backward ? 8 * k_piece * (parts ? (g->windows > 1 ? 5 : 3) : sums) : 0);
}

int64_t cp_memory_bytes(const struct cp_schedule *schedule, const struct cp_grid *g,
                        const struct attn_problem *p, int32_t context_rows) {
  const int64_t rows = context_rows / g->heads, row = (int64_t)p->dim * cp_elem_bytes(p->dtype);
  const int64_t tensors = rows * row * (2 * p->heads_q + 2 * p->heads_kv);
  return tensors * (p->backward ? 2 : 1) + 4LL * context_rows * (p->heads_q / g->heads) +
         cp_buffer_bytes(schedule, g, p, context_rows);
}
