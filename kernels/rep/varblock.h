// varblock.h -- blocks of any size, as FlashInfer takes them (study 5.2).
//
// A KV head has its own row sizes and column sizes (here as first positions), and for each block
// row the list of kept block columns, and the transposed. A kept block is visible throughout; a
// tile that straddles blocks is partial unless all of them are kept. Expresses both block-sparse
// masks. The walk is exact for every view.
// Memory: 8 bytes a kept block, 12 a block row and 12 a block column and head:
// O(heads * (S / B)^2).
#ifndef LONGCA_REP_VARBLOCK_H
#define LONGCA_REP_VARBLOCK_H

#include "lists.h"

struct varblock {
  int32_t seqlen, heads, blocks_q, blocks_k;
  int32_t *row_begin;          // [heads, blocks_q + 1] first query of each block row
  int32_t *col_begin;          // [heads, blocks_k + 1] first key of each block column
  struct block_lists q2k, k2q; // rows: head * blocks_q + block row; head * blocks_k + block column
};

// Block rows and block columns of a head, and the lists' row of a query or a key.
REP_HD struct block_axis varblock_rows(const struct varblock *x, int32_t head) {
  struct block_axis axis;
  axis.begin = x->row_begin + (int64_t)head * (x->blocks_q + 1);
  axis.blocks = x->blocks_q;
  axis.side = 1; // unused
  return axis;
}
REP_HD struct block_axis varblock_cols(const struct varblock *x, int32_t head) {
  struct block_axis axis;
  axis.begin = x->col_begin + (int64_t)head * (x->blocks_k + 1);
  axis.blocks = x->blocks_k;
  axis.side = 1; // unused
  return axis;
}
REP_HD int64_t varblock_row(const struct varblock *x, int32_t head, int32_t q) {
  const struct block_axis rows = varblock_rows(x, head);
  return (int64_t)head * x->blocks_q + block_axis_find(&rows, q);
}
REP_HD int64_t varblock_col(const struct varblock *x, int32_t head, int32_t k) {
  const struct block_axis cols = varblock_cols(x, head);
  return (int64_t)head * x->blocks_k + block_axis_find(&cols, k);
}

REP_HD bool varblock_allows(const struct varblock *x, int32_t head, int32_t q, int32_t k) {
  const struct block_axis cols = varblock_cols(x, head);
  return block_lists_has(&x->q2k, varblock_row(x, head, q), block_axis_find(&cols, k));
}

REP_HD void varblock_row_bits(const struct varblock *x, int32_t head, int32_t q, int32_t k,
                              int32_t n, uint64_t *bits) {
  const struct block_axis cols = varblock_cols(x, head);
  block_lists_row_bits(&x->q2k, varblock_row(x, head, q), &cols, k, n, bits);
}

REP_HD enum tile_class varblock_class(const struct varblock *x, int32_t head, int32_t q_begin,
                                      int32_t q_end, int32_t k_begin, int32_t k_end) {
  const struct block_axis cols = varblock_cols(x, head);
  return block_lists_class(&x->q2k, varblock_row(x, head, q_begin),
                           varblock_row(x, head, q_end - 1), &cols, k_begin, k_end);
}

REP_HD struct tile_run varblock_next_keys(const struct varblock *x, int32_t head,
                                          const struct tile_view *v, int32_t from) {
  const struct block_axis cols = varblock_cols(x, head);
  if (v->q_begin >= v->q_end)
    return tile_run_none();
  return block_lists_next(&x->q2k, varblock_row(x, head, v->q_begin),
                          varblock_row(x, head, v->q_end - 1), &cols, v->k_begin, v->k_end, v->tile,
                          from);
}

REP_HD struct tile_run varblock_next_queries(const struct varblock *x, int32_t head,
                                             const struct tile_view *v, int32_t from) {
  const struct block_axis rows = varblock_rows(x, head);
  if (v->k_begin >= v->k_end)
    return tile_run_none();
  return block_lists_next(&x->k2q, varblock_col(x, head, v->k_begin),
                          varblock_col(x, head, v->k_end - 1), &rows, v->q_begin, v->q_end, v->tile,
                          from);
}

#ifndef __CUDACC_RTC__
static inline const char *varblock_supports(const struct mask *m) {
  return mask_is_block_sparse(m->kind)
             ? NULL
             : "varblock: lists of whole blocks express block-sparse masks only";
}

static inline int varblock_arrays(const struct varblock *x, struct rep_array list[REP_ARRAYS_MAX]) {
  int n = 0;
  REP_ADD(list, n, x, varblock, row_begin, (int64_t)x->heads * (x->blocks_q + 1), true);
  REP_ADD(list, n, x, varblock, col_begin, (int64_t)x->heads * (x->blocks_k + 1), true);
  BLOCK_LISTS_ADD(list, n, x, varblock, q2k, (int64_t)x->heads * x->blocks_q);
  BLOCK_LISTS_ADD(list, n, x, varblock, k2q, (int64_t)x->heads * x->blocks_k);
  return n;
}
REP_ARRAYS(varblock)

static inline void varblock_shape(struct varblock *x, const struct mask *m) {
  memset(x, 0, sizeof *x);
  x->seqlen = m->seqlen;
  x->heads = m->heads;
  x->blocks_q = m->blocks_q;
  x->blocks_k = m->blocks_k;
}

// 0, or -1 when memory is short or the mask is not supported.
static inline int varblock_build(struct varblock *x, const struct mask *m) {
  varblock_shape(x, m);
  if (varblock_supports(m))
    return -1;
  const int64_t rows = (int64_t)m->heads * (m->blocks_q + 1);
  const int64_t cols = (int64_t)m->heads * (m->blocks_k + 1);
  x->row_begin = REP_NEW(int32_t, rows);
  x->col_begin = REP_NEW(int32_t, cols);
  if (!x->row_begin || !x->col_begin || block_lists_from_grid(&x->q2k, &x->k2q, m)) {
    varblock_free(x);
    return -1;
  }
  memcpy(x->row_begin, m->row_begin, (size_t)rows * sizeof *x->row_begin);
  memcpy(x->col_begin, m->col_begin, (size_t)cols * sizeof *x->col_begin);
  return 0;
}
#endif
#endif
