// seen_by.cuh -- the mask inside a partial tile of backward: a thread's rows are two keys, 8 apart, and its
// row_bits are of queries.
#ifndef LONGCA_WGMMA_SEEN_BY_CUH
#define LONGCA_WGMMA_SEEN_BY_CUH

#include "visible.cuh"

namespace wgmma {

struct key_pair { // positions of a thread's two keys
  int k0, k1;
};

// Which of the queries pos, ..., pos + valid - 1 see key k0 (top) and k1 (bottom); 0 < valid <= Queries.
template <int Queries>
static __device__ __forceinline__ row_bits seen_by(const band &x, int, const key_pair &k, int pos, int valid) {
  int lo0, hi0, lo1, hi1;
  band_column(&x, k.k0, &lo0, &hi0);
  band_column(&x, k.k1, &lo1, &hi1);
  return {bits_between(lo0 - pos, min(hi0 - pos, valid)), bits_between(lo1 - pos, min(hi1 - pos, valid))};
}

template <int Queries>
static __device__ __forceinline__ row_bits seen_by(const columns &x, int, const key_pair &k, int pos,
                                                   int valid) {
  const auto bits = [&](int key) {
    const columns_rows lower = columns_lower(&x, key), upper = columns_upper(&x, key);
    return bits_below(valid) & ~bits_between(lower.begin - pos, lower.end - pos) &
           ~bits_between(upper.begin - pos, upper.end - pos);
  };
  return {bits(k.k0), bits(k.k1)};
}

template <int Queries>
static __device__ __forceinline__ row_bits seen_by(const dense &x, int head, const key_pair &k, int pos,
                                                   int valid) {
  return bits_by_pair<Queries>(pos, valid, [&](int q, bool &top, bool &bottom) {
    top = dense_allows(&x, head, q, k.k0);
    bottom = dense_allows(&x, head, q, k.k1);
  });
}

template <int Queries>
static __device__ __forceinline__ row_bits seen_by(const blocklist &x, int head, const key_pair &k, int pos,
                                                   int valid) {
  return bits_of_lists(x.k2q, blocklist_row(&x, head, k.k0), blocklist_row(&x, head, k.k1),
                       blocklist_axis(&x), pos, valid);
}

template <int Queries>
static __device__ __forceinline__ row_bits seen_by(const varblock &x, int head, const key_pair &k, int pos,
                                                   int valid) {
  return bits_of_lists(x.k2q, varblock_col(&x, head, k.k0), varblock_col(&x, head, k.k1),
                       varblock_rows(&x, head), pos, valid);
}

// Of each run that has rows among these, the rows that see either key.
template <int Queries>
static __device__ __forceinline__ row_bits seen_by(const spans &x, int, const key_pair &k, int pos,
                                                   int valid) {
  row_bits bits = {0, 0};
  for (int at = spans_find(&x, pos); x.run[at].row < pos + valid; at++)
#pragma unroll
    for (int i = 0; i < 2; i++) {
      const spans_run &r = x.run[at];
      int lo, hi;
      spans_column(&r, i, k.k0, &lo, &hi);
      bits.top |= bits_between(lo - pos, min(hi - pos, valid));
      spans_column(&r, i, k.k1, &lo, &hi);
      bits.bottom |= bits_between(lo - pos, min(hi - pos, valid));
    }
  return bits;
}

// What the queries of a step see of keys key0 and key0 + 8 of `keys` at mask positions key_pos, ...: a bit an
// accumulator element, the first key's in the low half.
template <class Rep>
static __device__ __forceinline__ uint32_t seen_in_step(const Rep &rep, int head, int key_pos, int key0, int keys,
                                                        int pos, int valid) {
  const key_pair k = {key_pos + min(key0, keys - 1), key_pos + min(key0 + 8, keys - 1)};
  const row_bits bits = seen_by<64>(rep, head, k, pos, valid);
  return (key0 < keys ? bits.top & 0xffff : 0) |
         (key0 + 8 < keys ? bits.bottom << 16 : 0);
}

} // namespace wgmma
#endif
