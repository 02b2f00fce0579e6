// wgmma.cuh -- the warpgroup matrix product of sm_90a: D[64, N] (+)= A[64, 16] B[16, N], bf16 to fp32.
//
// PTX ISA 8.0, section 9.7.14 (asynchronous warpgroup level matrix instructions). A comes from shared
// memory (ss) or registers (rs); B always from shared memory, either K-major ([N, 16], the K of
// Q K^T) or, with TB = 1, N-major ([16, N], the V of P V). Of the accumulator, thread t of the
// warpgroup holds rows 16 (t / 32) + (t % 32) / 4 (elements 4j, 4j + 1) and the row 8 below (4j + 2,
// 4j + 3), columns 8j + 2 (t % 4) and the next. A in registers: elements 8c .. 8c + 7 of an accumulator
// of that layout, packed to bf16 pairs, are the operand of K-step c.
#ifndef LONGCA_PTX_WGMMA_CUH
#define LONGCA_PTX_WGMMA_CUH

#include <stdint.h>

#include "sync.cuh"

namespace ptx {

// Descriptor of an operand tile in 128-byte-swizzled shared memory (section 9.7.14.5, matrix
// descriptor): rows of 128 bytes, 8 rows an atom of 1024 bytes. `lead`: bytes between 64-column chunks
// of an N-major operand (ignored for K-major ones). Only the low word depends on the address, so
// moving along a tile is one 32-bit addition.
struct wgmma_desc {
  uint32_t lo;
  uint32_t hi;
  __device__ __forceinline__ wgmma_desc(const void *tile, uint32_t lead_bytes)
      : lo(smem_addr(tile) >> 4 | (lead_bytes >> 4) << 16), hi(1024 >> 4 | 1u << 30) {}
  // The tile `bytes` further on.
  __device__ __forceinline__ wgmma_desc from(uint32_t bytes) const {
    wgmma_desc d = *this;
    d.lo += bytes >> 4;
    return d;
  }
  // The operand `bytes` further on.
  __device__ __forceinline__ uint64_t at(uint32_t bytes) const {
    return static_cast<uint64_t>(hi) << 32 | (lo + (bytes >> 4));
  }
};

// Before the first product that reads or writes registers that other instructions touched.
static __device__ __forceinline__ void wgmma_fence() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
static __device__ __forceinline__ void wgmma_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
// Until at most N committed groups are in flight.
template<int N> static __device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}

// Pins registers that an asynchronous product owns: the compiler must not move their uses across it.
template<int N> static __device__ __forceinline__ void wgmma_pin(float (&d)[N]) {
#pragma unroll
  for (int i = 0; i < N; i++)
    asm volatile("" : "+f"(d[i])::"memory");
}
template<int N> static __device__ __forceinline__ void wgmma_pin(uint32_t (&d)[N]) {
#pragma unroll
  for (int i = 0; i < N; i++)
    asm volatile("" : "+r"(d[i])::"memory");
}

template<int N, int TB> struct wgmma_op;

// Operand lists: the text of registers 8i .. 8i + 7, and their constraints.
#define W0 "%0, %1, %2, %3, %4, %5, %6, %7"
#define W1 "%8, %9, %10, %11, %12, %13, %14, %15"
#define W2 "%16, %17, %18, %19, %20, %21, %22, %23"
#define W3 "%24, %25, %26, %27, %28, %29, %30, %31"
#define W4 "%32, %33, %34, %35, %36, %37, %38, %39"
#define W5 "%40, %41, %42, %43, %44, %45, %46, %47"
#define W6 "%48, %49, %50, %51, %52, %53, %54, %55"
#define W7 "%56, %57, %58, %59, %60, %61, %62, %63"
#define D8(i) \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), \
      "+f"(d[i + 6]), "+f"(d[i + 7])
#define W_TEXT_64 W0 ", " W1 ", " W2 ", " W3
#define W_REGS_64 D8(0), D8(8), D8(16), D8(24)
#define W_TEXT_128 W0 ", " W1 ", " W2 ", " W3 ", " W4 ", " W5 ", " W6 ", " W7
#define W_REGS_128 D8(0), D8(8), D8(16), D8(24), D8(32), D8(40), D8(48), D8(56)

// P0 .. P5: the numbers of the operands after the accumulator's N / 2.
#define WGMMA_OP(N, TB, P0, P1, P2, P3, P4, P5) \
  template<> struct wgmma_op<N, TB> { \
    static __device__ __forceinline__ void ss(float (&d)[N / 2], uint64_t a, uint64_t b, \
                                              int keep) { \
      asm volatile("{.reg .pred keep;\nsetp.ne.b32 keep, %" #P2 ", 0;\n" \
                   "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32.bf16.bf16 {" W_TEXT_##N \
                   "}, %" #P0 ", %" #P1 ", keep, 1, 1, 0, " #TB ";}" \
                   : W_REGS_##N \
                   : "l"(a), "l"(b), "r"(keep)); \
    } \
    static __device__ __forceinline__ void rs(float (&d)[N / 2], const uint32_t *a, uint64_t b, \
                                              int keep) { \
      asm volatile("{.reg .pred keep;\nsetp.ne.b32 keep, %" #P5 ", 0;\n" \
                   "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32.bf16.bf16 {" W_TEXT_##N \
                   "}, {%" #P0 ", %" #P1 ", %" #P2 ", %" #P3 "}, %" #P4 ", keep, 1, 1, " #TB ";}" \
                   : W_REGS_##N \
                   : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(keep)); \
    } \
  };
#define WGMMA_OPS(N, ...) WGMMA_OP(N, 0, __VA_ARGS__) WGMMA_OP(N, 1, __VA_ARGS__)
WGMMA_OPS(64, 32, 33, 34, 35, 36, 37)
WGMMA_OPS(128, 64, 65, 66, 67, 68, 69)
#undef W0
#undef W1
#undef W2
#undef W3
#undef W4
#undef W5
#undef W6
#undef W7
#undef D8
#undef WGMMA_OP
#undef WGMMA_OPS
#undef W_TEXT_64
#undef W_REGS_64
#undef W_TEXT_128
#undef W_REGS_128

} // namespace ptx
#endif
