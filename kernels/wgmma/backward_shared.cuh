// backward_shared.cuh -- what the warpgroups of the backward kernel share: parameters, steps, shared memory.
#ifndef LONGCA_WGMMA_BACKWARD_SHARED_CUH
#define LONGCA_WGMMA_BACKWARD_SHARED_CUH

#include <cuda.h>
#include <cuda_bf16.h>
#include <stdint.h>

#include "tile_bits.h"

namespace wgmma {

enum { BWD_KEYS = 128, BWD_QUERIES = 64, BWD_STAGES = 2, BWD_THREADS = 512, BWD_STEPS = 8 };
// Registers a thread: 128 * (32 + 64 + 2 * 208) = the whole file.
enum { BWD_REGS_LOAD = 32, BWD_REGS_DQ = 64, BWD_REGS_KEYS = 208 };

struct bwd_params {
  CUtensorMap q, k, v, d_o;  // dims {64, rows, dim / 64, heads}
  // [heads, tiles, 64], as one line: LSE / ln 2 (+inf: saw no key), and rowsum(dO O). By tensor maps too,
  // because racecheck follows their copies to ordinary loads, and those of plain addresses it does not.
  CUtensorMap lse2, delta;
  tile_bits_view bits;
  worklist_view list;        // items of 128 keys, runs of 64-query tiles: "row" 64 t is that of tile t
  const int2 *tile_rows;     // [tiles] first local row of a tile, and how many it has
  float *dq_acc;             // [heads, tiles][64 * dim] in accumulator order; added to
  __nv_bfloat16 *dk, *dv;    // [rows_k, heads_kv, dim], or
  float *dk_acc, *dv_acc;    // the same shape, added to; or by_slot; NULL: no
  bool by_slot; // dk_acc, dv_acc are [slots, 128, dim], and only parts of an item add to them
  int32_t heads, group, tiles;
  int32_t loop;    // query heads that a CTA loops over: divides the group
  int32_t section; // such loops that run side by side, so that their Q, dO and dQ stay in L2
  // Deterministic (else NULL): how many CTAs have added to each tile of dq_acc so far [heads, tiles], then the
  // tickets given out; all 0 at the start.
  int32_t *turns;
  int32_t *sum_turns; // and loop < group: [KV heads, items, warps] how many have added to dk_acc, dv_acc. Else NULL
  const uint32_t *visits; // [classes, tiles][visit_words]: bit i, item i of the list sees the tile
  int32_t visit_words;
  int32_t *at_tile; // [heads] the tile of a head that some CTA is at; 0 at the start. NULL: CTAs start at their first
  // What CTAs from tail_begin on take (balance.h): an item or a part of its tiles, `partial` its slot or -1,
  // `reserved` the first of its heads.
  const worklist_item *tail;
  int32_t tail_begin;
  float scale, scale_log2;
};

struct bwd_step {
  int32_t seen;    // place of its bits
  int32_t tile;    // of dq_acc, heads included
  int32_t part[2]; // of each half of the keys: -1, it is not seen; 0, all of it is; else its bits say what
};

// part[half]: `of_run` is the run's word in the list, `valid` the tile's queries, `keys` the CTA's.
static __device__ __forceinline__ int bwd_part(int of_run, int valid, int keys, int half) {
  if (keys <= 64 * half || (of_run && !(of_run & WORKLIST_SEEN << half)))
    return -1;
  const bool whole = !of_run || (of_run & WORKLIST_WHOLE << half && valid == BWD_QUERIES);
  return whole && keys >= 64 * (half + 1) ? 0 : 1;
}

template <int D> struct bwd_smem {
  alignas(1024) __nv_bfloat16 k[BWD_KEYS * D], v[BWD_KEYS * D]; // [dim / 64][keys][64], swizzled
  __nv_bfloat16 q[BWD_STAGES][BWD_QUERIES * D], d_o[BWD_STAGES][BWD_QUERIES * D];
  __nv_bfloat16 ds[2][BWD_KEYS * BWD_QUERIES]; // [keys / 64][queries][64], swizzled
  float dq[BWD_QUERIES * D];                   // accumulator order
  alignas(128) float lse2[BWD_STAGES][BWD_QUERIES], delta[BWD_STAGES][BWD_QUERIES];
  worklist_item item;       // this CTA's keys; here, not in registers, which are short
  int32_t head_kv, head, place; // the first of its query heads; place of the item in the list
  bwd_step step[BWD_STEPS]; // the dQ warpgroup is at most three steps behind the loader
  int32_t turn[BWD_STEPS];  // deterministic: CTAs that add to the step's tile before this one
  int32_t ticket;
  uint64_t kv_full, q_full[BWD_STAGES], q_empty[BWD_STAGES], do_full[BWD_STAGES], do_empty[BWD_STAGES];
  uint64_t ds_full[2], ds_empty[2], dq_full[2], dq_empty[2]; // of dQ: a half of its columns
};

} // namespace wgmma
#endif
