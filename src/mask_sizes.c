// mask_sizes.c -- see mask_sizes.h.
#include "mask_sizes.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../kernels/rep/dense.h"
#include "timer.h"

int mask_sizes_print(const struct mask *m, const char *prefix) {
  struct dense dense;
  dense_shape(&dense, m);
  const int64_t dense_bytes =
      (int64_t)sizeof *dense.bits * dense.heads * dense.seqlen * dense.words;
  for (int i = 0; rep_table[i]; i++) {
    const struct rep_ops *ops = rep_table[i];
    const char *why = ops->supports(m);
    if (why) {
      printf("%s,%s,,,\"%s\"\n", prefix, ops->name, why);
      continue;
    }
    if (!strcmp(ops->name, "dense") && dense_bytes > INT64_C(128) << 20) {
      printf("%s,%s,%lld,,\n", prefix, ops->name, (long long)dense_bytes);
      continue;
    }
    void *rep = malloc(ops->size);
    const double begin_us = timer_now_us();
    if (!rep || ops->build(rep, m)) {
      free(rep);
      return -1;
    }
    const double build_ms = (timer_now_us() - begin_us) * 1e-3;
    printf("%s,%s,%zu,%.3f,\n", prefix, ops->name, ops->bytes(rep), build_ms);
    ops->release(rep);
    free(rep);
  }
  return 0;
}
