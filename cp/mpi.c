// mpi.c -- Open MPI on host memory. Every send is MPI_Issend, which ends only once its receive was posted:
// a cycle of sends outside one group hangs here, as under NCCL, instead of slipping through in an eager
// buffer. Open MPI moves data inside its calls alone, so nothing overlaps with the kernels; times on
// host ranks tell about the schedule, not about speed.
#include "mpi.h"

#include <sched.h>
#include <stdlib.h>

#include "../src/timer.h"

#define PART \
  ((int64_t)1 << 30) // MPI counts are ints: longer messages go in parts, which keep their order

struct channel {
  MPI_Comm comm;
  MPI_Request *requests;
  int *peers; // of each request
  int n, capacity;
  int64_t receives; // bytes
};

struct job {
  struct channel channels[CP_CHANNELS];
};

static int grow(struct channel *c) {
  const int capacity = c->capacity ? 2 * c->capacity : 16;
  MPI_Request *requests = realloc(c->requests, (size_t)capacity * sizeof *requests);
  if (requests)
    c->requests = requests;
  int *peers = realloc(c->peers, (size_t)capacity * sizeof *peers);
  if (peers)
    c->peers = peers;
  if (!requests || !peers) {
    attn_error_set(true, "out of host memory for transfers");
    return -1;
  }
  c->capacity = capacity;
  return 0;
}

static int start(struct cp_comm *comm, struct channel *c, const struct cp_op *op) {
  for (int64_t at = 0; at < op->bytes; at += PART) {
    const int n = (int)(op->bytes - at < PART ? op->bytes - at : PART);
    if (c->n == c->capacity && grow(c))
      return -1;
    char *data = (char *)op->data + at;
    c->peers[c->n] = op->peer;
    if (op->send ? MPI_Issend(data, n, MPI_BYTE, op->peer, 0, c->comm, &c->requests[c->n])
                 : MPI_Irecv(data, n, MPI_BYTE, op->peer, 0, c->comm, &c->requests[c->n])) {
      attn_error_set(false, "rank %d: MPI cannot start a transfer with rank %d", comm->rank,
                     op->peer);
      return -1;
    }
    c->n++;
  }
  return 0;
}

static int post(struct cp_comm *comm, enum cp_channel channel, const struct cp_op *ops, int n) {
  struct channel *c = &((struct job *)comm->state)->channels[channel];
  const double begin_us = timer_now_us();
  if (c->n) {
    attn_error_set(false, "rank %d posts a group on channel %d, where one is in flight", comm->rank,
                   channel);
    return -1;
  }
  for (int sends = 0; sends < 2; sends++) // receives first
    for (int i = 0; i < n; i++) {
      if (ops[i].send != sends)
        continue;
      if (start(comm, c, &ops[i]))
        return -1;
      if (ops[i].peer != comm->rank)
        *(ops[i].send ? &comm->bytes_sent : &c->receives) += ops[i].bytes;
    }
  comm->wait_us += timer_now_us() - begin_us;
  return 0;
}

static int wait_group(struct cp_comm *comm, enum cp_channel channel) {
  struct channel *c = &((struct job *)comm->state)->channels[channel];
  const double begin_us = timer_now_us();
  int done = 0;
  while (!done) {
    if (MPI_Testall(c->n, c->requests, &done, MPI_STATUSES_IGNORE)) {
      attn_error_set(false, "rank %d: an MPI transfer failed (channel %d)", comm->rank, channel);
      return -1;
    }
    if (!done && timer_now_us() - begin_us > comm->limit_s * 1e6) {
      int i = 0;
      for (int here = 1; i < c->n; i += here)
        if (MPI_Request_get_status(c->requests[i], &here, MPI_STATUS_IGNORE) || !here)
          break;
      attn_error_set(false, "rank %d waited %g s for rank %d (channel %d)", comm->rank,
                     comm->limit_s, c->peers[i < c->n ? i : 0], channel);
      return -1;
    }
    if (!done)
      sched_yield(); // there may be more ranks than cores
  }
  comm->bytes_received += c->receives;
  c->receives = 0;
  c->n = 0;
  comm->wait_us += timer_now_us() - begin_us;
  return 0;
}

static int share(struct cp_comm *comm, const void *mine, void *all, int64_t bytes) {
  return cp_mpirun_share(comm->rank, comm->size, mine, all, bytes, comm->limit_s);
}

static int barrier(struct cp_comm *comm) { return share(comm, NULL, NULL, 0); }

extern const struct cp_transport cp_mpi;

static int run(int ranks, double limit_s, int (*body)(struct cp_comm *, void *), void *context) {
  static struct job job;
  int rank;
  if (cp_mpirun_start(ranks, &rank))
    return -1;
  for (int i = 0; i < CP_CHANNELS && !job.channels[i].comm; i++)
    MPI_Comm_dup(MPI_COMM_WORLD, &job.channels[i].comm);
  struct cp_comm comm = {.transport = &cp_mpi,
                         .memory = &cp_memory_host,
                         .rank = rank,
                         .size = ranks,
                         .limit_s = limit_s,
                         .state = &job};
  if (!body(&comm, context))
    return 0;
  cp_mpirun_failed(rank);
  return -1;
}

const struct cp_transport cp_mpi = {.name = "mpi",
                                    .job = true,
                                    .summary = "Open MPI on host memory, a process a rank",
                                    .place = ATTN_HOST,
                                    .run = run,
                                    .post = post,
                                    .wait = wait_group,
                                    .all_gather = cp_all_gather_by_sends,
                                    .reduce_scatter = cp_reduce_scatter_by_sends,
                                    .barrier = barrier,
                                    .share = share};
