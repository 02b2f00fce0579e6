// measure_cp_test.c -- points of context parallelism from mask to row: on threads, as a job, refused.
// The program is also what mpirun starts: measure_job.c runs the program it is in.
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

#include "../cp/cp.h"
#include "cmd.h"
#include "mask_draw.h"
#include "measure.h"
#include "measure_cp.h"
#include "measure_cp_test_case.h"

static struct row measured(const struct point *p) {
  struct row row;
  point_to_row(p, &row);
  assert_int_equal(0, measure_point(p, &row));
  return row;
}

static void assert_refused(const struct point *p, const char *sentence) {
  const struct row row = measured(p);
  assert_string_equal("unsupported", row.status);
  if (!strstr(row.reason, sentence)) {
    print_message("expected '%s' in: %s\n", sentence, row.reason);
    fail();
  }
  assert_true(isnan(row.time_us) && isnan(row.tflop_s) && isnan(row.err_max));
}

// A complete row: numbers are there, and agree with one another and with the formulas.
static void assert_ok(const struct point *p, const struct row *row) {
  if (strcmp(row->status, "ok") != 0) {
    print_message("%s on %s: %s, %s\n", p->cp, p->transport, row->status, row->reason);
    fail();
  }
  assert_string_equal(p->cp, row->cp);
  assert_string_equal(p->transport, row->transport);
  assert_true(row->ranks == p->ranks && row->n == 6 && row->docs >= 2);
  assert_true(row->time_us > 0 && row->time_us_low <= row->time_us &&
              row->time_us <= row->time_us_high);
  assert_true(fabs(row->tflop_s * row->time_us * 1e6 * p->ranks / row->flop - 1) < 1e-4);
  assert_true(row->err_max <= 1e-5 && row->wrong == 0);
  assert_true(row->comm_us >= 0 && row->skew_us >= 0 && row->account_bytes > 0 && row->prep_us > 0);
  struct cp_wish wish;
  struct cp_grid grid;
  struct mask mask;
  struct cp_shard shard;
  const struct cp_schedule *schedule = cp_schedule_find(p->cp, &wish);
  const struct mask_recipe recipe = {
      .kind = p->mask, .seqlen = p->seqlen, .distributed = true, .heads_kv = p->heads_kv};
  assert_int_equal(0, mask_draw_nth(&mask, p->seed, p->draw, &recipe, NULL, 0));
  const struct attn_problem problem = {.mask = &mask,
                                       .dtype = p->dtype,
                                       .heads_q = p->heads_q,
                                       .heads_kv = p->heads_kv,
                                       .dim = p->dim};
  assert_null(
      cp_why_not(schedule, attn_find(p->kernel, p->place), &problem, p->ranks, &wish, &grid));
  assert_int_equal(0, cp_shard_init(&shard, &mask, &grid));
  assert_true(row->comm_bytes == (double)cp_volume(&grid, &problem, shard.context_rows, p->pass));
  assert_true(row->area == mask_area(&mask));
  cp_shard_free(&shard);
  mask_free(&mask);
}

static void test_threads(void **state) {
  static const char *const names[] = {"ulysses", "ring_p2p", "ring_allgather", "usp:2x2",
                                      "loongtrain:1x4x2"};
  for (int pass = 0; pass < 2; pass++)
    for (int i = 0; i < 5; i++) {
      struct point p = make_point(names[i], "loopback", i == 0 ? 2 : 4);
      p.pass = (enum attn_pass)pass;
      const struct row row = measured(&p);
      assert_ok(&p, &row);
    }
}

// With a causal mask and a run of tokens a rank, rank 0 has a seventh of the last one's work and waits at each
// hop for ranks that compute; the last one waits for none, and nothing is wrong with the transfers.
static void test_waits_for_slower_ranks_are_skew(void **state) {
  struct point p = make_point("ring_p2p:contiguous", "loopback", 4);
  p.mask = MASK_CAUSAL;
  p.seqlen = 2049;
  // Other programs on this machine may hold up the last rank too: seldom always.
  bool seen = false;
  for (int i = 0; i < 10 && !seen; i++) {
    const struct row row = measured(&p);
    assert_string_equal("ok", row.status);
    print_message("%g us: comm %g, skew %g\n", row.time_us, row.comm_us, row.skew_us);
    seen = row.skew_us > 0.1 * row.time_us && row.comm_us < row.skew_us;
  }
  assert_true(seen);
}

static void test_refusals(void **state) {
  struct point p = make_point("ulysses", "loopback", 3);
  assert_refused(&p, "4 query heads cannot be split over 3 ranks");
  p = make_point("ring_p2p", "pigeon", 2);
  assert_refused(&p, "this build has no transport 'pigeon'; it has loopback");
  p = make_point("usp:2x4", "loopback", 4);
  assert_refused(&p, "2 x 4 is not 4 ranks");
  p = make_point("ring_p2p", "loopback", 2);
  p.place = ATTN_DEVICE;
  assert_refused(&p, "carries host memory");
  p = make_point("ring_p2p", "loopback", 2);
  p.dim = 96;
  assert_refused(&p, "head dimensions 64 and 128");
}

static void need_mpi(void) {
  if (cp_transport_find("mpi") && system("command -v mpirun >/dev/null 2>&1") == 0)
    return;
  print_message("this build has no MPI, or there is no mpirun\n");
  skip();
}

static void test_job(void **state) {
  need_mpi();
  setenv("ASAN_OPTIONS", "detect_leaks=0", 1); // of the job: Open MPI leaves some
  for (int pass = 0; pass < 2; pass++) {
    struct point p = make_point("usp:1x2", "mpi", 2);
    p.pass = (enum attn_pass)pass;
    const struct row row = measured(&p);
    assert_ok(&p, &row);
  }
}

static void test_jobs_that_do_not_start(void **state) {
  need_mpi();
  const struct point p = make_point("ring_p2p", "mpi", 2);
  measure_cp_end_jobs(); // the one that test_job left does run
  setenv("LONGCA_MPIRUN", "/nowhere/mpirun", 1);
  struct row row = measured(&p);
  assert_string_equal("crash", row.status);
  assert_non_null(strstr(row.reason, "no mpirun here"));
  setenv("LONGCA_MPIRUN", "false", 1);
  row = measured(&p);
  assert_string_equal("crash", row.status);
  assert_non_null(strstr(row.reason, "exit code 1"));
  unsetenv("LONGCA_MPIRUN");
}

int main(int argc, char **argv) {
  if (argc > 1 && !strcmp(argv[1], "rank"))
    return cmd_rank(argc - 1, argv + 1);
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_threads),
      cmocka_unit_test(test_waits_for_slower_ranks_are_skew),
      cmocka_unit_test(test_refusals),
      cmocka_unit_test(test_job),
      cmocka_unit_test(test_jobs_that_do_not_start),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
