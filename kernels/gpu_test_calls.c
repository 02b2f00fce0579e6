// gpu_test_calls.c -- part of gpu_test: what the contract (attn.h) promises from call to call:
// continuation and accumulation, plans that share memory, the same bits every time.
#include "gpu_test_case.h"

// The gradients in fp32: dQ, dK, dV.
static void take_gradients(struct attn_args *a, const struct pair grad[3]) {
  a->accumulate = true;
  a->dq = a->dk = a->dv = NULL;
  a->dq_acc = grad[0].device, a->dk_acc = grad[1].device, a->dv_acc = grad[2].device;
}

// A causal mask, or for a kernel that does not take it, blocks that it does take.
static void make_any(const struct attn_kernel *kernel, int32_t seqlen, int dim, struct mask *m,
                     struct attn_problem *p) {
  assert_int_equal(case_mask(m, MASK_CAUSAL, seqlen, 0), 0);
  if (make_problem(kernel, m, 1, dim, p))
    return;
  mask_free(m);
  const int variant = !strcmp(kernel->name, "fa2_sparse"); // blocks of 128, else of 64
  assert_int_equal(case_mask(m, MASK_UNIFORM_BLOCK_SPARSE, seqlen, variant), 0);
  make_problem(kernel, m, 1, dim, p);
}

// Keys in three calls, each continuing the last, forward and backward: the same as one call; each by
// itself, or as parts of one by plans that share. Gradients start from ones, which must be added to.
static void continue_in_pieces(const struct attn_kernel *kernel, bool parts) {
  enum { N = 700, PIECES = 3 };
  static const int32_t cuts[PIECES + 1] = {0, 137, 470, N};
  struct mask m;
  struct attn_problem whole, part;
  make_any(kernel, N, 128, &m, &whole);
  struct attn_segment seg[PIECES];
  for (int s = 0; s < PIECES; s++)
    seg[s] = (struct attn_segment){0, cuts[s], cuts[s + 1] - cuts[s]};
  part = whole;
  part.rows_k = seg[0].len, part.k_seg = &seg[0], part.k_segs = 1;
  const char *why = strcmp(kernel->name, "naive") ? attn_why_not(kernel, &part)
                                                  : "says when run that it does not continue";
  if (why) {
    mask_free(&m);
    skip_because(kernel, why);
  }
  struct bench b;
  struct attn_plan plan[PIECES];
  struct attn_args piece[PIECES];
  bench_make(&b, &whole);
  struct pair o = pair_make((size_t)b.n_q * 4), grad[3];
  for (int i = 0; i < 3; i++) {
    grad[i] = pair_make(2 * b.t[DQ + i].bytes);
    for (size_t e = 0; e < grad[i].bytes / 4; e++)
      ((float *)grad[i].host)[e] = 1;
    pair_upload(&grad[i]);
  }
  const int64_t row = (int64_t)whole.heads_kv * whole.dim;
  for (int s = 0; s < PIECES; s++) {
    part.rows_k = seg[s].len, part.k_seg = &seg[s];
    part.like = parts && s ? &plan[0] : NULL;
    assert_int_equal(attn_prepare(&plan[s], kernel, &part), 0);
    piece[s] = bench_args(&b, true);
    piece[s].k = (const uint16_t *)piece[s].k + cuts[s] * row;
    piece[s].v = (const uint16_t *)piece[s].v + cuts[s] * row;
    piece[s].o_acc = o.device;
    piece[s].resume = s > 0;
    piece[s].part = !parts           ? ATTN_ALONE
                    : s == 0         ? ATTN_FIRST
                    : s < PIECES - 1 ? ATTN_NEXT
                                     : ATTN_LAST; // which writes o itself
    assert_int_equal(kernel->forward(&plan[s], &piece[s]), 0);
  }
  assert_int_equal(device_sync(), 0);
  if (parts) {
    pair_download(&b.t[O]);
  } else {
    pair_download(&o);
    round_to_host(b.t[O].host, o.host, b.n_q, 0);
    pair_upload(&b.t[O]);
  }
  for (int s = 0; s < PIECES; s++) {
    piece[s].o_acc = NULL;
    take_gradients(&piece[s], grad);
    piece[s].dk_acc += cuts[s] * row;
    piece[s].dv_acc += cuts[s] * row;
    assert_int_equal(kernel->backward(&plan[s], &piece[s]), 0);
  }
  assert_int_equal(device_sync(), 0);
  pair_download(&b.t[LSE]);
  for (int i = 0; i < 3; i++) {
    pair_download(&grad[i]);
    round_to_host(b.t[DQ + i].host, grad[i].host, (int64_t)grad[i].bytes / 4, 1);
  }
  bench_expect(&b, kernel, ATTN_FWD, &whole, "in pieces");
  bench_expect(&b, kernel, ATTN_BWD, &whole, "in pieces");
  for (int s = PIECES - 1; s >= 0; s--) // the first lends to the others
    attn_release(&plan[s]);
  for (int i = 0; i < 3; i++)
    pair_free(&grad[i]);
  pair_free(&o);
  bench_free(&b);
  mask_free(&m);
}

static void test_continuation(void **state) {
  continue_in_pieces(kernel_of(state), false);
  continue_in_pieces(kernel_of(state), true);
}

// Plans like a first one, of the same shape, as a ring's steps are: its own positions over again, and
// others where the kernel takes segments. Called in turns, both are right; the same positions add no
// workspace, and others less than they would alone.
static void test_sharing(void **state) {
  enum { ROWS = 65, PLANS = 3 };
  static const struct attn_segment q_seg[PLANS] = {{0, 0, ROWS}, {0, 0, ROWS}, {0, 64, ROWS}};
  static const struct attn_segment k_seg[PLANS] = {{0, 0, ROWS}, {0, 0, ROWS}, {0, 40, ROWS}};
  const struct attn_kernel *kernel = kernel_of(state);
  struct mask m;
  struct attn_problem p;
  struct bench b[PLANS];
  struct attn_plan plan[PLANS], alone;
  make_any(kernel, 2 * ROWS, 64, &m, &p);
  for (int i = 0; i < PLANS; i++) {
    struct attn_problem part = p;
    part.rows_q = part.rows_k = ROWS;
    part.q_seg = &q_seg[i], part.k_seg = &k_seg[i];
    part.q_segs = part.k_segs = 1;
    bench_make(&b[i], attn_why_not(kernel, &part) ? &p : &part);
    b[i].p.like = i ? &plan[0] : NULL;
    if (attn_prepare(&plan[i], kernel, &b[i].p))
      fail_msg("%s: %s", kernel->name, attn_error());
  }
  for (int pass = ATTN_FWD; pass <= ATTN_BWD; pass++)
    for (int i = 0; i < PLANS; i++) {
      bench_pass(&b[i], &plan[i], pass);
      bench_expect(&b[i], kernel, pass, &b[i].p, i ? "like another plan" : "shared");
    }
  b[2].p.like = NULL;
  assert_int_equal(attn_prepare(&alone, kernel, &b[2].p), 0);
  print_message("  %s: workspace %lld bytes; like it, 0 and %lld of %lld\n", kernel->name,
                (long long)plan[0].workspace_bytes, (long long)plan[2].workspace_bytes,
                (long long)alone.workspace_bytes);
  assert_true(plan[0].workspace_bytes > 0);
  assert_int_equal(plan[1].workspace_bytes, 0);
  assert_true(plan[1].prep_bytes <= plan[0].prep_bytes);
  assert_true(plan[2].workspace_bytes < alone.workspace_bytes);
  attn_release(&alone);
  for (int i = PLANS - 1; i >= 0; i--) {
    attn_release(&plan[i]);
    bench_free(&b[i]);
  }
  mask_free(&m);
}

// dq, dk and dv of a plan in fp32, where sums in another order show. Returns whether they are the bits that
// were on the host.
static bool backward_repeats(const struct bench *b, struct attn_plan *plan, struct pair grad[3]) {
  struct attn_args a = bench_args(b, true);
  bool same = true;
  take_gradients(&a, grad);
  for (int i = 0; i < 3; i++)
    assert_int_equal(device_fill(grad[i].device, 0, grad[i].bytes), 0);
  assert_int_equal(plan->kernel->backward(plan, &a), 0);
  assert_int_equal(device_sync(), 0);
  for (int i = 0; i < 3; i++) {
    void *before = malloc(grad[i].bytes);
    assert_non_null(before);
    memcpy(before, grad[i].host, grad[i].bytes);
    pair_download(&grad[i]);
    same &= !memcmp(before, grad[i].host, grad[i].bytes);
    free(before);
  }
  return same;
}

// Right, and in `again` more runs the same bits. Returns in how many they were not.
static int run_again(const struct attn_kernel *kernel, const struct attn_problem *p, int again) {
  struct bench b;
  struct attn_plan plan;
  struct pair grad[3];
  int differed = 0;
  bench_make(&b, p);
  for (int i = 0; i < 3; i++)
    grad[i] = pair_make(2 * b.t[DQ + i].bytes);
  assert_int_equal(attn_prepare(&plan, kernel, p), 0);
  bench_pass(&b, &plan, ATTN_FWD);
  for (int run = 0; run <= again; run++) // what the first is compared with is NaN
    differed += !backward_repeats(&b, &plan, grad) && run > 0;
  for (int i = 0; i < 3; i++)
    round_to_host(b.t[DQ + i].host, grad[i].host, (int64_t)grad[i].bytes / 4, 0);
  bench_expect(&b, kernel, ATTN_BWD, p, p->deterministic ? "deterministic" : "in any order");
  attn_release(&plan);
  for (int i = 0; i < 3; i++)
    pair_free(&grad[i]);
  bench_free(&b);
  return differed;
}

// Deterministic: the same bits every time. Without it they may differ; in how many runs they did is said,
// because where they never do, this test has not seen much.
static void test_deterministic(void **state) {
  static const struct {
    enum mask_kind kind;
    int variant, group; // the first variant that is tried: 4 keeps every block
  } cases[] = {{MASK_FULL, 0, 3},
               {MASK_CAUSAL, 0, 3},
               {MASK_SLIDING_WINDOW_CAUSAL, 0, 1},
               {MASK_SHARE_QUESTION, 0, 4},
               {MASK_UNIFORM_BLOCK_SPARSE, 4, 1},
               {MASK_VARIABLE_BLOCK_SPARSE, 4, 1}};
  enum { AGAIN = 3 };
  const struct attn_kernel *kernel = kernel_of(state);
  const char *why = NULL;
  int ran = 0, differed = 0;
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
    for (int v = 0, done = 0; v < CASE_VARIANTS && !done; v++) {
      struct mask m;
      struct attn_problem p;
      const int variant = (cases[i].variant + v) % CASE_VARIANTS;
      assert_int_equal(case_mask(&m, cases[i].kind, where.quick ? 577 : 2000, variant), 0);
      make_problem(kernel, &m, 1, 64, &p);
      p.heads_q = cases[i].group * p.heads_kv;
      p.deterministic = true;
      why = strcmp(kernel->name, "naive") ? attn_why_not(kernel, &p)
                                          : "says when run that it does not add";
      if (!why) {
        if (run_again(kernel, &p, AGAIN))
          fail_msg("%s, %s: other bits the next time", kernel->name, mask_name(m.kind));
        p.deterministic = false;
        differed += run_again(kernel, &p, AGAIN);
        ran += AGAIN;
        done = 1;
      }
      mask_free(&m);
    }
  if (!ran)
    skip_because(kernel, why);
  print_message("  %s: without it, other bits in %d of %d runs\n", kernel->name, differed, ran);
}

const struct gpu_test gpu_call_tests[] = {{"continuation", test_continuation},
                                          {"sharing", test_sharing},
                                          {"deterministic", test_deterministic},
                                          {NULL, NULL}};
