// backward_engine.h -- host side of the wgmma engine's backward, for engine.cu.
#ifndef LONGCA_WGMMA_BACKWARD_ENGINE_H
#define LONGCA_WGMMA_BACKWARD_ENGINE_H

#include "../gpu.cuh"
#include "../rep_device.h"
#include "../worklist.h"
#include "tile_bits.h"

struct wgmma_backward_state {
  gpu_memory memory; // scratch
  gpu_memory own;    // what is not shared between plans: tiles, order of deterministic sums
  worklist queries;  // items of 128 keys, runs of 64-query tiles
  tile_bits bits;    // what the partial ones show
  int2 *tile_rows;   // of bwd_params, as the next three
  int tiles, loop, section;
  int before;          // of balance.h: loops whose items are all whole; then the tail:
  worklist_item *tail; // of bwd_params, with items that have no tiles, and without
  // bits.view.first of the list's runs and, behind them, of the tail's. NULL: no such runs, or no bits.
  int32_t *tail_first;
  int tail_count, tail_seen;
  bool by_slot;    // sums are of items in parts alone
  int slots;       // such items, of which
  int4 *slot_rows; // {first local row, rows, KV head}
  bool gaps;       // some query rows are in no segment
  float *lse2, *delta, *dq_acc, *dk_acc, *dv_acc;
  int32_t *turns; // deterministic, as the next three; else NULL
  int32_t *sum_turns;
  uint32_t *visits;
  int visit_words;
  int32_t *at_tile; // of bwd_params
  ~wgmma_backward_state() {
    worklist_free(&queries);
    tile_bits_free(&bits);
  }
};

// Of prepare: loops, sections, the tail.
int wgmma_backward_ctas(wgmma_backward_state *s, struct attn_plan *plan);
// bits_kernel as for tile_bits_build(). 0, or -1 with attn_error() set. Memory goes to plan->prep_bytes and
// plan->workspace_bytes.
int wgmma_backward_prepare(wgmma_backward_state *s, const rep_device *rep, struct attn_plan *plan,
                           const void *bits_kernel);
int wgmma_backward_run(const wgmma_backward_state *s, const struct attn_plan *plan,
                       const struct attn_args *a);
// The kernel between the passes before and after (backward.cu).
int wgmma_backward_launch(const wgmma_backward_state *s, const struct attn_problem *p,
                          const struct attn_args *a);

#endif
