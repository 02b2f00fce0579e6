// mpirun.c -- this process as a rank of a job that mpirun (or srun) started.
#include "mpi.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>

#include "../src/timer.h"

static bool failed;
static MPI_Comm control; // barriers; transfers have communicators of their own

// MPI_Finalize waits for all ranks, so a failed one leaves without it.
static void leave(void) {
  if (!failed)
    MPI_Finalize();
}

int cp_mpirun_start(int ranks, int *rank) {
  int started = 0, size = 0, provided;
  MPI_Initialized(&started);
  if (!started) {
    MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &provided);
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    MPI_Comm_dup(MPI_COMM_WORLD, &control);
    atexit(leave);
  }
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  MPI_Comm_rank(MPI_COMM_WORLD, rank);
  if (size == ranks)
    return 0;
  attn_error_set(false, "%d ranks are asked for, but mpirun started %d processes (mpirun -n %d)",
                 ranks, size, ranks);
  return -1;
}

int cp_mpirun_local(int *local_rank, int *local_size) {
  MPI_Comm host;
  if (MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &host)) {
    attn_error_set(false, "MPI cannot tell which ranks share a host");
    return -1;
  }
  MPI_Comm_rank(host, local_rank);
  MPI_Comm_size(host, local_size);
  MPI_Comm_free(&host);
  return 0;
}

// From each to each: unlike MPI_Allgather it knows who is missing.
int cp_mpirun_share(int rank, int size, const void *mine, void *all, int64_t bytes,
                    double limit_s) {
  MPI_Request *requests = malloc(2 * (size_t)size * sizeof *requests);
  if (!requests) {
    attn_error_set(true, "out of host memory at a barrier of %d ranks", size);
    return -1;
  }
  for (int r = 0; r < size; r++) {
    MPI_Irecv((char *)all + r * bytes, (int)bytes, MPI_BYTE, r, 0, control, &requests[r]);
    MPI_Isend(mine, (int)bytes, MPI_BYTE, r, 0, control, &requests[size + r]);
  }
  const double end_us = timer_now_us() + limit_s * 1e6;
  for (int done = 0; !done; sched_yield()) {
    if (MPI_Testall(2 * size, requests, &done, MPI_STATUSES_IGNORE)) {
      attn_error_set(false, "rank %d: MPI failed at a barrier", rank);
      break;
    }
    if (done) {
      free(requests);
      return 0;
    }
    if (timer_now_us() < end_us)
      continue;
    int missing = 0;
    for (int here = 1; here && missing < size; missing += here)
      if (MPI_Request_get_status(requests[missing], &here, MPI_STATUS_IGNORE))
        here = 0;
    attn_error_set(false, "rank %d is stuck: rank %d waited %g s at a barrier", missing, rank,
                   limit_s);
    break;
  }
  free(requests);
  return -1;
}

void cp_mpirun_failed(int rank) {
  failed = true;
  fprintf(stderr, "longca: rank %d: %s\n", rank, attn_error());
}
