// forward_epilogue.cuh -- a finished query tile of the forward kernel: O / sum and LSE from accumulators to
// memory. The usual one goes as bf16 to where its Q was, from where the copy engine takes it. Others are written
// from registers: as bf16, or as fp32 for a ring's next part (attn.h); merged with what the part before left there.
#ifndef LONGCA_WGMMA_FORWARD_EPILOGUE_CUH
#define LONGCA_WGMMA_FORWARD_EPILOGUE_CUH

#include "../ptx/bulk.cuh"
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

// A warp's 16 rows of O into a tile in shared memory that is laid out as Q. Of each block of 16 rows and columns
// lane l gives the address of row l % 16, columns 8 (l / 16) to 8 (l / 16) + 7.
template <int Dim>
static __device__ __forceinline__ void place_rows(uint16_t *rows, const float (&o)[Dim / 2], float scale0,
                                                  float scale1) {
  const unsigned lane = ptx::thread_now() % 32u, octet = lane / 16 ^ lane % 8; // swizzled
  uint16_t *const row = rows + lane % 16 * 64;
#pragma unroll
  for (int i = 0; i < Dim / 16; i++)
    ptx::stmatrix_x4(row + i / 4 * FWD_ROWS * 64 + (octet ^ i % 4 * 2) * 8,
                     ptx::pack_bf16(o[8 * i] * scale0, o[8 * i + 1] * scale0),
                     ptx::pack_bf16(o[8 * i + 2] * scale1, o[8 * i + 3] * scale1),
                     ptx::pack_bf16(o[8 * i + 4] * scale0, o[8 * i + 5] * scale0),
                     ptx::pack_bf16(o[8 * i + 6] * scale1, o[8 * i + 7] * scale1));
}

struct fwd_row {
  int row, head; // of O
  bool valid;    // whether it exists
};

// What a row whose sum is known ends as: O times scale, and its LSE. One that saw no key has sum 0 and maximum
// -inf, and so has its LSE.
struct row_end {
  float scale, lse;
};
static __device__ __forceinline__ row_end end_of_row(const fwd_params &p, float maximum, float sum) {
  return {sum == 0.0f ? 0.0f : ptx::rcp(sum), fmaf(ptx::lg2(sum), 0.69314718f, maximum * p.scale)};
}

// One row: O / sum and its LSE; with resume, merged with what memory holds. Called by whole warps. What memory holds
// is asked for all at once: a warpgroup has a turn at the tensor cores to come back to, and one round trip to memory
// after the other would make it late. Gathering, rows have one owner.
template <int Dim, class Mask>
static __device__ __forceinline__ void write_row(const fwd_params &p, const fwd_row &to, float (&o)[Dim / 2],
                                                 int half, row_end end) {
  const bool valid = to.valid;
  const int64_t mine = ((int64_t)to.row * p.heads + to.head) * Dim + 2 * (threadIdx.x % 4);
  float *lse_at = p.lse + (int64_t)to.head * p.rows + to.row;
  float lse = end.lse, scale = end.scale;
  if (p.resume && valid) {
    const float before = *lse_at;
    float2 was[Dim / 8];
#pragma unroll
    for (int j = 0; j < Dim / 8; j++)
      was[j] = *reinterpret_cast<const float2 *>(p.o_acc + mine + 8 * j);
    float keep = 0.0f;
    if (before > -INFINITY) {
      const float top = fmaxf(before, lse);
      const float both = top + __logf(__expf(before - top) + __expf(lse - top));
      keep = __expf(before - both);
      scale *= __expf(lse - both);
      lse = both;
    }
#pragma unroll
    for (int j = 0; j < Dim / 8; j++) {
      o[4 * j + half] = o[4 * j + half] * scale + keep * was[j].x;
      o[4 * j + half + 1] = o[4 * j + half + 1] * scale + keep * was[j].y;
    }
    scale = 1.0f;
  }
  __syncwarp(); // the quad has read LSE before one of it writes
  if (p.o[0]) {
    const fwd_owner at = fwd_shape<Mask>::Pieces ? fwd_owner{0, to.row} : owner_of(p, valid ? to.row : 0);
    const int64_t first = ((int64_t)at.row * p.owner_heads + to.head) * Dim;
    store_row<Dim>(static_cast<uint16_t *>(p.o[at.owner]) + first, o, half, scale, valid);
  } else if (valid) {
#pragma unroll
    for (int j = 0; j < Dim / 8; j++)
      *reinterpret_cast<float2 *>(p.o_acc + mine + 8 * j) =
          make_float2(o[4 * j + half] * scale, o[4 * j + half + 1] * scale);
  }
  if (valid && threadIdx.x % 4 == 0)
    *lse_at = lse;
}

} // namespace wgmma
#endif
