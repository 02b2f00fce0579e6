// stats_test.c -- ranks against exact binomial counting, quantiles against known values.
#include "stats.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static void near(double got, double want) {
  if (!(fabs(got - want) <= 1e-12 * fmax(1, fabs(want))))
    fail_msg("got %.17g, want %.17g", got, want);
}

static void quantiles_interpolate(void **state) {
  const double x[] = {5, 1, 4, 2, 3}, one[] = {7};
  near(stats_median(x, 5), 3);
  near(stats_median(x, 4), 3); // 1 2 4 5
  near(stats_quantile(x, 5, 0), 1);
  near(stats_quantile(x, 5, 1), 5);
  near(stats_quantile(x, 5, 0.2), 1.8); // numpy.quantile
  near(stats_quantile(x, 5, 0.8), 4.2);
  near(stats_quantile(x, 5, 0.99), 4.96);
  near(stats_median(one, 1), 7);
}

static void nothing_comes_of_nothing(void **state) {
  const double x[] = {1, NAN, 3, 4, 5, 6, 7};
  double low, high;
  assert_true(isnan(stats_median(x, 0)));
  assert_true(isnan(stats_median(x, 7)));
  assert_true(isnan(stats_quantile(x, 1, 1.5)));
  assert_true(isnan(stats_quantile(x, 1, NAN)));
  assert_false(stats_median_interval(x, 7, &low, &high));
  assert_true(isnan(low) && isnan(high));
}

// P(the interval of ranks [l, n + 1 - l] misses the median) = 2 P(binomial(n, 1/2) < l), by Pascal.
static double miss(int n, int l) {
  double row[64] = {1};
  for (int i = 1; i <= n; i++)
    for (int k = i; k > 0; k--)
      row[k] += row[k - 1];
  double sum = 0;
  for (int k = 0; k < l; k++)
    sum += row[k];
  return 2 * sum / pow(2, n);
}

static void interval_is_the_narrowest_that_covers(void **state) {
  double x[60], low, high;
  for (int i = 0; i < 60; i++)
    x[i] = 60 - i;
  for (size_t n = 1; n < STATS_INTERVAL_MIN; n++)
    assert_false(stats_median_interval(x, n, &low, &high));
  for (int n = STATS_INTERVAL_MIN; n <= 60; n++) {
    assert_true(stats_median_interval(x, (size_t)n, &low, &high));
    const int l = (int)low - (60 - n); // x holds 60 - n + 1 .. 60
    assert_int_equal((int)high - (60 - n), n + 1 - l);
    assert_true(miss(n, l) <= 0.05);
    assert_true(miss(n, l + 1) > 0.05);
  }
  assert_true(stats_median_interval(x + 50, 10, &low, &high)); // 1..10: ranks 2..9
  near(low, 2);
  near(high, 9);
}

static void many_samples_do_not_underflow(void **state) {
  enum { N = 5000 };
  static double x[N];
  double low, high;
  for (int i = 0; i < N; i++)
    x[i] = i + 1;
  assert_true(stats_median_interval(x, N, &low, &high));
  // Normal approximation: 2500.5 -+ 1.96 sqrt(5000) / 2
  assert_true(fabs(low - 2431) <= 1.5 && fabs(high - 2570) <= 1.5);
}

static void verdicts(void **state) {
  const struct stats_time a = {10, 9.9, 10.1}, faster = {8, 7.9, 8.1}, close = {10.05, 10, 10.1},
                          wide = {11, 9, 13}, none = {10, NAN, NAN};
  assert_int_equal(stats_compare(faster, a, 0.02), STATS_FASTER);
  assert_int_equal(stats_compare(a, faster, 0.02), STATS_SLOWER);
  assert_int_equal(stats_compare(a, close, 0.0203), STATS_SAME);
  assert_int_equal(stats_compare(a, close, 0.02),
                   STATS_UNCLEAR); // overlap, but 2.02 % apart at worst
  assert_int_equal(stats_compare(a, wide, 0.02), STATS_UNCLEAR);
  assert_int_equal(stats_compare(a, none, 0.02), STATS_UNCLEAR);
  assert_int_equal(stats_compare(none, a, 0.02), STATS_UNCLEAR);
  assert_string_equal(stats_verdict_name(STATS_FASTER), "FASTER");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(quantiles_interpolate),
      cmocka_unit_test(nothing_comes_of_nothing),
      cmocka_unit_test(interval_is_the_narrowest_that_covers),
      cmocka_unit_test(many_samples_do_not_underflow),
      cmocka_unit_test(verdicts),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
