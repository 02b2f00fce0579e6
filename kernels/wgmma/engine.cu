// engine.cu -- host side of the wgmma engine: plans.
#include "engine.h"

#include <string.h>

#include "../gpu.cuh"
#include "backward_engine.h"
#include "gather.h"

namespace {
struct state {
  rep_device rep;
  worklist keys;     // of forward,
  tile_bits bits;    // what its partial tiles show,
  gather pieces;     // or these;
  split parts;       // and of its last items,
  gpu_memory memory; // with what they leave
  wgmma_backward_state backward;
};
} // namespace

// Whose blocks may be gathered.
static bool lists_blocks(const char *rep) { return !strcmp(rep, "blocklist") || !strcmp(rep, "varblock"); }

const char *wgmma_supports(const char *rep, const struct attn_problem *p) {
  if (p->dtype != ATTN_BF16)
    return "device kernels take bf16";
  if (p->owner_rows && lists_blocks(rep))
    return "queries are gathered from one GPU's memory alone";
  return rep_find(rep)->supports(p->mask);
}

// Whether gathering takes fewer steps of 64 x 128 pairs than whole tiles, of which many are partial where
// blocks are small or lie anywhere; nor does it need their bits, which a list a head makes many. Blocks of whole
// tiles need not ask. Builds the list that is taken.
static int prepare_forward(state *s, const attn_problem *p, const void *bits_kernel, int64_t *workspace) {
  constexpr int64_t BITS_MAX = (1 << 30) / (TILE_BITS_THREADS * 8); // tiles, where there is a choice
  const bool uniform = p->mask->kind == MASK_UNIFORM_BLOCK_SPARSE;
  if (lists_blocks(s->rep.ops->name) && !(uniform && p->mask->block % WGMMA_FWD_KEYS == 0)) {
    if (gather_build(&s->pieces, &s->rep, p))
      return -1;
  }
  if (!s->pieces.bytes || !uniform || p->mask->block % 64) {
    if (worklist_build(&s->keys, &s->rep, p, WORKLIST_KEYS, WGMMA_FWD_QUERIES, WGMMA_FWD_KEYS, false))
      return -1;
    if (s->pieces.bytes &&
        (s->pieces.rounds <= s->keys.tiles * s->pieces.view.heads || s->keys.partial > BITS_MAX)) {
      worklist_free(&s->keys);
    } else {
      gather_free(&s->pieces);
      if (tile_bits_build(&s->bits, &s->rep, &s->keys, ATTN_FWD, bits_kernel))
        return -1;
    }
  }
  int sms;
  if (gpu_attribute(&sms, cudaDevAttrMultiProcessorCount))
    return -1;
  if (s->pieces.bytes ? split_gathered(&s->parts, &s->pieces, p, sms) : split_build(&s->parts, &s->keys, p, sms))
    return -1;
  return s->memory.get(&s->parts.view.left, s->parts.left_floats, workspace);
}

int wgmma_prepare(struct attn_plan *plan, const char *rep, const void *forward_bits, const void *backward_bits) {
  const struct attn_problem *p = &plan->problem;
  state *s = new state();
  plan->state = s;
  const state *like = gpu_like<state>(plan);
  if (like) {
    s->backward.memory.like = &like->backward.memory;
    s->memory.like = &like->memory;
  }
  if ((like ? rep_device_share(&s->rep, &like->rep) : rep_device_open(&s->rep, rep_find(rep), p->mask)) ||
      prepare_forward(s, p, forward_bits, &plan->workspace_bytes))
    return -1;
  plan->prep_bytes = s->rep.bytes + s->keys.bytes + s->bits.bytes + s->parts.bytes + s->pieces.bytes;
  plan->keeps_dq = true;
  const gather_view &pieces = s->pieces.view;
  plan->tile_area[ATTN_FWD] =
      (double)WGMMA_FWD_QUERIES * WGMMA_FWD_KEYS *
      (s->pieces.bytes ? (double)s->pieces.rounds / ((double)pieces.heads * pieces.classes)
                       : (double)s->keys.tiles / s->keys.view.classes);
  return p->backward ? wgmma_backward_prepare(&s->backward, &s->rep, plan, backward_bits) : 0;
}

int wgmma_forward(struct attn_plan *plan, const struct attn_args *a) {
  state *s = static_cast<state *>(plan->state);
  if (a->scale < 0) {
    attn_error_set(false, "the scale must be positive");
    return -1;
  }
  if (s->pieces.bytes)
    return gather_forward(&s->pieces, &s->parts.view, &plan->problem, a);
  worklist_view list = s->keys.view;
  if (a->resume && !attn_writes_o(a)) // rows that see nothing stay as they are
    list.count = s->keys.seen;
  const split_view parts = split_of(&s->parts, &plan->problem, list.count);
  return list.count ? whole_forward(&plan->problem, a, &list, &parts, &s->bits.view) : 0;
}

int wgmma_backward(struct attn_plan *plan, const struct attn_args *a) {
  const state *s = static_cast<const state *>(plan->state);
  if (a->scale < 0) {
    attn_error_set(false, "the scale must be positive");
    return -1;
  }
  return wgmma_backward_run(&s->backward, plan, a);
}

void wgmma_release(struct attn_plan *plan) {
  state *s = static_cast<state *>(plan->state);
  if (!s)
    return;
  worklist_free(&s->keys);
  tile_bits_free(&s->bits);
  split_free(&s->parts);
  gather_free(&s->pieces);
  rep_device_close(&s->rep);
  delete s;
}
