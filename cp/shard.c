// shard.c -- which rank holds which tokens (study 6.2): zigzag by document, one layout for all ranks; and by
// slice, for masks whose rows a document does not balance (the paper's open question of heterogeneous masks).
//
// Piece j of a stretch of L tokens is [L j / 2R, L (j + 1) / 2R), so pieces differ by one token at
// most. The study cuts pieces of ceil(L / 2R) instead, which leaves the last ones short.
//   R = 2, documents of 5 and 2 tokens:   0 1 2 3 4 | 5 6     pieces [0 1) [1 2) [2 3) [3 5) | 5 6
//     rank 0: 0 3 4 . | . .  (pieces 0, 3)     rank 1: 1 2 . . | 5 6 (document 1 starts with rank 1)
#include <stdlib.h>
#include <string.h>

#include "cp.h"

#define CP_BALANCED 1.02 // most over mean work of the ranks

int cp_grid_rank(const struct cp_grid *g, int head, int context) {
  return g->context_first ? head * g->context + context : context * g->heads + head;
}

int cp_grid_head(const struct cp_grid *g, int rank) {
  return g->context_first ? rank / g->context : rank % g->heads;
}

int cp_grid_context(const struct cp_grid *g, int rank) {
  return g->context_first ? rank % g->context : rank / g->heads;
}

// Appends, or lengthens the last segment when both its rows and its positions go on.
static void append(struct attn_segment *list, int32_t *n, int32_t row, int32_t pos, int32_t len) {
  struct attn_segment *last = *n ? &list[*n - 1] : NULL;
  if (!len)
    return;
  if (last && last->row + last->len == row && last->pos + last->len == pos)
    last->len += len;
  else
    list[(*n)++] = (struct attn_segment){row, pos, len};
}

// Lays out the stretches between begin [n + 1]. 0, or -1 with attn_error() set.
static int lay_out(struct cp_shard *s, const struct cp_grid *grid, const int32_t *begin,
                   int32_t n) {
  const int ring = grid->context;
  const bool zigzag = ring > 1 && s->cut != CP_CUT_CONTIGUOUS; // alone, nothing is cut or padded
  const int64_t pieces = zigzag ? 2 * ring : ring;
  bool memory = s->seg && s->segs;
  for (int r = 0; r < ring && memory; r++)
    memory = (s->seg[r] = malloc(2 * (size_t)n * sizeof **s->seg)) != NULL;
  if (!memory) {
    attn_error_set(true, "out of host memory for the shards");
    return -1;
  }
  int64_t row = 0;
  for (int32_t d = 0; d < n; d++) {
    const int64_t length = begin[d + 1] - begin[d];
    const int64_t longest = (length + pieces - 1) / pieces;
    const int64_t half =
        zigzag && grid->align ? (longest + grid->align - 1) / grid->align * grid->align : longest;
    for (int r = 0; r < ring; r++) {
      const int64_t first = (r + d) % ring, mirror = pieces - 1 - first;
      const int64_t a = length * first / pieces, b = length * (first + 1) / pieces;
      append(s->seg[r], &s->segs[r], (int32_t)row, begin[d] + (int32_t)a, (int32_t)(b - a));
      if (!zigzag)
        continue;
      const int64_t c = length * mirror / pieces, e = length * (mirror + 1) / pieces;
      append(s->seg[r], &s->segs[r], (int32_t)(row + (grid->align ? half : b - a)),
             begin[d] + (int32_t)c, (int32_t)(e - c));
    }
    row += zigzag ? 2 * half : half;
  }
  s->rows = (int32_t)((row + grid->heads - 1) / grid->heads);
  s->context_rows = s->rows * grid->heads;
  for (int r = 0; r < ring; r++) {
    int32_t tokens = 0;
    for (int32_t i = 0; i < s->segs[r]; i++)
      tokens += s->seg[r][i].len;
    s->tokens_max = tokens > s->tokens_max ? tokens : s->tokens_max;
  }
  return 0;
}

static int cut_and_lay_out(struct cp_shard *s, const struct mask *mask, const struct cp_grid *grid,
                           enum cp_cut cut) {
  const int32_t whole[2] = {0, mask->seqlen};
  memset(s, 0, sizeof *s);
  s->cut = cut;
  s->contexts = grid->context;
  s->seg = calloc((size_t)grid->context, sizeof *s->seg);
  s->segs = calloc((size_t)grid->context, sizeof *s->segs);
  if (cut == CP_CUT_DOCUMENTS && mask->doc_begin)
    return lay_out(s, grid, mask->doc_begin, mask->docs);
  if (cut != CP_CUT_SLICES)
    return lay_out(s, grid, whole, 1);
  int32_t n, *begin = mask_slices(mask, &n);
  if (!begin) {
    attn_error_set(true, "out of host memory for the slices of the mask");
    return -1;
  }
  const int status = lay_out(s, grid, begin, n);
  free(begin);
  return status;
}

int cp_shard_init(struct cp_shard *s, const struct mask *mask, const struct cp_grid *grid) {
  const enum cp_cut cut = grid->cut == CP_CUT_BEST ? CP_CUT_DOCUMENTS : grid->cut;
  if (cut_and_lay_out(s, mask, grid, cut))
    return -1;
  const double balance = cp_shard_balance(s, mask);
  if (grid->cut != CP_CUT_BEST || balance <= CP_BALANCED)
    return 0;
  // Pieces of slices are smaller than those of documents, so they must be worth it.
  struct cp_shard slices;
  if (cut_and_lay_out(&slices, mask, grid, CP_CUT_SLICES)) {
    cp_shard_free(&slices);
    return -1;
  }
  const bool better = cp_shard_balance(&slices, mask) < balance;
  cp_shard_free(better ? s : &slices);
  if (better)
    *s = slices;
  return 0;
}

void cp_shard_free(struct cp_shard *s) {
  for (int r = 0; s->seg && r < s->contexts; r++)
    free(s->seg[r]);
  free(s->seg);
  free(s->segs);
  memset(s, 0, sizeof *s);
}

void cp_shard_positions(const struct cp_shard *s, int context, int32_t *pos) {
  for (int32_t i = 0; i < s->context_rows; i++)
    pos[i] = -1;
  for (int32_t i = 0; i < s->segs[context]; i++) {
    const struct attn_segment *g = &s->seg[context][i];
    for (int32_t j = 0; j < g->len; j++)
      pos[g->row + j] = g->pos + j;
  }
}

double cp_shard_work(const struct cp_shard *s, const struct mask *mask, int context) {
  double work = 0;
  for (int32_t i = 0; i < s->segs[context]; i++) {
    const struct attn_segment *g = &s->seg[context][i];
    work += mask_area_rows(mask, g->pos, g->pos + g->len);
  }
  return work;
}

double cp_shard_balance(const struct cp_shard *s, const struct mask *mask) {
  double most = 0, sum = 0;
  for (int r = 0; r < s->contexts; r++) {
    const double work = cp_shard_work(s, mask, r);
    most = work > most ? work : most;
    sum += work;
  }
  return most * s->contexts / sum;
}

int32_t cp_segment_ending_after(const struct attn_segment *seg, int32_t segs, int32_t pos) {
  int32_t low = 0, high = segs;
  while (low < high) {
    const int32_t mid = (low + high) / 2;
    if (seg[mid].pos + seg[mid].len <= pos)
      low = mid + 1;
    else
      high = mid;
  }
  return low;
}

// Keys of the segments in positions [begin, end).
static int64_t keys_in(const struct attn_segment *k, int32_t k_segs, int32_t begin, int32_t end) {
  int32_t low = cp_segment_ending_after(k, k_segs, begin);
  int64_t n = 0;
  for (; low < k_segs && k[low].pos < end; low++) {
    const int32_t from = k[low].pos > begin ? k[low].pos : begin;
    const int32_t to = k[low].pos + k[low].len < end ? k[low].pos + k[low].len : end;
    n += to - from;
  }
  return n;
}

double cp_pairs(const struct mask *mask, const struct attn_segment *q, int32_t q_segs,
                const struct attn_segment *k, int32_t k_segs) {
  double pairs = 0;
  for (int32_t s = 0; s < q_segs; s++)
    for (int32_t i = 0; i < q[s].len; i++) {
      struct mask_span spans[MASK_SPANS_MAX];
      const int n = mask_row_spans(mask, q[s].pos + i, spans);
      for (int j = 0; j < n; j++)
        pairs += (double)keys_in(k, k_segs, spans[j].begin, spans[j].end);
    }
  return pairs;
}
