// forward_epilogue.cuh -- a finished query tile of the forward kernel: O / sum and LSE from accumulators to
// memory, as bf16, or as fp32 merged with what memory holds (a ring's next part, attn.h).
#ifndef LONGCA_WGMMA_FORWARD_EPILOGUE_CUH
#define LONGCA_WGMMA_FORWARD_EPILOGUE_CUH

#include "../ptx/math.cuh"
#include "forward_shared.cuh"

namespace wgmma {

// A row of O: 4 x 4 transposes in a quad make 16-byte stores. half: 0, or 2 for the row 8 below.
template <int Dim>
static __device__ __forceinline__ void store_row(uint16_t *row, const float (&o)[Dim / 2], int half,
                                                 float scale, bool valid) {
  const int t = threadIdx.x % 4;
#pragma unroll
  for (int g = 0; g < Dim / 32; g++) {
    uint32_t w[4];
#pragma unroll
    for (int i = 0; i < 4; i++)
      w[i] = ptx::pack_bf16(o[4 * (4 * g + i) + half] * scale, o[4 * (4 * g + i) + half + 1] * scale);
#pragma unroll
    for (int bit = 1; bit <= 2; bit *= 2)
#pragma unroll
      for (int i = 0; i < 4; i++)
        if (!(i & bit)) {
          const uint32_t got = __shfl_xor_sync(~0u, t & bit ? w[i] : w[i | bit], bit);
          if (t & bit)
            w[i] = got;
          else
            w[i | bit] = got;
        }
    if (valid)
      *reinterpret_cast<uint4 *>(row + 8 * (4 * g + t)) = make_uint4(w[0], w[1], w[2], w[3]);
  }
}

struct fwd_row {
  int row, head; // of O
  bool valid;    // whether it exists
};

// One row: O / sum and its LSE; with resume, merged with what memory holds. `sum` is this thread's part.
// Called by whole warps.
template <int Dim>
static __device__ __forceinline__ void write_row(const fwd_params &p, const fwd_row &to,
                                                 const float (&o)[Dim / 2], int half, float maximum,
                                                 float sum) {
  sum += __shfl_xor_sync(~0u, sum, 1);
  sum += __shfl_xor_sync(~0u, sum, 2);
  const bool valid = to.valid;
  const int64_t at = ((int64_t)to.row * p.heads + to.head) * Dim;
  float *lse_at = p.lse + (int64_t)to.head * p.rows + to.row;
  float lse = sum > 0.0f ? maximum * p.scale + ptx::lg2(sum) * 0.69314718f : -INFINITY;
  float scale = sum > 0.0f ? 1.0f / sum : 0.0f;
  const float before = p.resume && valid ? *lse_at : -INFINITY;
  __syncwarp(); // the quad has read it before one of it writes
  if (!p.o_acc) {
    store_row<Dim>(static_cast<uint16_t *>(p.o) + at, o, half, scale, valid);
  } else if (valid) {
    float keep = 0.0f;
    if (before > -INFINITY) {
      const float top = fmaxf(before, lse);
      const float both = top + __logf(__expf(before - top) + __expf(lse - top));
      keep = __expf(before - both);
      scale *= __expf(lse - both);
      lse = both;
    }
    float *acc = p.o_acc + at + 2 * (threadIdx.x % 4);
#pragma unroll
    for (int j = 0; j < Dim / 8; j++) {
      float2 *dst = reinterpret_cast<float2 *>(acc + 8 * j);
      float2 v = make_float2(o[4 * j + half] * scale, o[4 * j + half + 1] * scale);
      if (p.resume) {
        const float2 was = *dst;
        v.x += keep * was.x;
        v.y += keep * was.y;
      }
      *dst = v;
    }
  }
  if (valid && threadIdx.x % 4 == 0)
    *lse_at = lse;
}

} // namespace wgmma
#endif
