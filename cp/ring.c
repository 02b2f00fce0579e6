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
// added, and the sum leaves while step i + 1 computes, in one group with the KV of step i + 2. After W hops it
// is back where the window began; there it joins the sums of earlier windows and goes on to the next one, under
// that one's kernels. The last hop home is under the kernels of the next piece of heads, if there is one (heads.c).
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
  return (int64_t)p->shard.context_rows * p->piece_kv * p->problem.dim;
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
  const int64_t q_elems = (int64_t)s->context_rows * p->piece_q * p->problem.dim;
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

// A group of keys and values, of gradients, or of both, to one rank and from one.
struct hop {
  struct cp_op ops[6];
  int n;
};

static void add_hop(struct hop *h, void *out, int to, void *in, int from, int64_t bytes) {
  h->ops[h->n++] = (struct cp_op){true, to, out, bytes};
  h->ops[h->n++] = (struct cp_op){false, from, in, bytes};
}

static void add_kv(const struct cp_plan *p, struct hop *h, struct cp_kv out, int to,
                   struct cp_kv in, int from) {
  const int64_t bytes = kv_elems(p) * cp_elem_bytes(p->problem.dtype);
  add_hop(h, out.k, to, in.k, from, bytes);
  add_hop(h, out.v, to, in.v, from, bytes);
}

static void add_grad(const struct cp_plan *p, struct hop *h, float *out, int to, float *in,
                     int from) {
  add_hop(h, out, to, in, from, 2 * 4 * kv_elems(p));
}

static int post(struct cp_plan *p, enum cp_channel channel, const struct hop *h) {
  return h->n ? p->comm->transport->post(p->comm, channel, h->ops, h->n) : 0;
}

static int wait(struct cp_plan *p, enum cp_channel channel, const struct hop *h) {
  return h->n ? p->comm->transport->wait(p->comm, channel) : 0;
}

// The keys that window w began with, to the next window.
static struct hop far_hop(const struct cp_plan *p, int w, struct cp_kv start) {
  struct hop h = {.n = 0};
  if (w + 1 < p->grid.windows)
    add_kv(p, &h, start, place_rank(p, 1, 0), p->far[w % 2], place_rank(p, -1, 0));
  return h;
}

// The keys of step i of a window, to the neighbour.
static struct hop near_hop(const struct cp_plan *p, int i, struct cp_kv now) {
  struct hop h = {.n = 0};
  if (i + 1 < window_size(p))
    add_kv(p, &h, now, place_rank(p, 0, 1), p->near[i % 2], place_rank(p, 0, -1));
  return h;
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
  const int size = window_size(p);
  struct cp_kv start = {(void *)args->k, (void *)args->v};
  for (int w = 0; w < p->grid.windows; w++) {
    const struct hop far = far_hop(p, w, start);
    struct cp_kv now = start;
    if (post(p, CP_KV_FAR, &far))
      return -1;
    for (int i = 0; i < size; i++) {
      const struct hop near = near_hop(p, i, now);
      if (post(p, CP_KV, &near) || forward_step(p, w * size + i, now, args) ||
          wait(p, CP_KV, &near))
        return -1;
      now = p->near[i % 2];
    }
    if (wait(p, CP_KV_FAR, &far))
      return -1;
    start = p->far[w % 2];
  }
  return 0;
}

// ---- backward -------------------------------------------------------------------------------

// The buffers of travelling gradients, by what they are for at the moment: this step's share, then its sum; leaving
// and arriving within the window; the same between windows.
enum { OWN, OUT, IN, FAR_OUT, FAR_IN };

static void swap(struct cp_plan *p, int a, int b) {
  float *t = p->grad[a];
  p->grad[a] = p->grad[b];
  p->grad[b] = t;
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
    a.dk_acc = grad;
    a.dv_acc = grad + kv_elems(p);
  }
  return cp_call(p, step, ATTN_BWD, &a);
}

// The gradients of the block at home lie in that buffer: from fp32 to the caller. Copies of a KV head are
// summed by heads.c, which then reads grad[0].
static int land(struct cp_plan *p, int from) {
  const struct cp_memory *memory = p->comm->memory;
  const struct cp_kv home = p->home;
  const float *grad = p->grad[from];
  p->home = (struct cp_kv){0};
  if (p->copies > 1) {
    swap(p, 0, from);
    return 0;
  }
  return memory->cast(home.k, p->problem.dtype, grad, kv_elems(p), p->comm->stream) ||
                 memory->cast(home.v, p->problem.dtype, grad + kv_elems(p), kv_elems(p),
                              p->comm->stream)
             ? -1
             : 0;
}

// Window w is summed up, in IN: adds the sums of the windows before and sends them on. What left last window of
// the piece before has come home meanwhile.
static int close_window(struct cp_plan *p, int w) {
  struct cp_comm *comm = p->comm;
  struct hop far = {.n = 0};
  if (p->grid.windows == 1)
    return land(p, IN);
  if ((w > 0 || p->home.k) && comm->transport->wait(comm, CP_GRAD_FAR))
    return -1;
  if (w > 0 ? comm->memory->add(p->grad[IN], p->grad[FAR_IN], 2 * kv_elems(p), comm->stream)
            : p->home.k && land(p, FAR_IN))
    return -1;
  swap(p, IN, FAR_OUT);
  add_grad(p, &far, p->grad[FAR_OUT], place_rank(p, 1, 0), p->grad[FAR_IN], place_rank(p, -1, 0));
  return post(p, CP_GRAD_FAR, &far);
}

static void add_near_grad(const struct cp_plan *p, struct hop *h) {
  add_grad(p, h, p->grad[OUT], place_rank(p, 0, 1), p->grad[IN], place_rank(p, 0, -1));
}

// Step (w, i). `due`: OUT holds a sum that goes on meanwhile.
static int step_and_sums(struct cp_plan *p, int w, int i, bool due, struct cp_kv now,
                         const struct attn_args *args) {
  struct cp_comm *comm = p->comm;
  const int size = window_size(p), n = p->grid.windows;
  struct hop near = near_hop(p, i, now);
  if (due)
    add_near_grad(p, &near);
  if (post(p, CP_KV, &near) || backward_step(p, w * size + i, now, p->grad[OWN], args) ||
      wait(p, CP_KV, &near))
    return -1;
  if (size == 1) {
    swap(p, OWN, IN);
    return close_window(p, w);
  }
  if (due && (i > 0 ? comm->memory->add(p->grad[OWN], p->grad[IN], 2 * kv_elems(p), comm->stream)
                    : close_window(p, (w - 1 + n) % n)))
    return -1;
  swap(p, OWN, OUT);
  return 0;
}

// A backward pass in a ring but for the last hop home; dq is complete.
static int ring_piece(struct cp_plan *p, const struct attn_args *args,
                      const struct cp_meanwhile *m) {
  const int size = window_size(p), n = p->grid.windows;
  struct cp_kv start = {(void *)args->k, (void *)args->v};
  bool due = size > 1 && p->home.k; // of the piece before
  for (int w = 0; w < n; w++) {
    const struct hop far = far_hop(p, w, start);
    struct cp_kv now = start;
    if (post(p, CP_KV_FAR, &far))
      return -1;
    for (int i = 0; i < size; i++) {
      if (m && !p->home.k) {
        if (m->call(m->context))
          return -1;
        m = NULL;
      }
      if (step_and_sums(p, w, i, due, now, args))
        return -1;
      due = size > 1;
      now = p->near[i % 2];
    }
    if (wait(p, CP_KV_FAR, &far))
      return -1;
    start = p->far[w % 2];
  }
  p->home = (struct cp_kv){args->dk, args->dv};
  return 0;
}

int cp_ring_backward_piece(struct cp_plan *p, const struct attn_args *args,
                           const struct cp_meanwhile *m) {
  struct attn_args a = *args;
  const struct cp_kv start = {(void *)args->k, (void *)args->v};
  if (!in_parts(p) && m && m->call(m->context))
    return -1;
  if (!grads_fp32(p))
    return backward_step(p, 0, start, NULL, args);
  if (cp_begin_dq(p, &a.dq_acc) ||
      (in_parts(p) ? ring_piece(p, &a, m) : backward_step(p, 0, start, p->grad[0], &a)))
    return -1;
  return cp_end_dq(p, a.dq_acc, args->dq);
}

int cp_ring_land(struct cp_plan *p, const struct cp_meanwhile *m) {
  const int size = window_size(p), n = p->grid.windows;
  struct hop near = {.n = 0};
  if (p->home.k && size > 1)
    add_near_grad(p, &near);
  if (post(p, CP_KV, &near) || (m && m->call(m->context)))
    return -1;
  if (!p->home.k)
    return 0;
  if (wait(p, CP_KV, &near) || (size > 1 && close_window(p, n - 1)))
    return -1;
  return n > 1 && (p->comm->transport->wait(p->comm, CP_GRAD_FAR) || land(p, FAR_IN)) ? -1 : 0;
}

int cp_ring_backward(struct cp_plan *p, const struct attn_args *args) {
  return cp_ring_backward_piece(p, args, NULL) || cp_ring_land(p, NULL) ? -1 : 0;
}
