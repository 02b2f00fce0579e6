// vsa.cu -- Video Sparse Attention as studied (study 5.1): lists of 64 x 64 blocks, one a KV head, on
// wgmma. The original has no GQA; here a group's query heads share their KV head's lists.
#include "wgmma/engine.h"

static const char *vsa_supports(const struct attn_kernel *kernel, const struct attn_problem *p) {
  const char *why = wgmma_supports("blocklist", p);
  return why ? why : p->mask->block == 64 ? NULL : "VSA takes blocks of 64 x 64";
}
static int vsa_prepare(struct attn_plan *plan) { return wgmma_prepare(plan, "blocklist"); }

extern "C" const struct attn_kernel attn_vsa;
const struct attn_kernel attn_vsa = {
    "vsa",         "blocklist",
    "wgmma",       "VSA: lists of 64 x 64 blocks",
    ATTN_DEVICE,   90,
    vsa_supports,  vsa_prepare,
    wgmma_forward, wgmma_backward,
    wgmma_release,
};
