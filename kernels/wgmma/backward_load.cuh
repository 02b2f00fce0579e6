// backward_load.cuh -- the loader of the backward kernel: which query tiles a CTA takes, in which order,
// and their Q, dO, LSE and D on their way to shared memory.
//
// After a tile that half 0 of the keys sees alone comes one that half 1 sees alone, so that both key
// warpgroups have work. Deterministic, CTAs wait for each other at each tile, and so reach tiles in one order: from the
// last to the first, because items mostly end alike (causal), whatever halves see; and all heads of a loop take a tile
// before the next, because else short items wait for long ones at every head.
//
// Where a head's Q, dO and dQ are more than L2 holds, a CTA begins at the tile where others are, so that all go
// through them together (at_tile).
#ifndef LONGCA_WGMMA_BACKWARD_LOAD_CUH
#define LONGCA_WGMMA_BACKWARD_LOAD_CUH

#include "../ptx/sync.cuh"
#include "../ptx/tma.cuh"
#include "backward_shared.cuh"

namespace wgmma {

// Goes through the tiles of an item that half 0 of its keys sees, or through those that half 1 alone sees: those
// from tile `from` on, then the ones before it.
struct bwd_walk {
  int4 run; // row, where the bits of its first tile are, tiles, valid
  int next, left, tile = 0, end = 0;
  bool began = false;

  __device__ __forceinline__ bwd_walk(const bwd_params &p, const worklist_item &item, int from)
      : run(make_int4(0, 0, 0, 0)), next(item.run_begin), left(item.run_end - item.run_begin) {
    for (int beyond = item.run_end; from > 0 && next < beyond;) { // runs are in the order of their rows
      const int middle = (next + beyond) / 2;
      const int4 m = __ldg(reinterpret_cast<const int4 *>(p.list.runs) + middle);
      if (m.x / BWD_QUERIES + m.z <= from)
        next = middle + 1;
      else
        beyond = middle;
    }
  }
  // To the next tile; false: there is none.
  __device__ __forceinline__ bool step(const bwd_params &p, const worklist_item &item, int from, bool alone) {
    while (++tile >= end) {
      if (left == 0)
        return false;
      if (next == item.run_end)
        next = item.run_begin;
      const int r = p.turns ? item.run_begin + item.run_end - 1 - next : next;
      run = __ldg(reinterpret_cast<const int4 *>(p.list.runs) + r);
      run.y = p.bits.first ? __ldg(p.bits.first + r) : 0;
      const int cut = from - run.x / BWD_QUERIES; // of the run around `from`, the end comes first and the beginning last
      const bool in_two = cut > 0 && cut < run.z;
      tile = (in_two && !began ? cut : 0) - 1;
      const bool others = !p.turns && alone != (run.w && !(run.w & WORKLIST_SEEN));
      end = others ? 0 : in_two && began ? cut : run.z;
      left -= in_two && !began ? 0 : 1;
      began = true;
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

// Step i: queries from local row `row` of a head on, tile `at` of all heads'.
template <int D>
static __device__ __forceinline__ void bwd_load_step(const bwd_params &p, bwd_smem<D> &sm, int i, int row,
                                                     int head, int at) {
  const int s = i % BWD_STAGES, parity = i / BWD_STAGES % 2 ^ 1;
  ptx::mbarrier_wait(&sm.q_empty[s], parity);
  ptx::mbarrier_arrive_expect(&sm.q_full[s], sizeof sm.q[s] + sizeof sm.lse2[s]);
  ptx::tma_load_4d(sm.q[s], &p.q, 0, row, 0, head, &sm.q_full[s]);
  ptx::tma_load_1d(sm.lse2[s], &p.lse2, at * BWD_QUERIES, &sm.q_full[s]);
  ptx::mbarrier_wait(&sm.do_empty[s], parity);
  ptx::mbarrier_arrive_expect(&sm.do_full[s], sizeof sm.d_o[s] + sizeof sm.delta[s]);
  ptx::tma_load_4d(sm.d_o[s], &p.d_o, 0, row, 0, head, &sm.do_full[s]);
  ptx::tma_load_1d(sm.delta[s], &p.delta, at * BWD_QUERIES, &sm.do_full[s]);
}

template <int D>
static __device__ void bwd_load(const bwd_params &p, bwd_smem<D> &sm, const worklist_item &item, int first,
                                int place) {
  const int head_kv = first / p.group;
  ptx::mbarrier_arrive_expect(&sm.kv_full, 2 * sizeof sm.k);
  ptx::tma_load_4d(sm.k, &p.k, 0, item.row, 0, head_kv, &sm.kv_full);
  ptx::tma_load_4d(sm.v, &p.v, 0, item.row, 0, head_kv, &sm.kv_full);
  const int inner = p.turns ? p.loop : 1; // heads that take a tile one after the other
  ptx::tma_prefetch_map(&p.q); // under the first reads of the list
  ptx::tma_prefetch_map(&p.lse2);
  ptx::tma_prefetch_map(&p.d_o);
  ptx::tma_prefetch_map(&p.delta);
  int i = 0, last_row = 0, last_head = 0, last_at = 0;
  for (int outer = first; outer < first + p.loop; outer += inner) {
    const int from = p.at_tile ? ptx::load_relaxed(p.at_tile + outer) : 0;
    bwd_walk seen(p, item, from), alone(p, item, from);
    bool more = seen.step(p, item, from, false), more_alone = !p.turns && alone.step(p, item, from, true), owed = false;
    while (more || more_alone) {
      const bool other = more_alone && (owed || !more);
      const int4 run = other ? alone.run : seen.run;
      const int count = other ? alone.tile : seen.tile, t = p.turns ? run.z - 1 - count : count;
      const int tile = run.x / BWD_QUERIES + t, row = __ldg(&p.tile_rows[tile].x);
      const int valid = run.w && t == run.z - 1 ? run.w & 0xffff : BWD_QUERIES;
      const int part0 = bwd_part(run.w, valid, item.rows, 0), part1 = bwd_part(run.w, valid, item.rows, 1);
      for (int head = outer; head < outer + inner; head++, i++) {
        const int at = head * p.tiles + tile;
        sm.step[i % BWD_STEPS] = {run.y + t, at, {part0, part1}};
        if (p.turns) {
          const int cls = p.list.classes == 1 ? 0 : head_kv;
          sm.turn[i % BWD_STEPS] = bwd_turn(p, static_cast<int64_t>(cls) * p.tiles + tile, place);
        }
        if (i > 0) // the step before: who sees its barrier knows this step too
          bwd_load_step<D>(p, sm, i - 1, last_row, last_head, last_at);
        last_row = row;
        last_head = head;
        last_at = at;
      }
      if (p.at_tile)
        ptx::store_relaxed(p.at_tile + outer, tile);
      owed = part1 < 0;
      if (other)
        more_alone = alone.step(p, item, from, true);
      else
        more = seen.step(p, item, from, false);
    }
  }
  if (i > 0)
    bwd_load_step<D>(p, sm, i - 1, last_row, last_head, last_at);
}

} // namespace wgmma
#endif
