// nccl.c -- NCCL on device memory, a process and a GPU a rank; MPI starts the job and carries the control
// data. A communicator and a stream a channel, made at the start in the same order everywhere, so
// that transfers of different purposes run beside one another and beside the kernels.
//
// A group waits for an event of the compute stream, and the compute stream for an event of the group; the
// host waits for neither. What a wait cost is the time between two events around it on the compute stream.
// A watchdog thread asks NCCL for errors and looks for groups that take too long from when they could
// start; then it says so, aborts the communicators, and whatever the host waits for returns. NCCL does
// not want two threads in one communicator, nor anyone in an aborted one: every call is made under `lock`.
#include <cuda_runtime_api.h>
#include <math.h>
#include <nccl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "../src/timer.h"
#include "mpi.h"

enum {
  WAITS_MAX = 512,
  GROUPS_MAX = 128, // of a channel: the host may be that far ahead of the GPU
  PEERS_TEXT = 64,
  CONNECT_S = 60 // code is loaded and links are measured, however short a transfer may be
};

struct group {
  cudaEvent_t ready, done;
  char peers[PEERS_TEXT]; // "rank 1", "ranks 1, 3", for messages
};

struct channel {
  ncclComm_t comm;
  cudaStream_t stream;
  struct group groups[GROUPS_MAX]; // in flight on the device: [first, end), modulo GROUPS_MAX
  int64_t first, end;
  double since_us; // when the first of them was seen to be able to start; 0: not yet
  bool posted;     // and not waited for
};

struct job {
  int rank, size, device;
  double limit_s;
  cudaStream_t compute;
  struct channel channels[CP_CHANNELS];
  cudaEvent_t wait_begin[WAITS_MAX], wait_end[WAITS_MAX];
  int waits;
  pthread_t watchdog;
  pthread_mutex_t lock; // of the communicators and the groups in flight
  atomic_bool stop, failed;
  char error[256];
};

static struct job job; // one a process

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

// Aborting hangs too, then: the process ends all the same, and says why.
static void on_alarm(int signal) {
  static const char begin[] = "longca: ", end[] = "\n";
  const bool said = write(STDERR_FILENO, begin, sizeof begin - 1) > 0 &&
                    write(STDERR_FILENO, job.error, strlen(job.error)) > 0 &&
                    write(STDERR_FILENO, end, 1) > 0;
  _exit(said ? 1 : 2);
}

static void *abort_comm(void *comm) {
  ncclCommAbort(comm);
  return NULL;
}

// With the lock held. Nobody touches the communicators afterwards. All are aborted at once: one's kernel may
// wait on the device for another's, and aborting waits for kernels.
static void give_up(struct job *j, const char *peers, const char *why) {
  pthread_t threads[CP_CHANNELS];
  bool started[CP_CHANNELS];
  if (atomic_load(&j->failed))
    return;
  snprintf(j->error, sizeof j->error, "a transfer with %s %s", peers, why);
  atomic_store(&j->failed, true);
  signal(SIGALRM, on_alarm);
  alarm(10 + 2 * (unsigned)j->limit_s);
  for (int i = 0; i < CP_CHANNELS; i++)
    started[i] =
        j->channels[i].comm && !pthread_create(&threads[i], NULL, abort_comm, j->channels[i].comm);
  for (int i = 0; i < CP_CHANNELS; i++)
    if (started[i])
      pthread_join(threads[i], NULL);
}

// Forgets the groups that are done.
static void retire(struct channel *c) {
  while (c->first < c->end &&
         cudaEventQuery(c->groups[c->first % GROUPS_MAX].done) == cudaSuccess) {
    c->first++;
    c->since_us = 0;
  }
}

// Why the first group in flight will not end, or NULL. A kernel before it may take as long as it likes.
static const char *trouble(struct job *j, struct channel *c, char *text, size_t size) {
  const struct group *g = &c->groups[c->first % GROUPS_MAX];
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
  struct job *j = argument;
  char text[128];
  cudaSetDevice(j->device);
  while (!atomic_load(&j->stop) && !atomic_load(&j->failed)) {
    nanosleep(&(struct timespec){.tv_nsec = 50000000}, NULL);
    pthread_mutex_lock(&j->lock);
    for (int i = 0; i < CP_CHANNELS && !atomic_load(&j->failed); i++) {
      struct channel *c = &j->channels[i];
      retire(c);
      const char *why = c->first < c->end ? trouble(j, c, text, sizeof text) : NULL;
      if (why)
        give_up(j, c->groups[c->first % GROUPS_MAX].peers, why);
    }
    pthread_mutex_unlock(&j->lock);
  }
  return NULL;
}

// Communicators do not block: what was asked for is done once this returns 0. With the lock held, which it
// lets go between looks.
static int settle(struct job *j, struct channel *c, const char *peers, double limit_s) {
  const double end_us = timer_now_us() + limit_s * 1e6;
  char text[128];
  for (;;) {
    ncclResult_t state = ncclInProgress;
    if (atomic_load(&j->failed))
      return fail_job(j);
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
    nanosleep(&(struct timespec){.tv_nsec = 20000}, NULL);
    pthread_mutex_lock(&j->lock);
  }
}

// Brackets every group. begin_group takes the lock, and end_group gives it back: what the compute stream
// wrote before is ready, and afterwards the group is known to the watchdog. NULL: failed, no lock.
static struct group *begin_group(struct job *j, enum cp_channel channel) {
  struct channel *c = &j->channels[channel];
  if (c->posted) {
    attn_error_set(false, "rank %d posts a group on channel %d, where one is in flight", j->rank,
                   channel);
    return NULL;
  }
  pthread_mutex_lock(&j->lock);
  retire(c);
  while (c->end - c->first == GROUPS_MAX && !atomic_load(&j->failed)) {
    struct group *oldest = &c->groups[c->first % GROUPS_MAX];
    pthread_mutex_unlock(&j->lock);
    const int status = cuda(cudaEventSynchronize(oldest->done), "a transfer");
    if (status)
      return NULL;
    pthread_mutex_lock(&j->lock);
    retire(c);
  }
  struct group *g = &c->groups[c->end % GROUPS_MAX];
  if (!atomic_load(&j->failed) && !cuda(cudaEventRecord(g->ready, j->compute), "cudaEventRecord") &&
      !cuda(cudaStreamWaitEvent(c->stream, g->ready, 0), "cudaStreamWaitEvent"))
    return g;
  if (atomic_load(&j->failed))
    fail_job(j);
  pthread_mutex_unlock(&j->lock);
  return NULL;
}

static int end_group(struct job *j, struct channel *c, int status) {
  struct group *g = &c->groups[c->end % GROUPS_MAX];
  if (!status)
    status = settle(j, c, g->peers, j->limit_s) ||
             cuda(cudaEventRecord(g->done, c->stream), "cudaEventRecord");
  if (!status) {
    c->end++;
    c->posted = true;
  }
  pthread_mutex_unlock(&j->lock);
  return status ? -1 : 0;
}

// "rank 1", "ranks 1, 3": each once, as many as there is room for.
static void name_peers(char *text, const struct cp_op *ops, int n) {
  int at = snprintf(text, PEERS_TEXT, "rank");
  for (int i = 0, named = 0; i < n && at + 12 < PEERS_TEXT; i++) {
    int j = 0;
    while (ops[j].peer != ops[i].peer)
      j++;
    if (j < i)
      continue;
    if (named == 1)
      memmove(text + 5, text + 4, (size_t)(at++ - 4) + 1), text[4] = 's';
    at += snprintf(text + at, (size_t)(PEERS_TEXT - at), "%s %d", named++ ? "," : "", ops[i].peer);
  }
}

static int post(struct cp_comm *comm, enum cp_channel channel, const struct cp_op *ops, int n) {
  struct job *j = comm->state;
  struct channel *c = &j->channels[channel];
  struct group *g = begin_group(j, channel);
  if (!g)
    return -1;
  name_peers(g->peers, ops, n);
  int status = nccl(ncclGroupStart(), "ncclGroupStart");
  for (int i = 0; i < n && !status; i++) {
    const struct cp_op *op = &ops[i];
    const size_t bytes = (size_t)op->bytes;
    status = nccl(op->send ? ncclSend(op->data, bytes, ncclInt8, op->peer, c->comm, c->stream)
                           : ncclRecv(op->data, bytes, ncclInt8, op->peer, c->comm, c->stream),
                  op->send ? "ncclSend" : "ncclRecv");
    if (op->peer != comm->rank)
      *(op->send ? &comm->bytes_sent : &comm->bytes_received) += op->bytes;
  }
  const ncclResult_t ended = ncclGroupEnd(); // after an error too
  return end_group(j, c, status ? status : nccl(ended, "ncclGroupEnd"));
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
  c->posted = false;
  if (atomic_load(&j->failed))
    return fail_job(j);
  if (j->waits == WAITS_MAX &&
      (cuda(cudaStreamSynchronize(j->compute), "the compute stream") || settle_waits(comm)))
    return -1;
  const int i = j->waits++;
  const cudaEvent_t done = c->groups[(c->end - 1) % GROUPS_MAX].done;
  return cuda(cudaEventRecord(j->wait_begin[i], j->compute), "cudaEventRecord") ||
                 cuda(cudaStreamWaitEvent(j->compute, done, 0), "cudaStreamWaitEvent") ||
                 cuda(cudaEventRecord(j->wait_end[i], j->compute), "cudaEventRecord")
             ? -1
             : 0;
}

static int all_gather(struct cp_comm *comm, enum cp_channel channel, const void *send, void *recv,
                      int64_t bytes) {
  struct job *j = comm->state;
  struct channel *c = &j->channels[channel];
  struct group *g = begin_group(j, channel);
  if (!g)
    return -1;
  snprintf(g->peers, sizeof g->peers, "all ranks");
  comm->bytes_sent += bytes * (comm->size - 1);
  comm->bytes_received += bytes * (comm->size - 1);
  return end_group(j, c,
                   nccl(ncclAllGather(send, recv, (size_t)bytes, ncclInt8, c->comm, c->stream),
                        "ncclAllGather"));
}

static int reduce_scatter(struct cp_comm *comm, enum cp_channel channel, const float *send,
                          float *recv, int64_t n) {
  struct job *j = comm->state;
  struct channel *c = &j->channels[channel];
  struct group *g = begin_group(j, channel);
  if (!g)
    return -1;
  snprintf(g->peers, sizeof g->peers, "all ranks");
  comm->bytes_sent += 4 * n * (comm->size - 1);
  comm->bytes_received += 4 * n * (comm->size - 1);
  return end_group(
      j, c,
      nccl(ncclReduceScatter(send, recv, (size_t)n, ncclFloat32, ncclSum, c->comm, c->stream),
           "ncclReduceScatter"));
}

static int share(struct cp_comm *comm, const void *mine, void *all, int64_t bytes) {
  struct job *j = comm->state;
  int status = cuda(cudaStreamSynchronize(j->compute), "the compute stream");
  for (int i = 0; i < CP_CHANNELS && !status; i++)
    status = cuda(cudaStreamSynchronize(j->channels[i].stream), "a transfer");
  if (atomic_load(&j->failed))
    return fail_job(j);
  // A rank that waits for a transfer comes late, and says what is wrong before this gives up.
  const double limit_s = 2 * comm->limit_s + 1;
  return status || settle_waits(comm) ||
                 cp_mpirun_share(comm->rank, comm->size, mine, all, bytes, limit_s)
             ? -1
             : 0;
}

static int barrier(struct cp_comm *comm) { return share(comm, NULL, NULL, 0); }

static int connect_channel(struct job *j, struct channel *c, ncclUniqueId id, int priority) {
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;
  if (cuda(cudaStreamCreateWithPriority(&c->stream, cudaStreamNonBlocking, priority), "a stream"))
    return -1;
  for (int i = 0; i < GROUPS_MAX; i++)
    if (cuda(cudaEventCreateWithFlags(&c->groups[i].ready, cudaEventDisableTiming), "an event") ||
        cuda(cudaEventCreateWithFlags(&c->groups[i].done, cudaEventDisableTiming), "an event"))
      return -1;
  pthread_mutex_lock(&j->lock);
  const int status = nccl(ncclCommInitRankConfig(&c->comm, j->size, id, j->rank, &config),
                          "ncclCommInitRankConfig") ||
                     settle(j, c, "all ranks, to connect,", fmax(j->limit_s, CONNECT_S));
  pthread_mutex_unlock(&j->lock);
  return status ? -1 : 0;
}

// NCCL takes a GPU once. Found here, the error names the ranks.
static int check_gpus(struct job *j) {
  struct place {
    char host[64], gpu[32];
  } mine = {0}, *all = calloc((size_t)j->size, sizeof *all);
  gethostname(mine.host, sizeof mine.host - 1);
  int status =
      !all || cuda(cudaGetDevice(&j->device), "cudaGetDevice") ||
      cuda(cudaDeviceGetPCIBusId(mine.gpu, sizeof mine.gpu, j->device), "a GPU's address") ||
      cp_mpirun_share(j->rank, j->size, &mine, all, sizeof mine, j->limit_s);
  for (int a = 0; a < j->size && !status; a++)
    for (int b = 0; b < a && !status; b++)
      if (!strcmp(all[a].host, all[b].host) && !strcmp(all[a].gpu, all[b].gpu)) {
        attn_error_set(false,
                       "ranks %d and %d are both on GPU %s of %s: a rank needs a GPU of its own", b,
                       a, all[a].gpu, all[a].host);
        status = -1;
      }
  free(all);
  return status ? -1 : 0;
}

static int connect_ranks(struct job *j) {
  ncclUniqueId mine[CP_CHANNELS], *all = malloc(sizeof mine * (size_t)j->size);
  int low, high, status = check_gpus(j);
  memset(mine, 0, sizeof mine);
  for (int i = 0; !j->rank && !status && i < CP_CHANNELS; i++)
    status = nccl(ncclGetUniqueId(&mine[i]), "ncclGetUniqueId");
  if (!all)
    attn_error_set(true, "out of host memory for %d ranks", j->size);
  status = !all || status ||
           cp_mpirun_share(j->rank, j->size, mine, all, sizeof mine, j->limit_s) ||
           cuda(cudaStreamCreateWithFlags(&j->compute, cudaStreamNonBlocking), "a stream") ||
           cuda(cudaDeviceGetStreamPriorityRange(&low, &high), "stream priorities");
  // Transfers before kernels: a block of a kernel that is waiting would hold up the next rank.
  for (int i = 0; !status && i < CP_CHANNELS; i++)
    status = connect_channel(j, &j->channels[i], all[i], high);
  for (int i = 0; !status && i < WAITS_MAX; i++)
    status = cuda(cudaEventCreate(&j->wait_begin[i]), "an event") ||
             cuda(cudaEventCreate(&j->wait_end[i]), "an event");
  free(all);
  if (!status && pthread_create(&j->watchdog, NULL, watch, j)) {
    attn_error_set(false, "cannot start the watchdog of the transfers");
    status = -1;
  }
  return status ? -1 : 0;
}

static int disconnect(struct job *j) {
  int status = 0;
  atomic_store(&j->stop, true);
  pthread_join(j->watchdog, NULL);
  pthread_mutex_lock(&j->lock);
  for (int i = 0; i < CP_CHANNELS && !status; i++) {
    struct channel *c = &j->channels[i];
    status = atomic_load(&j->failed) ? fail_job(j)
                                     : nccl(ncclCommFinalize(c->comm), "ncclCommFinalize") ||
                                           settle(j, c, "all ranks, to leave,", j->limit_s) ||
                                           nccl(ncclCommDestroy(c->comm), "ncclCommDestroy");
  }
  pthread_mutex_unlock(&j->lock);
  if (status)
    return -1;
  for (int i = 0; i < CP_CHANNELS; i++) {
    struct channel *c = &j->channels[i];
    cudaStreamDestroy(c->stream);
    for (int k = 0; k < GROUPS_MAX; k++) {
      cudaEventDestroy(c->groups[k].ready);
      cudaEventDestroy(c->groups[k].done);
    }
  }
  for (int i = 0; i < WAITS_MAX; i++) {
    cudaEventDestroy(j->wait_begin[i]);
    cudaEventDestroy(j->wait_end[i]);
  }
  cudaStreamDestroy(j->compute);
  return 0;
}

extern const struct cp_transport cp_nccl;

static int run(int ranks, double limit_s, int (*body)(struct cp_comm *, void *), void *context) {
  int rank;
  if (cp_mpirun_start(ranks, &rank))
    return -1;
  struct job *const j = &job;
  memset(j, 0, sizeof *j);
  j->rank = rank;
  j->size = ranks;
  j->limit_s = limit_s;
  pthread_mutex_init(&j->lock, NULL);
  struct cp_comm comm = {.transport = &cp_nccl,
                         .memory = &cp_memory_device,
                         .rank = rank,
                         .size = ranks,
                         .limit_s = limit_s,
                         .state = j};
  const int status = connect_ranks(j);
  comm.stream = j->compute;
  if (!status && !body(&comm, context) && !disconnect(j))
    return 0;
  // The process leaves soon; what it holds is not given back, since that may block.
  if (atomic_load(&j->failed)) {
    char silent[PEERS_TEXT];
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
                                     .share = share};
