// blockmap.h -- full, partial and empty blocks and a predicate, as FlexAttention takes (study 4).
//
// For each block row the list of block columns that are not empty, a class with each, and the
// transposed for backward. The mask itself is the predicate: it is asked for the pairs of a partial
// block. Expresses every mask, block-sparse ones a KV head.
// What the walk guarantees: a tile is visited iff it meets a block that is not empty, and full iff
// every block that it meets is. So it is exact where tiles are whole blocks (or whole numbers of
// them); a tile inside a partial block, or across its edge, may be visited with nothing to see, and
// may be called partial though it is visible throughout.
// Built from the spans of each row without touching S x S: O(S + (S / B)^2).
// Memory: 8 bytes a listed block, 16 a block row (heads times for block-sparse masks), and the
// predicate's arrays, which stay the mask's: 4 S + 4 (documents + 1) with documents, or the grid of
// a block-sparse mask.
#ifndef LONGCA_REP_BLOCKMAP_H
#define LONGCA_REP_BLOCKMAP_H

#include "lists.h"

enum { BLOCKMAP_BLOCK = 128 }; // FlexAttention's default

struct blockmap {
  struct mask mask; // the predicate; its arrays are borrowed
  int32_t heads;    // 1 unless block-sparse
  int32_t block, blocks;
  struct block_lists q2k, k2q; // rows: head * blocks + block
};

// Row of the lists for a position, and the blocks along either axis.
REP_HD int64_t blockmap_row(const struct blockmap *x, int32_t head, int32_t at) {
  return (x->heads > 1 ? (int64_t)head * x->blocks : 0) + at / x->block;
}
REP_HD struct block_axis blockmap_axis(const struct blockmap *x) {
  struct block_axis axis;
  axis.begin = NULL;
  axis.blocks = x->blocks;
  axis.side = x->block;
  return axis;
}

REP_HD bool blockmap_allows(const struct blockmap *x, int32_t head, int32_t q, int32_t k) {
  return mask_allows(&x->mask, head, q, k);
}

// Keys [k, k + n) of row q as bits, n <= 64: the predicate of each pair. As FlexAttention compiles
// its predicate into the kernel, the kind is a constant of each loop.
REP_HD uint64_t blockmap_word(const struct mask *mask, int32_t q, int32_t k, int32_t n) {
  struct mask m = *mask;
  uint8_t seen[64] = {0};
#define BLOCKMAP_KIND(KIND) \
  case KIND: \
    m.kind = KIND; \
    for (int32_t j = 0; j < n; j++) \
      seen[j] = mask_allows(&m, 0, q, k + j); \
    break;
  switch (mask->kind) {
    BLOCKMAP_KIND(MASK_FULL)
    BLOCKMAP_KIND(MASK_CAUSAL)
    BLOCKMAP_KIND(MASK_SLIDING_WINDOW)
    BLOCKMAP_KIND(MASK_SLIDING_WINDOW_CAUSAL)
    BLOCKMAP_KIND(MASK_FULL_DOCUMENT)
    BLOCKMAP_KIND(MASK_CAUSAL_DOCUMENT)
    BLOCKMAP_KIND(MASK_SHARE_QUESTION)
    BLOCKMAP_KIND(MASK_CAUSAL_BLOCKWISE)
    BLOCKMAP_KIND(MASK_GLOBAL_SLIDING_WINDOW)
    BLOCKMAP_KIND(MASK_PREFIX_LM_CAUSAL)
    BLOCKMAP_KIND(MASK_PREFIX_LM_DOCUMENT)
    BLOCKMAP_KIND(MASK_BLOCK_CAUSAL_DOCUMENT)
    BLOCKMAP_KIND(MASK_FULL_DOCUMENT_LONG)
    BLOCKMAP_KIND(MASK_CAUSAL_DOCUMENT_LONG)
  default:
    return 0;
  }
#undef BLOCKMAP_KIND
  return rep_bits_pack(seen);
}

// The same for a block-sparse mask, whose predicate is a block's: asked once a block.
REP_HD void blockmap_grid_bits(const struct mask *m, int32_t head, int32_t q, int32_t k, int32_t n,
                               uint64_t *bits) {
  const int32_t *rows = m->row_begin + (int64_t)head * (m->blocks_q + 1);
  const int32_t *cols = m->col_begin + (int64_t)head * (m->blocks_k + 1);
  const int32_t r = mask_find(rows, m->blocks_q, q);
  const uint32_t *kept = m->kept + ((int64_t)head * m->blocks_q + r) * m->kept_words;
  rep_bits_clear(bits, n);
  for (int32_t c = mask_find(cols, m->blocks_k, k); c < m->blocks_k && cols[c] - k < n; c++)
    if (kept[c / 32] >> (c % 32) & 1)
      rep_bits_set(bits, rep_max(cols[c] - k, 0), rep_min(cols[c + 1] - k, n));
}

REP_HD void blockmap_row_bits(const struct blockmap *x, int32_t head, int32_t q, int32_t k,
                              int32_t n, uint64_t *bits) {
  if (x->mask.heads) {
    blockmap_grid_bits(&x->mask, head, q, k, n, bits);
    return;
  }
  for (int32_t i = 0; i < n; i += 64)
    bits[i / 64] = n - i >= 64 ? blockmap_word(&x->mask, q, k + i, 64)
                               : blockmap_word(&x->mask, q, k + i, n - i);
}

REP_HD enum tile_class blockmap_class(const struct blockmap *x, int32_t head, int32_t q_begin,
                                      int32_t q_end, int32_t k_begin, int32_t k_end) {
  const struct block_axis axis = blockmap_axis(x);
  return block_lists_class(&x->q2k, blockmap_row(x, head, q_begin),
                           blockmap_row(x, head, q_end - 1), &axis, k_begin, k_end);
}

REP_HD struct tile_run blockmap_next_keys(const struct blockmap *x, int32_t head,
                                          const struct tile_view *v, int32_t from) {
  const struct block_axis axis = blockmap_axis(x);
  if (v->q_begin >= v->q_end)
    return tile_run_none();
  return block_lists_next(&x->q2k, blockmap_row(x, head, v->q_begin),
                          blockmap_row(x, head, v->q_end - 1), &axis, v->k_begin, v->k_end, v->tile,
                          from);
}

REP_HD struct tile_run blockmap_next_queries(const struct blockmap *x, int32_t head,
                                             const struct tile_view *v, int32_t from) {
  const struct block_axis axis = blockmap_axis(x);
  if (v->k_begin >= v->k_end)
    return tile_run_none();
  return block_lists_next(&x->k2q, blockmap_row(x, head, v->k_begin),
                          blockmap_row(x, head, v->k_end - 1), &axis, v->q_begin, v->q_end, v->tile,
                          from);
}

#ifndef __CUDACC_RTC__
static inline const char *blockmap_supports(const struct mask *m) {
  (void)m;
  return NULL;
}

static inline int blockmap_arrays(const struct blockmap *x, struct rep_array list[REP_ARRAYS_MAX]) {
  const struct mask *m = &x->mask;
  const int64_t rows = (int64_t)x->heads * x->blocks;
  int n = 0;
  if (mask_has_docs(m->kind)) {
    REP_ADD(list, n, x, blockmap, mask.doc_begin, m->docs + 1, false);
    REP_ADD(list, n, x, blockmap, mask.doc_of, m->seqlen, false);
  }
  REP_ADD(list, n, x, blockmap, mask.row_begin, (int64_t)m->heads * (m->blocks_q + 1), false);
  REP_ADD(list, n, x, blockmap, mask.col_begin, (int64_t)m->heads * (m->blocks_k + 1), false);
  REP_ADD(list, n, x, blockmap, mask.kept, (int64_t)m->heads * m->blocks_q * m->kept_words, false);
  BLOCK_LISTS_ADD(list, n, x, blockmap, q2k, rows);
  BLOCK_LISTS_ADD(list, n, x, blockmap, k2q, rows);
  return n;
}
REP_ARRAYS(blockmap)

// What the rows of one block row see, as differences along the block columns.
struct blockmap_tally {
  int32_t *any, *all; // [blocks + 1] rows that see some, all of the keys of a block
  int32_t rows;       // rows, or groups of equal rows, so far
};

static inline void blockmap_tally_span(struct blockmap_tally *t, const struct blockmap *x,
                                       int32_t begin, int32_t end) {
  const int32_t all_begin = rep_tiles(0, begin, x->block);
  const int32_t all_end = end == x->mask.seqlen ? x->blocks : end / x->block;
  t->any[begin / x->block]++;
  t->any[(end - 1) / x->block + 1]--;
  if (all_begin < all_end) {
    t->all[all_begin]++;
    t->all[all_end]--;
  }
}

// Rows [q_begin, q_end) of a mask that is not block-sparse.
static inline void blockmap_tally_rows(struct blockmap_tally *t, const struct blockmap *x,
                                       int32_t q_begin, int32_t q_end) {
  for (int32_t q = q_begin; q < q_end; q++, t->rows++) {
    struct mask_span spans[MASK_SPANS_MAX];
    const int n = mask_row_spans(&x->mask, q, spans);
    for (int i = 0; i < n; i++) {
      const int32_t begin = spans[i].begin;
      while (i + 1 < n && spans[i + 1].begin == spans[i].end) // spans that touch are one
        i++;
      blockmap_tally_span(t, x, begin, spans[i].end);
    }
  }
}

// The same for a block-sparse mask: one group a block row of the mask.
static inline void blockmap_tally_grid(struct blockmap_tally *t, const struct blockmap *x,
                                       int32_t head, int32_t q_begin, int32_t q_end) {
  const struct mask *m = &x->mask;
  const int32_t *rows = m->row_begin + (int64_t)head * (m->blocks_q + 1);
  const int32_t *cols = m->col_begin + (int64_t)head * (m->blocks_k + 1);
  for (int32_t r = mask_find(rows, m->blocks_q, q_begin); r < m->blocks_q && rows[r] < q_end; r++) {
    const uint32_t *kept = m->kept + ((int64_t)head * m->blocks_q + r) * m->kept_words;
    for (int32_t c = 0; c < m->blocks_k; c++) {
      const int32_t first = c;
      while (c < m->blocks_k && kept[c / 32] >> (c % 32) & 1)
        c++;
      if (c > first)
        blockmap_tally_span(t, x, cols[first], cols[c]);
    }
    t->rows++;
  }
}

static inline int blockmap_build_lists(struct blockmap *x, struct blockmap_tally *t) {
  int64_t count = 0, room = 0;
  for (int64_t row = 0; row < (int64_t)x->heads * x->blocks; row++) {
    const int32_t head = (int32_t)(row / x->blocks),
                  q_begin = (int32_t)(row % x->blocks) * x->block;
    const int32_t q_end = rep_min(q_begin + x->block, x->mask.seqlen);
    int32_t any = 0, all = 0;
    memset(t->any, 0, (size_t)(x->blocks + 1) * sizeof *t->any);
    memset(t->all, 0, (size_t)(x->blocks + 1) * sizeof *t->all);
    t->rows = 0;
    if (x->mask.heads)
      blockmap_tally_grid(t, x, head, q_begin, q_end);
    else
      blockmap_tally_rows(t, x, q_begin, q_end);
    if (room - count < x->blocks) {
      room = count + count / 2 + x->blocks;
      if (block_lists_resize(&x->q2k, room))
        return -1;
    }
    for (int32_t c = 0; c < x->blocks; c++) {
      any += t->any[c];
      all += t->all[c];
      if (any)
        x->q2k.entry[count++] = all == t->rows ? c : ~c;
    }
    x->q2k.begin[row + 1] = count;
  }
  if (block_lists_resize(&x->q2k, count))
    return -1;
  return block_lists_transpose(&x->k2q, &x->q2k, x->heads, x->blocks, x->blocks);
}

static inline void blockmap_shape(struct blockmap *x, const struct mask *m, int32_t block) {
  memset(x, 0, sizeof *x);
  x->mask = *m;
  x->heads = m->heads > 0 ? m->heads : 1;
  x->block = block;
  x->blocks = rep_tiles(0, m->seqlen, block);
}

// Blocks of `block` positions a side. 0, or -1 when memory is short. The mask's arrays must outlive
// x.
static inline int blockmap_build_blocks(struct blockmap *x, const struct mask *m, int32_t block) {
  struct blockmap_tally t;
  blockmap_shape(x, m, block);
  t.any = REP_NEW(int32_t, x->blocks + 1);
  t.all = REP_NEW(int32_t, x->blocks + 1);
  x->q2k.begin = REP_NEW(int64_t, (int64_t)x->heads * x->blocks + 1);
  const bool ok = t.any && t.all && x->q2k.begin && !blockmap_build_lists(x, &t);
  free(t.any);
  free(t.all);
  if (!ok)
    blockmap_free(x);
  return ok ? 0 : -1;
}

static inline int blockmap_build(struct blockmap *x, const struct mask *m) {
  return blockmap_build_blocks(x, m, BLOCKMAP_BLOCK);
}
#endif
#endif
