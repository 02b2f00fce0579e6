// kernels_test.c -- every host kernel of the registry against the double reference (src/check.h):
// kernel x mask x {forward, backward} x {MHA, GQA 8:1} x {bf16, fp32} x head dimension x length, paired
// rather than multiplied out, and the rest of the contract of attn.h: segments, continuation,
// accumulation, rows that see nothing, outputs wholly overwritten.
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

// A problem with its tensors; outputs are poisoned with NaN.
struct bench {
  struct attn_problem p;
  struct attn_args a;
  int64_t n_q, n_k; // elements of q and of k
};

static void bench_make(struct bench *b, const struct attn_problem *p) {
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

static void bench_free(struct bench *b) {
  free((void *)b->a.q), free((void *)b->a.k), free((void *)b->a.v), free((void *)b->a.d_o);
  free(b->a.o), free(b->a.lse), free(b->a.dq), free(b->a.dk), free(b->a.dv);
}

// A query that sees one key alone has P = 1 whatever q is: its part of dQ and dK is exactly 0, and a
// kernel's is the rounding of dO.V - dO.O, which no error relative to 0 can judge. Where a mask has
// such queries, gradients may be judged by their absolute error: Q, K, V and dO are normal, O(1).
static bool has_single_keys(const struct mask *m) {
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

static bool near(const void *got, enum attn_dtype dtype, const double *want, int64_t n) {
  const double limit = dtype == ATTN_FP32 ? 1e-4 : 0.2;
  for (int64_t i = 0; i < n; i++)
    if (!(fabs(tensor_get(got, dtype, i) - want[i]) <= limit + 0.01 * limit * fabs(want[i])))
      return false;
  return true;
}

static bool check_absolutely(const struct bench *b) {
  double *dq = malloc(sizeof *dq * (size_t)b->n_q), *dk = malloc(sizeof *dk * (size_t)b->n_k);
  double *dv = malloc(sizeof *dv * (size_t)b->n_k);
  assert_true(dq && dk && dv && !ref_backward(&b->p, &b->a, dq, dk, dv));
  const bool right = near(b->a.dq, b->p.dtype, dq, b->n_q) &&
                     near(b->a.dk, b->p.dtype, dk, b->n_k) && near(b->a.dv, b->p.dtype, dv, b->n_k);
  free(dq), free(dk), free(dv);
  return right;
}

// Runs both passes and compares them with the reference for problem `truth`.
static bool run_and_check(const struct attn_kernel *kernel, const struct attn_problem *p,
                          const struct attn_problem *truth, char *said, size_t size) {
  struct bench b;
  struct attn_plan plan;
  struct verify_report fwd, bwd;
  bench_make(&b, p);
  assert_int_equal(attn_prepare(&plan, kernel, &b.p), 0);
  assert_int_equal(kernel->forward(&plan, &b.a), 0);
  assert_int_equal(kernel->backward(&plan, &b.a), 0);
  const bool fwd_right = check_outputs(truth, &b.a, ATTN_FWD, 3, &fwd);
  bool bwd_right = check_outputs(truth, &b.a, ATTN_BWD, 3, &bwd);
  if (!bwd_right && p == truth && has_single_keys(p->mask))
    bwd_right = check_absolutely(&b);
  snprintf(said, size, "forward: %lld of %lld rows wrong, error %.3g; backward: %lld of %lld, %.3g",
           (long long)fwd.wrong, (long long)fwd.rows, fwd.err_max, (long long)bwd.wrong,
           (long long)bwd.rows, bwd.err_max);
  attn_release(&plan);
  bench_free(&b);
  return fwd_right && bwd_right;
}

static void expect_right(const struct attn_kernel *kernel, const struct attn_problem *p,
                         int variant) {
  char said[256];
  if (!run_and_check(kernel, p, p, said, sizeof said))
    fail_msg("%s, %s variant %d, %s, heads %d:%d, dim %d, length %d: %s", kernel->name,
             mask_name(p->mask->kind), variant, p->dtype == ATTN_BF16 ? "bf16" : "fp32", p->heads_q,
             p->heads_kv, p->dim, p->rows_q, said);
}

// Variant `variant` of a mask at length `seqlen` for `kernel`, or false when it is not supported.
static bool make_case(const struct attn_kernel *kernel, enum mask_kind kind, int32_t seqlen,
                      int variant, int group, struct mask *m, struct attn_problem *p) {
  assert_int_equal(case_mask(m, kind, seqlen, variant), 0);
  const int heads_kv = m->heads ? m->heads : group == 1 ? 2 : 1;
  *p = (struct attn_problem){.mask = m,
                             .heads_q = heads_kv * group,
                             .heads_kv = heads_kv,
                             .dim = 64,
                             .rows_q = seqlen,
                             .rows_k = seqlen};
  return attn_why_not(kernel, p) == NULL;
}

// Each kernel on each mask that it supports, at every length: MHA and GQA, both dtypes, both dimensions
// and the variants of the mask in turn.
static void test_every_pairing(void **state) {
  (void)state;
  static const int32_t lengths[] = {127, 129, 191, 17, 65, 300, 128, 1, 1000, 64, 257};
  enum { LENGTHS = sizeof lengths / sizeof *lengths };
  int pairings = 0;
  for (int k = 0; attn_kernels[k]; k++) {
    if (attn_kernels[k]->place != ATTN_HOST)
      continue;
    int cases = 0;
    for (int kind = 0; kind < MASK_KINDS; kind++) {
      const int before = cases;
      for (int l = 0; l < LENGTHS; l++)
        for (int tries = 0, ran = 0; tries < CASE_VARIANTS && !ran; tries++) {
          struct mask m;
          struct attn_problem p;
          const int variant = (l + kind + tries) % CASE_VARIANTS;
          if (make_case(attn_kernels[k], kind, lengths[l], variant, l % 2 ? 8 : 1, &m, &p)) {
            p.dtype = l / 2 % 2 ? ATTN_FP32 : ATTN_BF16;
            p.dim = (l / 4 + kind) % 2 ? 128 : 64;
            expect_right(attn_kernels[k], &p, variant);
            cases++, ran++;
          }
          mask_free(&m);
        }
      assert_true(cases == before || cases == before + LENGTHS); // supported, or not at all
      pairings += cases > before;
    }
    print_message("  %-12s %3d cases\n", attn_kernels[k]->name, cases);
  }
  // naive; sdpa, flex, flashmask; fa2; vsa, fa2_sparse; flashinfer, flex_sparse
  assert_int_equal(pairings, 16 + 3 * 14 + 8 + 2 * 1 + 2 * 2);
}

// Every length up to a little over a tile, masks in turn.
static void test_every_small_length(void **state) {
  (void)state;
  for (int k = 0; attn_kernels[k]; k++)
    for (int32_t n = 1; attn_kernels[k]->place == ATTN_HOST && n <= 140; n += n < 34 ? 1 : 13) {
      struct mask m;
      struct attn_problem p;
      if (make_case(attn_kernels[k], (n + k) % MASK_KINDS, n, n / 3 % CASE_VARIANTS, n % 2 ? 4 : 3,
                    &m, &p)) {
        p.dtype = ATTN_FP32;
        expect_right(attn_kernels[k], &p, n / 3 % CASE_VARIANTS);
      }
      mask_free(&m);
    }
}

// Odd groups, and groups of more heads than a query tile has room for.
static void test_group_sizes(void **state) {
  (void)state;
  static const int groups[] = {1, 2, 3, 5, 7, 16, 17, 32, 48};
  for (size_t i = 0; i < sizeof groups / sizeof *groups; i++) {
    struct mask m;
    assert_int_equal(case_mask(&m, MASK_CAUSAL_DOCUMENT, 67, 0), 0);
    const struct attn_problem p = {.mask = &m,
                                   .dtype = ATTN_FP32,
                                   .heads_q = groups[i] * 2,
                                   .heads_kv = 2,
                                   .dim = 64,
                                   .rows_q = 67,
                                   .rows_k = 67};
    expect_right(attn_find("fa2", ATTN_HOST), &p, groups[i]);
    expect_right(attn_find("naive", ATTN_HOST), &p, groups[i]);
    mask_free(&m);
  }
}

// More threads than heads, than tiles, than this machine has.
static void test_thread_counts(void **state) {
  (void)state;
  static const char *const names[] = {"fa2", "naive"};
  for (int threads = 2; threads <= 7; threads++)
    for (int i = 0; i < 4; i++) {
      struct mask m;
      struct attn_problem p;
      const struct attn_kernel *kernel = attn_find(names[i % 2], ATTN_HOST);
      assert_true(make_case(kernel, MASK_CAUSAL_DOCUMENT, 333, threads % 3, i < 2 ? 1 : 8, &m, &p));
      p.dtype = ATTN_FP32;
      omp_set_num_threads(threads);
      expect_right(kernel, &p, threads % 3);
      omp_set_num_threads(1);
      mask_free(&m);
    }
}

// Every compiled copy of the engine that this processor runs.
static void test_instruction_sets(void **state) {
  (void)state;
  int ran = 0;
  for (int i = 0; cpu_isas[i]; i++) {
    if (!cpu_isa_use(cpu_isas[i]->name)) {
      print_message("  %s: this processor does not run it\n", cpu_isas[i]->name);
      continue;
    }
    for (int kind = 0; kind < MASK_UNIFORM_BLOCK_SPARSE; kind++, ran++) {
      struct mask m;
      struct attn_problem p;
      assert_true(make_case(attn_find("flashmask", ATTN_HOST), kind, 201, kind % CASE_VARIANTS,
                            kind % 2 ? 8 : 1, &m, &p));
      p.dtype = ATTN_FP32;
      p.dim = kind % 3 ? 64 : 128;
      expect_right(attn_find("flashmask", ATTN_HOST), &p, kind % CASE_VARIANTS);
      mask_free(&m);
    }
  }
  cpu_isa_use(cpu_isas[0]->usable() ? cpu_isas[0]->name : "base");
  assert_true(ran >= MASK_UNIFORM_BLOCK_SPARSE);
}

// A context-parallel rank: two chunks of the queries (zigzag) against keys in two pieces.
static void test_segments(void **state) {
  (void)state;
  static const struct attn_segment q_seg[] = {{0, 50, 50}, {50, 250, 49}};
  static const struct attn_segment k_seg[] = {{0, 0, 131}, {131, 200, 99}};
  static const enum mask_kind kinds[] = {MASK_FULL,
                                         MASK_CAUSAL,
                                         MASK_CAUSAL_DOCUMENT,
                                         MASK_PREFIX_LM_CAUSAL,
                                         MASK_GLOBAL_SLIDING_WINDOW,
                                         MASK_VARIABLE_BLOCK_SPARSE};
  for (int k = 0; attn_kernels[k]; k++)
    for (size_t i = 0; attn_kernels[k]->place == ATTN_HOST && i < sizeof kinds / sizeof *kinds;
         i++) {
      struct mask m;
      struct attn_problem p;
      if (make_case(attn_kernels[k], kinds[i], 299, 0, 4, &m, &p)) {
        p.dtype = ATTN_FP32;
        p.rows_q = 99, p.rows_k = 230;
        p.q_seg = q_seg, p.k_seg = k_seg;
        p.q_segs = p.k_segs = 2;
        expect_right(attn_kernels[k], &p, 0);
      }
      mask_free(&m);
    }
}

// Queries before all keys of a causal mask see nothing: O = 0, LSE = -inf, no gradient, no NaN.
static void test_empty_rows(void **state) {
  (void)state;
  static const struct attn_segment q_seg = {0, 0, 150}, k_seg = {0, 100, 50};
  for (int k = 0; attn_kernels[k]; k++) {
    struct mask m;
    struct attn_problem p;
    struct attn_plan plan;
    struct bench b;
    if (attn_kernels[k]->place == ATTN_HOST &&
        make_case(attn_kernels[k], MASK_CAUSAL, 150, 0, 8, &m, &p)) {
      p.dtype = ATTN_FP32;
      p.rows_k = 50;
      p.q_seg = &q_seg, p.k_seg = &k_seg;
      p.q_segs = p.k_segs = 1;
      expect_right(attn_kernels[k], &p, 0);
      bench_make(&b, &p);
      assert_int_equal(attn_prepare(&plan, attn_kernels[k], &b.p), 0);
      assert_int_equal(plan.kernel->forward(&plan, &b.a), 0);
      assert_int_equal(plan.kernel->backward(&plan, &b.a), 0);
      for (int h = 0; h < p.heads_q; h++)
        for (int q = 0; q < 150; q++)
          assert_true(q < 100 ? b.a.lse[h * 150 + q] == -INFINITY : isfinite(b.a.lse[h * 150 + q]));
      for (int64_t i = 0; i < 100 * p.heads_q * p.dim; i++) {
        assert_true(((float *)b.a.o)[i] == 0);
        assert_true(((float *)b.a.dq)[i] == 0);
      }
      attn_release(&plan);
      bench_free(&b);
    }
    if (attn_kernels[k]->place == ATTN_HOST)
      mask_free(&m);
  }
}

static void add(float *to, const float *from, int64_t n) {
  for (int64_t i = 0; i < n; i++)
    to[i] += from[i];
}

// Keys in three calls, each continuing the last, forward and backward: the same as one call.
static void test_continuation(void **state) {
  (void)state;
  enum { N = 300, PIECES = 3 };
  static const int32_t cuts[PIECES + 1] = {0, 37, 170, N};
  static const enum mask_kind kinds[] = {MASK_CAUSAL, MASK_FULL_DOCUMENT, MASK_SHARE_QUESTION,
                                         MASK_UNIFORM_BLOCK_SPARSE};
  for (int k = 0; attn_kernels[k]; k++)
    for (size_t i = 0; attn_kernels[k]->place == ATTN_HOST && i < sizeof kinds / sizeof *kinds;
         i++) {
      struct mask m;
      struct attn_problem whole;
      if (make_case(attn_kernels[k], kinds[i], N, 0, 4, &m, &whole)) {
        struct bench b;
        struct attn_plan plan[PIECES];
        struct attn_segment seg[PIECES];
        struct verify_report report;
        const float one = 1; // dk_acc starts from ones: they must be added to
        whole.dtype = ATTN_FP32;
        bench_make(&b, &whole);
        float *dk_acc = tensor_alloc(ATTN_FP32, b.n_k), *dv_acc = tensor_alloc(ATTN_FP32, b.n_k);
        for (int64_t j = 0; j < b.n_k; j++)
          dk_acc[j] = dv_acc[j] = one;
        const int64_t row = (int64_t)whole.heads_kv * whole.dim;
        struct attn_args piece[PIECES];
        for (int s = 0; s < PIECES; s++) {
          struct attn_problem p = b.p;
          seg[s] = (struct attn_segment){0, cuts[s], cuts[s + 1] - cuts[s]};
          p.rows_k = seg[s].len, p.k_seg = &seg[s], p.k_segs = 1;
          assert_int_equal(attn_prepare(&plan[s], attn_kernels[k], &p), 0);
          piece[s] = b.a;
          piece[s].k = (const float *)b.a.k + cuts[s] * row;
          piece[s].v = (const float *)b.a.v + cuts[s] * row;
          piece[s].o = NULL, piece[s].o_acc = b.a.o;
          piece[s].resume = s > 0;
          assert_int_equal(plan[s].kernel->forward(&plan[s], &piece[s]), 0);
        }
        assert_true(check_outputs(&whole, &b.a, ATTN_FWD, 3, &report));
        memset(b.a.dq, 0, (size_t)b.n_q * sizeof(float));
        for (int s = 0; s < PIECES; s++) {
          piece[s].o = b.a.o, piece[s].o_acc = NULL, piece[s].resume = false;
          piece[s].accumulate = true;
          piece[s].dq = piece[s].dk = piece[s].dv = NULL;
          piece[s].dq_acc = b.a.dq;
          piece[s].dk_acc = dk_acc + cuts[s] * row, piece[s].dv_acc = dv_acc + cuts[s] * row;
          assert_int_equal(plan[s].kernel->backward(&plan[s], &piece[s]), 0);
          attn_release(&plan[s]);
        }
        for (int64_t j = 0; j < b.n_k; j++)
          ((float *)b.a.dk)[j] = ((float *)b.a.dv)[j] = -one;
        add(b.a.dk, dk_acc, b.n_k);
        add(b.a.dv, dv_acc, b.n_k);
        if (!check_outputs(&whole, &b.a, ATTN_BWD, 3, &report))
          fail_msg("%s, %s: backward in pieces, error %g", attn_kernels[k]->name,
                   mask_name(kinds[i]), report.err_max);
        free(dk_acc), free(dv_acc);
        bench_free(&b);
      }
      mask_free(&m);
    }
}

// All blocks kept: every block-sparse kernel gives what a dense kernel gives on the full mask.
static void test_ratio_one(void **state) {
  (void)state;
  static const char *const names[] = {"vsa", "fa2_sparse", "flashinfer", "flex_sparse"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    const struct attn_kernel *kernel = attn_find(names[i], ATTN_HOST);
    struct mask full, sparse;
    struct attn_problem p;
    char said[256];
    assert_int_equal(case_mask(&full, MASK_FULL, 321, 0), 0);
    assert_int_equal(case_mask(&sparse, MASK_UNIFORM_BLOCK_SPARSE, 321, 4), 0); // 64 x 64, 100 %
    if (!strcmp(names[i], "fa2_sparse")) {
      mask_free(&sparse);
      assert_int_equal(case_mask(&sparse, MASK_UNIFORM_BLOCK_SPARSE, 321, 1), 0);
      for (int w = 0; w < sparse.heads * sparse.blocks_q * sparse.kept_words; w++)
        ((uint32_t *)sparse.kept)[w] = (1u << sparse.blocks_k) - 1;
    }
    p = (struct attn_problem){.mask = &sparse,
                              .dtype = ATTN_FP32,
                              .heads_q = sparse.heads * 4,
                              .heads_kv = sparse.heads,
                              .dim = 128,
                              .rows_q = 321,
                              .rows_k = 321};
    assert_null(attn_why_not(kernel, &p));
    struct attn_problem truth = p;
    truth.mask = &full;
    if (!run_and_check(kernel, &p, &truth, said, sizeof said))
      fail_msg("%s with all blocks kept is not full attention: %s", names[i], said);
    mask_free(&full);
    mask_free(&sparse);
  }
}

// The check itself: one key too many in one row, found; and a NaN among the keys comes through.
static void test_the_check_can_fail(void **state) {
  (void)state;
  struct mask causal, banded;
  struct attn_problem p, truth;
  char said[256];
  const struct attn_kernel *kernel = attn_find("fa2", ATTN_HOST);
  assert_int_equal(mask_init(&causal, MASK_CAUSAL, 120, NULL, 0, 0, 0, 0, NULL, 0), 0);
  assert_int_equal(mask_init(&banded, MASK_SLIDING_WINDOW_CAUSAL, 120, NULL, 0, 118, 0, 0, NULL, 0),
                   0);
  p = (struct attn_problem){.mask = &causal,
                            .dtype = ATTN_FP32,
                            .heads_q = 2,
                            .heads_kv = 2,
                            .dim = 64,
                            .rows_q = 120,
                            .rows_k = 120};
  truth = p;
  truth.mask = &banded; // differs in the pair (119, 0) alone
  assert_true(run_and_check(kernel, &p, &p, said, sizeof said));
  assert_false(run_and_check(kernel, &p, &truth, said, sizeof said));

  struct bench b;
  struct attn_plan plan;
  bench_make(&b, &p);
  ((float *)b.a.k)[60 * 2 * 64] = NAN; // key 60 of head 0
  assert_int_equal(attn_prepare(&plan, kernel, &b.p), 0);
  assert_int_equal(kernel->forward(&plan, &b.a), 0);
  for (int q = 0; q < 120; q++) {
    assert_int_equal(isnan(b.a.lse[q]) != 0, q >= 60);
    assert_int_equal(isnan(((float *)b.a.o)[q * 2 * 64]) != 0, q >= 60);
    assert_false(isnan(b.a.lse[120 + q])); // head 1
  }
  attn_release(&plan);
  bench_free(&b);
  mask_free(&causal);
  mask_free(&banded);
}

// A scale of one's own: negative, tiny, one whose scores outgrow the running maximum again and again,
// and one whose scores are far beyond what e^x can hold.
static void test_large_scores(void **state) {
  (void)state;
  struct mask m;
  struct attn_problem p;
  const struct attn_kernel *kernel = attn_find("fa2", ATTN_HOST);
  assert_true(make_case(kernel, MASK_CAUSAL, 400, 0, 4, &m, &p));
  p.dtype = ATTN_FP32;
  for (int i = 0; i < 4; i++) {
    struct bench b;
    struct attn_plan plan;
    struct verify_report report;
    bench_make(&b, &p);
    b.a.scale = (const float[]){-0.3f, 1e-4f, 1, 30}[i];
    assert_int_equal(attn_prepare(&plan, kernel, &b.p), 0);
    assert_int_equal(kernel->forward(&plan, &b.a), 0);
    assert_int_equal(kernel->backward(&plan, &b.a), 0);
    if (i < 3) { // scores near 1000 carry an absolute error near 1e-4 into e^x: finite is all
      assert_true(check_outputs(&p, &b.a, ATTN_FWD, 3, &report));
      assert_true(check_outputs(&p, &b.a, ATTN_BWD, 3, &report));
    }
    for (int64_t j = 0; j < b.n_q; j++)
      assert_true(isfinite(((float *)b.a.o)[j]) && isfinite(((float *)b.a.dq)[j]));
    attn_release(&plan);
    bench_free(&b);
  }
  mask_free(&m);
}

// Backward gives the same bits every time, whoever finishes first.
static void test_deterministic(void **state) {
  (void)state;
  struct mask m;
  struct attn_problem p;
  const struct attn_kernel *kernel = attn_find("flashmask", ATTN_HOST);
  assert_true(make_case(kernel, MASK_SHARE_QUESTION, 700, 0, 8, &m, &p));
  p.dtype = ATTN_FP32;
  omp_set_num_threads(3); // one KV head, three parts
  for (int pass = 0; pass < 2; pass++) {
    struct bench b, c;
    struct attn_plan plan;
    bench_make(&b, &p);
    bench_make(&c, &p);
    assert_int_equal(attn_prepare(&plan, kernel, &b.p), 0);
    assert_int_equal(kernel->forward(&plan, &b.a), 0);
    assert_int_equal(kernel->forward(&plan, &c.a), 0);
    assert_int_equal(kernel->backward(&plan, &b.a), 0);
    for (int again = 0; again < 5; again++) {
      assert_int_equal(kernel->backward(&plan, &c.a), 0);
      assert_memory_equal(b.a.o, c.a.o, b.n_q * sizeof(float));
      assert_memory_equal(b.a.dq, c.a.dq, b.n_q * sizeof(float));
      assert_memory_equal(b.a.dk, c.a.dk, b.n_k * sizeof(float));
      assert_memory_equal(b.a.dv, c.a.dv, b.n_k * sizeof(float));
    }
    attn_release(&plan);
    bench_free(&b);
    bench_free(&c);
    omp_set_num_threads(1);
  }
  expect_right(kernel, &p, 0);
  mask_free(&m);
}

// What cannot be run says why, in a sentence.
static void test_reasons(void **state) {
  (void)state;
  struct mask causal, sparse;
  struct attn_problem p;
  assert_int_equal(case_mask(&causal, MASK_CAUSAL, 128, 0), 0);
  assert_int_equal(case_mask(&sparse, MASK_UNIFORM_BLOCK_SPARSE, 128, 3), 0); // 48 x 48
  p = (struct attn_problem){
      .mask = &causal, .heads_q = 3, .heads_kv = 3, .dim = 128, .rows_q = 128, .rows_k = 128};
  static const char *const never[] = {"fa3",        "cudnn",      "vsa_triton", "vsa",
                                      "fa2_sparse", "flashinfer", "flex_sparse"};
  for (size_t i = 0; i < sizeof never / sizeof *never; i++)
    assert_non_null(attn_why_not(attn_find(never[i], ATTN_HOST), &p));
  p.mask = &sparse;
  p.heads_q = p.heads_kv = sparse.heads;
  static const char *const not_48[] = {"vsa", "fa2_sparse", "fa2", "flashmask", "flex"};
  for (size_t i = 0; i < sizeof not_48 / sizeof *not_48; i++)
    assert_non_null(attn_why_not(attn_find(not_48[i], ATTN_HOST), &p));
  mask_free(&causal);
  mask_free(&sparse);
}

// Fused kernels hold O(S) memory, the naive one O(S^2).
static void test_memory_account(void **state) {
  (void)state;
  int64_t bytes[2][2];
  for (int i = 0; i < 2; i++)
    for (int k = 0; k < 2; k++) {
      struct mask m;
      struct attn_plan plan;
      const int32_t n = i ? 8192 : 4096;
      assert_int_equal(mask_init(&m, MASK_CAUSAL, n, NULL, 0, 0, 0, 0, NULL, 0), 0);
      const struct attn_problem p = {
          .mask = &m, .heads_q = 8, .heads_kv = 1, .dim = 128, .rows_q = n, .rows_k = n};
      assert_int_equal(attn_prepare(&plan, attn_find(k ? "fa2" : "naive", ATTN_HOST), &p), 0);
      bytes[k][i] = plan.workspace_bytes + plan.prep_bytes;
      attn_release(&plan);
      mask_free(&m);
    }
  assert_true(bytes[0][1] > 3.5 * bytes[0][0]);
  assert_true(bytes[1][1] < 2.1 * bytes[1][0]);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_every_pairing),    cmocka_unit_test(test_every_small_length),
      cmocka_unit_test(test_group_sizes),      cmocka_unit_test(test_thread_counts),
      cmocka_unit_test(test_instruction_sets), cmocka_unit_test(test_segments),
      cmocka_unit_test(test_empty_rows),       cmocka_unit_test(test_continuation),
      cmocka_unit_test(test_ratio_one),        cmocka_unit_test(test_the_check_can_fail),
      cmocka_unit_test(test_large_scores),     cmocka_unit_test(test_deterministic),
      cmocka_unit_test(test_reasons),          cmocka_unit_test(test_memory_account),
  };
  omp_set_num_threads(1); // threads that wait for each other are slow where others use the machine
  return cmocka_run_group_tests_name("kernels", tests, NULL, NULL);
}
