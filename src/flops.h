// flops.h -- work of attention (study 3.1): two products of 2 dim FLOP a visible pair and query head
// forward; five backward, the recomputed Q K^T among them. Softmax and padding do not count.
#ifndef LONGCA_FLOPS_H
#define LONGCA_FLOPS_H

#include "../kernels/attn.h"

#define FLOPS_BWD_OVER_FWD 2.5

// area: visible pairs a head (mask_area: the true one; S^2 ratio: the study's nominal one).
static inline double flops_attention(double area, int32_t heads_q, int32_t dim,
                                     enum attn_pass pass) {
  return 4 * area * heads_q * dim * (pass == ATTN_BWD ? FLOPS_BWD_OVER_FWD : 1);
}

#endif
