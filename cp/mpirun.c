// mpirun.c -- this process as a rank of a job that mpirun (or srun) started.
#include "mpi.h"

#include <omp.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>

#include "../src/timer.h"

static bool failed;
// Barriers; and roll calls, which must not meet them. Transfers have communicators of their own.
static MPI_Comm control, roll;

// MPI_Finalize waits for all ranks, so a failed one leaves without it.
static void leave(void) {
  if (!failed)
    MPI_Finalize();
}

// Ranks of one host would take all of its cores each.
static void share_cores(void) {
  MPI_Comm host;
  int ranks = 1;
  if (getenv("OMP_NUM_THREADS") ||
      MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &host))
    return;
  MPI_Comm_size(host, &ranks);
  MPI_Comm_free(&host);
  const int threads = omp_get_num_procs() / ranks; // mpirun may have bound us, or not
  omp_set_num_threads(threads > 1 ? threads : 1);
}

int cp_mpirun_start(int ranks, int *rank) {
  int started = 0, size = 0, provided;
  if (failed) {
    attn_error_set(false, "this process has failed before");
    return -1;
  }
  MPI_Initialized(&started);
  if (!started) {
    MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &provided);
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    MPI_Comm_dup(MPI_COMM_WORLD, &control);
    MPI_Comm_dup(MPI_COMM_WORLD, &roll);
    share_cores();
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
    int gave_up = 0;
    MPI_Status from;
    if (!MPI_Iprobe(MPI_ANY_SOURCE, 0, roll, &gave_up, &from) && gave_up) {
      char
          rest[64]; // stays until that rank had its time to say why: mpirun ends all with the first
      cp_mpirun_silent(rank, size, limit_s, rest, sizeof rest);
      attn_error_set(false, "rank %d has failed", from.MPI_SOURCE);
      break;
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

// Tells everybody that this rank has failed. A dead rank does not hear it, which is no matter.
static void call_roll(int rank, int size) {
  static bool called;
  // NOLINTNEXTLINE(clang-analyzer-optin.mpi.MPI-Checker): nobody waits for these
  for (int r = 0; r < size && !called; r++) {
    MPI_Request request;
    if (r != rank && !MPI_Isend(NULL, 0, MPI_BYTE, r, 0, roll, &request))
      MPI_Request_free(&request);
  }
  called = true;
}

void cp_mpirun_silent(int rank, int size, double limit_s, char *text, size_t text_size) {
  const double end_us = timer_now_us() + limit_s * 1e6;
  bool *heard = calloc((size_t)size, sizeof *heard);
  int missing = size - 1;
  *text = 0;
  call_roll(rank, size);
  while (heard && missing && timer_now_us() < end_us) {
    int here = 0;
    MPI_Status from;
    sched_yield();
    if (MPI_Iprobe(MPI_ANY_SOURCE, 0, roll, &here, &from) || !here ||
        MPI_Recv(NULL, 0, MPI_BYTE, from.MPI_SOURCE, 0, roll, MPI_STATUS_IGNORE))
      continue;
    missing -= !heard[from.MPI_SOURCE];
    heard[from.MPI_SOURCE] = true;
  }
  size_t at = 0;
  for (int r = 0; heard && r < size && at + 12 < text_size; r++)
    if (r != rank && !heard[r])
      at += (size_t)snprintf(text + at, text_size - at, "%s%d",
                             at            ? ", "
                             : missing > 1 ? "ranks "
                                           : "rank ",
                             r);
  free(heard);
}

void cp_mpirun_failed(int rank) {
  int size;
  failed = true;
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  fprintf(stderr, "longca: rank %d: %s\n", rank, attn_error());
  call_roll(rank, size);
}

bool cp_mpirun_has_failed(void) { return failed; }
