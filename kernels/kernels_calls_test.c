// kernels_calls_test.c -- what the contract (attn.h) promises beyond one whole attention, for the host
// kernels: segments, rows that see nothing, continuation and accumulation, the same bits every time,
// and plans that share their memory.
#include <malloc.h>

#include "kernels_test_case.h"

// A context-parallel rank: two chunks of the queries (zigzag) against keys in two pieces.
static const struct attn_segment rank_q[] = {{0, 50, 50}, {50, 250, 49}};
static const struct attn_segment rank_k[] = {{0, 0, 131}, {131, 200, 99}};

static void take_rank(struct attn_problem *p) {
  p->rows_q = 99, p->rows_k = 230;
  p->q_seg = rank_q, p->k_seg = rank_k;
  p->q_segs = p->k_segs = 2;
}

static void test_segments(void **state) {
  (void)state;
  static const enum mask_kind kinds[] = {MASK_FULL,
                                         MASK_CAUSAL,
                                         MASK_CAUSAL_DOCUMENT,
                                         MASK_PREFIX_LM_CAUSAL,
                                         MASK_GLOBAL_SLIDING_WINDOW,
                                         MASK_VARIABLE_BLOCK_SPARSE};
  for (const struct attn_kernel *const *kernel = host_kernels(); *kernel; kernel++)
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
      struct mask m;
      struct attn_problem p;
      if (make_case(*kernel, kinds[i], 299, 0, 4, &m, &p)) {
        take_rank(&p);
        expect_right(*kernel, &p, 0);
      }
      mask_free(&m);
    }
}

// Queries before all keys of a causal mask see nothing: O = 0, LSE = -inf, no gradient, no NaN.
static void test_empty_rows(void **state) {
  (void)state;
  static const struct attn_segment q_seg = {0, 0, 150}, k_seg = {0, 100, 50};
  for (const struct attn_kernel *const *kernel = host_kernels(); *kernel; kernel++) {
    struct mask m;
    struct attn_problem p;
    struct bench b;
    if (make_case(*kernel, MASK_CAUSAL, 150, 0, 8, &m, &p)) {
      p.rows_k = 50;
      p.q_seg = &q_seg, p.k_seg = &k_seg;
      p.q_segs = p.k_segs = 1;
      expect_right(*kernel, &p, 0);
      bench_make(&b, &p);
      bench_run(&b, *kernel);
      for (int h = 0; h < p.heads_q; h++)
        for (int q = 0; q < 150; q++)
          assert_true(q < 100 ? b.a.lse[h * 150 + q] == -INFINITY : isfinite(b.a.lse[h * 150 + q]));
      for (int64_t i = 0; i < 100 * p.heads_q * p.dim; i++) {
        assert_true(((float *)b.a.o)[i] == 0);
        assert_true(((float *)b.a.dq)[i] == 0);
      }
      bench_free(&b);
    }
    mask_free(&m);
  }
}

// Keys in pieces, a plan and a call each that continues the last, forward and backward: the same as one
// call, whether each plan has memory of its own or they share the first's. Gradients start from ones, which
// must be added to. Pieces grow, so that a later plan makes the memory larger that an earlier one uses.
static void expect_continued(const struct attn_kernel *kernel, const struct attn_problem *whole,
                             bool share) {
  enum { PIECES = 3 };
  static const int32_t cuts[PIECES + 1] = {0, 37, 120, 300};
  struct bench b;
  struct attn_plan plan[PIECES];
  struct attn_args piece[PIECES];
  struct attn_segment seg[PIECES];
  struct verify_report report;
  bench_make(&b, whole);
  const int64_t row = (int64_t)whole->heads_kv * whole->dim;
  float *acc = calloc((size_t)b.n_q, 4), *before = calloc((size_t)b.n_q, 4);
  assert_true(acc && before);
  for (int s = 0; s < PIECES; s++) {
    struct attn_problem p = b.p;
    seg[s] = (struct attn_segment){0, cuts[s], cuts[s + 1] - cuts[s]};
    p.rows_k = seg[s].len, p.k_seg = &seg[s], p.k_segs = 1;
    p.like = share && s ? &plan[0] : NULL;
    assert_int_equal(attn_prepare(&plan[s], kernel, &p), 0);
  }
  for (int s = 0; s < PIECES; s++) {
    piece[s] = b.a;
    piece[s].k = (const float *)b.a.k + cuts[s] * row;
    piece[s].v = (const float *)b.a.v + cuts[s] * row;
    piece[s].o_acc = share ? acc : b.a.o;
    piece[s].resume = s > 0;
    piece[s].part = !share           ? ATTN_ALONE
                    : s == 0         ? ATTN_FIRST
                    : s < PIECES - 1 ? ATTN_NEXT
                                     : ATTN_LAST; // which writes o itself
    if (attn_writes_o(&piece[s]))
      memcpy(before, acc, (size_t)b.n_q * 4);
    else
      piece[s].o = NULL;
    assert_int_equal(kernel->forward(&plan[s], &piece[s]), 0);
  }
  assert_true(check_outputs(whole, &b.a, ATTN_FWD, 3, &report));
  assert_memory_equal(before, acc, (size_t)b.n_q * 4);
  free(acc);
  free(before);
  for (int64_t j = 0; j < b.n_q; j++)
    ((float *)b.a.dq)[j] = 1;
  for (int64_t j = 0; j < b.n_k; j++)
    ((float *)b.a.dk)[j] = ((float *)b.a.dv)[j] = 1;
  for (int s = 0; s < PIECES; s++) {
    piece[s].o = b.a.o, piece[s].o_acc = NULL, piece[s].resume = false;
    piece[s].accumulate = true;
    piece[s].dq = piece[s].dk = piece[s].dv = NULL;
    piece[s].dq_acc = b.a.dq;
    piece[s].dk_acc = (float *)b.a.dk + cuts[s] * row;
    piece[s].dv_acc = (float *)b.a.dv + cuts[s] * row;
    assert_int_equal(kernel->backward(&plan[s], &piece[s]), 0);
  }
  for (int s = PIECES - 1; s >= 0; s--) // the first lends to the others
    attn_release(&plan[s]);
  for (int64_t j = 0; j < b.n_q; j++)
    ((float *)b.a.dq)[j] -= 1;
  for (int64_t j = 0; j < b.n_k; j++)
    ((float *)b.a.dk)[j] -= 1, ((float *)b.a.dv)[j] -= 1;
  if (!check_outputs(whole, &b.a, ATTN_BWD, 3, &report))
    fail_msg("%s, %s, sharing %d: backward in pieces, error %g", kernel->name,
             mask_name(whole->mask->kind), share, report.err_max);
  bench_free(&b);
}

static void test_continuation(void **state) {
  (void)state;
  static const enum mask_kind kinds[] = {MASK_CAUSAL, MASK_FULL_DOCUMENT, MASK_SHARE_QUESTION,
                                         MASK_UNIFORM_BLOCK_SPARSE};
  for (const struct attn_kernel *const *kernel = host_kernels(); *kernel; kernel++)
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
      struct mask m;
      struct attn_problem whole;
      if (make_case(*kernel, kinds[i], 300, 0, 4, &m, &whole)) {
        expect_continued(*kernel, &whole, false);
        expect_continued(*kernel, &whole, true);
      }
      mask_free(&m);
    }
}

// Backward gives the same bits every time, whoever finishes first.
static void test_deterministic(void **state) {
  (void)state;
  struct mask m;
  struct attn_problem p;
  const struct attn_kernel *kernel = attn_find("flashmask", ATTN_HOST);
  assert_true(make_case(kernel, MASK_SHARE_QUESTION, 700, 0, 8, &m, &p));
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

// Memory of a plan by its own account.
static int64_t bytes_of(const struct attn_plan *plan) {
  return plan->prep_bytes + plan->workspace_bytes;
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
      const struct attn_problem p = problem_of(&m, 8, 1, 128);
      assert_int_equal(attn_prepare(&plan, attn_find(k ? "fa2" : "naive", ATTN_HOST), &p), 0);
      bytes[k][i] = bytes_of(&plan);
      attn_release(&plan);
      mask_free(&m);
    }
  assert_true(bytes[0][1] > 3.5 * bytes[0][0]);
  assert_true(bytes[1][1] < 2.1 * bytes[1][0]);
}

static int64_t heap_bytes(void) {
  const struct mallinfo2 info = mallinfo2();
  return (int64_t)(info.uordblks + info.hblkhd);
}

// A plan like another adds its lists alone where it is no larger, and else what it is larger by: by its
// account, and by the heap. Naive has no lists.
static void test_shared_memory_account(void **state) {
  (void)state;
  enum { STEPS = 4, LISTS = 4096 };
  static const char *const names[] = {"naive", "fa2", "sdpa"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    struct mask m;
    struct attn_problem p;
    struct attn_plan alone, plan[STEPS];
    const struct attn_kernel *kernel = attn_find(names[i], ATTN_HOST);
    assert_true(make_case(kernel, MASK_CAUSAL_DOCUMENT, 1999, 0, 2, &m, &p));
    p.backward = true;
    assert_int_equal(attn_prepare(&alone, kernel, &p), 0);
    int64_t added = 0, heap = 0;
    for (int s = 0; s < STEPS; s++) {
      struct attn_problem step = p;
      take_rank(&step);
      if (s == STEPS - 1)
        step = p; // the whole
      step.like = s ? &plan[0] : NULL;
      const int64_t before = heap_bytes();
      assert_int_equal(attn_prepare(&plan[s], kernel, &step), 0);
      heap += heap_bytes() - before;
      added += bytes_of(&plan[s]);
      if (s > 0 && s < STEPS - 1)
        assert_true(bytes_of(&plan[s]) <= (i ? LISTS : 0));
    }
    print_message("  %-6s alone %lld bytes, as the last of %d steps %lld, by the heap %lld\n",
                  names[i], (long long)bytes_of(&alone), STEPS, (long long)added, (long long)heap);
    assert_true(llabs(added - bytes_of(&alone)) <= (i ? STEPS * LISTS : 0));
#ifndef __SANITIZE_ADDRESS__ // whose heap mallinfo2 does not know
    assert_true(llabs(heap - added) <= STEPS * LISTS);
#endif
    for (int s = STEPS - 1; s >= 0; s--)
      attn_release(&plan[s]);
    attn_release(&alone);
    mask_free(&m);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_segments),       cmocka_unit_test(test_empty_rows),
      cmocka_unit_test(test_continuation),   cmocka_unit_test(test_deterministic),
      cmocka_unit_test(test_memory_account), cmocka_unit_test(test_shared_memory_account),
  };
  omp_set_num_threads(1); // threads that wait for each other are slow where others use the machine
  return cmocka_run_group_tests_name("calls", tests, NULL, NULL);
}
