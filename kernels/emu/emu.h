// emu.h -- CUDA C++ for the host compiler: what nvcc knows by itself, for kernels that run on an emulated
// GPU (README.md). Included before every file (emu.mk), which otherwise stays as it is, except that emu.sed
// writes launches and dynamic shared memory as C++.
//
// A thread of a block is a fibre; one block runs at a time on a thread of the host. Warp operations are
// meetings of lanes. Headers of kernels/ptx are replaced by emu_ptx.h, at the end.
#ifndef LONGCA_EMU_H
#define LONGCA_EMU_H

#include <cuda_bf16.h>
#include <cuda_runtime.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#include <algorithm>
#include <functional>
#include <tuple>
#include <type_traits>
#include <utility>

#undef __global__
#undef __device__
#undef __host__
#undef __shared__
#undef __forceinline__
#undef __launch_bounds__
#undef __grid_constant__
#undef __align__
#define __global__
#define __device__
#define __host__
#define __shared__ static thread_local
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(n) __attribute__((aligned(n)))
#define LONGCA_EMULATED

namespace emu {

enum { WARP = 32, THREADS_MAX = 1024, SHARED_MAX = 227 << 10 };

struct config {
  dim3 grid, block;
  size_t shared;
  config(dim3 grid, dim3 block, size_t shared = 0, cudaStream_t = nullptr)
      : grid(grid), block(block), shared(shared) {}
  template<class... A> auto operator()(A &&...args) const {
    return std::make_pair(*this, std::tuple<std::decay_t<A>...>(std::forward<A>(args)...));
  }
};

// Runs body once a thread of every block; returns when all have ended.
void launch(const config &c, const std::function<void()> &body);

// kernel<<<grid, block, shared, stream>>>(args), as emu.sed writes it: kernel % config(...)(args).
template<class... P, class Bound> void operator%(void (*kernel)(P...), const Bound &bound) {
  std::tuple<std::decay_t<P>...> args(bound.second);
  launch(bound.first, [&] { std::apply(kernel, args); });
}

// What cudaLaunchKernel takes for a kernel: it finds each parameter behind a pointer.
typedef void (*entry_fn)(void **args);
template<class... P, size_t... I>
void call(void (*kernel)(P...), void **args, std::index_sequence<I...>) {
  kernel(*static_cast<std::remove_reference_t<P> *>(args[I])...);
}
template<class... P> void call(void (*kernel)(P...), void **args) {
  call(kernel, args, std::index_sequence_for<P...>());
}
template<auto Kernel> const void *entry() {
  return reinterpret_cast<const void *>(+[](void **args) { call(Kernel, args); });
}

// Where the running thread stands.
struct place {
  uint3 thread, block;
  dim3 threads, blocks;
};
const place &here();
void *
dynamic_shared(); // of the running block, aligned to 1024 bytes; what precedes it is 16-byte aligned
uint32_t shared_address(const void *p); // and back; other memory than the block's is an error
void *shared_pointer(uint32_t address);

// Blocks this thread until test(state) holds; what and detail say for what, should it never.
void wait_until(bool (*test)(void *), void *state, const char *what, uint64_t detail);
template<class F> void wait_for(F test, const char *what, uint64_t detail) {
  wait_until([](void *f) { return (*static_cast<F *>(f))(); }, &test, what, detail);
}

// Lanes of a warp meet: the last to come runs act(state, arguments by lane) for all, then all go on.
void meet(unsigned mask, const char *what, void *argument,
          void (*act)(void **arguments, unsigned mask));
void sync_warp(unsigned mask);
void meet_block();

[[noreturn]] void fault(const char *format, ...) __attribute__((format(printf, 1, 2)));

uint32_t exchange(unsigned mask, uint32_t value, int lane);
template<class T> T exchange_as(unsigned mask, T value, int lane) {
  static_assert(sizeof(T) == 4, "32-bit values are exchanged");
  uint32_t bits;
  memcpy(&bits, &value, 4);
  bits = exchange(mask, bits, lane);
  memcpy(&value, &bits, 4);
  return value;
}
unsigned ballot(unsigned mask, bool predicate);

} // namespace emu

#define threadIdx (emu::here().thread)
#define blockIdx (emu::here().block)
#define blockDim (emu::here().threads)
#define gridDim (emu::here().blocks)

static inline int emu_lane() { return (int)(threadIdx.x % emu::WARP); }

// ---- intrinsics, as the kernels use them

template<class T> static inline T __ldg(const T *p) { return *p; }
template<class T> static inline T __ldcs(const T *p) { return *p; }
template<class T> static inline void __stcs(T *p, T x) { *p = x; }
template<class T> static inline T __shfl_sync(unsigned mask, T v, int lane) {
  return emu::exchange_as(mask, v, lane & 31);
}
template<class T> static inline T __shfl_xor_sync(unsigned mask, T v, int flip, int width = 32) {
  return emu::exchange_as(mask, v, emu_lane() ^ flip);
}
template<class T> static inline T __shfl_up_sync(unsigned mask, T v, int by) {
  return emu::exchange_as(mask, v, emu_lane() >= by ? emu_lane() - by : emu_lane());
}
static inline unsigned __ballot_sync(unsigned mask, bool p) { return emu::ballot(mask, p); }
static inline bool __any_sync(unsigned mask, bool p) { return emu::ballot(mask, p) != 0; }
static inline bool __all_sync(unsigned mask, bool p) { return emu::ballot(mask, !p) == 0; }
static inline void __syncwarp(unsigned mask = ~0u) { emu::sync_warp(mask); }
static inline void __syncthreads() { emu::meet_block(); }
static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __clz(int x) { return x ? __builtin_clz((unsigned)x) : 32; }
static inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
  const uint64_t bytes = (uint64_t)y << 32 | x;
  unsigned out = 0;
  for (int i = 0; i < 4; i++)
    out |= (unsigned)(bytes >> 8 * (selector >> 4 * i & 7) & 0xff) << 8 * i;
  return out;
}
#define EMU_BITS(name, To, From) \
  static inline To name(From x) { \
    To y; \
    memcpy(&y, &x, 4); \
    return y; \
  }
EMU_BITS(__int_as_float, float, int)
EMU_BITS(__uint_as_float, float, unsigned)
#undef EMU_BITS
#define __expf expf
#define __logf logf
template<class T> static inline T atomicAdd(T *p, T x) {
  if constexpr (std::is_integral<T>::value) {
    return __atomic_fetch_add(p, x, __ATOMIC_SEQ_CST);
  } else {
    T old, sum;
    __atomic_load(p, &old, __ATOMIC_RELAXED);
    do
      sum = old + x;
    while (!__atomic_compare_exchange(p, &old, &sum, true, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED));
    return old;
  }
}
static inline int atomicAdd(int *p, int x) { return atomicAdd<int>(p, x); }
template<class T> static inline T atomicMax(T *p, T x) {
  T old = __atomic_load_n(p, __ATOMIC_RELAXED);
  while (old < x &&
         !__atomic_compare_exchange_n(p, &old, x, true, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED)) {
  }
  return old;
}
template<class T> static inline T atomicOr(T *p, T x) {
  return __atomic_fetch_or(p, x, __ATOMIC_SEQ_CST);
}
long long
clock64(); // nanoseconds; jumps a second a call, so that kernels that wait for the host give up

template<class A, class B> static inline std::common_type_t<A, B> min(A a, B b) {
  typedef std::common_type_t<A, B> T;
  return (T)b < (T)a ? (T)b : (T)a;
}
template<class A, class B> static inline std::common_type_t<A, B> max(A a, B b) {
  typedef std::common_type_t<A, B> T;
  return (T)a < (T)b ? (T)b : (T)a;
}

template<class... P>
static inline cudaError_t cudaFuncSetAttribute(void (*kernel)(P...), cudaFuncAttribute which,
                                               int value) {
  return cudaFuncSetAttribute(reinterpret_cast<const void *>(kernel), which, value);
}

#include "emu_ptx.h"
#endif
