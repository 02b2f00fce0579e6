// mask_area.c -- exact areas and pictures of the masks (study 1.3, 5.1, 5.2).
//
// In every mask but the block-sparse ones, the keys that row q sees begin and end at positions that
// are constant or move with q, so a range of rows sums in closed form, document by document:
//   sum over q of clamp(q + shift, low, high)      (sum_clamped)
// BLOCK CAUSAL moves in steps of a block and is summed block by block. Sums are exact in int64.
#include "mask.h"

#include <string.h>

static int64_t min64(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t max64(int64_t a, int64_t b) { return a > b ? a : b; }
static int64_t clamp(int64_t x, int64_t low, int64_t high) { return max64(low, min64(x, high)); }

// Sum over x in [begin, end) of clamp(x + shift, low, high), low <= high.
static int64_t sum_clamped(int64_t begin, int64_t end, int64_t shift, int64_t low, int64_t high) {
  if (begin >= end)
    return 0;
  const int64_t ramp = clamp(low - shift, begin, end); // before it: low
  const int64_t flat = clamp(high - shift, ramp, end); // from it on: high
  const int64_t n = flat - ramp, first = ramp + shift;
  return (ramp - begin) * low + n * first + n * (n - 1) / 2 + (end - flat) * high;
}

// Pairs of the rows [from, to), which lie in document `doc`.
static int64_t doc_area(const struct mask *m, int32_t doc, int64_t from, int64_t to) {
  const int64_t begin = m->doc_begin[doc], end = m->doc_begin[doc + 1], length = end - begin;
  const int64_t causal = sum_clamped(from, to, 1 - begin, 0, length);
  switch (m->kind) {
  case MASK_FULL_DOCUMENT:
  case MASK_FULL_DOCUMENT_LONG:
    return (to - from) * length;
  case MASK_SHARE_QUESTION:
    return causal + (doc ? (to - from) * m->doc_begin[1] : 0);
  case MASK_CAUSAL_BLOCKWISE:
    return causal + (doc == m->docs - 1 ? (to - from) * begin : 0);
  case MASK_PREFIX_LM_DOCUMENT:
    return sum_clamped(from, to, 1 - begin, min64(m->prefix, length), length);
  case MASK_BLOCK_CAUSAL_DOCUMENT: {
    int64_t area = 0;
    for (int64_t q = from; q < to;) {
      const int64_t block_end = (q / m->block + 1) * m->block, next = min64(block_end, to);
      area += (next - q) * (min64(block_end, end) - begin);
      q = next;
    }
    return area;
  }
  default: // CAUSAL DOCUMENT
    return causal;
  }
}

static double block_sparse_area(const struct mask *m, int32_t from, int32_t to) {
  int64_t pairs = 0;
  for (int32_t head = 0; head < m->heads; head++) {
    const int32_t *rows = m->row_begin + (int64_t)head * (m->blocks_q + 1);
    const int32_t *cols = m->col_begin + (int64_t)head * (m->blocks_k + 1);
    for (int32_t r = mask_find(rows, m->blocks_q, from); r < m->blocks_q && rows[r] < to; r++) {
      const uint32_t *kept = m->kept + ((int64_t)head * m->blocks_q + r) * m->kept_words;
      int64_t width = 0;
      for (int32_t c = 0; c < m->blocks_k; c++)
        width += kept[c / 32] >> (c % 32) & 1 ? cols[c + 1] - cols[c] : 0;
      pairs += width * (min64(rows[r + 1], to) - max64(rows[r], from));
    }
  }
  return (double)pairs / m->heads;
}

double mask_area(const struct mask *m) { return mask_area_rows(m, 0, m->seqlen); }

double mask_area_rows(const struct mask *m, int32_t q_begin, int32_t q_end) {
  const int64_t size = m->seqlen, w = m->window, from = max64(q_begin, 0), to = min64(q_end, size);
  if (from >= to)
    return 0;
  switch (m->kind) {
  case MASK_FULL:
    return (double)((to - from) * size);
  case MASK_CAUSAL:
    return (double)sum_clamped(from, to, 1, 0, size);
  case MASK_SLIDING_WINDOW:
    return (double)(sum_clamped(from, to, w + 1, 0, size) - sum_clamped(from, to, -w, 0, size));
  case MASK_SLIDING_WINDOW_CAUSAL:
    return (double)(sum_clamped(from, to, 1, 0, size) - sum_clamped(from, to, -w, 0, size));
  case MASK_GLOBAL_SLIDING_WINDOW: {
    const int64_t global =
        clamp(w, from, to); // rows before it see all keys, the others the first w too
    return (double)((global - from) * size + (to - global) * w +
                    sum_clamped(global, to, w + 1, w, max64(w, size)) -
                    sum_clamped(global, to, -w, w, max64(w, size)));
  }
  case MASK_PREFIX_LM_CAUSAL:
    return (double)sum_clamped(from, to, 1, min64(m->prefix, size), size);
  case MASK_UNIFORM_BLOCK_SPARSE:
  case MASK_VARIABLE_BLOCK_SPARSE:
    return block_sparse_area(m, (int32_t)from, (int32_t)to);
  default:
    break;
  }
  int64_t area = 0;
  for (int32_t doc = m->doc_of[from]; doc < m->docs && m->doc_begin[doc] < to; doc++)
    area += doc_area(m, doc, max64(from, m->doc_begin[doc]), min64(to, m->doc_begin[doc + 1]));
  return (double)area;
}

// Adds `rows` rows that see the keys [begin, end) to a row of n picture cells.
static void paint(double *cells, int32_t n, int64_t seqlen, int64_t begin, int64_t end,
                  double rows) {
  for (int64_t c = begin * n / seqlen; c < n && c * seqlen / n < end; c++)
    cells[c] +=
        rows * (double)max64(0, min64(end, (c + 1) * seqlen / n) - max64(begin, c * seqlen / n));
}

void mask_picture(const struct mask *m, int32_t head, int32_t n, double *density) {
  const int64_t size = m->seqlen;
  memset(density, 0, sizeof *density * n * n);
  for (int32_t i = 0; i < n; i++) {
    double *cells = density + (int64_t)i * n;
    const int32_t from = (int32_t)(i * size / n), to = (int32_t)((i + 1) * size / n);
    for (int32_t q = from, next; q < to; q = next) {
      next = q + 1;
      if (mask_is_block_sparse(m->kind)) {
        const int32_t *rows = m->row_begin + (int64_t)head * (m->blocks_q + 1);
        const int32_t *cols = m->col_begin + (int64_t)head * (m->blocks_k + 1);
        const int32_t r = mask_find(rows, m->blocks_q, q);
        const uint32_t *kept = m->kept + ((int64_t)head * m->blocks_q + r) * m->kept_words;
        next = (int32_t)min64(rows[r + 1], to);
        for (int32_t c = 0; c < m->blocks_k; c++)
          if (kept[c / 32] >> (c % 32) & 1)
            paint(cells, n, size, cols[c], cols[c + 1], next - q);
      } else {
        struct mask_span spans[MASK_SPANS_MAX];
        const int count = mask_row_spans(m, q, spans);
        for (int s = 0; s < count; s++)
          paint(cells, n, size, spans[s].begin, spans[s].end, 1);
      }
    }
    for (int64_t c = 0; c < n; c++)
      cells[c] /= (double)(to - from) * (double)((c + 1) * size / n - c * size / n);
  }
}
