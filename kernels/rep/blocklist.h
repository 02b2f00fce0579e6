// blocklist.h -- lists of kept square blocks, both ways, as VSA, Triton VSA and FA2 Sparse take
// them (study 5.1).
//
// q2k: the key blocks of each query block; k2q: the query blocks of each key block, for backward. A
// listed block is visible throughout, so a tile that is a block needs no elementwise mask; one that
// straddles blocks is partial unless all of them are listed. Expresses uniform block-sparse masks
// of any block side, a pattern a KV head. The walk is exact for every view.
// Memory: 8 bytes a listed block and 16 a block row and head: O(heads * (S / B)^2).
#ifndef LONGCA_REP_BLOCKLIST_H
#define LONGCA_REP_BLOCKLIST_H

#include "lists.h"

struct blocklist {
  int32_t seqlen, heads, block, blocks; // blocks = ceil(seqlen / block); the last may be ragged
  struct block_lists q2k, k2q;          // rows: head * blocks + block
};

// Rows of the lists for positions, and the blocks along either axis.
REP_HD int64_t blocklist_row(const struct blocklist *x, int32_t head, int32_t at) {
  return (int64_t)head * x->blocks + at / x->block;
}
REP_HD struct block_axis blocklist_axis(const struct blocklist *x) {
  struct block_axis axis;
  axis.begin = NULL;
  axis.blocks = x->blocks;
  axis.side = x->block;
  return axis;
}

REP_HD bool blocklist_allows(const struct blocklist *x, int32_t head, int32_t q, int32_t k) {
  return block_lists_has(&x->q2k, blocklist_row(x, head, q), k / x->block);
}

REP_HD void blocklist_row_bits(const struct blocklist *x, int32_t head, int32_t q, int32_t k,
                               int32_t n, uint64_t *bits) {
  const struct block_axis axis = blocklist_axis(x);
  block_lists_row_bits(&x->q2k, blocklist_row(x, head, q), &axis, k, n, bits);
}

REP_HD enum tile_class blocklist_class(const struct blocklist *x, int32_t head, int32_t q_begin,
                                       int32_t q_end, int32_t k_begin, int32_t k_end) {
  const struct block_axis axis = blocklist_axis(x);
  return block_lists_class(&x->q2k, blocklist_row(x, head, q_begin),
                           blocklist_row(x, head, q_end - 1), &axis, k_begin, k_end);
}

REP_HD struct tile_run blocklist_next_keys(const struct blocklist *x, int32_t head,
                                           const struct tile_view *v, int32_t from) {
  const struct block_axis axis = blocklist_axis(x);
  if (v->q_begin >= v->q_end)
    return tile_run_none();
  return block_lists_next(&x->q2k, blocklist_row(x, head, v->q_begin),
                          blocklist_row(x, head, v->q_end - 1), &axis, v->k_begin, v->k_end,
                          v->tile, from);
}

REP_HD struct tile_run blocklist_next_queries(const struct blocklist *x, int32_t head,
                                              const struct tile_view *v, int32_t from) {
  const struct block_axis axis = blocklist_axis(x);
  if (v->k_begin >= v->k_end)
    return tile_run_none();
  return block_lists_next(&x->k2q, blocklist_row(x, head, v->k_begin),
                          blocklist_row(x, head, v->k_end - 1), &axis, v->q_begin, v->q_end,
                          v->tile, from);
}

#ifndef __CUDACC_RTC__
static inline const char *blocklist_supports(const struct mask *m) {
  return m->kind == MASK_UNIFORM_BLOCK_SPARSE
             ? NULL
             : "blocklist: lists of equal square blocks express uniform block-sparse masks only";
}

static inline int blocklist_arrays(const struct blocklist *x,
                                   struct rep_array list[REP_ARRAYS_MAX]) {
  const int64_t rows = (int64_t)x->heads * x->blocks;
  int n = 0;
  BLOCK_LISTS_ADD(list, n, x, blocklist, q2k, rows);
  BLOCK_LISTS_ADD(list, n, x, blocklist, k2q, rows);
  return n;
}
REP_ARRAYS(blocklist)

static inline void blocklist_shape(struct blocklist *x, const struct mask *m) {
  memset(x, 0, sizeof *x);
  x->seqlen = m->seqlen;
  x->heads = m->heads;
  x->block = m->block;
  x->blocks = m->blocks_q;
}

// 0, or -1 when memory is short or the mask is not supported.
static inline int blocklist_build(struct blocklist *x, const struct mask *m) {
  blocklist_shape(x, m);
  if (blocklist_supports(m))
    return -1;
  if (block_lists_from_grid(&x->q2k, &x->k2q, m)) {
    blocklist_free(x);
    return -1;
  }
  return 0;
}
#endif
#endif
