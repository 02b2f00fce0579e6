// forward_parts.cuh -- parts of one query tile (split.h) put together: O = sum of 2^(base_i - base) O_i over
// its parts, and the sums likewise, with base the largest of the parts' bases.
//
// Each warp leaves its 16 rows in memory as it holds them and counts itself; the last one to come reads all
// parts, its own too, in the order of keys, so the bits do not depend on who is last. Nobody waits.
#ifndef LONGCA_WGMMA_FORWARD_PARTS_CUH
#define LONGCA_WGMMA_FORWARD_PARTS_CUH

#include "../ptx/math.cuh"
#include "forward_shared.cuh"

namespace wgmma {

// Part `part` is done: its O, and of this thread's two rows bases and sums. Returns whether it was the last;
// then they are the tile's. Called by whole warps.
template <int Dim>
static __device__ __forceinline__ bool join_parts(const fwd_params &p, int part, float (&o)[Dim / 2],
                                                  float4 &rows) {
  constexpr int Threads = 128 * FWD_WARPGROUPS, Words = Dim / 8 + 1;
  const int thread = ptx::thread_now() - 128; // behind the producer's warpgroup
  const split_part *of = p.split.parts + part;
  const int first = __ldg(&of->first), parts = __ldg(&of->parts);
  float4 *const left = reinterpret_cast<float4 *>(p.split.left) + thread;
  const auto at = [&](int i, int word) { return left + (static_cast<int64_t>(i) * Words + word) * Threads; };
#pragma unroll
  for (int j = 0; j < Dim / 8; j++)
    *at(part, j) = make_float4(o[4 * j], o[4 * j + 1], o[4 * j + 2], o[4 * j + 3]);
  *at(part, Dim / 8) = rows;
  __syncwarp();
  int before = 0;
  int32_t *arrived = p.split.arrived + first * (Threads / 32) + thread / 32;
  if (thread % 32 == 0)
    before = ptx::count_arrival(arrived);
  if (__shfl_sync(~0u, before, 0) < parts - 1)
    return false;
  if (thread % 32 == 0)
    *arrived = 0; // for the next launch
  __syncwarp();
  rows = make_float4(-INFINITY, -INFINITY, 0.0f, 0.0f);
#pragma unroll 1
  for (int i = first; i < first + parts; i++) {
    const float4 r = *at(i, Dim / 8);
    rows.x = fmaxf(rows.x, r.x);
    rows.y = fmaxf(rows.y, r.y);
  }
  // A row that saw nothing has base -inf and weight 0 where another part saw something of it, or none did.
  const float base0 = rows.x == -INFINITY ? 0.0f : rows.x * p.scale_log2;
  const float base1 = rows.y == -INFINITY ? 0.0f : rows.y * p.scale_log2;
#pragma unroll
  for (int j = 0; j < Dim / 2; j++)
    o[j] = 0.0f;
#pragma unroll 1
  for (int i = first; i < first + parts; i++) {
    const float4 r = *at(i, Dim / 8);
    const float weight0 = ptx::ex2(r.x * p.scale_log2 - base0), weight1 = ptx::ex2(r.y * p.scale_log2 - base1);
    rows.z += weight0 * r.z;
    rows.w += weight1 * r.w;
#pragma unroll
    for (int j = 0; j < Dim / 8; j++) {
      if (j % 8 == 0)
        __syncwarp(); // not more of them on their way at a time than there are registers
      const float4 v = *at(i, j);
      o[4 * j] += weight0 * v.x;
      o[4 * j + 1] += weight0 * v.y;
      o[4 * j + 2] += weight1 * v.z;
      o[4 * j + 3] += weight1 * v.w;
    }
  }
  return true;
}

} // namespace wgmma
#endif
