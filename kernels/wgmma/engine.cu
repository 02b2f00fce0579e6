// engine.cu -- host side of the wgmma engine: plans.
#include "engine.h"

#include <string.h>

#include "../gpu.cuh"
#include "backward_engine.h"
#include "gather.h"

#define REPS(R) R(band) R(columns) R(spans) R(blockmap) R(blocklist) R(varblock) R(dense)
#define DECLARE(X) extern const wgmma_rep wgmma_rep_##X;
REPS(DECLARE)
#define ENTRY(X) &wgmma_rep_##X,
static const wgmma_rep *const reps[] = {REPS(ENTRY)};

namespace {
struct state {
  const wgmma_rep *kernels;
  const void *forward; // of wgmma_use, or NULL
  rep_device rep;
  worklist keys;     // of forward,
  split parts;       // and of its last items,
  gpu_memory memory; // with what they leave;
  gather pieces;     // or these
  wgmma_backward_state backward;
};
} // namespace

const char *wgmma_supports(const char *rep, const struct attn_problem *p) {
  if (p->dtype != ATTN_BF16)
    return "device kernels take bf16";
  return rep_find(rep)->supports(p->mask);
}

// Whether gathering takes fewer steps of 64 x 128 pairs than whole tiles, of which many are partial where
// blocks are small or lie anywhere. Blocks of whole tiles need not ask. Builds the list that is taken.
static int prepare_forward(state *s, const attn_problem *p, int64_t *workspace) {
  const bool lists = !strcmp(s->kernels->name, "blocklist") || !strcmp(s->kernels->name, "varblock");
  const bool uniform = p->mask->kind == MASK_UNIFORM_BLOCK_SPARSE;
  if (lists && !(uniform && p->mask->block % WGMMA_FWD_KEYS == 0)) {
    if (gather_build(&s->pieces, &s->rep, p))
      return -1;
    if (uniform && p->mask->block % 64 == 0)
      return 0;
  }
  if (worklist_build(&s->keys, &s->rep, p, WORKLIST_KEYS, WGMMA_FWD_QUERIES, WGMMA_FWD_KEYS, false))
    return -1;
  if (s->pieces.bytes && s->pieces.rounds <= s->keys.tiles * s->pieces.view.heads) {
    worklist_free(&s->keys);
    return 0;
  }
  gather_free(&s->pieces);
  int device, sms;
  GPU_TRY(cudaGetDevice(&device));
  GPU_TRY(cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, device));
  if (split_build(&s->parts, &s->keys, p, sms))
    return -1;
  return s->memory.get(&s->parts.view.left, s->parts.left_floats, workspace);
}

int wgmma_prepare(struct attn_plan *plan, const char *rep) {
  const struct attn_problem *p = &plan->problem;
  state *s = new state();
  plan->state = s;
  for (const wgmma_rep *known : reps)
    if (!strcmp(known->name, rep))
      s->kernels = known;
  const state *like = gpu_like<state>(plan);
  if (like) {
    s->backward.memory.like = &like->backward.memory;
    s->memory.like = &like->memory;
  }
  if ((like ? rep_device_share(&s->rep, &like->rep) : rep_device_open(&s->rep, rep_find(rep), p->mask)) ||
      prepare_forward(s, p, &plan->workspace_bytes))
    return -1;
  plan->prep_bytes = s->rep.bytes + s->keys.bytes + s->parts.bytes + s->pieces.bytes;
  const gather_view &pieces = s->pieces.view;
  plan->tile_area[ATTN_FWD] =
      (double)WGMMA_FWD_QUERIES * WGMMA_FWD_KEYS *
      (s->pieces.bytes ? (double)s->pieces.rounds / ((double)pieces.heads * pieces.classes)
                       : (double)s->keys.tiles / s->keys.view.classes);
  return p->backward ? wgmma_backward_prepare(&s->backward, &s->rep, plan) : 0;
}

int wgmma_forward(struct attn_plan *plan, const struct attn_args *a) {
  state *s = static_cast<state *>(plan->state);
  if (a->scale < 0) {
    attn_error_set(false, "the scale must be positive");
    return -1;
  }
  if (s->pieces.bytes)
    return gather_forward(&s->pieces, &plan->problem, a);
  worklist_view list = s->keys.view;
  if (a->resume && !attn_writes_o(a)) // rows that see nothing stay as they are
    list.count = s->keys.seen;
  const split_view parts = split_of(&s->parts, &plan->problem, list.count);
  return list.count ? s->kernels->forward(&plan->problem, a, s->rep.copy, &list, &parts, s->forward) : 0;
}

void wgmma_use(struct attn_plan *plan, const void *forward, const void *backward) {
  state *s = static_cast<state *>(plan->state);
  s->forward = forward;
  s->backward.kernel = backward;
}

int wgmma_backward(struct attn_plan *plan, const struct attn_args *a) {
  const state *s = static_cast<const state *>(plan->state);
  if (a->scale < 0) {
    attn_error_set(false, "the scale must be positive");
    return -1;
  }
  return wgmma_backward_run(&s->backward, &s->rep, plan, a);
}

void wgmma_release(struct attn_plan *plan) {
  state *s = static_cast<state *>(plan->state);
  if (!s)
    return;
  worklist_free(&s->keys);
  split_free(&s->parts);
  gather_free(&s->pieces);
  rep_device_close(&s->rep);
  delete s;
}
