// cases.h -- masks to test representations on: every kind, its degenerate cases, and block-sparse
// grids at lengths that are no whole number of blocks. Test code.
#ifndef LONGCA_REP_CASES_H
#define LONGCA_REP_CASES_H

#include <stdio.h>
#include <stdlib.h>

#include "../../src/mask.h"

enum { CASE_VARIANTS = 8 };

// Numbers that are the same everywhere (a linear congruential generator is enough here).
static inline int32_t case_random(uint64_t *state, int32_t below) {
  *state = *state * 6364136223846793005u + 1442695040888963407u;
  return (int32_t)((*state >> 33) % (uint64_t)below);
}

// begin[n + 1] of n parts of `total`, each at least 1.
static inline void case_cuts(uint64_t *state, int32_t *begin, int32_t n, int32_t total) {
  begin[0] = 0;
  for (int32_t i = 0; i < n; i++)
    begin[i + 1] =
        begin[i] + 1 + (i + 1 < n ? case_random(state, 2 * (total - begin[i]) / (n - i) - 1) : 0);
  for (int32_t i = n - 1, last = total; i > 0; i--, last--)
    begin[i] = begin[i] < last ? begin[i] : last - 1;
  begin[n] = total;
}

static inline int case_grid(struct mask *m, enum mask_kind kind, int32_t seqlen, int variant,
                            uint64_t *state) {
  static const int32_t sides[CASE_VARIANTS] = {64, 128, 16, 48, 64, 200, 1, 128};
  static const int32_t percents[CASE_VARIANTS] = {50, 20, 80, 50, 100, 30, 40, 3};
  const bool uniform = kind == MASK_UNIFORM_BLOCK_SPARSE;
  const int32_t side = sides[variant] == 1 && seqlen > 200 ? 7 : sides[variant];
  const int32_t blocks = (seqlen + side - 1) / side, heads = 1 + variant % 3;
  const int32_t words = (blocks + 31) / 32;
  int32_t *rows = calloc((size_t)heads * (size_t)(blocks + 1), sizeof *rows);
  int32_t *cols = calloc((size_t)heads * (size_t)(blocks + 1), sizeof *cols);
  uint32_t *kept = calloc((size_t)heads * (size_t)blocks * (size_t)words, sizeof *kept);
  *m = (struct mask){.kind = kind,
                     .seqlen = seqlen,
                     .block = side,
                     .heads = heads,
                     .blocks_q = blocks,
                     .blocks_k = blocks,
                     .row_begin = rows,
                     .col_begin = cols,
                     .kept = kept,
                     .kept_words = words,
                     .ratio = percents[variant] / 100.0};
  if (!rows || !cols || !kept)
    return -1;
  for (int32_t head = 0; head < heads; head++) {
    int32_t *row = rows + head * (blocks + 1), *col = cols + head * (blocks + 1);
    for (int32_t i = 0; i <= blocks; i++)
      row[i] = col[i] = i < blocks ? i * side : seqlen;
    if (!uniform) {
      case_cuts(state, row, blocks, seqlen);
      case_cuts(state, col, blocks, seqlen);
    }
    for (int32_t r = 0; r < blocks; r++) // 3 %: many rows that see nothing at all
      for (int32_t c = 0; c < blocks; c++)
        if (case_random(state, 100) < percents[variant])
          kept[(head * blocks + r) * words + c / 32] |= UINT32_C(1) << (c % 32);
  }
  return 0;
}

// Case number `variant` of a kind: 0 -> typical, the others reach the degenerate ones (windows and
// prefixes from 0 to beyond the sequence, one document, two, one a token, blocks of any side).
static inline int case_mask(struct mask *m, enum mask_kind kind, int32_t seqlen, int variant) {
  uint64_t state = (uint64_t)kind * 1000003 + (uint64_t)seqlen * 101 + (uint64_t)variant;
  if (mask_is_block_sparse(kind))
    return case_grid(m, kind, seqlen, variant, &state);
  const int32_t spread[CASE_VARIANTS] = {seqlen / 3,     1,  0,         seqlen, seqlen - 1,
                                         2 * seqlen + 5, 64, 0x7fffffff};
  const int32_t parts[CASE_VARIANTS] = {5, 1, 2, seqlen, 3, seqlen / 4 + 1, 9, 4};
  const int32_t sides[CASE_VARIANTS] = {16, 1, 64, 128, 100, 7, 32, 1024};
  const int32_t docs = parts[variant] < seqlen ? parts[variant] : seqlen;
  int32_t *cuts = calloc((size_t)docs + 1, sizeof *cuts);
  char err[200];
  if (!cuts)
    return -1;
  case_cuts(&state, cuts, docs, seqlen);
  for (int32_t i = 0; i < docs; i++)
    cuts[i] = cuts[i + 1] - cuts[i];
  const int status = mask_init(m, kind, seqlen, cuts, docs, spread[variant], spread[variant],
                               sides[variant], err, sizeof err);
  if (status)
    fprintf(stderr, "%s of %d: %s\n", mask_name(kind), seqlen, err);
  free(cuts);
  return status;
}
#endif
