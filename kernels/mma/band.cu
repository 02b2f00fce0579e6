// band.cu -- the mma engine over the band representation: a row's keys are one interval.
#include "../rep/band.h"
#include "launch.cuh"

template<> struct mma::row_view<band> {
  int lo, hi;
  __device__ row_view(const band &rep, int head, int q, int first, int end) {
    band_row(&rep, q, &lo, &hi);
    hi = min(hi, end);
  }
  __device__ bool sees(int k) const { return (k >= lo) & (k < hi); }
};

MMA_REP(band)
