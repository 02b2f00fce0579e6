// spans.h -- runs of rows that see one or two intervals of keys, whose ends stand still or move with the
// row: what the masks of the study are made of (study 1.2, "slices"). Ours, for the paper's open
// question of a compact representation.
//
// Run i holds rows [run[i].row, run[i + 1].row). Its row q sees keys [begin + m, end + m'), m and m' being
// 0 or q - row. So FULL and CAUSAL are one run, a window three, documents one each, whatever the length.
// Found from the rows' own spans (mask_row_spans), so a further mask needs nothing here. Expresses every
// mask but the block-sparse ones.
// Memory: 24 bytes a run, and 24.
// The rows of a tile that lie in one run see, together, one interval of keys an interval: its hull. So a
// tile is empty iff it meets no hull, and full iff in every run some interval of all rows holds it: the
// walk is exact for every view. A search for the run, then a step a run that meets the tile.
#ifndef LONGCA_REP_SPANS_H
#define LONGCA_REP_SPANS_H

#include "walk.h"

struct spans_run {
  int32_t row;
  int32_t begin[2],
      end[2];    // keys of that row; the second interval lies behind the first, or is empty
  int32_t moves; // bit 2 i: begin[i] moves with the row; bit 2 i + 1: end[i] does
};

struct spans {
  int32_t seqlen, count;
  struct spans_run *run; // [count + 1]; the last begins at seqlen
};

REP_HD int32_t spans_find(const struct spans *x, int32_t q) { // the run of row q
  int32_t lo = 0, hi = x->count;
  while (hi - lo > 1) {
    const int32_t mid = lo + (hi - lo) / 2;
    if (x->run[mid].row <= q)
      lo = mid;
    else
      hi = mid;
  }
  return lo;
}

// Keys [*lo, *hi) of interval i that row q of the run sees.
REP_HD void spans_row(const struct spans_run *r, int32_t i, int32_t q, int32_t *lo, int32_t *hi) {
  *lo = r->begin[i] + (r->moves >> (2 * i) & 1 ? q - r->row : 0);
  *hi = r->end[i] + (r->moves >> (2 * i + 1) & 1 ? q - r->row : 0);
}

// Rows [*lo, *hi) of the run that see key k in interval i; none where *lo >= *hi.
REP_HD void spans_column(const struct spans_run *r, int32_t i, int32_t k, int32_t *lo,
                         int32_t *hi) {
  const bool begin_moves = r->moves >> (2 * i) & 1, end_moves = r->moves >> (2 * i + 1) & 1;
  *lo = r->row + (end_moves ? rep_max(k + 1 - r->end[i], 0) : k < r->end[i] ? 0 : REP_FAR - r->row);
  *hi = begin_moves        ? rep_min(r[1].row, r->row + k + 1 - r->begin[i])
        : r->begin[i] <= k ? r[1].row
                           : r->row;
}

REP_HD bool spans_allows(const struct spans *x, int32_t head, int32_t q, int32_t k) {
  const struct spans_run *r = &x->run[spans_find(x, q)];
  int32_t lo0, hi0, lo1, hi1;
  (void)head;
  spans_row(r, 0, q, &lo0, &hi0);
  spans_row(r, 1, q, &lo1, &hi1);
  return (lo0 <= k && k < hi0) || (lo1 <= k && k < hi1);
}

REP_HD void spans_row_bits(const struct spans *x, int32_t head, int32_t q, int32_t k, int32_t n,
                           uint64_t *bits) {
  const struct spans_run *r = &x->run[spans_find(x, q)];
  (void)head;
  rep_bits_clear(bits, n);
  for (int32_t i = 0; i < 2; i++) {
    int32_t lo, hi;
    spans_row(r, i, q, &lo, &hi);
    rep_bits_set(bits, rep_max(lo - k, 0), rep_min(hi - k, n));
  }
}

REP_HD enum tile_class spans_class(const struct spans *x, int32_t head, int32_t q_begin,
                                   int32_t q_end, int32_t k_begin, int32_t k_end) {
  bool any = false, all = true;
  (void)head;
  for (int32_t at = spans_find(x, q_begin); at < x->count && x->run[at].row < q_end; at++) {
    const struct spans_run *r = &x->run[at];
    const int32_t first = rep_max(q_begin, r->row), last = rep_min(q_end, r[1].row) - 1;
    bool full = false;
    for (int32_t i = 0; i < 2; i++) {
      int32_t any_lo, all_hi, all_lo, any_hi;
      spans_row(r, i, first, &any_lo, &all_hi);
      spans_row(r, i, last, &all_lo, &any_hi);
      any |= any_lo < k_end && k_begin < any_hi;
      full |= all_lo <= k_begin && k_end <= all_hi;
    }
    all &= full;
    if (any && !all)
      return TILE_PARTIAL;
  }
  return any ? TILE_FULL : TILE_EMPTY;
}

REP_HD int32_t spans_skip_keys(const struct spans *x, int32_t head, int32_t q_begin, int32_t q_end,
                               int32_t k) {
  int32_t next = REP_FAR;
  (void)head;
  for (int32_t at = spans_find(x, q_begin); at < x->count && x->run[at].row < q_end; at++) {
    const struct spans_run *r = &x->run[at];
    for (int32_t i = 0; i < 2; i++) {
      int32_t lo, hi, unused;
      spans_row(r, i, rep_max(q_begin, r->row), &lo, &unused);
      spans_row(r, i, rep_min(q_end, r[1].row) - 1, &unused, &hi);
      if (k < hi)
        next = rep_min(next, rep_max(lo, k));
    }
  }
  return next;
}

// The first row of a run that sees some key of [k_begin, k_end) in an interval is one that sees the
// first of these keys that the interval has from row q on.
REP_HD int32_t spans_skip_queries(const struct spans *x, int32_t head, int32_t k_begin,
                                  int32_t k_end, int32_t q) {
  int32_t next = REP_FAR;
  (void)head;
  for (int32_t at = spans_find(x, q); at < x->count && next == REP_FAR; at++) {
    const struct spans_run *r = &x->run[at];
    const int32_t from = rep_max(q, r->row);
    for (int32_t i = 0; i < 2; i++) {
      int32_t lo, hi;
      spans_row(r, i, from, &lo, &hi);
      const int32_t k = rep_max(k_begin, lo);
      if (k >= k_end || r->begin[i] >= r->end[i])
        continue;
      spans_column(r, i, k, &lo, &hi);
      lo = rep_max(lo, from);
      next = lo < hi ? rep_min(next, lo) : next;
    }
  }
  return next;
}

REP_WALKS(spans)

#ifndef __CUDACC_RTC__
static inline const char *spans_supports(const struct mask *m) {
  return mask_is_block_sparse(m->kind)
             ? "spans: a row of a block-sparse mask has any number of intervals"
             : NULL;
}

static inline int spans_arrays(const struct spans *x, struct rep_array list[REP_ARRAYS_MAX]) {
  int n = 0;
  REP_ADD(list, n, x, spans, run, x->count + 1, true);
  return n;
}
REP_ARRAYS(spans)

// Row q as a run of its own.
static inline struct spans_run spans_of_row(const struct mask *m, int32_t q) {
  struct mask_span span[MASK_SPANS_MAX];
  const int n = mask_row_spans(m, q, span);
  struct spans_run r = {q, {0, 0}, {0, 0}, 0};
  for (int i = 0; i < n; i++) {
    r.begin[i] = span[i].begin;
    r.end[i] = span[i].end;
  }
  return r;
}

// Takes the next row into the run, if it goes on in it. The second row says what moves.
static inline bool spans_extend(struct spans_run *run, const struct spans_run *next) {
  struct spans_run r = *run;
  for (int32_t i = 0; i < 2; i++) {
    if (next->row - run->row == 1)
      r.moves |= (next->begin[i] != r.begin[i]) << (2 * i) | (next->end[i] != r.end[i])
                                                                 << (2 * i + 1);
    int32_t lo, hi;
    spans_row(&r, i, next->row, &lo, &hi);
    if (lo != next->begin[i] || hi != next->end[i])
      return false;
  }
  *run = r;
  return true;
}

// 0, or -1 when memory is short or the mask is not supported. O(S).
static inline int spans_build(struct spans *x, const struct mask *m) {
  memset(x, 0, sizeof *x);
  if (spans_supports(m))
    return -1;
  x->seqlen = m->seqlen;
  for (int pass = 0; pass < 2; pass++) { // counts, then writes
    struct spans_run run = spans_of_row(m, 0);
    int32_t count = 0;
    for (int32_t q = 1; q <= m->seqlen; q++) {
      struct spans_run next = {m->seqlen, {0, 0}, {0, 0}, 0};
      if (q < m->seqlen)
        next = spans_of_row(m, q);
      if (q < m->seqlen && spans_extend(&run, &next))
        continue;
      if (pass)
        x->run[count] = run;
      count++;
      run = next;
    }
    if (pass)
      x->run[count] = run;
    else if (!(x->run = REP_NEW(struct spans_run, count + 1)))
      return -1;
    x->count = count;
  }
  return 0;
}
#endif
#endif
