// spans.cu -- ours: runs of rows that see one or two intervals of keys (rep/spans.h), on wgmma. All masks
// but the block-sparse ones, in 24 bytes a run: the paper's open question of a compact representation.
#include "wgmma/engine.h"

static const char *spans_supports(const struct attn_kernel *kernel, const struct attn_problem *p) {
  return wgmma_supports("spans", p);
}
static int spans_prepare(struct attn_plan *plan) { return wgmma_prepare(plan, "spans"); }

extern "C" const struct attn_kernel attn_spans;
const struct attn_kernel attn_spans = {
    "spans",        "spans",
    "wgmma",        "ours: row intervals that stand still or move with the row",
    ATTN_DEVICE,    90,
    spans_supports, spans_prepare,
    wgmma_forward,  wgmma_backward,
    wgmma_release,
};
