// lists.h -- lists of the blocks that are not empty, one a block row (CSR), shared by the three
// block representations.
//
// Entries of a row ascend by block. A full block n is stored as n, a partial one as ~n (= -n - 1), so
// one list carries both classes. Rows are numbered through the heads: head * rows + row.
#ifndef LONGCA_REP_LISTS_H
#define LONGCA_REP_LISTS_H

#include "walk.h"

struct block_lists {
  int64_t *begin; // [heads * rows + 1] first entry of each row
  int32_t *entry; // [begin[heads * rows]]
};

REP_HD int32_t block_of_entry(int32_t entry) { return entry < 0 ? ~entry : entry; }

// First entry of `row` with block >= c; begin[row + 1] when there is none.
REP_HD int64_t block_lists_find(const struct block_lists *l, int64_t row, int32_t c) {
  int64_t lo = l->begin[row], hi = l->begin[row + 1];
  while (lo < hi) {
    const int64_t mid = lo + (hi - lo) / 2;
    if (block_of_entry(l->entry[mid]) < c)
      lo = mid + 1;
    else
      hi = mid;
  }
  return lo;
}

// Class of the rectangle of block rows [r0, r1] and block columns [c0, c1]: full when every block
// is, empty when every block is.
REP_HD enum tile_class block_lists_class(const struct block_lists *l, int64_t r0, int64_t r1, int32_t c0,
                                         int32_t c1) {
  bool any = false, all = true;
  for (int64_t r = r0; r <= r1 && !(any && !all); r++) {
    int32_t full = 0;
    for (int64_t i = block_lists_find(l, r, c0), end = l->begin[r + 1]; i < end; i++) {
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

// Smallest block >= c in the rows [r0, r1], REP_FAR when there is none.
REP_HD int32_t block_lists_skip(const struct block_lists *l, int64_t r0, int64_t r1, int32_t c) {
  int32_t first = REP_FAR;
  for (int64_t r = r0; r <= r1; r++) {
    const int64_t i = block_lists_find(l, r, c);
    if (i < l->begin[r + 1])
      first = rep_min(first, block_of_entry(l->entry[i]));
  }
  return first;
}

// Whether the list of `row` has block c.
REP_HD bool block_lists_has(const struct block_lists *l, int64_t row, int32_t c) {
  const int64_t i = block_lists_find(l, row, c);
  return i < l->begin[row + 1] && block_of_entry(l->entry[i]) == c;
}

#ifndef __CUDACC_RTC__
#define BLOCK_LISTS_ADD(list, count, x, X, field, rows)                                                \
  do {                                                                                                 \
    REP_ADD(list, count, x, X, field.begin, (int64_t)(rows) + 1, true);                                \
    if ((x)->field.begin)                                                                              \
      REP_ADD(list, count, x, X, field.entry, (x)->field.begin[rows], true);                           \
  } while (0)

// Appends an entry; *room is how many the array holds. 0, or -1 when memory is short.
static inline int block_lists_push(struct block_lists *l, int64_t *count, int64_t *room, int32_t entry) {
  if (*count == *room) {
    const int64_t more = *room + *room / 2 + 1024;
    int32_t *grown = (int32_t *)realloc(l->entry, (size_t)more * sizeof *grown);
    if (!grown)
      return -1;
    l->entry = grown;
    *room = more;
  }
  l->entry[(*count)++] = entry;
  return 0;
}

// dst = the lists by column of src, which has heads * rows lists of blocks < columns. 0 or -1.
static inline int block_lists_transpose(struct block_lists *dst, const struct block_lists *src,
                                        int64_t heads, int64_t rows, int64_t columns) {
  dst->begin = REP_NEW(int64_t, heads * columns + 2) ;
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
  int64_t count = 0, room = 0;
  q2k->begin = REP_NEW(int64_t, rows + 1);
  if (!q2k->begin)
    return -1;
  for (int64_t r = 0; r < rows; r++) {
    const uint32_t *kept = m->kept + r * m->kept_words;
    for (int32_t c = 0; c < m->blocks_k; c++)
      if (kept[c / 32] >> (c % 32) & 1 && block_lists_push(q2k, &count, &room, c))
        return -1;
    q2k->begin[r + 1] = count;
  }
  return block_lists_transpose(k2q, q2k, m->heads, m->blocks_q, m->blocks_k);
}
#endif
#endif
