// backward_dq.cuh -- dQ of the backward kernel: a warpgroup multiplies dS K, and a thread of the loader's has the copy
// engine add the product to fp32 global memory, in accumulator order.
#ifndef LONGCA_WGMMA_BACKWARD_DQ_CUH
#define LONGCA_WGMMA_BACKWARD_DQ_CUH

#include "../ptx/bulk.cuh"
#include "../ptx/wgmma.cuh"
#include "backward_shared.cuh"

namespace wgmma {

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
template <int D> static __device__ void bwd_dq(bwd_smem<D> &sm, int steps) {
  constexpr int halves = D / 64;
  const int t = threadIdx.x % 128;
  const ptx::wgmma_desc ds(sm.ds, 0), k(sm.k, BWD_KEYS * 128);
  float dq[32];
  int part0 = 0, part1 = 0; // of the step to come, as the key warpgroups know them
  if (steps > 0) {
    ptx::mbarrier_wait(&sm.ds_full[0], 0);
    part0 = sm.step[0].part[0];
    part1 = sm.step[0].part[1];
  }
#pragma unroll 1
  for (int i = 0; i < steps; i++) {
    const int b = i % 2;
    ptx::mbarrier_wait(&sm.ds_full[b], i / 2 % 2);
    const bool both = __all_sync(~0u, (part0 | part1) >= 0);
    const int first = __any_sync(~0u, part0 < 0) ? 64 : 0; // key of the half that is multiplied
#pragma unroll
    for (int h = 0; h < halves; h++) {
      const uint64_t ds_at = ds.at(b * sizeof sm.ds[0] + first * 128), k_at = k.at((h * BWD_KEYS + first) * 128);
      if (both)
        bwd_dq_product<BWD_KEYS>(dq, ds_at, k_at);
      else
        bwd_dq_product<BWD_KEYS / 2>(dq, ds_at, k_at);
      if (h == 0) {
        part0 = sm.step[(i + 1) % BWD_STEPS].part[0];
        part1 = sm.step[(i + 1) % BWD_STEPS].part[1];
      }
      if (h == halves - 1)
        ptx::mbarrier_arrive(&sm.ds_empty[b]);
      ptx::mbarrier_wait(&sm.dq_empty[h], i % 2 ^ 1); // the copy engine has read this half of the tile before
      float *const half = sm.dq + h * (BWD_QUERIES * 64);
#pragma unroll
      for (int j = 0; j < 8; j++)
        *reinterpret_cast<float4 *>(half + (j * 128 + t) * 4) =
            make_float4(dq[4 * j], dq[4 * j + 1], dq[4 * j + 2], dq[4 * j + 3]);
      ptx::fence_async_shared();
      __syncwarp();
      if (t % 32 == 0)
        ptx::mbarrier_arrive(&sm.dq_full[h]);
    }
  }
}

// One thread adds what the dQ warpgroup leaves in shared memory. Deterministic, it asks for its turn at a tile when it
// has added the one before, and counts that one a step later, so as not to wait for it to arrive; but at once where the
// turn is not there yet, since then others may wait too.
template <int D> static __device__ void bwd_add(const bwd_params &p, bwd_smem<D> &sm, int steps) {
  constexpr int halves = D / 64, floats = BWD_QUERIES * 64;
  int32_t *owed = nullptr; // the count of the tile before
  ptx::mbarrier_wait(&sm.dq_full[0], 0);
#pragma unroll 1
  for (int i = 0; i < steps; i++) { // who has seen a barrier of step i - 1 knows step i
    const int tile = sm.step[i % BWD_STEPS].tile;
    if (p.turns) {
      const int turn = sm.turn[i % BWD_STEPS];
      if (!ptx::count_is(p.turns + tile, turn)) {
        if (owed) {
          ptx::bulk_wait<0>();
          ptx::count_after_bulk(owed);
          owed = nullptr;
        }
        ptx::wait_for_count(p.turns + tile, turn);
      }
    }
#pragma unroll
    for (int h = 0; h < halves; h++) {
      ptx::mbarrier_wait(&sm.dq_full[h], i % 2);
      ptx::bulk_add_f32(p.dq_acc + static_cast<int64_t>(tile) * (BWD_QUERIES * D) + h * floats, sm.dq + h * floats,
                        floats * sizeof(float));
      ptx::bulk_commit();
      ptx::bulk_wait_read<halves - 1>(); // of two halves, the one before has been read
      if (halves == 1 || i > 0 || h > 0)
        ptx::mbarrier_arrive(&sm.dq_empty[(h + 1) % halves]);
    }
    if (owed) {
      ptx::bulk_wait<halves>(); // the sums must be there, not only on their way
      ptx::count_after_bulk(owed);
    }
    owed = p.turns ? p.turns + tile : nullptr;
  }
  ptx::bulk_wait<0>();
  if (owed)
    ptx::count_after_bulk(owed);
}

} // namespace wgmma
#endif
