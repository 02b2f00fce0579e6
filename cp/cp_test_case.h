// cp_test_case.h -- one attention over ranks, checked whole: shared by the loopback and the MPI tests.
//
// Every rank fills its shard from the whole inputs, runs forward and backward, and puts its outputs at
// their positions into whole tensors, which are compared with the double reference. Padded rows of the inputs
// are NaN, so whoever reads them is found out; but large numbers for kernels of a GPU, which multiply
// them by 0. Header only.
#ifndef LONGCA_CP_TEST_CASE_H
#define LONGCA_CP_TEST_CASE_H

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../src/ref.h"
#include "../src/tensor.h"
#include "cp.h"

enum { DIM = 64 };

struct whole { // a mask, its inputs and what must come out
  struct mask mask;
  int32_t heads_q, heads_kv;
  enum attn_dtype dtype;
  void *q, *k, *v, *d_o;
  double *o, *lse, *dq, *dk, *dv;
};

static inline struct attn_problem whole_problem(const struct whole *w) {
  return (struct attn_problem){.mask = &w->mask,
                               .dtype = w->dtype,
                               .heads_q = w->heads_q,
                               .heads_kv = w->heads_kv,
                               .dim = DIM,
                               .rows_q = w->mask.seqlen,
                               .rows_k = w->mask.seqlen,
                               .backward = true};
}

static inline int whole_make(struct whole *w, enum mask_kind kind, const int32_t *lengths,
                             int32_t docs, int32_t heads_q, int32_t heads_kv,
                             enum attn_dtype dtype) {
  int32_t seqlen = 0;
  for (int32_t i = 0; i < docs; i++)
    seqlen += lengths[i];
  memset(w, 0, sizeof *w);
  char err[256] = "";
  if (mask_init(&w->mask, kind, seqlen, mask_has_docs(kind) ? lengths : NULL,
                mask_has_docs(kind) ? docs : 0, seqlen / 5, seqlen / 3, 32, err, sizeof err)) {
    fprintf(stderr, "%s\n", err);
    return -1;
  }
  w->heads_q = heads_q;
  w->heads_kv = heads_kv;
  w->dtype = dtype;
  const int64_t nq = (int64_t)seqlen * heads_q * DIM, nk = (int64_t)seqlen * heads_kv * DIM;
  w->q = tensor_alloc(dtype, nq), w->d_o = tensor_alloc(dtype, nq);
  w->k = tensor_alloc(dtype, nk), w->v = tensor_alloc(dtype, nk);
  w->o = malloc(8 * (size_t)nq), w->dq = malloc(8 * (size_t)nq);
  w->dk = malloc(8 * (size_t)nk), w->dv = malloc(8 * (size_t)nk);
  w->lse = malloc(8 * (size_t)seqlen * (size_t)heads_q);
  tensor_fill_normal(w->q, dtype, nq, 1, 1);
  tensor_fill_normal(w->k, dtype, nk, 1, 2);
  tensor_fill_normal(w->v, dtype, nk, 1, 3);
  tensor_fill_normal(w->d_o, dtype, nq, 1, 4);
  const struct attn_problem p = whole_problem(w);
  const struct attn_args a = {.q = w->q, .k = w->k, .v = w->v, .d_o = w->d_o};
  return ref_forward(&p, &a, w->o, w->lse) || ref_backward(&p, &a, w->dq, w->dk, w->dv);
}

static inline void whole_free(struct whole *w) {
  mask_free(&w->mask);
  free(w->q), free(w->k), free(w->v), free(w->d_o);
  free(w->o), free(w->lse), free(w->dq), free(w->dk), free(w->dv);
}

struct outputs { // what came out, whole, fp32; [seqlen, heads, DIM], lse [heads_q, seqlen]
  float *o, *lse, *dq, *dk, *dv;
};

struct run {
  const struct whole *whole;
  const struct cp_schedule *schedule;
  struct cp_wish wish;
  const struct attn_kernel *kernel;
  struct outputs out;
  // Test hooks: called on a rank before its plan is made, and before its passes.
  void (*before)(struct cp_comm *comm, struct run *run);
  void (*planned)(struct cp_plan *plan, struct run *run, enum attn_pass pass);
  bool forward_only;  // a plan without backward; O and LSE are compared
  bool unmapped;      // its tensors are not said to cp_map
  int pieces, direct; // of the plan: said by run_body
  int64_t bytes_max;  // of the plan's buffers, over ranks
  int mutation;
};

static inline void outputs_make(struct outputs *o, const struct whole *w) {
  const size_t nq = (size_t)w->mask.seqlen * (size_t)w->heads_q,
               nk = (size_t)w->mask.seqlen * (size_t)w->heads_kv;
  o->o = tensor_alloc(ATTN_FP32, (int64_t)nq * DIM),
  o->dq = tensor_alloc(ATTN_FP32, (int64_t)nq * DIM);
  o->dk = tensor_alloc(ATTN_FP32, (int64_t)nk * DIM),
  o->dv = tensor_alloc(ATTN_FP32, (int64_t)nk * DIM);
  o->lse = tensor_alloc(ATTN_FP32, (int64_t)nq);
}

static inline void outputs_free(struct outputs *o) {
  free(o->o), free(o->lse), free(o->dq), free(o->dk), free(o->dv);
}

// What padding holds before it is written.
static inline void pad(void *shard, enum attn_dtype dtype, int64_t n, const struct cp_comm *comm) {
  for (int64_t i = 0; i < n && comm->memory->place == ATTN_DEVICE && dtype == ATTN_BF16; i++)
    ((uint16_t *)shard)[i] = bf16_from_float(10000);
}

// Rows of a whole tensor into a shard.
static inline void to_shard(const void *whole, void *shard, enum attn_dtype dtype,
                            const int32_t *pos, int32_t rows, int32_t heads) {
  const size_t row = (size_t)heads * DIM * tensor_elem_bytes(dtype);
  for (int32_t r = 0; r < rows; r++)
    if (pos[r] >= 0)
      memcpy((char *)shard + (size_t)r * row, (const char *)whole + (size_t)pos[r] * row, row);
}

static inline void from_shard(float *whole, const void *shard, enum attn_dtype dtype,
                              const int32_t *pos, int32_t rows, int32_t heads) {
  const int64_t n = (int64_t)heads * DIM;
  for (int32_t r = 0; r < rows; r++)
    for (int64_t i = 0; pos[r] >= 0 && i < n; i++)
      whole[pos[r] * n + i] = tensor_get(shard, dtype, r * n + i);
}

static inline int count_is_formula(struct cp_plan *plan, int64_t sent, int64_t received,
                                   enum attn_pass pass) {
  const int64_t want = cp_volume(&plan->grid, &plan->problem, plan->shard.context_rows, pass);
  if (sent == want && received == want)
    return 0;
  attn_error_set(false, "%s %s: sent %lld, received %lld bytes, the formula says %lld",
                 plan->schedule->name, pass == ATTN_BWD ? "bwd" : "fwd", (long long)sent,
                 (long long)received, (long long)want);
  return -1;
}

// What each rank does.
static inline int run_body(struct cp_comm *comm, void *context) {
  struct run *run = context;
  const struct whole *w = run->whole;
  struct attn_problem p = whole_problem(w);
  p.backward = !run->forward_only;
  struct cp_plan plan;
  if (run->before)
    run->before(comm, run);
  if (cp_plan_init(&plan, run->schedule, &run->wish, run->kernel, &p, comm)) {
    cp_plan_release(&plan);
    return -1;
  }
  const int32_t rows = plan.shard.rows;
  int32_t *all = malloc(sizeof *all * (size_t)plan.shard.context_rows);
  cp_shard_positions(&plan.shard, plan.context, all);
  const int32_t *pos = all + plan.head * rows;
  const int64_t nq = (int64_t)rows * w->heads_q * DIM, nk = (int64_t)rows * w->heads_kv * DIM;
  enum { Q, K, V, D_O, O, DQ, DK, DV, LSE, TENSORS };
  const int64_t size = (int64_t)tensor_elem_bytes(w->dtype);
  const int64_t bytes_of[TENSORS] = {
      nq * size, nk * size, nk * size,
      nq * size, nq * size, nq * size,
      nk * size, nk * size, 4LL * plan.heads_q * plan.shard.context_rows};
  const void *const inputs[] = {w->q, w->k, w->v, w->d_o};
  void *host[TENSORS], *t[TENSORS]; // t: in the transport's memory
  int status = 0;
  for (int i = 0; i < TENSORS; i++) {
    host[i] = tensor_alloc(ATTN_FP32, (bytes_of[i] + 3) / 4);
    t[i] = comm->memory->alloc(bytes_of[i]);
    pad(host[i], w->dtype, bytes_of[i] / size, comm);
    if (i <= D_O)
      to_shard(inputs[i], host[i], w->dtype, pos, rows,
               i == K || i == V ? w->heads_kv : w->heads_q);
    status = status || !t[i] || comm->memory->upload(t[i], host[i], bytes_of[i]);
  }
  const struct attn_args a = {.q = t[Q],
                              .k = t[K],
                              .v = t[V],
                              .o = t[O],
                              .lse = t[LSE],
                              .d_o = t[D_O],
                              .dq = t[DQ],
                              .dk = t[DK],
                              .dv = t[DV]};
  __atomic_store_n(&run->pieces, plan.grid.pieces, __ATOMIC_RELAXED);
  __atomic_store_n(&run->direct, plan.grid.direct, __ATOMIC_RELAXED);
  status = status || (!run->unmapped && cp_map(&plan, t[Q], t[O]));
  const int64_t sent = comm->bytes_sent, received = comm->bytes_received;
  if (run->planned)
    run->planned(&plan, run, ATTN_FWD);
  status = status || cp_forward(&plan, &a);
  const int64_t sent_fwd = comm->bytes_sent - sent, received_fwd = comm->bytes_received - received;
  if (run->planned)
    run->planned(&plan, run, ATTN_BWD);
  status = status || (p.backward && cp_backward(&plan, &a)) || comm->memory->sync(comm->stream);
  for (int i = O; !status && i < TENSORS; i++)
    status = comm->memory->download(host[i], t[i], bytes_of[i]);
  if (!status) {
    from_shard(run->out.o, host[O], w->dtype, pos, rows, w->heads_q);
    from_shard(run->out.dq, host[DQ], w->dtype, pos, rows, w->heads_q);
    from_shard(run->out.dk, host[DK], w->dtype, pos, rows, w->heads_kv);
    from_shard(run->out.dv, host[DV], w->dtype, pos, rows, w->heads_kv);
    const float *const lse = host[LSE];
    for (int h = 0; h < plan.heads_q; h++)
      for (int32_t r = 0; r < plan.shard.context_rows; r++)
        if (all[r] >= 0)
          run->out.lse[(int64_t)(plan.head * plan.heads_q + h) * w->mask.seqlen + all[r]] =
              lse[(int64_t)h * plan.shard.context_rows + r];
    if (!run->mutation)
      status = count_is_formula(&plan, sent_fwd, received_fwd, ATTN_FWD) ||
               (p.backward &&
                count_is_formula(&plan, comm->bytes_sent - sent - sent_fwd,
                                 comm->bytes_received - received - received_fwd, ATTN_BWD));
  }
  status = status || cp_unmap(&plan);
  int64_t bytes = __atomic_load_n(&run->bytes_max, __ATOMIC_RELAXED);
  while (bytes < plan.bytes &&
         !__atomic_compare_exchange_n(&run->bytes_max, &bytes, plan.bytes, false, __ATOMIC_RELAXED,
                                      __ATOMIC_RELAXED))
    ;
  for (int i = 0; i < TENSORS; i++) {
    free(host[i]);
    if (t[i])
      comm->memory->release(t[i]);
  }
  free(all);
  cp_plan_release(&plan);
  return status ? -1 : 0;
}

// Largest error over the largest wanted value; NaN when anything is.
static inline double error_of(const float *got, const double *want, int64_t n) {
  double err = 0, most = 0;
  for (int64_t i = 0; i < n; i++) {
    const double e = fabs(got[i] - want[i]);
    err = e > err || isnan(e) ? e : err;
    if (isnan(err))
      return err;
    most = fabs(want[i]) > most ? fabs(want[i]) : most;
  }
  return err / most;
}

// Worst of O, LSE, dQ, dK, dV; NaN counts as worst. `tensor` names it.
static inline double worst_error(const struct run *run, const char **tensor) {
  const struct whole *w = run->whole;
  const int64_t nq = (int64_t)w->mask.seqlen * w->heads_q,
                nk = (int64_t)w->mask.seqlen * w->heads_kv;
  const struct {
    const char *name;
    const float *got;
    const double *want;
    int64_t n;
  } list[] = {{"O", run->out.o, w->o, nq * DIM},
              {"LSE", run->out.lse, w->lse, nq},
              {"dQ", run->out.dq, w->dq, nq * DIM},
              {"dK", run->out.dk, w->dk, nk * DIM},
              {"dV", run->out.dv, w->dv, nk * DIM}};
  double worst = -1;
  for (size_t i = 0; i < (run->forward_only ? 2 : sizeof list / sizeof *list); i++) {
    const double e = error_of(list[i].got, list[i].want, list[i].n);
    if (!(e <= worst)) {
      worst = e;
      *tensor = list[i].name;
      if (isnan(e))
        break;
    }
  }
  return worst;
}

// A ring of sends, then one of receives, each a group of its own: must not pass (cp.h).
static inline int ungrouped_ring(struct cp_comm *comm, void *out, void *in, int64_t bytes) {
  const struct cp_op send = {true, (comm->rank + 1) % comm->size, out, bytes};
  const struct cp_op recv = {false, (comm->rank + comm->size - 1) % comm->size, in, bytes};
  const struct cp_transport *net = comm->transport;
  return net->post(comm, CP_KV, &send, 1) || net->wait(comm, CP_KV) ||
                 net->post(comm, CP_KV, &recv, 1) || net->wait(comm, CP_KV)
             ? -1
             : 0;
}

#endif
