// nccl_connect.c -- a communicator and a stream a channel, made at the start in the same order everywhere, so
// that transfers of different purposes run beside one another and beside the kernels.
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "mpi.h"
#include "nccl_job.h"

enum { CONNECT_S = 60 }; // code is loaded and links are measured, however short a transfer may be

static int connect_channel(struct nccl_job *j, struct nccl_channel *c, ncclUniqueId id,
                           int priority) {
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;
  if (cuda_failed(cudaStreamCreateWithPriority(&c->stream, cudaStreamNonBlocking, priority),
                  "a stream") ||
      cuda_failed(cudaEventCreateWithFlags(&c->turn, cudaEventDisableTiming), "an event"))
    return -1;
  for (int i = 0; i < NCCL_GROUPS_MAX; i++)
    if (cuda_failed(cudaEventCreateWithFlags(&c->groups[i].ready, cudaEventDisableTiming),
                    "an event") ||
        cuda_failed(cudaEventCreateWithFlags(&c->groups[i].done, cudaEventDisableTiming),
                    "an event"))
      return -1;
  pthread_mutex_lock(&j->lock);
  const int status = nccl_failed(ncclCommInitRankConfig(&c->comm, j->size, id, j->rank, &config),
                                 "ncclCommInitRankConfig") ||
                     cp_nccl_settle(j, c, "all ranks, to connect,", fmax(j->limit_s, CONNECT_S));
  pthread_mutex_unlock(&j->lock);
  return status ? -1 : 0;
}

// NCCL takes a GPU once. Found here, the error names the ranks.
static int check_gpus(struct nccl_job *j) {
  struct place {
    char host[64], gpu[32];
  } mine = {0}, *all = calloc((size_t)j->size, sizeof *all);
  gethostname(mine.host, sizeof mine.host - 1);
  int status =
      !all || cuda_failed(cudaGetDevice(&j->device), "cudaGetDevice") ||
      cuda_failed(cudaDeviceGetPCIBusId(mine.gpu, sizeof mine.gpu, j->device), "a GPU's address") ||
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

int cp_nccl_connect(struct nccl_job *j) {
  ncclUniqueId mine[CP_CHANNELS], *all = malloc(sizeof mine * (size_t)j->size);
  int low, high, status = check_gpus(j);
  memset(mine, 0, sizeof mine);
  for (int i = 0; !j->rank && !status && i < CP_CHANNELS; i++)
    status = nccl_failed(ncclGetUniqueId(&mine[i]), "ncclGetUniqueId");
  if (!all)
    attn_error_set(true, "out of host memory for %d ranks", j->size);
  status = !all || status ||
           cp_mpirun_share(j->rank, j->size, mine, all, sizeof mine, j->limit_s) ||
           cuda_failed(cudaStreamCreateWithFlags(&j->compute, cudaStreamNonBlocking), "a stream") ||
           cuda_failed(cudaDeviceGetStreamPriorityRange(&low, &high), "stream priorities");
  // Transfers before kernels: a block of a kernel that is waiting would hold up the next rank.
  for (int i = 0; !status && i < CP_CHANNELS; i++)
    status = connect_channel(j, &j->channels[i], all[i], high);
  for (int i = 0; !status && i < NCCL_WAITS_MAX; i++)
    status = cuda_failed(cudaEventCreate(&j->wait_begin[i]), "an event") ||
             cuda_failed(cudaEventCreate(&j->wait_end[i]), "an event");
  status = status || cuda_failed(cudaEventCreate(&j->timing_begin), "an event") ||
           cuda_failed(cudaEventCreate(&j->timing_end), "an event");
  free(all);
  return status || cp_nccl_watch_begin(j) ? -1 : 0;
}

int cp_nccl_disconnect(struct nccl_job *j) {
  int status = 0;
  cp_nccl_watch_end(j);
  pthread_mutex_lock(&j->lock);
  for (int i = 0; i < CP_CHANNELS && !status; i++) {
    struct nccl_channel *c = &j->channels[i];
    status = atomic_load(&j->failed)
                 ? nccl_report(j)
                 : nccl_failed(ncclCommFinalize(c->comm), "ncclCommFinalize") ||
                       cp_nccl_settle(j, c, "all ranks, to leave,", j->limit_s) ||
                       nccl_failed(ncclCommDestroy(c->comm), "ncclCommDestroy");
  }
  pthread_mutex_unlock(&j->lock);
  if (status)
    return -1;
  for (int i = 0; i < CP_CHANNELS; i++) {
    struct nccl_channel *c = &j->channels[i];
    cudaStreamDestroy(c->stream);
    cudaEventDestroy(c->turn);
    for (int k = 0; k < NCCL_GROUPS_MAX; k++) {
      cudaEventDestroy(c->groups[k].ready);
      cudaEventDestroy(c->groups[k].done);
    }
  }
  for (int i = 0; i < NCCL_WAITS_MAX; i++) {
    cudaEventDestroy(j->wait_begin[i]);
    cudaEventDestroy(j->wait_end[i]);
  }
  cudaEventDestroy(j->timing_begin);
  cudaEventDestroy(j->timing_end);
  cudaStreamDestroy(j->compute);
  return 0;
}
