// worker.c -- forks, feeds and buries the processes that measure.
//
//   parent --- struct point --->  worker      over a socket pair; a worker that dies closes its end,
//          <-- struct reply ----              one that hangs is killed at the limit
//
// A worker dies with its parent (PR_SET_PDEATHSIG), is the kernel's first choice when memory runs out
// (oom_score_adj), and may not allocate more than was free when it began, so that most lacks of memory
// are an honest NULL. It has a process group of its own: ^C reaches the parent alone, which decides, and
// jobs that it started (measure_job.c) are in it: a worker is gone once its group is.
#define _GNU_SOURCE
#include "worker.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "measure_cp.h"
#include "sys.h"
#include "timer.h"

// That a worker may take to leave by itself, which is what its jobs may take and a bit; and that what it
// started may take after its death.
enum { LEAVE_S = 15, GROUP_S = 10 };

struct reply {
  int harness; // measure() said -1
  struct row row;
};

// ---- in the child ---------------------------------------------------------------------------

static void write_text(const char *path, const char *text) {
  FILE *f = fopen(path, "we");
  if (f) {
    fputs(text, f);
    fclose(f);
  }
}

static void limit_memory(enum attn_place place) {
#ifndef __SANITIZE_ADDRESS__ // its shadow is larger than any memory
  // CUDA reserves address space far beyond what it uses, so device workers are not limited.
  const double free_bytes = sys_field_bytes("/proc/meminfo", "MemAvailable");
  const double held_bytes = sys_field_bytes("/proc/self/status", "VmData");
  if (place == ATTN_HOST && free_bytes > 0 && held_bytes >= 0) {
    const rlim_t bytes = (rlim_t)(free_bytes + held_bytes);
    setrlimit(RLIMIT_DATA, &(struct rlimit){bytes, bytes});
  }
#endif
}

static bool read_all(int fd, void *to, size_t size) {
  for (size_t at = 0; at < size;) {
    const ssize_t r = read(fd, (char *)to + at, size - at);
    if (r < 0 && errno == EINTR)
      continue;
    if (r <= 0)
      return false;
    at += (size_t)r;
  }
  return true;
}

static bool write_all(int fd, const void *from, size_t size) {
  for (size_t at = 0; at < size;) {
    const ssize_t w = send(fd, (const char *)from + at, size - at, MSG_NOSIGNAL);
    if (w < 0 && errno == EINTR)
      continue;
    if (w <= 0)
      return false;
    at += (size_t)w;
  }
  return true;
}

static void child(int fd, int log, pid_t parent, worker_measure measure, enum attn_place place) {
  setpgid(0, 0);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) // it died before the line above
    _exit(1);
  for (int s = 1; s < NSIG; s++)
    signal(s, SIG_DFL);
  setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
  write_text("/proc/self/oom_score_adj", "1000");
  limit_memory(place);
  dup2(log, STDOUT_FILENO);
  dup2(log, STDERR_FILENO);
  struct point p;
  static struct reply reply;
  while (read_all(fd, &p, sizeof p)) {
    point_to_row(&p, &reply.row);
    reply.harness = measure(&p, &reply.row) != 0;
    fflush(NULL);
    if (!write_all(fd, &reply, sizeof reply))
      break;
  }
  measure_cp_end_jobs();
  _exit(0);
}

// ---- in the parent --------------------------------------------------------------------------

static int start(struct worker *w, worker_measure measure, const struct point *p, int close_fd) {
  int ends[2];
  prctl(PR_SET_CHILD_SUBREAPER, 1); // what a worker leaves behind becomes ours to wait for
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends))
    return -1;
  w->log = memfd_create("worker", MFD_CLOEXEC);
  fflush(NULL); // or the child's exit would print our buffers again
  const pid_t parent = getpid();
  w->pid = fork();
  if (w->pid == 0) {
    close(ends[0]);
    if (close_fd >= 0)
      close(close_fd);
    child(ends[1], w->log, parent, measure, p->place);
  }
  setpgid(w->pid, w->pid); // as it does itself: whoever is first
  close(ends[1]);
  w->fd = ends[0];
  if (w->pid > 0)
    return 0;
  w->pid = 0;
  close(w->fd);
  close(w->log);
  return -1;
}

// Waits for the worker's end, for `patience_s` seconds by itself and then with a kill; and for its group's.
static int bury(struct worker *w, double patience_s) {
  int status = 0;
  close(w->fd);
  const double end_us = timer_now_us() + patience_s * 1e6;
  pid_t got;
  while ((got = waitpid(w->pid, &status, WNOHANG)) == 0 && timer_now_us() < end_us)
    usleep(500);
  if (got != w->pid) {
    kill(w->pid, SIGKILL);
    while (waitpid(w->pid, &status, 0) < 0 && errno == EINTR)
      ;
  }
  const double group_end_us = timer_now_us() + GROUP_S * 1e6;
  while (waitpid(-w->pid, NULL, WNOHANG) >= 0) {
    if (timer_now_us() > group_end_us)
      kill(-w->pid, SIGKILL);
    usleep(500);
  }
  close(w->log);
  w->pid = 0;
  return status;
}

void worker_end(struct worker *w) {
  if (w->pid)
    bury(w, LEAVE_S);
}

static double oom_kills(void) {
  FILE *f = fopen("/proc/vmstat", "re");
  char name[64];
  double n = 0, kills = 0;
  while (f && fscanf(f, "%63s %lf", name, &n) == 2)
    if (!strcmp(name, "oom_kill"))
      kills = n;
  if (f)
    fclose(f);
  return kills;
}

// Keeps what the worker printed and quotes its last line: the last one of our own, where launchers say more.
static void read_log(struct worker *w, struct row *row, const char *path) {
  char text[8192];
  const off_t size = lseek(w->log, 0, SEEK_END);
  const off_t from = size > (off_t)sizeof text - 1 ? size - (off_t)sizeof text + 1 : 0;
  const ssize_t got = size > 0 ? pread(w->log, text, sizeof text - 1, from) : 0;
  if (got <= 0)
    return;
  text[got] = 0;
  if (path) {
    const char *base = strrchr(path, '/');
    char folder[1024];
    snprintf(folder, sizeof folder, "%.*s", base ? (int)(base - path) : 0, path);
    mkdir(folder, 0777); // most runs need none
    write_text(path, text);
    snprintf(row->log, sizeof row->log, "%.200s", base ? base + 1 : path);
  }
  const char *last = text, *own = NULL;
  for (char *line, *rest = text; (line = strsep(&rest, "\n"));) {
    last = *line ? line : last;
    own = strncmp(line, "longca", 6) ? own : line;
  }
  last = own ? own : last;
  const size_t at = strlen(row->reason);
  snprintf(row->reason + at, sizeof row->reason - at, "; it last said: %.120s", last);
}

static void died(struct row *row, int status, double kills_before) {
  char *const reason = row->reason;
  const size_t size = sizeof row->reason;
  const char *what = "crash";
  if (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL && oom_kills() > kills_before) {
    what = "oom";
    snprintf(reason, size, "the kernel killed the worker for lack of memory");
  } else if (WIFSIGNALED(status)) {
    snprintf(reason, size, "the worker died of signal %d (%s)", WTERMSIG(status),
             strsignal(WTERMSIG(status)));
  } else {
    snprintf(reason, size, "the worker left with exit code %d", WEXITSTATUS(status));
  }
  snprintf(row->status, sizeof row->status, "%s", what);
}

enum answer { ANSWERED, SILENT, GONE, STOPPED };

static enum answer await(struct worker *w, struct reply *reply, double limit_s,
                         const volatile int *stop) {
  const double end_us = timer_now_us() + limit_s * 1e6;
  size_t at = 0;
  while (at < sizeof *reply) {
    if (stop && *stop)
      return STOPPED;
    const double left_ms = (end_us - timer_now_us()) * 1e-3;
    if (left_ms <= 0)
      return SILENT;
    struct pollfd pfd = {.fd = w->fd, .events = POLLIN};
    // In slices, so that a stop that comes between the test above and poll() is seen.
    if (poll(&pfd, 1, left_ms < 200 ? (int)left_ms + 1 : 200) <= 0)
      continue;
    const ssize_t r = recv(w->fd, (char *)reply + at, sizeof *reply - at, MSG_DONTWAIT);
    if (r == 0 || (r < 0 && errno != EINTR && errno != EAGAIN))
      return GONE;
    at += r > 0 ? (size_t)r : 0;
  }
  return ANSWERED;
}

enum worker_end worker_run(struct worker *w, worker_measure measure, const struct point *p,
                           struct row *row, int close_fd, const char *log_path,
                           const volatile int *stop) {
  static struct reply reply;
  point_to_row(p, row);
  if (!w->pid && start(w, measure, p, close_fd)) {
    snprintf(row->reason, sizeof row->reason, "cannot start a worker: %s", strerror(errno));
    return WORKER_HARNESS;
  }
  // Its log is this point's alone: the file's place is shared with the worker, which waits.
  if (ftruncate(w->log, 0) || lseek(w->log, 0, SEEK_SET)) {
  } // it is memory
  const double kills = oom_kills();
  const enum answer answer =
      write_all(w->fd, p, sizeof *p) ? await(w, &reply, p->limit_s, stop) : GONE;
  if (answer == ANSWERED) {
    *row = reply.row;
    const bool fine =
        !reply.harness && (!strcmp(row->status, "ok") || !strcmp(row->status, "unsupported"));
    if (!fine)
      read_log(w, row, log_path);
    // A GPU that lacked memory is whole, and its worker holds the inputs of the points that follow.
    const bool lives = fine || (!reply.harness && !strcmp(row->status, "oom"));
    if (!lives || (p->place == ATTN_HOST && !measure_cp_is_job(p)))
      worker_end(w);
    return reply.harness ? WORKER_HARNESS : WORKER_ROW;
  }
  if (answer == STOPPED) {
    bury(w, 0);
    return WORKER_STOPPED;
  }
  if (answer == SILENT) {
    snprintf(row->status, sizeof row->status, "timeout");
    snprintf(row->reason, sizeof row->reason, "not done after %g s", p->limit_s);
  }
  const int log = dup(w->log);
  // A worker that closed its end is about to die; one that does not was not asked to live on.
  const int status = bury(w, answer == GONE ? 2 : 0);
  w->log = log;
  if (answer == GONE)
    died(row, status, kills);
  read_log(w, row, log_path);
  close(log);
  return WORKER_ROW;
}
