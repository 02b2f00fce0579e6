// kernels_test.c -- every host kernel of the registry against the double reference (src/check.h):
// kernel x mask x {forward, backward} x {MHA, GQA} x {bf16, fp32} x head dimension x length, paired
// rather than multiplied out; instruction sets, thread counts, scales; and that the check can fail.
#include "kernels_test_case.h"

// Each kernel on each mask that it supports, at every length: MHA and GQA, both dtypes, both dimensions
// and the variants of the mask in turn.
static void test_every_pairing(void **state) {
  (void)state;
  static const int32_t lengths[] = {127, 129, 191, 17, 65, 300, 128, 1, 1000, 64, 257};
  enum { LENGTHS = sizeof lengths / sizeof *lengths };
  int pairings = 0;
  for (const struct attn_kernel *const *kernel = host_kernels(); *kernel; kernel++) {
    int cases = 0;
    for (int kind = 0; kind < MASK_KINDS; kind++) {
      const int before = cases;
      for (int l = 0; l < LENGTHS; l++)
        for (int tries = 0, ran = 0; tries < CASE_VARIANTS && !ran; tries++) {
          struct mask m;
          struct attn_problem p;
          const int variant = (l + kind + tries) % CASE_VARIANTS;
          if (make_case(*kernel, kind, lengths[l], variant, l % 2 ? 8 : 1, &m, &p)) {
            p.dtype = l / 2 % 2 ? ATTN_FP32 : ATTN_BF16;
            p.dim = (l / 4 + kind) % 2 ? 128 : 64;
            expect_right(*kernel, &p, variant);
            cases++, ran++;
          }
          mask_free(&m);
        }
      assert_true(cases == before || cases == before + LENGTHS); // supported, or not at all
      pairings += cases > before;
    }
    print_message("  %-12s %3d cases\n", (*kernel)->name, cases);
  }
  // naive; sdpa, flex, flashmask, spans; fa2; vsa, fa2_sparse; flashinfer, flex_sparse
  assert_int_equal(pairings, 16 + 4 * 14 + 8 + 2 * 1 + 2 * 2);
}

// Every length up to a little over a tile, masks in turn.
static void test_every_small_length(void **state) {
  (void)state;
  for (int k = 0; host_kernels()[k]; k++)
    for (int32_t n = 1; n <= 140; n += n < 34 ? 1 : 13) {
      struct mask m;
      struct attn_problem p;
      const int kind = (n + k) % MASK_KINDS, variant = n / 3 % CASE_VARIANTS;
      if (make_case(host_kernels()[k], kind, n, variant, n % 2 ? 4 : 3, &m, &p))
        expect_right(host_kernels()[k], &p, variant);
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
    const struct attn_problem p = problem_of(&m, groups[i] * 2, 2, 64);
    expect_right(attn_find("fa2", ATTN_HOST), &p, 0);
    expect_right(attn_find("naive", ATTN_HOST), &p, 0);
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
      omp_set_num_threads(threads);
      expect_right(kernel, &p, threads % 3);
      omp_set_num_threads(1);
      mask_free(&m);
    }
}

// Every compiled copy of the engine that this processor runs.
static void test_instruction_sets(void **state) {
  (void)state;
  const struct attn_kernel *kernel = attn_find("flashmask", ATTN_HOST);
  int ran = 0;
  for (int i = 0; cpu_isas[i]; i++) {
    if (!cpu_isa_use(cpu_isas[i]->name)) {
      print_message("  %s: this processor does not run it\n", cpu_isas[i]->name);
      continue;
    }
    for (int kind = 0; kind < MASK_UNIFORM_BLOCK_SPARSE; kind++, ran++) {
      struct mask m;
      struct attn_problem p;
      const int variant = kind % CASE_VARIANTS;
      assert_true(make_case(kernel, kind, 201, variant, kind % 2 ? 8 : 1, &m, &p));
      p.dim = kind % 3 ? 64 : 128;
      expect_right(kernel, &p, variant);
      mask_free(&m);
    }
  }
  cpu_isa_use(cpu_isas[0]->usable() ? cpu_isas[0]->name : "base");
  assert_true(ran >= MASK_UNIFORM_BLOCK_SPARSE);
}

// All blocks kept: every block-sparse kernel gives what a dense kernel gives on the full mask.
static void test_ratio_one(void **state) {
  (void)state;
  static const char *const names[] = {"vsa", "fa2_sparse", "flashinfer", "flex_sparse"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    const struct attn_kernel *kernel = attn_find(names[i], ATTN_HOST);
    const int variant = strcmp(names[i], "fa2_sparse") ? 4 : 1; // 64 x 64, all kept; 128 x 128
    struct mask full, sparse;
    char said[256];
    assert_int_equal(case_mask(&full, MASK_FULL, 321, 0), 0);
    assert_int_equal(case_mask(&sparse, MASK_UNIFORM_BLOCK_SPARSE, 321, variant), 0);
    for (int w = 0; w < sparse.heads * sparse.blocks_q * sparse.kept_words; w++)
      ((uint32_t *)sparse.kept)[w] = (1u << sparse.blocks_k) - 1;
    const struct attn_problem p = problem_of(&sparse, sparse.heads * 4, sparse.heads, 128);
    struct attn_problem truth = p;
    truth.mask = &full;
    assert_null(attn_why_not(kernel, &p));
    if (!run_and_check(kernel, &p, &truth, said, sizeof said))
      fail_msg("%s with all blocks kept is not full attention: %s", names[i], said);
    mask_free(&full);
    mask_free(&sparse);
  }
}

// A scale of one's own: negative, tiny, one whose scores outgrow the running maximum again and again,
// and one whose scores are far beyond what e^x can hold.
static void test_large_scores(void **state) {
  (void)state;
  struct mask m;
  struct attn_problem p;
  const struct attn_kernel *kernel = attn_find("fa2", ATTN_HOST);
  assert_true(make_case(kernel, MASK_CAUSAL, 400, 0, 4, &m, &p));
  for (int i = 0; i < 4; i++) {
    struct bench b;
    struct verify_report report;
    bench_make(&b, &p);
    b.a.scale = (const float[]){-0.3f, 1e-4f, 1, 30}[i];
    bench_run(&b, kernel);
    if (i < 3) { // scores near 1000 carry an absolute error near 1e-4 into e^x: finite is all
      assert_true(check_outputs(&p, &b.a, ATTN_FWD, 3, &report));
      assert_true(check_outputs(&p, &b.a, ATTN_BWD, 3, &report));
    }
    for (int64_t j = 0; j < b.n_q; j++)
      assert_true(isfinite(((float *)b.a.o)[j]) && isfinite(((float *)b.a.dq)[j]));
    bench_free(&b);
  }
  mask_free(&m);
}

// The check itself: one key too many in one row, found; and a NaN among the keys comes through.
static void test_the_check_can_fail(void **state) {
  (void)state;
  struct mask causal, banded;
  char said[256];
  const struct attn_kernel *kernel = attn_find("fa2", ATTN_HOST);
  assert_int_equal(mask_init(&causal, MASK_CAUSAL, 120, NULL, 0, 0, 0, 0, NULL, 0), 0);
  assert_int_equal(mask_init(&banded, MASK_SLIDING_WINDOW_CAUSAL, 120, NULL, 0, 118, 0, 0, NULL, 0),
                   0);
  const struct attn_problem p = problem_of(&causal, 2, 2, 64);
  struct attn_problem truth = p;
  truth.mask = &banded; // differs in the pair (119, 0) alone
  assert_true(run_and_check(kernel, &p, &p, said, sizeof said));
  assert_false(run_and_check(kernel, &p, &truth, said, sizeof said));

  struct bench b;
  bench_make(&b, &p);
  ((float *)b.a.k)[60 * 2 * 64] = NAN; // key 60 of head 0
  bench_run(&b, kernel);
  for (int q = 0; q < 120; q++) {
    assert_int_equal(isnan(b.a.lse[q]) != 0, q >= 60);
    assert_int_equal(isnan(((float *)b.a.o)[q * 2 * 64]) != 0, q >= 60);
    assert_false(isnan(b.a.lse[120 + q])); // head 1
  }
  bench_free(&b);
  mask_free(&causal);
  mask_free(&banded);
}

// What cannot be run says why, in a sentence.
static void test_reasons(void **state) {
  (void)state;
  struct mask causal, sparse;
  assert_int_equal(case_mask(&causal, MASK_CAUSAL, 128, 0), 0);
  assert_int_equal(case_mask(&sparse, MASK_UNIFORM_BLOCK_SPARSE, 128, 3), 0); // 48 x 48
  const struct attn_problem dense = problem_of(&causal, 3, 3, 128);
  static const char *const never[] = {"fa3",        "cudnn",      "vsa_triton", "vsa",
                                      "fa2_sparse", "flashinfer", "flex_sparse"};
  for (size_t i = 0; i < sizeof never / sizeof *never; i++)
    assert_non_null(attn_why_not(attn_find(never[i], ATTN_HOST), &dense));
  const struct attn_problem blocks = problem_of(&sparse, sparse.heads, sparse.heads, 128);
  static const char *const not_48[] = {"vsa", "fa2_sparse", "fa2", "flashmask", "flex"};
  for (size_t i = 0; i < sizeof not_48 / sizeof *not_48; i++)
    assert_non_null(attn_why_not(attn_find(not_48[i], ATTN_HOST), &blocks));
  mask_free(&causal);
  mask_free(&sparse);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_every_pairing),    cmocka_unit_test(test_every_small_length),
      cmocka_unit_test(test_group_sizes),      cmocka_unit_test(test_thread_counts),
      cmocka_unit_test(test_instruction_sets), cmocka_unit_test(test_ratio_one),
      cmocka_unit_test(test_large_scores),     cmocka_unit_test(test_the_check_can_fail),
      cmocka_unit_test(test_reasons),
  };
  omp_set_num_threads(1); // threads that wait for each other are slow where others use the machine
  return cmocka_run_group_tests_name("kernels", tests, NULL, NULL);
}
