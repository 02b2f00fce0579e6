// vsa_triton.cu -- the Triton implementation of VSA as studied (study 5.1): lists of 64 x 64
// blocks, one a KV head, on mma.sync.
#include "mma/engine.h"

static const char *vsa_triton_supports(const struct attn_kernel *kernel,
                                       const struct attn_problem *p) {
  const char *why = mma_supports("blocklist", p);
  return why ? why : p->mask->block == 64 ? NULL : "VSA takes blocks of 64 x 64";
}
static int vsa_triton_prepare(struct attn_plan *plan) { return mma_prepare(plan, "blocklist"); }

extern "C" const struct attn_kernel attn_vsa_triton;
const struct attn_kernel attn_vsa_triton = {
    "vsa_triton",
    "blocklist",
    "mma",
    "VSA in Triton: lists of 64 x 64 blocks",
    ATTN_DEVICE,
    80,
    vsa_triton_supports,
    vsa_triton_prepare,
    mma_forward,
    mma_backward,
    mma_release,
};
