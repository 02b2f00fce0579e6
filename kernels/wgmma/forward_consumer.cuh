// forward_consumer.cuh -- a consumer warpgroup of the forward kernel: 64 query rows, S and O in registers.
//
// Step n: ask the mask what is seen, issue S = Q K^T of n and O += P V of n - 1, give the tensor core to the
// other warpgroup, then softmax of n (forward_softmax.cuh), which the products of n - 1 run beside.
// Gathering (forward_gather.cuh), "n - 1" is the step before of this warpgroup.
#ifndef LONGCA_WGMMA_FORWARD_CONSUMER_CUH
#define LONGCA_WGMMA_FORWARD_CONSUMER_CUH

#include "../ptx/wgmma.cuh"
#include "forward_epilogue.cuh"
#include "forward_softmax.cuh"
#include "visible.cuh"

namespace wgmma {

template <int Dim, class Mask> struct fwd_consumer : fwd_softmax<Dim> {
  typedef fwd_softmax<Dim> softmax;
  typedef fwd_smem<Dim, Mask> smem;
  static constexpr bool Gathers = fwd_shape<Mask>::Gathers;
  static constexpr int Stages = smem::Stages;
  using softmax::p, softmax::sc, softmax::o, softmax::pr;
  using softmax::max0, softmax::max1, softmax::sum0, softmax::sum1;
  using softmax::find_base, softmax::pack, softmax::rescale;
  const Mask &mask; // a representation, or what else has a visible()
  smem &s;
  int wg;            // 0 or 1
  int n = 0, qn = 0; // step and query tile that are being worked on
  // Gathering, n is stage + 4 parity, and so is the step before of this warpgroup, + 8 where its stage is
  // not shared: a register each, which the main loop has, where counts and their remainders would spill.
  int before_n = 0;

  __device__ __forceinline__ fwd_consumer(const fwd_params &p, const Mask &mask, smem &s, int wg)
      : softmax{p}, mask(mask), s(s), wg(wg) {}

  __device__ __forceinline__ void release(uint64_t *bar, uint32_t shares = 1) { // so many arrivals a warp
    if (threadIdx.x % 32 < shares)
      ptx::mbarrier_arrive(bar);
  }

  // Where step n lies, and query tile qn.
  static __device__ __forceinline__ int stage(int n) { return Gathers ? n & 3 : n % Stages; }
  static __device__ __forceinline__ uint32_t parity(int n) {
    return Gathers ? n >> 2 & 1 : n / Stages & 1;
  }
  static __device__ __forceinline__ int after(int n) {
    return !Gathers ? n + 1 : (n & 3) < Stages - 1 ? n + 1 : ~n & 4;
  }
  __device__ __forceinline__ int q_stage() const { return Gathers ? 0 : qn % 2; }
  __device__ __forceinline__ int q_barrier() const { return Gathers ? wg : qn % 2; }
  __device__ __forceinline__ uint32_t q_parity() const { return Gathers ? qn & 1 : qn / 2 & 1; }
  __device__ __forceinline__ int before() const { return Gathers ? before_n : n - 1; }

  // After Q K^T of step n: its K tile is free, and after a query tile's last one so is Q.
  __device__ __forceinline__ void release_k(int flags) {
    release(&s.k_empty[stage(n)]);
    if (flags & STEP_LAST)
      release(&s.q_empty[q_barrier()]);
  }
  // After P V of the step before.
  __device__ __forceinline__ void release_v() {
    release(&s.v_empty[stage(before())], Gathers ? 1 + (before() >> 3) : 1);
  }

  // On to the step after one of these flags.
  __device__ __forceinline__ void advance(int flags) {
    if constexpr (Gathers) {
      before_n = n | (flags & (STEP_ONLY | STEP_ONLY << 1) ? 8 : 0);
    }
    n = after(n);
  }

  // Ping-pong: warpgroup i waits for its turn on barrier 1 + i and gives it to the next.
  __device__ __forceinline__ void turn_wait() { ptx::barrier_sync(1 + wg, 256); }
  __device__ __forceinline__ void turn_give() { ptx::barrier_arrive(2 - wg, 256); }

  __device__ __forceinline__ void issue_qk() { // of step n
    const ptx::wgmma_desc q(s.q[q_stage()][0] + wg * 64 * 64, 0), k(s.k[stage(n)][0], 0);
    ptx::wgmma_pin(sc);
    ptx::wgmma_fence();
#pragma unroll
    for (int c = 0; c < Dim / 16; c++) // 32 bytes along a row of 128; then the next chunk
      ptx::wgmma_op<FWD_KEYS, 0>::ss(sc, q.at(c / 4 * FWD_ROWS * 128 + c % 4 * 32),
                                     k.at(c / 4 * FWD_KEYS * 128 + c % 4 * 32), c > 0);
    ptx::wgmma_commit();
  }

  __device__ __forceinline__ void issue_pv(int step, bool keep) { // keep: add to what O is
    ptx::mbarrier_wait(&s.v_full[stage(step)], parity(step));
    const ptx::wgmma_desc v(s.v[stage(step)][0], FWD_KEYS * 128);
    ptx::wgmma_pin(o);
    ptx::wgmma_pin(pr);
    ptx::wgmma_fence();
#pragma unroll
    for (int c = 0; c < FWD_KEYS / 16; c++) // 16 keys: two atoms of 1024 bytes
      ptx::wgmma_op<Dim, 1>::rs(o, pr + 4 * c, v.at(c * 2048), c > 0 || keep);
    ptx::wgmma_commit();
  }

  // This thread's first row in the tile. Read anew at each use: what the compiler would keep in registers
  // across the main loop, it would spill there.
  __device__ __forceinline__ int row_now() const {
    const int thread = ptx::thread_now();
    return (Gathers ? 0 : wg * 64) + thread % 128 / 32 * 16 + thread % 32 / 4;
  }

  // Where row r of the tile belongs: packed, heads of a position are neighbours.
  __device__ __forceinline__ fwd_row place_of(const fwd_tile &tile, int r) const {
    const int heads = Gathers ? p.gather.heads : 1, at = Gathers ? r >> (31 - __clz(heads)) : r;
    return {tile.row + at, tile.head + (r & (heads - 1)), at < tile.rows};
  }

  __device__ __forceinline__ void write_tile(const fwd_tile &tile, float m0, float m1, float s0, float s1) {
    const int r = row_now();
    write_row<Dim>(p, place_of(tile, r), o, 0, m0, s0);
    write_row<Dim>(p, place_of(tile, r + 8), o, 2, m1, s1);
  }

  // What the mask shows of a step; asked before its scores exist, when registers are free.
  __device__ __forceinline__ row_bits seen_in(const fwd_tile &tile, const fwd_step &step) {
    if (!(step.flags & STEP_PARTIAL))
      return {~0u, ~0u};
    if constexpr (Gathers) { // so many keys are seen of each piece
      constexpr int Pieces = fwd_shape<Mask>::Pieces;
      uint32_t bits = 0;
#pragma unroll
      for (int i = 0; i < Pieces; i++)
        bits |= bits_below(step.valid >> 8 * i & 0xff) << 32 / Pieces * i;
      return {bits, bits};
    } else {
      if (!step.valid)
        return {0, 0};
      const int r = row_now(), last = tile.rows - 1;
      return visible<FWD_KEYS>(mask, tile.head / p.group, tile.pos + min(r, last),
                               tile.pos + min(r + 8, last), step.pos, step.valid);
    }
  }

  // Description of step n, of query tile qn, once it is there.
  __device__ __forceinline__ fwd_step step_of() {
    for (;; n = after(n)) {
      ptx::mbarrier_wait(&s.k_full[stage(n)], parity(n));
      const int4 v = ptx::load_shared(&s.step[stage(n)]);
      fwd_step step = {v.x, v.y, v.z, v.w};
      if constexpr (Gathers) {
        if (step.flags & (wg ? STEP_ONLY : STEP_ONLY << 1)) { // the other warpgroup's
          __syncwarp(); // all have read it
          release(&s.k_empty[stage(n)]);
          continue;
        }
        step.valid = wg ? v.y : v.x;
        constexpr int Whole = fwd_shape<Mask>::Pieces == 2 ? 0x4040 : 0x20202020;
        step.flags |= step.valid != Whole ? STEP_PARTIAL : 0;
      }
      return step;
    }
  }
  __device__ __forceinline__ fwd_tile tile_of() {
    ptx::mbarrier_wait(&s.q_full[q_barrier()], q_parity());
    const int4 v = ptx::load_shared(&s.tile[q_barrier()]);
    return {v.x, v.y, v.z, v.w};
  }

  // Whether a row of this warpgroup has seen no key yet.
  __device__ __forceinline__ bool any_unset() {
    return ptx::barrier_any(4 + wg, 128, max0 == -INFINITY || max1 == -INFINITY);
  }

  // The first step of all: no P V beside it.
  __device__ __forceinline__ void begin(const fwd_tile &tile, const fwd_step &step) {
    const row_bits seen = seen_in(tile, step);
    turn_wait();
    issue_qk();
    turn_give();
    __syncwarp(); // all lanes have read the step's description: lane 0 may release it
    ptx::wgmma_wait<0>();
    ptx::wgmma_pin(sc);
    if (step.flags & STEP_PARTIAL)
      hide<FWD_KEYS>(sc, seen);
    find_base(true);
    this->template exponentials<0, softmax::NS>(sum0, sum1);
    pack();
    release_k(step.flags);
  }

  __device__ __forceinline__ void run() {
    if (wg == 1)
      turn_give(); // the first turn is warpgroup 0's
    fwd_step step = step_of();
    if (!(step.flags & STEP_STOP)) {
      fwd_tile tile = tile_of();
      begin(tile, step);
      bool unset = any_unset(), keep = false; // keep: whether the next P V adds to O
      for (advance(step.flags); step = step_of(), !(step.flags & STEP_STOP); advance(step.flags)) {
        const bool first = step.flags & STEP_FIRST;
        const fwd_tile done = tile;
        if (first) {
          qn++;
          tile = tile_of();
        }
        const row_bits seen = seen_in(tile, step);
        turn_wait();
        issue_qk();
        issue_pv(before(), keep);
        turn_give();
        __syncwarp(); // as in begin(); here it costs nothing, as all wait
        ptx::wgmma_wait<1>();
        ptx::wgmma_pin(sc);
        const float done_max0 = max0, done_max1 = max1, done_sum0 = sum0, done_sum1 = sum1;
        if (step.flags & STEP_PARTIAL)
          hide<FWD_KEYS>(sc, seen);
        // The usual step has no maximum: the base of the steps before will do unless a sum explodes,
        // and then Q K^T is taken again, as K is still here.
        const bool exact = first || unset;
        if (exact) {
          find_base(first);
          unset = any_unset();
        }
        constexpr int Half = FWD_KEYS / 32 * 8;
        float add0 = 0.0f, add1 = 0.0f;
        this->template exponentials<0, Half>(add0, add1);
        // The assembler schedules within basic blocks, and would sink these exponentials below the wait
        // that they hide; a wait for what is known to be there, a loop, ends the block.
        ptx::wgmma_pin(sc);
        ptx::mbarrier_wait(&s.v_full[stage(before())], parity(before()));
        ptx::wgmma_wait<0>();
        ptx::wgmma_pin(o);
        release_v();
        this->template exponentials<Half, softmax::NS>(add0, add1);
        pack();
        bool redo = false;
        if (!exact)
          redo = ptx::barrier_any(4 + wg, 128, !(add0 + add1 < 0x1p60f));
        if (redo) {
          asm volatile("" : "+r"(n)); // its addresses anew: kept since the first time, they would spill
          issue_qk();
          ptx::wgmma_wait<0>();
          ptx::wgmma_pin(sc);
          if (step.flags & STEP_PARTIAL)
            hide<FWD_KEYS>(sc, seen);
          find_base(false);
          add0 = add1 = 0.0f;
          this->template exponentials<0, softmax::NS>(add0, add1);
          pack();
        }
        release_k(step.flags);
        sum0 += add0;
        sum1 += add1;
        if (first)
          write_tile(done, done_max0, done_max1, done_sum0, done_sum1);
        else if (exact || redo)
          rescale();
        keep = !first;
      }
      issue_pv(before(), keep);
      ptx::wgmma_wait<0>();
      ptx::wgmma_pin(o);
      write_tile(tile, max0, max1, sum0, sum1);
    }
    if (wg == 0)
      turn_wait(); // takes the turn that is left over
  }
};

} // namespace wgmma
#endif
