// backward.cuh -- attention backward on mma.sync (sm_80 and later), over any mask representation.
//
// A CTA of 8 warps owns 128 keys of one KV head and walks the queries that see them, 64 at a time,
// for every query head of the group: dK and dV are summed in registers, in fp32, and rounded once.
// Per step
//   S = Q K^T   dP = dO V^T   P = 2^(S c - lse)   dS = P (dP - D)   dV += P^T dO   dK += dS^T Q
//   dQ += dS K by fp32 reductions to memory.
// P and dS pass through shared memory, for the warps' layouts differ: S, dP and dQ are cut 2 x 4
// into 32 queries x 32 keys (or dims), dV and dK 4 x 2 into 32 keys x DIM / 2. Too few key tiles
// for the chip: the group's heads are split over CTAs, which add into fp32 buffers.
#ifndef LONGCA_MMA_BACKWARD_CUH
#define LONGCA_MMA_BACKWARD_CUH

#include "../ptx/bulk.cuh"
#include "engine.h"
#include "tile.cuh"

namespace mma {

constexpr int BWD_KEYS = MMA_BWD_KEYS, BWD_QUERIES = MMA_BWD_QUERIES, BWD_THREADS = 256;

template<class Rep> struct backward_args {
  const bf16 *q, *k, *v, *d_o; // as in forward_args
  const float *lse_log2;       // [heads_q, rows_q] lse * log2(e); +inf where no key is visible
  const float *delta;          // [heads_q, rows_q] D = rowsum(dO * O)
  float *dq_acc;               // [rows_q, heads_q, DIM], added to
  bf16 *dk, *dv;               // [rows_k, heads_kv, DIM], or NULL:
  float *dk_acc, *dv_acc;      // the same in fp32, added to
  int32_t rows_q, heads_q, heads_kv, splits;
  float scale, scale_log2;
  worklist_view list;
  Rep rep;
};

struct head_tile : inner { // limit 0: the end
  int32_t head;
};

// BULK, on sm_90: dQ leaves through shared memory and the copy engine's reductions, a row at a time
// (smaller pieces are slower). Reductions from registers stall the warps that issue them for a
// fifth of the time.
template<int DIM, bool BULK> struct backward_smem {
  static constexpr int DQ_PITCH = DIM + 8; // floats; 8 rows by 8 bytes a thread then miss no bank
  bf16 k[BWD_KEYS * DIM], v[BWD_KEYS * DIM];
  bf16 q[2][BWD_QUERIES * DIM], d_o[2][BWD_QUERIES * DIM];
  bf16 p[BWD_QUERIES * BWD_KEYS], ds[BWD_QUERIES * BWD_KEYS];
  float dq[BULK ? BWD_QUERIES * DQ_PITCH : 4];
  float lse[2][BWD_QUERIES], delta[2][BWD_QUERIES];
  head_tile tile[3]; // of the steps before, now and next: step % 3
  worklist_item item;
};

// Accumulator columns (2t, 2t + 1) of two rows, x: even lanes reduce row g, odd ones row g + 8.
__device__ __forceinline__ void reduce_pairs(float *row_g, float *row_g8, bool there_g,
                                             bool there_g8, const float (&x)[4], float scale) {
  const bool odd = threadIdx.x % 2;
  const float a = __shfl_xor_sync(~0u, odd ? x[0] : x[2], 1),
              b = __shfl_xor_sync(~0u, odd ? x[1] : x[3], 1);
  if (odd ? there_g8 : there_g)
    ptx::reduce_add_4(odd ? row_g8 : row_g, (odd ? a : x[0]) * scale, (odd ? b : x[1]) * scale,
                      (odd ? x[2] : a) * scale, (odd ? x[3] : b) * scale);
}

template<class Rep, int DIM>
__global__ void __launch_bounds__(BWD_THREADS, 1)
    backward(const __grid_constant__ backward_args<Rep> p) {
#if __CUDA_ARCH__ >= 900
  constexpr bool BULK = true;
#else
  constexpr bool BULK = false;
#endif
  using Smem = backward_smem<DIM, BULK>;
  extern __shared__ __align__(128) char smem_raw[];
  Smem &smem = *reinterpret_cast<Smem *>(smem_raw);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int warp_q = warp % 2 * 32,
            warp_k = warp / 2 * 32;        // corner of S, dP, dQ; rows of dK and dV
  const int warp_d = warp % 2 * (DIM / 2); // columns of dK and dV
  const int group = p.heads_q / p.heads_kv, heads_each = group / p.splits;
  const int head_kv = blockIdx.y / p.splits, head_mask = p.list.classes > 1 ? head_kv : 0;
  const int32_t pitch_q = p.heads_q * DIM, pitch_k = p.heads_kv * DIM;
  const worklist_item &item = smem.item;
  if (threadIdx.x == 0) {
    smem.item = p.list.items[(int64_t)head_mask * p.list.count + blockIdx.x];
    smem.item.reserved = head_kv * DIM; // read again at the end: no register keeps it in the loop
  }
  __syncthreads();

  // The tiles to fetch: every tile of the item, for one head of the group after the other.
  walk<BWD_QUERIES> tiles(p.list, item);
  int head = head_kv * group + blockIdx.y % p.splits * heads_each, heads_left = heads_each;
  auto fetch = [&](int step) {
    const int s = step % 2;
    if (tiles.more()) {
      const inner next = tiles.tile();
      const int64_t from = (int64_t)next.row * pitch_q + head * DIM;
      load<DIM, BWD_QUERIES, BWD_THREADS>(ptx::smem_addr(smem.q[s]), p.q + from, pitch_q,
                                          next.limit);
      load<DIM, BWD_QUERIES, BWD_THREADS>(ptx::smem_addr(smem.d_o[s]), p.d_o + from, pitch_q,
                                          next.limit);
      if (threadIdx.x < 2 * BWD_QUERIES) { // zeros past the limit do no harm: so are Q and dO
        const int row = threadIdx.x % BWD_QUERIES;
        const bool second = threadIdx.x >= BWD_QUERIES;
        ptx::copy_async_4(ptx::smem_addr(second ? &smem.delta[s][row] : &smem.lse[s][row]),
                          (second ? p.delta : p.lse_log2) + (int64_t)head * p.rows_q + next.row +
                              row,
                          row < next.limit);
      }
      if (threadIdx.x == 0)
        static_cast<inner &>(smem.tile[step % 3]) = next, smem.tile[step % 3].head = head;
      tiles.advance();
      if (!tiles.more() && --heads_left)
        tiles.restart(), head++;
    } else if (threadIdx.x == 0)
      smem.tile[step % 3].limit = 0;
    ptx::copy_async_commit();
  };

  const bf16 *keys = p.k + (int64_t)item.row * pitch_k + item.reserved;
  const bf16 *values = p.v + (int64_t)item.row * pitch_k + item.reserved;
  const uint32_t sk = ptx::smem_addr(smem.k), sv = ptx::smem_addr(smem.v);
  load<DIM, BWD_KEYS, BWD_THREADS>(sk, keys, pitch_k, item.rows);
  load<DIM, BWD_KEYS, BWD_THREADS>(sv, values, pitch_k, item.rows);
  fetch(0);

  // Row `lane` of this warp's eighth of the staged dQ of a tile, added to memory.
  auto add_dq = [&](const head_tile &tile) {
    const int row = warp * (BWD_QUERIES / 8) + lane;
    if (lane < BWD_QUERIES / 8 && row < tile.limit)
      ptx::bulk_add_f32(p.dq_acc + (int64_t)(tile.row + row) * pitch_q + tile.head * DIM,
                        smem.dq + row * Smem::DQ_PITCH, DIM * sizeof(float));
    ptx::bulk_commit();
  };

  float dk[2][DIM / 16][4] = {}, dv[2][DIM / 16][4] = {};
  for (int step = 0;; step++) {
    const int stage = step % 2;
    ptx::copy_async_wait<0>();
    // This tile is there, dQ is staged, every warp is done with the other stage, P and dS.
    __syncthreads();
    if constexpr (BULK) {
      if (step > 0)
        add_dq(smem.tile[(step + 2) % 3]);
    }
    fetch(step + 1);
    const head_tile tile = smem.tile[step % 3];
    if (tile.limit == 0)
      break;
    const uint32_t tq = ptx::smem_addr(smem.q[stage]), tdo = ptx::smem_addr(smem.d_o[stage]);

    // S = Q K^T and dP = dO V^T
    float s[2][4][4] = {}, dp[2][4][4] = {};
    auto product = [&](float(&out)[2][4][4], uint32_t x, uint32_t y) {
#pragma unroll
      for (int d = 0; d < DIM; d += 16) {
        uint32_t a[2][4], b[2][4];
#pragma unroll
        for (int i = 0; i < 2; i++) {
          load_a<DIM>(a[i], x, warp_q + 16 * i, d);
          load_b<DIM>(b[i], y, warp_k + 16 * i, d);
        }
#pragma unroll
        for (int m = 0; m < 2; m++)
#pragma unroll
          for (int n = 0; n < 4; n++)
            ptx::mma_bf16(out[m][n], a[m], b[n / 2][n % 2 * 2], b[n / 2][n % 2 * 2 + 1]);
      }
    };
    product(s, tq, sk);
    if (!tile.full || item.rows < BWD_KEYS)
      hide(s, p.rep, head_mask, warp_q + lane / 4, tile.limit, tile.pos, item.pos + warp_k,
           item.pos + item.rows);
    product(dp, tdo, sv);

    // P and dS; row i of this thread is warp_q + 8 i + lane / 4
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const int row = warp_q + i * 8 + lane / 4;
      const float lse = smem.lse[stage][row], delta = smem.delta[stage][row];
      float prob[4][2];
#pragma unroll
      for (int n = 0; n < 4; n++)
#pragma unroll
        for (int c = 0; c < 2; c++)
          prob[n][c] = ptx::ex2(fmaf(s[i / 2][n][i % 2 * 2 + c], p.scale_log2, -lse));
#pragma unroll
      for (int n = 0; n < 4; n++) {
        const float *x = &dp[i / 2][n][i % 2 * 2];
        const uint32_t to = at<BWD_KEYS>(0, row, (warp_k + n * 8) / 8) + lane % 4 * 4;
        *reinterpret_cast<uint32_t *>(reinterpret_cast<char *>(smem.p) + to) =
            ptx::pack_bf16(prob[n][0], prob[n][1]);
        *reinterpret_cast<uint32_t *>(reinterpret_cast<char *>(smem.ds) + to) =
            ptx::pack_bf16(prob[n][0] * (x[0] - delta), prob[n][1] * (x[1] - delta));
      }
    }
    if constexpr (BULK)
      ptx::bulk_wait_read<0>();
    __syncthreads(); // P and dS are there; the dQ before has left
    const uint32_t sp = ptx::smem_addr(smem.p), sds = ptx::smem_addr(smem.ds);

    // dV += P^T dO, dK += dS^T Q
    auto transposed = [&](float(&out)[2][DIM / 16][4], uint32_t x, uint32_t y) {
#pragma unroll
      for (int q = 0; q < BWD_QUERIES; q += 16) {
        uint32_t a[2][4];
        load_a_trans<BWD_KEYS>(a[0], x, q, warp_k);
        load_a_trans<BWD_KEYS>(a[1], x, q, warp_k + 16);
#pragma unroll
        for (int n = 0; n < DIM / 16; n += 2) {
          uint32_t b[4];
          load_b_trans<DIM>(b, y, q, warp_d + n * 8);
#pragma unroll
          for (int m = 0; m < 2; m++) {
            ptx::mma_bf16(out[m][n], a[m], b[0], b[1]);
            ptx::mma_bf16(out[m][n + 1], a[m], b[2], b[3]);
          }
        }
      }
    };
    transposed(dv, sp, tdo);
    transposed(dk, sds, tq);

    // dQ = dS K: 32 queries x DIM / 4 a warp
    float dq[2][DIM / 32][4] = {};
    const int col = warp / 2 * (DIM / 4);
#pragma unroll
    for (int k = 0; k < BWD_KEYS; k += 16) {
      uint32_t a[2][4];
      load_a<BWD_KEYS>(a[0], sds, warp_q, k);
      load_a<BWD_KEYS>(a[1], sds, warp_q + 16, k);
#pragma unroll
      for (int n = 0; n < DIM / 32; n += 2) {
        uint32_t b[4];
        load_b_trans<DIM>(b, sk, k, col + n * 8);
#pragma unroll
        for (int m = 0; m < 2; m++) {
          ptx::mma_bf16(dq[m][n], a[m], b[0], b[1]);
          ptx::mma_bf16(dq[m][n + 1], a[m], b[2], b[3]);
        }
      }
    }
#pragma unroll
    for (int m = 0; m < 2; m++) {
      const int row = warp_q + 16 * m + lane / 4;
#pragma unroll
      for (int n = 0; n < DIM / 32; n++) {
        if constexpr (BULK) {
          float *to = smem.dq + row * Smem::DQ_PITCH + col + n * 8 + lane % 4 * 2;
          *reinterpret_cast<float2 *>(to) =
              make_float2(dq[m][n][0] * p.scale, dq[m][n][1] * p.scale);
          *reinterpret_cast<float2 *>(to + 8 * Smem::DQ_PITCH) =
              make_float2(dq[m][n][2] * p.scale, dq[m][n][3] * p.scale);
        } else {
          const head_tile &here = smem.tile[step % 3]; // again: registers are short
          float *to = p.dq_acc + (int64_t)(here.row + row) * pitch_q + here.head * DIM + col +
                      n * 8 + lane % 4 / 2 * 4;
          reduce_pairs(to, to + 8 * pitch_q, row < here.limit, row + 8 < here.limit, dq[m][n],
                       p.scale);
        }
      }
    }
    if constexpr (BULK)
      ptx::fence_async_shared(); // before the barrier after which the copy engine reads dQ
  }

  if constexpr (BULK) {
    ptx::bulk_wait_read<0>(); // shared memory must outlive its readers
  }

  // dK and dV: rows warp_k + 16 m + lane / 4 (+ 8)
#pragma unroll
  for (int m = 0; m < 2; m++) {
    const int row = warp_k + 16 * m + lane / 4;
    const int64_t to = (int64_t)(item.row + row) * pitch_k + item.reserved + warp_d;
    const bool there = row < item.rows, there8 = row + 8 < item.rows;
#pragma unroll
    for (int n = 0; n < DIM / 16; n++) {
      if (p.dk_acc) {
        const int64_t four = to + n * 8 + lane % 4 / 2 * 4;
        reduce_pairs(p.dk_acc + four, p.dk_acc + four + 8 * pitch_k, there, there8, dk[m][n],
                     p.scale);
        reduce_pairs(p.dv_acc + four, p.dv_acc + four + 8 * pitch_k, there, there8, dv[m][n], 1);
        continue;
      }
      const int64_t two = to + n * 8 + lane % 4 * 2;
#pragma unroll
      for (int c = 0; c < 4; c += 2)
        if (c ? there8 : there) {
          *reinterpret_cast<uint32_t *>(p.dk + two + c * 4 * pitch_k) =
              ptx::pack_bf16(dk[m][n][c] * p.scale, dk[m][n][c + 1] * p.scale);
          *reinterpret_cast<uint32_t *>(p.dv + two + c * 4 * pitch_k) =
              ptx::pack_bf16(dv[m][n][c], dv[m][n][c + 1]);
        }
    }
  }
}

} // namespace mma
#endif
