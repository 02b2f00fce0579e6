// backward.cuh -- the backward kernel of the wgmma engine (sm_90a), for any mask representation.
//
// A CTA keeps K and V of 128 keys of one KV head in shared memory and their dK, dV in registers while
// it loops over the group's query heads and the 64-query tiles that see its keys (kernels.md 5.5, idea
// 2), or over one of them where causal items would drift apart in L2; then dK and dV are added up in
// fp32. Four warpgroups:
//   loader   one thread streams Q, dO, LSE and D through two stages
//   keys 0-63, keys 64-127    S^T = K Q^T and dP^T = V dO^T, whose accumulators are laid out as the A
//            operand of dV += P^T dO and dK += dS^T Q; dS also goes to shared memory
//   dQ       dQ = dS K; the copy engine adds it to fp32 global memory in accumulator order, which
//            backward_finish() puts right
// Each hands over by mbarrier and none waits for its twin, so they drift apart and one's exponentials
// run under another's products.
#ifndef LONGCA_WGMMA_BACKWARD_CUH
#define LONGCA_WGMMA_BACKWARD_CUH

#include <cuda_bf16.h>

#include "../ptx/bulk.cuh"
#include "../ptx/math.cuh"
#include "../ptx/sync.cuh"
#include "../ptx/tma.cuh"
#include "../ptx/wgmma.cuh"
#include "../worklist.h"
#include "seen_by.cuh"

namespace wgmma {

enum { BWD_KEYS = 128, BWD_QUERIES = 64, BWD_STAGES = 2, BWD_THREADS = 512, BWD_STEPS = 8 };
// Registers a thread: 128 * (32 + 64 + 2 * 208) = the whole file.
enum { BWD_REGS_LOAD = 32, BWD_REGS_DQ = 64, BWD_REGS_KEYS = 208 };

struct bwd_params {
  CUtensorMap q, k, v, d_o;  // dims {64, rows, dim / 64, heads}
  worklist_view list;        // items of 128 keys, runs of 64-query tiles at rows that 64 divides
  const float *lse2, *delta; // [heads, rows_pad]: LSE / ln 2 (+inf: saw no key), and rowsum(dO O)
  float *dq_acc;             // [heads, rows_pad / 64][64 * dim] in accumulator order; added to
  __nv_bfloat16 *dk, *dv;    // [rows_k, heads_kv, dim], or
  float *dk_acc, *dv_acc;    // the same shape, added to; NULL: no
  int32_t heads, group, rows_pad;
  int32_t loop;    // query heads that a CTA loops over: divides the group
  int32_t section; // such loops that run side by side, so that their Q, dO and dQ stay in L2
  // Deterministic (else NULL), loop = group: how many CTAs have added to each tile of dq_acc so far
  // [heads, rows_pad / 64], then the tickets given out; all 0 at the start.
  int32_t *turns;
  const uint32_t *visits; // [classes, rows_pad / 64][visit_words]: bit i, item i of the list sees the tile
  int32_t visit_words;
  float scale, scale_log2;
};

struct bwd_step {
  int32_t pos;     // mask position of the tile
  int32_t tile;    // of dq_acc, heads included
  int32_t part[2]; // of each half of the keys: -1, it is not seen; 0, all of it is; else the mask is
                   // asked, for so many real queries
};

template <int D> struct bwd_smem {
  alignas(1024) __nv_bfloat16 k[BWD_KEYS * D], v[BWD_KEYS * D]; // [dim / 64][keys][64], swizzled
  __nv_bfloat16 q[BWD_STAGES][BWD_QUERIES * D], d_o[BWD_STAGES][BWD_QUERIES * D];
  __nv_bfloat16 ds[2][BWD_KEYS * BWD_QUERIES]; // [keys / 64][queries][64], swizzled
  float dq[BWD_QUERIES * D];                   // accumulator order
  float lse2[BWD_STAGES][BWD_QUERIES], delta[BWD_STAGES][BWD_QUERIES];
  int4 facts[BWD_KEYS];     // of each key (seen_by.cuh)
  worklist_item item;       // this CTA's keys; here, not in registers, which are short
  int32_t head_kv;
  bwd_step step[BWD_STEPS]; // the dQ warpgroup is at most three steps behind the loader
  int32_t turn[BWD_STEPS];  // deterministic: CTAs that add to the step's tile before this one
  int32_t ticket;
  uint64_t kv_full, q_full[BWD_STAGES], q_empty[BWD_STAGES], do_full[BWD_STAGES], do_empty[BWD_STAGES];
  uint64_t ds_full[2], ds_empty[2];
};

// A [64, D] K-major, one of `rows` rows, times B [N, D] K-major.
template <int D, int N>
static __device__ __forceinline__ void product_over_dim(float (&acc)[N / 2], ptx::wgmma_desc a, int rows,
                                                        ptx::wgmma_desc b, int b_bytes) {
#pragma unroll
  for (int c = 0; c < D / 16; c++)
    ptx::wgmma_op<N, 0>::ss(acc, a.at(c / 4 * rows * 128 + c % 4 * 32),
                            b.at(b_bytes + c / 4 * N * 128 + c % 4 * 32), c > 0);
}

// part[half] of a step: `of_run` is the run's word in the list, `valid` the tile's queries, `keys` the CTA's.
static __device__ __forceinline__ int bwd_part(int of_run, int valid, int keys, int half) {
  if (keys <= 64 * half || (of_run && !(of_run & WORKLIST_SEEN << half)))
    return -1;
  const bool whole = !of_run || (of_run & WORKLIST_WHOLE << half && valid == BWD_QUERIES);
  return whole && keys >= 64 * (half + 1) ? 0 : valid;
}

// Goes through the tiles of an item that half 0 of its keys sees, or through those that half 1 alone sees.
struct bwd_walk {
  int4 run; // row, pos, tiles, valid
  int next, tile;

  __device__ __forceinline__ bwd_walk(const worklist_item &item)
      : run(make_int4(0, 0, 0, 0)), next(item.run_begin), tile(0) {}
  // To the next tile; false: there is none.
  __device__ __forceinline__ bool step(const bwd_params &p, const worklist_item &item, bool alone) {
    while (++tile >= run.z) {
      if (next == item.run_end)
        return false;
      run = __ldg(reinterpret_cast<const int4 *>(p.list.runs) +
                  (p.turns ? item.run_begin + item.run_end - 1 - next : next));
      if (alone != (run.w && !(run.w & WORKLIST_SEEN)))
        run.z = 0;
      tile = -1;
      next++;
    }
    return true;
  }
};

// A list's items add to a tile in the order of the list: how many come before item `place`.
static __device__ __forceinline__ int bwd_turn(const bwd_params &p, int64_t tile, int place) {
  const uint32_t *const visits = p.visits + tile * p.visit_words;
  int before = __popc(visits[place / 32] & ((1u << place % 32) - 1));
#pragma unroll 1
  for (int w = 0; w < place / 32; w++)
    before += __popc(visits[w]);
  return before;
}

// Tiles that one half sees alone come in turns, so that both warpgroups have work. Deterministic, runs go
// from the last to the first: where items end alike, as under a causal mask, each then starts on a tile
// that earlier items have left, and not on one that they still have to reach.
template <int D>
static __device__ void bwd_load(const bwd_params &p, bwd_smem<D> &sm, const worklist_item &item, int first,
                                int place) {
  const int head_kv = first / p.group;
  ptx::mbarrier_arrive_expect(&sm.kv_full, 2 * sizeof sm.k);
  ptx::tma_load_4d(sm.k, &p.k, 0, item.row, 0, head_kv, &sm.kv_full);
  ptx::tma_load_4d(sm.v, &p.v, 0, item.row, 0, head_kv, &sm.kv_full);
  int i = 0;
  for (int head = first; head < first + p.loop; head++) {
    bwd_walk seen(item), alone(item);
    bool more = seen.step(p, item, false), more_alone = alone.step(p, item, true), owed = false;
    for (; more || more_alone; i++) {
      const bool other = more_alone && (owed || !more);
      const int4 run = other ? alone.run : seen.run;
      const int count = other ? alone.tile : seen.tile, t = p.turns ? run.z - 1 - count : count;
      const int s = i % BWD_STAGES, parity = i / BWD_STAGES % 2 ^ 1, row = run.x + t * BWD_QUERIES;
      const int at = head * p.rows_pad + row;
      const int valid = run.w && t == run.z - 1 ? run.w & 0xffff : BWD_QUERIES;
      const bwd_step step = {run.y + t * BWD_QUERIES, at / BWD_QUERIES,
                             {bwd_part(run.w, valid, item.rows, 0), bwd_part(run.w, valid, item.rows, 1)}};
      ptx::mbarrier_wait(&sm.q_empty[s], parity);
      sm.step[i % BWD_STEPS] = step;
      if (p.turns) {
        const int tiles = p.rows_pad / BWD_QUERIES, cls = p.list.classes == 1 ? 0 : head_kv;
        sm.turn[i % BWD_STEPS] = bwd_turn(p, static_cast<int64_t>(cls) * tiles + row / BWD_QUERIES, place);
      }
      ptx::mbarrier_arrive_expect(&sm.q_full[s], sizeof sm.q[s] + sizeof sm.lse2[s]);
      ptx::tma_load_4d(sm.q[s], &p.q, 0, row, 0, head, &sm.q_full[s]);
      ptx::bulk_load(sm.lse2[s], p.lse2 + at, sizeof sm.lse2[s], &sm.q_full[s]);
      ptx::mbarrier_wait(&sm.do_empty[s], parity);
      ptx::mbarrier_arrive_expect(&sm.do_full[s], sizeof sm.d_o[s] + sizeof sm.delta[s]);
      ptx::tma_load_4d(sm.d_o[s], &p.d_o, 0, row, 0, head, &sm.do_full[s]);
      ptx::bulk_load(sm.delta[s], p.delta + at, sizeof sm.delta[s], &sm.do_full[s]);
      owed = step.part[1] < 0;
      if (other)
        more_alone = alone.step(p, item, true);
      else
        more = seen.step(p, item, false);
    }
  }
}

// dQ [queries, 64 columns] = dS K of `Keys` keys from the one on at which both operands begin.
template <int Keys>
static __device__ __forceinline__ void bwd_dq_product(float (&dq)[32], uint64_t ds, uint64_t k) {
  ptx::wgmma_pin(dq);
  ptx::wgmma_fence();
#pragma unroll
  for (int c = 0; c < Keys / 16; c++)
    ptx::wgmma_op<64, 1>::ss(dq, ds + (c / 4 * BWD_QUERIES * 128 + c % 4 * 32) / 16, k + c * 2048 / 16, c > 0);
  ptx::wgmma_commit();
  ptx::wgmma_wait<0>();
  ptx::wgmma_pin(dq);
}

// Half of the columns at a time: 32 accumulators leave the other warpgroups the registers they need.
template <int D> static __device__ void bwd_dq(const bwd_params &p, bwd_smem<D> &sm, int steps) {
  constexpr int halves = D / 64;
  const int t = threadIdx.x % 128;
  const ptx::wgmma_desc ds(sm.ds, 0), k(sm.k, BWD_KEYS * 128);
  float dq[32];
#pragma unroll 1
  for (int i = 0; i < steps; i++) {
    const int b = i % 2;
    ptx::mbarrier_wait(&sm.ds_full[b], i / 2 % 2);
    const bwd_step &step = sm.step[i % BWD_STEPS];
    const bool both = __all_sync(~0u, (step.part[0] | step.part[1]) >= 0);
    const int first = __any_sync(~0u, step.part[0] < 0) ? 64 : 0; // key of the half that is multiplied
    float *const out = p.dq_acc + static_cast<int64_t>(step.tile) * BWD_QUERIES * D;
#pragma unroll
    for (int h = 0; h < halves; h++) {
      const uint64_t ds_at = ds.at(b * sizeof sm.ds[0] + first * 128), k_at = k.at((h * BWD_KEYS + first) * 128);
      if (both)
        bwd_dq_product<BWD_KEYS>(dq, ds_at, k_at);
      else
        bwd_dq_product<BWD_KEYS / 2>(dq, ds_at, k_at);
      if (h == halves - 1 && t % 32 == 0)
        ptx::mbarrier_arrive(&sm.ds_empty[b]);
      if (t == 0)
        ptx::bulk_wait_read<halves - 1>();
      ptx::barrier_sync(1, 128); // the copy engine has read this half of the tile before
      float *const half = sm.dq + h * (BWD_QUERIES * 64);
#pragma unroll
      for (int j = 0; j < 8; j++)
        *reinterpret_cast<float4 *>(half + (j * 128 + t) * 4) =
            make_float4(dq[4 * j], dq[4 * j + 1], dq[4 * j + 2], dq[4 * j + 3]);
      ptx::fence_async_shared();
      ptx::barrier_sync(1, 128);
      if (t == 0) {
        if (p.turns && h == 0)
          ptx::wait_for_count(p.turns + step.tile, sm.turn[i % BWD_STEPS]);
        ptx::bulk_add_f32(out + h * (BWD_QUERIES * 64), half, BWD_QUERIES * 64 * sizeof(float));
        ptx::bulk_commit();
        if (p.turns && h == halves - 1) { // the sums must be there, not only on their way
          ptx::bulk_wait<0>();
          ptx::count_after_bulk(p.turns + step.tile);
        }
      }
    }
  }
  if (t == 0)
    ptx::bulk_wait<0>();
}

template <int D, class Rep>
static __device__ void bwd_keys(const bwd_params &p, const Rep &rep, bwd_smem<D> &sm, int steps,
                                int g) {
  const int warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
  const int key0 = 64 * g + 16 * warp + lane / 4; // this thread's keys: key0 and key0 + 8
  const int column = lane % 4 * 2;                // its queries: 8 j + column and the next
  const ptx::wgmma_desc k(sm.k + g * 64 * 64, 0), v(sm.v + g * 64 * 64, 0);
  const ptx::wgmma_desc q(sm.q, BWD_QUERIES * 128), d_o(sm.d_o, BWD_QUERIES * 128);
  constexpr int stage = sizeof sm.q[0], NS = BWD_QUERIES / 2;
  // stmatrix: lane l holds row l % 8 of matrix l / 8 = 2 (query octet) + (key octet)
  char *const ds_row = reinterpret_cast<char *>(sm.ds) + g * (BWD_QUERIES * 128) +
                       (lane / 16 * 8 + lane % 8) * 128 + ((2 * warp + lane / 8 % 2) ^ lane % 8) * 16;
  float dk[D / 2], dv[D / 2];
#pragma unroll
  for (int i = 0; i < D / 2; i++)
    dk[i] = dv[i] = 0;

  if (lane % 4 == 0)
    for (int key = key0; key <= key0 + 8; key += 8)
      sm.facts[key] = key_facts(rep, sm.item.pos + min(key, sm.item.rows - 1));
  __syncwarp(); // a warp reads its own
  if (steps > 0)
    ptx::mbarrier_wait(&sm.kv_full, 0);
#pragma unroll 1
  for (int i = 0; i < steps; i++) {
    const int s = i % BWD_STAGES, parity = i / BWD_STAGES % 2;
    float sc[NS], dp[NS];
    uint32_t pb[NS / 2], dsb[NS / 2];
    ptx::mbarrier_wait(&sm.q_full[s], parity);
    const bwd_step &step = sm.step[i % BWD_STEPS];
    const int part = step.part[g];
    if (__all_sync(~0u, part < 0)) { // only hands over
      if (lane == 0) {
        ptx::mbarrier_arrive(&sm.ds_full[i % 2]);
        ptx::mbarrier_arrive(&sm.do_empty[s]);
        ptx::mbarrier_arrive(&sm.q_empty[s]);
      }
      continue;
    }
    uint32_t seen = ~0u; // asked before S, when registers are free
    if (part)
      seen = seen_in_step(rep, sm.facts, sm.head_kv, sm.item.pos, key0, sm.item.rows, step.pos, part);
    ptx::wgmma_fence();
    product_over_dim<D, BWD_QUERIES>(sc, k, BWD_KEYS, q, s * stage);
    ptx::wgmma_commit();
    ptx::wgmma_wait<0>();
    ptx::wgmma_pin(sc);

    // P = exp(scale S - LSE); in place
#pragma unroll
    for (int j = 0; j < NS / 4; j++) {
      const float2 l = *reinterpret_cast<const float2 *>(&sm.lse2[s][8 * j + column]);
#pragma unroll
      for (int e = 0; e < 4; e++)
        sc[4 * j + e] = ptx::ex2(fmaf(sc[4 * j + e], p.scale_log2, e % 2 ? -l.y : -l.x));
    }
    if (~seen)
      hide_unseen(sc, seen);
#pragma unroll
    for (int j = 0; j < NS / 2; j++)
      pb[j] = ptx::pack_bf16(sc[2 * j], sc[2 * j + 1]);

    ptx::mbarrier_wait(&sm.do_full[s], parity);
    ptx::wgmma_fence();
    product_over_dim<D, BWD_QUERIES>(dp, v, BWD_KEYS, d_o, s * stage);
    ptx::wgmma_commit();
    ptx::wgmma_pin(pb);
#pragma unroll
    for (int c = 0; c < BWD_QUERIES / 16; c++) // 16 queries: two atoms of 1024 bytes
      ptx::wgmma_op<D, 1>::rs(dv, pb + 4 * c, d_o.at(s * stage + c * 2048), 1);
    ptx::wgmma_commit();
    ptx::mbarrier_wait(&sm.ds_empty[i % 2], i / 2 % 2 ^ 1);
    ptx::wgmma_wait<1>();
    ptx::wgmma_pin(dp);

    // dS = P (dP - D)
#pragma unroll
    for (int j = 0; j < NS / 4; j++) {
      const float2 d = *reinterpret_cast<const float2 *>(&sm.delta[s][8 * j + column]);
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const uint32_t pair = pb[2 * j + half];
        dsb[2 * j + half] =
            ptx::pack_bf16(__uint_as_float(pair << 16) * (dp[4 * j + 2 * half] - d.x),
                           __uint_as_float(pair & 0xffff0000) * (dp[4 * j + 2 * half + 1] - d.y));
      }
    }
#pragma unroll
    for (int j = 0; j < NS / 8; j++)
      ptx::stmatrix_x4_trans(ds_row + i % 2 * sizeof sm.ds[0] + j * 16 * 128, dsb[4 * j], dsb[4 * j + 1],
                             dsb[4 * j + 2], dsb[4 * j + 3]);
    ptx::fence_async_shared();
    __syncwarp();
    if (lane == 0)
      ptx::mbarrier_arrive(&sm.ds_full[i % 2]);

    ptx::wgmma_pin(dsb);
    ptx::wgmma_fence();
#pragma unroll
    for (int c = 0; c < BWD_QUERIES / 16; c++)
      ptx::wgmma_op<D, 1>::rs(dk, dsb + 4 * c, q.at(s * stage + c * 2048), 1);
    ptx::wgmma_commit();
    ptx::wgmma_wait<1>();
    ptx::wgmma_pin(pb);
    if (lane == 0)
      ptx::mbarrier_arrive(&sm.do_empty[s]);
    ptx::wgmma_wait<0>();
    ptx::wgmma_pin(dsb);
    if (lane == 0)
      ptx::mbarrier_arrive(&sm.q_empty[s]);
  }
  ptx::wgmma_pin(dk);
  ptx::wgmma_pin(dv);

#pragma unroll
  for (int half = 0; half < 2; half++) {
    const int key = key0 + 8 * half;
    if (key >= sm.item.rows)
      continue;
    const int64_t row = static_cast<int64_t>(sm.item.row + key) * (p.heads / p.group);
    const int64_t out = (row + sm.head_kv) * D + column;
#pragma unroll
    for (int j = 0; j < D / 8; j++) {
      const int e = 4 * j + 2 * half;
      if (p.dk_acc) {
        ptx::add_f32x2(p.dk_acc + out + 8 * j, dk[e] * p.scale, dk[e + 1] * p.scale);
        ptx::add_f32x2(p.dv_acc + out + 8 * j, dv[e], dv[e + 1]);
      } else {
        *reinterpret_cast<uint32_t *>(p.dk + out + 8 * j) =
            ptx::pack_bf16(dk[e] * p.scale, dk[e + 1] * p.scale);
        *reinterpret_cast<uint32_t *>(p.dv + out + 8 * j) = ptx::pack_bf16(dv[e], dv[e + 1]);
      }
    }
  }
}

// Grid: items of a class x loops. Sections of loops one after the other; in each, longest items first.
template <int D, class Rep>
__global__ void __launch_bounds__(BWD_THREADS, 1)
    backward_kernel(const __grid_constant__ bwd_params p, const __grid_constant__ Rep rep) {
  extern __shared__ char raw[];
  bwd_smem<D> &sm = *reinterpret_cast<bwd_smem<D> *>((reinterpret_cast<uintptr_t>(raw) + 1023) &
                                                     ~static_cast<uintptr_t>(1023));
  const int group = __shfl_sync(~0u, threadIdx.x / 128, 0);
  int work = blockIdx.x;
  if (p.turns) { // who waits for a turn waits for lower tickets, whose CTAs run already
    if (threadIdx.x == 0)
      sm.ticket = atomicAdd(p.turns + p.heads * (p.rows_pad / BWD_QUERIES), 1);
    __syncthreads();
    work = ptx::same_in_warp(sm.ticket);
  }
  const int first = work / (p.section * p.list.count) * p.section;
  const int beside = min(p.section, p.heads / p.loop - first), at = work - first * p.list.count;
  const int head = (first + at % beside) * p.loop, head_kv = head / p.group;
  const int cls = p.list.classes == 1 ? 0 : head_kv;
  const worklist_item &item = p.list.items[static_cast<int64_t>(cls) * p.list.count + at / beside];
  const int steps = item.tiles * p.loop;
  if (threadIdx.x == 0) {
    sm.item = item;
    sm.head_kv = head_kv;
    ptx::mbarrier_init(&sm.kv_full, 1);
    for (int s = 0; s < BWD_STAGES; s++) {
      ptx::mbarrier_init(&sm.q_full[s], 1);
      ptx::mbarrier_init(&sm.do_full[s], 1);
      ptx::mbarrier_init(&sm.q_empty[s], 8); // a lane a warp of both key warpgroups
      ptx::mbarrier_init(&sm.do_empty[s], 8);
    }
    for (int b = 0; b < 2; b++) {
      ptx::mbarrier_init(&sm.ds_full[b], 8);
      ptx::mbarrier_init(&sm.ds_empty[b], 4);
    }
    ptx::mbarrier_init_fence();
  }
  __syncthreads();
  if (group == 0) {
    ptx::registers_give<BWD_REGS_LOAD>();
    if (threadIdx.x == 0 && steps > 0)
      bwd_load<D>(p, sm, item, head, at / beside);
  } else if (group == 1) {
    ptx::registers_give<BWD_REGS_DQ>();
    bwd_dq<D>(p, sm, steps);
  } else {
    ptx::registers_take<BWD_REGS_KEYS>();
    bwd_keys<D>(p, rep, sm, steps, group - 2);
  }
}

} // namespace wgmma
#endif
