// nccl_fault_test.c -- what goes wrong under the NCCL transport: ranks that die, hang, stop or wait for one
// another must end in time with a sentence that names them, and ranks that are merely slow must not. On
// fakes of CUDA and NCCL, as nccl_test.c.
// clang-format off
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
// clang-format on
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../src/timer.h"

#ifdef LONGCA_NCCL
#include <cuda_runtime_api.h>

#include "cp_test_job.h"

extern const struct cp_transport cp_nccl;

// ---- one rank ---------------------------------------------------------------------------------

static int pass_round(struct cp_comm *comm) {
  const int size = comm->size, me = comm->rank;
  static char *out, *in;
  out = out ? out : comm->memory->alloc(64), in = in ? in : comm->memory->alloc(64);
  const struct cp_op ops[] = {{true, (me + 1) % size, out, 64},
                              {false, (me + size - 1) % size, in, 64}};
  return comm->transport->post(comm, CP_KV, ops, 2) || comm->transport->wait(comm, CP_KV) ? -1 : 0;
}

static int finish(struct cp_comm *comm) {
  return pass_round(comm) || comm->memory->sync(comm->stream) || comm->transport->barrier(comm);
}

static int killed_body(struct cp_comm *comm, void *context) {
  if (pass_round(comm) || comm->transport->barrier(comm))
    return -1;
  if (comm->rank == 1)
    raise(SIGKILL);
  return finish(comm);
}

static int stuck_body(struct cp_comm *comm, void *context) {
  if (pass_round(comm) || comm->transport->barrier(comm))
    return -1;
  if (comm->rank == 1)
    sleep(8);
  return finish(comm);
}

static int stops_body(struct cp_comm *comm, void *context) {
  if (pass_round(comm) || comm->transport->barrier(comm))
    return -1;
  if (comm->rank != 1)
    return finish(comm);
  attn_error_set(false, "no more ink");
  return -1;
}

static int ungrouped_body(struct cp_comm *comm, void *context) {
  char *out = comm->memory->alloc(64), *in = comm->memory->alloc(64);
  return ungrouped_ring(comm, out, in, 64) || comm->memory->sync(comm->stream) ||
                 comm->transport->barrier(comm)
             ? -1
             : 0;
}

// A transfer that waits on the device for another, whose partner never comes.
static int chained_body(struct cp_comm *comm, void *context) {
  const struct cp_transport *net = comm->transport;
  char *out = comm->memory->alloc(64), *in = comm->memory->alloc(64);
  const struct cp_op ops[] = {{true, 1 - comm->rank, out, 64}, {false, 1 - comm->rank, in, 64}};
  for (int i = 0; i < 2; i++) // peers have met: a launch waits for nothing
    for (int c = CP_KV; c <= CP_GRAD; c++)
      if ((i == 0 || comm->rank == 0) &&
          (net->post(comm, (enum cp_channel)(i ? CP_GRAD + CP_KV - c : c), ops, 2) ||
           net->wait(comm, (enum cp_channel)(i ? CP_GRAD + CP_KV - c : c))))
        return -1;
  if (comm->rank == 1)
    sleep(8);
  return comm->memory->sync(comm->stream) || net->barrier(comm) ? -1 : 0;
}

static void doze(void *us) { usleep(*(unsigned *)us); }

// A kernel of two limits and a half before a transfer, on every rank, are nobody's fault.
static int slow_body(struct cp_comm *comm, void *context) {
  static unsigned us = 5000000;
  if (pass_round(comm) || cudaLaunchHostFunc(comm->stream, doze, &us) != cudaSuccess)
    return -1;
  return finish(comm);
}

// All is well, and then one does not leave.
static int stays_body(struct cp_comm *comm, void *context) {
  *(int *)context = comm->rank;
  return finish(comm);
}

static const struct {
  const char *name;
  int (*body)(struct cp_comm *, void *);
} bodies[] = {{"killed", killed_body},   {"stuck", stuck_body},         {"stops", stops_body},
              {"chained", chained_body}, {"ungrouped", ungrouped_body}, {"slow", slow_body}};

static int be_rank(const char *what, int ranks) {
  if (!strcmp(what, "stays")) {
    int rank = -1;
    const int status = cp_nccl.run(ranks, 2, stays_body, &rank);
    if (rank == 1)
      sleep(8);
    return status ? 1 : 0;
  }
  for (size_t i = 0; i < sizeof bodies / sizeof *bodies; i++)
    if (!strcmp(bodies[i].name, what))
      return cp_nccl.run(ranks, 2, bodies[i].body, NULL) ? 1 : 0;
  return 2;
}

// ---- the test ---------------------------------------------------------------------------------

static const char *self;

// Ends in time, and says so.
static void ends(const char *launcher, const char *what, int ranks, const char *sentence) {
  char text[8192];
  const double begin_us = timer_now_us();
  need_mpirun();
  run_as_job(self, launcher, what, ranks, text, sizeof text);
  if (!strstr(text, sentence)) {
    print_message("expected '%s' in:\n%s\n", sentence, text);
    fail();
  }
  assert_true(timer_now_us() - begin_us < 40e6);
}

static void test_a_long_kernel_is_no_fault(void **state) {
  char text[8192];
  need_mpirun();
  const int code = run_as_job(self, "mpirun", "slow", 2, text, sizeof text);
  print_message("%s", text);
  assert_int_equal(0, code);
}
static void test_a_killed_rank_is_named(void **state) {
  // With recovery mpirun does not end the others for us; silent: NCCL does not notice either.
  ends("mpirun --enable-recovery", "killed", 2, "with rank 1 failed: a remote process is gone");
  ends("FAKE_NCCL_SILENT=1 mpirun --enable-recovery", "killed", 2,
       "with rank 1 was not done 2 s after it could start");
}
static void test_a_stuck_rank_is_named(void **state) {
  ends("mpirun", "stuck", 2, "with rank 1 was not done 2 s after it could start");
}
static void test_a_rank_that_does_not_leave(void **state) {
  ends("mpirun", "stays", 2, "with all ranks, to leave, did not start within 2 s");
}
static void test_a_stuck_rank_among_four(void **state) {
  ends("mpirun", "stuck", 4, "no answer from rank 1\n");
}
static void test_transfers_that_wait_for_others_end(void **state) {
  ends("mpirun", "chained", 2, "with rank 1 was not done 2 s after it could start");
}
static void test_a_rank_without_a_gpu(void **state) {
  ends("FAKE_GPUS=1 mpirun", "slow", 2, "ranks 0 and 1 are both on GPU fake:0 of");
}
static void test_a_rank_that_stops_ends_the_job(void **state) {
  ends("mpirun", "stops", 2, "rank 1: no more ink");
}
static void test_sends_outside_a_group_do_not_pass(void **state) {
  ends("mpirun", "ungrouped", 2, "a transfer with rank");
}

#else

static const char *self;
static int be_rank(const char *what, int ranks) { return 2; }
static void not_built(void **state) {
  print_message("this build has no NCCL transport\n");
  skip();
}
#define test_a_long_kernel_is_no_fault not_built
#define test_a_killed_rank_is_named not_built
#define test_a_stuck_rank_is_named not_built
#define test_a_rank_that_does_not_leave not_built
#define test_a_stuck_rank_among_four not_built
#define test_transfers_that_wait_for_others_end not_built
#define test_a_rank_without_a_gpu not_built
#define test_a_rank_that_stops_ends_the_job not_built
#define test_sends_outside_a_group_do_not_pass not_built

#endif

int main(int argc, char **argv) {
  if (argc == 4 && !strcmp(argv[1], "rank"))
    return be_rank(argv[2], atoi(argv[3]));
  self = argv[0];
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_a_long_kernel_is_no_fault),
      cmocka_unit_test(test_a_killed_rank_is_named),
      cmocka_unit_test(test_a_stuck_rank_is_named),
      cmocka_unit_test(test_a_rank_that_does_not_leave),
      cmocka_unit_test(test_a_stuck_rank_among_four),
      cmocka_unit_test(test_transfers_that_wait_for_others_end),
      cmocka_unit_test(test_a_rank_without_a_gpu),
      cmocka_unit_test(test_a_rank_that_stops_ends_the_job),
      cmocka_unit_test(test_sends_outside_a_group_do_not_pass),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
