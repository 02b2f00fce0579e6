// owners.c -- Ulysses without an exchange of Q and O: where ranks can reach one another's memory, the forward kernel
// reads its query tiles from the ranks that hold them and writes O's tiles there (attn_args.owners). Each is read and
// written once, under the kernel, so nothing is packed, staged or waited for. Only K and V are exchanged, before
// the kernel, since it reads them many times. So is Q in backward, which wants what forward exchanged: a plan
// with backward exchanges all.
//
// The exchange of K and V is also where the ranks meet before the kernel: of each pair both send, behind what their
// streams had before, so whoever has received from a peer finds its Q written and its O no longer read. After the
// kernel they meet again, for 16 bytes: behind a peer's kernel, whose end makes its writes to all memory visible to
// whoever is ordered behind it; what orders the receiver, and its stream, is a transfer, whose flag is released and
// acquired by the whole system.
#include <string.h>

#include "cp.h"

enum { MEET_BYTES = 16 };

static int peers_of(const struct cp_plan *p, int *peers) {
  for (int a = 0; a < p->grid.heads; a++)
    peers[a] = cp_grid_rank(&p->grid, a, p->context);
  return p->grid.heads;
}

static int map(struct cp_plan *p, const void *mine, void **theirs) {
  int peers[ATTN_OWNERS_MAX];
  const int n = peers_of(p, peers);
  return p->comm->transport->map(p->comm, mine, peers, n, theirs);
}

static void unmap(struct cp_plan *p, void *const *theirs) {
  if (p->comm->transport->unmap)
    p->comm->transport->unmap(p->comm, theirs, p->grid.heads);
}

// Tried with the buffer that the ranks meet in.
int cp_owners_plan(struct cp_plan *p) {
  void *theirs[ATTN_OWNERS_MAX];
  const int64_t bytes = (int64_t)MEET_BYTES * p->grid.heads;
  if (!(p->meet = cp_buffer(p, 2 * bytes)))
    return -1;
  const int refused = map(p, p->meet, theirs);
  if (refused < 0)
    return -1;
  if (!refused)
    unmap(p, theirs);
  p->grid.direct = !refused;
  return p->comm->transport->barrier(p->comm); // nobody frees what another has open
}

int cp_map(struct cp_plan *p, const void *q, void *o) {
  if (!p->grid.direct)
    return 0;
  if (cp_unmap(p))
    return -1;
  void *theirs[ATTN_OWNERS_MAX];
  const int q_refused = map(p, q, theirs);
  if (q_refused)
    return q_refused < 0 ? -1 : 0;
  for (int a = 0; a < p->grid.heads; a++)
    p->owners.q[a] = theirs[a];
  const int o_refused = map(p, o, p->owners.o);
  if (o_refused) {
    unmap(p, theirs);
    return o_refused < 0 ? -1 : p->comm->transport->barrier(p->comm);
  }
  p->owners.heads = p->problem.heads_q;
  p->owners.head = p->head * p->heads_q;
  p->mapped_q = q;
  p->mapped_o = o;
  return 0;
}

void cp_owners_release(struct cp_plan *p) {
  void *q[ATTN_OWNERS_MAX];
  if (!p->mapped_q)
    return;
  p->comm->memory->sync(p->comm->stream); // a kernel may be at it
  memcpy(q, p->owners.q, sizeof q);
  unmap(p, q);
  unmap(p, p->owners.o);
  p->mapped_q = NULL;
}

int cp_unmap(struct cp_plan *p) {
  if (!p->mapped_q)
    return 0;
  cp_owners_release(p);
  return p->comm->transport->barrier(p->comm);
}

bool cp_owners_know(const struct cp_plan *p, const struct attn_args *args) {
  return p->mapped_q && args->q == p->mapped_q && args->o == p->mapped_o;
}

// Q and O of a pass count as sent and received, as they are: a share of the rank's rows to and from each peer. What is
// transferred to meet is nobody's data, and does not.
struct cp_blocks cp_owners_meet(struct cp_plan *p) {
  const int64_t q =
      p->shard.rows * (int64_t)p->heads_q * p->problem.dim * cp_elem_bytes(p->problem.dtype);
  const int64_t bytes = (p->grid.heads - 1) * (2 * q - MEET_BYTES);
  p->comm->bytes_sent += bytes;
  p->comm->bytes_received += bytes;
  return (struct cp_blocks){p->meet, (char *)p->meet + MEET_BYTES * p->grid.heads, MEET_BYTES};
}
