// band.h -- one interval of keys a query, as FlashAttention 2 and 3 and cuDNN take it (study 4).
//
// A window (left, right) around the diagonal and documents by cumulative lengths: query q sees keys
// [max(begin of its document, q - left), min(end of its document, q + right + 1)). Causal: right 0.
// Expresses full, causal, the sliding windows, and full and causal documents.
// Memory: none without documents; 4 S + 4 (documents + 1) bytes with them.
// Both ends grow with q and the interval holds q, so the rows of a tile see one interval together
// and one interval each: the walk is a closed form of four bounds, exact for every view.
#ifndef LONGCA_REP_BAND_H
#define LONGCA_REP_BAND_H

#include "walk.h"

struct band {
  int32_t seqlen;
  int32_t left, right; // keys seen before and after the query's position; seqlen: all
  int32_t docs;
  int32_t *cu;     // [docs + 1] cumulative lengths; NULL: one document
  int32_t *doc_of; // [seqlen] document of each position
};

REP_HD void band_span(const struct band *x, int32_t at, int32_t before, int32_t after, int32_t *lo,
                      int32_t *hi) {
  const int32_t begin = x->cu ? x->cu[x->doc_of[at]] : 0;
  const int32_t end = x->cu ? x->cu[x->doc_of[at] + 1] : x->seqlen;
  *lo = rep_max(begin, at - before);
  *hi = rep_min(end, at + after + 1);
}

// Keys [lo, hi) that query q sees; never empty, q is one of them.
REP_HD void band_row(const struct band *x, int32_t q, int32_t *lo, int32_t *hi) {
  band_span(x, q, x->left, x->right, lo, hi);
}

// Queries [lo, hi) that see key k.
REP_HD void band_column(const struct band *x, int32_t k, int32_t *lo, int32_t *hi) {
  band_span(x, k, x->right, x->left, lo, hi);
}

REP_HD bool band_allows(const struct band *x, int32_t head, int32_t q, int32_t k) {
  int32_t lo, hi;
  (void)head;
  band_row(x, q, &lo, &hi);
  return lo <= k && k < hi;
}

REP_HD void band_row_bits(const struct band *x, int32_t head, int32_t q, int32_t k, int32_t n,
                          uint64_t *bits) {
  int32_t lo, hi;
  (void)head;
  band_row(x, q, &lo, &hi);
  rep_bits_clear(bits, n);
  rep_bits_set(bits, rep_max(lo - k, 0), rep_min(hi - k, n));
}

REP_HD enum tile_class band_class(const struct band *x, int32_t head, int32_t q_begin,
                                  int32_t q_end, int32_t k_begin, int32_t k_end) {
  int32_t any_lo, all_hi, all_lo, any_hi;
  (void)head;
  band_row(x, q_begin, &any_lo, &all_hi);
  band_row(x, q_end - 1, &all_lo, &any_hi);
  if (k_end <= any_lo || any_hi <= k_begin)
    return TILE_EMPTY;
  return all_lo <= k_begin && k_end <= all_hi ? TILE_FULL : TILE_PARTIAL;
}

// Tiles of [begin, end) that meet [any_lo, any_hi); full are those inside [all_lo, all_hi).
REP_HD struct tile_run band_run(int32_t any_lo, int32_t any_hi, int32_t all_lo, int32_t all_hi,
                                int32_t begin, int32_t end, int32_t tile, int32_t from) {
  struct tile_run run = tile_run_none();
  any_lo = rep_max(any_lo, begin);
  any_hi = rep_min(any_hi, end);
  if (any_lo >= any_hi)
    return run;
  from = rep_max(from, (any_lo - begin) / tile);
  const int32_t last = rep_tiles(begin, any_hi, tile);
  if (from >= last)
    return run;
  const int32_t full_from = rep_tiles(begin, all_lo, tile);
  const int32_t full_to = all_hi >= end ? last : rep_max(all_hi - begin, 0) / tile;
  run.begin = from;
  run.full = full_from <= from && from < full_to;
  run.end = run.full ? full_to : from < full_from && full_from < full_to ? full_from : last;
  return run;
}

REP_HD struct tile_run band_next_keys(const struct band *x, int32_t head, const struct tile_view *v,
                                      int32_t from) {
  int32_t any_lo, all_hi, all_lo, any_hi;
  (void)head;
  if (v->q_begin >= v->q_end)
    return tile_run_none();
  band_row(x, v->q_begin, &any_lo, &all_hi);
  band_row(x, v->q_end - 1, &all_lo, &any_hi);
  return band_run(any_lo, any_hi, all_lo, all_hi, v->k_begin, v->k_end, v->tile, from);
}

REP_HD struct tile_run band_next_queries(const struct band *x, int32_t head,
                                         const struct tile_view *v, int32_t from) {
  int32_t any_lo, all_hi, all_lo, any_hi;
  (void)head;
  if (v->k_begin >= v->k_end)
    return tile_run_none();
  band_column(x, v->k_begin, &any_lo, &all_hi);
  band_column(x, v->k_end - 1, &all_lo, &any_hi);
  return band_run(any_lo, any_hi, all_lo, all_hi, v->q_begin, v->q_end, v->tile, from);
}

#ifndef __CUDACC_RTC__
static inline const char *band_supports(const struct mask *m) {
  switch (m->kind) {
  case MASK_FULL:
  case MASK_CAUSAL:
  case MASK_SLIDING_WINDOW:
  case MASK_SLIDING_WINDOW_CAUSAL:
  case MASK_FULL_DOCUMENT:
  case MASK_CAUSAL_DOCUMENT:
  case MASK_FULL_DOCUMENT_LONG:
  case MASK_CAUSAL_DOCUMENT_LONG:
    return NULL;
  default:
    return "band: a causal flag, a window and documents cannot express this mask";
  }
}

static inline int band_arrays(const struct band *x, struct rep_array list[REP_ARRAYS_MAX]) {
  int n = 0;
  REP_ADD(list, n, x, band, cu, x->docs + 1, true);
  REP_ADD(list, n, x, band, doc_of, x->seqlen, true);
  return n;
}
REP_ARRAYS(band)

// 0, or -1 when memory is short or the mask is not supported.
static inline int band_build(struct band *x, const struct mask *m) {
  memset(x, 0, sizeof *x);
  if (band_supports(m))
    return -1;
  const bool window = m->kind == MASK_SLIDING_WINDOW || m->kind == MASK_SLIDING_WINDOW_CAUSAL;
  const bool causal = m->kind == MASK_CAUSAL || m->kind == MASK_SLIDING_WINDOW_CAUSAL ||
                      m->kind == MASK_CAUSAL_DOCUMENT || m->kind == MASK_CAUSAL_DOCUMENT_LONG;
  x->seqlen = m->seqlen;
  x->left = window ? rep_min(m->window, m->seqlen) : m->seqlen;
  x->right = causal ? 0 : x->left;
  x->docs = 1;
  if (!mask_has_docs(m->kind))
    return 0;
  x->docs = m->docs;
  x->cu = REP_NEW(int32_t, m->docs + 1);
  x->doc_of = REP_NEW(int32_t, m->seqlen);
  if (!x->cu || !x->doc_of) {
    band_free(x);
    return -1;
  }
  memcpy(x->cu, m->doc_begin, (size_t)(m->docs + 1) * sizeof *x->cu);
  memcpy(x->doc_of, m->doc_of, (size_t)m->seqlen * sizeof *x->doc_of);
  return 0;
}
#endif
#endif
