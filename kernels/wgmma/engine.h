// engine.h -- the wgmma engine (sm_90a) as kernels/*.cu see it: prepare a plan for a representation, run.
//
// A representation is instantiated in kernels/wgmma/<rep>.cu by WGMMA_REP(rep) of launch.cuh and listed
// once in engine.cu. Any length, head dimensions 64 and 128, GQA, segments, continuation.
#ifndef LONGCA_WGMMA_ENGINE_H
#define LONGCA_WGMMA_ENGINE_H

#include "../attn.h"
#include "../rep_device.h"
#include "../worklist.h"
#include "split.h"

// First unmet condition of the engine, then of the representation; or NULL.
const char *wgmma_supports(const char *rep, const struct attn_problem *problem);
// 0, or -1 with attn_error() set.
int wgmma_prepare(struct attn_plan *plan, const char *rep);
int wgmma_forward(struct attn_plan *plan, const struct attn_args *args);
int wgmma_backward(struct attn_plan *plan, const struct attn_args *args);
void wgmma_release(struct attn_plan *plan);
// Kernels compiled at run time (fwd_kernel and backward_kernel over a struct that begins as the
// representation's) take the place of its own in a prepared plan.
void wgmma_use(struct attn_plan *plan, const void *forward, const void *backward);

// ---- between engine.cu and the instantiations

struct wgmma_rep {
  const char *name;
  int (*forward)(const struct attn_problem *p, const struct attn_args *a, const void *rep,
                 const struct worklist_view *list, const struct split_view *split,
                 const void *kernel); // NULL: its own
};

// Tiles of the forward pass.
enum { WGMMA_FWD_QUERIES = 128, WGMMA_FWD_KEYS = 128 };

#endif
