// columns.h -- masked row intervals a key, as FlashMask takes them (study 4, "column bounds").
//
// Key j is hidden from rows [LTS, LTE) below the diagonal and [UTS, UTE) above it. A vector that is
// the same for all keys is left out (NULL): LTE = S, UTS = 0, and UTE = j for a causal mask. So
// full and causal masks take 1 or 2 vectors and only GLOBAL SLIDING takes 4, as published.
// Expresses the 12 masks (and the _long ones), not the block-sparse ones.
// Memory: 4 S bytes a vector, and 32 S / 64 * (1 + 1 / 32) for the bounds of blocks of 64 keys and
// of 32 blocks. Bounds prove most tiles empty or full; the rest are decided by reading their
// columns up to the first visible and the first hidden pair, so the walk is exact for every view.
#ifndef LONGCA_REP_COLUMNS_H
#define LONGCA_REP_COLUMNS_H

#include "walk.h"

enum { COLUMNS_BLOCK = 64, COLUMNS_COARSE = 32 * COLUMNS_BLOCK };

struct columns_rows {
  int32_t begin, end; // empty when begin >= end
};

// Of a block of keys: rows that hide some key (their hull), and rows that hide every key.
struct columns_bounds {
  struct columns_rows lower_any, lower_all, upper_any, upper_all;
};

struct columns {
  int32_t seqlen;
  bool causal;
  int32_t *lts, *lte, *uts, *ute; // [seqlen], or NULL
  struct columns_bounds *fine;    // [ceil(seqlen / COLUMNS_BLOCK)]
  struct columns_bounds *coarse;  // [ceil(seqlen / COLUMNS_COARSE)]
};

REP_HD struct columns_rows columns_lower(const struct columns *x, int32_t k) {
  struct columns_rows r;
  r.begin = x->lts[k];
  r.end = x->lte ? x->lte[k] : x->seqlen;
  return r;
}

REP_HD struct columns_rows columns_upper(const struct columns *x, int32_t k) {
  struct columns_rows r;
  r.begin = x->uts ? x->uts[k] : 0;
  r.end = x->ute ? x->ute[k] : x->causal ? k : 0;
  return r;
}

REP_HD bool columns_allows(const struct columns *x, int32_t head, int32_t q, int32_t k) {
  const struct columns_rows lower = columns_lower(x, k), upper = columns_upper(x, k);
  (void)head;
  return !(lower.begin <= q && q < lower.end) && !(upper.begin <= q && q < upper.end);
}

// Keys [k, k + n) of row q as bits, n <= 64. Plain loops, a vector each, for the vectoriser.
REP_HD uint64_t columns_word(const struct columns *x, int32_t q, int32_t k, int32_t n) {
  uint8_t hidden[64] = {0}, upper[64];
  for (int32_t j = 0; j < n; j++)
    hidden[j] = x->lts[k + j] <= q;
  if (x->lte)
    for (int32_t j = 0; j < n; j++)
      hidden[j] &= q < x->lte[k + j];
  if (x->ute) {
    for (int32_t j = 0; j < n; j++)
      upper[j] = q < x->ute[k + j];
    if (x->uts)
      for (int32_t j = 0; j < n; j++)
        upper[j] &= x->uts[k + j] <= q;
    for (int32_t j = 0; j < n; j++)
      hidden[j] |= upper[j];
  }
  uint64_t word = ~rep_bits_pack(hidden);
  if (x->causal)
    n = rep_min(n, q - k + 1); // keys after the query are hidden
  return n > 0 ? word & rep_word(0, n) : 0;
}

REP_HD void columns_row_bits(const struct columns *x, int32_t head, int32_t q, int32_t k, int32_t n,
                             uint64_t *bits) {
  (void)head;
  for (int32_t i = 0; i < n; i += 64)
    bits[i / 64] = n - i >= 64 ? columns_word(x, q, k + i, 64) : columns_word(x, q, k + i, n - i);
}

// How many of the rows [begin, end) are in r.
REP_HD int32_t columns_overlap(struct columns_rows r, int32_t begin, int32_t end) {
  return rep_max(rep_min(r.end, end) - rep_max(r.begin, begin), 0);
}

REP_HD bool columns_contain(struct columns_rows r, int32_t begin, int32_t end) {
  return r.begin <= begin && end <= r.end;
}

REP_HD struct columns_rows columns_hull(struct columns_rows a, struct columns_rows b) {
  a.begin = rep_min(a.begin, b.begin);
  a.end = rep_max(a.end, b.end);
  return a;
}

REP_HD struct columns_rows columns_common(struct columns_rows a, struct columns_rows b) {
  a.begin = rep_max(a.begin, b.begin);
  a.end = rep_min(a.end, b.end);
  return a;
}

REP_HD void columns_join(struct columns_bounds *all, const struct columns_bounds *b) {
  all->lower_any = columns_hull(all->lower_any, b->lower_any);
  all->upper_any = columns_hull(all->upper_any, b->upper_any);
  all->lower_all = columns_common(all->lower_all, b->lower_all);
  all->upper_all = columns_common(all->upper_all, b->upper_all);
}

// Bounds of the blocks of `side` keys that hold keys [k_begin, k_end).
REP_HD struct columns_bounds columns_over(const struct columns_bounds *blocks, int32_t side,
                                          int32_t k_begin, int32_t k_end) {
  struct columns_bounds b = blocks[k_begin / side];
  for (int32_t i = k_begin / side + 1; i * side < k_end; i++)
    columns_join(&b, &blocks[i]);
  return b;
}

REP_HD bool columns_hidden(const struct columns_bounds *b, int32_t q_begin, int32_t q_end) {
  return columns_contain(b->lower_all, q_begin, q_end) ||
         columns_contain(b->upper_all, q_begin, q_end);
}

REP_HD enum tile_class columns_class(const struct columns *x, int32_t head, int32_t q_begin,
                                     int32_t q_end, int32_t k_begin, int32_t k_end) {
  const struct columns_bounds b = columns_over(x->fine, COLUMNS_BLOCK, k_begin, k_end);
  bool visible = false, hidden = false;
  (void)head;
  if (columns_hidden(&b, q_begin, q_end))
    return TILE_EMPTY;
  if (!columns_overlap(b.lower_any, q_begin, q_end) &&
      !columns_overlap(b.upper_any, q_begin, q_end))
    return TILE_FULL;
  for (int32_t k = k_begin; k < k_end && !(visible && hidden); k++) {
    const int32_t rows = columns_overlap(columns_lower(x, k), q_begin, q_end) +
                         columns_overlap(columns_upper(x, k), q_begin, q_end);
    visible |= rows < q_end - q_begin;
    hidden |= rows > 0;
  }
  return !visible ? TILE_EMPTY : hidden ? TILE_PARTIAL : TILE_FULL;
}

REP_HD int32_t columns_skip_keys(const struct columns *x, int32_t head, int32_t q_begin,
                                 int32_t q_end, int32_t k) {
  (void)head;
  if (x->causal && k >= q_end)
    return REP_FAR;
  while (k < x->seqlen)
    if (columns_hidden(&x->coarse[k / COLUMNS_COARSE], q_begin, q_end))
      k = (k / COLUMNS_COARSE + 1) * COLUMNS_COARSE;
    else if (columns_hidden(&x->fine[k / COLUMNS_BLOCK], q_begin, q_end))
      k = (k / COLUMNS_BLOCK + 1) * COLUMNS_BLOCK;
    else
      return k;
  return REP_FAR;
}

REP_HD int32_t columns_skip_queries(const struct columns *x, int32_t head, int32_t k_begin,
                                    int32_t k_end, int32_t q) {
  const struct columns_bounds b = columns_over(x->fine, COLUMNS_BLOCK, k_begin, k_end);
  (void)head;
  if (columns_contain(b.upper_all, q, q + 1))
    q = b.upper_all.end;
  if (columns_contain(b.lower_all, q, q + 1))
    q = b.lower_all.end;
  return q;
}
REP_WALKS(columns)

#ifndef __CUDACC_RTC__
static inline const char *columns_supports(const struct mask *m) {
  return mask_is_block_sparse(m->kind)
             ? "columns: one hidden interval a key and triangle cannot express a block-sparse mask"
             : NULL;
}

static inline int columns_arrays(const struct columns *x, struct rep_array list[REP_ARRAYS_MAX]) {
  int n = 0;
  REP_ADD(list, n, x, columns, lts, x->seqlen, true);
  REP_ADD(list, n, x, columns, lte, x->seqlen, true);
  REP_ADD(list, n, x, columns, uts, x->seqlen, true);
  REP_ADD(list, n, x, columns, ute, x->seqlen, true);
  REP_ADD(list, n, x, columns, fine, rep_tiles(0, x->seqlen, COLUMNS_BLOCK), true);
  REP_ADD(list, n, x, columns, coarse, rep_tiles(0, x->seqlen, COLUMNS_COARSE), true);
  return n;
}
REP_ARRAYS(columns)

// The vectors of key k, but for those that the mask leaves out. (The builders of one entry are for host and
// device alike.)
REP_HD void columns_set(const struct columns *x, const struct mask *m, int32_t k) {
  const int32_t seqlen = m->seqlen, window = rep_min(m->window, seqlen);
  const bool docs = m->docs > 1; // one document is the sequence
  const int32_t doc = docs ? m->doc_of[k] : 0, last = m->docs - 1;
  const int32_t begin = docs ? m->doc_begin[doc] : 0, end = docs ? m->doc_begin[doc + 1] : seqlen;
  int32_t lts = end, lte = seqlen, uts = 0, ute = 0;
  switch (m->kind) {
  case MASK_SLIDING_WINDOW:
    ute = rep_max(k - window, 0);
    lts = rep_min(k + window + 1, seqlen);
    break;
  case MASK_SLIDING_WINDOW_CAUSAL:
    lts = rep_min(k + window + 1, seqlen);
    break;
  case MASK_FULL_DOCUMENT:
  case MASK_FULL_DOCUMENT_LONG:
    ute = begin;
    break;
  case MASK_SHARE_QUESTION:
    lts = doc == 0 ? seqlen : end;
    break;
  case MASK_CAUSAL_BLOCKWISE: // seen by its own document and by the last
    lte = doc == last ? end : m->doc_begin[last];
    break;
  case MASK_GLOBAL_SLIDING_WINDOW:
    lts = k < window ? seqlen : rep_min(k + window + 1, seqlen);
    uts = window;
    ute = rep_max(k - window, 0);
    break;
  case MASK_PREFIX_LM_CAUSAL:
    ute = k < m->prefix ? 0 : k;
    break;
  case MASK_PREFIX_LM_DOCUMENT:
    ute = k - begin < m->prefix ? begin : k;
    break;
  case MASK_BLOCK_CAUSAL_DOCUMENT:
    ute = rep_max(begin, k / m->block * m->block);
    break;
  default: // full and the causal ones: LTS alone
    break;
  }
  x->lts[k] = lts;
  if (x->lte)
    x->lte[k] = lte;
  if (x->uts)
    x->uts[k] = uts;
  if (x->ute)
    x->ute[k] = ute;
}

// An empty interval hides nothing: neutral in the hull, and no row hides every key.
REP_HD void columns_bound(struct columns_rows r, struct columns_rows *any,
                          struct columns_rows *all) {
  const struct columns_rows nothing = {REP_FAR, -1};
  *any = *all = r.begin < r.end ? r : nothing;
}

REP_HD struct columns_bounds columns_bounds_of(const struct columns *x, int32_t k) {
  struct columns_bounds b;
  columns_bound(columns_lower(x, k), &b.lower_any, &b.lower_all);
  columns_bound(columns_upper(x, k), &b.upper_any, &b.upper_all);
  return b;
}

REP_HD void columns_bound_fine(const struct columns *x, int32_t i) {
  const int32_t begin = i * COLUMNS_BLOCK, end = rep_min(begin + COLUMNS_BLOCK, x->seqlen);
  struct columns_bounds all = columns_bounds_of(x, begin);
  for (int32_t k = begin + 1; k < end; k++) {
    const struct columns_bounds one = columns_bounds_of(x, k);
    columns_join(&all, &one);
  }
  x->fine[i] = all;
}

REP_HD void columns_bound_coarse(const struct columns *x, int32_t i) {
  x->coarse[i] = columns_over(x->fine, COLUMNS_BLOCK, i * COLUMNS_COARSE,
                              rep_min((i + 1) * COLUMNS_COARSE, x->seqlen));
}

// All but the arrays; returns which vectors there are beside LTS.
struct columns_vectors {
  bool lte, uts, ute;
};
static inline struct columns_vectors columns_shape(struct columns *x, const struct mask *m) {
  struct columns_vectors has;
  memset(x, 0, sizeof *x);
  x->seqlen = m->seqlen;
  has.lte = m->kind == MASK_CAUSAL_BLOCKWISE || m->kind == MASK_GLOBAL_SLIDING_WINDOW;
  has.uts = m->kind == MASK_GLOBAL_SLIDING_WINDOW;
  switch (m->kind) {
  case MASK_CAUSAL:
  case MASK_SLIDING_WINDOW_CAUSAL:
  case MASK_CAUSAL_DOCUMENT:
  case MASK_CAUSAL_DOCUMENT_LONG:
  case MASK_SHARE_QUESTION:
  case MASK_CAUSAL_BLOCKWISE:
    x->causal = true;
    break;
  default:
    break;
  }
  has.ute = !x->causal;
  return has;
}

// 0, or -1 when memory is short or the mask is not supported.
static inline int columns_build(struct columns *x, const struct mask *m) {
  const struct columns_vectors has = columns_shape(x, m);
  const int32_t n = m->seqlen;
  if (columns_supports(m))
    return -1;
  x->lts = REP_NEW(int32_t, n);
  x->lte = has.lte ? REP_NEW(int32_t, n) : NULL;
  x->uts = has.uts ? REP_NEW(int32_t, n) : NULL;
  x->ute = has.ute ? REP_NEW(int32_t, n) : NULL;
  x->fine = REP_NEW(struct columns_bounds, rep_tiles(0, n, COLUMNS_BLOCK));
  x->coarse = REP_NEW(struct columns_bounds, rep_tiles(0, n, COLUMNS_COARSE));
  if (!x->lts || (has.lte && !x->lte) || (has.uts && !x->uts) || (has.ute && !x->ute) || !x->fine ||
      !x->coarse) {
    columns_free(x);
    return -1;
  }
  for (int32_t k = 0; k < n; k++)
    columns_set(x, m, k);
  for (int32_t i = 0; i < rep_tiles(0, n, COLUMNS_BLOCK); i++)
    columns_bound_fine(x, i);
  for (int32_t i = 0; i < rep_tiles(0, n, COLUMNS_COARSE); i++)
    columns_bound_coarse(x, i);
  return 0;
}
#endif
#endif
