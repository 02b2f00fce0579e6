// seen_by.cuh -- the mask inside a partial tile of backward, whose accumulators are transposed: a
// thread holds two keys, 8 apart, and of every 8 queries two. Bits as in visible.cuh, of queries.
#ifndef LONGCA_WGMMA_SEEN_BY_CUH
#define LONGCA_WGMMA_SEEN_BY_CUH

#include "visible.cuh"

namespace wgmma {

// What a representation keeps of a key for all of a CTA's steps, read once into shared memory: band,
// the interval of queries that see it; columns, the two intervals that do not. The others: nothing.
template <class Rep> static __device__ __forceinline__ int4 key_facts(const Rep &, int) {
  return make_int4(0, 0, 0, 0);
}
template <> __device__ __forceinline__ int4 key_facts(const band &x, int k) {
  int lo, hi;
  band_column(&x, k, &lo, &hi);
  return make_int4(lo, hi, 0, 0);
}
template <> __device__ __forceinline__ int4 key_facts(const columns &x, int k) {
  const columns_rows lower = columns_lower(&x, k), upper = columns_upper(&x, k);
  return make_int4(lower.begin, lower.end, upper.begin, upper.end);
}

struct key_pair { // a thread's two keys: positions and facts
  int k0, k1;
  int4 facts0, facts1;
};

// Which of the queries pos, ..., pos + valid - 1 see key k0 (top) and k1 (bottom); 0 < valid <= Queries.
template <int Queries>
static __device__ __forceinline__ row_bits seen_by(const band &, int, const key_pair &k, int pos, int valid) {
  return {bits_below(min(k.facts0.y - pos, valid)) & ~bits_below(k.facts0.x - pos),
          bits_below(min(k.facts1.y - pos, valid)) & ~bits_below(k.facts1.x - pos)};
}

template <int Queries>
static __device__ __forceinline__ row_bits seen_by(const columns &, int, const key_pair &k, int pos,
                                                   int valid) {
  const auto bits = [&](const int4 &hidden) {
    return bits_below(valid) & ~(bits_below(hidden.y - pos) & ~bits_below(hidden.x - pos)) &
           ~(bits_below(hidden.w - pos) & ~bits_below(hidden.z - pos));
  };
  return {bits(k.facts0), bits(k.facts1)};
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

// What the queries of a step see of keys key0 and key0 + 8 of `keys` at mask positions key_pos, ... (facts
// [128] are theirs): a bit an accumulator element, the first key's in the low half.
template <class Rep>
static __device__ __forceinline__ uint32_t seen_in_step(const Rep &rep, const int4 *facts, int head,
                                                        int key_pos, int key0, int keys, int pos, int valid) {
  const int last = keys - 1;
  const key_pair k = {key_pos + min(key0, last), key_pos + min(key0 + 8, last), facts[key0],
                      facts[key0 + 8]};
  const row_bits bits = seen_by<64>(rep, head, k, pos, valid);
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
