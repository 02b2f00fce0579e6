// engine.cu -- host side of the mma engine.
#include "engine.h"

#include <string.h>

#include "../around_backward.cuh"
#include "dq.cuh"
#include "pieces.cuh"

#define REPS(R) R(band) R(dense) R(columns) R(blocklist)
#define DECLARE(X) extern const mma_rep mma_rep_##X;
REPS(DECLARE)
#define ENTRY(X) &mma_rep_##X,
static const mma_rep *const reps[] = {REPS(ENTRY)};

namespace {

struct state {
  gpu_memory memory, tables; // scratch, which plans may share; and what is this plan's
  const mma_rep *kernels;
  rep_device rep;
  mma_tiles tiles;
  worklist keys, queries; // of forward, of backward
  mma_backward_buffers buffers;
};

} // namespace

const char *mma_supports(const char *rep, const struct attn_problem *p) {
  if (p->dtype != ATTN_BF16)
    return "device kernels take bf16";
  if (p->owner_rows)
    return "the mma engine has queries and outputs on this GPU alone";
  if (p->backward && p->deterministic)
    return "the mma engine adds dQ from many key tiles in no fixed order";
  return rep_find(rep)->supports(p->mask);
}

int mma_prepare(struct attn_plan *plan, const char *rep) {
  const struct attn_problem *p = &plan->problem;
  state *s = new state();
  plan->state = s;
  for (const mma_rep *known : reps)
    if (!strcmp(known->name, rep))
      s->kernels = known;
  const int group = p->heads_q / p->heads_kv;
  s->tiles = {128, 1, 128};
  if (!strcmp(rep, "blocklist") && p->mask->block % 128) // a tile of 128 would straddle lists
    s->tiles = {64, group % 2 ? 1 : 2, 64};
  const state *like = gpu_like<state>(plan);
  if (like)
    s->memory.like = &like->memory;
  if ((like ? rep_device_share(&s->rep, &like->rep) : rep_device_open(&s->rep, rep_find(rep), p->mask)) ||
      worklist_build(&s->keys, &s->rep, p, WORKLIST_KEYS, s->tiles.queries, MMA_FWD_KEYS, false))
    return -1;
  plan->prep_bytes = s->rep.bytes + s->keys.bytes;
  plan->tile_area[ATTN_FWD] = (double)s->keys.tiles * s->tiles.queries * MMA_FWD_KEYS / s->keys.view.classes;
  plan->keeps_dq = true;
  if (!p->backward)
    return 0;
  if (worklist_build(&s->queries, &s->rep, p, WORKLIST_QUERIES, s->tiles.keys, MMA_BWD_QUERIES,
                     false))
    return -1;
  plan->prep_bytes += s->queries.bytes;
  plan->tile_area[ATTN_BWD] = (double)s->queries.tiles * s->tiles.keys * MMA_BWD_QUERIES / s->queries.view.classes;
  int sms;
  if (gpu_attribute(&sms, cudaDevAttrMultiProcessorCount))
    return -1;
  std::vector<mma_piece> pieces;
  mma_backward_buffers *b = &s->buffers;
  const int places = sms * (128 / s->tiles.keys);
  if (mma::cut_items(s->queries, p->heads_kv, group, places, &pieces, &b->whole, &b->cut) ||
      s->tables.copy(&b->pieces, pieces.data(), pieces.size(), &plan->prep_bytes))
    return -1;
  b->piece_count = (int32_t)pieces.size();
  const int64_t rows = (int64_t)p->rows_q * p->heads_q;
  const int64_t sums = (int64_t)b->cut * 2 * s->tiles.keys * p->dim;
  return s->memory.get(&b->lse_log2, rows, &plan->workspace_bytes) ||
                 s->memory.get(&b->delta, rows, &plan->workspace_bytes) ||
                 s->memory.get(&b->dq, rows * p->dim, &plan->workspace_bytes) ||
                 s->memory.get(&b->sums, sums, &plan->workspace_bytes)
             ? -1
             : 0;
}

int mma_forward(struct attn_plan *plan, const struct attn_args *a) {
  state *s = (state *)plan->state;
  if (a->scale < 0) {
    attn_error_set(false, "the scale must be positive");
    return -1;
  }
  worklist_view list = s->keys.view;
  if (a->resume && !attn_writes_o(a)) // rows that see nothing stay as they are
    list.count = s->keys.seen;
  return list.count ? s->kernels->forward(&plan->problem, a, s->rep.copy, &list, &s->tiles) : 0;
}

int mma_backward(struct attn_plan *plan, const struct attn_args *a) {
  const struct attn_problem *p = &plan->problem;
  state *s = (state *)plan->state;
  const cudaStream_t stream = (cudaStream_t)a->stream;
  const int64_t pairs = (int64_t)p->rows_q * p->heads_q,
                keys = (int64_t)p->rows_k * p->heads_kv * p->dim,
                sums = (int64_t)s->buffers.cut * 2 * s->tiles.keys * p->dim;
  mma_backward_buffers b = s->buffers;
  if (a->part == ATTN_ALONE || a->part == ATTN_FIRST) {
    GPU_TRY(cudaMemsetAsync(b.dq, 0, pairs * p->dim * sizeof(float), stream));
    if (before_backward(p, a, b.lse_log2, b.delta, p->rows_q))
      return -1;
  }
  if (a->accumulate) { // straight into the caller's sums
    b.dk_acc = a->dk_acc;
    b.dv_acc = a->dv_acc;
  } else {
    if (sums)
      GPU_TRY(cudaMemsetAsync(b.sums, 0, sums * sizeof(float), stream));
    if (s->queries.seen < s->queries.view.count) { // keys that no query sees
      GPU_TRY(cudaMemsetAsync(a->dk, 0, keys * sizeof(bf16), stream));
      GPU_TRY(cudaMemsetAsync(a->dv, 0, keys * sizeof(bf16), stream));
    }
  }
  worklist_view list = s->queries.view;
  list.count = s->queries.seen;
  if (list.count && s->kernels->backward(p, a, s->rep.copy, &list, &s->tiles, &b))
    return -1;
  if (a->part == ATTN_ALONE || a->part == ATTN_LAST) {
    const auto finish = p->dim == 64 ? mma::finish_dq<64> : mma::finish_dq<128>;
    const int64_t chunks = pairs * p->dim / 8;
    finish<<<(unsigned)((chunks + 255) / 256), 256, 0, stream>>>(
        (const float4 *)b.dq, (uint4 *)a->dq, a->accumulate ? (float4 *)a->dq_acc : nullptr,
        mma_scale(p, a), p->rows_q, p->heads_q);
    GPU_LAUNCHED("rounding dQ");
  }
  if (!a->accumulate && sums) {
    mma::round_pieces<<<dim3(b.piece_count, 2), 256, 0, stream>>>(b.pieces, list, s->tiles.keys,
                                                                 (const float4 *)b.sums, (uint2 *)a->dk,
                                                                 (uint2 *)a->dv, p->heads_kv, p->dim);
    GPU_LAUNCHED("rounding dK and dV");
  }
  return 0;
}

void mma_release(struct attn_plan *plan) {
  state *s = (state *)plan->state;
  if (!s)
    return;
  worklist_free(&s->keys);
  worklist_free(&s->queries);
  rep_device_close(&s->rep);
  delete s;
}
