// tensor.c -- see tensor.h. Counter-based: splitmix64 of the index, then Box-Muller on its two halves.
#include "tensor.h"

#include <math.h>
#include <stdlib.h>

void *tensor_alloc(enum attn_dtype dtype, int64_t n) {
  const size_t bytes = ((size_t)n * tensor_elem_bytes(dtype) + 63) / 64 * 64;
  void *data = aligned_alloc(64, bytes ? bytes : 64);
  if (data)
    memset(data, 0xff, bytes);
  return data;
}

void tensor_poison(void *data, enum attn_dtype dtype, int64_t n) {
  memset(data, 0xff, (size_t)n * tensor_elem_bytes(dtype));
}

static uint64_t splitmix64(uint64_t x) {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
  x = (x ^ x >> 27) * 0x94d049bb133111ebu;
  return x ^ x >> 31;
}

void tensor_fill_normal(void *data, enum attn_dtype dtype, int64_t n, uint64_t seed,
                        uint64_t stream) {
  const uint64_t key = splitmix64(seed ^ splitmix64(stream));
#pragma omp parallel for schedule(static)
  for (int64_t pair = 0; pair < (n + 1) / 2; pair++) {
    const uint64_t bits = splitmix64(key + (uint64_t)pair);
    const float u = ((float)(bits >> 40) + 0.5f) * 0x1p-24f; // (0, 1)
    const float v = (float)(bits & 0xffffff) * 0x1p-24f;
    const float radius = sqrtf(-2 * logf(u)), angle = 6.2831853f * v;
    const float x[2] = {radius * cosf(angle), radius * sinf(angle)};
    for (int64_t i = 2 * pair; i < n && i < 2 * pair + 2; i++) {
      if (dtype == ATTN_BF16)
        ((uint16_t *)data)[i] = bf16_from_float(x[i & 1]);
      else
        ((float *)data)[i] = x[i & 1];
    }
  }
}
