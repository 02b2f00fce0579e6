// nccl.c -- NCCL on device memory, a process and a GPU a rank; MPI starts the job and carries the control
// data. Here: transfers, and the registry's entry.
//
// A group waits for an event of the compute stream, and the compute stream for an event of the group; the
// host waits for neither. What a wait cost is the time between two events around it on the compute stream.
//
// A transfer and the kernel that it hides under become ready at one moment, and a persistent kernel that starts
// first leaves no multiprocessor to NCCL's until it ends. So the compute stream waits until the group has had its
// turn: NCCL's kernel is next in line there, and ours comes by way of an event, and a little later still.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "mpi.h"
#include "nccl_job.h"

enum { PAUSE_NS = 2000 };

// Brackets every group. begin_group takes the lock, and end_group gives it back: what the compute stream
// wrote before is ready, and afterwards the group is known to the watchdog. NULL: failed, no lock.
static struct nccl_group *begin_group(struct nccl_job *j, enum cp_channel channel) {
  struct nccl_channel *c = &j->channels[channel];
  if (c->posted) {
    attn_error_set(false, "rank %d posts a group on channel %d, where one is in flight", j->rank,
                   channel);
    return NULL;
  }
  pthread_mutex_lock(&j->lock);
  cp_nccl_retire(c);
  while (c->end - c->first == NCCL_GROUPS_MAX && !atomic_load(&j->failed)) {
    struct nccl_group *oldest = &c->groups[c->first % NCCL_GROUPS_MAX];
    pthread_mutex_unlock(&j->lock);
    const int status = cuda_failed(cudaEventSynchronize(oldest->done), "a transfer");
    if (status)
      return NULL;
    pthread_mutex_lock(&j->lock);
    cp_nccl_retire(c);
  }
  struct nccl_group *g = &c->groups[c->end % NCCL_GROUPS_MAX];
  if (!atomic_load(&j->failed) &&
      !cuda_failed(cudaEventRecord(g->ready, j->compute), "cudaEventRecord") &&
      !cuda_failed(cudaStreamWaitEvent(c->stream, g->ready, 0), "cudaStreamWaitEvent") &&
      !cuda_failed(cudaEventRecord(c->turn, c->stream), "cudaEventRecord"))
    return g;
  if (atomic_load(&j->failed))
    nccl_report(j);
  pthread_mutex_unlock(&j->lock);
  return NULL;
}

static int end_group(struct nccl_job *j, struct nccl_channel *c, ncclResult_t result) {
  struct nccl_group *g = &c->groups[c->end % NCCL_GROUPS_MAX];
  const int status =
      cp_nccl_failed(j, g->peers, result) || cp_nccl_settle(j, c, g->peers, j->limit_s) ||
      cuda_failed(cudaEventRecord(g->done, c->stream), "cudaEventRecord") ||
      cuda_failed(cudaStreamWaitEvent(j->compute, c->turn, 0), "cudaStreamWaitEvent") ||
      cp_device_pause(PAUSE_NS, j->compute);
  if (!status) {
    c->end++;
    c->posted = true;
  }
  pthread_mutex_unlock(&j->lock);
  return status ? -1 : 0;
}

// "rank 1", "ranks 1, 3": each once, as many as there is room for.
static void name_peers(char *text, const struct cp_op *ops, int n) {
  int at = snprintf(text, NCCL_PEERS_TEXT, "rank");
  for (int i = 0, named = 0; i < n && at + 12 < NCCL_PEERS_TEXT; i++) {
    int j = 0;
    while (ops[j].peer != ops[i].peer)
      j++;
    if (j < i)
      continue;
    if (named == 1)
      memmove(text + 5, text + 4, (size_t)(at++ - 4) + 1), text[4] = 's';
    at += snprintf(text + at, (size_t)(NCCL_PEERS_TEXT - at), "%s %d", named++ ? "," : "",
                   ops[i].peer);
  }
}

static int post(struct cp_comm *comm, enum cp_channel channel, const struct cp_op *ops, int n) {
  struct nccl_job *j = comm->state;
  struct nccl_channel *c = &j->channels[channel];
  struct nccl_group *g = begin_group(j, channel);
  if (!g)
    return -1;
  name_peers(g->peers, ops, n);
  ncclResult_t result = ncclGroupStart();
  for (int i = 0; i < n && nccl_fine(result); i++) {
    const struct cp_op *op = &ops[i];
    const size_t bytes = (size_t)op->bytes;
    result = op->send ? ncclSend(op->data, bytes, ncclInt8, op->peer, c->comm, c->stream)
                      : ncclRecv(op->data, bytes, ncclInt8, op->peer, c->comm, c->stream);
    if (op->peer != comm->rank)
      *(op->send ? &comm->bytes_sent : &comm->bytes_received) += op->bytes;
  }
  const ncclResult_t ended = ncclGroupEnd(); // after an error too
  return end_group(j, c, nccl_fine(result) ? ended : result);
}

// Adds up what the waits cost; the compute stream has passed them.
static int settle_waits(struct cp_comm *comm) {
  struct nccl_job *j = comm->state;
  for (int i = 0; i < j->waits; i++) {
    float ms = 0;
    if (cuda_failed(cudaEventElapsedTime(&ms, j->wait_begin[i], j->wait_end[i]),
                    "cudaEventElapsedTime"))
      return -1;
    comm->wait_us += 1000.0 * ms;
  }
  j->waits = 0;
  return 0;
}

static int wait_group(struct cp_comm *comm, enum cp_channel channel) {
  struct nccl_job *j = comm->state;
  struct nccl_channel *c = &j->channels[channel];
  c->posted = false;
  if (atomic_load(&j->failed))
    return nccl_report(j);
  if (j->waits == NCCL_WAITS_MAX &&
      (cuda_failed(cudaStreamSynchronize(j->compute), "the compute stream") || settle_waits(comm)))
    return -1;
  const int i = j->waits++;
  const cudaEvent_t done = c->groups[(c->end - 1) % NCCL_GROUPS_MAX].done;
  return cuda_failed(cudaEventRecord(j->wait_begin[i], j->compute), "cudaEventRecord") ||
                 cuda_failed(cudaStreamWaitEvent(j->compute, done, 0), "cudaStreamWaitEvent") ||
                 cuda_failed(cudaEventRecord(j->wait_end[i], j->compute), "cudaEventRecord")
             ? -1
             : 0;
}

static int all_gather(struct cp_comm *comm, enum cp_channel channel, const void *send, void *recv,
                      int64_t bytes) {
  struct nccl_job *j = comm->state;
  struct nccl_channel *c = &j->channels[channel];
  struct nccl_group *g = begin_group(j, channel);
  if (!g)
    return -1;
  snprintf(g->peers, sizeof g->peers, "all ranks");
  comm->bytes_sent += bytes * (comm->size - 1);
  comm->bytes_received += bytes * (comm->size - 1);
  return end_group(j, c, ncclAllGather(send, recv, (size_t)bytes, ncclInt8, c->comm, c->stream));
}

static int reduce_scatter(struct cp_comm *comm, enum cp_channel channel, const float *send,
                          float *recv, int64_t n) {
  struct nccl_job *j = comm->state;
  struct nccl_channel *c = &j->channels[channel];
  struct nccl_group *g = begin_group(j, channel);
  if (!g)
    return -1;
  snprintf(g->peers, sizeof g->peers, "all ranks");
  comm->bytes_sent += 4 * n * (comm->size - 1);
  comm->bytes_received += 4 * n * (comm->size - 1);
  return end_group(
      j, c, ncclReduceScatter(send, recv, (size_t)n, ncclFloat32, ncclSum, c->comm, c->stream));
}

static int share(struct cp_comm *comm, const void *mine, void *all, int64_t bytes) {
  struct nccl_job *j = comm->state;
  int status = cuda_failed(cudaStreamSynchronize(j->compute), "the compute stream");
  for (int i = 0; i < CP_CHANNELS && !status; i++)
    status = cuda_failed(cudaStreamSynchronize(j->channels[i].stream), "a transfer");
  if (atomic_load(&j->failed))
    return nccl_report(j);
  // A rank that waits for a transfer comes late, and says what is wrong before this gives up.
  const double limit_s = 2 * comm->limit_s + 1;
  return status || settle_waits(comm) ||
                 cp_mpirun_share(comm->rank, comm->size, mine, all, bytes, limit_s)
             ? -1
             : 0;
}

static int barrier(struct cp_comm *comm) { return share(comm, NULL, NULL, 0); }

static int begin_timing(struct cp_comm *comm, double spin_us) {
  struct nccl_job *j = comm->state;
  return cp_device_pause((int64_t)(1000 * spin_us), j->compute) ||
                 cuda_failed(cudaEventRecord(j->timing_begin, j->compute), "cudaEventRecord")
             ? -1
             : 0;
}

static int end_timing(struct cp_comm *comm, double *time_us) {
  struct nccl_job *j = comm->state;
  float ms = 0;
  if (cuda_failed(cudaEventRecord(j->timing_end, j->compute), "cudaEventRecord") ||
      cuda_failed(cudaStreamSynchronize(j->compute), "the compute stream") ||
      cuda_failed(cudaEventElapsedTime(&ms, j->timing_begin, j->timing_end),
                  "cudaEventElapsedTime"))
    return -1;
  *time_us = 1000.0 * ms;
  return 0;
}

extern const struct cp_transport cp_nccl;

static struct nccl_job one = {.lock = PTHREAD_MUTEX_INITIALIZER}; // of this process

// At exit, before MPI leaves and CUDA is gone: both were there before the handler was.
static void leave(void) {
  if (cp_mpirun_has_failed() || !cp_nccl_disconnect(&one))
    return;
  cp_mpirun_failed(one.rank);
  fflush(NULL);
  _exit(1); // an exit code cannot be changed here otherwise
}

// Connects once: the links stay for the runs that follow.
static int connect_once(struct nccl_job *j) {
  static bool connected;
  if (connected)
    return 0;
  connected = true;
  return cp_nccl_connect(j) || atexit(leave);
}

static int run(int ranks, double limit_s, int (*body)(struct cp_comm *, void *), void *context) {
  int rank;
  if (cp_mpirun_start(ranks, &rank))
    return -1;
  struct nccl_job *const j = &one;
  pthread_mutex_lock(&j->lock);
  j->rank = rank;
  j->size = ranks;
  j->limit_s = limit_s;
  pthread_mutex_unlock(&j->lock);
  struct cp_comm comm = {.transport = &cp_nccl,
                         .memory = &cp_memory_device,
                         .rank = rank,
                         .size = ranks,
                         .limit_s = limit_s,
                         .state = j};
  const int status = connect_once(j);
  comm.stream = j->compute;
  if (!status && !body(&comm, context))
    return 0;
  // The process leaves soon; what it holds is not given back, since that may block.
  if (atomic_load(&j->failed)) {
    char silent[NCCL_PEERS_TEXT];
    cp_mpirun_silent(rank, ranks, limit_s, silent, sizeof silent);
    attn_error_set(false, "%s%s%s", j->error, *silent ? "; no answer from " : "", silent);
  }
  cp_mpirun_failed(rank);
  return -1;
}

const struct cp_transport cp_nccl = {.name = "nccl",
                                     .summary = "NCCL on device memory, a process and a GPU a rank",
                                     .place = ATTN_DEVICE,
                                     .job = true,
                                     .run = run,
                                     .post = post,
                                     .wait = wait_group,
                                     .all_gather = all_gather,
                                     .reduce_scatter = reduce_scatter,
                                     .barrier = barrier,
                                     .begin_timing = begin_timing,
                                     .end_timing = end_timing,
                                     .map = cp_nccl_map,
                                     .unmap = cp_nccl_unmap,
                                     .share = share};
