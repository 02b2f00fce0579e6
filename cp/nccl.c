// nccl.c -- NCCL on device memory, a process and a GPU a rank; MPI starts the job and carries the control
// data. A communicator and a stream a channel, made at the start in the same order everywhere, so
// that transfers of different purposes run beside one another and beside the kernels.
//
// A group waits for an event of the compute stream, and the compute stream for an event of the group; the
// host waits for neither. What a wait cost is the time between two events around it on the compute stream.
// A watchdog thread asks NCCL for errors and looks for groups that take too long; then it says so, aborts
// the communicators, and whatever the host waits for returns.
#include <cuda_runtime_api.h>
#include <nccl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "../src/timer.h"
#include "mpi.h"

enum { WAITS_MAX = 512, PEERS_TEXT = 64 };

struct channel {
  ncclComm_t comm;
  cudaStream_t stream;
  cudaEvent_t ready, done;
  _Atomic double posted_us; // of the group in flight; 0: none
  char peers[PEERS_TEXT];   // of that group, for messages
};

struct job {
  int rank, size, device;
  double limit_s;
  cudaStream_t compute;
  struct channel channels[CP_CHANNELS];
  cudaEvent_t wait_begin[WAITS_MAX], wait_end[WAITS_MAX];
  int waits;
  pthread_t watchdog;
  atomic_bool stop, failed;
  char error[256];
};

static int cuda(cudaError_t status, const char *what) {
  if (status == cudaSuccess)
    return 0;
  attn_error_set(status == cudaErrorMemoryAllocation, "%s: %s", what, cudaGetErrorString(status));
  return -1;
}

static int nccl(ncclResult_t status, const char *what) {
  if (status == ncclSuccess || status == ncclInProgress)
    return 0;
  attn_error_set(false, "%s: %s (%s)", what, ncclGetErrorString(status), ncclGetLastError(NULL));
  return -1;
}

static int fail_job(struct job *j) {
  attn_error_set(false, "%s", j->error);
  return -1;
}

static void nap(void) { nanosleep(&(struct timespec){.tv_nsec = 20000}, NULL); }

// Communicators do not block: what was asked for is done once this returns 0.
static int settle(struct job *j, struct channel *c, const char *what) {
  ncclResult_t state = ncclInProgress;
  const double end_us = timer_now_us() + j->limit_s * 1e6;
  while (state == ncclInProgress) {
    if (atomic_load(&j->failed))
      return fail_job(j);
    if (nccl(ncclCommGetAsyncError(c->comm, &state), what) || nccl(state, what))
      return -1;
    if (state == ncclInProgress && timer_now_us() > end_us) {
      attn_error_set(false, "rank %d: %s was not done after %g s (%s)", j->rank, what, j->limit_s,
                     c->peers);
      return -1;
    }
    if (state == ncclInProgress)
      nap();
  }
  return 0;
}

static void *watch(void *argument) {
  struct job *j = argument;
  cudaSetDevice(j->device);
  while (!atomic_load(&j->stop)) {
    nanosleep(&(struct timespec){.tv_nsec = 50000000}, NULL);
    for (int i = 0; i < CP_CHANNELS; i++) {
      struct channel *c = &j->channels[i];
      const double posted_us = atomic_load(&c->posted_us);
      ncclResult_t state = ncclSuccess;
      if (posted_us == 0 || cudaEventQuery(c->done) == cudaSuccess)
        continue;
      ncclCommGetAsyncError(c->comm, &state);
      const bool late = timer_now_us() - posted_us > j->limit_s * 1e6;
      if (!late && (state == ncclSuccess || state == ncclInProgress))
        continue;
      snprintf(j->error, sizeof j->error, "rank %d: a transfer with rank %s (channel %d) %s",
               j->rank, c->peers, i, late ? "was not done in time" : ncclGetErrorString(state));
      atomic_store(&j->failed, true);
      for (int k = 0; k < CP_CHANNELS; k++)
        ncclCommAbort(j->channels[k].comm);
      return NULL;
    }
  }
  return NULL;
}

// Brackets every group: what the compute stream wrote is ready, and the group is known to the watchdog.
static int begin_group(struct job *j, struct channel *c) {
  if (atomic_load(&j->failed))
    return fail_job(j);
  return cuda(cudaEventRecord(c->ready, j->compute), "cudaEventRecord") ||
                 cuda(cudaStreamWaitEvent(c->stream, c->ready, 0), "cudaStreamWaitEvent")
             ? -1
             : 0;
}

static int end_group(struct job *j, struct channel *c) {
  if (settle(j, c, "starting a transfer") ||
      cuda(cudaEventRecord(c->done, c->stream), "cudaEventRecord"))
    return -1;
  atomic_store(&c->posted_us, timer_now_us());
  return 0;
}

static int post(struct cp_comm *comm, enum cp_channel channel, const struct cp_op *ops, int n) {
  struct job *j = comm->state;
  struct channel *c = &j->channels[channel];
  if (begin_group(j, c) || nccl(ncclGroupStart(), "ncclGroupStart"))
    return -1;
  size_t at = 0;
  *c->peers = 0;
  for (int i = 0; i < n; i++) {
    const struct cp_op *op = &ops[i];
    if (at + 8 < sizeof c->peers)
      at += (size_t)snprintf(c->peers + at, sizeof c->peers - at, "%s%d", at ? " " : "", op->peer);
    if (nccl(op->send
                 ? ncclSend(op->data, (size_t)op->bytes, ncclInt8, op->peer, c->comm, c->stream)
                 : ncclRecv(op->data, (size_t)op->bytes, ncclInt8, op->peer, c->comm, c->stream),
             op->send ? "ncclSend" : "ncclRecv")) {
      ncclGroupEnd();
      return -1;
    }
    if (op->peer != comm->rank)
      *(op->send ? &comm->bytes_sent : &comm->bytes_received) += op->bytes;
  }
  return nccl(ncclGroupEnd(), "ncclGroupEnd") || end_group(j, c) ? -1 : 0;
}

// Adds up what the waits cost; the compute stream has passed them.
static int settle_waits(struct cp_comm *comm) {
  struct job *j = comm->state;
  for (int i = 0; i < j->waits; i++) {
    float ms = 0;
    if (cuda(cudaEventElapsedTime(&ms, j->wait_begin[i], j->wait_end[i]), "cudaEventElapsedTime"))
      return -1;
    comm->wait_us += 1000.0 * ms;
  }
  j->waits = 0;
  return 0;
}

static int wait_group(struct cp_comm *comm, enum cp_channel channel) {
  struct job *j = comm->state;
  struct channel *c = &j->channels[channel];
  if (atomic_load(&j->failed))
    return fail_job(j);
  if (j->waits == WAITS_MAX &&
      (cuda(cudaStreamSynchronize(j->compute), "the compute stream") || settle_waits(comm)))
    return -1;
  const int i = j->waits++;
  return cuda(cudaEventRecord(j->wait_begin[i], j->compute), "cudaEventRecord") ||
                 cuda(cudaStreamWaitEvent(j->compute, c->done, 0), "cudaStreamWaitEvent") ||
                 cuda(cudaEventRecord(j->wait_end[i], j->compute), "cudaEventRecord")
             ? -1
             : 0;
}

static int all_gather(struct cp_comm *comm, enum cp_channel channel, const void *send, void *recv,
                      int64_t bytes) {
  struct job *j = comm->state;
  struct channel *c = &j->channels[channel];
  snprintf(c->peers, sizeof c->peers, "any: all-gather");
  if (begin_group(j, c) ||
      nccl(ncclAllGather(send, recv, (size_t)bytes, ncclInt8, c->comm, c->stream), "ncclAllGather"))
    return -1;
  comm->bytes_sent += bytes * (comm->size - 1);
  comm->bytes_received += bytes * (comm->size - 1);
  return end_group(j, c);
}

static int reduce_scatter(struct cp_comm *comm, enum cp_channel channel, const float *send,
                          float *recv, int64_t n) {
  struct job *j = comm->state;
  struct channel *c = &j->channels[channel];
  snprintf(c->peers, sizeof c->peers, "any: reduce-scatter");
  if (begin_group(j, c) ||
      nccl(ncclReduceScatter(send, recv, (size_t)n, ncclFloat32, ncclSum, c->comm, c->stream),
           "ncclReduceScatter"))
    return -1;
  comm->bytes_sent += 4 * n * (comm->size - 1);
  comm->bytes_received += 4 * n * (comm->size - 1);
  return end_group(j, c);
}

static int share(struct cp_comm *comm, const void *mine, void *all, int64_t bytes) {
  struct job *j = comm->state;
  if (cuda(cudaStreamSynchronize(j->compute), "the compute stream"))
    return -1;
  for (int i = 0; i < CP_CHANNELS; i++) {
    if (cuda(cudaStreamSynchronize(j->channels[i].stream), "a transfer"))
      return -1;
    atomic_store(&j->channels[i].posted_us, 0);
  }
  if (atomic_load(&j->failed))
    return fail_job(j);
  return settle_waits(comm) ||
                 cp_mpirun_share(comm->rank, comm->size, mine, all, bytes, comm->limit_s)
             ? -1
             : 0;
}

static int barrier(struct cp_comm *comm) { return share(comm, NULL, NULL, 0); }

static int connect_ranks(struct job *j) {
  ncclUniqueId mine[CP_CHANNELS], *all = malloc(sizeof mine * (size_t)j->size);
  int low, high, status = 0;
  memset(mine, 0, sizeof mine);
  for (int i = 0; !j->rank && !status && i < CP_CHANNELS; i++)
    status = nccl(ncclGetUniqueId(&mine[i]), "ncclGetUniqueId");
  if (!all)
    attn_error_set(true, "out of host memory for %d ranks", j->size);
  status = !all || status || cuda(cudaGetDevice(&j->device), "cudaGetDevice") ||
           cp_mpirun_share(j->rank, j->size, mine, all, sizeof mine, j->limit_s) ||
           cuda(cudaStreamCreateWithFlags(&j->compute, cudaStreamNonBlocking), "a stream") ||
           cuda(cudaDeviceGetStreamPriorityRange(&low, &high), "stream priorities");
  for (int i = 0; !status && i < CP_CHANNELS; i++) {
    struct channel *c = &j->channels[i];
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    snprintf(c->peers, sizeof c->peers, "all ranks");
    // Transfers before kernels: a block of a kernel that is waiting would hold up the next rank.
    status =
        cuda(cudaStreamCreateWithPriority(&c->stream, cudaStreamNonBlocking, high), "a stream") ||
        cuda(cudaEventCreateWithFlags(&c->ready, cudaEventDisableTiming), "an event") ||
        cuda(cudaEventCreateWithFlags(&c->done, cudaEventDisableTiming), "an event") ||
        nccl(ncclCommInitRankConfig(&c->comm, j->size, all[i], j->rank, &config),
             "ncclCommInitRankConfig") ||
        settle(j, c, "connecting");
  }
  for (int i = 0; !status && i < WAITS_MAX; i++)
    status = cuda(cudaEventCreate(&j->wait_begin[i]), "an event") ||
             cuda(cudaEventCreate(&j->wait_end[i]), "an event");
  free(all);
  return status ? -1 : 0;
}

static void disconnect(struct job *j) {
  atomic_store(&j->stop, true);
  pthread_join(j->watchdog, NULL);
  for (int i = 0; i < CP_CHANNELS; i++) {
    struct channel *c = &j->channels[i];
    if (!atomic_load(&j->failed)) {
      ncclCommFinalize(c->comm);
      settle(j, c, "leaving");
      ncclCommDestroy(c->comm);
    }
    cudaStreamDestroy(c->stream);
    cudaEventDestroy(c->ready);
    cudaEventDestroy(c->done);
  }
  for (int i = 0; i < WAITS_MAX; i++) {
    cudaEventDestroy(j->wait_begin[i]);
    cudaEventDestroy(j->wait_end[i]);
  }
  cudaStreamDestroy(j->compute);
}

extern const struct cp_transport cp_nccl;

static int run(int ranks, double limit_s, int (*body)(struct cp_comm *, void *), void *context) {
  int rank;
  if (cp_mpirun_start(ranks, &rank))
    return -1;
  static struct job job;
  struct job *const j = &job;
  memset(j, 0, sizeof *j);
  j->rank = rank;
  j->size = ranks;
  j->limit_s = limit_s;
  struct cp_comm comm = {.transport = &cp_nccl,
                         .memory = &cp_memory_device,
                         .rank = rank,
                         .size = ranks,
                         .limit_s = limit_s,
                         .state = j};
  // After a failure the process leaves soon; what it holds is not given back, since that may block.
  if (connect_ranks(j) || pthread_create(&j->watchdog, NULL, watch, j)) {
    cp_mpirun_failed(rank);
    return -1;
  }
  comm.stream = j->compute;
  if (body(&comm, context)) {
    if (atomic_load(&j->failed))
      fail_job(j);
    cp_mpirun_failed(rank);
    return -1;
  }
  disconnect(j);
  return 0;
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
                                     .share = share};
