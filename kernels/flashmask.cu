// flashmask.cu -- FlashMask: masked row intervals a key (study 4). As studied it runs on mma.sync; its
// third version runs on wgmma.
#include "mma/engine.h"
#include "wgmma/engine.h"

static const char *flashmask_supports(const struct attn_kernel *kernel,
                                      const struct attn_problem *p) {
  return mma_supports("columns", p);
}
static int flashmask_prepare(struct attn_plan *plan) { return mma_prepare(plan, "columns"); }

extern "C" const struct attn_kernel attn_flashmask;
const struct attn_kernel attn_flashmask = {
    "flashmask",
    "columns",
    "mma",
    "FlashMask: masked row intervals a key",
    ATTN_DEVICE,
    80,
    flashmask_supports,
    flashmask_prepare,
    mma_forward,
    mma_backward,
    mma_release,
};

static const char *flashmask_v3_supports(const struct attn_kernel *kernel,
                                         const struct attn_problem *p) {
  return wgmma_supports("columns", p);
}
static int flashmask_v3_prepare(struct attn_plan *plan) { return wgmma_prepare(plan, "columns"); }

extern "C" const struct attn_kernel attn_flashmask_v3;
const struct attn_kernel attn_flashmask_v3 = {
    "flashmask_v3",
    "columns",
    "wgmma",
    "FlashMask 3: the same on wgmma",
    ATTN_DEVICE,
    90,
    flashmask_v3_supports,
    flashmask_v3_prepare,
    wgmma_forward,
    wgmma_backward,
    wgmma_release,
};
