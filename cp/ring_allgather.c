// ring_allgather.c -- Ring All-Gather: every rank gathers all keys and values, then one kernel runs its
// zigzag queries against them (study 6.5). The gather is exposed and the keys take O(S) memory, but one call
// sees all of a document at once. Gathered blocks stay in rank order: the kernel's key segments say
// where each stands, so there is no reordering pass. Backward gathers again, and dK, dV are summed to
// their owners in fp32.
#include <stdlib.h>
#include <string.h>

#include "cp.h"

static const char *arrange(const struct attn_problem *p, int ranks, const struct cp_wish *wish,
                           struct cp_grid *grid) {
  grid->context = ranks;
  return NULL;
}

static int64_t kv_elems(const struct cp_plan *p) {
  return (int64_t)p->shard.context_rows * p->piece_kv * p->problem.dim;
}

static int plan_gather(struct cp_plan *p) {
  const struct cp_shard *s = &p->shard;
  const int ranks = p->comm->size;
  int32_t segs = 0;
  for (int r = 0; r < ranks; r++)
    segs += s->segs[r];
  p->steps = calloc(1, sizeof *p->steps);
  p->step_problems = calloc(1, sizeof *p->step_problems);
  p->k_seg = malloc(sizeof *p->k_seg * (size_t)segs);
  if (!p->steps || !p->step_problems || !p->k_seg) {
    attn_error_set(true, "out of host memory for the segments of all ranks");
    return -1;
  }
  p->n_steps = 1;
  struct attn_segment *to = p->k_seg;
  for (int r = 0; r < ranks; r++)
    for (int32_t i = 0; i < s->segs[r]; i++, to++) {
      *to = s->seg[r][i];
      to->row += r * s->context_rows;
    }
  if (s->segs[p->context] && cp_prepare_step(p, 0, p->k_seg, segs, ranks * s->context_rows))
    return -1;
  const int64_t kv = kv_elems(p), bytes = kv * cp_elem_bytes(p->problem.dtype) * ranks;
  if (!(p->all.k = cp_buffer(p, bytes)) || !(p->all.v = cp_buffer(p, bytes)))
    return -1;
  if (!p->problem.backward)
    return 0;
  const int64_t q_elems = (int64_t)s->context_rows * p->piece_q * p->problem.dim;
  return (p->acc = cp_buffer(p, 4 * q_elems)) && (p->grad_all = cp_buffer(p, 2 * 4 * kv * ranks)) &&
                 (p->grad[0] = cp_buffer(p, 2 * 4 * kv))
             ? 0
             : -1;
}

static int gather(struct cp_plan *p, const struct attn_args *args) {
  struct cp_comm *comm = p->comm;
  const int64_t bytes = kv_elems(p) * cp_elem_bytes(p->problem.dtype);
  // Two channels, so that both are under way at once.
  return comm->transport->all_gather(comm, CP_KV, args->k, p->all.k, bytes) ||
                 comm->transport->all_gather(comm, CP_KV_FAR, args->v, p->all.v, bytes) ||
                 comm->transport->wait(comm, CP_KV) || comm->transport->wait(comm, CP_KV_FAR)
             ? -1
             : 0;
}

static int forward(struct cp_plan *p, const struct attn_args *args) {
  struct attn_args a = *args;
  if (gather(p, args))
    return -1;
  a.k = p->all.k;
  a.v = p->all.v;
  return cp_call(p, 0, ATTN_FWD, &a);
}

static int backward(struct cp_plan *p, const struct attn_args *args) {
  struct cp_comm *comm = p->comm;
  const struct cp_memory *memory = comm->memory;
  const int64_t kv = kv_elems(p), all = kv * comm->size;
  float *dq_sums;
  void *const stream = comm->stream;
  if (gather(p, args) || cp_begin_dq(p, &dq_sums) || memory->zero(p->grad_all, 2 * 4 * all, stream))
    return -1;
  struct attn_args a = *args;
  a.k = p->all.k;
  a.v = p->all.v;
  a.accumulate = true;
  a.dq_acc = dq_sums;
  a.dk_acc = p->grad_all;
  a.dv_acc = p->grad_all + all;
  if (cp_call(p, 0, ATTN_BWD, &a))
    return -1;
  float *dk = p->grad[0], *dv = dk + kv;
  return comm->transport->reduce_scatter(comm, CP_GRAD, p->grad_all, dk, kv) ||
                 comm->transport->reduce_scatter(comm, CP_GRAD_FAR, p->grad_all + all, dv, kv) ||
                 cp_end_dq(p, dq_sums, args->dq) || comm->transport->wait(comm, CP_GRAD) ||
                 comm->transport->wait(comm, CP_GRAD_FAR) ||
                 memory->cast(args->dk, p->problem.dtype, dk, kv, stream) ||
                 memory->cast(args->dv, p->problem.dtype, dv, kv, stream)
             ? -1
             : 0;
}

extern const struct cp_schedule cp_ring_allgather;
const struct cp_schedule cp_ring_allgather = {
    .name = "ring_allgather",
    .summary = "keys and values of all ranks gathered, one kernel",
    .context_first = true,
    .gathers = true,
    .arrange = arrange,
    .plan = plan_gather,
    .forward = forward,
    .backward = backward};
