// backward.cuh -- the backward kernel of the wgmma engine (sm_90a), the same for all mask representations.
//
// A CTA keeps K and V of 128 keys of one KV head in shared memory and their dK, dV in registers while
// it loops over the group's query heads and the 64-query tiles that see its keys (kernels.md 5.5, idea
// 2), or over some of them where causal items would drift apart in L2; then dK and dV are added up in
// fp32, and so are those of items that several CTAs share, near the end (balance.h). Four warpgroups:
//   loader   one thread streams Q, dO, LSE and D through two stages (backward_load.cuh); one of its next warp has the
//            copy engine add dQ to fp32 global memory in accumulator order, which after_backward() puts right
//   keys 0-63, keys 64-127    S^T = K Q^T and dP^T = V dO^T, whose accumulators are laid out as the A
//            operand of dV += P^T dO and dK += dS^T Q; dS also goes to shared memory. A warpgroup
//            skips the steps that none of its keys is seen in
//   dQ       dQ = dS K of the keys that are seen, to shared memory, from where it is added
// Each hands over by mbarrier and none waits for its twin, so they drift apart and one's exponentials
// run under another's products.
//
// Deterministic, CTAs add to a tile of dQ in the order of the list. Each knows how many come before it,
// waits until as many are counted, adds, and counts itself when its sums are in memory; and those that share an item's
// dK and dV add in the order of their heads. It waits for CTAs of lower tickets only, which run already, in whatever
// order the grid's blocks are started.
#ifndef LONGCA_WGMMA_BACKWARD_CUH
#define LONGCA_WGMMA_BACKWARD_CUH

#include "../ptx/math.cuh"
#include "../ptx/wgmma.cuh"
#include "backward_dq.cuh"
#include "backward_load.cuh"
#include "row_bits.cuh"

namespace wgmma {

// A [64, D] K-major, one of `rows` rows, times B [N, D] K-major.
template <int D, int N>
static __device__ __forceinline__ void product_over_dim(float (&acc)[N / 2], ptx::wgmma_desc a, int rows,
                                                        ptx::wgmma_desc b, int b_bytes) {
#pragma unroll
  for (int c = 0; c < D / 16; c++)
    ptx::wgmma_op<N, 0>::ss(acc, a.at(c / 4 * rows * 128 + c % 4 * 32),
                            b.at(b_bytes + c / 4 * N * 128 + c % 4 * 32), c > 0);
}

template <int D> static __device__ void bwd_keys(const bwd_params &p, bwd_smem<D> &sm, int steps, int g) {
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

  int next = 0; // part of the step to come, known a step ahead: no branch waits for shared memory
  bool q_here = false;
  if (steps > 0) {
    ptx::mbarrier_wait(&sm.kv_full, 0);
    ptx::mbarrier_wait(&sm.q_full[0], 0);
    next = sm.step[0].part[g];
  }
#pragma unroll 1
  for (int i = 0; i < steps; i++) {
    const int s = i % BWD_STAGES, parity = i / BWD_STAGES % 2;
    float sc[NS], dp[NS];
    uint32_t pb[NS / 2], dsb[NS / 2];
    ptx::mbarrier_wait_by_warp(&sm.q_full[s], parity, q_here);
    q_here = false;
    const int part = next;
    if (__all_sync(~0u, part < 0)) { // only hands over
      next = sm.step[(i + 1) % BWD_STEPS].part[g];
      ptx::mbarrier_wait(&sm.ds_empty[i % 2], i / 2 % 2 ^ 1);
      ptx::mbarrier_arrive(&sm.ds_full[i % 2]);
      ptx::mbarrier_arrive(&sm.do_empty[s]);
      ptx::mbarrier_arrive(&sm.q_empty[s]);
      continue;
    }
    uint32_t seen = ~0u; // asked before S, looked at behind the exponentials
    if (part) {
      const int64_t place = sm.step[i % BWD_STEPS].seen;
      const int thread = ptx::thread_now() - 256; // behind the loader's and dQ's
      seen = ptx::load_ahead(static_cast<const uint32_t *>(p.bits.bits) + place * TILE_BITS_THREADS + thread);
    }
    ptx::wgmma_fence();
    product_over_dim<D, BWD_QUERIES>(sc, k, BWD_KEYS, q, s * stage);
    ptx::wgmma_commit();
    next = sm.step[(i + 1) % BWD_STEPS].part[g]; // read while S is on its way, as LSE
    float2 lse[NS / 4];
#pragma unroll
    for (int j = 0; j < NS / 4; j++)
      lse[j] = *reinterpret_cast<const float2 *>(&sm.lse2[s][8 * j + column]);
    const bool do_here = ptx::mbarrier_test(&sm.do_full[s], parity);
    ptx::wgmma_wait<0>();
    ptx::wgmma_pin(sc);

    // P = exp(scale S - LSE); in place
#pragma unroll
    for (int j = 0; j < NS / 4; j++)
#pragma unroll
      for (int e = 0; e < 4; e++)
        sc[4 * j + e] = ptx::ex2(fmaf(sc[4 * j + e], p.scale_log2, e % 2 ? -lse[j].y : -lse[j].x));
    if (~seen)
      hide_unseen(sc, seen);
#pragma unroll
    for (int j = 0; j < NS / 2; j++)
      pb[j] = ptx::pack_bf16(sc[2 * j], sc[2 * j + 1]);

    ptx::mbarrier_wait_by_warp(&sm.do_full[s], parity, do_here);
    const bool ds_here = ptx::mbarrier_test(&sm.ds_empty[i % 2], i / 2 % 2 ^ 1);
    ptx::wgmma_fence();
    product_over_dim<D, BWD_QUERIES>(dp, v, BWD_KEYS, d_o, s * stage);
    ptx::wgmma_commit();
    ptx::wgmma_pin(pb);
#pragma unroll
    for (int c = 0; c < BWD_QUERIES / 16; c++) // 16 queries: two atoms of 1024 bytes
      ptx::wgmma_op<D, 1>::rs(dv, pb + 4 * c, d_o.at(s * stage + c * 2048), 1);
    ptx::wgmma_commit();
    float2 delta[NS / 4]; // read while dP is on its way
#pragma unroll
    for (int j = 0; j < NS / 4; j++)
      delta[j] = *reinterpret_cast<const float2 *>(&sm.delta[s][8 * j + column]);
    ptx::wgmma_wait<1>();
    ptx::wgmma_pin(dp);

    // dS = P (dP - D)
#pragma unroll
    for (int j = 0; j < NS / 4; j++) {
      const float2 d = delta[j];
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const uint32_t pair = pb[2 * j + half];
        dsb[2 * j + half] =
            ptx::pack_bf16(__uint_as_float(pair << 16) * (dp[4 * j + 2 * half] - d.x),
                           __uint_as_float(pair & 0xffff0000) * (dp[4 * j + 2 * half + 1] - d.y));
      }
    }
    ptx::mbarrier_wait_by_warp(&sm.ds_empty[i % 2], i / 2 % 2 ^ 1, ds_here);
#pragma unroll
    for (int j = 0; j < NS / 8; j++)
      ptx::stmatrix_x4_trans(ds_row + i % 2 * sizeof sm.ds[0] + j * 16 * 128, dsb[4 * j], dsb[4 * j + 1],
                             dsb[4 * j + 2], dsb[4 * j + 3]);
    ptx::wgmma_pin(dsb);
    ptx::wgmma_fence();
#pragma unroll
    for (int c = 0; c < BWD_QUERIES / 16; c++)
      ptx::wgmma_op<D, 1>::rs(dk, dsb + 4 * c, q.at(s * stage + c * 2048), 1);
    ptx::wgmma_commit();
    ptx::fence_async_shared();
    ptx::mbarrier_arrive(&sm.ds_full[i % 2]);
    ptx::wgmma_wait<1>();
    ptx::wgmma_pin(pb);
    ptx::mbarrier_arrive(&sm.do_empty[s]);
    q_here = ptx::mbarrier_test(&sm.q_full[(i + 1) % BWD_STAGES], (i + 1) / BWD_STAGES % 2);
    ptx::wgmma_wait<0>();
    ptx::wgmma_pin(dsb);
    ptx::mbarrier_arrive(&sm.q_empty[s]);
  }
  ptx::wgmma_pin(dk);
  ptx::wgmma_pin(dv);

  // Deterministic, the loops of a group add in turn: each warp its rows, when that of the loop before has.
  int32_t *turn = nullptr;
  int loops_before = 0;
  if (p.sum_turns) {
    turn = p.sum_turns + (sm.head_kv * p.list.count + sm.place) * (BWD_KEYS / 16) + g * 4 + warp;
    loops_before = (sm.head - sm.head_kv * p.group) / p.loop;
    if (lane == 0)
      ptx::wait_for_count(turn, loops_before);
    __syncwarp();
  }
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const int key = key0 + 8 * half;
    if (key >= sm.item.rows)
      continue;
    const int slot = p.by_slot ? sm.item.partial : -1;
    const int64_t row = static_cast<int64_t>(sm.item.row + key) * (p.heads / p.group) + sm.head_kv;
    const int64_t out = (slot < 0 ? row : static_cast<int64_t>(slot) * BWD_KEYS + key) * D + column;
    const bool adds = p.dk_acc && (!p.by_slot || slot >= 0);
#pragma unroll
    for (int j = 0; j < D / 8; j++) {
      const int e = 4 * j + 2 * half;
      if (adds) {
        ptx::add_f32x2(p.dk_acc + out + 8 * j, dk[e] * p.scale, dk[e + 1] * p.scale);
        ptx::add_f32x2(p.dv_acc + out + 8 * j, dv[e], dv[e + 1]);
      } else {
        *reinterpret_cast<uint32_t *>(p.dk + out + 8 * j) =
            ptx::pack_bf16(dk[e] * p.scale, dk[e + 1] * p.scale);
        *reinterpret_cast<uint32_t *>(p.dv + out + 8 * j) = ptx::pack_bf16(dv[e], dv[e + 1]);
      }
    }
  }
  if (turn) {
    __syncwarp();
    if (lane == 0)
      ptx::store_release(turn, loops_before + 1);
  }
}

// Grid: items of a class x loops. Sections of loops one after the other; in each, longest items first. Near the end,
// the tail.
template <int D>
__global__ void __launch_bounds__(BWD_THREADS, 1) backward_kernel(const __grid_constant__ bwd_params p) {
  extern __shared__ char raw[];
  bwd_smem<D> &sm = *reinterpret_cast<bwd_smem<D> *>(raw + (-ptx::smem_addr(raw) & 1023));
  const int group = __shfl_sync(~0u, threadIdx.x / 128, 0);
  int work = blockIdx.x;
  if (p.turns) { // who waits for a turn waits for lower tickets, whose CTAs run already
    if (threadIdx.x == 0)
      sm.ticket = atomicAdd(p.turns + p.heads * p.tiles, 1);
    __syncthreads();
    work = ptx::same_in_warp(sm.ticket);
  }
  const bool in_tail = work >= p.tail_begin;
  const worklist_item *its = p.tail + (work - p.tail_begin);
  int head, place = 0; // place in the list: order of deterministic sums
  if (in_tail) {
    head = its->reserved;
  } else {
    const int first = work / (p.section * p.list.count) * p.section;
    const int beside = min(p.section, p.heads / p.loop - first), at = work - first * p.list.count;
    head = (first + at % beside) * p.loop;
    place = at / beside;
    its = p.list.items + (p.list.classes == 1 ? 0 : head / p.group * static_cast<int64_t>(p.list.count)) + place;
  }
  const worklist_item &item = *its;
  const int head_kv = head / p.group, steps = item.tiles * p.loop;
  if (threadIdx.x == 0) {
    sm.item = item;
    if (!in_tail)
      sm.item.partial = -1;
    sm.head_kv = head_kv;
    sm.head = head;
    sm.place = place;
    ptx::mbarrier_init(&sm.kv_full, 1);
    for (int s = 0; s < BWD_STAGES; s++) {
      ptx::mbarrier_init(&sm.q_full[s], 1);
      ptx::mbarrier_init(&sm.do_full[s], 1);
      ptx::mbarrier_init(&sm.q_empty[s], 256); // both key warpgroups: who has read arrives (forward_tile.cuh)
      ptx::mbarrier_init(&sm.do_empty[s], 256);
    }
    for (int b = 0; b < 2; b++) {
      ptx::mbarrier_init(&sm.ds_full[b], 256);
      ptx::mbarrier_init(&sm.ds_empty[b], 128);
      ptx::mbarrier_init(&sm.dq_full[b], 4);
      ptx::mbarrier_init(&sm.dq_empty[b], 1);
    }
    ptx::mbarrier_init_fence();
  }
  __syncthreads();
  if (group == 0) {
    ptx::registers_give<BWD_REGS_LOAD>();
    const int warp = ptx::same_in_warp(threadIdx.x / 32);
    if (threadIdx.x % 32 || warp > 1 || steps == 0)
      return; // now the compiler knows that a warp is one thread, whose values uniform registers may hold
    if (warp == 0)
      bwd_load<D>(p, sm, item, head, place);
    else
      bwd_add<D>(p, sm, steps);
  } else if (group == 1) {
    ptx::registers_give<BWD_REGS_DQ>();
    bwd_dq<D>(sm, steps);
  } else {
    ptx::registers_take<BWD_REGS_KEYS>();
    bwd_keys<D>(p, sm, steps, group - 2);
  }
}

} // namespace wgmma
#endif
