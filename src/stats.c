// stats.c -- order statistics: quantiles, and the exact-rank interval of a median.
//
// The number of samples below the true median is binomial(n, 1/2). So the order statistics of ranks
// l and n + 1 - l enclose the median except with probability 2 P(X <= l - 1), whatever the
// distribution of the samples; we take the largest l that keeps this at or below 5 %.
#include "stats.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static int by_value(const void *a, const void *b) {
  const double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

// Sorted copy, or NULL when n = 0, a value is NaN, or memory is short.
static double *sorted(const double *x, size_t n) {
  for (size_t i = 0; i < n; i++)
    if (isnan(x[i]))
      return NULL;
  double *s = n ? malloc(n * sizeof *s) : NULL;
  if (s) {
    memcpy(s, x, n * sizeof *s);
    qsort(s, n, sizeof *s, by_value);
  }
  return s;
}

double stats_quantile(const double *x, size_t n, double p) {
  if (!(p >= 0 && p <= 1))
    return NAN;
  double *s = sorted(x, n);
  if (!s)
    return NAN;
  const double at = p * (double)(n - 1);
  const size_t i = (size_t)at;
  const double q = i + 1 < n ? s[i] + (at - (double)i) * (s[i + 1] - s[i]) : s[n - 1];
  free(s);
  return q;
}

double stats_median(const double *x, size_t n) { return stats_quantile(x, n, 0.5); }

// Largest rank l, counted from 1, with 2 P(binomial(n, 1/2) <= l - 1) <= 5 %; 0 when there is none.
static size_t interval_rank(size_t n) {
  double below = 0; // P(X <= l)
  for (size_t l = 0; l <= n / 2; l++) {
    below +=
        exp(lgamma(n + 1.0) - lgamma(l + 1.0) - lgamma((double)(n - l) + 1.0) - (double)n * M_LN2);
    if (!(2 * below <= 0.05))
      return l;
  }
  return n / 2;
}

bool stats_median_interval(const double *x, size_t n, double *low, double *high) {
  *low = *high = NAN;
  const size_t rank = interval_rank(n);
  double *s = rank ? sorted(x, n) : NULL;
  if (!s)
    return false;
  *low = s[rank - 1];
  *high = s[n - rank];
  free(s);
  return true;
}

enum stats_verdict stats_compare(struct stats_time a, struct stats_time b, double tolerance) {
  if (!(a.low > 0 && b.low > 0 && a.high >= a.low && b.high >= b.low))
    return STATS_UNCLEAR;
  if (fmax(a.high, b.high) <= fmin(a.low, b.low) * (1 + tolerance))
    return STATS_SAME;
  if (a.high < b.low)
    return STATS_FASTER;
  return a.low > b.high ? STATS_SLOWER : STATS_UNCLEAR;
}

const char *stats_verdict_name(enum stats_verdict verdict) {
  static const char *const names[] = {"FASTER", "SLOWER", "SAME", "UNCLEAR"};
  return names[verdict];
}
