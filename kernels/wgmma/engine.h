// engine.h -- the wgmma engine (sm_90a) as kernels/*.cu see it: prepare a plan for a representation, run.
//
// The attention kernels are the same for all representations: what partial tiles show is made in preparation, by a
// small kernel a representation and pass (tile_bits.h). Any length, head dimensions 64 and 128, GQA, segments,
// continuation.
#ifndef LONGCA_WGMMA_ENGINE_H
#define LONGCA_WGMMA_ENGINE_H

#include "../attn.h"
#include "../rep_device.h"
#include "../worklist.h"
#include "split.h"
#include "tile_bits.h"

// First unmet condition of the engine, then of the representation; or NULL.
const char *wgmma_supports(const char *rep, const struct attn_problem *problem);
// forward_bits, backward_bits: kernels compiled at run time that tile_bits_build() takes in place of the
// representation's own. 0, or -1 with attn_error() set.
int wgmma_prepare(struct attn_plan *plan, const char *rep, const void *forward_bits = NULL,
                  const void *backward_bits = NULL);
int wgmma_forward(struct attn_plan *plan, const struct attn_args *args);
int wgmma_backward(struct attn_plan *plan, const struct attn_args *args);
void wgmma_release(struct attn_plan *plan);

// ---- between engine.cu and forward.cu

int whole_forward(const struct attn_problem *p, const struct attn_args *a,
                  const struct worklist_view *list, const struct split_view *split,
                  const struct tile_bits_view *bits);

// Tiles of the forward pass.
enum { WGMMA_FWD_QUERIES = 128, WGMMA_FWD_KEYS = 128 };

#endif
