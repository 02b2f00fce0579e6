// dense.cu -- the mma engine over the S x S boolean mask: a row's keys in a tile are one 64-bit word.
#include "../rep/dense.h"
#include "launch.cuh"

template <> struct mma::row_view<dense> {
  uint64_t word;
  int first;
  __device__ row_view(const dense &rep, int head, int q, int k, int end) : word(0), first(k) {
    if (k < end)
      dense_row_bits(&rep, head, q, k, min(64, end - k), &word);
  }
  __device__ bool sees(int k) const { return word >> (k - first) & 1; }
};

MMA_REP(dense)
