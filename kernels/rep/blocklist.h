// blocklist.h -- lists of kept square blocks, both ways, as VSA, Triton VSA and FA2 Sparse take them
// (study 5.1).
//
// q2k: the key blocks of each query block; k2q: the query blocks of each key block, for backward. A
// listed block is visible throughout, so a tile that is a block needs no elementwise mask; one that
// straddles blocks is partial unless all of them are listed. Expresses uniform block-sparse masks of
// any block side, a pattern a KV head. The walk is exact for every view.
// Memory: 8 bytes a listed block and 16 a block row and head: O(heads * (S / B)^2).
#ifndef LONGCA_REP_BLOCKLIST_H
#define LONGCA_REP_BLOCKLIST_H

#include "lists.h"

struct blocklist {
  int32_t seqlen, heads, block, blocks; // blocks = ceil(seqlen / block); the last may be ragged
  struct block_lists q2k, k2q;          // rows: head * blocks + block
};

REP_HD bool blocklist_allows(const struct blocklist *x, int32_t head, int32_t q, int32_t k) {
  return block_lists_has(&x->q2k, (int64_t)head * x->blocks + q / x->block, k / x->block);
}

REP_HD void blocklist_row_bits(const struct blocklist *x, int32_t head, int32_t q, int32_t k, int32_t n,
                               uint64_t *bits) {
  const int64_t row = (int64_t)head * x->blocks + q / x->block;
  rep_bits_clear(bits, n);
  for (int64_t i = block_lists_find(&x->q2k, row, k / x->block); i < x->q2k.begin[row + 1]; i++) {
    const int32_t begin = x->q2k.entry[i] * x->block;
    if (begin >= k + n)
      break;
    rep_bits_set(bits, rep_max(begin - k, 0), rep_min(begin + x->block - k, n));
  }
}

REP_HD enum tile_class blocklist_class(const struct blocklist *x, int32_t head, int32_t q_begin,
                                       int32_t q_end, int32_t k_begin, int32_t k_end) {
  const int64_t row = (int64_t)head * x->blocks;
  return block_lists_class(&x->q2k, row + q_begin / x->block, row + (q_end - 1) / x->block,
                           k_begin / x->block, (k_end - 1) / x->block);
}

REP_HD int32_t blocklist_skip(const struct blocklist *x, const struct block_lists *l, int32_t head,
                              int32_t begin, int32_t end, int32_t at) {
  const int64_t row = (int64_t)head * x->blocks;
  const int32_t c = block_lists_skip(l, row + begin / x->block, row + (end - 1) / x->block, at / x->block);
  return c == REP_FAR ? REP_FAR : rep_max(at, c * x->block);
}

REP_HD int32_t blocklist_skip_keys(const struct blocklist *x, int32_t head, int32_t q_begin,
                                   int32_t q_end, int32_t k) {
  return blocklist_skip(x, &x->q2k, head, q_begin, q_end, k);
}

REP_HD int32_t blocklist_skip_queries(const struct blocklist *x, int32_t head, int32_t k_begin,
                                      int32_t k_end, int32_t q) {
  return blocklist_skip(x, &x->k2q, head, k_begin, k_end, q);
}
REP_WALKS(blocklist)

#ifndef __CUDACC_RTC__
static inline const char *blocklist_supports(const struct mask *m) {
  return m->kind == MASK_UNIFORM_BLOCK_SPARSE
             ? NULL
             : "blocklist: lists of equal square blocks express uniform block-sparse masks only";
}

static inline int blocklist_arrays(const struct blocklist *x, struct rep_array list[REP_ARRAYS_MAX]) {
  const int64_t rows = (int64_t)x->heads * x->blocks;
  int n = 0;
  BLOCK_LISTS_ADD(list, n, x, blocklist, q2k, rows);
  BLOCK_LISTS_ADD(list, n, x, blocklist, k2q, rows);
  return n;
}
REP_ARRAYS(blocklist)

// 0, or -1 when memory is short or the mask is not supported.
static inline int blocklist_build(struct blocklist *x, const struct mask *m) {
  memset(x, 0, sizeof *x);
  if (blocklist_supports(m))
    return -1;
  x->seqlen = m->seqlen;
  x->heads = m->heads;
  x->block = m->block;
  x->blocks = m->blocks_q;
  if (block_lists_from_grid(&x->q2k, &x->k2q, m)) {
    blocklist_free(x);
    return -1;
  }
  return 0;
}
#endif
#endif
