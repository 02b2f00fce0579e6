// rows.h -- rows of the caller's tensors in and out of the engine's fp32 matrices, key tiles packed, and
// sums along a row. Included by tile.c; what the functions promise is said in cpu.h.
#ifndef LONGCA_CPU_ROWS_H
#define LONGCA_CPU_ROWS_H

#include <string.h>

#include "vector.h"

static void load_row(float *dst, const void *src, enum attn_dtype dtype, int64_t at, int dim,
                     float scale) {
  for (int j = 0; j < dim; j += VW)
    if (dtype == ATTN_FP32)
      store(dst + j, *(const loose_vec *)((const float *)src + at + j) * scale);
    else {
      const half_vec x = *(const half_vec *)((const uint16_t *)src + at + j);
      store(dst + j, (vec)(__builtin_convertvector(x, uvec) << 16) * scale);
    }
}

// bf16 by rounding to nearest even, as bf16_from_float() of src/tensor.h does; NaN stays NaN.
static void store_row(void *dst, enum attn_dtype dtype, int64_t at, const float *src, int dim,
                      float scale) {
  for (int j = 0; j < dim; j += VW) {
    const vec x = load(src + j) * scale;
    if (dtype == ATTN_FP32) {
      *(loose_vec *)((float *)dst + at + j) = x;
      continue;
    }
    const uvec u = (uvec)x, nan = (uvec)(x != x);
    const uvec rounded = u + 0x7fff + (u >> 16 & 1);
    *(half_vec *)((uint16_t *)dst + at + j) =
        __builtin_convertvector(((rounded & ~nan) | ((u | 0x400000) & nan)) >> 16, half_vec);
  }
}

static void add_row(float *dst, const float *src, int dim, float scale) {
  for (int j = 0; j < dim; j++)
    dst[j] += src[j] * scale;
}

static float dot(const float *a, const float *b, int dim) {
  vec sum = splat(0);
  float total = 0;
  for (int j = 0; j < dim; j += VW)
    sum += load(a + j) * load(b + j);
  for (int l = 0; l < VW; l++)
    total += sum[l];
  return total;
}

static float exp2_row(float *x, int64_t n, float base) {
  vec sum = splat(0);
  float total = 0;
  for (int64_t j = 0; j < n; j += VW) {
    const vec y = exp2_vec(load(x + j) - base);
    store(x + j, y);
    sum += y;
  }
  for (int l = 0; l < VW; l++)
    total += sum[l];
  return total;
}

// to[j][i] = from[i][j] for i, j < 4.
INLINE void transpose4(const float *from, int from_ld, float *to, int to_ld) {
  const quad a = *(const quad *)from, b = *(const quad *)(from + from_ld);
  const quad c = *(const quad *)(from + 2 * from_ld), d = *(const quad *)(from + 3 * from_ld);
  const quad ab01 = __builtin_shufflevector(a, b, 0, 4, 1, 5);
  const quad ab23 = __builtin_shufflevector(a, b, 2, 6, 3, 7);
  const quad cd01 = __builtin_shufflevector(c, d, 0, 4, 1, 5);
  const quad cd23 = __builtin_shufflevector(c, d, 2, 6, 3, 7);
  *(quad *)to = __builtin_shufflevector(ab01, cd01, 0, 1, 4, 5);
  *(quad *)(to + to_ld) = __builtin_shufflevector(ab01, cd01, 2, 3, 6, 7);
  *(quad *)(to + 2 * to_ld) = __builtin_shufflevector(ab23, cd23, 0, 1, 4, 5);
  *(quad *)(to + 3 * to_ld) = __builtin_shufflevector(ab23, cd23, 2, 3, 6, 7);
}

static void pack(float *dst, const void *src, const struct attn_problem *p, int kv, int32_t row,
                 int count, bool transposed) {
  enum { BLOCK = 16 };
  _Alignas(64) float rows[BLOCK][128];
  for (int k = 0; k < CPU_TK; k += BLOCK) {
    for (int i = 0; i < BLOCK; i++) {
      float *to = transposed ? rows[i] : dst + (k + i) * CPU_LD(p->dim);
      if (k + i < count)
        load_row(to, src, p->dtype, ((int64_t)(row + k + i) * p->heads_kv + kv) * p->dim, p->dim,
                 1);
      else
        memset(to, 0, (size_t)p->dim * sizeof *to);
    }
    for (int i = 0; transposed && i < BLOCK; i += 4)
      for (int j = 0; j < p->dim; j += 4)
        transpose4(&rows[i][j], 128, dst + j * CPU_LDS + k + i, CPU_LDS);
  }
}

#endif
