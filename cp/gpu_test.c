// gpu_test.c -- the schedules on GPUs: 2, 4 and 8 ranks that share one, and a rank a GPU over NCCL, each
// against the same kernel on one rank: bf16 errors of at most twice its own.
//
// The NCCL half starts itself under mpirun, as mpi_test.c does. Skips where there is no GPU; `make
// test-cp-emulated` runs it on emulated ones.
// clang-format off
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
// clang-format on
#include "../src/env.h"
#include "../src/measure_cp.h"
#include "../src/place.h"
#include "cp_test_case.h"

#ifdef LONGCA_CUDA
extern const struct cp_transport cp_loopback_gpu;

static const enum mask_kind kinds[] = {MASK_FULL, MASK_CAUSAL, MASK_FULL_DOCUMENT_LONG,
                                       MASK_CAUSAL_DOCUMENT_LONG};
enum { KINDS = 4, HEADS = 3, KERNELS = 2 };

// The whole of case (h, m). LONGCA_TEST_QUICK: smaller ones, and fewer, for the emulated GPU.
static int make_case(struct whole *w, int h, int m) {
  static const int32_t lengths[] = {129, 1, 517, 17, 127, 3}; // 794 in all, a multiple of nothing
  static const int32_t few[] = {129, 1, 67, 17};
  static const int32_t heads[HEADS][2] = {{8, 8}, {8, 2}, {8, 1}};
  if (getenv("LONGCA_TEST_QUICK"))
    return whole_make(w, kinds[m], few, 4, 4, 2, ATTN_BF16);
  return whole_make(w, kinds[m], lengths, 6, heads[h][0], heads[h][1], ATTN_BF16);
}
static bool left_out(int h, int m, int ranks) {
  return getenv("LONGCA_TEST_QUICK") && (h || m % 2 == 0 || ranks == 3 || ranks == 8);
}

// One of each engine; NULL where it does not run on this GPU.
static const struct attn_kernel *kernel_of(int i) {
  const struct attn_kernel *kernel = attn_find(i ? "fa3" : "fa2", ATTN_DEVICE);
  return attn_why_not_on(kernel, place_of(ATTN_DEVICE)->arch()) ? NULL : kernel;
}

static int direct; // runs that left Q and O where they are

// Worst error of one run; negative and a message when it failed.
static double run_shared(const struct whole *w, const struct cp_schedule *schedule,
                         const struct attn_kernel *kernel, int ranks, bool forward_only) {
  struct run run = {
      .whole = w, .schedule = schedule, .kernel = kernel, .forward_only = forward_only};
  const char *tensor = "";
  outputs_make(&run.out, w);
  const int status = cp_loopback_gpu.run(ranks, 60, run_body, &run);
  direct += run.direct;
  const double error = status ? -1 : worst_error(&run, &tensor);
  if (status)
    printf("%s on %d ranks: %s\n", schedule->name, ranks, attn_error());
  outputs_free(&run.out);
  return error;
}

static bool within(double error, double one) { return error >= 0 && error <= 2 * one; }

// Both passes, or forward alone, which may leave Q and O where they are.
static void run_kernel(const struct attn_kernel *kernel, const struct whole *w, bool forward_only,
                       int *ran, int *wrong) {
  static const int ranks[] = {2, 3, 4, 8};
  struct attn_problem p = whole_problem(w);
  p.backward = !forward_only;
  const double one = run_shared(w, cp_schedules[0], kernel, 1, forward_only);
  assert_true(one > 0);
  for (int i = 0; cp_schedules[i]; i++)
    for (int r = 0; r < 4; r++) {
      struct cp_grid grid;
      if (left_out(0, 1, ranks[r]) ||
          cp_why_not(cp_schedules[i], kernel, &p, ranks[r], NULL, &grid))
        continue;
      const double error = run_shared(w, cp_schedules[i], kernel, ranks[r], forward_only);
      ++*ran;
      if (within(error, one))
        continue;
      print_message("%s, %s, %s, heads %d:%d, %d ranks: error %g, on one rank %g\n", kernel->name,
                    cp_schedules[i]->name, mask_name(w->mask.kind), w->heads_q, w->heads_kv,
                    ranks[r], error, one);
      ++*wrong;
    }
}

static void test_ranks_that_share_a_gpu(void **state) {
  int ran = 0, wrong = 0;
  if (env_gpu_count() < 1) {
    print_message("there is no GPU here\n");
    skip();
  }
  assert_int_equal(0, place_of(ATTN_DEVICE)->open());
  for (int h = 0; h < HEADS; h++)
    for (int m = 0; m < KINDS; m++) {
      struct whole w;
      if (left_out(h, m, 1))
        continue;
      assert_int_equal(0, make_case(&w, h, m));
      for (int k = 0; k < 2 * KERNELS; k++)
        if (kernel_of(k / 2))
          run_kernel(kernel_of(k / 2), &w, k % 2, &ran, &wrong);
      whole_free(&w);
    }
  print_message("%d cases, %d direct, %d wrong\n", ran, direct, wrong);
  assert_true(ran >= 40);
  assert_true(direct >= 5 || !kernel_of(1));
  assert_int_equal(0, wrong);
}

#ifdef LONGCA_NCCL
#include "cp_test_job.h"
extern const struct cp_transport cp_nccl;

static int run_kernel_on_ranks(struct cp_comm *comm, const struct attn_kernel *kernel,
                               const struct whole *w, bool forward_only, int *ran, int *wrong) {
  struct attn_problem p = whole_problem(w);
  p.backward = !forward_only;
  const double one = comm->rank ? 0 : run_shared(w, cp_schedules[0], kernel, 1, forward_only);
  for (int i = 0; cp_schedules[i]; i++) {
    struct run run = {
        .whole = w, .schedule = cp_schedules[i], .kernel = kernel, .forward_only = forward_only};
    struct cp_grid grid;
    if (cp_why_not(run.schedule, kernel, &p, comm->size, NULL, &grid))
      continue;
    outputs_make(&run.out, w);
    if (comm->transport->barrier(comm) || run_body(comm, &run))
      return -1;
    direct += run.direct;
    const char *tensor = "";
    const double error = merged_error(&run, comm->rank, &tensor);
    outputs_free(&run.out);
    ++*ran;
    if (comm->rank || within(error, one))
      continue;
    printf("%s, %s, %s, heads %d:%d: %s is off by %g, on one rank by %g\n", kernel->name,
           run.schedule->name, mask_name(w->mask.kind), w->heads_q, w->heads_kv, tensor, error,
           one);
    ++*wrong;
  }
  return 0;
}

static int cases_body(struct cp_comm *comm, void *context) {
  int *const wrong = context, ran = 0;
  for (int h = 0; h < HEADS; h++)
    for (int m = 0; m < KINDS; m++) {
      struct whole w;
      if (left_out(h, m, 1))
        continue;
      int status = make_case(&w, h, m);
      for (int k = 0; k < 2 * KERNELS && !status; k++)
        status = kernel_of(k / 2)
                     ? run_kernel_on_ranks(comm, kernel_of(k / 2), &w, k % 2, &ran, wrong)
                     : 0;
      whole_free(&w);
      if (status)
        return -1;
    }
  if (!comm->rank)
    printf("%d cases on %d GPUs, %d direct, %d wrong\n", ran, comm->size, direct, *wrong);
  return ran < 20 ? -1 : 0;
}

static int be_rank(int ranks) {
  int wrong = 0;
  measure_cp_local_gpu();
  return place_of(ATTN_DEVICE)->open() || cp_nccl.run(ranks, 60, cases_body, &wrong) || wrong;
}

static const char *self;

static void test_a_rank_a_gpu(void **state) {
  const char *fake = getenv("FAKE_GPUS"); // on the emulated GPU
  const int gpus = fake ? atoi(fake) : env_gpu_count();
  if (gpus < 2) {
    print_message("there are no two GPUs here\n");
    skip();
  }
  for (int ranks = 2; ranks <= gpus; ranks *= 2) {
    char text[4096];
    const int code = run_as_job(self, "mpirun", "cases", ranks, text, sizeof text);
    print_message("%s", text);
    assert_int_equal(0, code);
  }
}
#endif
#endif

#ifndef LONGCA_CUDA
static void test_ranks_that_share_a_gpu(void **state) {
  print_message("this build has no CUDA\n");
  skip();
}
#endif
#ifndef LONGCA_NCCL
static const char *self;
static int be_rank(int ranks) { return 2; }
static void test_a_rank_a_gpu(void **state) {
  print_message("this build has no NCCL transport\n");
  skip();
}
#endif

int main(int argc, char **argv) {
  if (argc == 4 && !strcmp(argv[1], "rank")) // rank cases RANKS
    return be_rank(atoi(argv[3]));
  self = argv[0];
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_ranks_that_share_a_gpu),
      cmocka_unit_test(test_a_rank_a_gpu),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
