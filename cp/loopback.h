// loopback.h -- what the two loopback transports share: ranks on host memory (loopback.c), and ranks on one
// GPU's memory (loopback_gpu.c).
#ifndef LONGCA_CP_LOOPBACK_H
#define LONGCA_CP_LOOPBACK_H

#include "cp.h"

int cp_loopback_post(struct cp_comm *comm, enum cp_channel channel, const struct cp_op *ops, int n);
int cp_loopback_wait(struct cp_comm *comm, enum cp_channel channel);
int cp_loopback_barrier(struct cp_comm *comm);
int cp_loopback_map(struct cp_comm *comm, const void *mine, const int *peers, int n, void **theirs);
int cp_loopback_share(struct cp_comm *comm, const void *mine, void *all, int64_t bytes);

#define CP_LOOPBACK_TRANSFERS \
  .post = cp_loopback_post, .wait = cp_loopback_wait, .all_gather = cp_all_gather_by_sends, \
  .reduce_scatter = cp_reduce_scatter_by_sends, .barrier = cp_loopback_barrier, \
  .map = cp_loopback_map, .share = cp_loopback_share

// cp_transport.run with buffers in that memory.
int cp_loopback_run(const struct cp_transport *transport, const struct cp_memory *memory, int ranks,
                    double limit_s, int (*body)(struct cp_comm *, void *), void *context);

#endif
