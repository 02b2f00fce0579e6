// forward_gather_consumer.cuh -- a consumer warpgroup of the forward kernel over a gather list of unlike halves: as
// forward_consumer.cuh, but a stage of K and V may be the other warpgroup's alone, "the step before" is the one of
// this warpgroup, V has K's stages, and Q has one stage, each warpgroup's half with its own barriers.
#ifndef LONGCA_WGMMA_FORWARD_GATHER_CONSUMER_CUH
#define LONGCA_WGMMA_FORWARD_GATHER_CONSUMER_CUH

#include "forward_consumer.cuh"

namespace wgmma {

template <int Dim, int Pieces> struct fwd_consumer<Dim, halves<Pieces>> : fwd_tile_work<Dim, halves<Pieces>> {
  typedef fwd_tile_work<Dim, halves<Pieces>> work;
  typedef fwd_softmax<Dim> softmax;
  using work::work;
  using work::p, work::s, work::wg, work::qn, work::sc, work::o;
  using work::turn_wait, work::turn_give, work::issue_qk, work::seen_in, work::release, work::release_v;
  using work::any_unset, work::pack, work::step_at;
  using work::add0, work::add1, work::finish, work::told_again, work::settle;

  // Where a step lies and the step before of this warpgroup (each as fwd_place), and that one's arrivals when V is
  // free: the other warpgroup's, too, where the stage is not shared.
  struct place {
    uint32_t at, before;
    uint32_t shares;
    __device__ __forceinline__ void next(int flags) { // on from a step with these flags
      shares = flags & (STEP_ONLY | STEP_ONLY << 1) ? 2 : 1;
      before = at;
      at = after(at);
    }
  } now = {0, 0, 1};
  static __device__ __forceinline__ uint32_t after(uint32_t n) {
    return (n & 3) < FWD_STAGES_K - 1 ? n + 1 : ~n & 4;
  }
  static __device__ __forceinline__ uint32_t stage(uint32_t n) { return n & 3; }
  static __device__ __forceinline__ uint32_t parity(uint32_t n) { return n >> 2 & 1; }

  // What a warp knows ahead: whether the next stage is there, and then the flags of its step; whether V of
  // this step is.
  struct ahead {
    bool k_here, v_here;
    int flags;
  };

  // Flags of this warpgroup's first step from now.at on, to where it moves.
  __device__ __forceinline__ int find(place &now, const ahead &known) {
    const int theirs = wg ? STEP_ONLY : STEP_ONLY << 1;
    int flags = known.flags;
    if (!__all_sync(~0u, known.k_here)) {
      ptx::mbarrier_wait_by_warp(&s.k_full[stage(now.at)], parity(now.at), false);
      flags = step_at(stage(now.at)).flags;
    }
    while (!__all_sync(~0u, !(flags & theirs))) {
      release(&s.k_empty[stage(now.at)]);
      now.at = after(now.at);
      ptx::mbarrier_wait_by_warp(&s.k_full[stage(now.at)], parity(now.at), false);
      flags = step_at(stage(now.at)).flags;
    }
    return flags;
  }

  // Softmax of a step with these flags, and the end of P V of the step before.
  template <bool Before> __device__ __forceinline__ ahead probabilities(const place &now, int flags) {
    constexpr int Half = FWD_KEYS / 32 * 8;
    const uint32_t next = after(now.at);
    ahead known;
    known.k_here = ptx::mbarrier_test(&s.k_full[stage(next)], parity(next));
    const bool done = !Before || ptx::mbarrier_test(&s.v_full[stage(now.before)], parity(now.before));
    add0 = add1 = 0.0f;
    this->template exponentials<0, Half>(add0, add1);
    // The assembler schedules within basic blocks, and would sink these exponentials below the wait
    // that they hide; a branch ends the block: waiting for what is known to be there.
    ptx::wgmma_pin(sc);
    if (Before)
      ptx::mbarrier_wait_by_warp(&s.v_full[stage(now.before)], parity(now.before), done);
    known.flags = known.k_here ? step_at(stage(next)).flags : 0; // not what may be being written
    if (Before) {
      ptx::wgmma_wait<0>();
      ptx::wgmma_pin(o);
      release_v(&s.v_empty[stage(now.before)], now.shares);
    }
    this->template exponentials<Half, softmax::NS>(add0, add1);
    pack();
    known.v_here = ptx::mbarrier_test(&s.v_full[stage(now.at)], parity(now.at));
    finish(stage(now.at), flags);
    return known;
  }

  // P V of the step before.
  __device__ __forceinline__ void issue_pv(const place &now, bool here) {
    ptx::mbarrier_wait_by_warp(&s.v_full[stage(now.before)], parity(now.before), here);
    work::issue_pv(stage(now.before));
  }

  // A step that is not usual. bad: the step before is to be taken again; the turn is here then. Adds to flags
  // whether a row has seen no key yet.
  __device__ __forceinline__ void step(ahead &known, int &flags, bool bad, fwd_tile &tile) {
    const fwd_tile done_tile = tile;
    const row_bits seen = seen_in(step_at(stage(now.at)));
    work::take_turn(stage(now.before), qn, bad);
    if (flags & STEP_FIRST)
      tile = work::tile_of(++qn); // not before: it waits for the Q that may have been held
    issue_qk(stage(now.at), qn);
    issue_pv(now, known.v_here);
    turn_give();
    settle(stage(now.before));
    const typename work::rows_so_far done = work::so_far(done_tile);
    ptx::wgmma_wait<1>();
    ptx::wgmma_pin(sc);
    const int unset = work::take_scores(flags, seen);
    known = this->template probabilities<true>(now, flags);
    work::end_step(flags, done);
    flags = (flags & ~STEP_UNSET) | unset;
  }

  // As fwd_consumer::usual_steps().
  __device__ __forceinline__ bool usual_steps(ahead &known, int &flags) {
    place next = this->now;
#pragma unroll 1
    while (__all_sync(~0u, !(flags & (STEP_FIRST | STEP_PARTIAL | STEP_STOP | STEP_UNSET)))) {
      place now = next; // find() moves that, so what warps have in common is told in every step
      now.at = ptx::same_in_warp(now.at);
      now.before = ptx::same_in_warp(now.before);
      turn_wait();
      const int told = told_again(stage(now.before));
      issue_qk(stage(now.at), now.at); // any number has Q's stage (q_stage)
      if (__any_sync(~0u, told)) {
        ptx::wgmma_wait<0>();
        ptx::wgmma_pin(sc);
        this->now = next;
        return true;
      }
      issue_pv(now, known.v_here);
      turn_give();
      settle(stage(now.before));
      ptx::wgmma_wait<1>();
      ptx::wgmma_pin(sc);
      known = this->template probabilities<true>(now, flags);
      next.next(flags);
      flags = find(next, known);
    }
    this->now = next;
    return false;
  }

  __device__ __forceinline__ void run() {
    if (wg == 1)
      turn_give(); // the first turn is warpgroup 0's
    int flags = find(now, {false, false, 0});
    if (flags & STEP_STOP) {
      if (wg == 0)
        turn_wait(); // takes the turn that is left over
      return;
    }
    fwd_tile tile = work::tile_of(0);
    work::first_scores(stage(now.at));
    ahead known = this->template probabilities<false>(now, flags);
    int unset = any_unset() ? STEP_UNSET : 0;
    for (;;) {
      now.next(flags);
      flags = find(now, known) | unset;
      const bool bad = usual_steps(known, flags);
      flags = ptx::same_in_warp(flags); // as fwd_consumer::run()
      if (flags & STEP_STOP)
        break;
      step(known, flags, bad, tile);
      unset = flags & STEP_UNSET;
    }
    work::take_turn(stage(now.before), qn, false);
    issue_pv(now, known.v_here);
    work::end_stream(stage(now.before), tile);
  }
};

} // namespace wgmma
#endif
