// backward_shared.cuh -- what backward.cuh is given, and how its shared memory is laid out.
#ifndef LONGCA_MMA_BACKWARD_SHARED_CUH
#define LONGCA_MMA_BACKWARD_SHARED_CUH

#include "../ptx/bulk.cuh"
#include "engine.h"
#include "tile.cuh"

namespace mma {

constexpr int BWD_QUERIES = MMA_BWD_QUERIES;

template<class Rep> struct backward_args {
  const bf16 *q, *k, *v, *d_o; // as in forward_args
  const float *lse_log2;       // [heads_q, rows_q] lse * log2(e); +inf where no key is visible
  const float *delta;          // [heads_q, rows_q] D = rowsum(dO * O)
  float *dq;                   // [heads_q, rows_q, DIM] in the order of dq.cuh, added to
  bf16 *dk, *dv;               // [rows_k, heads_kv, DIM], or NULL:
  float *dk_acc, *dv_acc;      // the same in fp32, added to
  float *sums;                 // [][2][KEYS][DIM] of items in pieces, added to
  int32_t rows_q, heads_q, heads_kv;
  int32_t whole;           // CTAs that take a whole item; the others take
  const mma_piece *pieces; // one of these each
  float scale, scale_log2;
  worklist_view list;
  Rep rep;
};

// An inner tile of a query head, by one access to shared memory.
struct alignas(16) head_tile {
  int32_t row, pos, head;
  int32_t rows; // that exist; or FULL: all, and none needs a mask; or 0: this is the end
  static constexpr int32_t FULL = 256 + BWD_QUERIES;
  __device__ __forceinline__ int limit() const { return rows % 256; }
};

// BULK, on sm_90: dQ leaves through shared memory, a tile by one reduction of the copy engine.
// Reductions from registers stall the warps that issue them for a fifth of the time.
template<int DIM, int KEYS, bool BULK> struct backward_smem {
  static constexpr bool STAGE_DQ = BULK && KEYS > 64; // has a place of its own
  struct stage {
    bf16 q[BWD_QUERIES * DIM], d_o[BWD_QUERIES * DIM];
  };
  bf16 k[KEYS * DIM], v[KEYS * DIM];
  stage in[2];
  bf16 p[BWD_QUERIES * KEYS], ds[BWD_QUERIES * KEYS];
  float dq[STAGE_DQ ? BWD_QUERIES * DIM : 4];
  float lse[BWD_QUERIES], delta[BWD_QUERIES]; // read before the next ones are asked for
  head_tile tile[4]; // of the steps before, now, next and after next: step % 4
  worklist_item item;
  int4 at;      // the tile after those: {run, its tiles that are left, head, steps that are left}
  int32_t sums; // where the sums of the item are, or -1
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

} // namespace mma
#endif
