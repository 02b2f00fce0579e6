// ring_backward.c -- backward of the ring (ring.c).
//
// Keys go from neighbour to neighbour and one by one, W - 1 hops, since gradients ride along. Backward comes to the
// window's own block last, and to its own window: steps i = 1, ..., W - 1, 0 and windows w = 1, ..., n - 1, 0. dK and dV
// of a block follow its KV one step behind and are added up on the way, in fp32: after the kernel of a step arrives what
// the ranks before have summed, its own share is added, and the sum leaves while the next step computes, in one group
// with the keys of the step after that. So a sum ends at home, after W - 1 hops; at the window's home it joins those of
// earlier windows and goes on to the next window, under that one's kernels. Nothing hides the first keys' hop, but for
// a piece of heads that is not the first (heads.c): they come under the last step of the piece before.
#include "ring_hops.h"

// The keys of backward's step i of a window, to the neighbour.
static struct hop near_hop(const struct cp_plan *p, int i, struct cp_kv now) {
  struct hop h = {.n = 0};
  if (i + 1 < window_size(p))
    add_kv(p, &h, now, place_rank(p, 0, 1), p->near[i % 2], place_rank(p, 0, -1), 1);
  return h;
}

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

// To the sum in OWN, what the steps or windows before have summed.
static int add_to_own(struct cp_plan *p, int in) {
  return p->comm->memory->add(p->grad[OWN], p->grad[in], 2 * kv_elems(p), p->comm->stream);
}

// Step (w, i), whose sum is then in OWN. `near`: the keys that go round meanwhile; with them goes the sum of the step
// before.
static int backward_and_sum(struct cp_plan *p, int w, int i, struct hop near, struct cp_kv start,
                            const struct attn_args *args) {
  const bool first = i == 1 || window_size(p) == 1; // of the window
  if (!first) {
    swap(p, OWN, OUT);
    add_grad(p, &near, p->grad[OUT], place_rank(p, 0, 1), p->grad[IN], place_rank(p, 0, -1));
  }
  return post(p, CP_KV, &near) ||
                 backward_step(p, w * window_size(p) + i, i ? p->near[(i - 1) % 2] : start,
                               p->grad[OWN], args) ||
                 wait(p, CP_KV, &near) || (!first && add_to_own(p, IN))
             ? -1
             : 0;
}

// Window w is summed up, in OWN: adds the sums of the windows before and, unless it is home, sends them on.
static int close_window(struct cp_plan *p, int w) {
  struct hop far = {.n = 0};
  if (w != 1 && (p->comm->transport->wait(p->comm, CP_GRAD_FAR) || add_to_own(p, FAR_IN)))
    return -1;
  if (w == 0)
    return 0;
  swap(p, OWN, FAR_OUT);
  add_grad(p, &far, p->grad[FAR_OUT], place_rank(p, 1, 0), p->grad[FAR_IN], place_rank(p, -1, 0));
  return post(p, CP_GRAD_FAR, &far);
}

// The keys of the first step, which nothing hides: it is not the own block's.
static int fetch(struct cp_plan *p, struct cp_kv local) {
  const struct hop far = far_hop(p, 0, local);
  if (post(p, CP_KV_FAR, &far) || wait(p, CP_KV_FAR, &far))
    return -1;
  const struct hop near = near_hop(p, 0, far.n ? p->far[0] : local);
  return post(p, CP_KV, &near) || wait(p, CP_KV, &near) ? -1 : 0;
}

// Keys of the own block: this piece's, and the next one's, whose first step's are fetched under the last step here.
static int backward_ring(struct cp_plan *p, const struct attn_args *args, struct cp_kv local,
                         const struct cp_kv *next) {
  const int size = window_size(p), n = p->grid.windows;
  if (!p->fetched && fetch(p, local))
    return -1;
  for (int a = 1; a <= n; a++) {
    const int w = a % n;
    const struct cp_kv start = w ? p->far[(w - 1) % 2] : local;
    const struct cp_kv *then = w == 0      ? (n > 1 ? &p->far[0] : next)
                               : w + 1 < n ? &p->far[w % 2]
                                           : &local; // what the next window begins with
    struct hop far = {.n = 0};
    if (w || next)
      far = far_hop(p, w, w ? start : *next);
    if (post(p, CP_KV_FAR, &far))
      return -1;
    for (int b = 1; b < size; b++)
      if (backward_and_sum(p, w, b, near_hop(p, b, p->near[(b - 1) % 2]), start, args))
        return -1;
    // Last the window's own, under which the next one's first keys come: of those that came from afar.
    struct hop near = {.n = 0};
    if (size > 1 && wait(p, CP_KV_FAR, &far))
      return -1;
    if (a < n || next)
      near = near_hop(p, 0, *then);
    if (backward_and_sum(p, w, 0, near, start, args) || (size == 1 && wait(p, CP_KV_FAR, &far)) ||
        (n > 1 && close_window(p, w)))
      return -1;
  }
  p->fetched = next != NULL;
  return 0;
}

int cp_ring_backward_piece(struct cp_plan *p, const struct attn_args *args,
                           const struct cp_kv *next) {
  const struct cp_memory *memory = p->comm->memory;
  const enum attn_dtype dtype = p->problem.dtype;
  const int64_t n = kv_elems(p);
  const struct cp_kv local = {(void *)args->k, (void *)args->v};
  struct attn_args a = *args;
  void *const stream = p->comm->stream;
  if (!grads_fp32(p))
    return backward_step(p, 0, local, NULL, args);
  if (cp_begin_dq(p, &a.dq_acc) ||
      (in_parts(p) ? backward_ring(p, &a, local, next)
                   : backward_step(p, 0, local, p->grad[OWN], &a)) ||
      cp_end_dq(p, a.dq_acc, args->dq))
    return -1;
  if (p->copies > 1) // summed by heads.c, from grad[0]
    return 0;
  return memory->cast(args->dk, dtype, p->grad[OWN], n, stream) ||
                 memory->cast(args->dv, dtype, p->grad[OWN] + n, n, stream)
             ? -1
             : 0;
}

int cp_ring_backward(struct cp_plan *p, const struct attn_args *args) {
  return cp_ring_backward_piece(p, args, NULL);
}
