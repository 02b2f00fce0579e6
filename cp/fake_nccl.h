// fake_nccl.h -- a communicator of the fake NCCL, between its calls (fake_nccl.c) and the thread that moves its
// bytes (fake_nccl_comm.c).
#ifndef LONGCA_FAKE_NCCL_H
#define LONGCA_FAKE_NCCL_H

#include <cuda_runtime_api.h>
#include <nccl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "fake_cuda.h"

enum { FAKE_OPS_MAX = 1024, FAKE_RANKS_MAX = 16 };

struct op {
  bool send, announced, done;
  int peer;
  char *data;
  size_t bytes;
};

struct group {
  struct ncclComm *comm;
  cudaStream_t stream;
  struct op ops[FAKE_OPS_MAX];
  int n;
  bool done;
  // reduce-scatter: sum += the parts
  float *sum, *parts;
  size_t count;
};

struct ncclComm {
  int rank, size;
  char name[64];
  struct peer *peers; // [size], the thread's own
  pthread_t thread;
  pthread_mutex_t lock;
  pthread_cond_t change;
  int wake[2];
  bool stop, finalize;
  struct group *launching, *running;
  int launched; // and not done
  ncclResult_t state;
  bool dead; // destroyed or aborted: kept, to tell who uses it
  atomic_flag entered;
};

// The communicator's thread, from connecting until c->stop.
void *fake_comm_main(void *comm);
// Has it look at what is new.
void fake_comm_wake(struct ncclComm *c);

#endif
