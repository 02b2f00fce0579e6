// stats.h -- order statistics of repeated timings (rules of Hoefler and Belli, SC'15). Nothing
// assumes a normal distribution.
#ifndef LONGCA_STATS_H
#define LONGCA_STATS_H

#include <stdbool.h>
#include <stddef.h>

enum { STATS_INTERVAL_MIN = 6 }; // fewer samples have no 95 % interval of the median

// Quantile p in [0, 1] of n values in any order, linearly interpolated between ranks as torch and
// numpy do. NaN when n = 0, when a value is NaN, or when p is out of range.
double stats_quantile(const double *x, size_t n, double p);
double stats_median(const double *x, size_t n);

// Interval that holds the median with at least 95 % probability: the narrowest symmetric pair of
// order statistics by exact binomial ranks (n = 6: ranks 1..6; n = 10: 2..9). Returns false, and
// NaN in both, below STATS_INTERVAL_MIN samples or when a value is NaN.
bool stats_median_interval(const double *x, size_t n, double *low, double *high);

// A measured time: median with its interval.
struct stats_time {
  double median, low, high;
};
enum stats_verdict { STATS_FASTER, STATS_SLOWER, STATS_SAME, STATS_UNCLEAR };

// Verdict on a against b. SAME: even the far ends of the two intervals differ by at most
// `tolerance` (a fraction, 0.02 for 2 %). FASTER, SLOWER: the intervals are disjoint. UNCLEAR:
// anything else, and anything with a NaN.
enum stats_verdict stats_compare(struct stats_time a, struct stats_time b, double tolerance);
const char *stats_verdict_name(enum stats_verdict verdict);

#endif
