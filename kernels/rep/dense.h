// dense.h -- the mask as S x S bits, as naive PyTorch and SDPA take it (study 4).
//
// Memory: heads * S * ceil(S / 64) * 8 bytes, heads = 1 but for the block-sparse masks: the only
// representation that is O(S^2). Expresses every mask. A tile is classified by reading its words,
// so the walk is exact for every view, and costs tile_q * tile_k / 64 loads a tile where it is
// uniform.
#ifndef LONGCA_REP_DENSE_H
#define LONGCA_REP_DENSE_H

#include "walk.h"

struct dense {
  int32_t seqlen, heads;
  int32_t words;  // 64-bit words a row
  uint64_t *bits; // [heads, seqlen, words], bit k % 64 of word k / 64
};

REP_HD const uint64_t *dense_row(const struct dense *x, int32_t head, int32_t q) {
  return x->bits + ((int64_t)(x->heads > 1 ? head : 0) * x->seqlen + q) * x->words;
}

REP_HD bool dense_allows(const struct dense *x, int32_t head, int32_t q, int32_t k) {
  return dense_row(x, head, q)[k / 64] >> (k % 64) & 1;
}

REP_HD void dense_row_bits(const struct dense *x, int32_t head, int32_t q, int32_t k, int32_t n,
                           uint64_t *bits) {
  const uint64_t *row = dense_row(x, head, q);
  const int32_t shift = k % 64;
  for (int32_t i = 0; i < n; i += 64) {
    const int32_t w = (k + i) / 64, rest = rep_min(n - i, 64);
    uint64_t word = row[w] >> shift;
    if (shift && w + 1 < x->words)
      word |= row[w + 1] << (64 - shift);
    bits[i / 64] = word & rep_word(0, rest);
  }
}

REP_HD enum tile_class dense_class(const struct dense *x, int32_t head, int32_t q_begin,
                                   int32_t q_end, int32_t k_begin, int32_t k_end) {
  bool any = false, all = true;
  for (int32_t q = q_begin; q < q_end; q++) {
    const uint64_t *row = dense_row(x, head, q);
    for (int32_t w = k_begin / 64; w * 64 < k_end; w++) {
      const uint64_t real = rep_word(rep_max(k_begin - w * 64, 0), rep_min(k_end - w * 64, 64));
      const uint64_t seen = row[w] & real;
      any |= seen != 0;
      all &= seen == real;
    }
    if (any && !all)
      return TILE_PARTIAL;
  }
  return any ? TILE_FULL : TILE_EMPTY;
}

// Nothing is known without reading the tile.
REP_HD int32_t dense_skip_keys(const struct dense *x, int32_t head, int32_t q_begin, int32_t q_end,
                               int32_t k) {
  (void)x, (void)head, (void)q_begin, (void)q_end;
  return k;
}
REP_HD int32_t dense_skip_queries(const struct dense *x, int32_t head, int32_t k_begin,
                                  int32_t k_end, int32_t q) {
  (void)x, (void)head, (void)k_begin, (void)k_end;
  return q;
}
REP_WALKS(dense)

#ifndef __CUDACC_RTC__
static inline const char *dense_supports(const struct mask *m) {
  (void)m;
  return NULL;
}

static inline int dense_arrays(const struct dense *x, struct rep_array list[REP_ARRAYS_MAX]) {
  int n = 0;
  REP_ADD(list, n, x, dense, bits, (int64_t)x->heads * x->seqlen * x->words, true);
  return n;
}
REP_ARRAYS(dense)

static inline void dense_shape(struct dense *x, const struct mask *m) {
  memset(x, 0, sizeof *x);
  x->seqlen = m->seqlen;
  x->heads = m->heads > 0 ? m->heads : 1;
  x->words = (m->seqlen + 63) / 64;
}

// 0, or -1 when memory is short.
static inline int dense_build(struct dense *x, const struct mask *m) {
  dense_shape(x, m);
  x->bits = REP_NEW(uint64_t, (int64_t)x->heads * x->seqlen * x->words);
  if (!x->bits)
    return -1;
  for (int32_t head = 0; head < x->heads; head++)
    for (int32_t q = 0; q < m->seqlen; q++) {
      uint64_t *row = x->bits + ((int64_t)head * x->seqlen + q) * x->words;
      struct mask_span spans[MASK_SPANS_MAX];
      const int n = m->heads ? 0 : mask_row_spans(m, q, spans);
      for (int i = 0; i < n; i++)
        rep_bits_set(row, spans[i].begin, spans[i].end);
      if (!m->heads)
        continue;
      const int32_t *rows = m->row_begin + (int64_t)head * (m->blocks_q + 1);
      const int32_t *cols = m->col_begin + (int64_t)head * (m->blocks_k + 1);
      const int32_t r = mask_find(rows, m->blocks_q, q);
      const uint32_t *kept = m->kept + ((int64_t)head * m->blocks_q + r) * m->kept_words;
      if (q > rows[r]) // as the row above, in the same block row
        memcpy(row, row - x->words, (size_t)x->words * sizeof *row);
      else
        for (int32_t c = 0; c < m->blocks_k; c++)
          if (kept[c / 32] >> (c % 32) & 1)
            rep_bits_set(row, cols[c], cols[c + 1]);
    }
  return 0;
}
#endif
#endif
