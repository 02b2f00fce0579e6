// forward_consumer.cuh -- a consumer warpgroup of the forward kernel: 64 query rows, S and O in registers.
//
// Step n: wait for the turn, issue S = Q K^T of n and O += P V of n - 1, give the tensor core to the other
// warpgroup, then softmax of n (forward_softmax.cuh), which the products of n - 1 run beside. What a step waits
// for one after the other is what the kernel's speed hangs on (README.md), so the usual step has a body
// of its own: one branch, no mask, no maximum, and what it needs to know of the next step read under softmax.
#ifndef LONGCA_WGMMA_FORWARD_CONSUMER_CUH
#define LONGCA_WGMMA_FORWARD_CONSUMER_CUH

#include "forward_tile.cuh"

namespace wgmma {

template <int Dim, class Mask> struct fwd_consumer : fwd_tile_work<Dim, Mask> {
  typedef fwd_tile_work<Dim, Mask> work;
  typedef fwd_softmax<Dim> softmax;
  using work::work;
  using work::p, work::s, work::wg, work::qn, work::sc, work::o;
  using work::turn_wait, work::turn_give, work::issue_qk, work::issue_pv, work::seen_in, work::release_v;
  using work::any_unset, work::pack, work::step_at;
  using work::add0, work::add1, work::finish, work::told_again, work::settle;

  // Where a step's K lies, and those of the step before and after it (each as fwd_place), and whose V
  // has stage n % 2.
  struct place {
    uint32_t before, at, after, n;
    __device__ __forceinline__ void next() {
      const uint32_t third = before ^ 4; // round the three stages, the parity is the other
      before = at;
      at = after;
      after = third;
      n++;
    }
    __device__ __forceinline__ uint32_t v() const { return n % 2; }
    __device__ __forceinline__ uint32_t v_before() const { return n % 2 ^ 1; }
    __device__ __forceinline__ uint32_t v_parity() const { return n / 2 % 2; }
  } now = {4 | 2, 0, 1, 0};
  static __device__ __forceinline__ uint32_t stage(uint32_t place) { return place & 3; }
  static __device__ __forceinline__ uint32_t parity(uint32_t place) { return place >> 2; }

  // Softmax of a step with these flags, and the end of P V of the step before. Returns the flags of the next
  // step, which is there then, as is V of this one.
  template <bool Before> __device__ __forceinline__ int probabilities(const place &now, int flags) {
    constexpr int Half = FWD_KEYS / 32 * 8;
    const bool k_here = ptx::mbarrier_test(&s.k_full[stage(now.after)], parity(now.after));
    add0 = add1 = 0.0f;
    this->template exponentials<0, Half>(add0, add1);
    // The assembler schedules within basic blocks, and would sink these exponentials below the wait
    // that they hide; a branch ends the block.
    ptx::wgmma_pin(sc);
    ptx::mbarrier_wait_by_warp(&s.k_full[stage(now.after)], parity(now.after), k_here);
    const int next = ptx::load_shared_int(&s.step[stage(now.after)].flags);
    const bool v_here = ptx::mbarrier_test(&s.v_full[now.v()], now.v_parity());
    if (Before) {
      ptx::wgmma_wait<0>();
      ptx::wgmma_pin(o);
      release_v(&s.v_empty[now.v_before()]);
    }
    this->template exponentials<Half, softmax::NS>(add0, add1);
    pack();
    finish(stage(now.at), flags);
    ptx::mbarrier_wait_by_warp(&s.v_full[now.v()], now.v_parity(), v_here);
    return next;
  }

  // A step that is not usual. bad: the step before is to be taken again; the turn is here then. Returns the
  // flags of the next step.
  __device__ __forceinline__ int step(int flags, bool bad, fwd_tile &tile) {
    const bool first = flags & STEP_FIRST;
    const fwd_tile done_tile = tile;
    const int done_qn = qn;
    const row_bits seen = seen_in(step_at(stage(now.at)));
    qn = ptx::same_in_warp(first ? qn + 1 : qn);
    if (first)
      tile = work::tile_of(qn);
    work::take_turn(stage(now.before), done_qn, bad);
    issue_qk(stage(now.at), qn);
    issue_pv(now.v_before());
    turn_give();
    settle(stage(now.before));
    const typename work::rows_so_far done = work::so_far(done_tile);
    ptx::wgmma_wait<1>();
    ptx::wgmma_pin(sc);
    const int unset = work::take_scores(flags, seen);
    const int next = this->template probabilities<true>(now, flags);
    work::end_step(flags, done);
    return next | unset;
  }

  // Steps as long as they are usual; flags: of the step to come. Returns whether the step before that one is
  // to be taken again; the turn is here then.
  __device__ __forceinline__ bool usual_steps(int &flags) {
    const uint32_t q_at = ptx::same_in_warp(qn);
    place now = this->now;
    for (uint32_t *x : {&now.before, &now.at, &now.after, &now.n}) // the compiler shall know
      *x = ptx::same_in_warp(*x);
    bool bad = false;
    const int *told_at = &s.again[wg][stage(now.before)]; // not to be found out behind the turn
#pragma unroll 1
    while (__all_sync(~0u, !(flags & (STEP_FIRST | STEP_PARTIAL | STEP_STOP | STEP_UNSET)))) {
      turn_wait();
      const int told = ptx::load_shared_int(told_at);
      issue_qk(stage(now.at), q_at);
      bad = __any_sync(~0u, told);
      if (bad) {
        ptx::wgmma_wait<0>();
        ptx::wgmma_pin(sc);
        break;
      }
      issue_pv(now.v_before());
      turn_give();
      settle(stage(now.before));
      ptx::wgmma_wait<1>();
      ptx::wgmma_pin(sc);
      flags = this->template probabilities<true>(now, flags);
      told_at = &s.again[wg][stage(now.at)];
      now.next();
    }
    this->now = now;
    return bad;
  }

  __device__ __forceinline__ void run() {
    if (wg == 1)
      turn_give(); // the first turn is warpgroup 0's
    ptx::mbarrier_wait(&s.k_full[0], 0);
    int flags = step_at(0).flags;
    if (flags & STEP_STOP) {
      if (wg == 0)
        turn_wait(); // takes the turn that is left over
      return;
    }
    fwd_tile tile = work::tile_of(0);
    work::first_scores(0);
    flags = this->template probabilities<false>(now, flags);
    if (any_unset())
      flags |= STEP_UNSET;
    now.next();
    for (;; now.next()) {
      const bool bad = usual_steps(flags);
      flags = ptx::same_in_warp(flags); // the compiler shall know: a step's branches do not part a warp
      if (flags & STEP_STOP)
        break;
      flags = step(flags, bad, tile);
    }
    work::take_turn(stage(now.before), qn, false);
    issue_pv(now.v_before());
    work::end_stream(stage(now.before), tile);
  }
};

} // namespace wgmma
#endif
