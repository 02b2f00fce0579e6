// plan_test.c -- what is refused, and what a rank's plan holds: as much with more ranks.
// clang-format off
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
// clang-format on
#include <malloc.h>

#include "cp_test_kernel.h"

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
  assert_null(cp_schedule_find("ring_p2p:0blocks", &wish));
  assert_null(cp_schedule_find("ring_p2p:17blocks", &wish));
  assert_null(cp_schedule_find("ring_p2p:2blocksx", &wish));
  const struct cp_schedule *gathers = cp_schedule_find("ring_allgather:2blocks", &wish);
  assert_string_equal("ring_allgather has no ring whose blocks come 2 at a time",
                      cp_why_not(gathers, &plain, &p, 4, &wish, &grid));
  assert_non_null(cp_why_not(ulysses, &plain, &p, 4, &wish, &grid));
  whole_free(&w);
}

static const char *wants_whole_results(const struct attn_kernel *kernel,
                                       const struct attn_problem *p) {
  return p->merges ? "whole results" : NULL;
}

// A kernel hears before its first call whether its results are parts: of O in rings, of dK and dV also
// where all keys are gathered.
static void test_kernels_that_merge_nothing(void **state) {
  static const struct {
    const char *schedule;
    bool forward, backward; // refused
  } cases[] = {{"ulysses", false, false},       {"usp:4x1", false, false},
               {"ring_allgather", false, true}, {"ring_p2p", true, true},
               {"usp:2x2", true, true},         {"loongtrain:1x4x2", true, true}};
  struct attn_kernel whole_results = plain;
  whole_results.supports = wants_whole_results;
  struct whole w;
  assert_int_equal(0, whole_make(&w, MASK_CAUSAL, lengths_main, 6, 4, 4, ATTN_BF16));
  for (int i = 0; i < 12; i++) {
    struct cp_wish wish;
    struct cp_grid grid;
    struct attn_problem p = whole_problem(&w);
    p.backward = i % 2;
    const struct cp_schedule *schedule = cp_schedule_find(cases[i / 2].schedule, &wish);
    const bool refused = i % 2 ? cases[i / 2].backward : cases[i / 2].forward;
    const char *why = cp_why_not(schedule, &whole_results, &p, 4, &wish, &grid);
    assert_string_equal(refused ? "whole results" : "", why ? why : "");
#ifdef LONGCA_CUDA
    why = cp_why_not(schedule, attn_find("naive", ATTN_DEVICE), &p, 4, &wish, &grid);
    assert_int_equal(refused, why != NULL);
    assert_true(!why || strstr(why, "partial result"));
#endif
  }
  whole_free(&w);
}

// Of a call's blocks as many as wished, by default three, but no more than come round.
static void test_blocks_of_a_call(void **state) {
  static const struct {
    const char *schedule;
    int ranks, blocks, groups;
  } cases[] = {
      {"ring_p2p", 1, 1, 0},         {"ring_p2p", 2, 1, 1},         {"ring_p2p", 3, 2, 1},
      {"ring_p2p", 4, 3, 1},         {"ring_p2p", 8, 3, 3},         {"ring_p2p:1blocks", 8, 1, 7},
      {"ring_p2p:2blocks", 8, 2, 4}, {"ring_p2p:9blocks", 8, 7, 1}, {"usp:2x2", 4, 1, 1},
      {"usp:2x6:4blocks", 12, 4, 2}, {"loongtrain:1x8x2", 8, 3, 1}, {"loongtrain:1x4x4", 4, 1, 0},
      {"ulysses", 4, 1, 0},          {"ulysses:1blocks", 4, 1, 0}};
  struct whole w;
  assert_int_equal(0, whole_make(&w, MASK_CAUSAL, lengths_main, 6, 8, 4, ATTN_FP32));
  const struct attn_problem p = whole_problem(&w);
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    struct cp_wish wish;
    struct cp_grid grid;
    const struct cp_schedule *schedule = cp_schedule_find(cases[i].schedule, &wish);
    assert_null(cp_why_not(schedule, &plain, &p, cases[i].ranks, &wish, &grid));
    assert_int_equal(cases[i].blocks, grid.blocks);
    assert_int_equal(cases[i].groups, cp_grid_groups(&grid));
  }
  whole_free(&w);
}

// With as many tokens a rank, buffers do not grow with the ranks, once there are two groups of blocks.
static void test_memory_does_not_grow(void **state) {
  static const char *const names[] = {
      "usp:1x4",  "usp:2x4:1blocks",          "usp:2x8:1blocks",          "usp:2x7",
      "usp:2x12", "loongtrain:1x6x2:1blocks", "loongtrain:1x16x4:1blocks"};
  enum { NAMES = sizeof names / sizeof *names };
  int64_t bytes[NAMES];
  for (int i = 0; i < NAMES; i++) {
    struct run run = {.kernel = &plain};
    run.schedule = cp_schedule_find(names[i], &run.wish);
    const int ranks = run.wish.heads * run.wish.context;
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
  assert_int_equal(bytes[5], bytes[6]);
}

// All that a plan holds: rank 0's by its account, and by the heap the mean.
struct held {
  const struct mask *mask;
  const char *schedule;
  int64_t account, heap;
};

static int64_t heap_bytes(void) {
#ifdef __SANITIZE_ADDRESS__ // whose heap mallinfo2 does not know
  return 0;
#else
  const struct mallinfo2 heap = mallinfo2();
  return (int64_t)(heap.uordblks + heap.hblkhd);
#endif
}

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
  const int64_t before = comm->rank == 0 ? heap_bytes() : 0;
  if (net->barrier(comm) ||
      cp_plan_init(&plan, schedule, &wish, attn_find("fa2", ATTN_HOST), &p, comm) ||
      net->barrier(comm))
    return -1;
  if (comm->rank == 0) {
    h->account = plan.bytes + plan.kernel_bytes;
    h->heap = (heap_bytes() - before) / comm->size;
  }
  const int status = net->barrier(comm);
  cp_plan_release(&plan);
  return status;
}

// A ring's steps share their workspaces and the representation: of 512 tokens a rank the lists of another
// step are all that is added, under 2 KiB on the CPU engine, to 4 MiB and more.
static void test_plans_do_not_grow(void **state) {
  static const struct {
    const char *name;
    int fewest; // ranks with two groups of blocks
  } list[] = {{"ring_p2p", 8}, {"usp:2x%d:1blocks", 8}, {"loongtrain:1x%dx2:1blocks", 8}};
  for (int i = 0; i < 3; i++) {
    struct held held, first = {0};
    for (int ranks = list[i].fewest; ranks <= 32; ranks *= 2) {
      char name[32], err[256];
      struct mask mask;
      snprintf(name, sizeof name, list[i].name, i == 1 ? ranks / 2 : ranks);
      assert_int_equal(0, mask_init(&mask, MASK_CAUSAL, 512 * ranks, NULL, 0, 0, 0, 0, err, 256));
      held = (struct held){.mask = &mask, .schedule = name};
      assert_int_equal(0, cp_loopback.run(ranks, 20, held_body, &held));
      mask_free(&mask);
      print_message("%s: %lld bytes a rank, by the heap %lld\n", name, (long long)held.account,
                    (long long)held.heap);
      first = first.account ? first : held;
      const int64_t lists = 2048 * ranks;
      assert_true(held.account > 4 << 20 && held.account < first.account + lists);
#ifndef __SANITIZE_ADDRESS__
      assert_true(llabs(held.heap - held.account) < lists);
#endif
    }
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_refusals),          cmocka_unit_test(test_kernels_that_merge_nothing),
      cmocka_unit_test(test_blocks_of_a_call),  cmocka_unit_test(test_memory_does_not_grow),
      cmocka_unit_test(test_plans_do_not_grow),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
