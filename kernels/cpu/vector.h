// vector.h -- the compiler vectors of one instruction set, and the three pieces of arithmetic that the CPU
// engine is made of: the micro-kernel, 2^x, and the maximum of a row. Included by tile.c, which is compiled
// once per instruction set.
//
// All products are C[MR, NR] += A B by one micro-kernel: MR x NV vectors of C stay in registers, each step
// loads NV vectors of a row of B and broadcasts MR numbers of A (BLIS, "Anatomy of High-Performance Matrix
// Multiplication"). MR x NR: 8 x 32 with 32 vector registers, 4 x 16 or 4 x 8 with 16.
#ifndef LONGCA_CPU_VECTOR_H
#define LONGCA_CPU_VECTOR_H

#include <math.h>

#include "cpu.h"

#if defined(__AVX512F__)
#define VW 16
enum { MR = 8, NV = 2 };
#define CPU_ISA cpu_isa_avx512
#define CPU_ISA_NAME "avx512"
static bool usable(void) {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512cd");
}
#elif defined(__AVX2__)
#define VW 8
enum { MR = 4, NV = 2 };
#define CPU_ISA cpu_isa_avx2
#define CPU_ISA_NAME "avx2"
static bool usable(void) { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
#else
#define VW 4
#ifdef __aarch64__
enum { MR = 8, NV = 2 };
#else
enum { MR = 4, NV = 2 };
#endif
#define CPU_ISA cpu_isa_base
#define CPU_ISA_NAME "base"
static bool usable(void) { return true; }
#endif
enum { NR = VW * NV, BLOCKS = CPU_TM / MR };
_Static_assert(CPU_TM % MR == 0 && CPU_TK % MR == 0 && CPU_TK % NR == 0 && 64 % NR == 0,
               "tiles are cut into whole micro-tiles");

typedef float vec __attribute__((vector_size(VW * 4), may_alias));
typedef int32_t ivec __attribute__((vector_size(VW * 4), may_alias));
typedef uint32_t uvec __attribute__((vector_size(VW * 4), may_alias));
typedef float quad __attribute__((vector_size(16), may_alias));
// Rows of the caller's tensors: any alignment.
typedef float loose_vec __attribute__((vector_size(VW * 4), aligned(4), may_alias));
typedef uint16_t half_vec __attribute__((vector_size(VW * 2), aligned(2), may_alias));
#define INLINE static inline __attribute__((always_inline))

INLINE vec load(const float *p) { return *(const vec *)p; }
INLINE void store(float *p, vec x) { *(vec *)p = x; }
INLINE vec splat(float x) { return x - (vec){0}; }
INLINE vec select(ivec mask, vec yes, vec no) {
  return (vec)((mask & (ivec)yes) | (~mask & (ivec)no));
}

// C[MR, nv * VW] (+)= sum over k < n of A[i * a_row + k * a_col] B[k, nv * VW]; nv is 1 or NV
INLINE void micro(int nv, int n, const float *a, int64_t a_row, int64_t a_col, const float *b,
                  int64_t ldb, float *c, int64_t ldc, bool add) {
  vec acc[MR][NV];
#pragma GCC unroll 8
  for (int i = 0; i < MR; i++)
#pragma GCC unroll 4
    for (int j = 0; j < nv; j++)
      acc[i][j] = add ? load(c + i * ldc + j * VW) : splat(0);
  for (int k = 0; k < n; k++, a += a_col, b += ldb) {
    vec row[NV];
#pragma GCC unroll 4
    for (int j = 0; j < nv; j++)
      row[j] = load(b + j * VW);
#pragma GCC unroll 8
    for (int i = 0; i < MR; i++) {
      const vec x = splat(a[i * a_row]);
#pragma GCC unroll 4
      for (int j = 0; j < nv; j++)
        acc[i][j] += x * row[j];
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < MR; i++)
#pragma GCC unroll 4
    for (int j = 0; j < nv; j++)
      store(c + i * ldc + j * VW, acc[i][j]);
}

// 2^x for x <= about 0, 0 below 2^-126, NaN for NaN. 2^x = 2^n 2^f, n = round(x): adding 1.5 * 2^23
// leaves n in the low bits. Minimax polynomial of 2^f on [-1/2, 1/2], relative error 7.5e-8.
INLINE vec exp2_vec(vec x) {
  const vec magic = splat(12582912.f);
  const vec t = x + magic, f = x - (t - magic);
  vec p = splat(1.32764719924e-3f);
  p = p * f + 9.67554133444e-3f;
  p = p * f + 5.5507132735e-2f;
  p = p * f + 2.40221197238e-1f;
  p = p * f + 6.93146967065e-1f;
  p = p * f + 1.00000007165f;
  const uvec bits = (uvec)p + ((uvec)t << 23);
  return (vec)(bits & ~(uvec)(x < -126.f));
}

// Lane i of the result: whether key k + i is visible (all ones) or not.
INLINE ivec lanes_seen(const uint64_t *bits, int k) {
  ivec bit = {0};
#pragma GCC unroll 16
  for (int i = 0; i < VW; i++)
    bit[i] = 1 << i;
  const int32_t word = (int32_t)(bits[k / 64] >> (k % 64));
  return (bit & word) != 0;
}

// Largest of s[0, n), n a multiple of VW; -inf for none. As a reduction of floats it becomes vector
// maxima, which a comparison of compiler vectors does not.
INLINE float max_of(const float *s, int n) {
  float top = -INFINITY;
#pragma omp simd reduction(max : top) aligned(s : VW * 4)
  for (int k = 0; k < n / VW * VW; k++)
    top = s[k] > top ? s[k] : top;
  return top;
}

#endif
