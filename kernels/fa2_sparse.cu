// fa2_sparse.cu -- block-sparse FlashAttention 2 as studied (study 5.1): lists of 128 x 128 blocks,
// one a KV head, on mma.sync.
#include "mma/engine.h"

static const char *fa2_sparse_supports(const struct attn_kernel *kernel,
                                       const struct attn_problem *p) {
  const char *why = mma_supports("blocklist", p);
  return why ? why : p->mask->block == 128 ? NULL : "FA2 Sparse takes blocks of 128 x 128";
}
static int fa2_sparse_prepare(struct attn_plan *plan) { return mma_prepare(plan, "blocklist"); }

extern "C" const struct attn_kernel attn_fa2_sparse;
const struct attn_kernel attn_fa2_sparse = {
    "fa2_sparse",
    "blocklist",
    "mma",
    "block-sparse FA2: lists of 128 x 128 blocks",
    ATTN_DEVICE,
    80,
    fa2_sparse_supports,
    fa2_sparse_prepare,
    mma_forward,
    mma_backward,
    mma_release,
};
