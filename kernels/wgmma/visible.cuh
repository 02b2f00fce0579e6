// visible.cuh -- the mask inside a partial tile, for accumulators in wgmma's layout.
//
// A thread holds two rows, 8 apart, and of every 8 columns two (ptx/wgmma.cuh). A representation says
// what those two queries see of the thread's keys as one word of bits a row: bit 2 j + e stands for
// column 8 j + 2 (t % 4) + e, accumulator elements 4 j + e and 4 j + 2 + e. Constant bit tests then
// take the scores to -inf, which compile to predicates without comparisons.
#ifndef LONGCA_WGMMA_VISIBLE_CUH
#define LONGCA_WGMMA_VISIBLE_CUH

#include "../rep/band.h"
#include "../rep/blocklist.h"
#include "../rep/blockmap.h"
#include "../rep/columns.h"
#include "../rep/dense.h"
#include "../rep/varblock.h"

namespace wgmma {

// Whether a mask's code is so short that it may stand twice in the kernel, and so cheap that a partial
// tile takes the usual step's path.
template<class Rep> constexpr bool mask_is_short = false;
template<> constexpr bool mask_is_short<band> = true;
template<> constexpr bool mask_is_short<columns> = true;

// Whether a representation stores what is hidden by key, so that it is read by key: hide_by_key().
template<class Rep> constexpr bool hides_by_key = false;
template<> constexpr bool hides_by_key<columns> = true;

struct row_bits {
  uint64_t top, bottom; // of the thread's two rows
};

// Bits of the columns below `limit`, which counts from the tile's first key.
static __device__ __forceinline__ uint64_t bits_below(int limit) {
  const int c = limit - 2 * static_cast<int>(threadIdx.x % 4);
  const int n = c <= 0 ? 0 : min(2 * (c >> 3) + min(c & 7, 2), 64);
  return n < 64 ? (uint64_t(1) << n) - 1 : ~uint64_t(0);
}

// Any representation, pair by pair. `see(k, top, bottom)` looks at one key for both rows, so that what
// is stored by key is read once. Rolled: partial tiles are few, and the code stays small.
template<int Keys, int Unroll = 1, class See>
static __device__ __forceinline__ row_bits bits_by_pair(int pos, int valid, See see) {
  row_bits bits = {0, 0};
  const int t2 = 2 * (threadIdx.x % 4), last = pos + valid - 1;
#pragma unroll Unroll
  for (int j = 0; j < Keys / 8; j++)
#pragma unroll
    for (int e = 0; e < 2; e++) {
      const int k = pos + 8 * j + t2 + e;
      bool top, bottom;
      see(min(k, last), top, bottom);
      bits.top |= static_cast<uint64_t>(top && k <= last) << (2 * j + e);
      bits.bottom |= static_cast<uint64_t>(bottom && k <= last) << (2 * j + e);
    }
  return bits;
}

// What queries q0 (top) and q1 (bottom) see of the keys pos, ..., pos + valid - 1; 0 < valid <= Keys.
template<int Keys>
static __device__ __forceinline__ row_bits visible(const band &x, int, int q0, int q1, int pos,
                                                   int valid) {
  int lo0, hi0, lo1, hi1;
  band_row(&x, q0, &lo0, &hi0);
  band_row(&x, q1, &lo1, &hi1);
  return {bits_below(min(hi0 - pos, valid)) & ~bits_below(lo0 - pos),
          bits_below(min(hi1 - pos, valid)) & ~bits_below(lo1 - pos)};
}

// The predicate of each pair; its kind is a constant of each loop, as where a predicate is compiled in.
template<int Keys>
static __device__ __forceinline__ row_bits visible(const blockmap &x, int head, int q0, int q1,
                                                   int pos, int valid) {
  struct mask m = x.mask;
#define BITS_OF_KIND(KIND) \
  case KIND: \
    m.kind = KIND; \
    return bits_by_pair<Keys, 2>(pos, valid, [&](int k, bool &top, bool &bottom) { \
      top = mask_allows(&m, head, q0, k); \
      bottom = mask_allows(&m, head, q1, k); \
    });
  switch (x.mask.kind) {
    BITS_OF_KIND(MASK_FULL)
    BITS_OF_KIND(MASK_CAUSAL)
    BITS_OF_KIND(MASK_SLIDING_WINDOW)
    BITS_OF_KIND(MASK_SLIDING_WINDOW_CAUSAL)
    BITS_OF_KIND(MASK_FULL_DOCUMENT)
    BITS_OF_KIND(MASK_CAUSAL_DOCUMENT)
    BITS_OF_KIND(MASK_SHARE_QUESTION)
    BITS_OF_KIND(MASK_CAUSAL_BLOCKWISE)
    BITS_OF_KIND(MASK_GLOBAL_SLIDING_WINDOW)
    BITS_OF_KIND(MASK_PREFIX_LM_CAUSAL)
    BITS_OF_KIND(MASK_PREFIX_LM_DOCUMENT)
    BITS_OF_KIND(MASK_BLOCK_CAUSAL_DOCUMENT)
    BITS_OF_KIND(MASK_FULL_DOCUMENT_LONG)
    BITS_OF_KIND(MASK_CAUSAL_DOCUMENT_LONG)
    BITS_OF_KIND(MASK_UNIFORM_BLOCK_SPARSE)
    BITS_OF_KIND(MASK_VARIABLE_BLOCK_SPARSE)
  default:
    return {0, 0};
  }
#undef BITS_OF_KIND
}

#define VISIBLE_BY_PAIR(X) \
  template<int Keys> \
  static __device__ __forceinline__ row_bits visible(const X &x, int head, int q0, int q1, \
                                                     int pos, int valid) { \
    return bits_by_pair<Keys>(pos, valid, [&](int k, bool &top, bool &bottom) { \
      top = X##_allows(&x, head, q0, k); \
      bottom = X##_allows(&x, head, q1, k); \
    }); \
  }
VISIBLE_BY_PAIR(dense)
VISIBLE_BY_PAIR(blocklist)
VISIBLE_BY_PAIR(varblock)
#undef VISIBLE_BY_PAIR

// Rows 0 .. 15 from `first` on that are in r, as bits.
static __device__ __forceinline__ uint32_t bits_of_rows(columns_rows r, int first) {
  const int lo = min(max(r.begin - first, 0), 16), hi = min(max(r.end - first, 0), 16);
  return ((1u << hi) - 1) & ~((1u << lo) - 1);
}

// Columns say by key which rows are hidden. So a lane takes every 32nd key, reads its vectors once, and
// makes a word of the warp's 16 rows; then the lanes exchange words: 16 bits of key c below, of c + 32
// above.
template<int Keys>
static __device__ __forceinline__ void hide_by_key(float (&s)[Keys / 2], const columns &x, int q0,
                                                   int pos, int valid) {
  static_assert(Keys % 64 == 0, "two keys of a lane share a word");
  const int lane = threadIdx.x % 32, first = __shfl_sync(~0u, q0, 0);
  uint32_t word[Keys / 64] = {};
#pragma unroll
  for (int i = 0; i < Keys / 32; i++) {
    const int c = lane + 32 * i;
    if (c < valid) {
      const uint32_t hidden = bits_of_rows(columns_lower(&x, pos + c), first) |
                              bits_of_rows(columns_upper(&x, pos + c), first);
      word[i / 2] |= (~hidden & 0xffff) << (i % 2 * 16);
    }
  }
#pragma unroll
  for (int i = 0; i < Keys / 8;
       i++) { // word i / 8; key 8 (i / 2 % 4) + 2 (lane % 4) + i % 2 and that + 32
    const int from = 8 * (i / 2 % 4) + 2 * (lane % 4) + i % 2;
    const uint32_t seen = __shfl_sync(~0u, word[i / 8], from) >> (lane / 4);
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int at = 4 * (8 * (i / 8) + 4 * half + i / 2 % 4) + i % 2;
      if (!(seen >> (16 * half) & 1))
        s[at] = -INFINITY;
      if (!(seen >> (16 * half + 8) & 1))
        s[at + 2] = -INFINITY;
    }
  }
}

// Scores of what is not visible become -inf. valid = 0: nothing is (and no position is asked about).
template<int Keys, class Rep>
static __device__ __forceinline__ void hide(float (&s)[Keys / 2], const Rep &rep, int head, int q0,
                                            int q1, int pos, int valid) {
  static_assert(Keys <= 256, "64 bits a row");
  if constexpr (hides_by_key<Rep>) {
    hide_by_key<Keys>(s, rep, q0, pos, valid);
  } else {
    const row_bits bits = valid ? visible<Keys>(rep, head, q0, q1, pos, valid) : row_bits{0, 0};
#pragma unroll
    for (int i = 0; i < Keys / 2; i++) {
      const uint64_t row = i & 2 ? bits.bottom : bits.top;
      if (!(row >> (i / 4 * 2 + (i & 1)) & 1))
        s[i] = -INFINITY;
    }
  }
}

} // namespace wgmma
#endif
