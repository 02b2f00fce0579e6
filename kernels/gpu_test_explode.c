// gpu_test_explode.c -- part of gpu_test: rows whose later scores dwarf the first ones, by less and by more than
// what fp32's exponents hold. The wgmma engine has no maximum in its usual step and takes such a step again, at
// whatever place of a query tile it falls (wgmma/forward_tile.cuh).
#include "gpu_test_case.h"

// What the keys of each 128 are multiplied by: scores grow past 2^60 times the first ones, stay, grow past 2^127 in
// one step, and grow in the last.
static const float growth[] = {1, 13, 25, 25, 60, 100};

static void grow(struct bench *b) {
  uint16_t *k = b->t[K].host;
  const int64_t row = (int64_t)b->p.heads_kv * b->p.dim;
  for (int64_t i = 0; i < b->n_k; i++) {
    const int64_t tile = i / row / 128, last = (int64_t)(sizeof growth / sizeof *growth) - 1;
    k[i] = bf16_from_float(bf16_to_float(k[i]) * growth[tile < last ? tile : last]);
  }
  pair_upload(&b->t[K]);
}

static const struct {
  enum mask_kind kind;
  int32_t n, group, dim, variant;
} cases[] = {
    {MASK_FULL, 700, 2, 128, 0},
    {MASK_CAUSAL, 641, 1, 64, 0},
    {MASK_CAUSAL, 767, 2, 128, 0}, // the last step of a tile, too, and then the next tile's first
    {MASK_PREFIX_LM_CAUSAL, 700, 2, 128, 0},
    {MASK_UNIFORM_BLOCK_SPARSE, 700, 1, 128, 0},
    {MASK_UNIFORM_BLOCK_SPARSE, 768, 1, 128, 4}, // all blocks of 64: stages are whole, and common
    {MASK_UNIFORM_BLOCK_SPARSE, 700, 2, 64, 0},
    {MASK_UNIFORM_BLOCK_SPARSE, 700, 2, 128, 1}, // blocks of 128
    {MASK_VARIABLE_BLOCK_SPARSE, 700, 2, 128, 0},
};

static void test_explode(void **state) {
  const struct attn_kernel *kernel = kernel_of(state);
  int ran = 0;
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    struct mask m;
    assert_int_equal(case_mask(&m, cases[i].kind, cases[i].n, cases[i].variant), 0);
    const int32_t heads = m.heads > 1 ? m.heads : 1;
    const struct attn_problem p = {.mask = &m,
                                   .heads_q = heads * cases[i].group,
                                   .heads_kv = heads,
                                   .dim = cases[i].dim,
                                   .rows_q = cases[i].n,
                                   .rows_k = cases[i].n};
    if (!attn_why_not(kernel, &p)) {
      struct bench b;
      struct attn_plan plan;
      bench_make(&b, &p);
      b.p.backward = false;
      grow(&b);
      if (attn_prepare(&plan, kernel, &b.p))
        fail_msg("%s: %s", kernel->name, attn_error());
      bench_pass(&b, &plan, ATTN_FWD);
      bench_expect(&b, kernel, ATTN_FWD, &b.p, "scores that grow");
      attn_release(&plan);
      bench_free(&b);
      ran++;
    }
    mask_free(&m);
  }
  assert_true(ran > 0);
  print_message("  %s: %d cases\n", kernel->name, ran);
}

const struct gpu_test gpu_explode_tests[] = {{"scores that grow", test_explode}, {NULL, NULL}};
