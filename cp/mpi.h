// mpi.h -- what the MPI and NCCL transports share (mpirun.c): this process as a rank of an mpirun job.
#ifndef LONGCA_CP_MPI_H
#define LONGCA_CP_MPI_H

#include <mpi.h>

#include "cp.h"

// Starts MPI once a process, and gives OpenMP its share of the host's cores where OMP_NUM_THREADS does not
// say. 0, or -1: the job does not have `ranks` processes, or has failed.
int cp_mpirun_start(int ranks, int *rank);
// all [size][bytes] = every rank's `mine`, or -1 and an error that names a rank that did not come within
// limit_s. bytes 0: a barrier.
int cp_mpirun_share(int rank, int size, const void *mine, void *all, int64_t bytes, double limit_s);
// After a failure: names the ranks of which none is heard within limit_s, which are dead or stuck, as
// "rank 2" or "ranks 2, 5"; "" when all have failed.
void cp_mpirun_silent(int rank, int size, double limit_s, char *text, size_t text_size);
// Failed: says so on stderr and to the others, who fail too where they wait at a barrier, and marks the
// process, so that it leaves without waiting for them; mpirun then ends those that are left.
void cp_mpirun_failed(int rank);
bool cp_mpirun_has_failed(void);

#endif
