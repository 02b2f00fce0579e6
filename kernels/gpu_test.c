// gpu_test.c -- `make test-gpu`: every device kernel of the registry against the double reference
// (src/check.h) on this machine's GPU: kernel x mask x {forward, backward} x {64:64, 64:8, 8:1} x
// {64, 128}, at lengths around the tiles and up to 2K; then segments, continuation, accumulation,
// rows that see nothing and rows of very negative LSE. Skips with the reason where there is no GPU.
//
// `make test-emulated` runs the same on an emulated GPU (kernels/emu).
//
// Inputs are fresh random numbers in every case, outputs start as NaN, and what lies behind each
// output must be untouched afterwards.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "../src/check.h"
#include "../src/device.h"
#include "../src/ref.h"
#include "../src/tensor.h"
#include "attn.h"
#include "rep/cases.h"

enum { GUARD = 4096, POOL = 1000003, DEVICE_KERNELS_MAX = 64 };

static uint16_t *pool; // normal numbers; a prime length, so that rows of different cases differ
static int arch;       // of the GPU; 0: none
static bool quick;     // LONGCA_TEST_QUICK: few and small cases, for compute-sanitizer
static bool emulated;  // kernels/emu: correct, but slow and without times

// Elements i of a case's tensor are pool[(i + shift) % POOL].
static void fill(uint16_t *to, int64_t n, int64_t shift) {
  for (int64_t i = 0; i < n;) {
    const int64_t from = (i + shift) % POOL, some = n - i < POOL - from ? n - i : POOL - from;
    memcpy(to + i, pool + from, (size_t)some * sizeof *to);
    i += some;
  }
}

// One tensor in both memories.
struct pair {
  void *host, *device;
  size_t bytes;
};

static struct pair pair_make(size_t bytes) {
  struct pair t = {.bytes = bytes, .host = malloc(bytes + GUARD)};
  assert_non_null(t.host);
  assert_int_equal(device_alloc(&t.device, bytes + GUARD), 0);
  memset(t.host, 0xff, bytes + GUARD);
  assert_int_equal(device_fill(t.device, 0xff, bytes + GUARD), 0);
  return t;
}
static void pair_upload(const struct pair *t) {
  assert_int_equal(device_upload(t->device, t->host, t->bytes), 0);
}
static void pair_download(const struct pair *t) {
  assert_int_equal(device_download(t->host, t->device, t->bytes + GUARD), 0);
  for (int i = 0; i < GUARD; i++)
    if (((unsigned char *)t->host)[t->bytes + (size_t)i] != 0xff)
      fail_msg("byte %d behind an output was written", i);
}
static void pair_free(struct pair *t) {
  free(t->host);
  device_free(t->device);
}

enum { Q, K, V, D_O, O, LSE, DQ, DK, DV, TENSORS };
struct bench {
  struct attn_problem p;
  struct pair t[TENSORS];
  int64_t n_q, n_k, rows;
};

static void bench_make(struct bench *b, const struct attn_problem *p) {
  static int64_t cases;
  b->p = *p;
  b->rows = (int64_t)p->rows_q * p->heads_q;
  b->n_q = b->rows * p->dim;
  b->n_k = (int64_t)p->rows_k * p->heads_kv * p->dim;
  for (int i = 0; i < TENSORS; i++) {
    const int64_t n = i == K || i == V || i == DK || i == DV ? b->n_k : b->n_q;
    b->t[i] = pair_make(i == LSE ? (size_t)b->rows * 4 : (size_t)n * 2);
    if (i <= D_O) {
      fill(b->t[i].host, n, ++cases * 104729);
      pair_upload(&b->t[i]);
    }
  }
}
static void bench_free(struct bench *b) {
  for (int i = 0; i < TENSORS; i++)
    pair_free(&b->t[i]);
}

static struct attn_args args_of(const struct bench *b, bool device) {
#define AT(i) (device ? b->t[i].device : b->t[i].host)
  return (struct attn_args){.q = AT(Q),
                            .k = AT(K),
                            .v = AT(V),
                            .d_o = AT(D_O),
                            .o = AT(O),
                            .lse = AT(LSE),
                            .dq = AT(DQ),
                            .dk = AT(DK),
                            .dv = AT(DV)};
#undef AT
}

// Both passes on the device, results on the host. 0, or -1 with attn_error().
static int bench_run(struct bench *b, const struct attn_kernel *kernel) {
  struct attn_plan plan;
  const struct attn_args a = args_of(b, true);
  b->p.backward = true;
  int status = attn_prepare(&plan, kernel, &b->p);
  status = status ? status : kernel->forward(&plan, &a);
  status = status ? status : kernel->backward(&plan, &a);
  if (!status && device_sync())
    fail_msg("%s: %s", kernel->name, device_error());
  attn_release(&plan);
  for (int i = O; !status && i < TENSORS; i++)
    pair_download(&b->t[i]);
  return status;
}

static void expect_right(const struct attn_kernel *kernel, const struct attn_problem *p,
                         int variant) {
  struct bench b;
  struct verify_report fwd = {0}, bwd = {0};
  bench_make(&b, p);
  if (bench_run(&b, kernel))
    fail_msg("%s, %s variant %d, heads %d:%d, dim %d, length %d: %s", kernel->name,
             mask_name(p->mask->kind), variant, p->heads_q, p->heads_kv, p->dim, p->rows_q,
             attn_error());
  const struct attn_args a = args_of(&b, false);
  const bool fwd_right = check_outputs(&b.p, &a, ATTN_FWD, 3, &fwd);
  const bool bwd_right = check_outputs(&b.p, &a, ATTN_BWD, 3, &bwd);
  if (!fwd_right || !bwd_right)
    fail_msg("%s, %s variant %d, heads %d:%d, dim %d, rows %d, keys %d: forward: %lld of %lld rows "
             "wrong, "
             "error %.3g; backward: %lld of %lld, %.3g",
             kernel->name, mask_name(p->mask->kind), variant, p->heads_q, p->heads_kv, p->dim,
             p->rows_q, p->rows_k, (long long)fwd.wrong, (long long)fwd.rows, fwd.err_max,
             (long long)bwd.wrong, (long long)bwd.rows, bwd.err_max);
  bench_free(&b);
}

static const struct { int q, kv; } heads[] = {{64, 8}, {8, 1}, {64, 64}};

// The problem for a case, or false when this kernel does not take it. Block-sparse masks bring as
// many KV heads as they have patterns.
static bool make_problem(const struct attn_kernel *kernel, const struct mask *m, int head, int dim,
                         struct attn_problem *p) {
  const int kv = m->heads ? m->heads : heads[head].kv;
  *p = (struct attn_problem){.mask = m,
                             .heads_q = kv * (heads[head].q / heads[head].kv),
                             .heads_kv = kv,
                             .dim = dim,
                             .rows_q = m->seqlen,
                             .rows_k = m->seqlen,
                             .backward = true};
  return attn_why_not(kernel, p) == NULL;
}

static const struct attn_kernel *kernel_of(void **state) {
  const struct attn_kernel *kernel = attn_kernels[*(const int *)*state];
  if (!arch) {
    print_message("%s\n", device_error());
    skip();
  }
  if (emulated && !strcmp(kernel->engine, "cudnn")) {
    print_message("cuDNN is machine code, which is not emulated\n");
    skip();
  }
  if (arch < kernel->min_arch) {
    print_message("%s needs compute capability %d.%d, this GPU has %d.%d\n", kernel->name,
                  kernel->min_arch / 10, kernel->min_arch % 10, arch / 10, arch % 10);
    skip();
  }
  return kernel;
}

// Every mask; short lengths take every head and dimension in turn, long ones two each.
static void test_masks(void **state) {
  static const int32_t lengths[] = {1, 63, 64, 65, 127, 129, 191, 1000, 2048};
  const struct attn_kernel *kernel = kernel_of(state);
  const bool slow = emulated && !strcmp(kernel->name, "naive"); // a block of threads a row
  int ran = 0;
  for (int kind = 0; kind < MASK_KINDS; kind++)
    for (int l = 0; l < 9; l++)
      for (int i = 0; i < 6; i++) { // i: heads and dimension
        struct mask m;
        struct attn_problem p;
        if (quick && (lengths[l] < 65 || lengths[l] > (slow ? 65 : 191) || i / 2 != 1))
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
  if (!ran) {
    print_message("%s takes no block-sparse mask\n", kernel->name);
    skip();
  }
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
    if (quick && kind % 5 && !mask_is_block_sparse(kind))
      continue;
    struct mask m;
    struct attn_problem p;
    assert_int_equal(case_mask(&m, kind, 600, 0), 0);
    // Lists of one head, other masks of a group.
    make_problem(kernel, &m, mask_is_block_sparse(kind) ? 2 : 1, 128, &p);
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
  if (!ran) {
    print_message("%s does not take segments\n", kernel->name);
    skip();
  }
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
    print_message("%s\n", why);
    mask_free(&m);
    skip();
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
    struct verify_report report;
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
      const struct attn_args a = args_of(&b, false);
      if (!check_outputs(&b.p, &a, ATTN_FWD, 3, &report))
        fail_msg("%s, length %d: forward error %g", kernel->name, lengths[l], report.err_max);
      for (int64_t i = 0; i < b.n_q; i++)
        assert_true(isfinite(bf16_to_float(((uint16_t *)b.t[DQ].host)[i])));
      for (int64_t i = 0; i < b.n_k; i++)
        assert_true(isfinite(bf16_to_float(((uint16_t *)b.t[DK].host)[i])));
      bench_free(&b);
      ran++;
    }
    mask_free(&m);
  }
  if (!ran) {
    print_message("%s takes neither FULL nor CAUSAL\n", kernel->name);
    skip();
  }
}

// Keys in three calls, each continuing the last, forward and backward: the same as one call.
static void test_continuation(void **state) {
  enum { N = 700, PIECES = 3 };
  static const int32_t cuts[PIECES + 1] = {0, 137, 470, N};
  const struct attn_kernel *kernel = kernel_of(state);
  struct mask m;
  struct attn_problem whole, part;
  assert_int_equal(case_mask(&m, MASK_CAUSAL, N, 0), 0);
  if (!make_problem(kernel, &m, 1, 128, &whole)) { // a block-sparse kernel
    mask_free(&m);
    assert_int_equal(
        case_mask(&m, MASK_UNIFORM_BLOCK_SPARSE, N, !strcmp(kernel->name, "fa2_sparse")), 0);
    make_problem(kernel, &m, 1, 128, &whole);
  }
  struct attn_segment seg[PIECES];
  for (int s = 0; s < PIECES; s++)
    seg[s] = (struct attn_segment){0, cuts[s], cuts[s + 1] - cuts[s]};
  part = whole;
  part.rows_k = seg[0].len, part.k_seg = &seg[0], part.k_segs = 1;
  const char *why = attn_why_not(kernel, &part);
  if (!why && !strcmp(kernel->name, "naive"))
    why = "naive says at run time that it does not continue";
  if (why) {
    print_message("%s\n", why);
    mask_free(&m);
    skip();
  }
  struct bench b;
  struct attn_plan plan[PIECES];
  struct attn_args piece[PIECES];
  struct verify_report report;
  bench_make(&b, &whole);
  struct pair o = pair_make((size_t)b.n_q * 4), dq = pair_make((size_t)b.n_q * 4);
  struct pair dk = pair_make((size_t)b.n_k * 4), dv = pair_make((size_t)b.n_k * 4);
  for (int64_t i = 0; i < b.n_q; i++)
    ((float *)dq.host)[i] = 1; // what is there must be added to
  for (int64_t i = 0; i < b.n_k; i++)
    ((float *)dk.host)[i] = ((float *)dv.host)[i] = 1;
  pair_upload(&dq), pair_upload(&dk), pair_upload(&dv);
  const int64_t row = (int64_t)whole.heads_kv * whole.dim;
  for (int s = 0; s < PIECES; s++) {
    part.rows_k = seg[s].len, part.k_seg = &seg[s];
    assert_int_equal(attn_prepare(&plan[s], kernel, &part), 0);
    piece[s] = args_of(&b, true);
    piece[s].k = (const uint16_t *)piece[s].k + cuts[s] * row;
    piece[s].v = (const uint16_t *)piece[s].v + cuts[s] * row;
    piece[s].o_acc = o.device;
    piece[s].resume = s > 0;
    assert_int_equal(kernel->forward(&plan[s], &piece[s]), 0);
  }
  assert_int_equal(device_sync(), 0);
  pair_download(&o);
  for (int64_t i = 0; i < b.n_q; i++)
    ((uint16_t *)b.t[O].host)[i] = bf16_from_float(((float *)o.host)[i]);
  pair_upload(&b.t[O]);
  for (int s = 0; s < PIECES; s++) {
    piece[s].o_acc = NULL;
    piece[s].accumulate = true;
    piece[s].dq = piece[s].dk = piece[s].dv = NULL;
    piece[s].dq_acc = dq.device;
    piece[s].dk_acc = (float *)dk.device + cuts[s] * row;
    piece[s].dv_acc = (float *)dv.device + cuts[s] * row;
    assert_int_equal(kernel->backward(&plan[s], &piece[s]), 0);
  }
  assert_int_equal(device_sync(), 0);
  pair_download(&b.t[LSE]), pair_download(&dq), pair_download(&dk), pair_download(&dv);
  for (int64_t i = 0; i < b.n_q; i++)
    ((uint16_t *)b.t[DQ].host)[i] = bf16_from_float(((float *)dq.host)[i] - 1);
  for (int64_t i = 0; i < b.n_k; i++) {
    ((uint16_t *)b.t[DK].host)[i] = bf16_from_float(((float *)dk.host)[i] - 1);
    ((uint16_t *)b.t[DV].host)[i] = bf16_from_float(((float *)dv.host)[i] - 1);
  }
  const struct attn_args a = args_of(&b, false);
  if (!check_outputs(&whole, &a, ATTN_FWD, 3, &report))
    fail_msg("%s: forward in pieces, error %g", kernel->name, report.err_max);
  if (!check_outputs(&whole, &a, ATTN_BWD, 3, &report))
    fail_msg("%s: backward in pieces, error %g", kernel->name, report.err_max);
  for (int s = 0; s < PIECES; s++)
    attn_release(&plan[s]);
  pair_free(&o), pair_free(&dq), pair_free(&dk), pair_free(&dv);
  bench_free(&b);
  mask_free(&m);
}

// dq, dk and dv of a plan in fp32, where sums in another order show. Returns whether they are the bits that
// were on the host.
static bool backward_repeats(const struct bench *b, struct attn_plan *plan, struct pair grad[3]) {
  struct attn_args a = args_of(b, true);
  bool same = true;
  a.accumulate = true;
  a.dq_acc = grad[0].device, a.dk_acc = grad[1].device, a.dv_acc = grad[2].device;
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
  struct verify_report report;
  int differed = 0;
  bench_make(&b, p);
  const struct attn_args device = args_of(&b, true), host = args_of(&b, false);
  for (int i = 0; i < 3; i++)
    grad[i] = pair_make(2 * b.t[DQ + i].bytes);
  assert_int_equal(attn_prepare(&plan, kernel, p), 0);
  assert_int_equal(kernel->forward(&plan, &device), 0);
  for (int run = 0; run <= again; run++)
    differed +=
        !backward_repeats(&b, &plan, grad) && run > 0; // what the first is compared with is NaN
  pair_download(&b.t[O]), pair_download(&b.t[LSE]);
  for (int i = 0; i < 3; i++)
    for (size_t e = 0; e < b.t[DQ + i].bytes / 2; e++)
      ((uint16_t *)b.t[DQ + i].host)[e] = bf16_from_float(((float *)grad[i].host)[e]);
  if (!check_outputs(p, &host, ATTN_BWD, 3, &report))
    fail_msg("%s, %s: backward error %g", kernel->name, mask_name(p->mask->kind), report.err_max);
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
  } cases[] = {{MASK_FULL, 0, 1},
               {MASK_CAUSAL, 0, 3},
               {MASK_SHARE_QUESTION, 0, 1},
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
      assert_int_equal(case_mask(&m, cases[i].kind, quick ? 577 : 2000, variant), 0);
      make_problem(kernel, &m, 1, 64, &p);
      p.heads_q = cases[i].group * p.heads_kv;
      p.deterministic = true;
      why = strcmp(kernel->name, "naive") ? attn_why_not(kernel, &p)
                                          : "naive says when run that it does not add";
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
  if (!ran) {
    print_message("%s: %s\n", kernel->name, why);
    skip();
  }
  print_message("  %s: without it, other bits in %d of %d runs\n", kernel->name, differed, ran);
}

// The sampler of device.h: a plausible time, a plausible clock, and the call's own failure passed
// on.
static int copy_call(void *ctx) {
  void **buffers = ctx;
  return device_fill(buffers[0], 1, 1u << 30);
}
static int failing_call(void *ctx) { return -1; }
static void test_sample(void **state) {
  struct device_info info;
  struct device_sample sample;
  void *buffer;
  if (!arch || emulated) {
    print_message("%s\n", emulated ? "an emulated GPU has no clock of its own" : device_error());
    skip();
  }
  assert_int_equal(device_info(&info), 0);
  assert_int_equal(device_alloc(&buffer, 1u << 30), 0);
  for (int i = 0; i < 3; i++)
    assert_int_equal(device_sample(copy_call, &buffer, &sample), 0);
  print_message("  %s: 1 GiB filled in %.1f us, SM clock %.0f MHz of %.0f, %.0f W\n", info.name,
                sample.time_us, sample.sm_mhz, info.sm_mhz_max, sample.power_w);
  assert_true(sample.time_us > 50 && sample.time_us < 1e5);
  assert_true(sample.sm_mhz > 100 && sample.sm_mhz <= 1.02 * info.sm_mhz_max);
  assert_false(sample.exposed);
  assert_int_equal(device_sample(failing_call, NULL, &sample), -1);
  assert_int_equal(device_sample(copy_call, &buffer, &sample), 0);
  device_free(buffer);
}

// cmocka takes an array: each device kernel brings each test. LONGCA_TEST_KERNEL=name runs one
// kernel's.
int main(void) {
  static const struct {
    const char *name;
    CMUnitTestFunction run;
  } each[] = {{"masks", test_masks},
              {"blocks", test_blocks},
              {"segments", test_segments},
              {"empty rows", test_empty_rows},
              {"negative lse", test_negative_lse},
              {"continuation", test_continuation},
              {"deterministic", test_deterministic}};
  enum { EACH = sizeof each / sizeof *each };
  static struct CMUnitTest tests[1 + EACH * DEVICE_KERNELS_MAX];
  static char names[1 + EACH * DEVICE_KERNELS_MAX][64];
  static int places[1 + EACH * DEVICE_KERNELS_MAX]; // in the registry
  const char *only = getenv("LONGCA_TEST_KERNEL");
  quick = getenv("LONGCA_TEST_QUICK") != NULL;
  struct device_info info;
  size_t n = 0;
  if (device_count() > 0 && device_open(0) == 0 && device_info(&info) == 0)
    arch = info.arch, emulated = !strcmp(info.name, "emulated GPU");
  pool = malloc(POOL * sizeof *pool);
  if (!pool)
    return 1;
  tensor_fill_normal(pool, ATTN_BF16, POOL, 11, 0);
  tests[n++] = (struct CMUnitTest){.name = "sample", .test_func = test_sample};
  for (int k = 0; attn_kernels[k]; k++)
    for (int i = 0; i < EACH && attn_kernels[k]->place == ATTN_DEVICE; i++) {
      if (only && strcmp(only, attn_kernels[k]->name))
        continue;
      snprintf(names[n], sizeof *names, "%s: %s", attn_kernels[k]->name, each[i].name);
      places[n] = k;
      tests[n] = (struct CMUnitTest){
          .name = names[n], .test_func = each[i].run, .initial_state = &places[n]};
      n++;
    }
  return _cmocka_run_group_tests("gpu", tests, n, NULL, NULL);
}
