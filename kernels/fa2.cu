// fa2.cu -- FlashAttention 2 as studied (study 4): causal flag, window and documents, on mma.sync.
#include "mma/engine.h"

static const char *fa2_supports(const struct attn_kernel *kernel, const struct attn_problem *p) {
  return mma_supports("band", p);
}
static int fa2_prepare(struct attn_plan *plan) { return mma_prepare(plan, "band"); }

extern "C" const struct attn_kernel attn_fa2;
const struct attn_kernel attn_fa2 = {
    "fa2",       "band",       "mma",        "FlashAttention 2: causal flag, window, documents",
    ATTN_DEVICE, 80,           fa2_supports, fa2_prepare,
    mma_forward, mma_backward, mma_release,
};
