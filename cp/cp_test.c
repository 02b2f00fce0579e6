// cp_test.c -- every schedule on the loopback transport against the double reference; what is refused; how
// tokens and memory are shared out. Most cases run the plain kernel of cp_test_kernel.h, some the CPU engine.
// clang-format off
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
// clang-format on
#include <malloc.h>

#include "../src/mask_draw.h"
#include "cp_test_kernel.h"

// ---- the matrix -----------------------------------------------------------------------------

static const enum mask_kind kinds[] = {MASK_FULL, MASK_CAUSAL, MASK_FULL_DOCUMENT_LONG,
                                       MASK_CAUSAL_DOCUMENT_LONG};
static const int all_ranks[] = {1, 2, 3, 4, 6, 8, 12, 16};
enum { KINDS = 4, RANKS = 8 };
static const int32_t lengths_tiny[] = {1, 4}; // fewer tokens than ranks

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

// The masks that the study's strategies do not take: here a schedule asks only by position, and their rows
// may be cut in slices.
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

// Results do not depend on where rows are cut.
static void test_cuts(void **state) {
  static const int ranks[] = {2, 3, 4};
  static const char *const schedules[] = {"ring_p2p", "ring_allgather", "usp:2x2",
                                          "loongtrain:1x4x2"};
  int ran = 0;
  for (int kind = 0; kind < MASK_KINDS; kind++) {
    struct whole w;
    if (mask_is_block_sparse((enum mask_kind)kind) || kind == MASK_BLOCK_CAUSAL_DOCUMENT)
      continue;
    assert_int_equal(0, whole_make(&w, (enum mask_kind)kind, lengths_main, 6, 4, 2, ATTN_FP32));
    for (int i = 0; i < 4; i++)
      for (int cut = 0; cut < CP_CUTS; cut++)
        for (int r = 0; r < 3; r++) {
          char name[64];
          const char *tensor = "";
          snprintf(name, sizeof name, "%s:%s", schedules[i], cp_cut_names[cut]);
          struct run run = {.whole = &w, .kernel = &plain};
          run.schedule = cp_schedule_find(name, &run.wish);
          const double error = run_case(&run, ranks[r], &tensor);
          if (error == -1)
            continue;
          if (!(error <= LIMIT))
            fail_case(&run, ranks[r], tensor);
          ran++;
        }
    whole_free(&w);
  }
  assert_true(ran > 300);
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

static const char *wants_whole_tiles(const struct attn_kernel *kernel,
                                     const struct attn_problem *p) {
  for (int i = 0; p->q_seg && i < p->q_segs; i++)
    if (p->q_seg[i].row % 64)
      return "query segments begin at multiples of 64 rows";
  return NULL;
}

static const char *wants_one_piece(const struct attn_kernel *kernel, const struct attn_problem *p) {
  return p->q_segs > 1 ? "one segment of queries" : NULL;
}

// Who needs pieces at multiples of 64 rows gets them; who cannot be helped is refused.
static void test_kernels_that_want_a_layout(void **state) {
  static const char *const names[] = {"ring_p2p", "ring_allgather", "usp:2x2", "loongtrain:1x4x2"};
  struct attn_kernel aligned = plain, whole = plain;
  aligned.supports = wants_whole_tiles;
  whole.supports = wants_one_piece;
  for (int m = 0; m < KINDS; m++) {
    struct whole w;
    assert_int_equal(0, whole_make(&w, kinds[m], lengths_main, 6, 4, 2, ATTN_FP32));
    for (int i = 0; i < 4; i++) {
      struct run run = {.whole = &w, .kernel = &aligned};
      run.schedule = cp_schedule_find(names[i], &run.wish);
      const char *tensor = "";
      const double error = run_case(&run, 4, &tensor);
      if (!(error >= 0 && error <= LIMIT)) // -1: refused
        fail_case(&run, 4, tensor);
      run.kernel = &whole;
      assert_true(run_case(&run, 4, &tensor) == -1);
    }
    whole_free(&w);
  }
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
  assert_null(cp_schedule_find("usp:", &wish));
  assert_null(cp_schedule_find("usp:2x2:slice", &wish));
  assert_non_null(cp_schedule_find("usp:2x3:slices", &wish));
  assert_int_equal(wish.heads * 10 + wish.context, 23);
  assert_int_equal(wish.cut, CP_CUT_SLICES);
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

// Slices balance every mask, but for rows that cannot be halved: a rank may have two of the longest more. So
// do chunks, but for the dearest.
static void test_every_mask_balances(void **state) {
  for (int kind = 0; kind < MASK_KINDS; kind++)
    for (int ranks = 2; ranks <= 64; ranks *= 2) {
      const struct mask_recipe recipe = {
          .kind = (enum mask_kind)kind, .seqlen = 2048 * ranks, .distributed = true, .heads_kv = 1};
      struct mask m;
      double balance[CP_CUTS];
      enum cp_cut chosen = CP_CUT_AUTO;
      if (mask_is_block_sparse((enum mask_kind)kind))
        continue;
      assert_int_equal(0, mask_draw_nth(&m, 42, 0, &recipe, NULL, 0));
      for (int cut = 0; cut < CP_CUTS; cut++) {
        const struct cp_grid grid = {
            .heads = 1, .context = ranks, .windows = 1, .cut = (enum cp_cut)cut};
        struct cp_shard s;
        assert_int_equal(0, cp_shard_init(&s, &m, &grid));
        balance[cut] = cp_shard_balance(&s, &m);
        chosen = cut == CP_CUT_AUTO ? s.cut : chosen;
        assert_true(s.tokens_max <= s.context_rows);
        assert_true(s.cut != CP_CUT_CHUNKS || s.context_rows <= 2048 + 8);
        cp_shard_free(&s);
      }
      print_message("balance %-24s %2d ranks:", mask_name((enum mask_kind)kind), ranks);
      for (int cut = CP_CUT_CONTIGUOUS; cut < CP_CUTS; cut++)
        print_message(" %s %.3f", cp_cut_names[cut], balance[cut]);
      print_message(", takes %s\n", cp_cut_names[chosen]);
      const double row = (double)m.seqlen * ranks / mask_area(&m); // the longest that one may be
      assert_true(balance[CP_CUT_SLICES] <= 1.01 + 2 * row);
      assert_true(balance[CP_CUT_CHUNKS] <= 1.01 + 256 * row);
      assert_true(balance[CP_CUT_AUTO] == balance[chosen]);
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

// All that a plan holds: rank 0's by its account, and by the heap the mean.
struct held {
  const struct mask *mask;
  const char *schedule;
  int64_t account, heap;
};

static int held_body(struct cp_comm *comm, void *context) {
  struct held *h = context;
  struct cp_wish wish;
  const struct cp_schedule *schedule = cp_schedule_find(h->schedule, &wish);
  const struct attn_problem p = {.mask = h->mask,
                                 .dtype = ATTN_FP32,
                                 .heads_q = 4,
                                 .heads_kv = 2,
                                 .dim = DIM,
                                 .backward = true};
  struct cp_plan plan;
  const struct cp_transport *net = comm->transport;
  const struct mallinfo2 before = mallinfo2();
  if (net->barrier(comm) ||
      cp_plan_init(&plan, schedule, &wish, attn_find("fa2", ATTN_HOST), &p, comm) ||
      net->barrier(comm))
    return -1;
  const struct mallinfo2 after = mallinfo2();
  if (comm->rank == 0) {
    h->account = plan.bytes + plan.kernel_bytes;
    h->heap = (int64_t)(after.uordblks + after.hblkhd - before.uordblks - before.hblkhd);
    h->heap /= comm->size;
  }
  const int status = net->barrier(comm);
  cp_plan_release(&plan);
  return status;
}

// A ring's steps share their workspaces and the representation: of 512 tokens a rank the lists of another
// step are all that is added, under 2 KiB on the CPU engine, to 4 MiB and more.
static void test_plans_do_not_grow(void **state) {
  static const char *const names[] = {"ring_p2p", "usp:2x%d", "loongtrain:1x%dx2"};
  for (int i = 0; i < 3; i++) {
    struct held held, first = {0};
    for (int ranks = i ? 4 : 2; ranks <= 16; ranks *= 2) {
      char name[32], err[256];
      struct mask mask;
      snprintf(name, sizeof name, names[i], i == 1 ? ranks / 2 : ranks);
      assert_int_equal(0, mask_init(&mask, MASK_CAUSAL, 512 * ranks, NULL, 0, 0, 0, 0, err, 256));
      held = (struct held){.mask = &mask, .schedule = name};
      assert_int_equal(0, cp_loopback.run(ranks, 20, held_body, &held));
      mask_free(&mask);
      print_message("%s: %lld bytes a rank, by the heap %lld\n", name, (long long)held.account,
                    (long long)held.heap);
      first = first.account ? first : held;
      const int64_t lists = 2048 * ranks;
      assert_true(held.account > 4 << 20 && held.account < first.account + lists);
#ifndef __SANITIZE_ADDRESS__ // whose heap mallinfo2 does not know
      assert_true(llabs(held.heap - held.account) < lists);
#endif
    }
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_refusals),
      cmocka_unit_test(test_balance),
      cmocka_unit_test(test_every_mask_balances),
      cmocka_unit_test(test_cuts),
      cmocka_unit_test(test_heads_8_8),
      cmocka_unit_test(test_heads_8_2),
      cmocka_unit_test(test_heads_8_1),
      cmocka_unit_test(test_heads_12_3),
      cmocka_unit_test(test_fewer_tokens_than_ranks),
      cmocka_unit_test(test_other_masks),
      cmocka_unit_test(test_shapes),
      cmocka_unit_test(test_cpu_engine),
      cmocka_unit_test(test_bf16_error_does_not_grow),
      cmocka_unit_test(test_kernels_that_want_a_layout),
      cmocka_unit_test(test_late_plans),
      cmocka_unit_test(test_memory_does_not_grow),
      cmocka_unit_test(test_plans_do_not_grow),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
