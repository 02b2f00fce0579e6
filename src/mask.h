// mask.h -- the masks of the study, by definition.
//
// mask_allows() is the single definition (study 1.3, 5.1, 5.2): areas, representations, kernels and
// pictures are all tested against it. The struct is plain data, so a copy whose pointers lead to
// device memory works inside a kernel; the definition compiles for the host, by nvcc and by NVRTC.
// Positions are 0-based and absolute: q the query's, k the key's.
#ifndef LONGCA_MASK_H
#define LONGCA_MASK_H

#ifdef __CUDACC__
#define MASK_HD static __host__ __device__ __forceinline__
#else
#define MASK_HD static inline
#endif

#ifndef __CUDACC_RTC__
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#else // NVRTC has no host headers
typedef int int32_t;
typedef long long int64_t;
typedef unsigned int uint32_t;
typedef unsigned long long uint64_t;
typedef unsigned char uint8_t;
#endif

enum mask_kind {
  MASK_FULL,
  MASK_CAUSAL,
  MASK_SLIDING_WINDOW,
  MASK_SLIDING_WINDOW_CAUSAL,
  MASK_FULL_DOCUMENT,
  MASK_CAUSAL_DOCUMENT,
  MASK_SHARE_QUESTION,
  MASK_CAUSAL_BLOCKWISE,
  MASK_GLOBAL_SLIDING_WINDOW,
  MASK_PREFIX_LM_CAUSAL,
  MASK_PREFIX_LM_DOCUMENT,
  MASK_BLOCK_CAUSAL_DOCUMENT,
  MASK_FULL_DOCUMENT_LONG,
  MASK_CAUSAL_DOCUMENT_LONG,
  MASK_UNIFORM_BLOCK_SPARSE,
  MASK_VARIABLE_BLOCK_SPARSE,
  MASK_KINDS
};

struct mask {
  enum mask_kind kind;
  int32_t seqlen; // queries = keys
  // Documents. A mask without documents has one, [0, seqlen).
  int32_t docs;
  const int32_t *doc_begin; // [docs + 1] first position of each document; doc_begin[docs] = seqlen
  const int32_t *doc_of;    // [seqlen] document of each position
  int32_t window;           // w of the sliding windows, g of GLOBAL SLIDING
  int32_t prefix;           // p of the prefix-LM masks
  int32_t block; // B of BLOCK CAUSAL DOCUMENT; side of a uniform block; average of variable ones
  // Block-sparse masks: one grid a KV head (a GQA group shares it). Other masks: heads = 0.
  int32_t heads;              // KV heads that have a pattern of their own
  int32_t blocks_q, blocks_k; // blocks along the queries and along the keys
  const int32_t *row_begin;   // [heads, blocks_q + 1] first query of each block row
  const int32_t *col_begin;   // [heads, blocks_k + 1] first key of each block column
  const uint32_t *kept; // [heads, blocks_q, kept_words] bit c of row r: block (r, c) is visible
  int32_t kept_words;   // (blocks_k + 31) / 32
  double ratio;         // nominal fraction kept
};

// Index i with begin[i] <= x < begin[i + 1], for n blocks.
MASK_HD int32_t mask_find(const int32_t *begin, int32_t n, int32_t x) {
  int32_t lo = 0, hi = n;
  while (hi - lo > 1) {
    int32_t mid = lo + (hi - lo) / 2;
    if (begin[mid] <= x)
      lo = mid;
    else
      hi = mid;
  }
  return lo;
}

// Whether query position q sees key position k in KV head `head` (only the block-sparse masks
// differ between heads). 0 <= q, k < seqlen.
MASK_HD bool mask_allows(const struct mask *m, int32_t head, int32_t q, int32_t k) {
  const int32_t dist = q - k;
  switch (m->kind) {
  case MASK_FULL:
    return true;
  case MASK_CAUSAL:
    return k <= q;
  case MASK_SLIDING_WINDOW:
    return dist <= m->window && -dist <= m->window;
  case MASK_SLIDING_WINDOW_CAUSAL:
    return dist >= 0 && dist <= m->window;
  case MASK_GLOBAL_SLIDING_WINDOW:
    return q < m->window || k < m->window || (dist <= m->window && -dist <= m->window);
  case MASK_PREFIX_LM_CAUSAL:
    return k < m->prefix || k <= q;
  case MASK_UNIFORM_BLOCK_SPARSE:
  case MASK_VARIABLE_BLOCK_SPARSE: {
    const int32_t *rows = m->row_begin + (int64_t)head * (m->blocks_q + 1);
    const int32_t *cols = m->col_begin + (int64_t)head * (m->blocks_k + 1);
    const int32_t r = mask_find(rows, m->blocks_q, q), c = mask_find(cols, m->blocks_k, k);
    const uint32_t *row = m->kept + ((int64_t)head * m->blocks_q + r) * m->kept_words;
    return row[c / 32] >> (c % 32) & 1;
  }
  default:
    break;
  }
  const int32_t doc_q = m->doc_of[q], doc_k = m->doc_of[k];
  const bool same = doc_q == doc_k;
  switch (m->kind) {
  case MASK_FULL_DOCUMENT:
  case MASK_FULL_DOCUMENT_LONG:
    return same;
  case MASK_CAUSAL_DOCUMENT:
  case MASK_CAUSAL_DOCUMENT_LONG:
    return same && k <= q;
  case MASK_SHARE_QUESTION: // document 0 is the question; every answer sees it
    return (same && k <= q) || (doc_k == 0 && doc_q != 0);
  case MASK_CAUSAL_BLOCKWISE: // the last document is the test; it sees all before it
    return (same && k <= q) || (doc_q == m->docs - 1 && doc_k != doc_q);
  case MASK_PREFIX_LM_DOCUMENT:
    return same && (k <= q || k - m->doc_begin[doc_q] < m->prefix);
  case MASK_BLOCK_CAUSAL_DOCUMENT:
    return same && k < (q / m->block + 1) * m->block;
  default:
    return false;
  }
}

#ifndef __CUDACC_RTC__
#ifdef __cplusplus
extern "C" {
#endif

// Most spans that one row of a non-block-sparse mask can have (GLOBAL SLIDING: global, window).
enum { MASK_SPANS_MAX = 2 };

struct mask_span {
  int32_t begin, end; // visible keys [begin, end)
};

// Code id of a kind (study 1.1), e.g. "share_question"; and its paper abbreviation, e.g. "SQ".
const char *mask_name(enum mask_kind kind);
const char *mask_abbreviation(enum mask_kind kind);
const char *mask_summary(enum mask_kind kind); // one sentence for `longca list`
// Kind of a code id, or -1. mask_names() is "full, causal, ..." for error messages.
int mask_parse(const char *name);
const char *mask_names(void);
bool mask_has_docs(enum mask_kind kind);
bool mask_is_block_sparse(enum mask_kind kind);

// A mask from its parameters (the draws are in mask_draw.h). `lengths` are document lengths that sum
// to seqlen; a mask without documents takes docs = 0. Unused parameters are ignored.
// 0, or -1 with a sentence in err (may be NULL).
int mask_init(struct mask *m, enum mask_kind kind, int32_t seqlen, const int32_t *lengths,
              int32_t docs, int32_t window, int32_t prefix, int32_t block, char *err,
              size_t err_size);
void mask_free(struct mask *m);

// Visible keys of row q as sorted disjoint spans; returns how many. Not for block-sparse masks.
int mask_row_spans(const struct mask *m, int32_t q, struct mask_span spans[MASK_SPANS_MAX]);

// Exact number of visible pairs, closed form (study 1.3), summed over the query rows [q_begin, q_end).
// Block-sparse masks: the mean over the KV heads, which need not be whole.
double mask_area(const struct mask *m);
double mask_area_rows(const struct mask *m, int32_t q_begin, int32_t q_end);

// Cuts the rows where the number of visible keys stops being linear in the row: begin [*count + 1], the
// first row of each slice and seqlen at the end; the caller frees it. NULL: out of memory. Not for
// block-sparse masks.
int32_t *mask_slices(const struct mask *m, int32_t *count);

// The mask as a picture of n x n cells, queries downwards: density[i * n + j] is the visible fraction
// of queries [i S/n, (i+1) S/n) by keys [j S/n, (j+1) S/n) in KV head `head`. 1 <= n <= seqlen.
void mask_picture(const struct mask *m, int32_t head, int32_t n, double *density);

#ifdef __cplusplus
}
#endif
#endif
#endif
