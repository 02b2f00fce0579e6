// runner_test_case.h -- eight real points, a folder for their rows, and one run over them with a measurement of
// the test's own: shared by runner_test.c and runner_fault_test.c. Header only.
#ifndef LONGCA_RUNNER_TEST_CASE_H
#define LONGCA_RUNNER_TEST_CASE_H

// clang-format off
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
// clang-format on
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runner.h"
#include "store.h"

enum { N = 8 };
static struct point points[N];
static char folder[64], path[128], err[1024];
static struct runner_summary sum;

// ---- measurements that go well --------------------------------------------------------------

static inline int fine(const struct point *p, struct row *row) {
  snprintf(row->status, sizeof row->status, "ok");
  row->time_us = 100 + p->draw;
  return 0;
}

static inline int slow(const struct point *p, struct row *row) {
  usleep(20000);
  return fine(p, row);
}

// ---- scaffolding ----------------------------------------------------------------------------

static inline int set_up(void **state) {
  snprintf(folder, sizeof folder, "/tmp/longca-run-XXXXXX");
  if (!mkdtemp(folder))
    return -1;
  snprintf(path, sizeof path, "%s/m/cpu.csv", folder);
  for (int i = 0; i < N; i++)
    points[i] = (struct point){.exp = "test",
                               .profile = "cpu",
                               .kernel = "fa2",
                               .mask = MASK_CAUSAL,
                               .heads_q = 8,
                               .heads_kv = 1,
                               .dim = 128,
                               .seqlen = 64,
                               .seed = 42,
                               .draw = i,
                               .samples_min = 6,
                               .samples_max = 6,
                               .seconds = 1,
                               .limit_s = 20};
  return 0;
}

static inline int tear_down(void **state) {
  char command[128];
  snprintf(command, sizeof command, "rm -rf '%s'", folder);
  return system(command);
}

static inline int run(worker_measure measure) {
  const struct runner_options o = {
      .path = path, .machine = "m", .commit = "c", .measure = measure, .quiet = true};
  return runner_run(points, N, &o, &sum, err, sizeof err);
}

static inline struct row *read_rows(size_t want) {
  struct row *rows;
  size_t n;
  if (store_read(path, &rows, &n, err, sizeof err))
    fail_msg("%s", err);
  if (n != want)
    fail_msg("%zu rows, expected %zu", n, want);
  return rows;
}

// Each draw exactly once, whatever its status.
static inline void expect_each_once(void) {
  struct row *rows = read_rows(N);
  int seen[N] = {0};
  for (int i = 0; i < N; i++)
    seen[(int)rows[i].draw]++;
  for (int i = 0; i < N; i++)
    assert_int_equal(seen[i], 1);
  free(rows);
}

static inline const struct row *row_of_draw(const struct row *rows, int draw) {
  for (int i = 0; i < N; i++)
    if (rows[i].draw == draw)
      return &rows[i];
  fail_msg("no row of draw %d", draw);
  return NULL;
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

#endif
