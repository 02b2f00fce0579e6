// row_bits.cuh -- what a partial tile shows of itself to the threads that hold its accumulators, in wgmma's layout.
//
// A thread holds two rows, 8 apart, and of every 8 columns two (ptx/wgmma.cuh). Of each row it has a word of
// bits: bit 2 j + e stands for column 8 j + 2 (t % 4) + e, accumulator elements 4 j + e and 4 j + 2 + e.
// Constant bit tests take what is not seen away. Backward's tiles are transposed (rows are keys, 64 queries the
// columns), and the two halves of one word are its rows' bits.
#ifndef LONGCA_WGMMA_ROW_BITS_CUH
#define LONGCA_WGMMA_ROW_BITS_CUH

namespace wgmma {

struct row_bits {
  uint32_t top, bottom; // of the thread's two rows
};

// Bits of the columns below `limit`, which counts from the tile's first column.
static __device__ __forceinline__ uint32_t bits_below(int limit) {
  const int c = limit - 2 * static_cast<int>(threadIdx.x % 4);
  const int n = c <= 0 ? 0 : 2 * (c >> 3) + min(c & 7, 2);
  return n < 32 ? (1u << n) - 1 : ~0u;
}
static __device__ __forceinline__ uint32_t bits_between(int begin, int end) {
  return bits_below(end) & ~bits_below(begin);
}

// Scores of what is not seen become -inf.
template <int Keys>
static __device__ __forceinline__ void hide(float (&s)[Keys / 2], const row_bits &seen) {
#pragma unroll
  for (int i = 0; i < Keys / 2; i++)
    if (!((i & 2 ? seen.bottom : seen.top) >> (i / 4 * 2 + (i & 1)) & 1))
      s[i] = -INFINITY;
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
