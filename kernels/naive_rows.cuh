// naive_rows.cuh -- the passes of the naive kernel that are not products: the boolean mask, KV heads
// repeated and summed, the masked softmax and its backward, a block of threads a row (study 4).
//
// A row of fp32 scores is overwritten by its bf16 probabilities in the first half of the same row, so
// that forward needs one score matrix and backward two (P over S, dS over dP).
//   scores, d_scores [heads_q, rows_q, ld] fp32; ld: rows_k rounded up, for 16-byte rows
//   visible [patterns, rows_q, ld], or NULL: all is visible; heads_a_mask = heads_q / patterns
#ifndef LONGCA_NAIVE_ROWS_CUH
#define LONGCA_NAIVE_ROWS_CUH

#include <math.h>

#include "gpu.cuh"

namespace naive {

constexpr int THREADS = 512; // of a block that takes a row of scores

__global__ void build_visible(struct mask mask, const int32_t *pos_q, const int32_t *pos_k,
                              int rows_k, int64_t ld, uint8_t *visible) {
  const int q = blockIdx.x, head = blockIdx.y;
  uint8_t *row = visible + ((int64_t)head * gridDim.x + q) * ld;
  for (int k = threadIdx.x; k < ld; k += blockDim.x)
    row[k] = k < rows_k && pos_q[q] >= 0 && pos_k[k] >= 0 &&
             mask_allows(&mask, head, pos_q[q], pos_k[k]);
}

// chunks: of 8 numbers, a head
__global__ void repeat_heads(const uint4 *in, uint4 *out, int heads_kv, int group, int chunks) {
  const int64_t row = blockIdx.x;
  for (int i = threadIdx.x; i < heads_kv * group * chunks; i += blockDim.x)
    out[row * heads_kv * group * chunks + i] =
        in[(row * heads_kv + i / chunks / group) * chunks + i % chunks];
}

// out [rows, heads_kv, dim] = sum over the group of in [rows, heads_kv * group, dim]
__global__ void sum_heads(const float *in, bf16 *out, int heads_kv, int group, int dim) {
  const int64_t row = blockIdx.x;
  for (int i = threadIdx.x; i < heads_kv * dim; i += blockDim.x) {
    float sum = 0;
    for (int g = 0; g < group; g++)
      sum += in[(row * heads_kv * group + i / dim * group + g) * dim + i % dim];
    out[row * heads_kv * dim + i] = __float2bfloat16(sum);
  }
}

struct reduce_max {
  static constexpr float zero = -INFINITY;
  __device__ static float of(float a, float b) { return fmaxf(a, b); }
};
struct reduce_sum {
  static constexpr float zero = 0;
  __device__ static float of(float a, float b) { return a + b; }
};

template<class Op> __device__ float block_reduce(float x) {
  __shared__ float part[THREADS / 32];
  for (int lane = 16; lane; lane /= 2)
    x = Op::of(x, __shfl_xor_sync(~0u, x, lane));
  __syncthreads(); // the last reduction's readers are done
  if (threadIdx.x % 32 == 0)
    part[threadIdx.x / 32] = x;
  __syncthreads();
  x = Op::zero;
  for (int i = 0; i < THREADS / 32; i++)
    x = Op::of(x, part[i]);
  return x;
}

__device__ float4 masked(float4 s, const uint8_t *visible, int k, int rows_k) {
  const uchar4 see = visible ? *(const uchar4 *)(visible + k) : make_uchar4(1, 1, 1, 1);
  return make_float4(
      see.x && k < rows_k ? s.x : -INFINITY, see.y && k + 1 < rows_k ? s.y : -INFINITY,
      see.z && k + 2 < rows_k ? s.z : -INFINITY, see.w && k + 3 < rows_k ? s.w : -INFINITY);
}

__device__ void store4(bf16 *to, float4 x) {
  __nv_bfloat162 two[2] = {__floats2bfloat162_rn(x.x, x.y), __floats2bfloat162_rn(x.z, x.w)};
  *(uint2 *)to = *(uint2 *)two;
}

// One block a row of one head. Scores (scaled here) become probabilities, in place. A row's first
// KEEP * 2048 columns stay in registers between the sum and the division by it: memory and L2
// deliver each of those scores once, and its exponential is taken once. Columns beyond: twice.
template<int KEEP>
__global__ void __launch_bounds__(THREADS)
    softmax_rows(float *scores, const uint8_t *visible, float *lse, float scale, int rows_k,
                 int64_t ld, int heads_a_mask) {
  constexpr int STEP = THREADS * 4;
  const int q = blockIdx.x, head = blockIdx.y, rows_q = gridDim.x;
  float *row = scores + ((int64_t)head * rows_q + q) * ld;
  const uint8_t *see =
      visible ? visible + ((int64_t)(head / heads_a_mask) * rows_q + q) * ld : nullptr;
  float max = -INFINITY, sum = 0;
  for (int k = KEEP * STEP + threadIdx.x * 4; k < rows_k; k += STEP) {
    const float4 s = masked(*(float4 *)(row + k), see, k, rows_k);
    const float top = fmaxf(fmaxf(s.x, s.y), fmaxf(s.z, s.w)) * scale;
    if (top > max) {
      sum *= __expf(max - top);
      max = top;
    }
    if (max > -INFINITY)
      sum += __expf(s.x * scale - max) + __expf(s.y * scale - max) + __expf(s.z * scale - max) +
             __expf(s.w * scale - max);
  }
  float4 kept[KEEP];
  float top = max;
#pragma unroll
  for (int i = 0; i < KEEP; i++) {
    const int k = i * STEP + threadIdx.x * 4;
    kept[i] = make_float4(-INFINITY, -INFINITY, -INFINITY, -INFINITY);
    if (k < rows_k)
      kept[i] = masked(*(float4 *)(row + k), see, k, rows_k);
    top = fmaxf(top, fmaxf(fmaxf(kept[i].x, kept[i].y), fmaxf(kept[i].z, kept[i].w)) * scale);
  }
  const float all = block_reduce<reduce_max>(top), shift = all > -INFINITY ? all : 0;
  sum = max > -INFINITY ? sum * __expf(max - shift) : 0;
#pragma unroll
  for (int i = 0; i < KEEP; i++) {
    kept[i] = make_float4(__expf(kept[i].x * scale - shift), __expf(kept[i].y * scale - shift),
                          __expf(kept[i].z * scale - shift), __expf(kept[i].w * scale - shift));
    sum += kept[i].x + kept[i].y + kept[i].z + kept[i].w;
  }
  sum = block_reduce<reduce_sum>(sum);
  const float norm = sum > 0 ? 1 / sum : 0;
  if (threadIdx.x == 0)
    lse[(int64_t)head * rows_q + q] = sum > 0 ? all + logf(sum) : -INFINITY;
  // All have read what these overwrite: the reductions are barriers.
#pragma unroll
  for (int i = 0; i < KEEP; i++) {
    const int k = i * STEP + threadIdx.x * 4;
    if (k < ld)
      store4((bf16 *)row + k, make_float4(kept[i].x * norm, kept[i].y * norm, kept[i].z * norm,
                                          kept[i].w * norm));
  }
  // Writes trail reads: a step's bytes lie in what is read already.
  for (int k0 = KEEP * STEP; k0 < ld; k0 += STEP) {
    const int k = k0 + threadIdx.x * 4;
    float4 p = make_float4(0, 0, 0, 0);
    if (k < ld) {
      const float4 s = masked(*(float4 *)(row + k), see, k, rows_k);
      p = make_float4(__expf(s.x * scale - shift) * norm, __expf(s.y * scale - shift) * norm,
                      __expf(s.z * scale - shift) * norm, __expf(s.w * scale - shift) * norm);
    }
    __syncthreads();
    if (k < ld)
      store4((bf16 *)row + k, p);
  }
}

// P = exp(scale * s - lse) and dS = scale * P * (dP - D), D = rowsum(dO * O); both in place.
__global__ void __launch_bounds__(THREADS)
    backward_rows(float *scores, float *d_scores, const uint8_t *visible, const float *lse,
                  const bf16 *o, const bf16 *d_o, float scale, int rows_k, int64_t ld,
                  int heads_a_mask, int dim) {
  const int q = blockIdx.x, head = blockIdx.y, rows_q = gridDim.x, heads = gridDim.y;
  const int64_t at = ((int64_t)head * rows_q + q) * ld;
  const uint8_t *see =
      visible ? visible + ((int64_t)(head / heads_a_mask) * rows_q + q) * ld : nullptr;
  const int64_t vec = ((int64_t)q * heads + head) * dim;
  float delta = 0;
  for (int i = threadIdx.x; i < dim; i += THREADS)
    delta += __bfloat162float(o[vec + i]) * __bfloat162float(d_o[vec + i]);
  delta = block_reduce<reduce_sum>(delta);
  float shift = lse[(int64_t)head * rows_q + q];
  if (shift == -INFINITY)
    shift = 0; // nothing is visible: exp(-inf - 0) = 0
  for (int k0 = 0; k0 < ld; k0 += THREADS * 4) {
    const int k = k0 + threadIdx.x * 4;
    float4 p = make_float4(0, 0, 0, 0), ds = p;
    if (k < ld) {
      const float4 s = masked(*(float4 *)(scores + at + k), see, k, rows_k);
      const float4 dp = *(float4 *)(d_scores + at + k);
      p = make_float4(__expf(s.x * scale - shift), __expf(s.y * scale - shift),
                      __expf(s.z * scale - shift), __expf(s.w * scale - shift));
      // dP of padding is whatever the allocation held: choose, do not multiply
      ds = make_float4(
          p.x > 0 ? p.x * (dp.x - delta) * scale : 0, p.y > 0 ? p.y * (dp.y - delta) * scale : 0,
          p.z > 0 ? p.z * (dp.z - delta) * scale : 0, p.w > 0 ? p.w * (dp.w - delta) * scale : 0);
    }
    __syncthreads();
    if (k < ld) {
      store4((bf16 *)(scores + at) + k, p);
      store4((bf16 *)(d_scores + at) + k, ds);
    }
  }
}

} // namespace naive

#endif
