// gpu_test_masks.c -- part of gpu_test: every mask that a kernel takes, at lengths around the tiles and up
// to 2K, forward and backward, heads 64:64, 64:8 and 8:1, dimensions 64 and 128; then what lies beside whole
// masks: lists of blocks, segments, rows that see nothing and rows of very negative LSE.
#include "gpu_test_case.h"

// Every mask; short lengths take every head and dimension in turn, long ones two each.
static void test_masks(void **state) {
  static const int32_t lengths[] = {1, 63, 64, 65, 127, 129, 191, 1000, 2048};
  const struct attn_kernel *kernel = kernel_of(state);
  const bool slow = where.emulated && !strcmp(kernel->name, "naive"); // a block of threads a row
  int ran = 0;
  for (int kind = 0; kind < MASK_KINDS; kind++)
    for (int l = 0; l < 9; l++)
      for (int i = 0; i < 6; i++) { // i: heads and dimension
        struct mask m;
        struct attn_problem p;
        if (where.quick && (lengths[l] < 65 || lengths[l] > (slow ? 65 : 191) || i / 2 != 1))
          continue;
        if ((i + l + kind) % 3 && lengths[l] > 1)
          continue;
        for (int v = 0, done = 0; v < CASE_VARIANTS && !done; v++) { // the first that it takes
          const int variant = (l + kind + i + v) % CASE_VARIANTS;
          assert_int_equal(case_mask(&m, kind, lengths[l], variant), 0);
          if (make_problem(kernel, &m, i / 2, i % 2 ? 64 : 128, &p)) {
            expect_right(kernel, &p, variant);
            ran += done = 1;
          }
          mask_free(&m);
        }
      }
  print_message("  %s: %d cases\n", kernel->name, ran);
  assert_true(ran > 0);
}

// Lists by query block: neighbours that share all, a part or nothing of what they keep, and
// query and key blocks that keep nothing, for groups of one, even and odd.
static void test_blocks(void **state) {
  enum kept { DRAWN, ITSELF, BY_TURNS, SOME_EMPTY };
  static const struct {
    enum mask_kind kind;
    int32_t seqlen;
    int variant; // of case_grid(): 0, 4: side 64; 1: 128; 3: 48; 5: 200
    enum kept kept;
    int group, dim;
  } cases[] = {
      {MASK_UNIFORM_BLOCK_SPARSE, 385, 0, DRAWN, 1, 128},
      {MASK_UNIFORM_BLOCK_SPARSE, 193, 4, DRAWN, 1, 64},
      {MASK_UNIFORM_BLOCK_SPARSE, 577, 4, ITSELF, 1, 128},
      {MASK_UNIFORM_BLOCK_SPARSE, 449, 4, BY_TURNS, 1, 128},
      {MASK_UNIFORM_BLOCK_SPARSE, 257, 4, SOME_EMPTY, 1, 128},
      {MASK_UNIFORM_BLOCK_SPARSE, 321, 0, DRAWN, 2, 64},
      {MASK_UNIFORM_BLOCK_SPARSE, 257, 0, SOME_EMPTY, 4, 128},
      {MASK_UNIFORM_BLOCK_SPARSE, 321, 0, DRAWN, 3, 128},
      {MASK_UNIFORM_BLOCK_SPARSE, 300, 1, DRAWN, 1, 64},
      {MASK_VARIABLE_BLOCK_SPARSE, 401, 5, DRAWN, 1, 128},
      {MASK_VARIABLE_BLOCK_SPARSE, 385, 1, SOME_EMPTY, 2, 64},
      {MASK_VARIABLE_BLOCK_SPARSE, 257, 3, SOME_EMPTY, 6, 128},
      {MASK_VARIABLE_BLOCK_SPARSE, 300, 0, DRAWN, 16, 64},
  };
  const struct attn_kernel *kernel = kernel_of(state);
  int ran = 0;
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    struct mask m;
    assert_int_equal(case_mask(&m, cases[i].kind, cases[i].seqlen, cases[i].variant), 0);
    for (int64_t row = 0; row < (int64_t)m.heads * m.blocks_q; row++)
      for (int32_t c = 0; c < m.blocks_k; c++) {
        const int32_t r = (int32_t)(row % m.blocks_q);
        const bool drop = cases[i].kept == ITSELF       ? c != r
                          : cases[i].kept == BY_TURNS   ? (c + r) % 2
                          : cases[i].kept == SOME_EMPTY ? r % 3 == 1 || c == 2
                                                        : false;
        uint32_t *word = (uint32_t *)m.kept + row * m.kept_words + c / 32;
        const uint32_t bit = UINT32_C(1) << c % 32;
        *word = drop ? *word & ~bit : cases[i].kept == DRAWN ? *word : *word | bit;
      }
    const struct attn_problem p = {.mask = &m,
                                   .heads_q = m.heads * cases[i].group,
                                   .heads_kv = m.heads,
                                   .dim = cases[i].dim,
                                   .rows_q = m.seqlen,
                                   .rows_k = m.seqlen,
                                   .backward = true};
    if (!attn_why_not(kernel, &p)) {
      expect_right(kernel, &p, cases[i].variant);
      ran++;
    }
    mask_free(&m);
  }
  if (!ran)
    skip_because(kernel, "takes no block-sparse mask");
  print_message("  %s: %d cases\n", kernel->name, ran);
}

// A context-parallel rank: chunks of queries and keys that begin and end at any row, as short as one
// token, in no order of position; rows between are padding, once where positions go on.
static void test_segments(void **state) {
  const struct attn_kernel *kernel = kernel_of(state);
  static const struct attn_segment q_seg[] = {
      {3, 450, 1}, {4, 50, 65}, {69, 500, 17}, {100, 115, 128}, {230, 243, 64}};
  static const struct attn_segment k_seg[] = {{0, 420, 1}, {1, 0, 231}, {240, 400, 17}};
  int ran = 0;
  for (int kind = 0; kind < MASK_KINDS; kind++) {
    if (where.quick && kind % 5 && !mask_is_block_sparse(kind))
      continue;
    struct mask m;
    struct attn_problem p;
    assert_int_equal(case_mask(&m, kind, 600, 0), 0);
    // Equal blocks with a list a head, all else with groups.
    make_problem(kernel, &m, kind == MASK_UNIFORM_BLOCK_SPARSE ? 2 : 1, 128, &p);
    p.rows_q = 319, p.rows_k = 300;
    p.q_seg = q_seg, p.q_segs = 5;
    p.k_seg = k_seg, p.k_segs = 3;
    for (int i = 0; i < 2; i++) {
      p.deterministic = i;
      if (!attn_why_not(kernel, &p)) {
        expect_right(kernel, &p, 0);
        ran++;
      }
    }
    mask_free(&m);
  }
  if (!ran)
    skip_because(kernel, "does not take segments");
}

// Queries before all keys of a causal mask see nothing.
static void test_empty_rows(void **state) {
  const struct attn_kernel *kernel = kernel_of(state);
  static const struct attn_segment q_seg = {0, 0, 250}, k_seg = {0, 200, 50};
  struct mask m;
  struct attn_problem p;
  struct bench b;
  assert_int_equal(case_mask(&m, MASK_CAUSAL, 250, 0), 0);
  make_problem(kernel, &m, 1, 128, &p);
  p.rows_k = 50;
  p.q_seg = &q_seg, p.k_seg = &k_seg;
  p.q_segs = p.k_segs = 1;
  const char *why = attn_why_not(kernel, &p);
  if (why) {
    mask_free(&m);
    skip_because(kernel, why);
  }
  expect_right(kernel, &p, 0);
  bench_make(&b, &p);
  assert_int_equal(bench_run(&b, kernel), 0);
  const float *lse = b.t[LSE].host;
  for (int h = 0; h < p.heads_q; h++)
    for (int q = 0; q < 250; q++)
      assert_true(q < 200 ? lse[h * 250 + q] == -INFINITY : isfinite(lse[h * 250 + q]));
  for (int64_t i = 0; i < (int64_t)200 * p.heads_q * p.dim; i++) {
    assert_true(bf16_to_float(((uint16_t *)b.t[O].host)[i]) == 0);
    assert_true(bf16_to_float(((uint16_t *)b.t[DQ].host)[i]) == 0);
  }
  bench_free(&b);
  mask_free(&m);
}

// Scores near -200: a padded key that counted as 0 would outweigh every real one (cuDNN's NaN, TRL
// 7181).
static void test_negative_lse(void **state) {
  const struct attn_kernel *kernel = kernel_of(state);
  static const int32_t lengths[] = {63, 64, 65, 191, 192, 193};
  int ran = 0;
  for (int l = 0; l < 6; l++) {
    struct mask m;
    struct attn_problem p;
    struct bench b;
    assert_int_equal(case_mask(&m, l % 2 ? MASK_FULL : MASK_CAUSAL, lengths[l], 0), 0);
    if (make_problem(kernel, &m, 1, 64, &p)) {
      bench_make(&b, &p);
      uint16_t *q = b.t[Q].host, *k = b.t[K].host;
      for (int64_t i = 0; i < b.n_q; i += 64) // dimension 0: q . k / 8 = -200 but for the others
        q[i] = bf16_from_float(40);
      for (int64_t i = 0; i < b.n_k; i += 64)
        k[i] = bf16_from_float(-40);
      pair_upload(&b.t[Q]), pair_upload(&b.t[K]);
      assert_int_equal(bench_run(&b, kernel), 0);
      bench_expect(&b, kernel, ATTN_FWD, &b.p, "LSE near -200");
      for (int64_t i = 0; i < b.n_q; i++)
        assert_true(isfinite(bf16_to_float(((uint16_t *)b.t[DQ].host)[i])));
      for (int64_t i = 0; i < b.n_k; i++)
        assert_true(isfinite(bf16_to_float(((uint16_t *)b.t[DK].host)[i])));
      bench_free(&b);
      ran++;
    }
    mask_free(&m);
  }
  if (!ran)
    skip_because(kernel, "takes neither FULL nor CAUSAL");
}

const struct gpu_test gpu_mask_tests[] = {{"masks", test_masks},
                                          {"blocks", test_blocks},
                                          {"segments", test_segments},
                                          {"empty rows", test_empty_rows},
                                          {"negative lse", test_negative_lse},
                                          {NULL, NULL}};
