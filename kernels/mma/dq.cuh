// dq.cuh -- the workspace in which backward sums dQ, and the pass that makes dQ of it.
//
// fp32 [heads_q, rows_q, DIM], unscaled: the rows of a tile follow each other, so that the copy
// engine adds a tile by one reduction. Chunks of 8 columns of a row are swizzled as the tile is in
// shared memory, where the four rows that are stored at once fall into different banks.
#ifndef LONGCA_MMA_DQ_CUH
#define LONGCA_MMA_DQ_CUH

#include "../gpu.cuh"
#include "../ptx/math.cuh"

namespace mma {

// Where columns 8 c, ..., 8 c + 7 of a row lie, in chunks of 8.
__device__ __forceinline__ int dq_chunk(int row, int c) { return c ^ (row & 3); }

// A chunk a thread: dq = scale * sums in bf16, or dq_acc += scale * sums.
template<int DIM>
static __global__ void finish_dq(const float4 *sums, uint4 *dq, float4 *dq_acc, float scale,
                                 int rows, int heads) {
  constexpr int CHUNKS = DIM / 8;
  const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x, pair = i / CHUNKS;
  const int row = (int)(pair % rows), head = (int)(pair / rows), chunk = (int)(i % CHUNKS);
  if (head >= heads)
    return;
  const int64_t from = pair * CHUNKS + dq_chunk(row, chunk),
                to = ((int64_t)row * heads + head) * CHUNKS + chunk;
  const float4 x = sums[from * 2], y = sums[from * 2 + 1];
  if (dq_acc) {
    float4 &a = dq_acc[to * 2], &b = dq_acc[to * 2 + 1];
    a = make_float4(a.x + scale * x.x, a.y + scale * x.y, a.z + scale * x.z, a.w + scale * x.w);
    b = make_float4(b.x + scale * y.x, b.y + scale * y.y, b.z + scale * y.z, b.w + scale * y.w);
  } else {
    dq[to] = make_uint4(ptx::pack_bf16(scale * x.x, scale * x.y),
                        ptx::pack_bf16(scale * x.z, scale * x.w),
                        ptx::pack_bf16(scale * y.x, scale * y.y),
                        ptx::pack_bf16(scale * y.z, scale * y.w));
  }
}

} // namespace mma
#endif
