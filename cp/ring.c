// ring.c -- keys and values travel round the context ranks, in one ring or in a ring of rings.
//
// The ring is cut into `windows` of W ranks (LoongTrain; one window is Ring P2P). Within a window KV goes
// round, while kernels run; meanwhile the KV that the window began with is already on its way to the next window,
// with all kernels of this one to hide under. Block (w, i) at place (j, t) of the ring is that of place (j - w, t - i).
//
// Forward computes the window's first block, then B = grid.blocks of them in a call: O continues from call to call in
// fp32, so fewer calls read and write it less often; the last one writes it in the caller's type. The first B others
// come straight from the ranks that hold them, in one group of transfers, and each B of them then go B places on: one
// group under each call, since a transfer that had to follow another one under the same persistent kernel would find no
// multiprocessor free. Two buffers of B blocks take turns. With B = 1 all goes from neighbour to neighbour.
//
//   W = 6, B = 2, one window, rank 0:   kernel k0  | kernel k5 k4 | kernel k3 k2 | kernel k1
//                                     k5, k4 in    |  k3 k2 in    |    k1 in     |    volume: cp_volume (volume.c)
//
// Backward takes the keys from neighbour to neighbour and one by one, W - 1 hops, since gradients ride along. It comes to
// the window's own block last, and to its own window: steps i = 1, ..., W - 1,
// 0 and windows w = 1, ..., n - 1, 0. dK and dV of a block follow its KV one step behind and are added up on the
// way, in fp32: after the kernel of a step arrives what the ranks before have summed, its own share is added, and
// the sum leaves while the next step computes, in one group with the keys of the step after that. So a sum ends
// at home, after W - 1 hops; at the window's home it joins those of earlier windows and goes on to the next window,
// under that one's kernels. Nothing hides the first keys' hop, but for a piece of heads that is not the first
// (heads.c): they come under the last step of the piece before.
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

static int64_t kv_bytes(const struct cp_plan *p) {
  return kv_elems(p) * cp_elem_bytes(p->problem.dtype);
}

static struct cp_kv kv_buffer(struct cp_plan *p, int blocks) {
  char *data = cp_buffer(p, 2 * blocks * kv_bytes(p));
  return (struct cp_kv){data, data ? data + blocks * kv_bytes(p) : NULL};
}

static struct cp_kv block_of(const struct cp_plan *p, struct cp_kv kv, int i) {
  return (struct cp_kv){(char *)kv.k + i * kv_bytes(p), (char *)kv.v + i * kv_bytes(p)};
}

// Room for two of forward's groups, or for all other blocks where they are fewer, and for two that backward passes on.
static int make_near(struct cp_plan *p) {
  const int others = window_size(p) - 1, blocks = p->grid.blocks;
  if (!others)
    return 0;
  if (!(p->near[0] = kv_buffer(p, others < 2 * blocks ? others : 2 * blocks)).k)
    return -1;
  p->near[1] = block_of(p, p->near[0], others > blocks ? blocks : 1); // of two ranks none uses it
  return 0;
}

// Whether partial results of several calls are summed up, in fp32.
static bool in_parts(const struct cp_plan *p) { return ring_size(p) > 1; }
static bool grads_fp32(const struct cp_plan *p) { return in_parts(p) || p->copies > 1; }

// The step of call g of a window's forward: its first block, one other, or a group of them.
static int step_of(const struct cp_plan *p, int w, int g) {
  return g == 0 || p->grid.blocks == 1 ? w * window_size(p) + g
                                       : p->grid.context + w * cp_grid_groups(&p->grid) + g - 1;
}

// Blocks of call g = 1, 2, ...
static int blocks_of(const struct cp_plan *p, int g) {
  const int left = window_size(p) - 1 - (g - 1) * p->grid.blocks;
  return left < p->grid.blocks ? left : p->grid.blocks;
}

// The step against blocks (w, i), (w, i + 1), ..., one behind the other, as far as they are seen. Segments go to *to.
static int prepare(struct cp_plan *p, int step, int w, int i, int blocks,
                   struct attn_segment **to) {
  const struct cp_shard *s = &p->shard;
  const int size = window_size(p), n = p->grid.windows, me = p->context;
  const struct attn_segment *first = *to;
  for (int b = 0; b < blocks; b++) {
    const int from = (me / size - w + n) % n * size + (me % size - i - b + size) % size;
    if (!(cp_pairs(p->problem.mask, s->seg[me], s->segs[me], s->seg[from], s->segs[from]) > 0))
      continue;
    for (int32_t x = 0; x < s->segs[from]; x++, ++*to) {
      **to = s->seg[from][x];
      (*to)->row += b * s->context_rows;
    }
  }
  return *to > first
             ? cp_prepare_step(p, step, first, (int32_t)(*to - first), blocks * s->context_rows)
             : 0;
}

// Blocks one by one, as backward wants them, and forward's groups.
static int prepare_all(struct cp_plan *p) {
  const int size = window_size(p), n = p->grid.windows, blocks = p->grid.blocks;
  const bool singles = p->problem.backward || blocks == 1;
  struct attn_segment *to = p->k_seg;
  for (int w = 0; w < n; w++)
    for (int i = 0; i < (singles ? size : 1); i++)
      if (prepare(p, w * size + i, w, i, 1, &to))
        return -1;
  for (int w = 0; w < n && blocks > 1; w++)
    for (int g = 1; g <= cp_grid_groups(&p->grid); g++)
      if (prepare(p, step_of(p, w, g), w, 1 + (g - 1) * blocks, blocks_of(p, g), &to))
        return -1;
  return 0;
}

int cp_ring_plan(struct cp_plan *p) {
  const int ring = ring_size(p), n = p->grid.windows;
  const struct cp_shard *s = &p->shard;
  const int steps = ring + (p->grid.blocks > 1 ? n * cp_grid_groups(&p->grid) : 0);
  size_t segs = 0;
  for (int c = 0; c < ring; c++)
    segs += 2 * (size_t)s->segs[c]; // by itself and in a group
  p->steps = calloc((size_t)steps, sizeof *p->steps);
  p->step_problems = calloc((size_t)steps, sizeof *p->step_problems);
  p->k_seg = calloc(segs ? segs : 1, sizeof *p->k_seg);
  if (!p->steps || !p->step_problems || !p->k_seg) {
    attn_error_set(true, "out of host memory for the steps of a ring");
    return -1;
  }
  p->n_steps = steps;
  if (prepare_all(p))
    return -1;
  const int64_t q_elems = (int64_t)s->context_rows * p->piece_q * p->problem.dim;
  if ((in_parts(p) || (p->problem.backward && grads_fp32(p))) &&
      !(p->acc = cp_buffer(p, 4 * q_elems)))
    return -1;
  if (make_near(p))
    return -1;
  for (int b = 0; b < 2 && n > 1; b++)
    if (!(p->far[b] = kv_buffer(p, 1)).k)
      return -1;
  const int grads = !p->problem.backward ? 0 : in_parts(p) ? (n > 1 ? 5 : 3) : grads_fp32(p);
  for (int b = 0; b < grads; b++)
    if (!(p->grad[b] = cp_buffer(p, 2 * 4 * kv_elems(p))))
      return -1;
  return 0;
}

// A group of keys and values, of gradients, or of both, to one rank and from one.
struct hop {
  struct cp_op ops[4 * CP_BLOCKS_MAX];
  int n;
};

static void add_hop(struct hop *h, void *out, int to, void *in, int from, int64_t bytes) {
  h->ops[h->n++] = (struct cp_op){true, to, out, bytes};
  h->ops[h->n++] = (struct cp_op){false, from, in, bytes};
}

static void add_kv(const struct cp_plan *p, struct hop *h, struct cp_kv out, int to,
                   struct cp_kv in, int from, int blocks) {
  const int64_t bytes = blocks * kv_bytes(p);
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
    add_kv(p, &h, start, place_rank(p, 1, 0), p->far[w % 2], place_rank(p, -1, 0), 1);
  return h;
}

// The keys of backward's step i of a window, to the neighbour.
static struct hop near_hop(const struct cp_plan *p, int i, struct cp_kv now) {
  struct hop h = {.n = 0};
  if (i + 1 < window_size(p))
    add_kv(p, &h, now, place_rank(p, 0, 1), p->near[i % 2], place_rank(p, 0, -1), 1);
  return h;
}

// What call g + 1 of a window's forward takes, while call g has `now`.
static struct hop group_hop(const struct cp_plan *p, int g, struct cp_kv now) {
  struct hop h = {.n = 0};
  const int b = p->grid.blocks;
  const struct cp_kv in = p->near[g % 2];
  if (g > 0 && g < cp_grid_groups(&p->grid))
    add_kv(p, &h, now, place_rank(p, 0, b), in, place_rank(p, 0, -b), blocks_of(p, g + 1));
  for (int i = 1; g == 0 && i <= b && i < window_size(p); i++)
    add_kv(p, &h, now, place_rank(p, 0, i), block_of(p, in, i - 1), place_rank(p, 0, -i), 1);
  return h;
}

static int forward_step(struct cp_plan *p, int step, struct cp_kv kv,
                        const struct attn_args *args) {
  struct attn_args a = *args;
  a.k = kv.k;
  a.v = kv.v;
  const enum attn_part part = cp_part(p, step, ATTN_FWD);
  a.o_acc = part == ATTN_ALONE ? NULL : p->acc;
  a.resume = part == ATTN_NEXT || part == ATTN_LAST;
  return cp_call(p, step, ATTN_FWD, &a);
}

int cp_ring_forward(struct cp_plan *p, const struct attn_args *args) {
  struct cp_kv start = {(void *)args->k, (void *)args->v};
  for (int w = 0; w < p->grid.windows; w++) {
    const struct hop far = far_hop(p, w, start);
    struct cp_kv now = start;
    if (post(p, CP_KV_FAR, &far))
      return -1;
    for (int g = 0; g <= cp_grid_groups(&p->grid); g++) {
      const struct hop near = group_hop(p, g, now);
      if (post(p, CP_KV, &near) || forward_step(p, step_of(p, w, g), now, args) ||
          wait(p, CP_KV, &near))
        return -1;
      now = p->near[g % 2];
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
