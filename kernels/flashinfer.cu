// flashinfer.cu -- FlashInfer's variable block-sparse attention as studied (study 5.2): row and column
// sizes of every KV head, and which blocks are kept, on wgmma. The original has no backward.
#include "wgmma/engine.h"

static const char *flashinfer_supports(const struct attn_kernel *kernel,
                                       const struct attn_problem *p) {
  return wgmma_supports("varblock", p);
}
static int flashinfer_prepare(struct attn_plan *plan) { return wgmma_prepare(plan, "varblock"); }

extern "C" const struct attn_kernel attn_flashinfer;
const struct attn_kernel attn_flashinfer = {
    "flashinfer",
    "varblock",
    "wgmma",
    "FlashInfer: blocks of any size, a grid a KV head",
    ATTN_DEVICE,
    90,
    flashinfer_supports,
    flashinfer_prepare,
    wgmma_forward,
    wgmma_backward,
    wgmma_release,
};
