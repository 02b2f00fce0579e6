// runner_test.c -- which points a run measures: each once, those that are asked for, comparisons whole, what is
// to be tried again; and in which worker. The points are real, the measurement is a function of the test.
#include "runner_test_case.h"

static int pid_as_time(const struct point *p, struct row *row) {
  if (p->draw == 3)
    abort();
  fine(p, row);
  row->time_us = getpid();
  return 0;
}

static void every_point_once_and_never_again(void **state) {
  assert_int_equal(run(fine), 0);
  assert_true(sum.points == N && sum.there == 0 && sum.measured == N && sum.by_status[ROW_OK] == N);
  struct row *rows = read_rows(N);
  assert_string_equal(rows[0].machine, "m");
  assert_string_equal(rows[0].commit, "c");
  assert_string_equal(rows[0].exp, "test");
  assert_int_equal(strlen(rows[0].utc), 20);
  free(rows);
  snprintf(points[0].exp, sizeof points[0].exp, "another figure");
  assert_int_equal(run(fine), 0);
  assert_true(sum.points == N && sum.there == N && sum.measured == 0);
  expect_each_once();
  points[1] = points[0]; // asked for twice
  unlink(path);
  assert_int_equal(run(fine), 0);
  assert_int_equal(sum.points, N - 1);
}

static void dry_run_writes_nothing(void **state) {
  const struct runner_options o = {.path = path, .machine = "m", .commit = "c", .dry_run = true};
  assert_int_equal(runner_run(points, N, &o, &sum, err, sizeof err), 0);
  assert_true(sum.points == N && sum.measured == 0 && sum.expected_s > 0);
  assert_int_equal(access(folder, R_OK), 0);
  assert_int_equal(access(path, F_OK), -1);
}

static void only_selects(void **state) {
  static struct filter only;
  assert_int_equal(filter_add(&only, "draw>=2 draw!=5,6", err, sizeof err), 0);
  const struct runner_options o = {
      .path = path, .machine = "m", .commit = "c", .measure = fine, .only = &only, .quiet = true};
  assert_int_equal(runner_run(points, N, &o, &sum, err, sizeof err), 0);
  assert_int_equal(sum.measured, 4);
  free(read_rows(4));
}

static int slow_and_late(const struct point *p, struct row *row) {
  usleep(20000);
  fine(p, row);
  row->time_us = 500;
  return 0;
}

// Comparisons of two kernels. Two of them lack a row, and there is time for one: that one has both its rows
// anew, the other keeps what it has.
static void comparisons_come_from_one_run(void **state) {
  for (int i = 0; i < N; i++) {
    points[i].draw = i / 2;
    snprintf(points[i].kernel, sizeof points[i].kernel, i % 2 ? "flex" : "fa2");
  }
  struct runner_options o = {
      .path = path, .machine = "m", .commit = "c", .measure = slow, .quiet = true, .stop_s = 0.001};
  assert_int_equal(runner_run(points, N, &o, &sum, err, sizeof err), 0);
  assert_true(sum.measured == 2 && sum.left == N - 2); // begun is ended
  o.stop_s = 0;
  assert_int_equal(runner_run(points, N, &o, &sum, err, sizeof err), 0);
  assert_true(sum.measured == N - 2 && sum.left == 0);
  struct row *rows = read_rows(N);
  struct store s;
  assert_int_equal(store_open(&s, path, err, sizeof err), 0);
  rows[3] = rows[0]; // rows 3 and 4 go: a kernel of comparison 1, one of comparison 2
  rows[4] = rows[1];
  assert_int_equal(store_replace(&s, rows + 2, N - 2, err, sizeof err), 0);
  store_close(&s);
  free(rows);
  o.together = true;
  o.stop_s = 0.001;
  o.measure = slow_and_late;
  assert_int_equal(runner_run(points, N, &o, &sum, err, sizeof err), 0);
  assert_true(sum.points == N && sum.there == 4 && sum.measured == 2 && sum.left == 2);
  rows = read_rows(N - 1);
  for (int i = 0; i < N - 1; i++)
    assert_true((rows[i].time_us == 500) == (rows[i].draw == 1));
  free(rows);
  o.stop_s = 0;
  assert_int_equal(runner_run(points, N, &o, &sum, err, sizeof err), 0);
  rows = read_rows(N);
  for (int i = 0; i < N; i++)
    assert_true((rows[i].time_us == 500) == (rows[i].draw == 1 || rows[i].draw == 2));
  free(rows);
  assert_int_equal(runner_run(points, N, &o, &sum, err, sizeof err), 0);
  assert_int_equal(sum.measured, 0);
}

static void retry_measures_again_what_failed(void **state) {
  assert_int_equal(run(pid_as_time), 0);
  assert_int_equal(sum.by_status[ROW_CRASH], 1);
  assert_int_equal(run(fine), 0); // a failure is a result, too
  assert_int_equal(sum.measured, 0);
  struct runner_options o = {
      .path = path, .machine = "m", .commit = "c", .measure = fine, .retry = true, .quiet = true};
  assert_int_equal(runner_run(points, N, &o, &sum, err, sizeof err), 0);
  assert_int_equal(sum.measured, 1);
  expect_each_once();
  struct row *rows = read_rows(N);
  assert_string_equal(row_of_draw(rows, 3)->status, "ok");
  free(rows);
}

static void left_out_points_have_a_row_until_measured(void **state) {
  snprintf(points[3].left_out, sizeof points[3].left_out, "too slow");
  assert_int_equal(run(fine), 0);
  struct row *rows = read_rows(N);
  assert_string_equal(row_of_draw(rows, 3)->status, "unsupported");
  assert_string_equal(row_of_draw(rows, 3)->reason, "left out: too slow");
  free(rows);
  assert_int_equal(run(fine), 0);
  assert_int_equal(sum.measured, 0);
  *points[3].left_out = 0; // another experiment wants it
  assert_int_equal(run(fine), 0);
  assert_int_equal(sum.measured, 1);
  expect_each_once();
  rows = read_rows(N);
  assert_string_equal(row_of_draw(rows, 3)->status, "ok");
  free(rows);
}

static void host_points_get_fresh_workers_and_device_points_share_one(void **state) {
  for (int place = ATTN_HOST; place <= ATTN_DEVICE; place++) {
    unlink(path);
    for (int i = 0; i < N; i++)
      points[i].place = (enum attn_place)place;
    assert_int_equal(run(pid_as_time), 0);
    struct row *rows = read_rows(N);
    int changes = 0;
    for (int i = 1; i < N; i++)
      changes += i != 3 && rows[i].time_us != rows[i == 4 ? 2 : i - 1].time_us;
    free(rows);
    assert_int_equal(changes, place == ATTN_HOST ? N - 2 : 1); // after the crash a new one
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      TEST(every_point_once_and_never_again),
      TEST(dry_run_writes_nothing),
      TEST(only_selects),
      TEST(comparisons_come_from_one_run),
      TEST(retry_measures_again_what_failed),
      TEST(left_out_points_have_a_row_until_measured),
      TEST(host_points_get_fresh_workers_and_device_points_share_one),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
