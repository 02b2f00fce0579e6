// forward.cuh -- attention forward on mma.sync (sm_80 and later), over any mask representation.
//
// A CTA of 4 warps owns 128 queries of one head, 32 a warp: the fewest warps, since each reads the
// whole K and V tile from shared memory. Tiles of 64 keys come by cp.async into two stages; one
// barrier a tile. S and P stay in registers (the accumulator of S is the A operand of P V). The
// running maximum follows only when it would grow by more than 2^8, so O is hardly ever rescaled: P
// reaches at most 2^8, which fp32 sums and bf16's exponent take without loss. Mask code runs on
// partial tiles alone. Two CTAs a multiprocessor overlap one's softmax with the other's products.
//
// Lists of blocks of 64 want items of 64 queries, or every other pair would be hidden. With HEADS 2
// a CTA takes the same 64 of two heads of a group, and shares each K and V tile as before. With
// WARPS 2 it is half a CTA, four a multiprocessor; one stage then has to do: V comes during S and
// softmax, the next K during P V, and the other three CTAs cover what is late.
#ifndef LONGCA_MMA_FORWARD_CUH
#define LONGCA_MMA_FORWARD_CUH

#include "engine.h"
#include "tile.cuh"

namespace mma {

constexpr int FWD_KEYS = MMA_FWD_KEYS;
constexpr float LAZY = 8; // log2 units that a row may outgrow its reference maximum by
constexpr float LOG2E = 1.4426950408889634f, LN2 = 0.6931471805599453f;

template<class Rep> struct forward_args {
  const bf16 *q, *k, *v; // [rows_q, heads_q, DIM], [rows_k, heads_kv, DIM]
  bf16 *o;            // NULL: o_acc is written
  float *o_acc, *lse; // [rows_q, heads_q, DIM] or NULL, [heads_q, rows_q]
  bool resume;        // merge with what o_acc and lse hold
  int32_t rows_q, heads_q, heads_kv;
  float scale_log2; // scale * log2(e)
  worklist_view list;
  Rep rep;
};

template<int DIM, int WARPS> struct forward_smem {
  static constexpr int STAGES = WARPS == 4 ? 2 : 1;
  bf16 q[WARPS * 32 * DIM], k[STAGES][FWD_KEYS * DIM], v[STAGES][FWD_KEYS * DIM];
};

template<class Rep, int DIM, int WARPS, int HEADS>
__global__ void __launch_bounds__(WARPS * 32, 8 / WARPS)
    forward(const __grid_constant__ forward_args<Rep> p) {
  using Smem = forward_smem<DIM, WARPS>;
  static_assert(8 / WARPS * (sizeof(Smem) + 128 + 1024) <= 228 << 10, "too much shared memory");
  constexpr int THREADS = WARPS * 32, ROWS = WARPS * 32 / HEADS; // queries of a head
  extern __shared__ __align__(128) char smem_raw[];
  Smem &smem = *reinterpret_cast<Smem *>(smem_raw);
  const uint32_t sq = ptx::smem_addr(smem.q), sk = ptx::smem_addr(smem.k),
                 sv = ptx::smem_addr(smem.v);
  constexpr uint32_t STAGE = (Smem::STAGES - 1) * FWD_KEYS * DIM * 2; // to the other one
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int warp_head = HEADS > 1 ? warp * 32 / ROWS : 0, warp_row = warp * 32 - warp_head * ROWS;
  const int head = blockIdx.y * HEADS, head_kv = head / (p.heads_q / p.heads_kv);
  const int head_mask = p.list.classes > 1 ? head_kv : 0;
  __shared__ worklist_item item; // in shared memory: the main loop has no register to spare
  if (threadIdx.x == 0) {
    item = p.list.items[(int64_t)head_mask * p.list.count + blockIdx.x];
    item.reserved = head_kv * DIM;
  }
  __syncthreads();

  const int32_t pitch_q = p.heads_q * DIM, pitch_k = p.heads_kv * DIM;
  walk<FWD_KEYS> tiles(p.list, item);
  auto fetch = [&](uint32_t to, bool keys, bool values) {
    const inner tile = tiles.tile();
    const int64_t from = (int64_t)tile.row * pitch_k + item.reserved;
    if (keys)
      load<DIM, FWD_KEYS, THREADS>(sk + to, p.k + from, pitch_k, tile.limit);
    if (values)
      load<DIM, FWD_KEYS, THREADS>(sv + to, p.v + from, pitch_k, tile.limit);
  };
#pragma unroll
  for (int h = 0; h < HEADS; h++)
    load<DIM, ROWS, THREADS>(sq + h * ROWS * DIM * 2,
                             p.q + (int64_t)item.row * pitch_q + (head + h) * DIM, pitch_q,
                             item.rows);
  if (tiles.more())
    fetch(0, true, Smem::STAGES == 2);
  ptx::copy_async_commit();

  // Row i of this thread: warp_row + 16 * (i / 2) + 8 * (i % 2) + lane / 4.
  float o[2][DIM / 8][4] = {};
  float top[4], sum[4] = {}; // reference maximum (scaled, log2), this thread's part of the row sum
  for (float &x : top)
    x = -INFINITY;

  uint32_t stage = 0;
  while (tiles.more()) {
    const inner tile = tiles.tile();
    if (Smem::STAGES == 2)
      tiles.advance();
    ptx::copy_async_wait<0>();
    __syncthreads(); // this tile has landed (one stage: its K), all are done with the V before
    if (Smem::STAGES == 1)
      fetch(0, false, true), tiles.advance();
    else if (tiles.more())
      fetch(STAGE - stage, true, true);
    ptx::copy_async_commit();

    // S = Q K^T
    float s[2][FWD_KEYS / 8][4] = {};
    const fragments<DIM> keys(sk + stage, 0, 0, false);
#pragma unroll
    for (int d = 0; d < DIM; d += 16) {
      uint32_t a[2][4];
      for (int m = 0; m < 2; m++) // each by itself: columns.cu spills on sm_80 otherwise
        fragments<DIM>(sq, warp * 32 + 16 * m, d, true).load(a[m], 0, 0);
#pragma unroll
      for (int n = 0; n < FWD_KEYS / 8; n += 2) {
        uint32_t b[4];
        keys.load(b, n * 8, d);
#pragma unroll
        for (int m = 0; m < 2; m++) {
          ptx::mma_bf16(s[m][n], a[m], b[0], b[1]);
          ptx::mma_bf16(s[m][n + 1], a[m], b[2], b[3]);
        }
      }
    }

    if (!tile.full)
      hide(s, p.rep, head_mask, warp_row + lane / 4, item.rows, item.pos, tile.pos,
           tile.pos + tile.limit);

    // Online softmax
    float seen[4];
    bool grows = false;
#pragma unroll
    for (int i = 0; i < 4; i++) {
      float x = -INFINITY;
#pragma unroll
      for (int n = 0; n < FWD_KEYS / 8; n++)
        x = fmaxf(x, fmaxf(s[i / 2][n][i % 2 * 2], s[i / 2][n][i % 2 * 2 + 1]));
      x = fmaxf(x, __shfl_xor_sync(~0u, x, 1));
      x = fmaxf(x, __shfl_xor_sync(~0u, x, 2));
      seen[i] = x * p.scale_log2;
      grows |= seen[i] > top[i] + LAZY; // also from -inf
    }
    if (__any_sync(~0u, grows)) {
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const float reference = fmaxf(top[i], seen[i]);
        const float shrink = reference == -INFINITY ? 1 : ptx::ex2(top[i] - reference);
        top[i] = reference;
        sum[i] *= shrink;
#pragma unroll
        for (int n = 0; n < DIM / 8; n++) {
          o[i / 2][n][i % 2 * 2] *= shrink;
          o[i / 2][n][i % 2 * 2 + 1] *= shrink;
        }
      }
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const float shift = top[i] == -INFINITY ? 0 : top[i];
#pragma unroll
      for (int n = 0; n < FWD_KEYS / 8; n++)
#pragma unroll
        for (int c = i % 2 * 2; c < i % 2 * 2 + 2; c++) {
          s[i / 2][n][c] = ptx::ex2(fmaf(s[i / 2][n][c], p.scale_log2, -shift));
          sum[i] += s[i / 2][n][c];
        }
    }

    if (Smem::STAGES == 1) {
      ptx::copy_async_wait<0>();
      __syncthreads(); // V has landed, and every warp is done with K
      if (tiles.more())
        fetch(0, true, false);
      ptx::copy_async_commit();
    }

    // O += P V
    const fragments<DIM> values(sv + stage, 0, 0, true);
#pragma unroll
    for (int n = 0; n < FWD_KEYS / 8; n += 2) {
      uint32_t a[2][4];
#pragma unroll
      for (int m = 0; m < 2; m++) {
        a[m][0] = ptx::pack_bf16(s[m][n][0], s[m][n][1]);
        a[m][1] = ptx::pack_bf16(s[m][n][2], s[m][n][3]);
        a[m][2] = ptx::pack_bf16(s[m][n + 1][0], s[m][n + 1][1]);
        a[m][3] = ptx::pack_bf16(s[m][n + 1][2], s[m][n + 1][3]);
      }
#pragma unroll
      for (int d = 0; d < DIM / 8; d += 2) {
        uint32_t b[4];
        values.load_trans(b, n * 8, d * 8);
#pragma unroll
        for (int m = 0; m < 2; m++) {
          ptx::mma_bf16(o[m][d], a[m], b[0], b[1]);
          ptx::mma_bf16(o[m][d + 1], a[m], b[2], b[3]);
        }
      }
    }
    stage = STAGE - stage;
  }

  // Normalise, merge with what is there, store
  ptx::copy_async_wait<0>(); // without tiles Q may still be on its way into what is reused below
  if (item.run_begin == item.run_end)
    __syncthreads();
#pragma unroll
  for (int i = 0; i < 4; i++) {
    float total = sum[i];
    total += __shfl_xor_sync(~0u, total, 1);
    total += __shfl_xor_sync(~0u, total, 2);
    float norm = total > 0 ? 1 / total : 0;
    float lse = total > 0 ? (top[i] + ptx::lg2(total)) * LN2 : -INFINITY;
    const int row = warp_row + i * 8 + lane / 4;
    const bool there = row < item.rows;
    float *lse_at = p.lse + (int64_t)(head + warp_head) * p.rows_q + item.row + row;
    float before = 0;
    if (p.resume && there) {
      const float old = *lse_at, all = fmaxf(old, lse);
      if (all > -INFINITY) {
        const float both = all + logf(expf(old - all) + expf(lse - all));
        before = expf(old - both);
        norm *= expf(lse - both);
        lse = both;
      }
    }
    __syncwarp(); // the quad has read lse before one of it writes
    if (there && lane % 4 == 0)
      *lse_at = lse;
    const int64_t out =
        (int64_t)(item.row + row) * pitch_q + (head + warp_head) * DIM + lane % 4 * 2;
#pragma unroll
    for (int n = 0; n < DIM / 8; n++) {
      float x = o[i / 2][n][i % 2 * 2] * norm, y = o[i / 2][n][i % 2 * 2 + 1] * norm;
      if (p.resume && there) {
        const float2 was = *reinterpret_cast<const float2 *>(p.o_acc + out + n * 8);
        x += before * was.x, y += before * was.y;
      }
      if (!p.o) {
        if (there)
          *reinterpret_cast<float2 *>(p.o_acc + out + n * 8) = make_float2(x, y);
      } else // a warp's rows of Q are its own to overwrite
        *reinterpret_cast<uint32_t *>(
            smem_raw + (at<DIM>(0, warp * 32 + i * 8 + lane / 4, n) + lane % 4 * 4)) =
            ptx::pack_bf16(x, y);
    }
  }
  if (!p.o)
    return;
  __syncwarp();
  constexpr int CHUNKS = DIM / 8;
#pragma unroll
  for (int i = lane; i < 32 * CHUNKS; i += 32) {
    const int row = warp_row + i / CHUNKS, chunk = i % CHUNKS;
    if (row < item.rows)
      *reinterpret_cast<uint4 *>(p.o + (int64_t)(item.row + row) * pitch_q +
                                 (head + warp_head) * DIM + chunk * 8) =
          *reinterpret_cast<uint4 *>(smem_raw + at<DIM>(0, warp * 32 + i / CHUNKS, chunk));
  }
}

} // namespace mma
#endif
