// cmd_bench_test.c -- `longca bench`: whole tables whose numbers agree with each other, and bad input.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "capture.h"
#include "cmd.h"

static int run(const char *arguments) { return capture_run(cmd_bench, "bench", arguments); }

// Number in the column `name` of the line `line`, both lines of CSV; NaN when there is none.
static double column(const char *header, const char *line, const char *name) {
  const size_t length = strlen(name);
  while (strncmp(header, name, length) != 0 || !strchr(",\n", header[length])) {
    header += strcspn(header, ",\n");
    line += strcspn(line, ",\n");
    if (*header != ',' || *line != ',')
      return NAN;
    header++, line++;
  }
  return strtod(line, NULL);
}

static const char *next_line(const char *text) { return text + strcspn(text, "\n") + 1; }

static int commas(const char *line) {
  int n = 0;
  for (; *line && *line != '\n'; line++)
    n += *line == ',';
  return n;
}

static void test_tables(void **state) {
  (void)state;
  assert_int_equal(run("--seqlen 300 --rounds 6 --threads 2 --csv"), 0);
  const char *header = capture_out, *line = header, *first = next_line(header);
  assert_int_equal(strncmp(header, "mask,documents,pass,", 20), 0);
  for (int i = 0; i < 12; i++) { // FULL, CAUSAL, four of documents; forward, backward
    line = next_line(line);
    assert_int_equal(commas(line), commas(header));
    const double rate = column(header, line, "gflop_s"), best = column(header, line, "best");
    assert_true(rate > 0 && best >= rate);
    assert_true(column(header, line, "low") <= rate && rate <= column(header, line, "high"));
    assert_true(column(header, line, "best_peak_pct") <= 103);
    if (i < 6) {
      const double of_full = 100 * rate / column(header, first, "gflop_s");
      assert_true(fabs(column(header, line, "of_full_pct") - of_full) < 0.01 * of_full + 0.1);
    }
  }
  header = line = next_line(next_line(line)); // after a blank line: scaling
  assert_int_equal(strncmp(header, "threads,", 8), 0);
  for (int threads = 1; threads <= 2; threads++) {
    line = next_line(line);
    assert_int_equal(commas(line), commas(header));
    assert_int_equal(atoi(line), threads);
    const double pct =
        100 * column(header, line, "fwd_best") / column(header, line, "peak_gflop_s");
    assert_true(fabs(column(header, line, "fwd_best_peak_pct") - pct) < 0.01 * pct + 0.1);
    if (threads == 1)
      assert_true(column(header, line, "bwd_best_speedup") == 1);
  }
}

static void test_bad_input(void **state) {
  (void)state;
  static const char *const bad[] = {"--seqlen 0", "--seqlen x", "--threads -1", "--rounds 1000",
                                    "--isa sse9", "--bogus",    "extra",        "--seqlen"};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    assert_int_equal(run(bad[i]), 2);
    assert_string_equal(capture_out, "");
    assert_int_equal(strncmp(capture_err, "longca bench: ", 14), 0);
    assert_ptr_equal(strchr(capture_err, '\n'), capture_err + strlen(capture_err) - 1); // one line
  }
  assert_int_equal(run("--help"), 0);
  assert_non_null(strstr(capture_out, "--seqlen"));
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_tables),
                                     cmocka_unit_test(test_bad_input)};
  return cmocka_run_group_tests_name("cmd_bench", tests, NULL, NULL);
}
