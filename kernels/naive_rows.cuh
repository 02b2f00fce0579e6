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
#include "ptx/math.cuh"

namespace naive {

constexpr int THREADS = 512; // of a block that takes rows of scores
constexpr int ROWS = 16;     // that a block of softmax takes one after the other

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

__device__ float block_sum(float x) {
  __shared__ float part[THREADS / 32];
  for (int lane = 16; lane; lane /= 2)
    x += __shfl_xor_sync(~0u, x, lane);
  __syncthreads(); // the last sum's readers are done
  if (threadIdx.x % 32 == 0)
    part[threadIdx.x / 32] = x;
  __syncthreads();
  x = 0;
  for (int i = 0; i < THREADS / 32; i++)
    x += part[i];
  return x;
}

// see: a byte a column
__device__ float4 masked(float4 s, uint32_t see, int k, int rows_k) {
  return make_float4(see & 0xff && k < rows_k ? s.x : -INFINITY,
                     see & 0xff00 && k + 1 < rows_k ? s.y : -INFINITY,
                     see & 0xff0000 && k + 2 < rows_k ? s.z : -INFINITY,
                     see & 0xff000000 && k + 3 < rows_k ? s.w : -INFINITY);
}
__device__ float4 masked(float4 s, const uint8_t *visible, int k, int rows_k) {
  return masked(s, visible ? *(const uint32_t *)(visible + k) : ~0u, k, rows_k);
}

__device__ void store4(bf16 *to, float4 x) {
  __nv_bfloat162 two[2] = {__floats2bfloat162_rn(x.x, x.y), __floats2bfloat162_rn(x.z, x.w)};
  __stcs((uint2 *)to, *(uint2 *)two); // read again only when all of it no longer fits L2
}

__device__ float largest(float4 s) { return fmaxf(fmaxf(s.x, s.y), fmaxf(s.z, s.w)); }
// 2^(c s - shift)
__device__ float4 powers(float4 s, float c, float shift) {
  return make_float4(ptx::ex2(fmaf(s.x, c, -shift)), ptx::ex2(fmaf(s.y, c, -shift)),
                     ptx::ex2(fmaf(s.z, c, -shift)), ptx::ex2(fmaf(s.w, c, -shift)));
}

// ROWS rows a block, of all heads' one after the other: scores become probabilities, in place. A row's
// first KEEP * 2048 columns stay in registers from the one read to the one write, and the next row is
// asked for before, so that reads are under way all the time; each score has one exponential. Columns
// beyond (of KEEP 8 alone) are read twice. Each warp's powers are taken against its own maximum: one barrier a row.
template<int KEEP>
__global__ void __launch_bounds__(THREADS, 8 / KEEP)
    softmax_rows(float *scores, const uint8_t *visible, float *lse, float scale_log2, int rows_k,
                 int64_t ld, int rows_q, int rows, int heads_a_mask) {
  constexpr int STEP = THREADS * 4, WARPS = THREADS / 32;
  const int longest = KEEP < 8 ? 0 : rows_k; // none beyond: no registers for them
  __shared__ float2 part[2][WARPS]; // {shift, sum of the powers} of a warp, by turns of the rows
  const int k0 = threadIdx.x * 4, end = min((blockIdx.x + 1) * ROWS, rows);
  const auto seen_by = [&](int row) {
    const int head = row / rows_q;
    return visible ? visible + ((int64_t)(head / heads_a_mask) * rows_q + row - head * rows_q) * ld : nullptr;
  };
  float4 next[KEEP];
  uint32_t next_see[KEEP];
  const auto ask = [&](int row) {
    const float *from = scores + row * ld;
    const uint8_t *see = seen_by(row);
#pragma unroll
    for (int i = 0; i < KEEP; i++) {
      const int k = i * STEP + k0;
      if (k < rows_k) {
        next[i] = __ldcs((const float4 *)(from + k));
        next_see[i] = see ? *(const uint32_t *)(see + k) : ~0u;
      }
    }
  };
  ask(blockIdx.x * ROWS);
  for (int r = blockIdx.x * ROWS; r < end; r++) {
    float *row = scores + r * ld;
    const uint8_t *see = seen_by(r);
    float top = -INFINITY, sum = 0; // of this thread's columns
    for (int k = KEEP * STEP + k0; k < longest; k += STEP) {
      const float4 s = masked(*(float4 *)(row + k), see, k, rows_k);
      const float before = top;
      top = fmaxf(top, largest(s));
      if (top > before)
        sum *= ptx::ex2((before - top) * scale_log2);
      const float4 p = powers(s, scale_log2, top > -INFINITY ? top * scale_log2 : 0);
      sum += p.x + p.y + p.z + p.w;
    }
    const float beyond = top;
    float4 kept[KEEP];
#pragma unroll
    for (int i = 0; i < KEEP; i++) {
      kept[i] = masked(next[i], next_see[i], i * STEP + k0, rows_k);
      top = fmaxf(top, largest(kept[i]));
    }
    if (r + 1 < end)
      ask(r + 1);
    for (int lane = 16; lane; lane /= 2)
      top = fmaxf(top, __shfl_xor_sync(~0u, top, lane));
    const float shift = top > -INFINITY ? top * scale_log2 : 0;
    if (beyond > -INFINITY)
      sum *= ptx::ex2(beyond * scale_log2 - shift);
#pragma unroll
    for (int i = 0; i < KEEP; i++) {
      kept[i] = powers(kept[i], scale_log2, shift);
      sum += kept[i].x + kept[i].y + kept[i].z + kept[i].w;
    }
    for (int lane = 16; lane; lane /= 2)
      sum += __shfl_xor_sync(~0u, sum, lane);
    if (threadIdx.x % 32 == 0)
      part[r % 2][threadIdx.x / 32] = make_float2(top * scale_log2, sum);
    __syncthreads(); // and all have read what is overwritten below
    const float2 one = part[r % 2][threadIdx.x % WARPS];
    float all = one.x;
    for (int lane = WARPS / 2; lane; lane /= 2)
      all = fmaxf(all, __shfl_xor_sync(~0u, all, lane));
    const float all_shift = all > -INFINITY ? all : 0;
    sum = one.y * ptx::ex2(one.x - all_shift);
    for (int lane = WARPS / 2; lane; lane /= 2)
      sum += __shfl_xor_sync(~0u, sum, lane);
    const float norm = sum > 0 ? 1 / sum : 0, own = ptx::ex2(top * scale_log2 - all_shift) * norm;
    if (threadIdx.x == 0)
      lse[r] = sum > 0 ? (all + log2f(sum)) * 0.6931471805599453f : -INFINITY;
#pragma unroll
    for (int i = 0; i < KEEP; i++) {
      const int k = i * STEP + k0;
      if (k < ld)
        store4((bf16 *)row + k,
               make_float4(kept[i].x * own, kept[i].y * own, kept[i].z * own, kept[i].w * own));
    }
    // Writes trail reads: a step's bytes lie in what is read already.
    for (int at = KEEP * STEP; at < longest; at += STEP) {
      const int k = at + k0;
      float4 p = make_float4(0, 0, 0, 0);
      if (k < ld) {
        p = powers(masked(*(float4 *)(row + k), see, k, rows_k), scale_log2, all_shift);
        p = make_float4(p.x * norm, p.y * norm, p.z * norm, p.w * norm);
      }
      __syncthreads();
      if (k < ld)
        store4((bf16 *)row + k, p);
    }
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
  delta = block_sum(delta);
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
