// model.c -- time of a schedule, see model.h. The step rules follow ring.c, heads.c and ring_allgather.c.
#include "model.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

// ---- kernels --------------------------------------------------------------------------------

// Tiles of `keys` keys, counted from each segment's start, that overlap positions [begin, end).
static double key_tiles(const struct attn_segment *k, int32_t k_segs, int32_t begin, int32_t end,
                        int32_t keys) {
  int32_t low = cp_segment_ending_after(k, k_segs, begin);
  double tiles = 0;
  for (; low < k_segs && k[low].pos < end; low++) {
    const int32_t from = (k[low].pos > begin ? k[low].pos : begin) - k[low].pos;
    const int32_t to = (k[low].pos + k[low].len < end ? k[low].pos + k[low].len : end) - k[low].pos;
    tiles += (to - 1) / keys - from / keys + 1;
  }
  return tiles;
}

// Keys that the queries from first to last see, by these two: the hull of each span, or of all of them where
// they meet or the two rows have not the same number.
static int tile_spans(const struct mask *mask, int32_t first, int32_t last,
                      struct mask_span spans[2 * MASK_SPANS_MAX]) {
  struct mask_span *other = spans + MASK_SPANS_MAX;
  const int n = mask_row_spans(mask, first, spans), m = mask_row_spans(mask, last, other);
  bool apart = n == m;
  for (int i = 0; i < n && apart; i++) {
    spans[i].begin = spans[i].begin < other[i].begin ? spans[i].begin : other[i].begin;
    spans[i].end = spans[i].end > other[i].end ? spans[i].end : other[i].end;
    apart = i == 0 || spans[i - 1].end < spans[i].begin;
  }
  if (apart)
    return n;
  struct mask_span hull = {mask->seqlen, 0};
  for (int i = 0; i < n + m; i++) {
    const struct mask_span *x = i < n ? &spans[i] : &other[i - n];
    hull.begin = x->begin < hull.begin ? x->begin : hull.begin;
    hull.end = x->end > hull.end ? x->end : hull.end;
  }
  *spans = hull;
  return 1;
}

double cp_tiles(const struct mask *mask, const struct attn_segment *q, int32_t q_segs,
                const struct attn_segment *k, int32_t k_segs, int32_t queries, int32_t keys,
                double *q_tiles) {
  double tiles = 0;
  *q_tiles = 0;
  for (int32_t s = 0; s < q_segs; s++)
    for (int32_t at = 0; at < q[s].len; at += queries) {
      const int32_t last = at + queries < q[s].len ? at + queries - 1 : q[s].len - 1;
      struct mask_span spans[2 * MASK_SPANS_MAX];
      const int n = tile_spans(mask, q[s].pos + at, q[s].pos + last, spans);
      double here = 0;
      for (int i = 0; i < n; i++)
        here += key_tiles(k, k_segs, spans[i].begin, spans[i].end, keys);
      tiles += here;
      *q_tiles += here > 0;
    }
  return tiles;
}

struct run { // one estimate under way
  const struct cp_machine *m;
  const struct cp_schedule *schedule;
  const struct attn_problem *p;
  struct cp_grid grid;
  struct cp_shard shard;
  struct attn_segment *k_seg; // of a call: room for those of all ranks
  int32_t heads_q, heads_kv;  // of a piece
  int64_t elem;
  bool bwd;
  double time_us, kernel_us;
  double first_us; // until the first keys of a ring are there
};

// A kernel call. acc_bytes: what it moves of the fp32 accumulator of O, an element of a row that sees keys.
static double step_us(const struct run *r, const struct attn_segment *q, int32_t q_segs,
                      const struct attn_segment *k, int32_t k_segs, double acc_bytes) {
  const struct cp_machine *m = r->m;
  const int32_t group = r->heads_q / r->heads_kv;
  const int32_t packed = group < m->tile_q ? group : (int32_t)m->tile_q; // heads of a query tile
  const int32_t queries = (int32_t)m->tile_q / packed > 0 ? (int32_t)m->tile_q / packed : 1;
  double q_tiles;
  const double tiles =
      cp_tiles(r->p->mask, q, q_segs, k, k_segs, queries, (int32_t)m->tile_k, &q_tiles);
  if (tiles == 0)
    return 0;
  const double heads = (double)r->heads_kv * group / packed;
  const double flop =
      heads * (tiles + m->tile_cost * q_tiles) * queries * packed * m->tile_k * 4 * r->p->dim;
  double moved = heads * q_tiles * queries * packed * r->p->dim * acc_bytes;
  if (m->gathers) { // rows of q, k, v read and written, of o written twice (study 6.2)
    double rows = 0, keys = 0;
    for (int32_t i = 0; i < q_segs; i++)
      rows += q[i].len;
    for (int32_t i = 0; i < k_segs; i++)
      keys += k[i].len;
    moved = (4 * rows * r->heads_q + 4 * keys * r->heads_kv) * r->p->dim * (double)r->elem *
            (r->bwd ? 2 : 1);
  }
  return m->step_us + (r->bwd ? 2.5 * flop / m->bwd_flop_us : flop / m->fwd_flop_us) +
         moved / m->copy_bytes_us;
}

// ---- links ----------------------------------------------------------------------------------

static bool same_node(const struct run *r, int a, int b) {
  return a / (int)r->m->node == b / (int)r->m->node;
}

// A hop of the ring from position c to c + shift: the slowest edge decides, since neighbours wait for one
// another.
static double hop_us(const struct run *r, int shift, double bytes) {
  const struct cp_grid *g = &r->grid;
  bool far = false;
  for (int a = 0; a < g->heads && !far; a++)
    for (int c = 0; c < g->context && !far; c++)
      far = !same_node(r, cp_grid_rank(g, a, c), cp_grid_rank(g, a, (c + shift) % g->context));
  return far ? r->m->far_us + bytes / r->m->far_bytes_us
             : r->m->near_us + bytes / r->m->near_bytes_us;
}

// Within a window, so many bytes to each of the places first, ..., last further on, from its last place to its first
// ones too: what stays in the node and what leaves it go at once, each in turn.
static double near_hop_us(const struct run *r, int first, int last, double bytes) {
  const struct cp_grid *g = &r->grid;
  const int size = g->context / g->windows;
  double most = 0;
  for (int c = 0; c < g->context; c++)
    for (int a = 0; a < g->heads; a++) {
      int here = 0, there = 0;
      for (int d = first; d <= last; d++)
        *(same_node(r, cp_grid_rank(g, a, c), cp_grid_rank(g, a, c / size * size + (c + d) % size))
              ? &here
              : &there) += 1;
      if (here)
        most = fmax(most, r->m->near_us + here * bytes / r->m->near_bytes_us);
      if (there)
        most = fmax(most, r->m->far_us + there * bytes / r->m->far_bytes_us);
    }
  return most;
}

// All-to-all of so many bytes of a rank between the ranks that split the heads of its tokens.
static double exchange_us(const struct run *r, double bytes) {
  const struct cp_grid *g = &r->grid;
  int here = 0;
  for (int a = 0; a < g->heads; a++)
    here += same_node(r, cp_grid_rank(g, 0, 0), cp_grid_rank(g, a, 0));
  const double part = bytes / g->heads;
  const double near = r->m->near_us + (here - 1) * part / r->m->near_bytes_us;
  const double far =
      here < g->heads ? r->m->far_us + (g->heads - here) * part / r->m->far_bytes_us : 0;
  return bytes > 0 ? fmax(near, far) : 0;
}

// Whether forward's Q and O stay with their owners (owners.c), which are of one node then.
static bool is_direct(const struct run *r, const struct cp_wish *asked) {
  const struct cp_grid *g = &r->grid;
  bool near = true;
  for (int a = 0; a < g->heads; a++)
    near &= same_node(r, cp_grid_rank(g, 0, 0), cp_grid_rank(g, a, 0));
  return near && !r->bwd && g->heads > 1 && g->heads <= ATTN_OWNERS_MAX && !asked->exchange &&
         !asked->pieces;
}

// ---- schedules ------------------------------------------------------------------------------

// Context ranks whose kernels are counted: zigzag in documents or slices makes all much alike.
static int samples_of(const struct run *r) {
  const int most = r->shard.cut == CP_CUT_DOCUMENTS || r->shard.cut == CP_CUT_SLICES ? 4 : 64;
  return r->grid.context < most ? r->grid.context : most;
}

static int sample(const struct run *r, int x,
                  int samples) { // spread evenly, with the first and the last
  return samples > 1 ? (int)((int64_t)x * (r->grid.context - 1) / (samples - 1)) : 0;
}

static int by_position(const void *a, const void *b) {
  return ((const struct attn_segment *)a)->pos - ((const struct attn_segment *)b)->pos;
}

// Longest kernel over the sampled ranks of a call that takes blocks (w, i), (w, i + 1), ...
static double slowest_call_us(const struct run *r, int w, int i, int blocks, double acc_bytes) {
  const struct cp_shard *s = &r->shard;
  const int n = r->grid.windows, size = r->grid.context / n, samples = samples_of(r);
  double most = 0;
  for (int x = 0; x < samples; x++) {
    const int c = sample(r, x, samples), j = c / size, t = c % size;
    int32_t segs = 0;
    for (int b = 0; b < blocks; b++) {
      const int from = (j - w + n) % n * size + (t - i - b + 2 * size) % size;
      memcpy(r->k_seg + segs, s->seg[from], (size_t)s->segs[from] * sizeof *r->k_seg);
      segs += s->segs[from];
    }
    if (blocks > 1)
      qsort(r->k_seg, (size_t)segs, sizeof *r->k_seg, by_position);
    most = fmax(most, step_us(r, s->seg[c], s->segs[c], r->k_seg, segs, acc_bytes));
  }
  return most;
}

static void run_ring(struct run *r) {
  const int n = r->grid.windows, size = r->grid.context / n, most = r->bwd ? 1 : r->grid.blocks;
  const int last = r->bwd ? size - 1 : cp_grid_groups(&r->grid); // call of a window
  const bool pieces = r->grid.pieces > 1;
  const double kv = 2.0 * r->shard.context_rows * r->heads_kv * r->p->dim,
               kv_bytes = kv * (double)r->elem;
  const bool sums = r->bwd && r->grid.context > 1; // a step's share: zeroed, added to what arrives
  const double grad_bytes = r->bwd ? 4 * kv : 0,
               add_us = sums ? (4 + 12) * kv / r->m->copy_bytes_us : 0;
  for (int a = 0; a < n; a++) {
    const int w = r->bwd ? (a + 1) % n : a; // backward ends at home
    const bool more = a + 1 < n || pieces;
    double window_us = 0;
    for (int b = 0; b <= last; b++) {
      const int i = r->bwd ? (b + 1) % size : b ? 1 + (b - 1) * most : 0;
      const int blocks = b && most < size - i ? most : b ? size - i : 1;
      const int left = r->bwd && i == 0 ? size > 1 && more : size - i - blocks;
      const int next = left < most ? left : most; // blocks
      // Forward writes O in fp32, but for the last call, and reads it, but for the first; backward's dQ stays in
      // the kernel's workspace.
      const bool one_of_these = (w == 0 && b == 0) || (w == n - 1 && b == last);
      const double acc_bytes = r->bwd || r->grid.context == 1 ? 0 : one_of_these ? 4 : 8;
      const double kernel_us = slowest_call_us(r, w, i, blocks, acc_bytes);
      // Under it: the next keys, and the sums of the step before.
      const double bytes = next * kv_bytes + (b > 0 ? grad_bytes : 0);
      double hop = 0;
      if (bytes > 0)
        hop =
            r->bwd || b > 0 ? near_hop_us(r, most, most, bytes) : near_hop_us(r, 1, next, kv_bytes);
      window_us += fmax(kernel_us, hop) + add_us;
      r->kernel_us += kernel_us;
    }
    const bool keys = r->bwd && w == 0 ? n > 1 && pieces : w + 1 < n;
    const double bytes = (keys ? kv_bytes : 0) + (a > 0 ? grad_bytes : 0);
    r->time_us += bytes > 0 ? fmax(window_us, hop_us(r, size, bytes)) : window_us;
  }
  if (sums) // the first keys, under nothing
    r->first_us =
        (n > 1 ? hop_us(r, size, kv_bytes) : 0) + (size > 1 ? near_hop_us(r, 1, 1, kv_bytes) : 0);
}

// Ring all-gather or reduce-scatter of blocks of that many bytes: each node's links carry what is outside it
// together, and within the node everything passes every rank, in chunks: its latency counts once.
static double gather_us(const struct run *r, double bytes) {
  const int ranks = r->grid.context, node = (int)r->m->node < ranks ? (int)r->m->node : ranks;
  const double near = r->m->near_us * (node > 1) + (ranks - 1) * bytes / r->m->near_bytes_us;
  const double far = ranks > node ? r->m->far_us * (ranks / node - 1) +
                                        (ranks - node) * bytes / node / r->m->far_bytes_us
                                  : 0;
  return fmax(near, far);
}

static void run_gathered(struct run *r) {
  const struct cp_shard *s = &r->shard;
  const int ring = r->grid.context, samples = samples_of(r);
  // One call: over the blocks as they came, or over all keys put into order first.
  const struct attn_segment whole = {0, 0, r->p->mask->seqlen};
  double most = r->m->gathers ? 0 : slowest_call_us(r, 0, 0, ring, 0);
  for (int x = 0; x < samples && r->m->gathers; x++) {
    const int c = sample(r, x, samples);
    most = fmax(most, step_us(r, s->seg[c], s->segs[c], &whole, 1, 0));
  }
  const double kv = (double)s->context_rows * r->heads_kv * r->p->dim;
  r->kernel_us = most;
  r->time_us = most;
  if (ring > 1)
    r->time_us += 2 * gather_us(r, kv * (double)r->elem) + (r->bwd ? 2 * gather_us(r, 4 * kv) : 0);
  if (ring > 1 && r->bwd) // dK and dV in fp32 zeroed, the own ones into the caller's type
    r->time_us += (8 * kv * ring + 2 * kv * (4 + (double)r->elem)) / r->m->copy_bytes_us;
}

// The ring with a piece of the heads at a time, between what comes in and what goes out (heads.c).
static void run_pieces(struct run *r) {
  const struct cp_grid *g = &r->grid;
  const int n = g->pieces;
  run_ring(r);
  if (g->heads == 1) {
    r->time_us += r->first_us;
    return;
  }
  const double piece_us = r->time_us, head = (double)r->shard.rows * r->p->dim * g->heads;
  const double q = g->direct ? 0 : head * r->heads_q * (double)r->elem, kv = 2 * head * r->heads_kv;
  const double grads = kv * (r->p->heads_kv < g->heads ? 4 : (double)r->elem);
  const int shared = r->p->heads_kv < g->heads ? n : n * r->heads_kv * g->heads / r->p->heads_kv;
  const double meet = 16.0 * g->heads; // in place of O
  const double out = r->bwd      ? q + grads
                     : g->direct ? meet
                                 : q,
               copy = r->m->copy_bytes_us / 2; // read and written
  double in_bytes = 0, first = 0, under_us = 0;
  for (int i = -1; i < n; i++) {
    double bytes = 0; // of piece i + 1
    if (i + 1 < n)
      bytes = q + (!r->bwd && (i + 1) % shared == 0 ? kv * (double)r->elem : 0);
    in_bytes += bytes;
    if (i < 0)
      first = bytes;
    else
      under_us += fmax(piece_us, exchange_us(r, bytes + (i >= 1 ? out : 0)));
  }
  r->kernel_us *= n;
  r->time_us = first / copy + fmax(exchange_us(r, first), (in_bytes - first) / copy) + r->first_us +
               under_us + fmax(exchange_us(r, out), (n - 1) * out / copy) + out / copy;
}

const char *cp_model(const struct cp_machine *m, const struct cp_schedule *schedule,
                     const struct cp_wish *wish, const struct attn_problem *problem, int ranks,
                     enum attn_pass pass, struct cp_estimate *out) {
  // Any kernel that takes the mask will do: the machine file says how fast it is.
  static const struct attn_kernel any = {.name = "any"};
  struct attn_problem p = *problem;
  p.backward = pass == ATTN_BWD;
  struct run r = {
      .m = m, .schedule = schedule, .p = &p, .elem = cp_elem_bytes(p.dtype), .bwd = p.backward};
  struct cp_wish asked = *wish;
  if (m->gathers && !asked.pieces) // nor are exchanges cut
    asked.pieces = 1;
  if (m->gathers && !asked.blocks) // nor steps put together
    asked.blocks = 1;
  const char *why = cp_why_not(schedule, &any, &p, ranks, &asked, &r.grid);
  if (why)
    return why;
  r.grid.direct = is_direct(&r, &asked);
  r.grid.pieces = r.grid.direct ? 1 : r.grid.pieces;
  const int32_t heads_kv = p.heads_kv < r.grid.heads ? 1 : p.heads_kv / r.grid.heads;
  r.heads_q = p.heads_q / r.grid.heads / r.grid.pieces;
  r.heads_kv = heads_kv < r.grid.pieces ? 1 : heads_kv / r.grid.pieces;
  if (cp_shard_init(&r.shard, p.mask, &r.grid))
    return attn_error();
  size_t segs = 0;
  for (int c = 0; c < r.grid.context; c++)
    segs += (size_t)r.shard.segs[c];
  if (!(r.k_seg = malloc((segs + 1) * sizeof *r.k_seg))) {
    cp_shard_free(&r.shard);
    return "out of host memory for the segments of all ranks";
  }
  if (schedule->gathers)
    run_gathered(&r);
  else
    run_pieces(&r);
  free(r.k_seg);
  *out = (struct cp_estimate){
      .time_us = r.time_us,
      .kernel_us = r.kernel_us,
      .exposed_us = r.time_us - r.kernel_us,
      .balance = cp_shard_balance(&r.shard, p.mask),
      .sent_bytes = cp_volume(&r.grid, &p, r.shard.context_rows, pass),
      .mem_bytes = cp_memory_bytes(schedule, &r.grid, &p, r.shard.context_rows),
      .grid = r.grid,
  };
  cp_shard_free(&r.shard);
  return NULL;
}
