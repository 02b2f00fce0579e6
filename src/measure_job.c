// measure_job.c -- points whose ranks are processes of their own: starts mpirun on `longca rank FOLDER`
// (measure_job_rank.c) and hands it point after point.
//
// To start a job takes longer than to measure most points (processes, CUDA, NCCL's connections), so the
// worker keeps its jobs, one a transport and number of ranks. A job in which a rank has failed is ended: a
// fault costs the row in flight. LONGCA_MPIRUN is how a job is started (experiments/cluster); by default
// mpirun on this host, with more ranks than cores if need be. The folder is in TMPDIR, which on a cluster
// must lie on storage that its hosts share.
#include "measure_job.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "measure_cp.h"
#include "timer.h"

#define MPIRUN "mpirun --oversubscribe --allow-run-as-root --bind-to none"

enum { JOBS_MAX = 4, LEAVE_S = 10 };

static struct job {
  pid_t pid; // of the shell that runs the launcher; 0: none
  char transport[POINT_NAME], folder[JOB_PATH - 80];
  int32_t ranks;
  int64_t number, used; // of its last point, and of all jobs' points then
} jobs[JOBS_MAX];

// ---- files ----------------------------------------------------------------------------------

bool job_write(const char *folder, const char *name, const void *data, size_t size) {
  char path[JOB_PATH], new_path[JOB_PATH + 16];
  snprintf(path, sizeof path, "%s/%s", folder, name);
  snprintf(new_path, sizeof new_path, "%s.%d", path, (int)getpid()); // two ranks may fail at once
  FILE *f = fopen(new_path, "wbe");
  bool written = f && fwrite(data, size, 1, f) == 1;
  written = (!f || !fclose(f)) && written;
  return written && !rename(new_path, path);
}

bool job_read(const char *folder, const char *name, void *data, size_t size) {
  char path[JOB_PATH];
  snprintf(path, sizeof path, "%s/%s", folder, name);
  errno = 0;
  const int fd = open(path, O_RDONLY | O_CLOEXEC);
  const ssize_t got = fd < 0 ? -1 : read(fd, data, size);
  if (fd >= 0)
    close(fd);
  return got == (ssize_t)size;
}

void job_nap(double *nap_us) {
  *nap_us = *nap_us < 1000 ? 1000 : *nap_us * 1.05;
  *nap_us = *nap_us > 20000 ? 20000 : *nap_us;
  usleep((useconds_t)*nap_us);
}

static void remove_folder(const char *folder) {
  DIR *d = opendir(folder);
  for (struct dirent *e; d && (e = readdir(d));)
    unlinkat(dirfd(d), e->d_name, 0); // of . and .. it says no
  if (d)
    closedir(d);
  rmdir(folder);
}

// ---- a job's life ---------------------------------------------------------------------------

// Exit code of a job that has left, -1 of one that a signal ended or that is not known; its folder goes.
static int bury(struct job *j, int status) {
  remove_folder(j->folder);
  j->pid = 0;
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static bool has_left(const struct job *j, int *status) {
  *status = -1;
  return waitpid(j->pid, status, WNOHANG) != 0;
}

// The shell lives as long as the launcher. When this worker dies it ends the launcher, and tidies up since
// nobody else will.
static pid_t start_shell(const struct job *j, const char *self) {
  static const char format[] = "trap 'gone=1; kill $! 2>/dev/null' TERM\n"
                               "%s -n %d \"$0\" rank \"$1\" >&2 &\n"
                               "[ \"$gone\" ] && kill $!\n"
                               "wait $!; code=$?\n"
                               "while kill -0 $! 2>/dev/null; do wait $!; code=$?; done\n"
                               "[ \"$gone\" ] && rm -r \"$1\"\n"
                               "exit $code\n";
  char command[4096];
  const char *set = getenv("LONGCA_MPIRUN");
  snprintf(command, sizeof command, format, set && *set ? set : MPIRUN, j->ranks);
  const pid_t parent = getpid(), pid = fork();
  if (pid)
    return pid;
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  if (getppid() != parent)
    _exit(1);
  execl("/bin/sh", "sh", "-c", command, self, j->folder, (char *)NULL);
  _exit(127);
}

// Starts job j for this point. 0, or -1 with errno.
static int start(struct job *j, const struct point *p) {
  const char *tmp = getenv("TMPDIR");
  char self[1024] = "";
  static struct job_row none;
  static struct job_point first;
  *j = (struct job){.ranks = p->ranks};
  snprintf(j->transport, sizeof j->transport, "%s", p->transport);
  snprintf(j->folder, sizeof j->folder, "%s/longca-XXXXXX", tmp && *tmp ? tmp : "/tmp");
  if (readlink("/proc/self/exe", self, sizeof self - 1) <= 0 || !mkdtemp(j->folder))
    return -1;
  if (job_write(j->folder, "row", &none, sizeof none) &&
      job_write(j->folder, "point", &first, sizeof first) && (j->pid = start_shell(j, self)) > 0)
    return 0;
  const int error = errno;
  bury(j, -1);
  errno = error;
  return -1;
}

static void ask_to_leave(const struct job *j) {
  static const struct job_point end = {.number = JOB_END};
  job_write(j->folder, "point", &end, sizeof end);
}

// Has the ranks leave by themselves, if they do; what they say is in our log by then.
static void end_job(struct job *j) {
  const double end_us = timer_now_us() + LEAVE_S * 1e6;
  double nap_us = 0;
  int status;
  ask_to_leave(j);
  while (!has_left(j, &status)) {
    if (timer_now_us() > end_us)
      kill(j->pid, SIGTERM);
    job_nap(&nap_us);
  }
  bury(j, status);
}

void measure_cp_end_jobs(void) {
  for (int i = 0; i < JOBS_MAX; i++)
    if (jobs[i].pid)
      ask_to_leave(&jobs[i]); // all at once
  for (int i = 0; i < JOBS_MAX; i++)
    if (jobs[i].pid)
      end_job(&jobs[i]);
}

// The job of this point; started, in the place of the one that was idle longest, if it does not run.
static struct job *job_of(const struct point *p) {
  static int64_t uses;
  struct job *oldest = &jobs[0];
  for (int i = 0, status; i < JOBS_MAX; i++) {
    struct job *j = &jobs[i];
    if (j->pid && has_left(j, &status))
      bury(j, status);
    if (j->pid && j->ranks == p->ranks && !strcmp(j->transport, p->transport)) {
      j->used = ++uses;
      return j;
    }
    if (!j->pid || (oldest->pid && j->used < oldest->used))
      oldest = j;
  }
  if (oldest->pid)
    end_job(oldest);
  if (start(oldest, p))
    return NULL;
  oldest->used = ++uses;
  return oldest;
}

// ---- a point --------------------------------------------------------------------------------

// The row that the job hands back; false with the launcher's exit code when it left without one.
static bool await(struct job *j, struct job_row *answer, int *code) {
  double nap_us = 0;
  for (;;) {
    int status;
    const bool left = has_left(j, &status);
    const bool told =
        job_read(j->folder, "row", answer, sizeof *answer) && answer->number == j->number;
    if (left)
      *code = bury(j, status);
    if (left || told)
      return told;
    job_nap(&nap_us);
  }
}

int measure_cp_job(const struct point *p, struct row *row) {
  static struct job_row answer;
  struct job_point ask = {.point = *p};
  struct job *j = job_of(p);
  int code;
  row_status(row, "crash", "");
  if (j)
    ask.number = ++j->number;
  if (!j || !job_write(j->folder, "point", &ask, sizeof ask)) {
    snprintf(row->reason, sizeof row->reason, "cannot write the job's files: %.100s",
             strerror(errno));
  } else if (await(j, &answer, &code)) {
    *row = answer.row;
  } else if (code == 127) {
    row_status(row, "crash", "there is no mpirun here (openmpi-bin), or LONGCA_MPIRUN is wrong");
  } else {
    snprintf(row->reason, sizeof row->reason, "the job left with exit code %d", code);
  }
  const bool sound = !strcmp(row->status, "ok") || !strcmp(row->status, "unsupported") ||
                     !strcmp(row->status, "wrong");
  if (j && j->pid && !sound)
    end_job(j);
  return *row->status ? 0 : -1; // rank 0 found the harness wrong: its reason stands in the row
}
