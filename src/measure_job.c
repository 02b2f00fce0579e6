// measure_job.c -- a point whose ranks are processes of their own: starts mpirun on `longca rank`, and
// is that command.
//
// LONGCA_MPIRUN is how a job is started (experiments/cluster); by default mpirun on this host, with more
// ranks than cores if need be. Point and row go through files, which on a cluster must lie on storage
// that its hosts share: TMPDIR.
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cmd.h"
#include "env.h"
#include "measure_cp.h"

#define MPIRUN "mpirun --oversubscribe --allow-run-as-root --bind-to none"

static bool write_file(const char *path, const void *data, size_t size) {
  FILE *f = fopen(path, "wbe");
  const bool written = f && fwrite(data, size, 1, f) == 1;
  return (!f || !fclose(f)) && written;
}

static bool read_file(const char *path, void *data, size_t size) {
  FILE *f = fopen(path, "rbe");
  const bool read = f && fread(data, size, 1, f) == 1;
  if (f)
    fclose(f);
  return read;
}

// Runs the job in this process's worker; it dies with the worker. Exit code, or -1.
static int run_job(const char *command) {
  const pid_t parent = getpid(), pid = fork();
  if (pid == 0) {
    prctl(PR_SET_PDEATHSIG, SIGTERM); // a worker that is killed for time takes mpirun along
    if (getppid() != parent)
      _exit(1);
    execl("/bin/sh", "sh", "-c", command, (char *)NULL);
    _exit(127);
  }
  int status;
  while (pid > 0 && waitpid(pid, &status, 0) < 0)
    if (errno != EINTR)
      return -1;
  return pid > 0 && WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

int measure_cp_job(const struct point *p, struct row *row) {
  const char *tmp = getenv("TMPDIR"), *set = getenv("LONGCA_MPIRUN");
  char folder[512], point_path[600], row_path[600], self[1024] = "", command[4096];
  snprintf(folder, sizeof folder, "%s/longca-XXXXXX", tmp && *tmp ? tmp : "/tmp");
  const ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
  snprintf(row->status, sizeof row->status, "crash");
  if (n <= 0 || !mkdtemp(folder)) {
    snprintf(row->reason, sizeof row->reason, "cannot make a folder for the job's files: %.100s",
             strerror(errno));
    return 0;
  }
  snprintf(point_path, sizeof point_path, "%s/point", folder);
  snprintf(row_path, sizeof row_path, "%s/row", folder);
  snprintf(command, sizeof command, "exec %s -n %d '%s' rank '%s' '%s' >&2",
           set && *set ? set : MPIRUN, p->ranks, self, point_path, row_path);
  struct row answer;
  const bool sent = write_file(point_path, p, sizeof *p);
  const int code = sent ? run_job(command) : -1;
  if (code == 0 && read_file(row_path, &answer, sizeof answer))
    *row = answer;
  else if (code == 127)
    snprintf(row->reason, sizeof row->reason,
             "there is no mpirun here (openmpi-bin), or LONGCA_MPIRUN is wrong");
  else
    snprintf(row->reason, sizeof row->reason,
             sent ? "the job left with exit code %d" : "cannot write the job's files", code);
  unlink(point_path);
  unlink(row_path);
  rmdir(folder);
  return *row->status ? 0 : -1; // rank 0 found the harness wrong: its reason stands in the row
}

void measure_cp_local_gpu(void) {
  // The launchers' names for the rank within the host. A launcher that shows each process one GPU needs none.
  static const char *const names[] = {"OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID",
                                      "SLURM_LOCALID"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++)
    if (getenv(names[i]) && env_gpu_count() > 1)
      setenv("LONGCA_DEVICE", getenv(names[i]), 0);
}

int cmd_rank(int argc, char **argv) {
  static struct point p;
  static struct row row;
  if (argc != 3 || !read_file(argv[1], &p, sizeof p)) {
    fputs("longca rank: one rank of a job that `longca run` starts; it is not for the hand.\n",
          stderr);
    return 2;
  }
  point_to_row(&p, &row);
  if (p.place == ATTN_DEVICE)
    measure_cp_local_gpu();
  measure_cp_here(&p, &row);
  // Refusals stand in every rank's row, results in rank 0's: the others have nothing to say.
  const char *rank =
      getenv("OMPI_COMM_WORLD_RANK") ? getenv("OMPI_COMM_WORLD_RANK") : getenv("PMI_RANK");
  if (!rank)
    rank = getenv("SLURM_PROCID");
  if (rank && strcmp(rank, "0") != 0) {
    if (strcmp(row.status, "crash") != 0 && strcmp(row.status, "oom") != 0)
      return 0;
    fprintf(stderr, "longca rank %s: %s\n", rank, row.reason);
    return 1;
  }
  return write_file(argv[2], &row, sizeof row) ? 0 : 1;
}
