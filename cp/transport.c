// transport.c -- collectives out of sends and receives, for every transport.
#include <stdlib.h>

#include "cp.h"

int cp_all_to_all(struct cp_comm *comm, enum cp_channel channel, const int *peers, int n,
                  const struct cp_blocks *sets, int n_sets) {
  struct cp_op ops[CP_GROUP_MAX];
  int me = 0, count = 0;
  while (me < n && peers[me] != comm->rank)
    me++;
  for (int shift = 1; shift < n; shift++) { // each a permutation, so nobody is asked by all at once
    const int to = (me + shift) % n, from = (me - shift + n) % n;
    if (count + 2 * n_sets > CP_GROUP_MAX) {
      if (comm->transport->post(comm, channel, ops, count) || comm->transport->wait(comm, channel))
        return -1;
      count = 0;
    }
    for (int i = 0; i < n_sets; i++) {
      const struct cp_blocks *x = &sets[i];
      ops[count++] = (struct cp_op){true, peers[to], (char *)x->send + to * x->bytes, x->bytes};
      ops[count++] =
          (struct cp_op){false, peers[from], (char *)x->recv + from * x->bytes, x->bytes};
    }
  }
  return comm->transport->post(comm, channel, ops, count);
}

int cp_all_gather_by_sends(struct cp_comm *comm, enum cp_channel channel, const void *send,
                           void *recv, int64_t bytes) {
  struct cp_op ops[CP_GROUP_MAX];
  int count = 0;
  for (int shift = 0; shift < comm->size; shift++) {
    const int to = (comm->rank + shift) % comm->size,
              from = (comm->rank - shift + comm->size) % comm->size;
    ops[count++] = (struct cp_op){true, to, (void *)send, bytes};
    ops[count++] = (struct cp_op){false, from, (char *)recv + from * bytes, bytes};
    if (count == CP_GROUP_MAX && shift + 1 < comm->size) {
      if (comm->transport->post(comm, channel, ops, count) || comm->transport->wait(comm, channel))
        return -1;
      count = 0;
    }
  }
  return comm->transport->post(comm, channel, ops, count);
}

// A ring: block b starts at rank b + 1 and gathers a share a hop, so it ends complete at rank b.
int cp_reduce_scatter_by_sends(struct cp_comm *comm, enum cp_channel channel, const float *send,
                               float *recv, int64_t n) {
  const int size = comm->size, next = (comm->rank + 1) % size,
            before = (comm->rank - 1 + size) % size;
  const struct cp_memory *memory = comm->memory;
  float *sum[2] = {recv, size > 1 ? memory->alloc(4 * n) : NULL};
  int status = size > 1 && !sum[1] ? -1 : 0;
  // The last sum must come to lie in recv.
  int at = size % 2 ? 0 : 1;
  const float *out = send + (int64_t)before * n;
  if (!status && size == 1)
    status = memory->copy(recv, 4 * n, send, 4 * n, 4 * n, 1, comm->stream);
  for (int step = 1; !status && step < size; step++) {
    const int block = (comm->rank - 1 - step + 2 * size) % size;
    float *in = sum[at ^= 1];
    const struct cp_op ops[] = {{true, next, (void *)out, 4 * n}, {false, before, in, 4 * n}};
    status = comm->transport->post(comm, channel, ops, 2) || comm->transport->wait(comm, channel) ||
             memory->add(in, send + (int64_t)block * n, n, comm->stream);
    out = in;
  }
  if (sum[1]) {
    status = memory->sync(comm->stream) || status ? -1 : 0;
    memory->release(sum[1]);
  }
  return status ? -1 : 0;
}
