// forward_softmax.cuh -- softmax of the forward kernel, on the scores that a thread holds of two rows.
//
// The usual step looks for no maximum: P = 2^(S - base) with the base of the row's first tile, since fp32
// and bf16 share an exponent range and only the ratio to the row's sum matters. Where a sum passes 2^60 the
// consumer takes S again and finds the base anew (kernels/wgmma/README.md).
#ifndef LONGCA_WGMMA_FORWARD_SOFTMAX_CUH
#define LONGCA_WGMMA_FORWARD_SOFTMAX_CUH

#include "../ptx/math.cuh"
#include "forward_shared.cuh"

namespace wgmma {

template <int Dim> struct fwd_softmax {
  static constexpr int NS = FWD_KEYS / 2, NO = Dim / 2;
  const fwd_params &p;
  float sc[NS], o[NO];       // S, then P; and O: accumulators of 64 rows (ptx/wgmma.cuh)
  uint32_t pr[FWD_KEYS / 4]; // P as bf16 pairs
  float max0, max1;          // a score near the running maximum of each of this thread's two rows
  float sum0, sum1;          // this thread's part of the rows' sums
  float shrink0, shrink1;    // what find_base() multiplied the sums by, and rescale() will O

  // What is subtracted in the exponent, in log2 units. A row that saw nothing yet has 0.
  __device__ __forceinline__ float base(float maximum) const {
    return maximum == -INFINITY ? 0.0f : maximum * p.scale_log2;
  }

  // Sets the rows' bases from the scores of this step: exactly at a tile's first step, later only when
  // a maximum grew by more than 2^8, so that O is hardly ever rescaled. Sums and, by the caller, O
  // shrink with the base.
  __device__ __forceinline__ void find_base(bool first) {
    float new0 = sc[0], new1 = sc[2];
#pragma unroll
    for (int i = 0; i < NS; i += 4) {
      new0 = fmaxf(new0, fmaxf(sc[i], sc[i + 1]));
      new1 = fmaxf(new1, fmaxf(sc[i + 2], sc[i + 3]));
    }
#pragma unroll
    for (int lane = 1; lane <= 2; lane *= 2) {
      new0 = fmaxf(new0, __shfl_xor_sync(~0u, new0, lane));
      new1 = fmaxf(new1, __shfl_xor_sync(~0u, new1, lane));
    }
    const float old0 = first ? -INFINITY : max0, old1 = first ? -INFINITY : max1;
    max0 = (new0 - old0) * p.scale_log2 > 8 ? new0 : old0;
    max1 = (new1 - old1) * p.scale_log2 > 8 ? new1 : old1;
    shrink0 = ptx::ex2(old0 * p.scale_log2 - base(max0));
    shrink1 = ptx::ex2(old1 * p.scale_log2 - base(max1));
    sum0 = first ? 0.0f : sum0 * shrink0;
    sum1 = first ? 0.0f : sum1 * shrink1;
  }

  // Scores to probabilities in place, of accumulator elements [Begin, End).
  template <int Begin, int End>
  __device__ __forceinline__ void exponentials(float &add0, float &add1) {
    const float base0 = base(max0), base1 = base(max1);
#pragma unroll
    for (int i = Begin; i < End; i += 4) {
      sc[i] = ptx::ex2(fmaf(sc[i], p.scale_log2, -base0));
      sc[i + 1] = ptx::ex2(fmaf(sc[i + 1], p.scale_log2, -base0));
      sc[i + 2] = ptx::ex2(fmaf(sc[i + 2], p.scale_log2, -base1));
      sc[i + 3] = ptx::ex2(fmaf(sc[i + 3], p.scale_log2, -base1));
      add0 += sc[i] + sc[i + 1];
      add1 += sc[i + 2] + sc[i + 3];
    }
  }

  __device__ __forceinline__ void pack() {
#pragma unroll
    for (int i = 0; i < FWD_KEYS / 4; i++)
      pr[i] = ptx::pack_bf16(sc[2 * i], sc[2 * i + 1]);
  }

  __device__ __forceinline__ void rescale() {
    if (!__any_sync(~0u, shrink0 != 1.0f || shrink1 != 1.0f))
      return;
#pragma unroll
    for (int i = 0; i < NO; i += 4) {
      o[i] *= shrink0;
      o[i + 1] *= shrink0;
      o[i + 2] *= shrink1;
      o[i + 3] *= shrink1;
    }
  }
};

} // namespace wgmma
#endif
