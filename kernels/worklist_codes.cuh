// worklist_codes.cuh -- what a work list says of one inner tile (worklist.cu): its class, asked of the
// representation, as a code of one word; and the codes of a warp's 32 tiles as a few words of bits, so
// that the second pass over a list need not ask again.
#ifndef LONGCA_WORKLIST_CODES_CUH
#define LONGCA_WORKLIST_CODES_CUH

#include "rep/band.h"
#include "rep/blocklist.h"
#include "rep/blockmap.h"
#include "rep/columns.h"
#include "rep/dense.h"
#include "rep/spans.h"
#include "rep/varblock.h"
#include "worklist.h"

namespace { // of worklist.cu

// Queries [q0, q1) by keys [k0, k1).
struct tile {
  int32_t q0, q1, k0, k1;
};

// The class of one tile, by overload; `keys`: lanes are at tiles of keys, else of queries. Lists are
// searched along the lanes, in the rows that all of them share.
#define CLASS_OF(X) \
  __device__ __forceinline__ tile_class class_of(const X *x, int head, const tile &t, bool) { \
    return X##_class(x, head, t.q0, t.q1, t.k0, t.k1); \
  }
#define CLASS_OF_LISTS(X, ROW, AXIS) \
  __device__ __forceinline__ tile_class class_of(const X *x, int head, const tile &t, bool keys) { \
    if (keys) \
      return X##_class(x, head, t.q0, t.q1, t.k0, t.k1); \
    const block_axis axis = AXIS; \
    return block_lists_class(&x->k2q, ROW(x, head, t.k0), ROW(x, head, t.k1 - 1), &axis, t.q0, t.q1); \
  }
CLASS_OF(dense)
CLASS_OF(band)
CLASS_OF(columns)
CLASS_OF(spans)
CLASS_OF_LISTS(blockmap, blockmap_row, blockmap_axis(x))
CLASS_OF_LISTS(blocklist, blocklist_row, blocklist_axis(x))
CLASS_OF_LISTS(varblock, varblock_col, varblock_rows(x, head))
#undef CLASS_OF
#undef CLASS_OF_LISTS

struct list_shape {
  const attn_segment *ranges;   // row_ranges() of the outer side
  const attn_segment *segments; // [segment_count] of the inner side
  int32_t count, classes, segment_count, outer, inner;
  int32_t rounds, planes; // bits of an item: a word a plane and round of 32 tiles
  bool keys, halves;
};

// A tile's code: what worklist_run.valid says of a run of this tile alone; or UNSEEN.
enum { UNSEEN = -1, WHOLE = 0, HALVES = ~0xffff };

template<class Rep>
__device__ int32_t code_of(const Rep *rep, int head, const list_shape &s, const worklist_item &item,
                           int32_t at, int32_t valid) {
  const auto seen = [&](int32_t begin, int32_t end) {
    return class_of(rep, head, s.keys ? tile{begin, end, at, at + valid} : tile{at, at + valid, begin, end},
                    s.keys);
  };
  const tile_class all = seen(item.pos, item.pos + item.rows);
  if (all == TILE_EMPTY)
    return UNSEEN;
  if (all == TILE_FULL && valid == s.inner)
    return WHOLE;
  if (!s.halves)
    return valid;
  int32_t bits = 0;
  for (int h = 0; h < 2; h++) {
    const int32_t begin = h * (s.outer / 2), end = h ? item.rows : min(item.rows, s.outer / 2);
    if (begin >= end)
      continue;
    const tile_class half = seen(item.pos + begin, item.pos + end);
    bits |= (half != TILE_EMPTY ? WORKLIST_SEEN << h : 0) | (half == TILE_FULL ? WORKLIST_WHOLE << h : 0);
  }
  return bits ? valid | bits : UNSEEN; // a block map may list what no half sees
}

// A code less its rows is two bits, seen and masked, and four more where halves are told apart. Lane p
// has the word of plane p.
__device__ __forceinline__ int bit_of_plane(int p) { return p < 4 ? 14 + p : 20 + p; }
__device__ uint32_t planes_of_codes(int32_t code, int planes, int lane) {
  uint32_t mine = 0;
  for (int p = 0; p < planes; p++) {
    const bool bit = p == 0 ? code != UNSEEN : p == 1 ? code > 0 : code >> bit_of_plane(p) & 1;
    const uint32_t word = __ballot_sync(~0u, bit);
    mine = lane == p ? word : mine;
  }
  return mine;
}
__device__ int32_t code_of_planes(uint32_t mine, int planes, int lane, int32_t valid) {
  const uint32_t seen = __shfl_sync(~0u, mine, 0), masked = __shfl_sync(~0u, mine, 1);
  int32_t code = masked >> lane & 1 ? valid : WHOLE;
  for (int p = 2; p < planes; p++) {
    const uint32_t word = __shfl_sync(~0u, mine, p);
    code |= word >> lane & 1 ? 1 << bit_of_plane(p) : 0;
  }
  return seen >> lane & 1 ? code : UNSEEN;
}

} // namespace

#endif
