// backward.cuh -- attention backward on wgmma: dQ, dK, dV of one key tile and one KV head per CTA.
//
// A CTA keeps K and V of 128 keys in shared memory and dK, dV in registers while it loops over the
// group's query heads and the 64-query tiles that see its keys (kernels.md 2.2, 5.5 idea 2): no sum of
// dK or dV ever leaves the registers. Two consumer warpgroups own 64 keys each:
//   S^T = K Q^T   dP^T = V dO^T      accumulators laid out as the A operand of the next two
//   dV += P^T dO  dK  += dS^T Q      A from registers
//   dQ  = dS K                       dS through shared memory, each warpgroup half of the columns
// dQ is staged in fp32 and added to global memory by the copy engine (one warp a warpgroup), in
// accumulator order: backward_finish() puts it right. In steady state the exponentials of step i + 1
// run under dQ of step i, dS under dV, so the tensor cores always have a product queued.
#ifndef LONGCA_WGMMA_BACKWARD_CUH
#define LONGCA_WGMMA_BACKWARD_CUH

#include <cuda.h>
#include <cuda_bf16.h>
#include <stdint.h>
#include <type_traits>

#include "../ptx/bulk.cuh"
#include "../ptx/math.cuh"
#include "../ptx/sync.cuh"
#include "../ptx/tma.cuh"
#include "../ptx/wgmma.cuh"

namespace wgmma_bwd {

enum { kKeys = 128, kQueries = 64, kStages = 2, kThreads = 384 };
enum barrier_id { kDsWritten = 1, kDqFull = 2, kDqEmpty = 4 }; // the last two: + warpgroup

template <int D> struct alignas(1024) shared_memory {
  __nv_bfloat16 k[kKeys * D], v[kKeys * D];                           // [D / 64][keys][64], swizzled
  __nv_bfloat16 q[kStages][kQueries * D], d_o[kStages][kQueries * D]; // [D / 64][queries][64]
  __nv_bfloat16 ds[2][kKeys * kQueries];                              // [keys / 64][queries][64]
  float dq[2][kQueries * D / 2];                                      // [warpgroup][accumulator order]
  float lse2[kStages][kQueries], delta[kStages][kQueries];
  int32_t tile[kStages]; // 2 * query tile + (needs no mask)
  uint64_t kv_full, q_full[kStages], q_empty[kStages], do_full[kStages], do_empty[kStages];
};

struct item { // one CTA's work
  int32_t key_row, key_pos, keys; // local rows and mask position of its keys, at most 128
  int32_t kv_head, head, heads;   // query heads [head, head + heads)
  int32_t run, runs;              // its runs of query tiles
};
struct run {
  int32_t begin, end, full;
};

struct params {
  const item *items;
  const run *runs;
  const float *lse2, *delta; // [heads_q, rows_pad]: LSE / ln 2 (+inf: no key) and rowsum(dO O)
  float *dq_acc;             // [heads_q, rows_pad / 64][64 * D], accumulator order, zeroed
  __nv_bfloat16 *dk, *dv;    // [rows_k, heads_kv, D]
  int32_t heads_kv, rows_pad;
  float scale, scale_log2;
};

// The query tiles of an item, head by head.
struct walk {
  const run *first, *last, *at;
  int32_t tile, head;
  __device__ walk(const params &p, const item &w)
      : first(p.runs + w.run), last(first + w.runs), at(first), tile(at->begin), head(w.head) {}
  __device__ void next() {
    if (++tile < at->end)
      return;
    if (++at == last) {
      at = first;
      head++;
    }
    tile = at->begin;
  }
};

static __device__ __forceinline__ int32_t steps_of(const params &p, const item &w) {
  int32_t tiles = 0;
  for (int32_t r = w.run; r < w.run + w.runs; r++)
    tiles += p.runs[r].end - p.runs[r].begin;
  return tiles * w.heads;
}

// A [64, D] K-major times B [N, D] K-major.
template <int D, int N>
static __device__ __forceinline__ void product_over_dim(float (&acc)[N / 2], ptx::wgmma_desc a, int a_rows,
                                                        ptx::wgmma_desc b, int b_bytes) {
#pragma unroll
  for (int k = 0; k < D / 16; k++)
    ptx::wgmma_op<N, 0>::ss(acc, a.at(k / 4 * a_rows * 128 + k % 4 * 32),
                            b.at(b_bytes + k / 4 * N * 128 + k % 4 * 32), k != 0);
}

// Hands this warpgroup's half of dQ to the warp that adds it to global memory.
template <int D>
static __device__ __forceinline__ void stage_dq(shared_memory<D> &sm, int g, int t,
                                                const float (&dq)[D / 4]) {
  ptx::barrier_sync(kDqEmpty + g, 160);
#pragma unroll
  for (int j = 0; j < D / 16; j++)
    *reinterpret_cast<float4 *>(&sm.dq[g][(j * 128 + t) * 4]) =
        make_float4(dq[4 * j], dq[4 * j + 1], dq[4 * j + 2], dq[4 * j + 3]);
  ptx::fence_async_shared();
  ptx::barrier_arrive(kDqFull + g, 160);
}

template <int D, class Mask>
__global__ void __launch_bounds__(kThreads, 1)
    backward_kernel(const __grid_constant__ CUtensorMap map_q, const __grid_constant__ CUtensorMap map_k,
                    const __grid_constant__ CUtensorMap map_v, const __grid_constant__ CUtensorMap map_do,
                    const params p, const Mask mask) {
  extern __shared__ char raw[];
  shared_memory<D> &sm = *reinterpret_cast<shared_memory<D> *>(
      (reinterpret_cast<uintptr_t>(raw) + 1023) & ~static_cast<uintptr_t>(1023));
  const int group = __shfl_sync(~0u, threadIdx.x / 128, 0), warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
  const item w = p.items[blockIdx.x];
  const int32_t steps = steps_of(p, w);

  if (threadIdx.x == 0) {
    ptx::mbarrier_init(&sm.kv_full, 1);
    for (int s = 0; s < kStages; s++) {
      ptx::mbarrier_init(&sm.q_full[s], 1);
      ptx::mbarrier_init(&sm.do_full[s], 1);
      ptx::mbarrier_init(&sm.q_empty[s], 2);
      ptx::mbarrier_init(&sm.do_empty[s], 2);
    }
    ptx::mbarrier_init_fence();
  }
  __syncthreads();

  if (group == 0) {
    ptx::registers_give<32>();
    if (warp == 0 && lane == 0) { // loads
      ptx::mbarrier_arrive_expect(&sm.kv_full, 2 * sizeof sm.k);
      ptx::tma_load_4d(sm.k, &map_k, 0, w.key_row, 0, w.kv_head, &sm.kv_full);
      ptx::tma_load_4d(sm.v, &map_v, 0, w.key_row, 0, w.kv_head, &sm.kv_full);
      walk at(p, w);
      for (int32_t i = 0; i < steps; i++, at.next()) {
        const int s = i % kStages, parity = i / kStages % 2 ^ 1;
        const int64_t row = static_cast<int64_t>(at.head) * p.rows_pad + at.tile * kQueries;
        ptx::mbarrier_wait(&sm.q_empty[s], parity);
        sm.tile[s] = 2 * at.tile + at.at->full;
        ptx::mbarrier_arrive_expect(&sm.q_full[s], sizeof sm.q[s] + sizeof sm.lse2[s]);
        ptx::tma_load_4d(sm.q[s], &map_q, 0, at.tile * kQueries, 0, at.head, &sm.q_full[s]);
        ptx::bulk_load(sm.lse2[s], p.lse2 + row, sizeof sm.lse2[s], &sm.q_full[s]);
        ptx::mbarrier_wait(&sm.do_empty[s], parity);
        ptx::mbarrier_arrive_expect(&sm.do_full[s], sizeof sm.d_o[s] + sizeof sm.delta[s]);
        ptx::tma_load_4d(sm.d_o[s], &map_do, 0, at.tile * kQueries, 0, at.head, &sm.do_full[s]);
        ptx::bulk_load(sm.delta[s], p.delta + row, sizeof sm.delta[s], &sm.do_full[s]);
      }
    } else if (warp == 1 || warp == 2) { // adds one warpgroup's half of dQ to global memory
      const int g = warp - 1;
      walk at(p, w);
      ptx::barrier_arrive(kDqEmpty + g, 160);
      for (int32_t i = 0; i < steps; i++, at.next()) {
        ptx::barrier_sync(kDqFull + g, 160);
        if (lane == 0) {
          float *dst = p.dq_acc + (static_cast<int64_t>(at.head) * p.rows_pad + at.tile * kQueries) * D +
                       g * (kQueries * D / 2);
          ptx::bulk_add_f32(dst, sm.dq[g], sizeof sm.dq[g]);
          ptx::bulk_commit();
          ptx::bulk_wait_read<0>();
        }
        __syncwarp();
        if (i + 1 < steps)
          ptx::barrier_arrive(kDqEmpty + g, 160);
      }
      if (lane == 0)
        ptx::bulk_wait<0>();
    }
    return;
  }

  ptx::registers_take<240>();
  const int g = group - 1, t = threadIdx.x % 128;
  float dk[D / 2], dv[D / 2], s[kQueries / 2], dp[kQueries / 2], dq[D / 4];
  uint32_t pb[kQueries / 4];
#pragma unroll
  for (int i = 0; i < D / 2; i++)
    dk[i] = dv[i] = 0;
  const int key0 = 64 * g + 16 * warp + lane / 4; // this thread's keys: key0 and key0 + 8
  const int column = lane % 4 * 2;                // its queries: 8j + column and the next
  typename Mask::key_state seen_by[2] = {mask.key(w.kv_head, w.key_pos + key0, key0 < w.keys),
                                         mask.key(w.kv_head, w.key_pos + key0 + 8, key0 + 8 < w.keys)};

  const ptx::wgmma_desc desc_k(sm.k + g * 64 * 64, 0), desc_v(sm.v + g * 64 * 64, 0);
  const ptx::wgmma_desc desc_k_cols(sm.k + (D == 128 ? g * kKeys * 64 : g * 32), 0);
  const ptx::wgmma_desc desc_q(sm.q, kQueries * 128), desc_do(sm.d_o, kQueries * 128), desc_ds(sm.ds, 0);
  constexpr int stage = sizeof sm.q[0], ds_buffer = sizeof sm.ds[0];
  // stmatrix: lane l holds row l % 8 of matrix l / 8 = (query octet, key octet)
  char *const ds_row = reinterpret_cast<char *>(sm.ds) + g * (kQueries * 128) +
                       (lane / 16 * 8 + lane % 8) * 128 + ((2 * warp + lane / 8 % 2) ^ lane % 8) * 16;

  // P = exp(scale S - LSE) of the step whose S is in s, as the A operand of dV.
  const auto softmax = [&](int st) {
    const float *lse2 = sm.lse2[st] + column;
    const int32_t tile = sm.tile[st];
    float prob[kQueries / 2];
#pragma unroll
    for (int j = 0; j < kQueries / 8; j++) {
      const float2 l = *reinterpret_cast<const float2 *>(lse2 + 8 * j);
#pragma unroll
      for (int e = 0; e < 4; e++)
        prob[4 * j + e] = ptx::ex2(fmaf(s[4 * j + e], p.scale_log2, e % 2 ? -l.y : -l.x));
    }
    if (tile % 2 == 0) {
      const int32_t query = tile / 2 * kQueries + column;
#pragma unroll
      for (int j = 0; j < kQueries / 8; j++)
#pragma unroll
        for (int e = 0; e < 4; e++)
          if (!mask.sees(w.kv_head, seen_by[e / 2], query + 8 * j + e % 2, w.key_pos + key0 + e / 2 * 8))
            prob[4 * j + e] = 0;
    }
#pragma unroll
    for (int j = 0; j < kQueries / 4; j++)
      pb[j] = ptx::pack_bf16(prob[2 * j], prob[2 * j + 1]);
  };

  // One step, entered with P in pb; no product is in flight.
  const auto step = [&](int32_t i, auto last) {
    const int st = i % kStages;
    ptx::mbarrier_wait(&sm.do_full[st], i / kStages % 2);
    ptx::wgmma_fence();
    product_over_dim<D, kQueries>(dp, desc_v, kKeys, desc_do, st * stage);
    ptx::wgmma_commit();
    ptx::wgmma_fence();
#pragma unroll
    for (int k = 0; k < kQueries / 16; k++) // dV += P^T dO, 16 queries a product
      ptx::wgmma_op<D, 1>::rs(dv, pb + 4 * k, desc_do.at(st * stage + k * 2048), 1);
    ptx::wgmma_commit();

    ptx::wgmma_wait<1>();
    ptx::wgmma_pin(dp);
    const float *delta = sm.delta[st] + column;
    uint32_t dsb[kQueries / 4]; // dS = P (dP - D)
#pragma unroll
    for (int j = 0; j < kQueries / 8; j++) {
      const float2 d = *reinterpret_cast<const float2 *>(delta + 8 * j);
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const uint32_t pair = pb[2 * j + half];
        const float *grad = dp + 4 * j + 2 * half;
        dsb[2 * j + half] = ptx::pack_bf16(__uint_as_float(pair << 16) * (grad[0] - d.x),
                                           __uint_as_float(pair & 0xffff0000) * (grad[1] - d.y));
      }
    }
    char *const ds_out = ds_row + i % 2 * ds_buffer;
#pragma unroll
    for (int j = 0; j < kQueries / 16; j++)
      ptx::stmatrix_x4_trans(ds_out + j * 16 * 128, dsb[4 * j], dsb[4 * j + 1], dsb[4 * j + 2],
                             dsb[4 * j + 3]);
    ptx::fence_async_shared();

    // dK += dS^T Q; S of the next step; dQ = dS K once both warpgroups have written dS
    ptx::wgmma_fence();
#pragma unroll
    for (int k = 0; k < kQueries / 16; k++)
      ptx::wgmma_op<D, 1>::rs(dk, dsb + 4 * k, desc_q.at(st * stage + k * 2048), 1);
    ptx::wgmma_commit();
    if constexpr (!decltype(last)::value) {
      ptx::mbarrier_wait(&sm.q_full[st ^ 1], (i + 1) / kStages % 2);
      product_over_dim<D, kQueries>(s, desc_k, kKeys, desc_q, (st ^ 1) * stage);
      ptx::wgmma_commit();
    }
    ptx::wgmma_wait<decltype(last)::value ? 1 : 2>(); // dV: its P leaves the registers
    ptx::wgmma_pin(pb);
    if (t == 0)
      ptx::mbarrier_arrive(&sm.do_empty[st]);
    ptx::barrier_sync(kDsWritten, 256);
    ptx::wgmma_fence();
#pragma unroll
    for (int k = 0; k < kKeys / 16; k++)
      ptx::wgmma_op<D / 2, 1>::ss(dq, desc_ds.at(i % 2 * ds_buffer + k / 4 * kQueries * 128 + k % 4 * 32),
                                  desc_k_cols.at(k * 2048), k != 0);
    ptx::wgmma_commit();
    if constexpr (!decltype(last)::value) {
      ptx::wgmma_wait<2>();
      if (t == 0)
        ptx::mbarrier_arrive(&sm.q_empty[st]);
      ptx::wgmma_wait<1>();
      ptx::wgmma_pin(s);
      softmax(st ^ 1);
    }
    ptx::wgmma_wait<0>();
    ptx::wgmma_pin(dq);
    stage_dq<D>(sm, g, t, dq);
  };

  ptx::mbarrier_wait(&sm.kv_full, 0);
  ptx::mbarrier_wait(&sm.q_full[0], 0);
  ptx::wgmma_fence();
  product_over_dim<D, kQueries>(s, desc_k, kKeys, desc_q, 0);
  ptx::wgmma_commit();
  ptx::wgmma_wait<0>();
  ptx::wgmma_pin(s);
  softmax(0);
#pragma unroll 1
  for (int32_t i = 0; i < steps - 1; i++)
    step(i, std::false_type());
  step(steps - 1, std::true_type());
  ptx::wgmma_pin(dk);
  ptx::wgmma_pin(dv);

  const int64_t stride = static_cast<int64_t>(p.heads_kv) * D;
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const int key = key0 + 8 * half;
    if (key >= w.keys)
      continue;
    const int64_t out = (w.key_row + key) * stride + w.kv_head * D + column;
#pragma unroll
    for (int j = 0; j < D / 8; j++) {
      const int e = 4 * j + 2 * half;
      *reinterpret_cast<uint32_t *>(p.dk + out + 8 * j) =
          ptx::pack_bf16(dk[e] * p.scale, dk[e + 1] * p.scale);
      *reinterpret_cast<uint32_t *>(p.dv + out + 8 * j) = ptx::pack_bf16(dv[e], dv[e + 1]);
    }
  }
}

} // namespace wgmma_bwd
#endif
