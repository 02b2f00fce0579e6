// loopback.c -- P ranks as threads of one process; a transfer is a copy.
//
// A posted send waits in the queue of its (channel, sender, receiver); the receiver copies while it waits
// for its group, and only then is the send done. So a cycle of sends that stand in no group hangs here
// as it would under NCCL. Every rank notes whom it waits for; when a wait has lasted too long, following
// the notes leads to the rank that does not wait, which is the one that is stuck.
#include <errno.h>
#include <omp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "../src/timer.h"
#include "loopback.h"

struct message {
  struct message *next;
  const void *data;
  int64_t bytes;
  bool done;
};

struct queue {
  struct message *first, **last;
};

struct world {
  int size, threads; // OpenMP threads of each rank
  double limit_s;
  int (*body)(struct cp_comm *, void *);
  void *context;
  const struct cp_memory *memory;
  const struct cp_transport *transport;
  pthread_mutex_t lock;
  pthread_cond_t change;
  bool failed, oom;
  char error[256];
  struct queue *queues; // [CP_CHANNELS][size][size] sender, receiver
  int *waits_for;       // [size] rank, or -1
  int arrived, round;   // barrier
  const void **shared;  // [size] what each rank shares
};

struct group {
  struct cp_op recv[CP_GROUP_MAX];
  struct message send[CP_GROUP_MAX];
  int to[CP_GROUP_MAX];
  int recvs, sends;
};

struct end {
  struct world *world;
  struct cp_comm comm;
  struct group group[CP_CHANNELS];
};

static struct queue *queue_of(struct world *w, int channel, int from, int to) {
  return &w->queues[((int64_t)channel * w->size + from) * w->size + to];
}

// All below: with the lock held.

static void fail(struct world *w, const char *error, bool oom) {
  if (!w->failed) {
    w->failed = true;
    w->oom = oom;
    snprintf(w->error, sizeof w->error, "%s", error);
  }
  pthread_cond_broadcast(&w->change);
}

static int report(const struct world *w) {
  attn_error_set(w->oom, "%s", w->error);
  return -1;
}

static void say_stuck(struct world *w, int rank, const char *what) {
  char text[256];
  int at = rank;
  for (int i = 0; i <= w->size && w->waits_for[at] >= 0; i++)
    at = w->waits_for[at];
  if (w->waits_for[at] < 0)
    snprintf(text, sizeof text, "rank %d is stuck: rank %d waited %g s %s", at, rank, w->limit_s,
             what);
  else
    snprintf(text, sizeof text, "ranks wait for one another, %d among them: rank %d waited %g s %s",
             at, rank, w->limit_s, what);
  fail(w, text, false);
}

// Sleeps until something changed. -1 when the world failed, or the deadline passed.
static int sleep_until(struct world *w, const struct timespec *deadline, int rank, int peer,
                       const char *what) {
  w->waits_for[rank] = peer;
  const int rc = w->failed ? 0 : pthread_cond_timedwait(&w->change, &w->lock, deadline);
  if (rc == ETIMEDOUT && !w->failed)
    say_stuck(w, rank, what);
  w->waits_for[rank] = -1;
  return w->failed ? report(w) : 0;
}

static struct timespec deadline_in(double seconds) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  const double whole = (double)(int64_t)seconds;
  t.tv_sec += (time_t)whole;
  t.tv_nsec += (long)((seconds - whole) * 1e9);
  if (t.tv_nsec >= 1000000000) {
    t.tv_nsec -= 1000000000;
    t.tv_sec++;
  }
  return t;
}

int cp_loopback_post(struct cp_comm *comm, enum cp_channel channel, const struct cp_op *ops,
                     int n) {
  struct end *end = comm->state;
  struct world *w = end->world;
  struct group *g = &end->group[channel];
  if (g->recvs || g->sends || n > CP_GROUP_MAX) {
    attn_error_set(false,
                   "rank %d posts a group of %d on channel %d, where one is in flight or too large",
                   comm->rank, n, channel);
    return -1;
  }
  if (comm->memory->sync(comm->stream)) // what was enqueued before may still write what is sent
    return -1;
  pthread_mutex_lock(&w->lock);
  for (int i = 0; i < n; i++) {
    if (!ops[i].send) {
      g->recv[g->recvs++] = ops[i];
      continue;
    }
    struct message *m = &g->send[g->sends];
    g->to[g->sends++] = ops[i].peer;
    *m = (struct message){NULL, ops[i].data, ops[i].bytes, false};
    struct queue *q = queue_of(w, channel, comm->rank, ops[i].peer);
    *(q->last ? q->last : &q->first) = m;
    q->last = &m->next;
    if (ops[i].peer != comm->rank)
      comm->bytes_sent += ops[i].bytes;
  }
  pthread_cond_broadcast(&w->change);
  pthread_mutex_unlock(&w->lock);
  return 0;
}

// Takes the next message of that sender; NULL with the error set.
static struct message *take(struct end *end, int channel, const struct cp_op *op,
                            const struct timespec *deadline) {
  struct world *w = end->world;
  struct queue *q = queue_of(w, channel, op->peer, end->comm.rank);
  char what[96];
  snprintf(what, sizeof what, "for %lld bytes from rank %d (channel %d)", (long long)op->bytes,
           op->peer, channel);
  while (!q->first)
    if (sleep_until(w, deadline, end->comm.rank, op->peer, what))
      return NULL;
  struct message *m = q->first;
  q->first = m->next;
  if (!q->first)
    q->last = NULL;
  if (m->bytes == op->bytes)
    return m;
  char text[200];
  snprintf(text, sizeof text,
           "rank %d expects %lld bytes from rank %d (channel %d), which sends %lld", end->comm.rank,
           (long long)op->bytes, op->peer, channel, (long long)m->bytes);
  fail(w, text, false);
  report(w);
  return NULL;
}

int cp_loopback_wait(struct cp_comm *comm, enum cp_channel channel) {
  struct end *end = comm->state;
  struct world *w = end->world;
  struct group *g = &end->group[channel];
  const struct timespec deadline = deadline_in(comm->limit_s);
  const double begin_us = timer_now_us();
  int status = 0;
  pthread_mutex_lock(&w->lock);
  for (int i = 0; i < g->recvs && !status; i++) {
    const struct cp_op *op = &g->recv[i];
    struct message *m = take(end, channel, op, &deadline);
    if (!m) {
      status = -1;
      break;
    }
    pthread_mutex_unlock(&w->lock);
    status =
        comm->memory->copy(op->data, op->bytes, m->data, op->bytes, op->bytes, 1, comm->stream) ||
        comm->memory->sync(comm->stream);
    pthread_mutex_lock(&w->lock);
    m->done = true;
    pthread_cond_broadcast(&w->change);
    if (op->peer != comm->rank)
      comm->bytes_received += op->bytes;
  }
  for (int i = 0; i < g->sends && !status; i++)
    while (!status && !g->send[i].done) {
      char what[64];
      snprintf(what, sizeof what, "for rank %d to receive (channel %d)", g->to[i], channel);
      status = sleep_until(w, &deadline, comm->rank, g->to[i], what);
    }
  pthread_mutex_unlock(&w->lock);
  if (!status)
    g->recvs = g->sends = 0;
  comm->wait_us += timer_now_us() - begin_us;
  return status ? -1 : 0;
}

int cp_loopback_barrier(struct cp_comm *comm) {
  struct world *w = ((struct end *)comm->state)->world;
  const struct timespec deadline = deadline_in(comm->limit_s);
  int status = comm->memory->sync(comm->stream);
  pthread_mutex_lock(&w->lock);
  const int round = w->round;
  if (++w->arrived == w->size) {
    w->arrived = 0;
    w->round++;
    pthread_cond_broadcast(&w->change);
  }
  w->waits_for[comm->rank] = comm->rank; // told apart from those that compute, in the message below
  while (!status && w->round == round && !w->failed)
    if (pthread_cond_timedwait(&w->change, &w->lock, &deadline) == ETIMEDOUT && !w->failed) {
      int missing = 0;
      while (missing + 1 < w->size && w->waits_for[missing] >= 0)
        missing++;
      char text[128];
      snprintf(text, sizeof text, "rank %d is stuck: rank %d waited %g s at a barrier", missing,
               comm->rank, w->limit_s);
      fail(w, text, false);
    }
  w->waits_for[comm->rank] = -1;
  if (w->failed)
    status = report(w);
  pthread_mutex_unlock(&w->lock);
  return status ? -1 : 0;
}

// Everyone shows where its data are, copies all, and goes on once all have copied.
int cp_loopback_share(struct cp_comm *comm, const void *mine, void *all, int64_t bytes) {
  struct world *w = ((struct end *)comm->state)->world;
  w->shared[comm->rank] = mine;
  if (cp_loopback_barrier(comm))
    return -1;
  for (int r = 0; r < w->size; r++)
    memcpy((char *)all + r * bytes, w->shared[r], (size_t)bytes);
  return cp_loopback_barrier(comm);
}

// One address space.
int cp_loopback_map(struct cp_comm *comm, const void *mine, const int *peers, int n,
                    void **theirs) {
  void **const all = malloc((size_t)comm->size * sizeof *all);
  const int status = all ? cp_loopback_share(comm, &mine, all, sizeof mine) : -1;
  for (int i = 0; i < n && !status; i++)
    theirs[i] = all[peers[i]];
  free(all);
  return status;
}

static void *thread_main(void *argument) {
  struct end *end = argument;
  struct world *w = end->world;
  omp_set_num_threads(w->threads);
  if (w->body(&end->comm, w->context)) {
    char text[256];
    snprintf(text, sizeof text, "%s", attn_error());
    const bool oom = attn_error_is_oom();
    pthread_mutex_lock(&w->lock);
    if (!w->failed) {
      char named[256];
      snprintf(named, sizeof named, "rank %d: %.230s", end->comm.rank, text);
      fail(w, named, oom);
    }
    pthread_mutex_unlock(&w->lock);
  }
  return NULL;
}

int cp_loopback_run(const struct cp_transport *transport, const struct cp_memory *memory, int ranks,
                    double limit_s, int (*body)(struct cp_comm *, void *), void *context) {
  struct world w = {.size = ranks,
                    .threads = omp_get_max_threads() / ranks,
                    .limit_s = limit_s,
                    .body = body,
                    .context = context,
                    .memory = memory,
                    .transport = transport};
  struct end *ends = calloc((size_t)ranks, sizeof *ends);
  pthread_t *threads = calloc((size_t)ranks, sizeof *threads);
  w.queues = calloc((size_t)CP_CHANNELS * ranks * ranks, sizeof *w.queues);
  w.waits_for = malloc((size_t)ranks * sizeof *w.waits_for);
  w.shared = calloc((size_t)ranks, sizeof *w.shared);
  w.threads = w.threads ? w.threads : 1;
  int started = 0, status = -1;
  pthread_mutex_init(&w.lock, NULL);
  pthread_condattr_t monotonic;
  pthread_condattr_init(&monotonic);
  pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
  pthread_cond_init(&w.change, &monotonic);
  pthread_condattr_destroy(&monotonic);
  if (!ends || !threads || !w.queues || !w.waits_for || !w.shared) {
    attn_error_set(true, "out of host memory for %d ranks", ranks);
  } else {
    for (int r = 0; r < ranks; r++)
      w.waits_for[r] = -1;
    for (int r = 0; r < ranks; r++) {
      ends[r].world = &w;
      ends[r].comm = (struct cp_comm){.transport = transport,
                                      .memory = memory,
                                      .rank = r,
                                      .size = ranks,
                                      .limit_s = limit_s,
                                      .state = &ends[r]};
    }
    while (started < ranks && !pthread_create(&threads[started], NULL, thread_main, &ends[started]))
      started++;
    if (started < ranks) {
      pthread_mutex_lock(&w.lock);
      fail(&w, "cannot start a thread for every rank", false);
      pthread_mutex_unlock(&w.lock);
    }
    for (int r = 0; r < started; r++)
      pthread_join(threads[r], NULL);
    status = w.failed ? report(&w) : 0;
  }
  pthread_cond_destroy(&w.change);
  pthread_mutex_destroy(&w.lock);
  free(ends);
  free(threads);
  free(w.queues);
  free(w.waits_for);
  free(w.shared);
  return status;
}

static int run(int ranks, double limit_s, int (*body)(struct cp_comm *, void *), void *context) {
  return cp_loopback_run(&cp_loopback, &cp_memory_host, ranks, limit_s, body, context);
}

const struct cp_transport cp_loopback = {.name = "loopback",
                                         .summary = "all ranks as threads of one process",
                                         .place = ATTN_HOST,
                                         .run = run,
                                         CP_LOOPBACK_TRANSFERS};
