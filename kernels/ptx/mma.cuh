// mma.cuh -- what the sm_80 engine is made of: warp-level matrix product, ldmatrix, cp.async,
// reductions.
//
// PTX ISA 8.0, sections 9.7.13.4.8 (mma.m16n8k16), 9.7.13.4.15 (ldmatrix), 9.7.8.22 (cp.async),
// 9.7.12.7 (red). With g = lane / 4 and t = lane % 4: an accumulator holds (row g, columns 2t, 2t +
// 1) and the same of row g + 8; A's four registers are (g, 2t) (g + 8, 2t) (g, 2t + 8) (g + 8, 2t +
// 8).
#ifndef LONGCA_PTX_MMA_CUH
#define LONGCA_PTX_MMA_CUH

#include <stdint.h>

namespace ptx {

// d[16, 8] += a[16, 16] b[16, 8]
static __device__ __forceinline__ void mma_bf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0,
                                                uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Four 8x8 matrices; lane 8i + j gives the address of row j of matrix i.
static __device__ __forceinline__ void ldmatrix(uint32_t (&d)[4], uint32_t smem) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
               : "r"(smem)
               : "memory");
}
static __device__ __forceinline__ void ldmatrix_trans(uint32_t (&d)[4], uint32_t smem) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
               : "r"(smem)
               : "memory");
}

// 16 bytes to shared memory, past L1; zeros instead when `there` is false (src is not read then).
static __device__ __forceinline__ void copy_async_16(uint32_t smem, const void *src, bool there) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(smem), "l"(src),
               "r"(there ? 16 : 0)
               : "memory");
}
static __device__ __forceinline__ void copy_async_4(uint32_t smem, const void *src, bool there) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(smem), "l"(src),
               "r"(there ? 4 : 0)
               : "memory");
}
static __device__ __forceinline__ void copy_async_commit() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
// Until at most N of this thread's groups are in flight.
template<int N> static __device__ __forceinline__ void copy_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

// dst[0 .. 4) += x, element by element atomic.
static __device__ __forceinline__ void reduce_add_4(float *dst, float x, float y, float z,
                                                    float w) {
#if __CUDA_ARCH__ >= 900
  asm volatile("red.relaxed.gpu.global.add.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(dst), "f"(x),
               "f"(y), "f"(z), "f"(w)
               : "memory");
#else
  atomicAdd(dst, x);
  atomicAdd(dst + 1, y);
  atomicAdd(dst + 2, z);
  atomicAdd(dst + 3, w);
#endif
}

} // namespace ptx
#endif
