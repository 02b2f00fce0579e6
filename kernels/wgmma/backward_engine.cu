// backward_engine.cu -- host side of the wgmma engine's backward, and the pass after its kernel: dQ from
// accumulator order to rows.
#include "backward_engine.h"

#include <string.h>

#include <algorithm>
#include <vector>

#include "../around_backward.cuh"
#include "../ptx/math.cuh"
#include "backward_shared.cuh"

using namespace wgmma;
static_assert(QUERY_TILE == static_cast<int>(BWD_QUERIES), "before_backward() writes by tile");

namespace {

// Lanes 4 i .. 4 i + 3 hold a row each of a 4 x 4 matrix; then a column each.
__device__ __forceinline__ void transpose_quad(uint32_t (&u)[4]) {
#pragma unroll
  for (int bit = 1; bit <= 2; bit *= 2)
#pragma unroll
    for (int i = 0; i < 4; i++)
      if (!(i & bit)) {
        const bool upper = threadIdx.x & bit;
        const uint32_t got = __shfl_xor_sync(~0u, upper ? u[i] : u[i | bit], bit);
        u[upper ? i : i | bit] = got;
      }
}

// One block a (tile, head). Thread t of 128 holds of each octet of columns two of row r and two of row
// r + 8; lanes of four exchange them, so that each writes an octet of a row.
template <int DIM>
__global__ void __launch_bounds__(2 * DIM) after_backward(const float4 *acc, const int2 *tile_rows, uint16_t *dq,
                                                          float *dq_add, int heads, float scale) {
  const int tile = blockIdx.x, head = blockIdx.y, tiles = gridDim.x;
  const int2 there = tile_rows[tile]; // first row, rows
  acc += ((int64_t)head * tiles + tile) * (BWD_QUERIES * DIM / 4);
  const int t = threadIdx.x % 128, quad = t % 4, r = t / 32 * 16 + t % 32 / 4;
#pragma unroll
  for (int group = 0; group < 2; group++) {
    const int octet = (threadIdx.x / 128 * 2 + group) * 4;
    float4 x[4];
    uint32_t u[2][4];
#pragma unroll
    for (int c = 0; c < 4; c++)
      x[c] = __ldg(acc + (octet + c) * 128 + t);
#pragma unroll
    for (int c = 0; c < 4; c++) {
      u[0][c] = ptx::pack_bf16(x[c].x * scale, x[c].y * scale);
      u[1][c] = ptx::pack_bf16(x[c].z * scale, x[c].w * scale);
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
      transpose_quad(u[half]);
      if (r + 8 * half >= there.y)
        continue;
      const int64_t at = (((int64_t)there.x + r + 8 * half) * heads + head) * DIM + octet * 8;
      if (!dq_add)
        *(uint4 *)(dq + at + quad * 8) = make_uint4(u[half][0], u[half][1], u[half][2], u[half][3]);
      else
#pragma unroll
        for (int c = 0; c < 4; c++) {
          float2 &sum = *(float2 *)(dq_add + at + c * 8 + quad * 2);
          sum.x += (half ? x[c].z : x[c].x) * scale;
          sum.y += (half ? x[c].w : x[c].y) * scale;
        }
    }
  }
}

// Block (slot, dK or dV): sums of an item in parts to its rows.
__global__ void round_slots(const float4 *dk_acc, const float4 *dv_acc, const int4 *slot_rows, uint2 *dk, uint2 *dv,
                            int heads_kv, int dim) {
  const int4 rows = slot_rows[blockIdx.x];
  const int lanes = dim / 4; // of a row
  const float4 *const in = (blockIdx.y ? dv_acc : dk_acc) + (int64_t)blockIdx.x * BWD_KEYS * lanes;
  uint2 *const out = (blockIdx.y ? dv : dk) + ((int64_t)rows.x * heads_kv + rows.z) * lanes;
  for (int i = threadIdx.x; i < rows.y * lanes; i += blockDim.x) {
    const float4 x = in[i];
    out[(int64_t)(i / lanes) * heads_kv * lanes + i % lanes] =
        make_uint2(ptx::pack_bf16(x.x, x.y), ptx::pack_bf16(x.z, x.w));
  }
}

// Block (item, class): marks the query tiles that an item sees (bwd_params.visits).
__global__ void mark_visits(worklist_view list, uint32_t *visits, int words, int tiles) {
  const int place = blockIdx.x, cls = blockIdx.y;
  const worklist_item &item = list.items[(int64_t)cls * list.count + place];
  for (int r = item.run_begin + threadIdx.x; r < item.run_end; r += blockDim.x)
    for (int t = 0; t < list.runs[r].tiles; t++) {
      const int64_t tile = (int64_t)cls * tiles + list.runs[r].row / BWD_QUERIES + t;
      atomicOr(&visits[tile * words + place / 32], 1u << place % 32);
    }
}

// Cuts the queries into tiles, none of which crosses a segment, since its queries stand at positions that
// follow each other; and makes the list of them, which speaks of rows as if every tile had 64. So segments
// begin at any row: only scratch, by tile, is longer than they are.
int cut_queries(wgmma_backward_state *s, const rep_device *rep, struct attn_plan *plan, const void *bits_kernel) {
  attn_problem p = plan->problem;
  const attn_segment all = {0, 0, p.rows_q};
  if (!p.q_seg) {
    p.q_seg = &all;
    p.q_segs = 1;
  }
  std::vector<attn_segment> segments(p.q_seg, p.q_seg + p.q_segs);
  std::vector<int2> tiles;
  int32_t rows = 0;
  for (attn_segment &g : segments) {
    const int32_t row = g.row;
    rows += g.len;
    g.row = (int32_t)tiles.size() * BWD_QUERIES;
    for (int32_t r = 0; r < g.len; r += BWD_QUERIES)
      tiles.push_back({row + r, std::min<int32_t>(BWD_QUERIES, g.len - r)});
  }
  p.q_seg = segments.data();
  s->gaps = rows < p.rows_q;
  s->tiles = (int)tiles.size();
  if (s->own.copy(&s->tile_rows, tiles.data(), s->tiles, &plan->prep_bytes) ||
      worklist_build(&s->queries, rep, &p, WORKLIST_QUERIES, BWD_KEYS, BWD_QUERIES, true) ||
      tile_bits_build(&s->bits, rep, &s->queries, ATTN_BWD, bits_kernel))
    return -1;
  plan->prep_bytes += s->queries.bytes + s->bits.bytes;
  plan->tile_area[ATTN_BWD] = (double)s->queries.tiles * BWD_KEYS * BWD_QUERIES / s->queries.view.classes;
  return 0;
}

// fp32 elements of dK, as many as of dV, that this plan sums up itself.
int64_t sums_of(const wgmma_backward_state *s, const struct attn_problem *p) {
  const bool all = s->loop < p->heads_q / p->heads_kv;
  return p->dim * (all ? (int64_t)p->rows_k * p->heads_kv : (int64_t)s->slots * BWD_KEYS);
}

// Counts by which warps take turns at dK and dV of items that several CTAs add to.
int64_t sum_turns_of(const wgmma_backward_state *s, const struct attn_problem *p) {
  return s->loop < p->heads_q / p->heads_kv ? (int64_t)p->heads_kv * s->queries.view.count * (BWD_KEYS / 16) : 0;
}

// What CTAs need to take turns.
int order_sums(wgmma_backward_state *s, struct attn_plan *plan) {
  const struct attn_problem *p = &plan->problem;
  const worklist_view &v = s->queries.view;
  s->visit_words = (v.count + 31) / 32;
  const int64_t words = (int64_t)v.classes * s->tiles * s->visit_words;
  if (s->own.get(&s->visits, words, &plan->prep_bytes) ||
      s->own.get(&s->turns, (int64_t)p->heads_q * s->tiles + 1, &plan->workspace_bytes) ||
      s->own.get(&s->sum_turns, sum_turns_of(s, p), &plan->workspace_bytes))
    return -1;
  if (words == 0)
    return 0;
  GPU_TRY(cudaMemset(s->visits, 0, words * sizeof *s->visits));
  mark_visits<<<dim3(v.count, v.classes), 64>>>(v, s->visits, s->visit_words, s->tiles);
  GPU_LAUNCHED("ordering the sums of backward");
  GPU_TRY(cudaDeviceSynchronize()); // the caller's stream may be one that does not wait for this one
  return 0;
}

} // namespace

int wgmma_backward_prepare(wgmma_backward_state *s, const rep_device *rep, struct attn_plan *plan,
                           const void *bits_kernel) {
  const struct attn_problem *p = &plan->problem;
  if (cut_queries(s, rep, plan, bits_kernel))
    return -1;
  if (wgmma_backward_ctas(s, plan))
    return -1;
  const int64_t rows = (int64_t)s->tiles * BWD_QUERIES * p->heads_q;
  const int64_t keys = sums_of(s, p);
  int64_t *account = &plan->workspace_bytes;
  if (p->deterministic && order_sums(s, plan))
    return -1;
  return s->memory.get(&s->lse2, rows, account) || s->memory.get(&s->delta, rows, account) ||
                 s->memory.get(&s->dq_acc, rows * p->dim, account) ||
                 s->memory.get(&s->dk_acc, keys, account) || s->memory.get(&s->dv_acc, keys, account)
             ? -1
             : 0;
}

int wgmma_backward_run(const wgmma_backward_state *s, const struct attn_plan *plan, const struct attn_args *a) {
  const struct attn_problem *p = &plan->problem;
  const cudaStream_t stream = (cudaStream_t)a->stream;
  const int64_t tiles = (int64_t)s->tiles * p->heads_q, keys = sums_of(s, p);
  if (!a->accumulate && s->gaps)
    GPU_TRY(cudaMemsetAsync(a->dq, 0, (int64_t)p->rows_q * p->heads_q * p->dim * sizeof(bf16), stream));
  if (s->turns)
    GPU_TRY(cudaMemsetAsync(s->turns, 0, (tiles + 1) * sizeof *s->turns, stream));
  if (s->sum_turns)
    GPU_TRY(cudaMemsetAsync(s->sum_turns, 0, sum_turns_of(s, p) * sizeof *s->sum_turns, stream));
  if (s->at_tile)
    GPU_TRY(cudaMemsetAsync(s->at_tile, 0, p->heads_q * sizeof *s->at_tile, stream));
  if (!a->accumulate && s->dk_acc) {
    GPU_TRY(cudaMemsetAsync(s->dk_acc, 0, keys * sizeof(float), stream));
    GPU_TRY(cudaMemsetAsync(s->dv_acc, 0, keys * sizeof(float), stream));
  }
  const bool begins = a->part == ATTN_ALONE || a->part == ATTN_FIRST;
  const bool ends = a->part == ATTN_ALONE || a->part == ATTN_LAST;
  if (tiles && begins &&
      before_backward(p, a, s->lse2, s->delta, s->tiles * BWD_QUERIES, s->tile_rows, s->dq_acc))
    return -1;
  if (wgmma_backward_launch(s, p, a))
    return -1;
  const float scale = a->scale != 0 ? a->scale : 1 / sqrtf((float)p->dim);
  const auto after = p->dim == 64 ? after_backward<64> : after_backward<128>;
  if (tiles && ends)
    after<<<dim3(s->tiles, p->heads_q), 2 * p->dim, 0, stream>>>(
        (const float4 *)s->dq_acc, s->tile_rows, (uint16_t *)a->dq, a->accumulate ? a->dq_acc : NULL, p->heads_q,
        scale);
  GPU_LAUNCHED("after backward");
  if (!a->accumulate && s->by_slot) {
    round_slots<<<dim3(s->slots, 2), 512, 0, stream>>>((const float4 *)s->dk_acc, (const float4 *)s->dv_acc,
                                                       s->slot_rows, (uint2 *)a->dk, (uint2 *)a->dv, p->heads_kv,
                                                       p->dim);
    GPU_LAUNCHED("rounding dK and dV of items in parts");
  } else if (!a->accumulate && s->dk_acc) {
    return round_to_bf16(s->dk_acc, a->dk, keys, stream) || round_to_bf16(s->dv_acc, a->dv, keys, stream) ? -1 : 0;
  }
  return 0;
}
