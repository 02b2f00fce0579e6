// backward.cu -- the backward kernel, launched.
#include "backward.cuh"

#include <math.h>

#include "backward_engine.h"
#include "tensor_map.h"

namespace wgmma {

template <int Dim>
static int launch(const wgmma_backward_state *s, const attn_problem *p, const attn_args *a) {
  const void *kernel = GPU_ENTRY(backward_kernel<Dim>);
  constexpr int smem = sizeof(bwd_smem<Dim>) + 1024; // the base is aligned by hand
  bwd_params b = {};
  if (tensor_map(&b.q, a->q, p->rows_q, p->heads_q, Dim, BWD_QUERIES) ||
      tensor_map(&b.d_o, a->d_o, p->rows_q, p->heads_q, Dim, BWD_QUERIES) ||
      tensor_map(&b.k, a->k, p->rows_k, p->heads_kv, Dim, BWD_KEYS) ||
      tensor_map(&b.v, a->v, p->rows_k, p->heads_kv, Dim, BWD_KEYS))
    return -1;
  const int64_t rows = (int64_t)s->tiles * BWD_QUERIES * p->heads_q; // none: no step asks for them
  if (rows && (tensor_map_line(&b.lse2, s->lse2, rows, BWD_QUERIES) ||
               tensor_map_line(&b.delta, s->delta, rows, BWD_QUERIES)))
    return -1;
  b.tile_rows = s->tile_rows;
  b.dq_acc = s->dq_acc;
  b.dk = (bf16 *)a->dk;
  b.dv = (bf16 *)a->dv;
  b.dk_acc = a->accumulate ? a->dk_acc : s->dk_acc;
  b.dv_acc = a->accumulate ? a->dv_acc : s->dv_acc;
  b.list = s->queries.view;
  b.bits = s->bits.view;
  if (s->tail_first)
    b.bits.first = s->tail_first;
  b.by_slot = s->by_slot && !a->accumulate;
  const bool all_add = b.dk_acc && !b.by_slot;
  if (all_add) // sums that nothing is added to stay as they are
    b.list.count = s->queries.seen;
  b.tail = s->tail;
  b.tail_begin = b.list.count * s->before;
  const int grid = b.tail_begin + (all_add ? s->tail_seen : s->tail_count);
  if (grid == 0)
    return 0;
  b.heads = p->heads_q;
  b.group = p->heads_q / p->heads_kv;
  b.tiles = s->tiles;
  b.loop = s->loop;
  b.scale = a->scale != 0 ? a->scale : 1 / sqrtf((float)Dim);
  b.scale_log2 = b.scale * 1.4426950408889634f;
  b.section = s->section;
  b.turns = s->turns;
  b.sum_turns = s->sum_turns;
  b.visits = s->visits;
  b.visit_words = s->visit_words;
  b.at_tile = s->at_tile;
  GPU_TRY(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, smem));
  void *args[] = {&b};
  return gpu_check(cudaLaunchKernel(kernel, grid, BWD_THREADS, args, smem, (cudaStream_t)a->stream),
                   "wgmma backward");
}

} // namespace wgmma

int wgmma_backward_launch(const wgmma_backward_state *s, const attn_problem *p, const attn_args *a) {
  return p->dim == 64 ? wgmma::launch<64>(s, p, a) : wgmma::launch<128>(s, p, a);
}
