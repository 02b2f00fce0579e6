// nccl_job.h -- one rank of the NCCL transport, between its files: nccl.c transfers, nccl_watch.c ends a job in
// which something hangs, nccl_connect.c begins and ends it; nccl_map.c has peers' memory.
//
// NCCL does not want two threads in one communicator, nor anyone in an aborted one: every call is made
// under `lock`.
#ifndef LONGCA_CP_NCCL_JOB_H
#define LONGCA_CP_NCCL_JOB_H

#include <cuda_runtime_api.h>
#include <nccl.h>
#include <pthread.h>
#include <stdatomic.h>

#include "cp.h"

enum {
  NCCL_WAITS_MAX = 512,
  NCCL_GROUPS_MAX = 128, // of a channel: the host may be that far ahead of the GPU
  NCCL_PEERS_TEXT = 64
};

struct nccl_group {
  cudaEvent_t ready, done;
  char peers[NCCL_PEERS_TEXT]; // "rank 1", "ranks 1, 3", for messages
};

struct nccl_channel {
  ncclComm_t comm;
  cudaStream_t stream;
  cudaEvent_t turn; // of the last group, just before its transfers
  struct nccl_group groups[NCCL_GROUPS_MAX];
  int64_t first, end; // in flight on the device: groups [first, end), modulo NCCL_GROUPS_MAX
  double since_us;    // when the first of them was seen to be able to start; 0: not yet
  bool posted;        // and not waited for
};

struct nccl_job {
  int rank, size, device;
  double limit_s; // of a transfer, from when it could start
  cudaStream_t compute;
  struct nccl_channel channels[CP_CHANNELS];
  cudaEvent_t wait_begin[NCCL_WAITS_MAX], wait_end[NCCL_WAITS_MAX];
  int waits;
  cudaEvent_t timing_begin, timing_end;
  pthread_t watchdog;
  pthread_mutex_t lock; // of the communicators and the groups in flight
  atomic_bool stop, failed;
  char error[256]; // once failed
};

// 0, or -1 with attn_error() set: of all functions here.
static inline int cuda_failed(cudaError_t status, const char *what) {
  if (status == cudaSuccess)
    return 0;
  attn_error_set(status == cudaErrorMemoryAllocation, "%s: %s", what, cudaGetErrorString(status));
  return -1;
}

static inline bool nccl_fine(ncclResult_t status) {
  return status == ncclSuccess || status == ncclInProgress;
}
static inline int nccl_failed(ncclResult_t status, const char *what) {
  if (nccl_fine(status))
    return 0;
  attn_error_set(false, "%s: %s (%s)", what, ncclGetErrorString(status), ncclGetLastError(NULL));
  return -1;
}

// After the job has failed: -1, and its error for this thread.
static inline int nccl_report(struct nccl_job *j) {
  attn_error_set(false, "%s", j->error);
  return -1;
}

// Streams, events and communicators of a rank, in the same order on every rank; and all of them given back.
int cp_nccl_connect(struct nccl_job *j);
int cp_nccl_disconnect(struct nccl_job *j);

// cp_transport.map and unmap.
int cp_nccl_map(struct cp_comm *comm, const void *mine, const int *peers, int n, void **theirs);
void cp_nccl_unmap(struct cp_comm *comm, void *const *theirs, int n);

// Of a group with these peers that NCCL refuses, as it may before the watchdog sees why: the job has failed. With the
// lock held.
int cp_nccl_failed(struct nccl_job *j, const char *peers, ncclResult_t status);
// The thread that looks for transfers that fail or hang.
int cp_nccl_watch_begin(struct nccl_job *j);
void cp_nccl_watch_end(struct nccl_job *j);

// With the lock held. Forgets the groups that are done.
void cp_nccl_retire(struct nccl_channel *c);
// With the lock held, which it lets go between looks. Communicators do not block: what was asked of c is done
// once this returns 0. `peers` names the ranks, for the message.
int cp_nccl_settle(struct nccl_job *j, struct nccl_channel *c, const char *peers, double limit_s);

#endif
