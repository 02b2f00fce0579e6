// cp_test.c -- every schedule on the loopback transport against the double reference. Most cases run the plain
// kernel of cp_test_kernel.h, some the CPU engine.
// clang-format off
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
// clang-format on
#include "../src/mask_draw.h"
#include "cp_test_kernel.h"

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

// How many numbers of pieces above one these heads take on so many ranks.
static int check_pieces(const struct whole *w, const char *schedule, int ranks, bool forward_only) {
  int ran = 0;
  for (int pieces = 1; pieces <= 6; pieces++) {
    struct run run = {.whole = w, .kernel = &plain, .forward_only = forward_only};
    const char *tensor = "";
    char name[64];
    snprintf(name, sizeof name, "%s:%dpieces", schedule, pieces);
    run.schedule = cp_schedule_find(name, &run.wish);
    const double error = run_case(&run, ranks, &tensor);
    if (error == -1)
      continue;
    if (!(error <= LIMIT)) {
      print_message("%s: %s is off by %g\n", name, tensor, error);
      fail_case(&run, ranks, "pieces");
    }
    ran += pieces > 1;
  }
  return ran;
}

// Whole KV heads; without backward, and without a ring, parts of one too.
static void test_pieces(void **state) {
  static const char *const schedules[] = {"ulysses", "usp", "loongtrain:2x4x2", "loongtrain:2x2x2",
                                          "loongtrain_context_first"};
  static const int32_t heads[][2] = {{8, 8}, {8, 2}, {8, 1}, {12, 3}, {48, 4}, {48, 48}};
  int ran[2] = {0};
  for (int h = 0; h < 6; h++) {
    struct whole w;
    assert_int_equal(0, whole_make(&w, h % 2 ? MASK_CAUSAL : MASK_CAUSAL_DOCUMENT_LONG,
                                   lengths_main, 6, heads[h][0], heads[h][1], ATTN_FP32));
    for (int s = 0; s < 5; s++)
      for (int r = 0; r < RANKS; r++)
        for (int forward_only = 0; forward_only < 2; forward_only++)
          ran[forward_only] += check_pieces(&w, schedules[s], all_ranks[r], forward_only);
    whole_free(&w);
  }
  print_message("%d cases in pieces, %d without backward\n", ran[0], ran[1]);
  assert_true(ran[0] >= 60 && ran[1] >= 100);
}

// Any number of blocks in a call, groups that are not full, windows of several groups; with and without backward, whose
// steps are others then.
static void test_blocks(void **state) {
  static const char *const schedules[] = {"ring_p2p", "usp:2x6", "usp:2x3:2pieces",
                                          "loongtrain:1x12x2", "loongtrain:2x8x2"};
  int ran = 0;
  for (int m = 0; m < KINDS; m++) {
    struct whole w;
    assert_int_equal(0, whole_make(&w, kinds[m], lengths_main, 6, 8, 4, ATTN_FP32));
    for (int s = 0; s < 5; s++)
      for (int r = 0; r < RANKS; r++)
        for (int blocks = 1; blocks <= 8; blocks += blocks < 4 ? 1 : 2) {
          char name[64];
          const char *tensor = "";
          snprintf(name, sizeof name, "%s:%dblocks", schedules[s], blocks);
          struct run run = {.whole = &w, .kernel = &plain, .forward_only = blocks % 2};
          run.schedule = cp_schedule_find(name, &run.wish);
          const double error = run_case(&run, all_ranks[r], &tensor);
          if (error == -1)
            continue;
          if (!(error <= LIMIT)) {
            print_message("%s: %s is off by %g\n", name, tensor, error);
            fail_case(&run, all_ranks[r], "blocks");
          }
          ran++;
        }
    whole_free(&w);
  }
  print_message("%d cases in blocks\n", ran);
  assert_true(ran > 200);
}

// Kernels that read Q of its owners and write O there; how many such cases there were.
static int check_direct(const struct whole *w, const char *schedule, int ranks,
                        const struct attn_kernel *kernel, bool unmapped) {
  struct run run = {.whole = w, .kernel = kernel, .forward_only = true, .unmapped = unmapped};
  const char *tensor = "";
  run.schedule = cp_schedule_find(schedule, &run.wish);
  const double error = run_case(&run, ranks, &tensor);
  if (error == -1)
    return 0;
  if (!(error <= LIMIT))
    fail_case(&run, ranks, tensor);
  if (run.direct && (run.wish.exchange || run.pieces != 1))
    fail_case(&run, ranks, "not what was asked for");
  return run.direct;
}

// Wherever heads are split over 2 to 8 ranks, with one engine's kernel and the plain one; not where the exchange is
// asked for. Tensors that the plan does not know are exchanged.
static void test_direct(void **state) {
  static const char *const schedules[] = {"ulysses", "usp", "loongtrain:2x4x2", "usp_context_first",
                                          "usp:2x2:chunks"};
  static const int32_t heads[][2] = {{8, 8}, {8, 2}, {8, 1}, {12, 3}};
  int ran = 0, exchanged = 0;
  for (int h = 0; h < 4; h++) {
    struct whole w;
    assert_int_equal(0, whole_make(&w, h % 2 ? MASK_CAUSAL : MASK_CAUSAL_DOCUMENT_LONG,
                                   lengths_main, 6, heads[h][0], heads[h][1], ATTN_FP32));
    for (int r = 0; r < RANKS; r++) {
      for (int s = 0; s < 5; s++)
        for (int k = 0; k < 2; k++)
          ran += check_direct(&w, schedules[s], all_ranks[r],
                              k ? attn_find("fa2", ATTN_HOST) : &plain, false);
      ran += check_direct(&w, "ulysses", all_ranks[r], &plain, true);
      exchanged += check_direct(&w, "ulysses:exchange", all_ranks[r], &plain, false);
    }
    whole_free(&w);
  }
  print_message("%d direct cases\n", ran);
  assert_true(ran >= 100);
  assert_int_equal(0, exchanged);
}

// More operations than a group takes.
static int exchange_much(struct cp_comm *comm, void *context) {
  enum { SETS = 3, RANKS_HERE = 48 };
  int peers[RANKS_HERE], send[SETS][RANKS_HERE], recv[SETS][RANKS_HERE] = {0}, wrong = 0;
  struct cp_blocks sets[SETS];
  for (int s = 0; s < SETS; s++) {
    sets[s] = (struct cp_blocks){send[s], recv[s], sizeof(int)};
    for (int r = 0; r < RANKS_HERE; r++) {
      peers[r] = r;
      send[s][r] = 1 + (s * RANKS_HERE + comm->rank) * RANKS_HERE + r;
    }
  }
  if (cp_all_to_all(comm, CP_HEADS, peers, RANKS_HERE, sets, SETS) ||
      comm->transport->wait(comm, CP_HEADS))
    return -1;
  for (int s = 0; s < SETS; s++)
    for (int r = 0; r < RANKS_HERE; r++) {
      const int want = r == comm->rank ? 0 : 1 + (s * RANKS_HERE + r) * RANKS_HERE + comm->rank;
      wrong += recv[s][r] != want;
    }
  if (!wrong)
    return 0;
  attn_error_set(false, "%d blocks are wrong", wrong);
  return -1;
}

static void test_all_to_all_in_groups(void **state) {
  if (cp_loopback.run(48, 20, exchange_much, NULL)) {
    print_message("%s\n", attn_error());
    fail();
  }
}

static const char *wants_one_piece(const struct attn_kernel *kernel, const struct attn_problem *p) {
  return p->q_segs > 1 ? "one segment of queries" : NULL;
}

// What a kernel says to the pieces that a rank would have is what the schedule says to the whole.
static void test_kernels_that_take_no_pieces(void **state) {
  static const char *const names[] = {"ring_p2p", "ring_allgather", "usp:2x2", "loongtrain:1x4x2"};
  struct attn_kernel whole_only = plain;
  whole_only.supports = wants_one_piece;
  struct whole w;
  assert_int_equal(0, whole_make(&w, MASK_CAUSAL, lengths_main, 6, 4, 2, ATTN_FP32));
  const struct attn_problem p = whole_problem(&w);
  for (int i = 0; i < 4; i++) {
    struct cp_wish wish;
    struct cp_grid grid;
    const struct cp_schedule *schedule = cp_schedule_find(names[i], &wish);
    assert_null(cp_why_not(schedule, &plain, &p, 4, &wish, &grid));
    const char *why = cp_why_not(schedule, &whole_only, &p, 4, &wish, &grid);
    assert_non_null(why);
    assert_string_equal("one segment of queries", why);
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

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_cuts),
      cmocka_unit_test(test_heads_8_8),
      cmocka_unit_test(test_heads_8_2),
      cmocka_unit_test(test_heads_8_1),
      cmocka_unit_test(test_heads_12_3),
      cmocka_unit_test(test_fewer_tokens_than_ranks),
      cmocka_unit_test(test_other_masks),
      cmocka_unit_test(test_shapes),
      cmocka_unit_test(test_pieces),
      cmocka_unit_test(test_blocks),
      cmocka_unit_test(test_direct),
      cmocka_unit_test(test_all_to_all_in_groups),
      cmocka_unit_test(test_cpu_engine),
      cmocka_unit_test(test_bf16_error_does_not_grow),
      cmocka_unit_test(test_kernels_that_take_no_pieces),
      cmocka_unit_test(test_late_plans),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
