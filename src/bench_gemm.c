// bench_gemm.c -- `longca bench --gemm N`: this GPU's rate on a bf16 product of N x N matrices of random
// numbers, with the clock and the power at which it was reached. Some elements are checked first.
#include "bench_gemm.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "device.h"
#include "env.h"
#include "stats.h"
#include "tensor.h"
#include "timer.h"

enum { CHECKED = 64, SAMPLES_MAX = 99 };

static int fail(const char *sentence) {
  fprintf(stderr, "longca bench: %s.\n", sentence);
  return 1;
}

// Elements along a diagonal of C = A B, columns first, in double. A sum of n products of normal numbers
// has the standard deviation sqrt(n); bf16 rounds it at 2^-9 of its size.
static bool right(int n, const uint16_t *a, const uint16_t *b, const uint16_t *c) {
  for (int i = 0; i < CHECKED; i++) {
    const int64_t row = (int64_t)i * n / CHECKED, column = n - 1 - row;
    double sum = 0;
    for (int64_t k = 0; k < n; k++)
      sum += (double)bf16_to_float(a[k * n + row]) * bf16_to_float(b[column * n + k]);
    if (!(fabs(bf16_to_float(c[column * n + row]) - sum) <= 0x1p-8 * fabs(sum) + 1e-3 * sqrt(n)))
      return false;
  }
  return true;
}

static void print(int n, int count, const struct device_sample *samples, double peak_tflop_s,
                  enum table_format format) {
  double tflop_s[SAMPLES_MAX], mhz[SAMPLES_MAX], watt[SAMPLES_MAX], low = NAN, high = NAN;
  for (int i = 0; i < count; i++) {
    tflop_s[i] = 2.0 * n * n * n / samples[i].time_us * 1e-6;
    mhz[i] = samples[i].sm_mhz;
    watt[i] = samples[i].power_w;
  }
  const double mid = stats_median(tflop_s, (size_t)count);
  stats_median_interval(tflop_s, (size_t)count, &low, &high);
  static const char *const header[] = {"utc", "machine", "gemm",   "n",       "tflop_s",
                                       "low", "high",    "sm_mhz", "power_w", "peak_pct"};
  struct table t = table_new(10);
  char text[96];
  for (int i = 0; i < 10; i++)
    table_add(&t, "%s", header[i]);
  table_add(&t, "%s", timer_utc(text, sizeof text));
  table_add(&t, "%s", env_machine(ATTN_DEVICE, text, sizeof text));
  table_add(&t, "%d", n);
  table_add(&t, "%d", count);
  const double numbers[] = {mid,
                            low,
                            high,
                            stats_median(mhz, (size_t)count),
                            stats_median(watt, (size_t)count),
                            100 * mid / peak_tflop_s};
  for (int i = 0; i < 6; i++)
    table_add(&t, "%.5g", numbers[i]);
  table_print(&t, format, stdout);
  table_free(&t);
}

int bench_gemm(int n, int count, enum table_format format) {
  if (env_gpu_count() < 1)
    return fail("there is no GPU that this build can use");
  struct device_info info;
  struct device_sample samples[SAMPLES_MAX];
  const int64_t elements = (int64_t)n * n;
  uint16_t *t[3];
  for (int i = 0; i < 3; i++)
    t[i] = tensor_alloc(ATTN_BF16, elements);
  int status = 0;
  if (!t[0] || !t[1] || !t[2]) {
    status = fail("out of host memory");
  } else {
    for (int i = 0; i < 2; i++)
      tensor_fill_normal(t[i], ATTN_BF16, elements, 42, (uint64_t)i);
    if (device_open(0) || device_info(&info) || device_gemm(n, t[0], t[1], t[2], samples, count))
      status = fail(device_error());
    else if (!right(n, t[0], t[1], t[2]))
      status = fail("the product is wrong");
    else
      print(n, count, samples, info.peak_tflop_s_bf16, format);
  }
  for (int i = 0; i < 3; i++)
    free(t[i]);
  return status;
}
