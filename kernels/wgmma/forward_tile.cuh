// forward_tile.cuh -- what the consumers of the forward kernel do with a tile: its turn at the tensor core, its
// products, its mask, its end. forward_consumer.cuh and forward_gather_consumer.cuh put them in order.
#ifndef LONGCA_WGMMA_FORWARD_TILE_CUH
#define LONGCA_WGMMA_FORWARD_TILE_CUH

#include "../ptx/wgmma.cuh"
#include "forward_epilogue.cuh"
#include "forward_parts.cuh"
#include "forward_softmax.cuh"
#include "row_bits.cuh"

namespace wgmma {

template <int Dim, class Mask> struct fwd_tile_work : fwd_softmax<Dim> {
  typedef fwd_softmax<Dim> softmax;
  typedef fwd_smem<Dim, Mask> smem;
  static constexpr bool Halves = fwd_shape<Mask>::Halves;
  static constexpr int Pieces = fwd_shape<Mask>::Pieces;
  using softmax::p, softmax::sc, softmax::o, softmax::pr;
  using softmax::max0, softmax::max1, softmax::sum0, softmax::sum1;
  smem &s;
  int wg;           // 0 or 1
  int qn = 0;       // query tile that is being worked on
  float add0, add1; // what the step before adds to the sums
  bool held;        // unlike halves: whether this warp keeps that step's K

  __device__ __forceinline__ fwd_tile_work(const fwd_params &p, smem &s, int wg) : softmax{p}, s(s), wg(wg) {}

  // Every thread that has read arrives itself: as quick as one a warp behind a __syncwarp(), and compute-sanitizer's
  // racecheck can follow it. What only the tensor core reads, one lane a warp releases, or as many as it has shares.
  __device__ __forceinline__ void release(uint64_t *bar) { ptx::mbarrier_arrive(bar); }
  __device__ __forceinline__ void release_v(uint64_t *bar, uint32_t shares = 1) {
    if (threadIdx.x % 32 < shares)
      ptx::mbarrier_arrive(bar);
  }

  // Where query tile qn lies. Unlike halves: always at 0, but not so that the compiler knows: it would hold the
  // descriptors of Q in registers, and each would cost a move to a uniform one in every step.
  static __device__ __forceinline__ uint32_t q_stage(uint32_t qn) { return Halves ? qn >> 31 : qn % 2; }
  __device__ __forceinline__ uint32_t q_barrier(uint32_t qn) const { return Halves ? wg : qn % 2; }
  static __device__ __forceinline__ uint32_t q_parity(uint32_t qn) {
    return Halves ? qn & 1 : qn / 2 & 1;
  }

  // Ping-pong: warpgroup i waits for its turn on barrier 1 + i and gives it to the next.
  __device__ __forceinline__ void turn_wait() { ptx::barrier_sync(1 + wg, 256); }
  __device__ __forceinline__ void turn_give() { ptx::barrier_arrive(2 - wg, 256); }

  // S of query tile qn and the keys at a stage.
  __device__ __forceinline__ void issue_qk(uint32_t stage, uint32_t qn) {
    const ptx::wgmma_desc q = ptx::wgmma_desc(s.q[0][0] + wg * 64 * 64, 0).from(q_stage(qn) * sizeof s.q[0]);
    const ptx::wgmma_desc k = ptx::wgmma_desc(s.k[0][0], 0).from(stage * sizeof s.k[0]);
    ptx::wgmma_pin(sc);
    ptx::wgmma_fence();
#pragma unroll
    for (int c = 0; c < Dim / 16; c++) // 32 bytes along a row of 128; then the next chunk
      ptx::wgmma_op<FWD_KEYS, 0>::ss(sc, q.at(c / 4 * FWD_ROWS * 128 + c % 4 * 32),
                                     k.at(c / 4 * FWD_KEYS * 128 + c % 4 * 32), c > 0);
    ptx::wgmma_commit();
  }

  // O += P V of the V at a stage.
  __device__ __forceinline__ void issue_pv(uint32_t stage) {
    const ptx::wgmma_desc v = ptx::wgmma_desc(s.v[0][0], FWD_KEYS * 128).from(stage * sizeof s.v[0]);
    ptx::wgmma_pin(o);
    ptx::wgmma_pin(pr);
    ptx::wgmma_fence();
#pragma unroll
    for (int c = 0; c < FWD_KEYS / 16; c++) // 16 keys: two atoms of 1024 bytes
      ptx::wgmma_op<Dim, 1>::rs(o, pr + 4 * c, v.at(c * 2048), 1);
    ptx::wgmma_commit();
  }

  // This thread's first row in the tile. Read anew at each use: what the compiler would keep in registers
  // across the main loop, it would spill there.
  __device__ __forceinline__ int row_now() const {
    const int thread = ptx::thread_now();
    return (Halves ? 0 : wg * 64) + thread % 128 / 32 * 16 + thread % 32 / 4;
  }

  // Where row r of the tile belongs: packed, heads of a position are neighbours.
  __device__ __forceinline__ fwd_row place_of(const fwd_tile &tile, int r) const {
    constexpr bool Packed = Pieces && !Halves;
    const int heads = Packed ? p.gather.heads : 1, at = Packed ? r >> (31 - __clz(heads)) : r;
    return {tile.row + at, tile.head + (r & (heads - 1)), at < tile.rows()};
  }

  // A query tile that is done, or will be with the next P V, as its rows stand.
  struct rows_so_far {
    fwd_tile tile;
    float max0, max1, sum0, sum1; // sums of all four threads of a row
  };
  __device__ __forceinline__ rows_so_far so_far(const fwd_tile &tile) const {
    rows_so_far rows = {tile, max0, max1, sum0, sum1};
#pragma unroll
    for (int lane = 1; lane <= 2; lane *= 2) {
      const float other0 = __shfl_xor_sync(~0u, rows.sum0, lane), other1 = __shfl_xor_sync(~0u, rows.sum1, lane);
      rows.sum0 += other0;
      rows.sum1 += other1;
    }
    return rows;
  }

  // Of a tile that is stored whole: O to where its Q was, this warpgroup's rows, which all of it have read, as they
  // have met at a turn since; and LSE, by a thread a row.
  __device__ __forceinline__ void place_tile(const rows_so_far &rows, uint32_t stage) {
    const unsigned thread = ptx::thread_now(), first = wg * 64 + thread % 128 / 32 * 16, below = thread % 4;
    const row_end end0 = end_of_row(p, rows.max0, rows.sum0), end1 = end_of_row(p, rows.max1, rows.sum1);
    place_rows<Dim>(s.q[stage][0] + first * 64, o, end0.scale, end1.scale);
    ptx::fence_async_shared();
    __syncwarp(); // all 16 rows are there
    if (below < 2) {
      const fwd_row to = place_of(rows.tile, first + thread % 32 / 4 + 8 * below);
      p.lse[static_cast<int64_t>(to.head) * p.rows + to.row] = below ? end1.lse : end0.lse;
    }
  }

  // Query tile qn is done.
  __device__ __forceinline__ void write_tile(const rows_so_far &rows, uint32_t qn) {
    if constexpr (Halves) {
      write_rows(rows);
    } else {
      if (__all_sync(~0u, stored_whole(p, rows.tile)))
        place_tile(rows, q_stage(qn));
      else
        write_rows(rows);
      release(&s.q_done[q_stage(qn)]);
    }
  }

  __device__ __forceinline__ void write_rows(rows_so_far rows) {
    const fwd_tile &tile = rows.tile;
    if (tile.part() >= 0) {
      float4 all = make_float4(rows.max0, rows.max1, rows.sum0, rows.sum1);
      if (!join_parts<Dim>(p, tile.part(), o, all))
        return;
      rows = {tile, all.x, all.y, all.z, all.w};
    }
    const int r = row_now();
    write_row<Dim, Mask>(p, place_of(tile, r), o, 0, end_of_row(p, rows.max0, rows.sum0));
    write_row<Dim, Mask>(p, place_of(tile, r + 8), o, 2, end_of_row(p, rows.max1, rows.sum1));
  }

  // What the mask shows of a step; asked long before it is looked at.
  __device__ __forceinline__ row_bits seen_in(const fwd_step &step) {
    if (!(step.flags & STEP_PARTIAL))
      return {~0u, ~0u};
    if constexpr (Pieces > 0) { // so many keys are seen of each piece
      uint32_t bits = 0;
#pragma unroll
      for (int i = 0; i < Pieces; i++)
        bits |= bits_below(step.seen >> 8 * i & 0xff) << 32 / Pieces * i;
      return {bits, bits};
    } else {
      if (step.seen < 0)
        return {0, 0};
      const int thread = ptx::thread_now() - 128; // behind the producer's warpgroup
      const uint2 *const bits = static_cast<const uint2 *>(p.bits.bits);
      const uint2 seen = ptx::load_ahead(bits + static_cast<int64_t>(step.seen) * TILE_BITS_THREADS + thread);
      return {seen.x, seen.y};
    }
  }

  // Description of the step at a stage, which is there.
  __device__ __forceinline__ fwd_step step_at(uint32_t stage) {
    if constexpr (!Halves)
      return {ptx::load_shared_int(&s.step[stage].seen), ptx::load_shared_int(&s.step[stage].flags)};
    else {
      const int4 v = ptx::load_shared(&s.step[stage]);
      const int seen = wg ? v.y : v.x;
      return {seen, v.z | (seen != pieces_whole(Pieces) ? STEP_PARTIAL : 0)};
    }
  }

  __device__ __forceinline__ fwd_tile tile_of(int qn) {
    uint64_t *const here = &s.q_full[q_barrier(qn)];
    ptx::mbarrier_wait_by_warp(here, q_parity(qn), ptx::mbarrier_test(here, q_parity(qn)));
    const fwd_tile tile = tile_at(qn);
    if (p.resume)
      ask_for_rows(tile);
    return tile;
  }
  // What write_row will merge with comes to L2 under the tile's steps.
  __device__ __forceinline__ void ask_for_rows(const fwd_tile &tile) const {
    const int r = row_now(), column = 32 * (threadIdx.x % 4); // a line has 32 columns
#pragma unroll
    for (int below = 0; below <= 8; below += 8) {
      const fwd_row to = place_of(tile, r + below);
      const int64_t at = (static_cast<int64_t>(to.row) * p.heads + to.head) * Dim + column;
      if (to.valid && column < Dim)
        ptx::prefetch_line(p.o_acc + at);
    }
  }
  __device__ __forceinline__ fwd_tile tile_at(int qn) {
    const int4 v = ptx::load_shared(&s.tile[q_barrier(qn)]);
    return {v.x, v.y, v.z, v.w};
  }

  // The end of a step's softmax. The usual step has no maximum: the bases of the steps before will do unless a
  // sum explodes. Then the step is taken again, when the turn has come for the next one: that is where a
  // warpgroup's warps meet anyway. Until then the sums wait, and so does K, which settle() gives up. (Where
  // stages are short, of unlike halves, warps that are content give it up at once: a vote, which takes longer; and after
  // a query tile's last step Q. A warp that is not holds both for all.)
  __device__ __forceinline__ void finish(uint32_t stage, int flags) {
    const bool exploded = !(add0 + add1 < 0x1p60f);
    if constexpr (!Halves) {
      if (exploded)
        ptx::store_shared_int(&s.again[wg][stage], 1);
    } else {
      held = __any_sync(~0u, exploded);
      if (held) {
        s.held[wg] = step_at(stage);
        ptx::store_shared_int(&s.again[wg][stage], 1);
      }
      if (!held)
        release(&s.k_empty[stage]);
      if (!held && flags & STEP_LAST)
        release(&s.q_empty[wg]);
    }
  }

  // S and the bases of the first step of all, whose K is at a stage: nothing is beside it.
  __device__ __forceinline__ void first_scores(uint32_t stage) {
    const row_bits seen = seen_in(step_at(stage));
    turn_wait();
    issue_qk(stage, qn);
    turn_give();
    ptx::wgmma_wait<0>();
    ptx::wgmma_pin(sc);
    hide<FWD_KEYS>(sc, seen);
    this->find_base(true);
    clear();
  }

  // Behind the turn: whether the step whose K was at a stage is to be taken again.
  __device__ __forceinline__ int told_again(uint32_t stage) {
    return ptx::load_shared_int(&s.again[wg][stage]);
  }

  // That step once more, of query tile qn, with bases that fit. P V of the steps before it is done.
  __device__ __forceinline__ void again(uint32_t stage, int qn) {
    asm volatile("" : "+r"(stage)); // its addresses anew: kept since the first time, they would spill
    const fwd_step step = !Halves || held ? step_at(stage) : s.held[wg];
    const row_bits seen = seen_in(step);
    issue_qk(stage, qn);
    ptx::wgmma_wait<0>();
    ptx::wgmma_pin(sc);
    hide<FWD_KEYS>(sc, seen);
    this->find_base(false);
    add0 = add1 = 0.0f;
    this->template exponentials<0, softmax::NS>(add0, add1);
    this->pack();
    this->rescale();
    ptx::barrier_sync(4 + wg, 128); // all know
    if (threadIdx.x % 128 == 0)
      ptx::store_shared_int(&s.again[wg][stage], 0);
    if (Halves && held) {
      release(&s.k_empty[stage]);
      if (step.flags & STEP_LAST)
        release(&s.q_empty[wg]);
    }
  }

  // The step before, whose K was at a stage, holds.
  __device__ __forceinline__ void settle(uint32_t stage) {
    sum0 += add0;
    sum1 += add1;
    if (!Halves)
      release(&s.k_empty[stage]);
  }

  __device__ __forceinline__ void clear() {
    const float zero = ptx::zero();
#pragma unroll
    for (int i = 0; i < softmax::NO; i++)
      o[i] = zero;
  }

  // Whether a row of this warpgroup has seen no key yet.
  __device__ __forceinline__ bool any_unset() {
    return ptx::barrier_any(4 + wg, 128, max0 == -INFINITY || max1 == -INFINITY);
  }

  // ---- a step that is not usual, and what comes after the last one

  // The turn, which a step that was begun as a usual one has (bad: the step before is to be taken again); and
  // what it tells of that step, whose K is at a stage, of query tile qn.
  __device__ __forceinline__ void take_turn(uint32_t before, int qn, bool bad) {
    if (!bad) {
      turn_wait();
      bad = __any_sync(~0u, told_again(before));
    }
    if (bad)
      again(before, qn);
  }

  // Its scores, masked, and bases where there are none. Returns STEP_UNSET where a row has seen no key yet, which
  // only a partial step leaves behind.
  __device__ __forceinline__ int take_scores(int flags, const row_bits &seen) {
    if (flags & STEP_PARTIAL)
      hide<FWD_KEYS>(sc, seen);
    if (!(flags & (STEP_FIRST | STEP_UNSET)))
      return 0;
    this->find_base(flags & STEP_FIRST);
    return flags & STEP_PARTIAL && any_unset() ? STEP_UNSET : 0;
  }

  // After its softmax, when O has all of the steps before.
  __device__ __forceinline__ void end_step(int flags, const rows_so_far &done) {
    if (flags & STEP_FIRST) {
      write_tile(done, qn - 1);
      clear();
    } else if (flags & STEP_UNSET)
      this->rescale();
  }

  // The last P V is issued.
  __device__ __forceinline__ void end_stream(uint32_t before, const fwd_tile &tile) {
    if (wg == 0)
      turn_give();
    settle(before);
    ptx::wgmma_wait<0>();
    ptx::wgmma_pin(o);
    write_tile(so_far(tile), qn);
  }
};

} // namespace wgmma
#endif
