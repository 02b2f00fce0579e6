// gpu_test_split.c -- part of gpu_test: query tiles that the wgmma forward cuts along their keys
// (wgmma/split.h), and key tiles that its backward cuts along their queries (wgmma/balance.h). Few of
// them against many of the others, so that they are cut on a GPU and on the four multiprocessors of an
// emulated one alike; that they were is seen by the workspace, which nothing else would take.
#include "gpu_test_case.h"

enum { S = 3000 };

// Queries from q on against keys from k on. Four multiprocessors must not come out even.
static const struct split_case {
  const char *what;
  enum mask_kind kind;
  int32_t q, rows, k, keys, heads_q, heads_kv, dim;
  bool steep; // later keys have larger scores, so that parts differ in their bases
  int variant; // of case_mask(), block-sparse: 1 has blocks of 128, 4 of 64 or 64 on average; two heads
} cases[] = {
    {"all", MASK_FULL, 100, 129, 0, 2305, 1, 1, 128, false, 0},
    {"steep", MASK_FULL, 100, 129, 0, 2305, 3, 1, 64, true, 0},
    {"the diagonal in the last part", MASK_CAUSAL, S - 129, 129, 0, S, 3, 1, 64, false, 0},
    // Documents of 700 and 2300: rows of which the first part sees all, or nothing.
    {"half of the rows a part", MASK_FULL_DOCUMENT, 636, 129, 0, S, 1, 1, 128, false, 0},
    {"rows that see nothing", MASK_FULL_DOCUMENT, 636, 127, 720, S - 720, 2, 2, 64, true, 0},
    {"runs", MASK_GLOBAL_SLIDING_WINDOW, 1200, 1, 0, S, 1, 1, 128, false, 0},
    {"blocks, by head", MASK_UNIFORM_BLOCK_SPARSE, 1100, 127, 0, S, 2, 2, 128, true, 1},
    // Gathered. Halves of 52 and 28 rows that share three quarters of their keys; 30 rows and none; the
    // heads of a group as rows.
    {"blocks of 64", MASK_UNIFORM_BLOCK_SPARSE, 1036, 80, 0, S, 2, 2, 128, true, 4},
    {"a half without rows", MASK_UNIFORM_BLOCK_SPARSE, 1100, 30, 0, S, 2, 2, 64, false, 4},
    {"a half that sees nothing", MASK_UNIFORM_BLOCK_SPARSE, 1100, 80, 0, S, 2, 2, 128, false, 4},
    {"groups of 2", MASK_UNIFORM_BLOCK_SPARSE, 1030, 57, 0, S, 4, 2, 128, true, 4},
    {"variable blocks", MASK_VARIABLE_BLOCK_SPARSE, 1100, 60, 0, S, 2, 2, 128, true, 4},
    {"variable blocks, groups of 8", MASK_VARIABLE_BLOCK_SPARSE, 1100, 9, 0, S, 16, 2, 64, true, 4},
};

static void make_mask(const struct split_case *c, struct mask *m) {
  static const int32_t documents[2] = {700, S - 700};
  char err[200];
  if (!mask_is_block_sparse(c->kind)) {
    if (mask_init(m, c->kind, S, documents, 2, 600, 0, 0, err, sizeof err))
      fail_msg("%s", err);
    return;
  }
  assert_int_equal(case_mask(m, c->kind, S, c->variant), 0);
  assert_int_equal(m->heads, 2);
  for (int32_t r = 0; r < m->heads * m->blocks_q; r++) {
    const int32_t row = r % m->blocks_q;
    // All but three of 32, others in each row; or all but one of 8, not the next row's, and row 18 nothing.
    const uint32_t word = c->variant == 1 ? ~(UINT32_C(0x111) << row % 8)
                          : row == 18     ? 0
                          : row % 2       ? 0x7f7f7f7f
                                          : 0xbfbfbfbf;
    for (int32_t w = 0; w < m->kept_words; w++) {
      const int32_t left = m->blocks_k - 32 * w;
      ((uint32_t *)m->kept)[r * m->kept_words + w] =
          word & (left < 32 ? (UINT32_C(1) << left) - 1 : ~UINT32_C(0));
    }
  }
}

static struct attn_problem case_problem(const struct split_case *c, const struct mask *m,
                                        const struct attn_segment *q,
                                        const struct attn_segment *k) {
  return (struct attn_problem){.mask = m,
                               .heads_q = c->heads_q,
                               .heads_kv = c->heads_kv,
                               .dim = c->dim,
                               .rows_q = c->rows,
                               .rows_k = c->keys,
                               .q_seg = q,
                               .k_seg = k,
                               .q_segs = 1,
                               .k_segs = 1};
}

static void make_steep(struct bench *b) {
  uint16_t *k = b->t[K].host;
  for (int64_t i = 0; i < b->n_k; i++)
    k[i] = bf16_from_float(bf16_to_float(k[i]) * (1 + 4.0f * (float)i / (float)b->n_k));
  pair_upload(&b->t[K]);
}

static void prepare(struct attn_plan *plan, const struct attn_kernel *kernel,
                    const struct attn_problem *p, const char *what) {
  if (attn_prepare(plan, kernel, p))
    fail_msg("%s, %s: %s", kernel->name, what, attn_error());
  if (!p->like && !plan->workspace_bytes)
    fail_msg("%s, %s: nothing is cut", kernel->name, what);
}

static void negate_v(struct bench *b) {
  for (int64_t i = 0; i < b->n_k; i++)
    ((uint16_t *)b->t[V].host)[i] ^= 0x8000;
  pair_upload(&b->t[V]);
}

// In one call. Again with other values, so that parts left by the call before would show; and with the same
// ones: the same bits, whoever puts the parts together.
static void run_whole(const struct attn_kernel *kernel, struct bench *b, const char *what) {
  struct attn_plan plan;
  void *before = malloc(b->t[O].bytes);
  assert_non_null(before);
  prepare(&plan, kernel, &b->p, what);
  for (int run = 0; run < 3; run++) {
    if (run == 1)
      negate_v(b);
    memcpy(before, b->t[O].host, b->t[O].bytes);
    assert_int_equal(device_fill(b->t[O].device, 0xff, b->t[O].bytes), 0);
    bench_pass(b, &plan, ATTN_FWD);
    bench_expect(b, kernel, ATTN_FWD, &b->p, what);
  }
  assert_memory_equal(b->t[O].host, before, b->t[O].bytes);
  attn_release(&plan);
  free(before);
}

// In two calls, each cut; the second continues the first, and its plan shares the first one's memory. Both
// again: what is added too early or twice shows here, where nothing is written over.
static void run_continued(const struct attn_kernel *kernel, struct bench *b, const char *what) {
  const struct attn_problem whole = b->p;
  const struct attn_segment all = *whole.k_seg;
  const int32_t cut = all.len / 2 + 3;
  const struct attn_segment seg[2] = {{0, all.pos, cut}, {0, all.pos + cut, all.len - cut}};
  struct attn_plan plan[2];
  struct pair o = pair_make((size_t)b->n_q * 4);
  for (int s = 0; s < 2; s++) {
    struct attn_problem part = whole;
    part.rows_k = seg[s].len, part.k_seg = &seg[s];
    part.like = s ? &plan[0] : NULL;
    prepare(&plan[s], kernel, &part, what);
  }
  for (int call = 0; call < 4; call++) {
    const int s = call % 2;
    const int64_t skip = (int64_t)s * cut * whole.heads_kv * whole.dim;
    struct attn_args a = bench_args(b, true);
    a.k = (const uint16_t *)a.k + skip;
    a.v = (const uint16_t *)a.v + skip;
    a.o_acc = o.device;
    a.resume = s;
    a.part = s ? ATTN_LAST : ATTN_FIRST;
    assert_int_equal(kernel->forward(&plan[s], &a), 0);
  }
  assert_int_equal(device_sync(), 0);
  pair_download(&b->t[O]);
  pair_download(&b->t[LSE]);
  bench_expect(b, kernel, ATTN_FWD, &whole, what);
  for (int s = 1; s >= 0; s--)
    attn_release(&plan[s]);
  pair_free(&o);
}

typedef void run_case(const struct attn_kernel *kernel, struct bench *b,
                      const struct split_case *c);

// Runs the cases that the kernel takes; how many.
static int run_cases(const struct attn_kernel *kernel, const struct split_case *list, size_t n,
                     run_case *run) {
  int ran = 0;
  for (const struct split_case *c = list; c < list + n; c++) {
    if (c->variant == 4 && !strcmp(kernel->rep, "blockmap"))
      continue; // in whole tiles, which may come out even
    const struct attn_segment q = {0, c->q, c->rows}, k = {0, c->k, c->keys};
    struct mask m;
    make_mask(c, &m);
    const struct attn_problem p = case_problem(c, &m, &q, &k);
    if (!attn_why_not(kernel, &p)) {
      struct bench b;
      bench_make(&b, &p);
      run(kernel, &b, c);
      bench_free(&b);
      ran++;
    }
    mask_free(&m);
  }
  return ran;
}

static void run_forward(const struct attn_kernel *kernel, struct bench *b,
                        const struct split_case *c) {
  b->p.backward = false;
  if (c->steep)
    make_steep(b);
  run_whole(kernel, b, c->what);
  run_continued(kernel, b, c->what);
}

static void test_split(void **state) {
  const struct attn_kernel *kernel = kernel_of(state);
  if (strcmp(kernel->engine, "wgmma") != 0)
    skip_because(kernel, "cuts no query tiles");
  const int ran = run_cases(kernel, cases, sizeof cases / sizeof *cases, run_forward);
  assert_true(ran > 0);
  print_message("  %s: %d cases\n", kernel->name, ran);
}

// Few keys against many queries.
static const struct split_case backward_cases[] = {
    {"all", MASK_FULL, 0, 2305, 100, 129, 1, 1, 128, false, 0},
    {"all, groups", MASK_FULL, 0, 2305, 100, 129, 9, 3, 64, false, 0},
    {"the diagonal in the first part", MASK_CAUSAL, 0, S, 0, 129, 3, 3, 64, false, 0},
    {"half of the keys a part", MASK_FULL_DOCUMENT, 0, S, 636, 129, 1, 1, 128, false, 0},
    {"runs", MASK_GLOBAL_SLIDING_WINDOW, 0, S, 1200, 1, 1, 1, 128, false, 0},
    {"blocks, by head", MASK_UNIFORM_BLOCK_SPARSE, 0, S, 1100, 127, 2, 2, 128, false, 1},
};

// Twice, from outputs of NaN, so that sums left by the call before would show; then added to sums of 0.
static void run_backward(const struct attn_kernel *kernel, struct bench *b,
                         const struct split_case *c) {
  const char *what = c->what;
  static const char *const how[] = {"", ", again", ", in fp32"};
  const int64_t rows = (b->p.rows_q + 63) / 64 * 64, each = 2 * 4 + 4 * b->p.dim; // LSE, D, dQ
  struct attn_plan plan;
  struct pair grad[3];
  if (attn_prepare(&plan, kernel, &b->p))
    fail_msg("%s, %s: %s", kernel->name, what, attn_error());
  if (plan.workspace_bytes <= rows * b->p.heads_q * each)
    fail_msg("%s, %s: nothing is cut", kernel->name, what);
  bench_pass(b, &plan, ATTN_FWD);
  for (int i = 0; i < 3; i++)
    grad[i] = pair_make((size_t)(i ? b->n_k : b->n_q) * 4);
  for (int run = 0; run < 3; run++) {
    char name[100];
    struct attn_args a = bench_args(b, true);
    snprintf(name, sizeof name, "%s%s", what, how[run]);
    a.accumulate = run == 2;
    a.dq_acc = grad[0].device, a.dk_acc = grad[1].device, a.dv_acc = grad[2].device;
    for (int i = 0; i < 3; i++)
      assert_int_equal(run < 2 ? device_fill(b->t[DQ + i].device, 0xff, b->t[DQ + i].bytes)
                               : device_fill(grad[i].device, 0, grad[i].bytes),
                       0);
    if (kernel->backward(&plan, &a))
      fail_msg("%s, %s: %s", kernel->name, name, attn_error());
    assert_int_equal(device_sync(), 0);
    for (int i = 0; i < 3; i++) {
      pair_download(run < 2 ? &b->t[DQ + i] : &grad[i]);
      if (run == 2)
        round_to_host(b->t[DQ + i].host, grad[i].host, (int64_t)grad[i].bytes / 4, 0);
    }
    bench_expect(b, kernel, ATTN_BWD, &b->p, name);
  }
  attn_release(&plan);
  for (int i = 0; i < 3; i++)
    pair_free(&grad[i]);
}

static void test_backward(void **state) {
  const struct attn_kernel *kernel = kernel_of(state);
  if (strcmp(kernel->engine, "wgmma") != 0)
    skip_because(kernel, "cuts no key tiles");
  const int ran = run_cases(kernel, backward_cases, sizeof backward_cases / sizeof *backward_cases,
                            run_backward);
  if (!ran)
    skip_because(kernel, "takes none of these masks");
  print_message("  %s: %d cases\n", kernel->name, ran);
}

const struct gpu_test gpu_split_tests[] = {
    {"parts of query tiles", test_split}, {"parts of key tiles", test_backward}, {NULL, NULL}};
