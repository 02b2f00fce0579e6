// sync.cuh -- mbarriers, named barriers, register reallocation: one inline function an instruction.
//
// PTX ISA 8.0, sections 9.7.12.15 (mbarrier), 9.7.12.1 (barrier), 9.7.19.5 (setmaxnreg). A phase is a
// parity bit: a wait for parity p returns once the phase with that parity is complete, so a fresh barrier
// passes a wait for parity 1 at once.
#ifndef LONGCA_PTX_SYNC_CUH
#define LONGCA_PTX_SYNC_CUH

#include <stdint.h>

namespace ptx {

static __device__ __forceinline__ uint32_t smem_addr(const void *p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

static __device__ __forceinline__ void mbarrier_init(uint64_t *bar, uint32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(smem_addr(bar)), "r"(arrivals));
}

// Makes the inits visible to the copy engine.
static __device__ __forceinline__ void mbarrier_init_fence() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

static __device__ __forceinline__ void mbarrier_arrive(uint64_t *bar) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(smem_addr(bar)) : "memory");
}

// Arrive and announce `bytes` that asynchronous copies will deliver in this phase.
static __device__ __forceinline__ void mbarrier_arrive_expect(uint64_t *bar, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(smem_addr(bar)),
               "r"(bytes)
               : "memory");
}

static __device__ __forceinline__ bool mbarrier_try_wait(uint64_t *bar, uint32_t parity) {
  uint32_t done;
  asm volatile("{.reg .pred p;\n"
               "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
               "selp.u32 %0, 1, 0, p;}"
               : "=r"(done)
               : "r"(smem_addr(bar)), "r"(parity)
               : "memory");
  return done;
}

// Does not wait.
static __device__ __forceinline__ bool mbarrier_test(uint64_t *bar, uint32_t parity) {
  uint32_t done;
  asm volatile("{.reg .pred p;\n"
               "mbarrier.test_wait.parity.shared::cta.b64 p, [%1], %2;\n"
               "selp.u32 %0, 1, 0, p;}"
               : "=r"(done)
               : "r"(smem_addr(bar)), "r"(parity)
               : "memory");
  return done;
}

static __device__ __forceinline__ void mbarrier_wait(uint64_t *bar, uint32_t parity) {
  while (!mbarrier_try_wait(bar, parity)) {
  }
}

// The same by a whole warp, which stays together: the compiler knows so. here: whether this lane found it done.
static __device__ __forceinline__ void mbarrier_wait_by_warp(uint64_t *bar, uint32_t parity, bool here) {
  while (!__all_sync(~0u, here))
    here = mbarrier_try_wait(bar, parity);
}

// Named barriers: `sync` waits until `threads` threads have arrived, `arrive` does not wait.
static __device__ __forceinline__ void barrier_sync(int id, int threads) {
  asm volatile("barrier.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
static __device__ __forceinline__ void barrier_arrive(int id, int threads) {
  asm volatile("barrier.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// barrier_sync that tells every thread whether `mine` held for any.
static __device__ __forceinline__ bool barrier_any(int id, int threads, bool mine) {
  int any;
  asm volatile("{.reg .pred p, q;\n"
               "setp.ne.s32 p, %3, 0;\n"
               "barrier.red.or.pred q, %1, %2, p;\n"
               "selp.s32 %0, 1, 0, q;}"
               : "=r"(any)
               : "r"(id), "r"(threads), "r"(static_cast<int>(mine))
               : "memory");
  return any;
}

// 16 bytes of shared memory.
static __device__ __forceinline__ int4 load_shared(const void *p) {
  int4 v;
  asm volatile("ld.shared.v4.s32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "r"(smem_addr(p))
               : "memory");
  return v;
}

static __device__ __forceinline__ int load_shared_int(const int *p) {
  int v;
  asm volatile("ld.shared.s32 %0, [%1];" : "=r"(v) : "r"(smem_addr(p)) : "memory");
  return v;
}
static __device__ __forceinline__ void store_shared_int(int *p, int v) {
  asm volatile("st.shared.s32 [%0], %1;" ::"r"(smem_addr(p)), "r"(v) : "memory");
}

// 8 and 4 bytes of global memory that nobody writes while the kernel runs. Asked for where it stands, and waited for
// where it is used: the compiler would move a plain load there.
static __device__ __forceinline__ uint2 load_ahead(const uint2 *p) {
  uint2 v;
  asm volatile("ld.global.nc.v2.u32 {%0, %1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(p));
  return v;
}
static __device__ __forceinline__ uint32_t load_ahead(const uint32_t *p) {
  uint32_t v;
  asm volatile("ld.global.nc.u32 %0, [%1];" : "=r"(v) : "l"(p));
  return v;
}

// threadIdx.x, read anew at each call: the compiler cannot keep it in a register.
static __device__ __forceinline__ int thread_now() {
  int thread;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
  return thread;
}

// A word of global memory by which CTAs hint to one another.
static __device__ __forceinline__ int load_relaxed(const int32_t *p) {
  int v;
  asm volatile("ld.relaxed.gpu.global.s32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
  return v;
}
static __device__ __forceinline__ void store_relaxed(int32_t *p, int v) {
  asm volatile("st.relaxed.gpu.global.s32 [%0], %1;" ::"l"(p), "r"(v) : "memory");
}

// ---- turns at adding to global memory, by a count that each thread raises when its bulk reductions are done.
// cp.async.bulk.wait_group (not .read) makes them visible to the thread that waits (section 9.7.8.24),
// fence.proxy.async orders the asynchronous proxy with its other accesses (9.7.12.4), and the release, seen by
// the acquire, hands that on (8.8).
static __device__ __forceinline__ void count_after_bulk(int32_t *count) {
  asm volatile("fence.proxy.async.global;\n"
               "red.release.gpu.global.add.s32 [%0], 1;" ::"l"(count)
               : "memory");
}
static __device__ __forceinline__ bool count_is(const int32_t *count, int32_t n) {
  int32_t now;
  asm volatile("ld.acquire.gpu.global.s32 %0, [%1];\n"
               "fence.proxy.async.global;"
               : "=r"(now)
               : "l"(count)
               : "memory");
  return now == n;
}
static __device__ __forceinline__ void wait_for_count(const int32_t *count, int32_t n) {
  while (!count_is(count, n)) {
  }
}

// Of a count that one warp at a time may change: what its warp wrote, and what it has seen of others, comes before.
static __device__ __forceinline__ void store_release(int32_t *count, int32_t n) {
  asm volatile("st.release.gpu.global.s32 [%0], %1;" ::"l"(count), "r"(n) : "memory");
}

// One more at a count, and how many there were: what its warp wrote before comes before all that the warps
// read that count after it.
static __device__ __forceinline__ int32_t count_arrival(int32_t *count) {
  int32_t before;
  asm volatile("atom.acq_rel.gpu.global.add.s32 %0, [%1], 1;" : "=r"(before) : "l"(count) : "memory");
  return before;
}

// A value that all lanes hold. The compiler then knows that they do, and what follows from it needs no register
// a lane.
static __device__ __forceinline__ int same_in_warp(int x) { return __reduce_max_sync(~0u, x); }

template<int Registers> static __device__ __forceinline__ void registers_give() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(Registers));
}
template<int Registers> static __device__ __forceinline__ void registers_take() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(Registers));
}

} // namespace ptx
#endif
