// fa3.cu -- FlashAttention 3 as studied (study 4): causal flag, window and documents, on wgmma.
#include "wgmma/engine.h"

static const char *fa3_supports(const struct attn_kernel *kernel, const struct attn_problem *p) {
  return wgmma_supports("band", p);
}
static int fa3_prepare(struct attn_plan *plan) { return wgmma_prepare(plan, "band"); }

extern "C" const struct attn_kernel attn_fa3;
const struct attn_kernel attn_fa3 = {
    "fa3",         "band",
    "wgmma",       "FlashAttention 3: causal flag, window, documents",
    ATTN_DEVICE,   90,
    fa3_supports,  fa3_prepare,
    wgmma_forward, wgmma_backward,
    wgmma_release,
};
