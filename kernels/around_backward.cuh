// around_backward.cuh -- the small passes that both engines' backward needs around its main kernel:
// before it D = rowsum(dO O) and LSE in log2 units, after it fp32 sums rounded to bf16.
#ifndef LONGCA_AROUND_BACKWARD_CUH
#define LONGCA_AROUND_BACKWARD_CUH

#include <math.h>

#include "gpu.cuh"
#include "ptx/math.cuh"

constexpr int QUERY_TILE = 64;

namespace around_backward {

enum { ROWS = 8 }; // of a block, all heads: what it writes of a head is one sector

// 16 bytes of O and dO a thread, DIM / 8 threads a (row of the output, head). Where dQ is summed up in fp32,
// those sums are set to 0 on the way: they are as many elements as the output has rows times heads times DIM.
template <int DIM>
static __global__ void __launch_bounds__(256) before(const uint4 *o, const uint4 *d_o, const float *lse,
                                                     float *lse2, float *delta, float4 *zero, int rows, int heads,
                                                     const int2 *tiles, int rows_out) {
  constexpr int lanes = DIM / 8, pairs = 256 / lanes; // (row, head) pairs at a time
  extern __shared__ float sums[];                     // [ROWS][heads]
  const int lane = threadIdx.x % lanes, out = blockIdx.x * ROWS, count = ROWS * heads;
  int row = out, exist = min(ROWS, rows - out); // the rows read; of a tile, ROWS of QUERY_TILE
  if (tiles) {
    const int2 tile = __ldg(tiles + out / QUERY_TILE); // first row, rows
    row = tile.x + out % QUERY_TILE;
    exist = min(ROWS, tile.y - out % QUERY_TILE);
  }
#pragma unroll 4
  for (int pair = threadIdx.x / lanes; pair < count; pair += pairs) {
    float sum = 0;
    if (pair < exist * heads) {
      const int64_t at = ((int64_t)row * heads + pair) * lanes + lane;
      const uint4 x = __ldg(o + at), y = __ldg(d_o + at);
      const uint32_t u[4] = {x.x, x.y, x.z, x.w}, w[4] = {y.x, y.y, y.z, y.w};
#pragma unroll
      for (int e = 0; e < 4; e++)
        sum += __uint_as_float(u[e] << 16) * __uint_as_float(w[e] << 16) +
               __uint_as_float(u[e] & 0xffff0000) * __uint_as_float(w[e] & 0xffff0000);
    }
    if (zero) {
      float4 *const here = zero + ((int64_t)out * heads + pair) * (2 * lanes) + lane;
      here[0] = here[lanes] = make_float4(0, 0, 0, 0);
    }
#pragma unroll
    for (int step = lanes / 2; step; step /= 2)
      sum += __shfl_xor_sync(~0u, sum, step, lanes);
    if (lane == 0)
      sums[pair] = sum;
  }
  __syncthreads();
  for (int i = threadIdx.x; i < count; i += blockDim.x) {
    const int head = i / ROWS, r = i % ROWS;
    if (out + r >= rows_out)
      continue;
    const float l = r < exist ? lse[(int64_t)head * rows + row + r] : -INFINITY;
    const int64_t to = (int64_t)head * rows_out + out + r;
    delta[to] = sums[r * heads + head];
    lse2[to] = l == -INFINITY ? INFINITY : l * 1.4426950408889634f;
  }
}

static __global__ void to_bf16(const float4 *in, uint2 *out, int64_t n4) {
  const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n4) {
    const float4 x = in[i];
    out[i] = make_uint2(ptx::pack_bf16(x.x, x.y), ptx::pack_bf16(x.z, x.w));
  }
}

} // namespace around_backward

// delta and lse2 [heads_q, rows_out] from o, d_o and lse of the call: row by row, or for each of `tiles`,
// {first row, rows}, QUERY_TILE rows. lse2 is +inf for rows that saw no key, and for those that a tile does not have,
// so that their P is 0. Sets dq_acc [rows_out * heads_q * dim] to 0, unless it is NULL: rows_out is then a multiple
// of 8. 0, or -1 with attn_error() set.
static inline int before_backward(const attn_problem *p, const attn_args *a, float *lse2, float *delta,
                                  int rows_out, const int2 *tiles = nullptr, float *dq_acc = nullptr) {
  using namespace around_backward;
  const auto kernel = p->dim == 64 ? before<64> : before<128>;
  kernel<<<(unsigned)((rows_out + ROWS - 1) / ROWS), 256, ROWS * p->heads_q * sizeof(float),
           (cudaStream_t)a->stream>>>((const uint4 *)a->o, (const uint4 *)a->d_o, a->lse, lse2, delta,
                                      (float4 *)dq_acc, p->rows_q, p->heads_q, tiles, rows_out);
  GPU_LAUNCHED("before backward");
  return 0;
}

// n elements, a multiple of 4: the head dimension is.
static inline int round_to_bf16(const float *in, void *out, int64_t n, void *stream) {
  around_backward::to_bf16<<<(unsigned)((n / 4 + 255) / 256), 256, 0, (cudaStream_t)stream>>>(
      (const float4 *)in, (uint2 *)out, n / 4);
  GPU_LAUNCHED("rounding gradients");
  return 0;
}

#endif
