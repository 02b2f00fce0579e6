// seen_by.cuh -- the mask inside a partial tile of backward, whose accumulators are transposed: a
// thread holds two keys, 8 apart, and of every 8 queries two. Bits as in visible.cuh, of queries.
#ifndef LONGCA_WGMMA_SEEN_BY_CUH
#define LONGCA_WGMMA_SEEN_BY_CUH

#include "visible.cuh"

namespace wgmma {

// Which of the queries pos, ..., pos + valid - 1 see keys k0 (top) and k1 (bottom); 0 < valid <= Queries.
template <int Queries>
static __device__ __forceinline__ row_bits seen_by(const band &x, int, int k0, int k1, int pos, int valid) {
  int lo0, hi0, lo1, hi1;
  band_column(&x, k0, &lo0, &hi0);
  band_column(&x, k1, &lo1, &hi1);
  return {bits_below(min(hi0 - pos, valid)) & ~bits_below(lo0 - pos),
          bits_below(min(hi1 - pos, valid)) & ~bits_below(lo1 - pos)};
}

// Masked queries of a key are two intervals: no look at single pairs.
template <int Queries>
static __device__ __forceinline__ row_bits seen_by(const columns &x, int, int k0, int k1, int pos, int valid) {
  const auto bits = [&](int k) {
    const columns_rows lower = columns_lower(&x, k), upper = columns_upper(&x, k);
    const uint32_t hidden = (bits_below(lower.end - pos) & ~bits_below(lower.begin - pos)) |
                            (bits_below(upper.end - pos) & ~bits_below(upper.begin - pos));
    return bits_below(valid) & ~hidden;
  };
  return {bits(k0), bits(k1)};
}

#define SEEN_BY_PAIR(X)                                                                                \
  template <int Queries>                                                                               \
  static __device__ __forceinline__ row_bits seen_by(const X &x, int head, int k0, int k1, int pos,    \
                                                     int valid) {                                      \
    return bits_by_pair<Queries>(pos, valid, [&](int q, bool &top, bool &bottom) {                     \
      top = X##_allows(&x, head, q, k0);                                                               \
      bottom = X##_allows(&x, head, q, k1);                                                            \
    });                                                                                                \
  }
SEEN_BY_PAIR(dense)
SEEN_BY_PAIR(blocklist)
SEEN_BY_PAIR(varblock)
#undef SEEN_BY_PAIR

// What the queries of a step see of keys key0 and key0 + 8 of `keys` at mask positions key_pos, ...: a
// bit an accumulator pair, the first key's in the low half. valid = 0: the tile is full, and only keys
// that do not exist are hidden.
template <class Rep>
static __device__ __forceinline__ uint32_t seen_in_step(const Rep &rep, int head, int key_pos, int key0,
                                                        int keys, int pos, int valid) {
  const int last = keys - 1;
  row_bits bits = {~0u, ~0u};
  if (valid)
    bits = seen_by<64>(rep, head, key_pos + min(key0, last), key_pos + min(key0 + 8, last), pos, valid);
  return (key0 < keys ? bits.top & 0xffff : 0) |
         (key0 + 8 < keys ? bits.bottom << 16 : 0);
}

// P becomes 0 where it is not seen.
static __device__ __forceinline__ void hide_unseen(float (&p)[32], uint32_t bits) {
#pragma unroll
  for (int i = 0; i < 32; i++)
    if (!(bits >> ((i & 2 ? 16 : 0) + i / 4 * 2 + (i & 1)) & 1))
      p[i] = 0;
}

} // namespace wgmma
#endif
