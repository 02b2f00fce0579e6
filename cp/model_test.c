// model_test.c -- the model against what can be counted: tiles one by one, buffers as plans have them,
// machine files, and the limits in which a time is known.
// clang-format off
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
// clang-format on
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "model.h"

static const int32_t lengths[] = {1, 2, 147, 1, 29, 300, 3};

static struct mask make_mask(enum mask_kind kind) {
  struct mask m;
  const bool docs = mask_has_docs(kind);
  assert_int_equal(
      0, mask_init(&m, kind, 483, docs ? lengths : NULL, docs ? 7 : 0, 40, 100, 32, NULL, 0));
  return m;
}

static struct attn_problem problem_of(const struct mask *m, int32_t heads_q, int32_t heads_kv) {
  return (struct attn_problem){.mask = m,
                               .heads_q = heads_q,
                               .heads_kv = heads_kv,
                               .dim = 64,
                               .rows_q = m->seqlen,
                               .rows_k = m->seqlen,
                               .backward = true};
}

// Tiles in which some pair is visible, counted pair by pair.
static double count_tiles(const struct mask *m, const struct attn_segment *q, int32_t q_segs,
                          const struct attn_segment *k, int32_t k_segs, int32_t queries,
                          int32_t keys) {
  double tiles = 0;
  for (int32_t a = 0; a < q_segs; a++)
    for (int32_t i = 0; i < q[a].len; i += queries)
      for (int32_t b = 0; b < k_segs; b++)
        for (int32_t j = 0; j < k[b].len; j += keys) {
          bool any = false;
          for (int32_t x = i; x < i + queries && x < q[a].len; x++)
            for (int32_t y = j; y < j + keys && y < k[b].len; y++)
              any = any || mask_allows(m, 0, q[a].pos + x, k[b].pos + y);
          tiles += any;
        }
  return tiles;
}

static void test_tiles(void **state) {
  static const enum mask_kind kinds[] = {MASK_FULL,
                                         MASK_CAUSAL,
                                         MASK_FULL_DOCUMENT_LONG,
                                         MASK_CAUSAL_DOCUMENT_LONG,
                                         MASK_SLIDING_WINDOW,
                                         MASK_SLIDING_WINDOW_CAUSAL,
                                         MASK_SHARE_QUESTION,
                                         MASK_CAUSAL_BLOCKWISE,
                                         MASK_GLOBAL_SLIDING_WINDOW,
                                         MASK_PREFIX_LM_CAUSAL,
                                         MASK_PREFIX_LM_DOCUMENT};
  for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
    struct mask m = make_mask(kinds[i]);
    const struct cp_grid grid = {.heads = 1, .context = 3, .windows = 1};
    struct cp_shard s;
    assert_int_equal(0, cp_shard_init(&s, &m, &grid));
    for (int to = 0; to < 3; to++)
      for (int from = 0; from < 3; from++) {
        double q_tiles;
        const double tiles =
            cp_tiles(&m, s.seg[to], s.segs[to], s.seg[from], s.segs[from], 16, 32, &q_tiles);
        const double want =
            count_tiles(&m, s.seg[to], s.segs[to], s.seg[from], s.segs[from], 16, 32);
        // Elsewhere a tile's keys are taken for one run, by its first and last row: never too few.
        const bool exact = kinds[i] == MASK_FULL || kinds[i] == MASK_CAUSAL ||
                           kinds[i] == MASK_FULL_DOCUMENT_LONG ||
                           kinds[i] == MASK_CAUSAL_DOCUMENT_LONG;
        if (!(exact ? tiles == want : tiles >= want))
          fail_msg("%s, %d of %d: %g tiles, counted %g", mask_name(kinds[i]), to, from, tiles,
                   want);
        assert_true(q_tiles > 0);
      }
    cp_shard_free(&s);
    mask_free(&m);
  }
}

struct plan_case {
  struct attn_problem problem;
  const struct cp_schedule *schedule;
  struct cp_wish wish;
};

static int compare_bytes(struct cp_comm *comm, void *context) {
  const struct plan_case *c = context;
  struct cp_plan plan;
  int status =
      cp_plan_init(&plan, c->schedule, &c->wish, attn_find("fa2", ATTN_HOST), &c->problem, comm);
  const int64_t want =
      status ? 0 : cp_buffer_bytes(c->schedule, &plan.grid, &c->problem, plan.shard.context_rows);
  if (!status && plan.bytes != want) {
    attn_error_set(false, "%s: the plan holds %lld bytes, the model says %lld", c->schedule->name,
                   (long long)plan.bytes, (long long)want);
    status = -1;
  }
  cp_plan_release(&plan);
  return status;
}

static void test_buffers_are_the_plans(void **state) {
  static const struct {
    const char *cp;
    int ranks;
  } list[] = {{"ulysses", 4},          {"ulysses", 1},          {"ring_p2p", 3},
              {"ring_p2p", 1},         {"ring_allgather", 3},   {"usp:2x2", 4},
              {"usp:4x2", 8},          {"loongtrain:2x4x2", 8}, {"loongtrain:4x2x2", 8},
              {"loongtrain:1x4x4", 4}, {"ring_p2p", 8},         {"ring_p2p:1blocks", 5},
              {"ring_p2p:2blocks", 4}, {"ring_p2p:9blocks", 6}, {"loongtrain:1x10x2", 10}};
  struct mask m = make_mask(MASK_CAUSAL_DOCUMENT_LONG);
  for (int backward = 0; backward < 2; backward++)
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
      struct plan_case c = {.problem = problem_of(&m, 8, 2)};
      c.problem.backward = backward;
      c.schedule = cp_schedule_find(list[i].cp, &c.wish);
      if (cp_loopback.run(list[i].ranks, 20, compare_bytes, &c)) {
        print_message("%s\n", attn_error());
        fail();
      }
    }
  mask_free(&m);
}

static struct cp_machine machine(void) {
  return (struct cp_machine){.fwd_flop_us = 1e6,
                             .bwd_flop_us = 1e6,
                             .tile_q = 128,
                             .tile_k = 128,
                             .tile_cost = 1,
                             .step_us = 5,
                             .copy_bytes_us = 1e5,
                             .near_us = 2,
                             .near_bytes_us = 1e4,
                             .far_us = 20,
                             .far_bytes_us = 1e3,
                             .node = 4};
}

static struct cp_estimate ask(const struct cp_machine *m, const char *cp,
                              const struct attn_problem *p, int ranks, enum attn_pass pass) {
  struct cp_wish wish;
  struct cp_estimate e;
  const struct cp_schedule *schedule = cp_schedule_find(cp, &wish);
  assert_non_null(schedule);
  assert_null(cp_model(m, schedule, &wish, p, ranks, pass, &e));
  return e;
}

static void test_limits(void **state) {
  struct mask mask = make_mask(MASK_FULL);
  const struct attn_problem p = problem_of(&mask, 8, 8);
  struct cp_machine m = machine();
  static const char *const names[] = {"ulysses", "ring_p2p", "ring_allgather", "usp:1x1",
                                      "loongtrain:1x1"};
  // One rank: nothing but the kernel, the same for all.
  for (int i = 0; i < 5; i++)
    for (int pass = 0; pass < 2; pass++) {
      const struct cp_estimate e = ask(&m, names[i], &p, 1, (enum attn_pass)pass);
      assert_true(e.exposed_us == 0 && e.sent_bytes == 0 && e.balance == 1);
      assert_true(e.kernel_us == ask(&m, "ulysses", &p, 1, (enum attn_pass)pass).kernel_us);
    }
  // Slow links: a ring's pass is its hops and the last kernel; fast ones: its kernels.
  struct cp_machine slow = m, fast = m;
  slow.near_bytes_us = slow.far_bytes_us = 0.1;
  slow.copy_bytes_us = fast.copy_bytes_us = 1e12;
  fast.near_us = fast.far_us = 0;
  fast.near_bytes_us = fast.far_bytes_us = 1e12;
  const struct cp_estimate s = ask(&slow, "ring_p2p", &p, 4, ATTN_FWD),
                           f = ask(&fast, "ring_p2p", &p, 4, ATTN_FWD);
  for (int blocks = 1; blocks <= 3; blocks++) {
    char name[32];
    snprintf(name, sizeof name, "ring_p2p:%dblocks", blocks);
    const struct cp_estimate b = ask(&slow, name, &p, 4, ATTN_FWD);
    const double latencies = blocks == 1 ? 3 : blocks == 2 ? 2 : 1;
    const double hops = latencies * slow.near_us + (double)s.sent_bytes / slow.near_bytes_us;
    assert_true(b.time_us > hops && b.time_us < hops + b.kernel_us);
  }
  // Nodes of two: of three blocks that go at once two leave the node, but each hop from neighbour to neighbour does.
  struct cp_machine between = fast;
  between.node = 2;
  between.far_bytes_us = 0.1;
  const double block_us = (double)s.sent_bytes / 3 / between.far_bytes_us;
  const double at_once = ask(&between, "ring_p2p", &p, 4, ATTN_FWD).time_us / block_us;
  const double hops_us = ask(&between, "ring_p2p:1blocks", &p, 4, ATTN_FWD).time_us / block_us;
  assert_true(at_once > 2 && at_once < 2.1 && hops_us > 3 && hops_us < 3.1);
  assert_true(f.exposed_us >= 0 && f.exposed_us < 1e-3 * f.kernel_us);
  // Nodes of 4: a context-first exchange of heads crosses nodes, a heads-first one does not.
  const double near = ask(&m, "usp:4x4:1pieces:1blocks", &p, 16, ATTN_FWD).exposed_us;
  const double far = ask(&m, "usp_context_first:4x4:1pieces:1blocks", &p, 16, ATTN_FWD).exposed_us;
  assert_true(near < far);
  // Of n pieces under kernels that last longer an n-th is exposed.
  struct cp_machine steady = fast;
  steady.near_bytes_us = 1e5;
  for (int pass = 0; pass < 2; pass++) {
    const double whole = ask(&steady, "ulysses:1pieces", &p, 2, (enum attn_pass)pass).exposed_us;
    const double half = ask(&steady, "ulysses:2pieces", &p, 2, (enum attn_pass)pass).exposed_us;
    const double fourth = ask(&steady, "ulysses:4pieces", &p, 2, (enum attn_pass)pass).exposed_us;
    assert_true(whole > 0 && fabs(half * 2 / whole - 1) < 1e-3);
    assert_true(fabs(fourth * 4 / whole - 1) < 1e-3);
    // By itself forward exchanges K and V alone: two of four tensors, none of them hidden.
    const double own = ask(&steady, "ulysses", &p, 2, (enum attn_pass)pass).exposed_us;
    assert_true(pass == ATTN_BWD ? own == fourth : fabs(own * 2 / whole - 1) < 1e-3);
    const double as_asked =
        ask(&steady, "ulysses:exchange", &p, 2, (enum attn_pass)pass).exposed_us;
    assert_true(as_asked == fourth);
  }
  // A ring's forward writes O in fp32 at every call but the last and reads it at every one but the first; nothing else does.
  m.tile_q = 1; // so that tiles are rows
  struct cp_machine free_copies = m;
  free_copies.copy_bytes_us = 1e12;
  static const struct {
    const char *name;
    int bytes; // an element of O in all calls
  } rings[] = {{"ring_p2p:1blocks", 4 + 8 + 8 + 4},
               {"loongtrain:1x4x2", 4 + 8 + 8 + 4},
               {"ring_p2p:2blocks", 4 + 8 + 4},
               {"ring_p2p", 4 + 4},
               {"ulysses", 0},
               {"ring_allgather", 0}};
  for (int i = 0; i < 6; i++)
    for (int pass = 0; pass < 2; pass++) {
      const double us = ask(&m, rings[i].name, &p, 4, (enum attn_pass)pass).kernel_us -
                        ask(&free_copies, rings[i].name, &p, 4, (enum attn_pass)pass).kernel_us;
      const double rows = us * m.copy_bytes_us / (8 * 64);
      if (rings[i].bytes && pass == ATTN_FWD)
        assert_true(rows / rings[i].bytes >= 483 / 4.0 && rows / rings[i].bytes < 483 / 4.0 + 2);
      else
        assert_true(fabs(rows) < 1e-3);
    }
  mask_free(&mask);
}

static void test_machine_files(void **state) {
  char path[] = "/tmp/longca-machine-XXXXXX", err[512] = "";
  const int fd = mkstemp(path);
  assert_true(fd >= 0);
  struct cp_machine m;
  static const char good[] =
      "fwd_flop_us = 1e6\nbwd_flop_us = 2e6\nnear_bytes_us = 3\nfar_bytes_us = 4 ; slow\n";
  assert_int_equal((int)sizeof good - 1, (int)write(fd, good, sizeof good - 1));
  assert_int_equal(0, cp_machine_read(&m, path, err, sizeof err));
  assert_true(m.bwd_flop_us == 2e6 && m.far_bytes_us == 4 && m.node == 8);
  assert_int_equal(0, cp_machine_set(&m, "node=2", err, sizeof err));
  assert_true(m.node == 2);
  assert_int_equal(-1, cp_machine_set(&m, "nodes=2", err, sizeof err));
  assert_non_null(strstr(err, "unknown setting 'nodes'"));
  assert_int_equal(-1, cp_machine_set(&m, "node=many", err, sizeof err));
  assert_int_equal(8, (int)write(fd, "gather=1", 8));
  assert_int_equal(-1, cp_machine_read(&m, path, err, sizeof err));
  assert_non_null(strstr(err, "line 5"));
  assert_int_equal(0, ftruncate(fd, 20));
  assert_int_equal(-1, cp_machine_read(&m, path, err, sizeof err));
  close(fd);
  unlink(path);
  assert_int_equal(-1, cp_machine_read(&m, path, err, sizeof err));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_tiles),
      cmocka_unit_test(test_buffers_are_the_plans),
      cmocka_unit_test(test_limits),
      cmocka_unit_test(test_machine_files),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
