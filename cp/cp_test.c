// cp_test.c -- every schedule on the loopback transport against the double reference, and the ways in
// which a test like this must fail.
//
// Most cases run a plain kernel of this file, exact to fp32 rounding, which also counts how often it
// computed each visible pair; the CPU engine runs the rest.
// clang-format off
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
// clang-format on
#include <unistd.h>

#include "../src/timer.h"
#include "cp_test_case.h"

#define LIMIT 1e-5 // fp32, relative to the tensor's largest element

// ---- a plain kernel that counts -------------------------------------------------------------

static uint8_t *painted[2]; // [pass][seqlen][seqlen]
static int32_t painted_seqlen;
static _Thread_local bool paints; // this rank has the first share of the heads
static enum {
  NO_MUTATION,
  PAD_IS_REAL,
  STALE_KV,
  WRONG_RETURN,
  COPIES_NOT_SUMMED,
  HOP_SKIPPED
} mutation;

struct plain {
  int32_t *pos_q, *pos_k;
};

static void set_positions(int32_t *pos, int32_t rows, const struct attn_segment *seg, int32_t segs,
                          bool last_pad) {
  for (int32_t r = 0; r < rows; r++)
    pos[r] = -1;
  for (int32_t s = 0; s < segs; s++)
    for (int32_t i = 0; i < seg[s].len; i++)
      pos[seg[s].row + i] = seg[s].pos + i;
  for (int32_t r = 1; last_pad && r < rows; r++) // a slot's padding taken for one more token
    if (pos[r] < 0 && pos[r - 1] >= 0) {
      pos[r] = pos[r - 1];
      break;
    }
}

static int plain_prepare(struct attn_plan *plan) {
  const struct attn_problem *p = &plan->problem;
  struct plain *st = plan->state = calloc(1, sizeof *st);
  st->pos_q = malloc(sizeof(int32_t) * (size_t)p->rows_q);
  st->pos_k = malloc(sizeof(int32_t) * (size_t)p->rows_k);
  set_positions(st->pos_q, p->rows_q, p->q_seg, p->q_segs, false);
  set_positions(st->pos_k, p->rows_k, p->k_seg, p->k_segs, mutation == PAD_IS_REAL);
  plan->workspace_bytes = 4 * (int64_t)(p->rows_q + p->rows_k);
  return 0;
}

static void plain_release(struct attn_plan *plan) {
  struct plain *st = plan->state;
  if (st)
    free(st->pos_q), free(st->pos_k);
  free(st);
}

static bool sees(const struct attn_plan *plan, int32_t r, int32_t j, enum attn_pass pass) {
  const struct plain *st = plan->state;
  const int32_t q = st->pos_q[r], k = st->pos_k[j];
  if (q < 0 || k < 0 || !mask_allows(plan->problem.mask, 0, q, k))
    return false;
  if (paints && pass < 2)
    __atomic_add_fetch(&painted[pass][(int64_t)q * painted_seqlen + k], 1, __ATOMIC_RELAXED);
  return true;
}

static double dot(const float *a, const float *b) {
  double sum = 0;
  for (int i = 0; i < DIM; i++)
    sum += (double)a[i] * b[i];
  return sum;
}

static int plain_forward(struct attn_plan *plan, const struct attn_args *a) {
  const struct attn_problem *p = &plan->problem;
  const struct plain *st = plan->state;
  const float *q = a->q, *k = a->k, *v = a->v;
  for (int h = 0; h < p->heads_q; h++)
    for (int32_t r = 0; r < p->rows_q; r++) {
      if (st->pos_q[r] < 0)
        continue;
      const int kv = h / (p->heads_q / p->heads_kv);
      const int64_t at = ((int64_t)r * p->heads_q + h) * DIM;
      float *o = (a->o_acc ? a->o_acc : (float *)a->o) + at,
            *lse = a->lse + (int64_t)h * p->rows_q + r;
      double max = a->resume ? *lse : -INFINITY, sum = max > -INFINITY, acc[DIM];
      for (int i = 0; i < DIM; i++)
        acc[i] = sum ? o[i] : 0;
      for (int32_t j = 0; j < p->rows_k; j++) {
        // Painted once a pair, by the first head.
        const bool seen = h == 0 ? sees(plan, r, j, ATTN_FWD) : sees(plan, r, j, (enum attn_pass)2);
        if (!seen)
          continue;
        const int64_t key = ((int64_t)j * p->heads_kv + kv) * DIM;
        const double s = dot(q + at, k + key) / sqrt(DIM), top = s > max ? s : max;
        const double old = exp(max - top), now = exp(s - top);
        for (int i = 0; i < DIM; i++)
          acc[i] = acc[i] * old + now * v[key + i];
        sum = sum * old + now;
        max = top;
      }
      for (int i = 0; i < DIM; i++)
        o[i] = (float)(sum == 0 ? 0 : acc[i] / sum);
      *lse = (float)(sum == 0 ? -INFINITY : max + log(sum));
    }
  return 0;
}

static int plain_backward(struct attn_plan *plan, const struct attn_args *a) {
  const struct attn_problem *p = &plan->problem;
  const struct plain *st = plan->state;
  const float *q = a->q, *k = a->k, *v = a->v, *o = a->o, *d_o = a->d_o;
  float *dq = a->accumulate ? a->dq_acc : a->dq, *dk = a->accumulate ? a->dk_acc : a->dk;
  float *dv = a->accumulate ? a->dv_acc : a->dv;
  const size_t nq = (size_t)p->rows_q * (size_t)p->heads_q * DIM,
               nk = (size_t)p->rows_k * (size_t)p->heads_kv * DIM;
  if (!a->accumulate)
    memset(dq, 0, 4 * nq), memset(dk, 0, 4 * nk), memset(dv, 0, 4 * nk);
  for (int h = 0; h < p->heads_q; h++)
    for (int32_t r = 0; r < p->rows_q; r++) {
      if (st->pos_q[r] < 0)
        continue;
      const int kv = h / (p->heads_q / p->heads_kv);
      const int64_t at = ((int64_t)r * p->heads_q + h) * DIM;
      const double delta = dot(o + at, d_o + at), lse = a->lse[(int64_t)h * p->rows_q + r];
      for (int32_t j = 0; j < p->rows_k; j++) {
        const bool seen = h == 0 ? sees(plan, r, j, ATTN_BWD) : sees(plan, r, j, (enum attn_pass)2);
        if (!seen)
          continue;
        const int64_t key = ((int64_t)j * p->heads_kv + kv) * DIM;
        const double prob = exp(dot(q + at, k + key) / sqrt(DIM) - lse);
        const double ds = prob * (dot(d_o + at, v + key) - delta) / sqrt(DIM);
        for (int i = 0; i < DIM; i++) {
          dq[at + i] += (float)(ds * k[key + i]);
          dk[key + i] += (float)(ds * q[at + i]);
          dv[key + i] += (float)(prob * d_o[at + i]);
        }
      }
    }
  return 0;
}

static const struct attn_kernel plain = {.name = "plain",
                                         .rep = "none",
                                         .engine = "test",
                                         .place = ATTN_HOST,
                                         .prepare = plain_prepare,
                                         .forward = plain_forward,
                                         .backward = plain_backward,
                                         .release = plain_release};

static void note_painter(struct cp_plan *plan, struct run *run, enum attn_pass pass) {
  paints = plan->head == 0;
}

// ---- the matrix -----------------------------------------------------------------------------

static const enum mask_kind kinds[] = {MASK_FULL, MASK_CAUSAL, MASK_FULL_DOCUMENT_LONG,
                                       MASK_CAUSAL_DOCUMENT_LONG};
static const int all_ranks[] = {1, 2, 3, 4, 6, 8, 12, 16};
enum { KINDS = 4, RANKS = 8 };
static const int32_t lengths_main[] = {1, 2, 47, 1, 7, 3}; // one giant among tiny ones, 61 in all
static const int32_t lengths_tiny[] = {1, 4};              // fewer tokens than ranks

static void fail_case(const struct run *run, int ranks, const char *what) {
  print_message("%s, %s, %d ranks, S=%d, heads %d:%d: %s\n", run->schedule->name,
                mask_name(run->whole->mask.kind), ranks, run->whole->mask.seqlen,
                run->whole->heads_q, run->whole->heads_kv, what);
  fail();
}

static void check_painted(const struct run *run, int ranks) {
  const struct mask *m = &run->whole->mask;
  for (int pass = 0; pass < 2; pass++)
    for (int32_t q = 0; q < m->seqlen; q++)
      for (int32_t k = 0; k < m->seqlen; k++)
        if (painted[pass][(int64_t)q * m->seqlen + k] != mask_allows(m, 0, q, k)) {
          char text[128];
          snprintf(text, sizeof text, "%s: pair (%d, %d) was computed %d times",
                   pass ? "bwd" : "fwd", q, k, painted[pass][(int64_t)q * m->seqlen + k]);
          fail_case(run, ranks, text);
        }
}

// Runs, and returns the worst error; NaN counts. -1: refused.
static double run_case(struct run *run, int ranks, const char **tensor) {
  const struct attn_problem p = whole_problem(run->whole);
  struct cp_grid grid;
  if (cp_why_not(run->schedule, run->kernel, &p, ranks, &run->wish, &grid))
    return -1;
  const bool counts = run->kernel == &plain;
  const size_t cells = (size_t)p.mask->seqlen * (size_t)p.mask->seqlen;
  painted_seqlen = p.mask->seqlen;
  for (int i = 0; counts && i < 2; i++)
    painted[i] = calloc(1, cells);
  run->planned = run->planned ? run->planned : note_painter;
  run->bytes_max = 0;
  outputs_make(&run->out, run->whole);
  if (cp_loopback.run(ranks, 20, run_body, run))
    fail_case(run, ranks, attn_error());
  const double error = worst_error(run, tensor);
  if (counts && !run->mutation)
    check_painted(run, ranks);
  outputs_free(&run->out);
  for (int i = 0; counts && i < 2; i++)
    free(painted[i]);
  return error;
}

// All schedules with these heads; how many ran.
static int check_all(const struct whole *w, const struct attn_kernel *kernel, const int *ranks,
                     int n_ranks, double limit, double *worst) {
  int ran = 0;
  for (int i = 0; cp_schedules[i]; i++)
    for (int r = 0; r < n_ranks; r++) {
      struct run run = {.whole = w, .schedule = cp_schedules[i], .kernel = kernel};
      const char *tensor = "";
      const double error = run_case(&run, ranks[r], &tensor);
      if (error == -1)
        continue;
      ran++;
      *worst = error > *worst ? error : *worst;
      if (!(error <= limit)) {
        char text[96];
        snprintf(text, sizeof text, "%s: %s is off by %.3g (relative)", kernel->name, tensor,
                 error);
        fail_case(&run, ranks[r], text);
      }
    }
  return ran;
}

static void every_schedule(int32_t heads_q, int32_t heads_kv) {
  double worst = 0;
  int ran = 0;
  for (int i = 0; i < KINDS; i++) {
    struct whole w;
    assert_int_equal(0, whole_make(&w, kinds[i], lengths_main, 6, heads_q, heads_kv, ATTN_FP32));
    ran += check_all(&w, &plain, all_ranks, RANKS, LIMIT, &worst);
    whole_free(&w);
  }
  print_message("heads %d:%d: %d cases, worst error %.2g\n", heads_q, heads_kv, ran, worst);
  assert_true(ran > 100);
}

static void test_heads_8_8(void **state) { every_schedule(8, 8); }
static void test_heads_8_2(void **state) { every_schedule(8, 2); }
static void test_heads_8_1(void **state) { every_schedule(8, 1); }
// Splits that powers of two hide: 12:3 over 3, 6 and 12 ranks, the last two with copies of KV heads.
static void test_heads_12_3(void **state) { every_schedule(12, 3); }

static void test_fewer_tokens_than_ranks(void **state) {
  static const int ranks[] = {6, 8, 16};
  for (int i = 0; i < KINDS; i++) {
    struct whole w;
    double worst = 0;
    assert_int_equal(0, whole_make(&w, kinds[i], lengths_tiny, 2, 16, 4, ATTN_FP32));
    assert_true(check_all(&w, &plain, ranks, 3, LIMIT, &worst) >= 15);
    whole_free(&w);
  }
}

// The masks that the study's strategies do not take: here a schedule asks only by position.
static void test_other_masks(void **state) {
  static const int ranks[] = {3, 4};
  for (int kind = 0; kind < MASK_KINDS; kind++) {
    struct whole w;
    double worst = 0;
    if (mask_is_block_sparse((enum mask_kind)kind) || kind == MASK_BLOCK_CAUSAL_DOCUMENT)
      continue;
    assert_int_equal(0, whole_make(&w, (enum mask_kind)kind, lengths_main, 6, 4, 2, ATTN_FP32));
    assert_true(check_all(&w, &plain, ranks, 2, LIMIT, &worst) >= 10);
    whole_free(&w);
  }
}

static void test_cpu_engine(void **state) {
  static const int32_t lengths[] = {129, 1, 17, 127, 3};
  static const int ranks[] = {2, 3, 4};
  static const char *const kernels[] = {"fa2", "flashmask", "sdpa"};
  double worst = 0;
  int ran = 0;
  for (int i = 0; i < KINDS; i++)
    for (int k = 0; k < 3; k++) {
      struct whole w;
      assert_int_equal(0, whole_make(&w, kinds[i], lengths, 5, 4, 2, ATTN_FP32));
      ran += check_all(&w, attn_find(kernels[k], ATTN_HOST), ranks, k ? 2 : 3, LIMIT, &worst);
      whole_free(&w);
    }
  print_message("CPU engine: %d cases, worst error %.2g\n", ran, worst);
  assert_true(ran > 100);
}

// bf16 with fp32 partial results: the error does not grow with the ranks.
static void test_bf16_error_does_not_grow(void **state) {
  static const int32_t lengths[] = {129, 1, 17, 127, 3};
  struct whole w;
  assert_int_equal(0, whole_make(&w, MASK_CAUSAL, lengths, 5, 4, 2, ATTN_BF16));
  for (int i = 0; cp_schedules[i]; i++) {
    double one = 0;
    for (int ranks = 1; ranks <= 8; ranks *= 2) {
      struct run run = {
          .whole = &w, .schedule = cp_schedules[i], .kernel = attn_find("fa2", ATTN_HOST)};
      const char *tensor = "";
      const double error = run_case(&run, ranks, &tensor);
      if (error == -1)
        continue;
      if (ranks == 1)
        one = error;
      if (!(error <= 1.5 * one)) {
        char text[96];
        snprintf(text, sizeof text, "%s is off by %.3g, on one rank by %.3g", tensor, error, one);
        fail_case(&run, ranks, text);
      }
    }
  }
  whole_free(&w);
}

// Shapes given by hand: every split of 8 and of 12 ranks, and every number of windows.
static void test_shapes(void **state) {
  struct whole w;
  assert_int_equal(0, whole_make(&w, MASK_CAUSAL_DOCUMENT_LONG, lengths_main, 6, 12, 4, ATTN_FP32));
  static const char *const names[] = {"usp:2x4",
                                      "usp:4x2",
                                      "usp_context_first:2x4",
                                      "usp:12x1",
                                      "usp:1x12",
                                      "loongtrain:1x8x1",
                                      "loongtrain:1x8x2",
                                      "loongtrain:1x8x4",
                                      "loongtrain:1x8x8",
                                      "loongtrain:1x12x3",
                                      "loongtrain:1x12x4",
                                      "loongtrain:2x6x6",
                                      "loongtrain_context_first:2x6x2",
                                      "loongtrain_context_first:2x6x3"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    struct run run = {.whole = &w, .kernel = &plain};
    run.schedule = cp_schedule_find(names[i], &run.wish);
    assert_non_null(run.schedule);
    const char *tensor = "";
    const double error = run_case(&run, run.wish.heads * run.wish.context, &tensor);
    if (!(error >= 0 && error <= LIMIT)) {
      print_message("%s: %s off by %g\n", names[i], tensor, error);
      fail();
    }
  }
  whole_free(&w);
}

// Kernel plans made when they are called give the same bits.
static void test_late_plans(void **state) {
  struct whole w;
  assert_int_equal(0, whole_make(&w, MASK_CAUSAL, lengths_main, 6, 4, 2, ATTN_FP32));
  struct run run = {.whole = &w,
                    .schedule = cp_schedules[1],
                    .kernel = attn_find("fa2", ATTN_HOST),
                    .wish = {.keep_bytes = 1}};
  const char *tensor = "";
  assert_true(run_case(&run, 4, &tensor) <= LIMIT);
  whole_free(&w);
}

// ---- plans ----------------------------------------------------------------------------------

static void test_refusals(void **state) {
  struct whole w;
  assert_int_equal(0, whole_make(&w, MASK_CAUSAL, lengths_main, 6, 8, 2, ATTN_FP32));
  struct attn_problem p = whole_problem(&w);
  p.heads_q = 64;
  p.heads_kv = 8;
  struct cp_grid grid;
  struct cp_wish wish;
  const struct cp_schedule *ulysses = cp_schedule_find("ulysses", &wish);
  assert_string_equal("64 query heads cannot be split over 96 ranks",
                      cp_why_not(ulysses, &plain, &p, 96, NULL, &grid));
  assert_null(cp_why_not(ulysses, &plain, &p, 64, NULL, &grid));
  const struct cp_schedule *usp = cp_schedule_find("usp:4x2", &wish);
  assert_non_null(cp_why_not(usp, &plain, &p, 6, &wish, &grid));
  assert_null(cp_why_not(usp, &plain, &p, 96, NULL, &grid));
  assert_int_equal(8, grid.heads);
  const struct cp_schedule *loongtrain = cp_schedule_find("loongtrain:8x12x5", &wish);
  assert_string_equal("a ring of 12 ranks cannot be cut into 5 windows",
                      cp_why_not(loongtrain, &plain, &p, 96, &wish, &grid));
  assert_null(cp_why_not(loongtrain, &plain, &p, 96, NULL, &grid));
  assert_int_equal(3, grid.windows);
  assert_null(cp_schedule_find("uspx", &wish));
  assert_null(cp_schedule_find("usp:2x", &wish));
  assert_null(cp_schedule_find("usp:2x2x2x2", &wish));
  assert_null(cp_schedule_find("usp:0x4", &wish));
  whole_free(&w);
}

// Most over mean work of the study's own draws, 1K tokens a rank.
static void test_balance(void **state) {
  int32_t lengths[256];
  for (int ranks = 2; ranks <= 16; ranks *= 2)
    for (int i = 0; i < KINDS; i++) {
      uint32_t random = 12345;
      int32_t docs = 0, left = 1024 * ranks;
      for (; left > 0; left -= lengths[docs++]) { // mostly short, some long
        random = random * 1664525u + 1013904223u;
        const int32_t most = docs % 8 == 3 ? 3000 : 150;
        lengths[docs] = 1 + (int32_t)(random >> 8) % most;
        lengths[docs] = lengths[docs] < left ? lengths[docs] : left;
      }
      struct mask m;
      assert_int_equal(0, mask_init(&m, kinds[i], 1024 * ranks, i > 1 ? lengths : NULL,
                                    i > 1 ? docs : 0, 0, 0, 0, NULL, 0));
      const struct cp_grid grid = {.heads = 1, .context = ranks, .windows = 1};
      struct cp_shard s;
      assert_int_equal(0, cp_shard_init(&s, &m, &grid));
      double area = 0;
      for (int r = 0; r < ranks; r++)
        area += cp_shard_work(&s, &m, r);
      const double balance = cp_shard_balance(&s, &m), padding = (double)s.rows * ranks / m.seqlen;
      print_message("balance %-20s %2d ranks: %.4f, padded rows %.3f\n", mask_name(kinds[i]), ranks,
                    balance, padding);
      assert_true(fabs(area - mask_area(&m)) < 0.5);
      assert_true(balance <= 1.02);
      assert_true(padding <= 1.25);
      cp_shard_free(&s);
      mask_free(&m);
    }
}

// With as many tokens a rank, buffers do not grow with the ranks.
static void test_memory_does_not_grow(void **state) {
  static const char *const names[] = {"ring_p2p", "usp:2x2", "usp:2x8", "loongtrain:1x4x2",
                                      "loongtrain:1x16x4"};
  int64_t bytes[5];
  for (int i = 0; i < 5; i++) {
    struct run run = {.kernel = &plain};
    run.schedule = cp_schedule_find(names[i], &run.wish);
    const int ranks = i == 0 ? 4 : run.wish.heads * run.wish.context;
    const int32_t length = 16 * ranks;
    struct whole w;
    assert_int_equal(0, whole_make(&w, MASK_CAUSAL, &length, 1, 4, 2, ATTN_FP32));
    run.whole = &w;
    const char *tensor = "";
    assert_true(run_case(&run, ranks, &tensor) <= LIMIT);
    bytes[i] = run.bytes_max;
    whole_free(&w);
  }
  assert_true(bytes[0] > 0);
  assert_int_equal(bytes[1], bytes[2]);
  assert_int_equal(bytes[3], bytes[4]);
}

// ---- faults ---------------------------------------------------------------------------------

static int sleeps(struct cp_comm *comm, void *context) {
  if (comm->rank == 2)
    usleep(600000);
  return comm->transport->barrier(comm);
}

static int stops(struct cp_comm *comm, void *context) {
  if (comm->rank != 1)
    return comm->transport->barrier(comm);
  attn_error_set(false, "no more ink");
  return -1;
}

static int ungrouped(struct cp_comm *comm, void *context) { // send, then receive: a cycle
  char byte = 0, in;
  const struct cp_op send = {true, (comm->rank + 1) % comm->size, &byte, 1};
  const struct cp_op recv = {false, (comm->rank + comm->size - 1) % comm->size, &in, 1};
  const struct cp_transport *net = comm->transport;
  return net->post(comm, CP_KV, &send, 1) || net->wait(comm, CP_KV) ||
                 net->post(comm, CP_KV, &recv, 1) || net->wait(comm, CP_KV)
             ? -1
             : 0;
}

static int absent(struct cp_comm *comm,
                  void *context) { // ring of receives in which rank 3 does not send
  char byte = 0, in;
  const struct cp_op ops[] = {{true, (comm->rank + 1) % comm->size, &byte, 1},
                              {false, (comm->rank + comm->size - 1) % comm->size, &in, 1}};
  if (comm->rank == 3)
    usleep(700000);
  return comm->transport->post(comm, CP_KV, ops, 2) || comm->transport->wait(comm, CP_KV) ? -1 : 0;
}

static int misfits(struct cp_comm *comm, void *context) {
  char bytes[8] = {0}, in[8];
  const struct cp_op ops[] = {{true, 1 - comm->rank, bytes, comm->rank ? 4 : 8},
                              {false, 1 - comm->rank, in, 8}};
  return comm->transport->post(comm, CP_KV, ops, 2) || comm->transport->wait(comm, CP_KV) ? -1 : 0;
}

static void assert_error(int ranks, int (*body)(struct cp_comm *, void *), const char *text) {
  const double begin_us = timer_now_us();
  assert_int_equal(-1, cp_loopback.run(ranks, 0.25, body, NULL));
  if (!strstr(attn_error(), text)) {
    print_message("expected '%s' in: %s\n", text, attn_error());
    fail();
  }
  assert_true(timer_now_us() - begin_us < 5e6);
}

static void test_faults_end_and_name_the_rank(void **state) {
  assert_error(4, sleeps, "rank 2 is stuck");
  assert_error(4, stops, "rank 1: no more ink");
  assert_error(3, ungrouped, "ranks wait for one another");
  assert_error(5, absent, "rank 3 is stuck");
  assert_error(2, misfits, "which sends 4");
}

// ---- mutations: what must not go unnoticed --------------------------------------------------

static int scratch_post(struct cp_comm *comm, enum cp_channel channel, const struct cp_op *ops,
                        int n) {
  static _Thread_local char scratch[1 << 20];
  static _Thread_local int grads;
  struct cp_op changed[CP_GROUP_MAX];
  memcpy(changed, ops, (size_t)n * sizeof *ops);
  grads += channel == CP_GRAD;
  for (int i = 0; i < n; i++) {
    const bool stale = mutation == STALE_KV && channel == CP_KV;
    const bool lost = mutation == WRONG_RETURN && channel == CP_GRAD && grads == comm->size;
    if (!ops[i].send && (stale || lost)) // arrives, but not where it is read
      changed[i].data = scratch;
  }
  if (mutation == HOP_SKIPPED && channel == CP_KV) // the neighbour after the next
    for (int i = 0; i < n; i++)
      changed[i].peer = (ops[i].peer + (ops[i].send ? 1 : comm->size - 1)) % comm->size;
  return cp_loopback.post(comm, channel, changed, n);
}

static int add_nothing(float *sum, const float *x, int64_t n, void *stream) { return 0; }

static void mutate(struct cp_comm *comm, struct run *run) {
  static _Thread_local struct cp_transport transport;
  static _Thread_local struct cp_memory memory;
  transport = *comm->transport;
  transport.post = scratch_post;
  comm->transport = &transport;
  if (mutation == COPIES_NOT_SUMMED) {
    memory = *comm->memory;
    memory.add = add_nothing;
    comm->memory = &memory;
  }
}

static void test_mutations_are_caught(void **state) {
  static const struct {
    int mutation;
    const char *schedule;
    int ranks;
  } list[] = {{STALE_KV, "ring_p2p", 4},
              {WRONG_RETURN, "ring_p2p", 4},
              {HOP_SKIPPED, "ring_p2p", 3},
              {PAD_IS_REAL, "ring_p2p", 4},
              {PAD_IS_REAL, "loongtrain:1x4x2", 4},
              {PAD_IS_REAL, "ring_allgather", 4},
              {COPIES_NOT_SUMMED, "ulysses", 4},
              {STALE_KV, "loongtrain:2x4x2", 8}};
  struct whole w;
  assert_int_equal(0, whole_make(&w, MASK_CAUSAL_DOCUMENT_LONG, lengths_main, 6, 8, 2, ATTN_FP32));
  for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
    struct run run = {
        .whole = &w, .kernel = &plain, .before = mutate, .mutation = list[i].mutation};
    run.schedule = cp_schedule_find(list[i].schedule, &run.wish);
    const char *tensor = "";
    mutation = NO_MUTATION;
    const double sound = run_case(&run, list[i].ranks, &tensor);
    mutation = list[i].mutation;
    const double error = run_case(&run, list[i].ranks, &tensor);
    mutation = NO_MUTATION;
    if (!(sound <= LIMIT) || error <= LIMIT) {
      print_message("mutation %d of %s: error %g, without it %g\n", list[i].mutation,
                    list[i].schedule, error, sound);
      fail();
    }
  }
  whole_free(&w);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_refusals),
      cmocka_unit_test(test_balance),
      cmocka_unit_test(test_heads_8_8),
      cmocka_unit_test(test_heads_8_2),
      cmocka_unit_test(test_heads_8_1),
      cmocka_unit_test(test_heads_12_3),
      cmocka_unit_test(test_fewer_tokens_than_ranks),
      cmocka_unit_test(test_other_masks),
      cmocka_unit_test(test_shapes),
      cmocka_unit_test(test_cpu_engine),
      cmocka_unit_test(test_bf16_error_does_not_grow),
      cmocka_unit_test(test_late_plans),
      cmocka_unit_test(test_memory_does_not_grow),
      cmocka_unit_test(test_faults_end_and_name_the_rank),
      cmocka_unit_test(test_mutations_are_caught),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
