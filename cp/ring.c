// ring.c -- keys and values travel round the context ranks, in one ring or in a ring of rings.
//
// The ring is cut into `windows` of W ranks (LoongTrain; one window is Ring P2P). Within a window KV goes
// from neighbour to neighbour, W - 1 hops; meanwhile the KV that the window began with is already on its
// way to the next window, with W kernels to hide under. Step (w, i) at place (j, t) of the ring works on
// the keys of place (j - w, t - i). O continues in fp32 from step to step, and the last writes it in the
// caller's type; two KV buffers take turns.
//
//   W = 3, one window, rank 0:   kernel k0 | kernel k2 | kernel k1
//                                  k2 in   |   k1 in   |             volume: cp_volume (volume.c)
//
// Backward takes the same way. dK and dV of a block follow its KV one step behind and are added up on
// the way, in fp32: after the kernel of step i arrives what the ranks before have summed, its own share is
// added, and the sum leaves while step i + 1 computes. After W hops it is back where the window
// began; there it joins the sums of earlier windows and goes on to the next one, under that one's kernels.
#include <stdlib.h>

#include "cp.h"

static int ring_size(const struct cp_plan *p) { return p->grid.context; }
static int window_size(const struct cp_plan *p) { return p->grid.context / p->grid.windows; }

// World rank at place (window + dj, position + dt) from here.
static int place_rank(const struct cp_plan *p, int dj, int dt) {
  const int n = p->grid.windows, size = window_size(p);
  const int j = (p->context / size + dj + n) % n, t = (p->context % size + dt + size) % size;
  return cp_grid_rank(&p->grid, p->head, j * size + t);
}

static int64_t kv_elems(const struct cp_plan *p) {
  return (int64_t)p->shard.context_rows * p->heads_kv * p->problem.dim;
}

static struct cp_kv kv_buffer(struct cp_plan *p) {
  const int64_t bytes = kv_elems(p) * cp_elem_bytes(p->problem.dtype);
  char *data = cp_buffer(p, 2 * bytes);
  return (struct cp_kv){data, data ? data + bytes : NULL};
}

// Whether partial results of several calls are summed up, in fp32.
static bool in_parts(const struct cp_plan *p) { return ring_size(p) > 1; }
static bool grads_fp32(const struct cp_plan *p) { return in_parts(p) || p->copies > 1; }

int cp_ring_plan(struct cp_plan *p) {
  const int ring = ring_size(p), size = window_size(p), n = p->grid.windows;
  p->steps = calloc((size_t)ring, sizeof *p->steps);
  p->step_problems = calloc((size_t)ring, sizeof *p->step_problems);
  if (!p->steps || !p->step_problems) {
    attn_error_set(true, "out of host memory for the steps of a ring");
    return -1;
  }
  p->n_steps = ring;
  const int j = p->context / size, t = p->context % size;
  const struct cp_shard *s = &p->shard;
  for (int w = 0; w < n; w++)
    for (int i = 0; i < size; i++) {
      const int from = (j - w + n) % n * size + (t - i + size) % size;
      const bool sees = cp_pairs(p->problem.mask, s->seg[p->context], s->segs[p->context],
                                 s->seg[from], s->segs[from]) > 0;
      if (sees && cp_prepare_step(p, w * size + i, s->seg[from], s->segs[from], s->context_rows))
        return -1;
    }
  const int64_t q_elems = (int64_t)s->context_rows * p->heads_q * p->problem.dim;
  if ((in_parts(p) || (p->problem.backward && grads_fp32(p))) &&
      !(p->acc = cp_buffer(p, 4 * q_elems)))
    return -1;
  for (int b = 0; b < 2; b++)
    if ((size > 1 && !(p->near[b] = kv_buffer(p)).k) || (n > 1 && !(p->far[b] = kv_buffer(p)).k))
      return -1;
  const int grads = !p->problem.backward ? 0 : in_parts(p) ? (n > 1 ? 5 : 3) : grads_fp32(p);
  for (int b = 0; b < grads; b++)
    if (!(p->grad[b] = cp_buffer(p, 2 * 4 * kv_elems(p))))
      return -1;
  return 0;
}

static int pass_kv(struct cp_plan *p, enum cp_channel channel, struct cp_kv out, int to,
                   struct cp_kv in, int from) {
  const int64_t bytes = kv_elems(p) * cp_elem_bytes(p->problem.dtype);
  const struct cp_op ops[] = {{true, to, out.k, bytes},
                              {true, to, out.v, bytes},
                              {false, from, in.k, bytes},
                              {false, from, in.v, bytes}};
  return p->comm->transport->post(p->comm, channel, ops, 4);
}

static int pass_grad(struct cp_plan *p, enum cp_channel channel, float *out, int to, float *in,
                     int from) {
  const int64_t bytes = 2 * 4 * kv_elems(p);
  const struct cp_op ops[] = {{true, to, out, bytes}, {false, from, in, bytes}};
  return p->comm->transport->post(p->comm, channel, ops, 2);
}

static int forward_step(struct cp_plan *p, int step, struct cp_kv kv,
                        const struct attn_args *args) {
  struct attn_args a = *args;
  a.k = kv.k;
  a.v = kv.v;
  const enum attn_part part = cp_part(p, step);
  a.o_acc = part == ATTN_ALONE ? NULL : p->acc;
  a.resume = part == ATTN_NEXT || part == ATTN_LAST;
  return cp_call(p, step, ATTN_FWD, &a);
}

int cp_ring_forward(struct cp_plan *p, const struct attn_args *args) {
  const struct cp_transport *net = p->comm->transport;
  const int size = window_size(p), n = p->grid.windows;
  struct cp_kv start = {(void *)args->k, (void *)args->v};
  for (int w = 0; w < n; w++) {
    if (w + 1 < n &&
        pass_kv(p, CP_KV_FAR, start, place_rank(p, 1, 0), p->far[w % 2], place_rank(p, -1, 0)))
      return -1;
    struct cp_kv now = start;
    for (int i = 0; i < size; i++) {
      if (i + 1 < size &&
          pass_kv(p, CP_KV, now, place_rank(p, 0, 1), p->near[i % 2], place_rank(p, 0, -1)))
        return -1;
      if (forward_step(p, w * size + i, now, args))
        return -1;
      if (i + 1 < size && net->wait(p->comm, CP_KV))
        return -1;
      now = p->near[i % 2];
    }
    if (w + 1 < n && net->wait(p->comm, CP_KV_FAR))
      return -1;
    start = p->far[w % 2];
  }
  return 0;
}

// ---- backward -------------------------------------------------------------------------------

// The buffers of travelling gradients, by what they are for at the moment.
struct grads {
  float *own;              // this step's share, then its sum
  float *out, *in;         // within the window: leaving, arriving
  float *far_out, *far_in; // between windows
};

static void swap(float **a, float **b) {
  float *t = *a;
  *a = *b;
  *b = t;
}

static int backward_step(struct cp_plan *p, int step, struct cp_kv kv, float *grad,
                         const struct attn_args *args) {
  struct attn_args a = *args;
  if (grad && p->comm->memory->zero(grad, 2 * 4 * kv_elems(p), p->comm->stream))
    return -1;
  a.k = kv.k;
  a.v = kv.v;
  if (grad) {
    a.accumulate = true;
    a.dq_acc = p->acc;
    a.dk_acc = grad;
    a.dv_acc = grad + kv_elems(p);
  }
  return cp_call(p, step, ATTN_BWD, &a);
}

// Window w is summed up, in `in`: adds the sums of the windows before and sends them on.
static int close_window(struct cp_plan *p, struct grads *g, int w) {
  struct cp_comm *comm = p->comm;
  if (window_size(p) > 1 && comm->transport->wait(comm, CP_GRAD))
    return -1;
  if (p->grid.windows == 1)
    return 0;
  if (w > 0 && (comm->transport->wait(comm, CP_GRAD_FAR) ||
                comm->memory->add(g->in, g->far_in, 2 * kv_elems(p), comm->stream)))
    return -1;
  swap(&g->in, &g->far_out);
  return pass_grad(p, CP_GRAD_FAR, g->far_out, place_rank(p, 1, 0), g->far_in,
                   place_rank(p, -1, 0));
}

// After the kernel of step (w, i), whose share is in `own`.
static int pass_on(struct cp_plan *p, struct grads *g, int w, int i) {
  struct cp_comm *comm = p->comm;
  const int size = window_size(p);
  if (size == 1) {
    swap(&g->own, &g->in);
    return close_window(p, g, w);
  }
  if (i == 0) {
    if (w > 0 && close_window(p, g, w - 1))
      return -1;
  } else if (comm->transport->wait(comm, CP_GRAD) ||
             comm->memory->add(g->own, g->in, 2 * kv_elems(p), comm->stream)) {
    return -1;
  }
  swap(&g->own, &g->out);
  return pass_grad(p, CP_GRAD, g->out, place_rank(p, 0, 1), g->in, place_rank(p, 0, -1));
}

// dQ, dK, dV of the block at home, from fp32 to the caller. Copies of a KV head are summed by heads.c,
// which then reads grad[0].
static int finish(struct cp_plan *p, const struct attn_args *args, float *grad) {
  const struct cp_memory *memory = p->comm->memory;
  const enum attn_dtype dtype = p->problem.dtype;
  const int64_t q_elems = (int64_t)p->shard.context_rows * p->heads_q * p->problem.dim,
                n = kv_elems(p);
  void *const stream = p->comm->stream;
  if (memory->cast(args->dq, dtype, p->acc, q_elems, stream))
    return -1;
  if (p->copies > 1) {
    for (int b = 1; b < 5; b++)
      if (p->grad[b] == grad)
        swap(&p->grad[0], &p->grad[b]);
    return 0;
  }
  return memory->cast(args->dk, dtype, grad, n, stream) ||
                 memory->cast(args->dv, dtype, grad + n, n, stream)
             ? -1
             : 0;
}

int cp_ring_backward(struct cp_plan *p, const struct attn_args *args) {
  const struct cp_transport *net = p->comm->transport;
  const int size = window_size(p), n = p->grid.windows;
  struct cp_kv start = {(void *)args->k, (void *)args->v};
  if (!grads_fp32(p))
    return backward_step(p, 0, start, NULL, args);
  const int64_t q_elems = (int64_t)p->shard.context_rows * p->heads_q * p->problem.dim;
  if (p->comm->memory->zero(p->acc, 4 * q_elems, p->comm->stream))
    return -1;
  if (!in_parts(p))
    return backward_step(p, 0, start, p->grad[0], args) ? -1 : finish(p, args, p->grad[0]);
  struct grads g = {p->grad[0], p->grad[1], p->grad[2], p->grad[3], p->grad[4]};
  for (int w = 0; w < n; w++) {
    if (w + 1 < n &&
        pass_kv(p, CP_KV_FAR, start, place_rank(p, 1, 0), p->far[w % 2], place_rank(p, -1, 0)))
      return -1;
    struct cp_kv now = start;
    for (int i = 0; i < size; i++) {
      if (i + 1 < size &&
          pass_kv(p, CP_KV, now, place_rank(p, 0, 1), p->near[i % 2], place_rank(p, 0, -1)))
        return -1;
      if (backward_step(p, w * size + i, now, g.own, args) || pass_on(p, &g, w, i))
        return -1;
      if (i + 1 < size && net->wait(p->comm, CP_KV))
        return -1;
      now = p->near[i % 2];
    }
    if (w + 1 < n && net->wait(p->comm, CP_KV_FAR))
      return -1;
    start = p->far[w % 2];
  }
  if (size > 1 && close_window(p, &g, n - 1))
    return -1;
  if (n == 1)
    return finish(p, args, g.in);
  return net->wait(p->comm, CP_GRAD_FAR) ? -1 : finish(p, args, g.far_in);
}
