// sdpa.cu -- PyTorch's scaled_dot_product_attention as studied (study 4): FULL and CAUSAL by flag,
// any other mask as an S x S boolean matrix in memory.
#include "mma/engine.h"

static const char *sdpa_rep(const struct attn_problem *p) {
  return p->mask->kind == MASK_FULL || p->mask->kind == MASK_CAUSAL ? "band" : "dense";
}
static const char *sdpa_supports(const struct attn_kernel *kernel, const struct attn_problem *p) {
  return mask_is_block_sparse(p->mask->kind) ? "SDPA is studied on the dense masks"
                                             : mma_supports(sdpa_rep(p), p);
}
static int sdpa_prepare(struct attn_plan *plan) {
  return mma_prepare(plan, sdpa_rep(&plan->problem));
}

extern "C" const struct attn_kernel attn_sdpa;
const struct attn_kernel attn_sdpa = {
    "sdpa",      "dense",      "mma",         "fused attention with a boolean mask in memory",
    ATTN_DEVICE, 80,           sdpa_supports, sdpa_prepare,
    mma_forward, mma_backward, mma_release,
};
