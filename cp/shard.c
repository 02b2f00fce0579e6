// shard.c -- who is where in the grid, and what a rank's share of the tokens (cut.c) is worth: its work, its
// balance, the pairs between two shares.
#include <stdlib.h>
#include <string.h>

#include "cp.h"

int cp_grid_rank(const struct cp_grid *g, int head, int context) {
  return g->context_first ? head * g->context + context : context * g->heads + head;
}

int cp_grid_head(const struct cp_grid *g, int rank) {
  return g->context_first ? rank / g->context : rank % g->heads;
}

int cp_grid_context(const struct cp_grid *g, int rank) {
  return g->context_first ? rank % g->context : rank / g->heads;
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
