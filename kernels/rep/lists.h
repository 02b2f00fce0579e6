// lists.h -- lists of the blocks that are not empty, one a block row (CSR), shared by the three
// block representations.
//
// Entries of a row ascend by block. A full block n is stored as n, a partial one as ~n (= -n - 1),
// so one list carries both classes. Rows are numbered through the heads: head * rows + row.
#ifndef LONGCA_REP_LISTS_H
#define LONGCA_REP_LISTS_H

#include "walk.h"

struct block_lists {
  int64_t *begin; // [heads * rows + 1] first entry of each row
  int32_t *entry; // [begin[heads * rows]]
};

REP_HD int32_t block_of_entry(int32_t entry) { return entry < 0 ? ~entry : entry; }

// First entry of `row` at or after entry `lo` with block >= c; begin[row + 1] when there is none.
// Blocks ascend by at least one, which bounds how far away it can be: contiguous lists take two
// loads.
REP_HD int64_t block_lists_find(const struct block_lists *l, int64_t row, int64_t lo, int32_t c) {
  int64_t hi = l->begin[row + 1];
  if (lo >= hi)
    return lo;
  const int64_t reach = lo + c - block_of_entry(l->entry[lo]);
  if (reach <= lo)
    return lo;
  if (reach < hi)
    hi = reach;
  if (block_of_entry(l->entry[hi - 1]) < c)
    return hi;
  for (lo++, hi--; lo < hi;) {
    const int64_t mid = lo + (hi - lo) / 2;
    if (block_of_entry(l->entry[mid]) < c)
      lo = mid + 1;
    else
      hi = mid;
  }
  return lo;
}

// Blocks along the axis that the lists run over, by position.
struct block_axis {
  const int32_t *begin; // [blocks + 1] first position of each block; NULL: c * side for block c
  int32_t blocks, side;
};

REP_HD int32_t block_axis_find(const struct block_axis *a, int32_t at) {
  return a->begin ? mask_find(a->begin, a->blocks, at) : at / a->side;
}
REP_HD int32_t block_axis_begin(const struct block_axis *a, int32_t c) {
  return a->begin ? a->begin[c] : c * a->side;
}

// Class of block rows [r0, r1] by positions [begin, end): full when every block that they meet is,
// empty when every block is. *at: no entry of row r0 before it is needed; moved on for a later
// tile.
REP_HD enum tile_class block_lists_class_from(const struct block_lists *l, int64_t r0, int64_t r1,
                                              const struct block_axis *axis, int32_t begin,
                                              int32_t end, int64_t *at) {
  const int32_t c0 = block_axis_find(axis, begin), c1 = block_axis_find(axis, end - 1);
  bool any = false, all = true;
  for (int64_t r = r0; r <= r1 && !(any && !all); r++) {
    int64_t i = block_lists_find(l, r, r == r0 ? *at : l->begin[r], c0);
    int32_t full = 0;
    if (r == r0)
      *at = i;
    for (; i < l->begin[r + 1]; i++) {
      const int32_t entry = l->entry[i];
      if (block_of_entry(entry) > c1)
        break;
      any = true;
      full += entry >= 0;
    }
    all &= full == c1 - c0 + 1;
  }
  return !any ? TILE_EMPTY : all ? TILE_FULL : TILE_PARTIAL;
}

REP_HD enum tile_class block_lists_class(const struct block_lists *l, int64_t r0, int64_t r1,
                                         const struct block_axis *axis, int32_t begin,
                                         int32_t end) {
  int64_t at = l->begin[r0];
  return block_lists_class_from(l, r0, r1, axis, begin, end, &at);
}

// The walk of block rows [r0, r1] over tiles of [begin, end).
REP_HD struct tile_run block_lists_next(const struct block_lists *l, int64_t r0, int64_t r1,
                                        const struct block_axis *axis, int32_t begin, int32_t end,
                                        int32_t tile, int32_t from) {
  const int32_t tiles = rep_tiles(begin, end, tile);
  struct tile_run run = tile_run_none();
  int64_t at = l->begin[r0];
  int32_t first = REP_FAR; // the first listed block at or after tile `from`
  if (from >= tiles)
    return run;
  const int32_t c = block_axis_find(axis, begin + from * tile);
  for (int64_t r = r0; r <= r1; r++) {
    const int64_t i = block_lists_find(l, r, l->begin[r], c);
    if (r == r0)
      at = i;
    if (i < l->begin[r + 1])
      first = rep_min(first, block_of_entry(l->entry[i]));
  }
  if (first == REP_FAR || block_axis_begin(axis, first) >= end)
    return run;
  from = rep_max(from, (block_axis_begin(axis, first) - begin) / tile);
  run.begin = from;
  enum tile_class found = TILE_EMPTY, next;
  do {
    const int32_t b = begin + from * tile;
    next = block_lists_class_from(l, r0, r1, axis, b, rep_min(b + tile, end), &at);
    if (from == run.begin)
      found = next;
  } while (next == found && ++from < tiles && from - run.begin < REP_RUN_MAX);
  run.end = from;
  run.full = found == TILE_FULL;
  return run;
}

// Whether the list of `row` has block c.
REP_HD bool block_lists_has(const struct block_lists *l, int64_t row, int32_t c) {
  const int64_t i = block_lists_find(l, row, l->begin[row], c);
  return i < l->begin[row + 1] && block_of_entry(l->entry[i]) == c;
}

// Bits of keys [k, k + n) in `row`, by the lists alone: for lists without partial blocks.
REP_HD void block_lists_row_bits(const struct block_lists *l, int64_t row,
                                 const struct block_axis *axis, int32_t k, int32_t n,
                                 uint64_t *bits) {
  rep_bits_clear(bits, n);
  for (int64_t i = block_lists_find(l, row, l->begin[row], block_axis_find(axis, k));
       i < l->begin[row + 1]; i++) {
    const int32_t begin = block_axis_begin(axis, l->entry[i]);
    if (begin - k >= n)
      break;
    rep_bits_set(bits, rep_max(begin - k, 0),
                 rep_min(block_axis_begin(axis, l->entry[i] + 1) - k, n));
  }
}

#ifndef __CUDACC_RTC__
#define BLOCK_LISTS_ADD(list, count, x, X, field, rows) \
  do { \
    REP_ADD(list, count, x, X, field.begin, (int64_t)(rows) + 1, true); \
    if ((x)->field.begin) \
      REP_ADD(list, count, x, X, field.entry, (x)->field.begin[rows], true); \
  } while (0)

// Makes place for n entries, keeping those that are there. 0, or -1 when memory is short.
static inline int block_lists_resize(struct block_lists *l, int64_t n) {
  int32_t *entry = (int32_t *)realloc(l->entry, (size_t)(n > 0 ? n : 1) * sizeof *entry);
  if (!entry)
    return -1;
  l->entry = entry;
  return 0;
}

// dst = the lists by column of src, which has heads * rows lists of blocks < columns. 0 or -1.
static inline int block_lists_transpose(struct block_lists *dst, const struct block_lists *src,
                                        int64_t heads, int64_t rows, int64_t columns) {
  dst->begin = REP_NEW(int64_t, heads * columns + 2);
  dst->entry = REP_NEW(int32_t, src->begin[heads * rows]);
  if (!dst->begin || !dst->entry)
    return -1;
  int64_t *next = dst->begin + 1; // counts, then where each column's next entry goes
  for (int64_t r = 0; r < heads * rows; r++)
    for (int64_t i = src->begin[r]; i < src->begin[r + 1]; i++)
      next[r / rows * columns + block_of_entry(src->entry[i]) + 1]++;
  for (int64_t c = 0; c < heads * columns; c++)
    next[c + 1] += next[c];
  for (int64_t r = 0; r < heads * rows; r++)
    for (int64_t i = src->begin[r]; i < src->begin[r + 1]; i++) {
      const int32_t entry = src->entry[i], row = (int32_t)(r % rows);
      dst->entry[next[r / rows * columns + block_of_entry(entry)]++] = entry < 0 ? ~row : row;
    }
  return 0;
}

// The lists of a block-sparse mask's own blocks, both ways; all are full. 0 or -1.
static inline int block_lists_from_grid(struct block_lists *q2k, struct block_lists *k2q,
                                        const struct mask *m) {
  const int64_t rows = (int64_t)m->heads * m->blocks_q;
  int64_t count = 0;
  q2k->begin = REP_NEW(int64_t, rows + 1);
  if (!q2k->begin)
    return -1;
  for (int64_t r = 0; r < rows; r++) {
    for (int32_t w = 0; w < m->kept_words; w++)
      count += __builtin_popcount(m->kept[r * m->kept_words + w]);
    q2k->begin[r + 1] = count;
  }
  q2k->entry = REP_NEW(int32_t, count);
  if (!q2k->entry)
    return -1;
  count = 0;
  for (int64_t r = 0; r < rows; r++)
    for (int32_t w = 0; w < m->kept_words; w++)
      for (uint32_t kept = m->kept[r * m->kept_words + w]; kept; kept &= kept - 1)
        q2k->entry[count++] = w * 32 + __builtin_ctz(kept);
  return block_lists_transpose(k2q, q2k, m->heads, m->blocks_q, m->blocks_k);
}
#endif
#endif
