// verify.c -- see verify.h. Every test is written so that NaN fails it.
#include "verify.h"

#include <math.h>

#include "tensor.h"

struct verify_limits verify_limits_for(enum attn_dtype dtype, bool gradient) {
  if (dtype == ATTN_FP32)
    return (struct verify_limits){.rel = 1e-5, .floor = 1e-5};
  return (struct verify_limits){.rel = 0.01, .floor = gradient ? 0.008 : 0.004};
}

double verify_rms_row(const double *want, int64_t rows, int32_t dim) {
  double sum = 0;
  int64_t counted = 0;
  for (int64_t r = 0; r < rows; r++) {
    double norm2 = 0;
    for (int32_t i = 0; i < dim; i++)
      norm2 += want[r * dim + i] * want[r * dim + i];
    sum += norm2;
    counted += norm2 > 0; // empty rows do not lower the floor
  }
  return counted ? sqrt(sum / (double)counted) : 0;
}

static void judge(struct verify_report *report, bool right, double err) {
  report->wrong += !right;
  if (!(err <= report->err_max)) {
    report->err_max = isnan(err) ? INFINITY : err;
    report->worst = report->rows;
  }
  report->rows++;
}

void verify_rows(struct verify_report *report, const void *got, enum attn_dtype dtype,
                 int64_t stride, const double *want, const double *noise, int64_t rows, int32_t dim,
                 double rms_row, struct verify_limits limits) {
  for (int64_t r = 0; r < rows; r++) {
    double err2 = 0, want2 = 0;
    for (int32_t i = 0; i < dim; i++) {
      const double g = tensor_get(got, dtype, r * stride + i), w = want[r * dim + i];
      err2 += (g - w) * (g - w);
      want2 += w * w;
      report->sum_got2 += g * g;
      report->sum_want2 += w * w;
      report->sum_dot += g * w;
    }
    const double own = noise ? 5 * noise[r] : 0, size = sqrt(want2) + rms_row + own;
    judge(report, sqrt(err2) <= limits.rel * sqrt(want2) + limits.floor * rms_row + own,
          size > 0 ? sqrt(err2) / size : sqrt(err2));
  }
}

void verify_lse(struct verify_report *report, const float *got, const double *want, int64_t n,
                double limit) {
  for (int64_t i = 0; i < n; i++) {
    const double err = isinf(want[i]) ? (got[i] == want[i] ? 0 : INFINITY) : fabs(got[i] - want[i]);
    judge(report, err <= limit, isnan(err) ? INFINITY : err);
  }
}

bool verify_finish(struct verify_report *report) {
  const double norms = sqrt(report->sum_got2) * sqrt(report->sum_want2);
  report->err_cos = norms > 0 ? 1 - report->sum_dot / norms : report->sum_got2 + report->sum_want2;
  return report->rows > 0 && report->wrong == 0 && !isnan(report->err_cos);
}
