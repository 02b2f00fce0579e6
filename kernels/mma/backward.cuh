// backward.cuh -- attention backward on mma.sync (sm_80 and later), over any mask representation.
//
// A CTA owns KEYS keys of one KV head and walks the queries that see them, 64 at a time, for every
// query head of the group: dK and dV are summed in registers, in fp32, and rounded once. Per step
//   S = Q K^T   dP = dO V^T   P = 2^(S c - lse)   dS = P (dP - D)   dV += P^T dO   dK += dS^T Q
//   dQ += dS K by fp32 reductions into a workspace (dq.cuh).
// P and dS pass through shared memory, for the warps' layouts differ: S, dP and dQ are cut
// 2 x KEYS / 32 into 32 queries x 32 keys (or a part of the dims), dV and dK KEYS / 32 x 2 into
// 32 keys x DIM / 2. The last items are cut into pieces of fewer steps (pieces.cuh), which add into
// fp32 sums.
//
// KEYS 128: 8 warps, one CTA a multiprocessor. KEYS 64, for lists of such blocks: 4 warps with the
// same work each, two CTAs, which must do with half the memory: dQ is staged where Q and dO lay.
#ifndef LONGCA_MMA_BACKWARD_CUH
#define LONGCA_MMA_BACKWARD_CUH

#include "backward_shared.cuh"
#include "dq.cuh"

namespace mma {

template<class Rep, int DIM, int KEYS>
__global__ void __launch_bounds__(2 * KEYS, 128 / KEYS)
    backward(const __grid_constant__ backward_args<Rep> p) {
#if __CUDA_ARCH__ >= 900 || defined(LONGCA_EMULATED)
  constexpr bool BULK = true;
#else
  constexpr bool BULK = false;
#endif
  using Smem = backward_smem<DIM, KEYS, BULK>;
  constexpr int THREADS = 2 * KEYS;
  static_assert(!BULK || 128 / KEYS * (sizeof(Smem) + 1024) <= 228 << 10, "too much shared memory");
  constexpr int DQ_DIMS = DIM / (KEYS / 32); // columns of dQ a warp
  extern __shared__ __align__(128) char smem_raw[];
  Smem &smem = *reinterpret_cast<Smem *>(smem_raw);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int warp_q = warp % 2 * 32,
            warp_k = warp / 2 * 32;        // corner of S, dP, dQ; rows of dK and dV
  const int warp_d = warp % 2 * (DIM / 2); // columns of dK and dV
  const int group = p.heads_q / p.heads_kv;
  const int32_t pitch_q = p.heads_q * DIM, pitch_k = p.heads_kv * DIM;
  const worklist_item &item = smem.item;
  // The tiles to fetch: of the item's for one head of the group after the other, those of this piece.
  // Thread 0 goes over them two steps ahead, so that nobody waits for what it reads.
  auto put_tile = [&](int step) {
    int4 &at = smem.at;
    head_tile next = {};
    if (at.w > 0) {
      walk<BWD_QUERIES> tiles(p.list, item, at.x, at.y);
      const inner x = tiles.tile();
      next = {x.row, x.pos, at.z, x.full ? head_tile::FULL : x.limit};
      tiles.advance();
      const bool again = !tiles.more();
      if (again)
        tiles.restart();
      at = make_int4(tiles.run, tiles.left, at.z + again, at.w - 1);
    }
    smem.tile[step % 4] = next;
  };
  if (threadIdx.x == 0) { // in shared memory: no register keeps these in the loop
    mma_piece piece = {(int32_t)blockIdx.x, 0, -1, -1};
    if (piece.item >= p.whole)
      piece = p.pieces[piece.item - p.whole];
    const int head_kv = piece.item / p.list.count, place = piece.item % p.list.count;
    smem.item = p.list.items[(p.list.classes > 1 ? (int64_t)head_kv * p.list.count : 0) + place];
    smem.item.reserved = head_kv * DIM;
    smem.sums = piece.sums;
    walk<BWD_QUERIES> tiles(p.list, item);
    if (piece.begin > 0)
      tiles.skip(piece.begin % item.tiles);
    smem.at = make_int4(tiles.run, tiles.left,
                        head_kv * group + (piece.begin > 0 ? piece.begin / item.tiles : 0),
                        piece.steps < 0 ? item.tiles * group : piece.steps);
    put_tile(0);
    put_tile(1);
  }
  __syncthreads();
  const int head_mask = p.list.classes > 1 ? item.reserved / DIM : 0;

  // Its Q and dO, by copies begin, ..., end - 1 of each thread; LSE and D.
  constexpr int COPIES = BWD_QUERIES * DIM / 8 / THREADS;
  auto copy_rows = [&](const head_tile &next, int step, int begin, int end) {
    auto &in = smem.in[step % 2];
    const int64_t from = (int64_t)next.row * pitch_q + next.head * DIM;
    load<DIM, BWD_QUERIES, THREADS>(ptx::smem_addr(in.q), p.q + from, pitch_q, next.limit(), begin, end);
    load<DIM, BWD_QUERIES, THREADS>(ptx::smem_addr(in.d_o), p.d_o + from, pitch_q, next.limit(), begin,
                                    end);
  };
  auto copy_numbers = [&](const head_tile &next) {
    if (threadIdx.x < 2 * BWD_QUERIES) { // zeros past the limit do no harm: so are Q and dO
      const int row = threadIdx.x % BWD_QUERIES;
      const bool second = threadIdx.x >= BWD_QUERIES;
      ptx::copy_async_4(ptx::smem_addr(second ? &smem.delta[row] : &smem.lse[row]),
                        (second ? p.delta : p.lse_log2) + (int64_t)next.head * p.rows_q + next.row + row,
                        row < next.limit());
    }
    ptx::copy_async_commit();
  };

  const bf16 *keys = p.k + (int64_t)item.row * pitch_k + item.reserved;
  const bf16 *values = p.v + (int64_t)item.row * pitch_k + item.reserved;
  const uint32_t sk = ptx::smem_addr(smem.k), sv = ptx::smem_addr(smem.v);
  load<DIM, KEYS, THREADS>(sk, keys, pitch_k, item.rows);
  load<DIM, KEYS, THREADS>(sv, values, pitch_k, item.rows);
  copy_rows(smem.tile[0], 0, 0, COPIES);
  copy_numbers(smem.tile[0]);

  float dk[2][DIM / 16][4] = {}, dv[2][DIM / 16][4] = {};
  for (int step = 0;; step++) {
    const int stage = step % 2;
    ptx::copy_async_wait<0>();
    // This tile is there, dQ is staged, every warp is done with the other stage, P and dS.
    __syncthreads();
    if constexpr (BULK) {
      if (threadIdx.x == 0 && step > 0) { // the rows of a tile are one piece of memory
        const head_tile &before = smem.tile[(step + 3) % 4];
        ptx::bulk_add_f32(p.dq + ((int64_t)before.head * p.rows_q + before.row) * DIM,
                          Smem::STAGE_DQ ? smem.dq : (const float *)&smem.in[stage ^ 1],
                          before.limit() * DIM * sizeof(float));
        ptx::bulk_commit();
      }
    }
    if (smem.tile[step % 4].rows == 0)
      break;

    // S = Q K^T and dP = dO V^T
    float s[2][4][4] = {}, dp[2][4][4] = {};
    const uint32_t tq = ptx::smem_addr(smem.in[stage].q);
    constexpr uint32_t TO_DO = BWD_QUERIES * DIM * 2, TO_V = KEYS * DIM * 2, // bytes from Q, K, P
        TO_DS = BWD_QUERIES * KEYS * 2;
    auto product = [&](float(&out)[2][4][4], uint32_t to_x, uint32_t to_y) {
      const fragments<DIM> x(tq, warp_q, 0, true), y(sk, warp_k, 0, false);
#pragma unroll
      for (int d = 0; d < DIM; d += 16) {
        uint32_t a[2][4], b[2][4];
#pragma unroll
        for (int i = 0; i < 2; i++) {
          x.load(a[i], 16 * i, d, to_x);
          y.load(b[i], 16 * i, d, to_y);
        }
#pragma unroll
        for (int m = 0; m < 2; m++)
#pragma unroll
          for (int n = 0; n < 4; n++)
            ptx::mma_bf16(out[m][n], a[m], b[n / 2][n % 2 * 2], b[n / 2][n % 2 * 2 + 1]);
      }
    };
    product(s, 0, 0);
    const head_tile &tile = smem.tile[step % 4];
    if (tile.rows != head_tile::FULL || item.rows < KEYS)
      hide(s, p.rep, head_mask, warp_q + lane / 4, tile.limit(), tile.pos, item.pos + warp_k,
           item.pos + item.rows);
    product(dp, TO_DO, TO_V);

    // P and dS; row i of this thread is warp_q + 8 i + lane / 4
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const int row = warp_q + i * 8 + lane / 4;
      const float lse = smem.lse[row], delta = smem.delta[row];
      float prob[4][2];
#pragma unroll
      for (int n = 0; n < 4; n++)
#pragma unroll
        for (int c = 0; c < 2; c++)
          prob[n][c] = ptx::ex2(fmaf(s[i / 2][n][i % 2 * 2 + c], p.scale_log2, -lse));
#pragma unroll
      for (int n = 0; n < 4; n++) {
        const float *x = &dp[i / 2][n][i % 2 * 2];
        const uint32_t to = at<KEYS>(0, row, (warp_k + n * 8) / 8) + lane % 4 * 4;
        *reinterpret_cast<uint32_t *>(reinterpret_cast<char *>(smem.p) + to) =
            ptx::pack_bf16(prob[n][0], prob[n][1]);
        *reinterpret_cast<uint32_t *>(reinterpret_cast<char *>(smem.ds) + to) =
            ptx::pack_bf16(prob[n][0] * (x[0] - delta), prob[n][1] * (x[1] - delta));
      }
    }
    if constexpr (BULK) {
      if (threadIdx.x == 0)
        ptx::bulk_wait_read<0>();
    }
    __syncthreads(); // P and dS are there; the dQ before has left
    if (threadIdx.x == 0)
      put_tile(step + 2);
    const uint32_t sp = ptx::smem_addr(smem.p);

    // dV += P^T dO, dK += dS^T Q
    auto transposed = [&](float(&out)[2][DIM / 16][4], uint32_t to_x, uint32_t to_y, auto beside) {
      const fragments<KEYS> x(sp, 0, warp_k, false);
      const fragments<DIM> y(tq, 0, warp_d, true);
#pragma unroll
      for (int q = 0; q < BWD_QUERIES; q += 16) {
        uint32_t a[2][4];
        x.load_trans(a[0], q, 0, to_x);
        x.load_trans(a[1], q, 16, to_x);
#pragma unroll
        for (int n = 0; n < DIM / 16; n += 2) {
          uint32_t b[4];
          y.load_trans(b, q, n * 8, to_y);
#pragma unroll
          for (int m = 0; m < 2; m++) {
            ptx::mma_bf16(out[m][n], a[m], b[0], b[1]);
            ptx::mma_bf16(out[m][n + 1], a[m], b[2], b[3]);
          }
        }
        beside(q / 16);
      }
    };
    // The next tile is asked for bit by bit: after all its copies at once every warp's fragments would
    // queue, 700 clocks a step.
    const head_tile next = smem.tile[(step + 1) % 4];
    transposed(dv, 0, TO_DO, [&](int i) {
      copy_rows(next, step + 1, i * COPIES / 4, (i + 1) * COPIES / 4);
    });
    copy_numbers(next);
    transposed(dk, TO_DS, 0, [](int) {});

    // dQ = dS K: 32 queries x DQ_DIMS a warp
    float dq[2][DQ_DIMS / 8][4] = {};
    const int col = warp / 2 * DQ_DIMS;
    const fragments<KEYS> x(sp, warp_q, 0, true);
    const fragments<DIM> y(sk, 0, col, true);
#pragma unroll
    for (int k = 0; k < KEYS; k += 16) {
      uint32_t a[2][4];
      x.load(a[0], 0, k, TO_DS);
      x.load(a[1], 16, k, TO_DS);
#pragma unroll
      for (int n = 0; n < DQ_DIMS / 8; n += 2) {
        uint32_t b[4];
        y.load_trans(b, k, n * 8);
#pragma unroll
        for (int m = 0; m < 2; m++) {
          ptx::mma_bf16(dq[m][n], a[m], b[0], b[1]);
          ptx::mma_bf16(dq[m][n + 1], a[m], b[2], b[3]);
        }
      }
    }
    if constexpr (BULK && !Smem::STAGE_DQ)
      __syncthreads(); // every warp is done with Q and dO, where dQ comes now
#pragma unroll
    for (int n = 0; n < DQ_DIMS / 8; n++) {
      const int to = (warp_q + lane / 4) * DIM +
                     dq_chunk(tile.row + lane / 4, col / 8 + n) * 8; // the same 8 rows further
#pragma unroll
      for (int m = 0; m < 2; m++) {
        const float(&x)[4] = dq[m][n];
        if constexpr (BULK) {
          float *at_row = (Smem::STAGE_DQ ? smem.dq : reinterpret_cast<float *>(&smem.in[stage])) +
                          to + lane % 4 * 2 + m * 16 * DIM;
          *reinterpret_cast<float2 *>(at_row) = make_float2(x[0], x[1]);
          *reinterpret_cast<float2 *>(at_row + 8 * DIM) = make_float2(x[2], x[3]);
        } else {
          const int row = warp_q + 16 * m + lane / 4;
          float *at_row = p.dq + ((int64_t)tile.head * p.rows_q + tile.row) * DIM + to +
                          lane % 4 / 2 * 4 + m * 16 * DIM;
          reduce_pairs(at_row, at_row + 8 * DIM, row < tile.limit(), row + 8 < tile.limit(), x, 1);
        }
      }
    }
    if constexpr (BULK)
      ptx::fence_async_shared(); // before the barrier after which the copy engine reads dQ
  }

  if constexpr (BULK) {
    if (threadIdx.x == 0)
      ptx::bulk_wait_read<0>(); // shared memory must outlive its readers
  }

  // dK and dV: rows warp_k + 16 m + lane / 4 (+ 8); to sums of the caller's or of the item
  float *dk_acc = p.dk_acc, *dv_acc = p.dv_acc;
  int64_t first = (int64_t)item.row * pitch_k + item.reserved;
  int32_t pitch = pitch_k;
  if (smem.sums >= 0 && !dk_acc) {
    dk_acc = p.sums + (int64_t)smem.sums * (2 * KEYS * DIM);
    dv_acc = dk_acc + KEYS * DIM;
    first = 0, pitch = DIM;
  }
#pragma unroll
  for (int m = 0; m < 2; m++) {
    const int row = warp_k + 16 * m + lane / 4;
    const int64_t to = first + row * pitch + warp_d; // fits: at most 128 rows
    const bool there = row < item.rows, there8 = row + 8 < item.rows;
#pragma unroll
    for (int n = 0; n < DIM / 16; n++) {
      if (dk_acc) {
        const int64_t four = to + n * 8 + lane % 4 / 2 * 4;
        reduce_pairs(dk_acc + four, dk_acc + four + 8 * pitch, there, there8, dk[m][n], p.scale);
        reduce_pairs(dv_acc + four, dv_acc + four + 8 * pitch, there, there8, dv[m][n], 1);
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
