// flex.cuh -- FlexAttention's side of the wgmma engine, compiled at run time (flex.cu, jit.h): the kernels that
// make the bits of partial tiles, over a block map and a predicate given as source text.
//
// The text is the header "predicate"; it defines
//   bool visible_pair(const struct mask *m, int head, int q, int k)
// of mask positions q and k and the KV head. With BLOCK_IDS defined, q and k are what query_id(m, head, q)
// and key_id(m, head, k) of the same text make of the positions, which are asked once a query and a key.
// m holds the numbers and arrays of the mask in hand, all of them arguments of the kernel, so masks that
// differ in these alone share one compiled kernel. The build puts this file and what it includes into the
// program as one text (embed.awk), without system headers: NVRTC has none. What is needed of them
// stands here.
#ifndef LONGCA_FLEX_CUH
#define LONGCA_FLEX_CUH

#ifdef __CUDACC_RTC__
#define INFINITY __int_as_float(0x7f800000)
#endif

#include "../src/mask.h" // its integers are NVRTC's

#include "wgmma/tile_bits.cuh"

#include "predicate"

#ifndef BLOCK_IDS
static __device__ __forceinline__ int query_id(const struct mask *, int, int q) { return q; }
static __device__ __forceinline__ int key_id(const struct mask *, int, int k) { return k; }
#endif

namespace wgmma {

struct flex {
  blockmap map;
};
static_assert(sizeof(flex) == sizeof(blockmap), "the host passes a block map");

template<int Keys>
static __device__ __forceinline__ row_bits visible(const flex &x, int head, int q0, int q1, int pos,
                                                   int valid) {
  const struct mask *m = &x.map.mask;
  const int top_id = query_id(m, head, q0), bottom_id = query_id(m, head, q1);
  return bits_by_pair<Keys, 2>(pos, valid, [&](int k, bool &top, bool &bottom) {
    const int id = key_id(m, head, k);
    top = visible_pair(m, head, top_id, id);
    bottom = visible_pair(m, head, bottom_id, id);
  });
}

template<int Queries>
static __device__ __forceinline__ row_bits seen_by(const flex &x, int head, const key_pair &k,
                                                   int pos, int valid) {
  const struct mask *m = &x.map.mask;
  const int top_id = key_id(m, head, k.k0), bottom_id = key_id(m, head, k.k1);
  return bits_by_pair<Queries, 2>(pos, valid, [&](int q, bool &top, bool &bottom) {
    const int id = query_id(m, head, q);
    top = visible_pair(m, head, id, top_id);
    bottom = visible_pair(m, head, id, bottom_id);
  });
}

} // namespace wgmma
#endif
