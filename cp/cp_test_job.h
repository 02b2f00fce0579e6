// cp_test_job.h -- the schedules as a job: every rank runs the same cases and rank 0 compares the merged
// outputs; and how a test starts itself under mpirun. Header only: mpi_test.c, nccl_test.c, gpu_test.c.
#ifndef LONGCA_CP_TEST_JOB_H
#define LONGCA_CP_TEST_JOB_H

#include <sys/wait.h>

#include "cp_test_case.h"
#include "mpi.h"

// The outputs of all ranks, on rank 0: where a rank has nothing, its elements are still NaN.
static inline void merge_tensor(float *x, int64_t n, int rank) {
  for (int64_t i = 0; i < n; i++)
    x[i] = isnan(x[i]) ? -INFINITY : x[i];
  MPI_Reduce(rank ? x : MPI_IN_PLACE, x, (int)n, MPI_FLOAT, MPI_MAX, 0, MPI_COMM_WORLD);
}

// Worst error on rank 0, 0 elsewhere.
static inline double merged_error(struct run *run, int rank, const char **tensor) {
  const struct whole *w = run->whole;
  const int64_t nq = (int64_t)w->mask.seqlen * w->heads_q,
                nk = (int64_t)w->mask.seqlen * w->heads_kv;
  merge_tensor(run->out.o, nq * DIM, rank), merge_tensor(run->out.dq, nq * DIM, rank);
  merge_tensor(run->out.dk, nk * DIM, rank), merge_tensor(run->out.dv, nk * DIM, rank);
  merge_tensor(run->out.lse, nq, rank);
  return rank ? 0 : worst_error(run, tensor);
}

static inline void need_mpirun(void) {
  if (system("command -v mpirun >/dev/null 2>&1") == 0)
    return;
  print_message("there is no mpirun (openmpi-bin)\n");
  skip();
}

// Runs this program as `ranks` processes, "program rank WHAT RANKS"; its exit code, and what it printed.
static inline int run_as_job(const char *self, const char *settings, const char *what, int ranks,
                             char *text, size_t size) {
  char command[1400];
  snprintf(command, sizeof command,
           "ASAN_OPTIONS=detect_leaks=0 OMP_NUM_THREADS=1 %s --oversubscribe --allow-run-as-root "
           "--bind-to none -n %d %s rank %s %d 2>&1",
           settings, ranks, self, what, ranks);
  FILE *f = popen(command, "r");
  const size_t got = f ? fread(text, 1, size - 1, f) : 0;
  text[got] = 0;
  while (f && fgetc(f) != EOF)
    ;
  const int status = f ? pclose(f) : -1;
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

#endif
