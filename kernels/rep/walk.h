// walk.h -- what the representations share: the walk over tiles, bit rows, and care of the arrays.
//
// A representation that can say the class of one tile (X_class) and where the next visible position
// may be (X_skip_keys, X_skip_queries: a lower bound, cheap) gets both walks from REP_WALKS. Band
// has closed forms and needs no walk. REP_ARRAYS makes X_free and X_bytes of X_arrays.
#ifndef LONGCA_REP_WALK_H
#define LONGCA_REP_WALK_H

#include "rep.h"

enum {
  REP_FAR = 0x7fffffff, // beyond every position
  REP_RUN_MAX = 16      // tiles a run looks ahead, so that the first tile is not kept waiting
};

REP_HD int32_t rep_min(int32_t a, int32_t b) { return a < b ? a : b; }
REP_HD int32_t rep_max(int32_t a, int32_t b) { return a > b ? a : b; }

// Tiles that cut [begin, end).
REP_HD int32_t rep_tiles(int32_t begin, int32_t end, int32_t tile) {
  return end > begin ? (int32_t)(((int64_t)end - begin + tile - 1) / tile) : 0;
}

// Bits of a word from `lo` up to `hi`, 0 <= lo < hi <= 64.
REP_HD uint64_t rep_word(int32_t lo, int32_t hi) {
  return (~(uint64_t)0 >> (64 - (hi - lo))) << lo;
}

REP_HD void rep_bits_clear(uint64_t *bits, int32_t n) {
  for (int32_t w = 0; w < (n + 63) / 64; w++)
    bits[w] = 0;
}

// Sets bits [lo, hi); nothing when lo >= hi.
REP_HD void rep_bits_set(uint64_t *bits, int32_t lo, int32_t hi) {
  while (lo < hi) {
    const int32_t stop = rep_min(hi, (lo / 64 + 1) * 64);
    bits[lo / 64] |= rep_word(lo % 64, stop - lo / 64 * 64);
    lo = stop;
  }
}

// Bit j of the result is seen[j], 0 or 1. Eight bytes a multiplication: it takes byte i of the
// little-endian word to bit 56 + i.
REP_HD uint64_t rep_bits_pack(const uint8_t seen[64]) {
  uint64_t word = 0;
  for (int32_t w = 0; w < 8; w++) {
    uint64_t bytes = 0;
    for (int32_t i = 0; i < 8; i++) // one load
      bytes |= (uint64_t)seen[8 * w + i] << (8 * i);
    word |= bytes * 0x0102040810204080u >> 56 << (8 * w);
  }
  return word;
}

// X_next_keys and X_next_queries from
//   enum tile_class X_class(x, head, q_begin, q_end, k_begin, k_end)
//   int32_t X_skip_keys(x, head, q_begin, q_end, k)      first key >= k that may be visible
//   int32_t X_skip_queries(x, head, k_begin, k_end, q)   the same along the queries
#define REP_WALK(X, along, across, SKIP, CLASS) \
  REP_HD struct tile_run X##_next_##along(const struct X *x, int32_t head, \
                                          const struct tile_view *v, int32_t from) { \
    const int32_t begin = v->across##_begin, end = v->across##_end, tile = v->tile; \
    const int32_t tiles = \
        v->q_begin < v->q_end && v->k_begin < v->k_end ? rep_tiles(begin, end, tile) : 0; \
    struct tile_run run = tile_run_none(); \
    enum tile_class found = TILE_EMPTY; \
    for (; from < tiles; from++) { \
      const int32_t at = SKIP(X, begin + from * tile); \
      if (at >= end) \
        return run; \
      from = (at - begin) / tile; \
      found = CLASS(X, begin + from * tile, rep_min(begin + (from + 1) * tile, end)); \
      if (found != TILE_EMPTY) \
        break; \
    } \
    if (from >= tiles) \
      return run; \
    run.begin = from; \
    run.full = found == TILE_FULL; \
    do \
      run.end = ++from; \
    while (from < tiles && from - run.begin < REP_RUN_MAX && \
           CLASS(X, begin + from * tile, rep_min(begin + (from + 1) * tile, end)) == found); \
    return run; \
  }
#define REP_SKIP_K(X, at) X##_skip_keys(x, head, v->q_begin, v->q_end, at)
#define REP_SKIP_Q(X, at) X##_skip_queries(x, head, v->k_begin, v->k_end, at)
#define REP_CLASS_K(X, b, e) X##_class(x, head, v->q_begin, v->q_end, b, e)
#define REP_CLASS_Q(X, b, e) X##_class(x, head, b, e, v->k_begin, v->k_end)
#define REP_WALKS(X) \
  REP_WALK(X, keys, k, REP_SKIP_K, REP_CLASS_K) \
  REP_WALK(X, queries, q, REP_SKIP_Q, REP_CLASS_Q)

#ifndef __CUDACC_RTC__
#include <stdlib.h>
#include <string.h>

// Zeroed memory for n items, never NULL but for want of memory.
#define REP_NEW(type, n) ((type *)calloc((n) > 0 ? (size_t)(n) : 1, sizeof(type)))

// Appends the array whose pointer is member `field` of *x, unless it is NULL.
#define REP_ADD(list, count, x, X, field, items, own) \
  do { \
    if ((x)->field) { \
      (list)[count].offset = offsetof(struct X, field); \
      (list)[count].bytes = (size_t)(items) * sizeof *(x)->field; \
      (list)[(count)++].owned = own; \
    } \
  } while (0)

#define REP_ARRAYS(X) \
  static inline size_t X##_bytes(const struct X *x) { \
    struct rep_array list[REP_ARRAYS_MAX]; \
    size_t bytes = 0; \
    for (int i = 0, n = X##_arrays(x, list); i < n; i++) \
      bytes += list[i].bytes; \
    return bytes; \
  } \
  static inline void X##_free(struct X *x) { \
    struct rep_array list[REP_ARRAYS_MAX]; \
    for (int i = 0, n = X##_arrays(x, list); i < n; i++) { \
      void *array; \
      memcpy(&array, (char *)x + list[i].offset, sizeof array); \
      if (list[i].owned) \
        free(array); \
    } \
    memset(x, 0, sizeof *x); \
  }
#endif
#endif
