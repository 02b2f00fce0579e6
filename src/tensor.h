// tensor.h -- dense host tensors of bf16 or fp32, and the seeded normal numbers that fill them.
#ifndef LONGCA_TENSOR_H
#define LONGCA_TENSOR_H

#include <stdint.h>
#include <string.h>

#include "../kernels/attn.h"

// Round to nearest even; NaN stays NaN.
static inline uint16_t bf16_from_float(float x) {
  uint32_t u;
  memcpy(&u, &x, sizeof u);
  if ((u & 0x7fffffff) > 0x7f800000)
    return (uint16_t)(u >> 16 | 0x40);
  return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

static inline float bf16_to_float(uint16_t x) {
  const uint32_t u = (uint32_t)x << 16;
  float f;
  memcpy(&f, &u, sizeof f);
  return f;
}

static inline size_t tensor_elem_bytes(enum attn_dtype dtype) { return dtype == ATTN_BF16 ? 2 : 4; }

// Element i of a dense tensor of that dtype.
static inline float tensor_get(const void *data, enum attn_dtype dtype, int64_t i) {
  return dtype == ATTN_BF16 ? bf16_to_float(((const uint16_t *)data)[i]) : ((const float *)data)[i];
}

// n elements, 64-byte aligned, poisoned with NaN; NULL when memory runs out. Release with free().
void *tensor_alloc(enum attn_dtype dtype, int64_t n);
// All bytes 0xff: NaN in both dtypes, so that an element that was never written is seen.
void tensor_poison(void *data, enum attn_dtype dtype, int64_t n);
// N(0, 1), rounded to dtype. Element i depends on (seed, stream, i) alone: streams tell q, k, v, dO apart.
void tensor_fill_normal(void *data, enum attn_dtype dtype, int64_t n, uint64_t seed,
                        uint64_t stream);

#endif
