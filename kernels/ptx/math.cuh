// math.cuh -- single instructions of softmax: exp2, log2, 1 / x, packing to bf16.
//
// PTX ISA 8.0, sections 9.7.3.21 (ex2), 9.7.3.20 (lg2), 9.7.3.13 (rcp), 9.7.9.21 (cvt.rn.bf16x2).
#ifndef LONGCA_PTX_MATH_CUH
#define LONGCA_PTX_MATH_CUH

#include <stdint.h>

namespace ptx {

static __device__ __forceinline__ float ex2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
static __device__ __forceinline__ float lg2(float x) {
  float y;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
// 0 that the compiler does not know: of 64 that it knows it makes 64 in uniform registers first.
static __device__ __forceinline__ float zero() { // in a block whose threads have one dimension
  float y;
  asm("mov.b32 %0, %%tid.y;" : "=f"(y));
  return y;
}
// 1 / x to within an ulp.
static __device__ __forceinline__ float rcp(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
// bf16 pair, lo in the low half.
static __device__ __forceinline__ uint32_t pack_bf16(float lo, float hi) {
  uint32_t y;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(hi), "f"(lo));
  return y;
}

// The GPU's nanosecond timer, and which multiprocessor this is.
static __device__ __forceinline__ long long global_ns() {
  long long t;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(t));
  return t;
}
static __device__ __forceinline__ unsigned sm_id() {
  unsigned sm;
  asm volatile("mov.u32 %0, %%smid;" : "=r"(sm));
  return sm;
}

} // namespace ptx
#endif
