// ring_hops.h -- inside ring.c and ring_backward.c: places of a ring, and what passes between them.
#ifndef LONGCA_CP_RING_HOPS_H
#define LONGCA_CP_RING_HOPS_H

#include "cp.h"

static inline int ring_size(const struct cp_plan *p) { return p->grid.context; }
static inline int window_size(const struct cp_plan *p) { return p->grid.context / p->grid.windows; }

// World rank at place (window + dj, position + dt) from here.
static inline int place_rank(const struct cp_plan *p, int dj, int dt) {
  const int n = p->grid.windows, size = window_size(p);
  const int j = (p->context / size + dj + n) % n, t = (p->context % size + dt + size) % size;
  return cp_grid_rank(&p->grid, p->head, j * size + t);
}

static inline int64_t kv_elems(const struct cp_plan *p) {
  return (int64_t)p->shard.context_rows * p->piece_kv * p->problem.dim;
}

static inline int64_t kv_bytes(const struct cp_plan *p) {
  return kv_elems(p) * cp_elem_bytes(p->problem.dtype);
}

// Whether partial results of several calls are summed up, in fp32.
static inline bool in_parts(const struct cp_plan *p) { return ring_size(p) > 1; }
static inline bool grads_fp32(const struct cp_plan *p) { return in_parts(p) || p->copies > 1; }

// A group of keys and values, of gradients, or of both, to one rank and from one.
struct hop {
  struct cp_op ops[4 * CP_BLOCKS_MAX];
  int n;
};

static inline void add_hop(struct hop *h, void *out, int to, void *in, int from, int64_t bytes) {
  h->ops[h->n++] = (struct cp_op){true, to, out, bytes};
  h->ops[h->n++] = (struct cp_op){false, from, in, bytes};
}

static inline void add_kv(const struct cp_plan *p, struct hop *h, struct cp_kv out, int to,
                          struct cp_kv in, int from, int blocks) {
  const int64_t bytes = blocks * kv_bytes(p);
  add_hop(h, out.k, to, in.k, from, bytes);
  add_hop(h, out.v, to, in.v, from, bytes);
}

static inline void add_grad(const struct cp_plan *p, struct hop *h, float *out, int to, float *in,
                            int from) {
  add_hop(h, out, to, in, from, 2 * 4 * kv_elems(p));
}

static inline int post(struct cp_plan *p, enum cp_channel channel, const struct hop *h) {
  return h->n ? p->comm->transport->post(p->comm, channel, h->ops, h->n) : 0;
}

static inline int wait(struct cp_plan *p, enum cp_channel channel, const struct hop *h) {
  return h->n ? p->comm->transport->wait(p->comm, channel) : 0;
}

// The keys that window w began with, to the next window.
static inline struct hop far_hop(const struct cp_plan *p, int w, struct cp_kv start) {
  struct hop h = {.n = 0};
  if (w + 1 < p->grid.windows)
    add_kv(p, &h, start, place_rank(p, 1, 0), p->far[w % 2], place_rank(p, -1, 0), 1);
  return h;
}

#endif
