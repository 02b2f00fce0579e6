// visible.cuh -- the mask inside a partial tile of forward, as row_bits of its keys. Asked once a tile, in
// preparation (tile_bits.cuh). Each representation reads what it stores in the order in which it stores it.
#ifndef LONGCA_WGMMA_VISIBLE_CUH
#define LONGCA_WGMMA_VISIBLE_CUH

#include "../rep/band.h"
#include "../rep/blocklist.h"
#include "../rep/blockmap.h" // for predicates: flex.cuh
#include "../rep/columns.h"
#include "../rep/dense.h"
#include "../rep/spans.h"
#include "../rep/varblock.h"
#include "row_bits.cuh"

namespace wgmma {

// A predicate, pair by pair: see(k, top, bottom) looks at one key for both rows, so that what belongs
// to the key is read once. Rolled: partial tiles are few, and the code stays small.
template <int Keys, int Unroll = 1, class See>
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
      bits.top |= static_cast<uint32_t>(top && k <= last) << (2 * j + e);
      bits.bottom |= static_cast<uint32_t>(bottom && k <= last) << (2 * j + e);
    }
  return bits;
}

// Listed blocks of a row of lists, as bits of the positions pos, ..., pos + valid - 1: one search, and
// then the blocks that are there, not the pairs.
static __device__ __forceinline__ uint32_t bits_of_list(const block_lists &l, int64_t row,
                                                        const block_axis &axis, int pos, int valid) {
  uint32_t bits = 0;
  const int64_t end = l.begin[row + 1];
  for (int64_t i = block_lists_find(&l, row, l.begin[row], block_axis_find(&axis, pos)); i < end; i++) {
    const int c = l.entry[i], begin = block_axis_begin(&axis, c) - pos;
    if (begin >= valid)
      break;
    bits |= bits_between(begin, min(block_axis_begin(&axis, c + 1) - pos, valid));
  }
  return bits;
}

// The same for a thread's two rows, which mostly share a row of lists.
static __device__ __forceinline__ row_bits bits_of_lists(const block_lists &l, int64_t row0, int64_t row1,
                                                         const block_axis &axis, int pos, int valid) {
  const uint32_t top = bits_of_list(l, row0, axis, pos, valid);
  return {top, row0 == row1 ? top : bits_of_list(l, row1, axis, pos, valid)};
}

// ---- visible(rep, head, q0, q1, pos, valid): what queries q0 (top) and q1 (bottom) = q0 + 8 see of the
// keys pos, ..., pos + valid - 1; 0 < valid <= Keys <= 128. Called by whole warps. Past the last query a
// tile repeats it.

template <int Keys>
static __device__ __forceinline__ row_bits visible(const band &x, int, int q0, int q1, int pos, int valid) {
  int lo0, hi0, lo1, hi1;
  band_row(&x, q0, &lo0, &hi0);
  band_row(&x, q1, &lo1, &hi1);
  return {bits_between(lo0 - pos, min(hi0 - pos, valid)), bits_between(lo1 - pos, min(hi1 - pos, valid))};
}

template <int Keys>
static __device__ __forceinline__ row_bits visible(const blocklist &x, int head, int q0, int q1, int pos,
                                                   int valid) {
  return bits_of_lists(x.q2k, blocklist_row(&x, head, q0), blocklist_row(&x, head, q1), blocklist_axis(&x),
                       pos, valid);
}

template <int Keys>
static __device__ __forceinline__ row_bits visible(const varblock &x, int head, int q0, int q1, int pos,
                                                   int valid) {
  return bits_of_lists(x.q2k, varblock_row(&x, head, q0), varblock_row(&x, head, q1),
                       varblock_cols(&x, head), pos, valid);
}

static __device__ __forceinline__ uint32_t bits_of_run(const spans_run &r, int q, int pos, int valid) {
  int lo0, hi0, lo1, hi1;
  spans_row(&r, 0, q, &lo0, &hi0);
  spans_row(&r, 1, q, &lo1, &hi1);
  return bits_between(lo0 - pos, min(hi0 - pos, valid)) | bits_between(lo1 - pos, min(hi1 - pos, valid));
}

template <int Keys>
static __device__ __forceinline__ row_bits visible(const spans &x, int, int q0, int q1, int pos, int valid) {
  int at = spans_find(&x, q0);
  const uint32_t top = bits_of_run(x.run[at], q0, pos, valid);
  while (x.run[at + 1].row <= q1)
    at++;
  return {top, bits_of_run(x.run[at], q1, pos, valid)};
}

// Bits 0, 1, 8, 9, 16, 17, 24 and 25 of a word, side by side.
static __device__ __forceinline__ uint32_t every_fourth_pair(uint32_t x) {
  x &= 0x03030303;
  x |= x >> 6;
  return (x | x >> 12) & 0xff;
}

// A row of stored words, 64 keys each.
template <int Keys>
static __device__ __forceinline__ uint32_t bits_of_words(const dense &x, int head, int q, int pos) {
  const uint64_t *row = dense_row(&x, head, q);
  const int first = pos / 64, shift = pos % 64;
  uint32_t bits = 0;
#pragma unroll
  for (int i = 0; i < Keys / 64; i++) {
    uint64_t word = first + i < x.words ? row[first + i] >> shift : 0;
    if (shift && first + i + 1 < x.words)
      word |= row[first + i + 1] << (64 - shift);
    word >>= 2 * (threadIdx.x % 4);
    bits |= (every_fourth_pair(static_cast<uint32_t>(word)) |
             every_fourth_pair(static_cast<uint32_t>(word >> 32)) << 8)
            << 16 * i;
  }
  return bits;
}

template <int Keys>
static __device__ __forceinline__ row_bits visible(const dense &x, int head, int q0, int q1, int pos,
                                                   int valid) {
  const uint32_t exist = bits_below(valid);
  return {bits_of_words<Keys>(x, head, q0, pos) & exist, bits_of_words<Keys>(x, head, q1, pos) & exist};
}

// Rows 0 .. 15 from `first` on that are in r, as bits.
static __device__ __forceinline__ uint32_t bits_of_rows(columns_rows r, int first) {
  const int lo = min(max(r.begin - first, 0), 16), hi = min(max(r.end - first, 0), 16);
  return ((1u << hi) - 1) & ~((1u << lo) - 1);
}

// Columns say by key which rows are hidden. So a lane takes every 32nd key, reads its vectors once, and
// makes a word of the warp's 16 rows, the next key's in the upper half; then the lanes exchange words.
// Of a word that it gets a lane keeps four bits, one a byte: its two rows of two keys.
template <int Keys>
static __device__ __forceinline__ row_bits visible(const columns &x, int, int q0, int, int pos, int valid) {
  static_assert(Keys == 128, "two words a lane");
  const int lane = threadIdx.x % 32, first = __shfl_sync(~0u, q0, 0);
  uint32_t word[2] = {0, 0}, bytes[2] = {0, 0};
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const int c = lane + 32 * i;
    if (c < valid) {
      const uint32_t hidden = bits_of_rows(columns_lower(&x, pos + c), first) |
                              bits_of_rows(columns_upper(&x, pos + c), first);
      word[i / 2] |= (~hidden & 0xffff) << (i % 2 * 16);
    }
  }
#pragma unroll
  for (int i = 0; i < 16; i++) { // bit i % 8 of each byte: keys 8 (i / 2 % 4) + 2 (lane % 4) + i % 2, + 32
    const int from = 8 * (i / 2 % 4) + 2 * (lane % 4) + i % 2;
    const uint32_t seen = __shfl_sync(~0u, word[i / 8], from) >> (lane / 4);
    bytes[i / 8] |= (seen & 0x01010101) << (i % 8);
  }
  return {__byte_perm(bytes[0], bytes[1], 0x6420), __byte_perm(bytes[0], bytes[1], 0x7531)};
}

} // namespace wgmma
#endif
