// nccl_watch.c -- no job hangs: a watchdog thread asks NCCL for errors and looks for groups that take too long
// from when they could start; then it says so, aborts the communicators, and whatever the host waits for
// returns.
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "../src/timer.h"
#include "nccl_job.h"

static struct nccl_job *job; // of this process, for a signal's handler

// Aborting hangs too, then: the process ends all the same, and says why.
static void on_alarm(int signal) {
  static const char begin[] = "longca: ", end[] = "\n";
  const bool said = write(STDERR_FILENO, begin, sizeof begin - 1) > 0 &&
                    write(STDERR_FILENO, job->error, strlen(job->error)) > 0 &&
                    write(STDERR_FILENO, end, 1) > 0;
  _exit(said ? 1 : 2);
}

static void *abort_comm(void *comm) {
  ncclCommAbort(comm);
  return NULL;
}

// With the lock held. Nobody touches the communicators afterwards. All are aborted at once: one's kernel may
// wait on the device for another's, and aborting waits for kernels.
static void give_up(struct nccl_job *j, const char *peers, const char *why) {
  pthread_t threads[CP_CHANNELS];
  bool started[CP_CHANNELS];
  if (atomic_load(&j->failed))
    return;
  snprintf(j->error, sizeof j->error, "a transfer with %s %s", peers, why);
  atomic_store(&j->failed, true);
  job = j;
  signal(SIGALRM, on_alarm);
  alarm(10 + 2 * (unsigned)j->limit_s);
  for (int i = 0; i < CP_CHANNELS; i++)
    started[i] =
        j->channels[i].comm && !pthread_create(&threads[i], NULL, abort_comm, j->channels[i].comm);
  for (int i = 0; i < CP_CHANNELS; i++)
    if (started[i])
      pthread_join(threads[i], NULL);
}

int cp_nccl_failed(struct nccl_job *j, const char *peers, ncclResult_t status) {
  char text[128];
  if (nccl_fine(status))
    return 0;
  snprintf(text, sizeof text, "failed: %s", ncclGetErrorString(status));
  give_up(j, peers, text);
  return nccl_report(j);
}

void cp_nccl_retire(struct nccl_channel *c) {
  while (c->first < c->end &&
         cudaEventQuery(c->groups[c->first % NCCL_GROUPS_MAX].done) == cudaSuccess) {
    c->first++;
    c->since_us = 0;
  }
}

// Why the first group in flight will not end, or NULL. A kernel before it may take as long as it likes.
static const char *trouble(struct nccl_job *j, struct nccl_channel *c, char *text, size_t size) {
  const struct nccl_group *g = &c->groups[c->first % NCCL_GROUPS_MAX];
  ncclResult_t state = ncclSuccess;
  if (ncclCommGetAsyncError(c->comm, &state) != ncclSuccess ||
      (state != ncclSuccess && state != ncclInProgress)) {
    snprintf(text, size, "failed: %s", ncclGetErrorString(state));
    return text;
  }
  if (cudaEventQuery(g->ready) != cudaSuccess)
    return NULL;
  if (c->since_us == 0)
    c->since_us = timer_now_us();
  snprintf(text, size, "was not done %g s after it could start", j->limit_s);
  return timer_now_us() - c->since_us > j->limit_s * 1e6 ? text : NULL;
}

static void *watch(void *argument) {
  struct nccl_job *j = argument;
  char text[128];
  cudaSetDevice(j->device);
  while (!atomic_load(&j->stop) && !atomic_load(&j->failed)) {
    nanosleep(&(struct timespec){.tv_nsec = 50000000}, NULL);
    pthread_mutex_lock(&j->lock);
    for (int i = 0; i < CP_CHANNELS && !atomic_load(&j->failed); i++) {
      struct nccl_channel *c = &j->channels[i];
      cp_nccl_retire(c);
      const char *why = c->first < c->end ? trouble(j, c, text, sizeof text) : NULL;
      if (why)
        give_up(j, c->groups[c->first % NCCL_GROUPS_MAX].peers, why);
    }
    pthread_mutex_unlock(&j->lock);
  }
  return NULL;
}

int cp_nccl_watch_begin(struct nccl_job *j) {
  if (!pthread_create(&j->watchdog, NULL, watch, j))
    return 0;
  attn_error_set(false, "cannot start the watchdog of the transfers");
  return -1;
}

void cp_nccl_watch_end(struct nccl_job *j) {
  atomic_store(&j->stop, true);
  pthread_join(j->watchdog, NULL);
}

// A group is mostly under way after some microseconds, and a sleep takes a hundred.
enum { SPIN_US = 1000 };

int cp_nccl_settle(struct nccl_job *j, struct nccl_channel *c, const char *peers, double limit_s) {
  const double begin_us = timer_now_us(), end_us = begin_us + limit_s * 1e6;
  char text[128];
  for (;;) {
    ncclResult_t state = ncclInProgress;
    if (atomic_load(&j->failed))
      return nccl_report(j);
    const ncclResult_t asked = ncclCommGetAsyncError(c->comm, &state);
    if (asked == ncclSuccess && state == ncclSuccess)
      return 0;
    if (asked != ncclSuccess || state != ncclInProgress) {
      snprintf(text, sizeof text, "failed: %s", ncclGetErrorString(asked ? asked : state));
      give_up(j, peers, text);
    } else if (timer_now_us() > end_us) {
      snprintf(text, sizeof text, "did not start within %g s", limit_s);
      give_up(j, peers, text);
    }
    pthread_mutex_unlock(&j->lock);
    if (timer_now_us() < begin_us + SPIN_US)
      sched_yield();
    else
      nanosleep(&(struct timespec){.tv_nsec = 20000}, NULL);
    pthread_mutex_lock(&j->lock);
  }
}
