// memory.c -- host memory behind struct cp_memory.
#include <stdlib.h>
#include <string.h>

#include "../src/tensor.h"
#include "cp.h"

static void *host_alloc(int64_t bytes) {
  const size_t size = ((size_t)bytes + 63) / 64 * 64;
  void *data = aligned_alloc(64, size ? size : 64);
  if (data)
    memset(data, 0, size);
  else
    attn_error_set(true, "out of host memory for %lld bytes of a context-parallel plan",
                   (long long)bytes);
  return data;
}

static int host_zero(void *data, int64_t bytes, void *stream) {
  memset(data, 0, (size_t)bytes);
  return 0;
}

static int host_copy(void *to, int64_t to_pitch, const void *from, int64_t from_pitch,
                     int64_t width, int64_t rows, void *stream) {
  if (to_pitch == width && from_pitch == width) {
    memcpy(to, from, (size_t)(width * rows));
    return 0;
  }
  for (int64_t r = 0; r < rows; r++)
    memcpy((char *)to + r * to_pitch, (const char *)from + r * from_pitch, (size_t)width);
  return 0;
}

static int host_moves(const struct cp_move *moves, int n, void *stream) {
  for (const struct cp_move *m = moves; m < moves + n; m++)
    host_copy(m->to, m->to_pitch, m->from, m->from_pitch, m->width, m->rows, stream);
  return 0;
}

static int host_add(float *sum, const float *x, int64_t n, void *stream) {
#pragma omp simd
  for (int64_t i = 0; i < n; i++)
    sum[i] += x[i];
  return 0;
}

static int host_cast(void *to, enum attn_dtype dtype, const float *from, int64_t n, void *stream) {
  if (dtype == ATTN_FP32)
    memcpy(to, from, (size_t)n * sizeof *from);
  else
    for (int64_t i = 0; i < n; i++)
      ((uint16_t *)to)[i] = bf16_from_float(from[i]);
  return 0;
}

static int host_sync(void *stream) { return 0; }

static int host_move(void *to, const void *from, int64_t bytes) {
  memcpy(to, from, (size_t)bytes);
  return 0;
}

const struct cp_memory cp_memory_host = {.place = ATTN_HOST,
                                         .alloc = host_alloc,
                                         .release = free,
                                         .zero = host_zero,
                                         .copy = host_copy,
                                         .move = host_moves,
                                         .add = host_add,
                                         .cast = host_cast,
                                         .sync = host_sync,
                                         .upload = host_move,
                                         .download = host_move};
