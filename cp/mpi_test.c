// mpi_test.c -- the schedules under mpirun: this program starts itself as 2, 3 and 4 processes, and as a
// job with a rank that stops or hangs.
// clang-format off
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
// clang-format on
#include <unistd.h>

#include "../src/timer.h"
#include "cp_test_case.h"

#ifdef LONGCA_MPI
#include "cp_test_job.h"

extern const struct cp_transport cp_mpi;

// ---- one rank -------------------------------------------------------------------------------

static int schedules_rank(int ranks) {
  static const int32_t lengths[] = {1, 2, 47, 1, 29, 3};
  static const enum mask_kind kinds[] = {MASK_FULL, MASK_CAUSAL, MASK_FULL_DOCUMENT_LONG,
                                         MASK_CAUSAL_DOCUMENT_LONG};
  static const int32_t heads[][2] = {{8, 8}, {8, 2}, {8, 1}, {6, 3}};
  const struct attn_kernel *kernel = attn_find("fa2", ATTN_HOST);
  int ran = 0, rank, wrong = 0;
  for (int h = 0; h < 4; h++)
    for (int m = 0; m < 4; m++) {
      struct whole w;
      if (whole_make(&w, kinds[m], lengths, 6, heads[h][0], heads[h][1], ATTN_FP32))
        return 1;
      const struct attn_problem p = whole_problem(&w);
      for (int i = 0; cp_schedules[i]; i++) {
        struct run run = {.whole = &w, .schedule = cp_schedules[i], .kernel = kernel};
        struct cp_grid grid;
        if (cp_why_not(run.schedule, kernel, &p, ranks, NULL, &grid))
          continue;
        outputs_make(&run.out, &w);
        if (cp_mpi.run(ranks, 20, run_body, &run))
          return 1;
        MPI_Comm_rank(MPI_COMM_WORLD, &rank);
        const char *tensor = "";
        const double error = merged_error(&run, rank, &tensor);
        if (!(error <= 1e-5)) {
          printf("%s, %s, heads %d:%d, %d ranks: %s is off by %g\n", run.schedule->name,
                 mask_name(kinds[m]), w.heads_q, w.heads_kv, ranks, tensor, error);
          wrong++;
        }
        ran++;
        outputs_free(&run.out);
      }
      whole_free(&w);
    }
  if (!rank)
    printf("%d cases on %d ranks\n", ran, ranks);
  return wrong || ran < 80;
}

static int stop_body(struct cp_comm *comm, void *context) {
  if (comm->rank != 1)
    return comm->transport->barrier(comm);
  attn_error_set(false, "no more ink");
  return -1;
}

static int hang_body(struct cp_comm *comm, void *context) {
  char byte = 0, in;
  const struct cp_op ops[] = {{true, (comm->rank + 1) % comm->size, &byte, 1},
                              {false, (comm->rank + comm->size - 1) % comm->size, &in, 1}};
  if (comm->rank == 2)
    sleep(60);
  return comm->transport->post(comm, CP_KV, ops, 2) || comm->transport->wait(comm, CP_KV) ? -1 : 0;
}

static int ungrouped_body(struct cp_comm *comm, void *context) {
  char byte = 0, in;
  return ungrouped_ring(comm, &byte, &in, 1);
}

static int be_rank(const char *what, int ranks) {
  if (!strcmp(what, "schedules"))
    return schedules_rank(ranks);
  int (*body)(struct cp_comm *, void *) = !strcmp(what, "stop")   ? stop_body
                                          : !strcmp(what, "hang") ? hang_body
                                                                  : ungrouped_body;
  return cp_mpi.run(ranks, 1, body, NULL) ? 1 : 0;
}

// ---- the test -------------------------------------------------------------------------------

static const char *self;

static void run_schedules(int ranks) {
  char text[4096];
  need_mpirun();
  if (run_as_job(self, "mpirun", "schedules", ranks, text, sizeof text)) {
    print_message("%s\n", text);
    fail();
  }
  print_message("%s", text);
}

static void test_2_ranks(void **state) { run_schedules(2); }
static void test_3_ranks(void **state) { run_schedules(3); }
static void test_4_ranks(void **state) { run_schedules(4); }

static void expect(const char *what, int ranks, const char *sentence) {
  char text[4096];
  const double begin_us = timer_now_us();
  need_mpirun();
  assert_int_not_equal(0, run_as_job(self, "mpirun", what, ranks, text, sizeof text));
  if (!strstr(text, sentence)) {
    print_message("expected '%s' in:\n%s\n", sentence, text);
    fail();
  }
  assert_true(timer_now_us() - begin_us < 20e6);
}

static void test_a_rank_that_stops_ends_the_job(void **state) {
  expect("stop", 3, "rank 1: no more ink");
}
static void test_a_rank_that_hangs_is_named(void **state) {
  expect("hang", 3, "waited 1 s for rank 2");
}
static void test_sends_outside_a_group_do_not_pass(void **state) {
  expect("ungrouped", 2, "waited 1 s for rank");
}

#else

static int be_rank(const char *what, int ranks) { return 2; }
static const char *self;
static void not_built(void **state) {
  print_message("this build has no MPI (MPI=0, or no mpicc)\n");
  skip();
}
#define test_2_ranks not_built
#define test_3_ranks not_built
#define test_4_ranks not_built
#define test_a_rank_that_stops_ends_the_job not_built
#define test_a_rank_that_hangs_is_named not_built
#define test_sends_outside_a_group_do_not_pass not_built

#endif

int main(int argc, char **argv) {
  if (argc == 4 && !strcmp(argv[1], "rank"))
    return be_rank(argv[2], atoi(argv[3]));
  self = argv[0];
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_2_ranks),
      cmocka_unit_test(test_3_ranks),
      cmocka_unit_test(test_4_ranks),
      cmocka_unit_test(test_a_rank_that_stops_ends_the_job),
      cmocka_unit_test(test_a_rank_that_hangs_is_named),
      cmocka_unit_test(test_sends_outside_a_group_do_not_pass),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
