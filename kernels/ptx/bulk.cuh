// bulk.cuh -- one-dimensional bulk reductions, groups of bulk copies, stmatrix, and the fence between proxies.
//
// PTX ISA 8.0, sections 9.7.8.24 (cp.reduce.async.bulk), 9.7.13.5 (stmatrix), 9.7.12.4
// (fence.proxy.async). Addresses and sizes are multiples of 16 bytes.
#ifndef LONGCA_PTX_BULK_CUH
#define LONGCA_PTX_BULK_CUH

#include <stdint.h>

#include "sync.cuh"

namespace ptx {

// Adds fp32 shared memory into global memory; part of this thread's bulk group.
static __device__ __forceinline__ void bulk_add_f32(float *dst, const void *src, uint32_t bytes) {
  asm volatile("cp.reduce.async.bulk.global.shared::cta.bulk_group.add.f32 [%0], [%1], %2;" ::"l"(dst),
               "r"(smem_addr(src)), "r"(bytes)
               : "memory");
}
static __device__ __forceinline__ void bulk_commit() {
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}
// Until at most N groups still read shared memory.
template <int N> static __device__ __forceinline__ void bulk_wait_read() {
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(N) : "memory");
}
// Until at most N groups are unfinished: their sums are in global memory.
template <int N> static __device__ __forceinline__ void bulk_wait() {
  asm volatile("cp.async.bulk.wait_group %0;" ::"n"(N) : "memory");
}

// Shared memory written by ordinary stores becomes visible to the tensor cores and the copy engine.
static __device__ __forceinline__ void fence_async_shared() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// Adds two floats to global memory, no result (section 9.7.12.8, red; vectors from sm_90 on).
static __device__ __forceinline__ void add_f32x2(float *dst, float a, float b) {
  asm volatile("red.relaxed.gpu.global.add.v2.f32 [%0], {%1, %2};" ::"l"(dst), "f"(a), "f"(b) : "memory");
}

// Four 8 x 8 matrices of 16-bit elements: lane l gives the address of row l % 8 of matrix l / 8.
static __device__ __forceinline__ void stmatrix_x4(void *row, uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(smem_addr(row)), "r"(a),
               "r"(b), "r"(c), "r"(d)
               : "memory");
}
// The same, transposed: that row receives column l % 8 of the fragment.
static __device__ __forceinline__ void stmatrix_x4_trans(void *row, uint32_t a, uint32_t b, uint32_t c,
                                                         uint32_t d) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(
                   smem_addr(row)),
               "r"(a), "r"(b), "r"(c), "r"(d)
               : "memory");
}

} // namespace ptx
#endif
