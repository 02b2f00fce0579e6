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
// Backward: ring_backward.c.
#include <stdlib.h>

#include "ring_hops.h"

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
