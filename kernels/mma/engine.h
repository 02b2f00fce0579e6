// engine.h -- the mma engine as kernels/*.cu see it: prepare a plan for a representation, then run
// it.
//
// A representation is instantiated in kernels/mma/<rep>.cu by MMA_REP(rep) of launch.cuh and listed
// once in engine.cu. Any length, head dimensions 64 and 128, GQA, segments, continuation and
// accumulation.
#ifndef LONGCA_MMA_ENGINE_H
#define LONGCA_MMA_ENGINE_H

#include <math.h>

#include "../attn.h"
#include "../rep_device.h"
#include "../worklist.h"

// First unmet condition of the engine, then of the representation; or NULL.
const char *mma_supports(const char *rep, const struct attn_problem *problem);
// 0, or -1 with attn_error() set.
int mma_prepare(struct attn_plan *plan, const char *rep);
int mma_forward(struct attn_plan *plan, const struct attn_args *args);
int mma_backward(struct attn_plan *plan, const struct attn_args *args);
void mma_release(struct attn_plan *plan);

// ---- between engine.cu and the instantiations

// What a CTA of backward does of an item (pieces.cuh): steps begin, ..., of its tiles for one head of
// the group after the other; -1: all.
struct mma_piece {
  int32_t item, begin, steps;
  int32_t sums; // place of the item's fp32 sums, or -1
};
struct mma_backward_buffers {
  float *lse_log2, *delta; // [heads_q, rows_q]
  float *dq;               // sums of dQ, in the order of dq.cuh
  float *dk_acc, *dv_acc;  // the caller's sums, [rows_k, heads_kv, dim]; NULL: bf16 results
  float *sums;             // [cut][2][keys][dim] dK and dV of items in pieces
  mma_piece *pieces;       // [piece_count], after `whole` items
  int32_t whole, piece_count, cut;
};
static inline float mma_scale(const struct attn_problem *p, const struct attn_args *a) {
  return a->scale != 0 ? a->scale : 1 / sqrtf((float)p->dim);
}
// What a CTA owns: forward `queries` of each of `heads` query heads, backward `keys` of a KV head.
struct mma_tiles {
  int32_t queries, heads, keys;
};
struct mma_rep {
  const char *name;
  int (*forward)(const struct attn_problem *p, const struct attn_args *a, const void *rep,
                 const struct worklist_view *list, const struct mma_tiles *tiles);
  int (*backward)(const struct attn_problem *p, const struct attn_args *a, const void *rep,
                  const struct worklist_view *list, const struct mma_tiles *tiles,
                  const struct mma_backward_buffers *buffers);
};

// Inner tiles of the two passes.
enum { MMA_FWD_KEYS = 64, MMA_BWD_QUERIES = 64 };

#endif
