// measure_job_rank.c -- what a process knows of the job that it is in; and `longca rank FOLDER`: one rank
// of a job (measure_job.c), which measures the points that it finds in the folder until it is told to
// leave, the folder is gone or the launcher has died.
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cmd.h"
#include "env.h"
#include "measure_cp.h"
#include "measure_job.h"

// What launchers say: Open MPI's, those that speak PMI, Slurm's. NULL outside a job.
static const char *first_of(const char *mpirun, const char *pmi, const char *slurm) {
  const char *said = getenv(mpirun);
  said = said ? said : getenv(pmi);
  return said ? said : getenv(slurm);
}

void measure_cp_local_gpu(void) {
  // A launcher that shows each process one GPU needs none.
  const char *local = first_of("OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "SLURM_LOCALID");
  if (local && env_gpu_count() > 1)
    setenv("LONGCA_DEVICE", local, 0);
}

int measure_cp_job_size(void) {
  const char *size = first_of("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS");
  return size ? atoi(size) : 0;
}

static const char *rank_name(void) {
  const char *name = first_of("OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID");
  return name ? name : "0";
}

// Waits for a point after number `last`. False when there will be none.
static bool next_point(const char *folder, int64_t last, struct job_point *next) {
  const pid_t launcher = getppid();
  double nap_us = 0;
  for (;;) {
    if (job_read(folder, "point", next, sizeof *next) && next->number != last)
      return next->number != JOB_END;
    if (errno == ENOENT)
      return false;
    if (getppid() != launcher)
      _exit(1); // the other ranks are not to be waited for
    job_nap(&nap_us);
  }
}

// Results are rank 0's to tell, and a failure that of the rank which is first. False: nobody heard it.
static bool hand_back(const char *folder, const char *rank, struct job_row *mine, bool failed) {
  static struct job_row told;
  const bool first = !strcmp(rank, "0");
  if (!first && !failed)
    return true;
  if (failed && job_read(folder, "row", &told, sizeof told) && told.number == mine->number)
    return true;
  if (!first) {
    char reason[ROW_REASON];
    snprintf(reason, sizeof reason, "%s", mine->row.reason);
    snprintf(mine->row.reason, sizeof mine->row.reason, "rank %.10s: %.230s", rank, reason);
  }
  return job_write(folder, "row", mine, sizeof *mine);
}

int cmd_rank(int argc, char **argv) {
  static struct job_point ask;
  static struct job_row answer;
  const char *rank = rank_name();
  if (argc != 2 || !job_read(argv[1], "point", &ask, sizeof ask)) {
    fputs("longca rank: one rank of a job that `longca run` starts; it is not for the hand.\n",
          stderr);
    return 2;
  }
  for (answer.number = 0; next_point(argv[1], answer.number, &ask);) {
    const struct point *p = &ask.point;
    struct row *row = &answer.row;
    answer.number = ask.number;
    point_to_row(p, row);
    if (p->place == ATTN_DEVICE)
      measure_cp_local_gpu();
    measure_cp_here(p, row);
    // After a failure ranks are no longer in step: this one leaves, and the launcher ends the others.
    const bool failed = !strcmp(row->status, "crash") || !strcmp(row->status, "oom");
    if (!hand_back(argv[1], rank, &answer, failed) || failed)
      return 1;
  }
  return 0;
}
