// kernels_test_case.h -- one attention on the host, compared with the double reference (src/check.h):
// shared by kernels_test.c and kernels_calls_test.c. Header only.
#ifndef LONGCA_KERNELS_TEST_CASE_H
#define LONGCA_KERNELS_TEST_CASE_H

#include <math.h>
#include <omp.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "../src/check.h"
#include "../src/ref.h"
#include "../src/tensor.h"
#include "cpu/cpu.h"
#include "rep/cases.h"

// The registry's kernels of the host, NULL-terminated.
static inline const struct attn_kernel *const *host_kernels(void) {
  static const struct attn_kernel *list[64];
  for (int k = 0, n = 0; attn_kernels[k]; k++)
    if (attn_kernels[k]->place == ATTN_HOST)
      list[n++] = attn_kernels[k];
  return list;
}

// fp32, the whole of a mask.
static inline struct attn_problem problem_of(const struct mask *m, int heads_q, int heads_kv,
                                             int dim) {
  return (struct attn_problem){.mask = m,
                               .dtype = ATTN_FP32,
                               .heads_q = heads_q,
                               .heads_kv = heads_kv,
                               .dim = dim,
                               .rows_q = m->seqlen,
                               .rows_k = m->seqlen};
}

// Variant `variant` of a mask at length `seqlen` for `kernel`, fp32, dim 64, `group` query heads a KV
// head; false when that is not supported. The mask is to be freed in both cases.
static inline bool make_case(const struct attn_kernel *kernel, enum mask_kind kind, int32_t seqlen,
                             int variant, int group, struct mask *m, struct attn_problem *p) {
  assert_int_equal(case_mask(m, kind, seqlen, variant), 0);
  const int heads_kv = m->heads ? m->heads : group == 1 ? 2 : 1;
  *p = problem_of(m, heads_kv * group, heads_kv, 64);
  return attn_why_not(kernel, p) == NULL;
}

// A problem with its tensors; outputs are poisoned with NaN.
struct bench {
  struct attn_problem p;
  struct attn_args a;
  int64_t n_q, n_k; // elements of q and of k
};

static inline void bench_make(struct bench *b, const struct attn_problem *p) {
  b->p = *p;
  b->p.backward = true;
  b->n_q = (int64_t)p->rows_q * p->heads_q * p->dim;
  b->n_k = (int64_t)p->rows_k * p->heads_kv * p->dim;
  void *q = tensor_alloc(p->dtype, b->n_q), *k = tensor_alloc(p->dtype, b->n_k);
  void *v = tensor_alloc(p->dtype, b->n_k), *d_o = tensor_alloc(p->dtype, b->n_q);
  tensor_fill_normal(q, p->dtype, b->n_q, 7, 0);
  tensor_fill_normal(k, p->dtype, b->n_k, 7, 1);
  tensor_fill_normal(v, p->dtype, b->n_k, 7, 2);
  tensor_fill_normal(d_o, p->dtype, b->n_q, 7, 3);
  b->a = (struct attn_args){.q = q,
                            .k = k,
                            .v = v,
                            .d_o = d_o,
                            .o = tensor_alloc(p->dtype, b->n_q),
                            .lse = tensor_alloc(ATTN_FP32, (int64_t)p->rows_q * p->heads_q),
                            .dq = tensor_alloc(p->dtype, b->n_q),
                            .dk = tensor_alloc(p->dtype, b->n_k),
                            .dv = tensor_alloc(p->dtype, b->n_k)};
}

static inline void bench_free(struct bench *b) {
  free((void *)b->a.q), free((void *)b->a.k), free((void *)b->a.v), free((void *)b->a.d_o);
  free(b->a.o), free(b->a.lse), free(b->a.dq), free(b->a.dk), free(b->a.dv);
}

// Both passes of a plan of its own.
static inline void bench_run(struct bench *b, const struct attn_kernel *kernel) {
  struct attn_plan plan;
  assert_int_equal(attn_prepare(&plan, kernel, &b->p), 0);
  assert_int_equal(kernel->forward(&plan, &b->a), 0);
  assert_int_equal(kernel->backward(&plan, &b->a), 0);
  attn_release(&plan);
}

// A query that sees one key alone has P = 1 whatever q is: its part of dQ and dK is exactly 0, and a
// kernel's is the rounding of dO.V - dO.O, which no error relative to 0 can judge. Where a mask has
// such queries, gradients may be judged by their absolute error: Q, K, V and dO are normal, O(1).
static inline bool has_single_keys(const struct mask *m) {
  for (int32_t h = 0; h < (m->heads ? m->heads : 1); h++)
    for (int32_t q = 0; q < m->seqlen; q++) {
      int32_t keys = 0;
      for (int32_t k = 0; k < m->seqlen; k++)
        keys += mask_allows(m, h, q, k);
      if (keys == 1)
        return true;
    }
  return false;
}

static inline bool near(const void *got, enum attn_dtype dtype, const double *want, int64_t n) {
  const double limit = dtype == ATTN_FP32 ? 1e-4 : 0.2;
  for (int64_t i = 0; i < n; i++)
    if (!(fabs(tensor_get(got, dtype, i) - want[i]) <= limit + 0.01 * limit * fabs(want[i])))
      return false;
  return true;
}

static inline bool check_absolutely(const struct bench *b) {
  double *dq = malloc(sizeof *dq * (size_t)b->n_q), *dk = malloc(sizeof *dk * (size_t)b->n_k);
  double *dv = malloc(sizeof *dv * (size_t)b->n_k);
  assert_true(dq && dk && dv && !ref_backward(&b->p, &b->a, dq, dk, dv));
  const bool right = near(b->a.dq, b->p.dtype, dq, b->n_q) &&
                     near(b->a.dk, b->p.dtype, dk, b->n_k) && near(b->a.dv, b->p.dtype, dv, b->n_k);
  free(dq), free(dk), free(dv);
  return right;
}

// Runs both passes and compares them with the reference for problem `truth`; says how it went.
static inline bool run_and_check(const struct attn_kernel *kernel, const struct attn_problem *p,
                                 const struct attn_problem *truth, char *said, size_t size) {
  struct bench b;
  struct verify_report fwd, bwd;
  bench_make(&b, p);
  bench_run(&b, kernel);
  const bool fwd_right = check_outputs(truth, &b.a, ATTN_FWD, 3, &fwd);
  bool bwd_right = check_outputs(truth, &b.a, ATTN_BWD, 3, &bwd);
  if (!bwd_right && p == truth && has_single_keys(p->mask))
    bwd_right = check_absolutely(&b);
  snprintf(said, size, "forward: %lld of %lld rows wrong, error %.3g; backward: %lld of %lld, %.3g",
           (long long)fwd.wrong, (long long)fwd.rows, fwd.err_max, (long long)bwd.wrong,
           (long long)bwd.rows, bwd.err_max);
  bench_free(&b);
  return fwd_right && bwd_right;
}

static inline void expect_right(const struct attn_kernel *kernel, const struct attn_problem *p,
                                int variant) {
  char said[256];
  if (!run_and_check(kernel, p, p, said, sizeof said))
    fail_msg("%s, %s variant %d, %s, heads %d:%d, dim %d, length %d: %s", kernel->name,
             mask_name(p->mask->kind), variant, p->dtype == ATTN_BF16 ? "bf16" : "fp32", p->heads_q,
             p->heads_kv, p->dim, p->rows_q, said);
}

#endif
