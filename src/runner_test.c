// runner_test.c -- sweeps that are killed, run out of disk, and whose workers crash, hang or starve.
// The points are real, the measurement is a function of this file: what is tested is what surrounds it.
#define _GNU_SOURCE
#include "runner.h"

#include <errno.h>
#include <math.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "store.h"
#include "timer.h"

enum { N = 8 };
static struct point points[N];
static char folder[64], path[128], err[1024];
static struct runner_summary sum;

// ---- measurements that go wrong, each in its way --------------------------------------------

static int fine(const struct point *p, struct row *row) {
  snprintf(row->status, sizeof row->status, "ok");
  row->time_us = 100 + p->draw;
  return 0;
}

static int no_memory_left(const struct point *p, struct row *row) {
  // More than is free, less than what the kernel refuses out of hand; never touched.
  FILE *f = fopen("/proc/meminfo", "re");
  char line[128];
  double kb = 0;
  while (f && fgets(line, sizeof line, f) && sscanf(line, "MemAvailable: %lf kB", &kb) != 1)
    ;
  if (f)
    fclose(f);
  void *block = malloc((size_t)(kb * 1024 * 1.02));
  const bool got = block != NULL;
  free(block);
  fine(p, row);
  if (!got)
    snprintf(row->status, sizeof row->status, "oom");
  return 0;
}

// Draw 3 misbehaves, in the way that its window says.
enum { SEGFAULT, ABORT, LEAVE, HANG, STARVE, KILLED, SAY_WRONG, CLOSE_PIPE, WAYS };
static int misbehave(const struct point *p, struct row *row) {
  if (p->draw != 3)
    return fine(p, row);
  switch (p->window) {
  case SEGFAULT: {
    signal(SIGSEGV, SIG_DFL); // AddressSanitizer would turn it into an exit
    raise(SIGSEGV);
    break;
  }
  case ABORT:
    fputs("first line\nthe kernel's last words\n", stderr);
    abort();
  case LEAVE:
    _exit(7);
  case HANG:
    for (;;)
      pause();
  case STARVE:
    return no_memory_left(p, row);
  case KILLED:
    raise(SIGKILL);
    break;
  case SAY_WRONG:
    snprintf(row->status, sizeof row->status, "wrong");
    snprintf(row->reason, sizeof row->reason, "7 rows are off");
    return 0;
  case CLOSE_PIPE: // hangs, and no longer answers
    for (int fd = 3; fd < 64; fd++)
      close(fd);
    for (;;)
      pause();
  }
  return 0;
}

static int broken_harness(const struct point *p, struct row *row) {
  if (p->draw != 2)
    return fine(p, row);
  snprintf(row->reason, sizeof row->reason, "900 TFLOP/s are above the peak");
  return -1;
}

static int slow(const struct point *p, struct row *row) {
  usleep(20000);
  return fine(p, row);
}

static int pid_as_time(const struct point *p, struct row *row) {
  if (p->draw == 3)
    abort();
  fine(p, row);
  row->time_us = getpid();
  return 0;
}

// ---- scaffolding ----------------------------------------------------------------------------

static int set_up(void **state) {
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

static int tear_down(void **state) {
  char command[128];
  snprintf(command, sizeof command, "rm -rf '%s'", folder);
  return system(command);
}

static int run(worker_measure measure) {
  const struct runner_options o = {
      .path = path, .machine = "m", .commit = "c", .measure = measure, .quiet = true};
  return runner_run(points, N, &o, &sum, err, sizeof err);
}

static struct row *read_rows(size_t want) {
  struct row *rows;
  size_t n;
  if (store_read(path, &rows, &n, err, sizeof err))
    fail_msg("%s", err);
  if (n != want)
    fail_msg("%zu rows, expected %zu", n, want);
  return rows;
}

// Each draw exactly once, whatever its status.
static void expect_each_once(void) {
  struct row *rows = read_rows(N);
  int seen[N] = {0};
  for (int i = 0; i < N; i++)
    seen[(int)rows[i].draw]++;
  for (int i = 0; i < N; i++)
    assert_int_equal(seen[i], 1);
  free(rows);
}

static const struct row *row_of_draw(const struct row *rows, int draw) {
  for (int i = 0; i < N; i++)
    if (rows[i].draw == draw)
      return &rows[i];
  fail_msg("no row of draw %d", draw);
  return NULL;
}

// ---- tests ----------------------------------------------------------------------------------

static void every_point_once_and_never_again(void **state) {
  assert_int_equal(run(fine), 0);
  assert_true(sum.points == N && sum.there == 0 && sum.measured == N &&
              sum.by_status[RUNNER_OK] == N);
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
  struct cond only[2];
  assert_int_equal(cond_parse(&only[0], "draw>=2", err, sizeof err), 0);
  assert_int_equal(cond_parse(&only[1], "draw!=5,6", err, sizeof err), 0);
  const struct runner_options o = {.path = path,
                                   .machine = "m",
                                   .commit = "c",
                                   .measure = fine,
                                   .only = only,
                                   .onlys = 2,
                                   .quiet = true};
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

static void failures_cost_one_row(void **state) {
  static const struct {
    const char *status, *reason;
  } want[WAYS] = {[SEGFAULT] = {"crash", "signal 11"},
                  [ABORT] = {"crash", "the kernel's last words"},
                  [LEAVE] = {"crash", "exit code 7"},
                  [HANG] = {"timeout", "not done after 0.5 s"},
                  [STARVE] = {"oom", ""},
                  [KILLED] = {"crash", "signal 9"},
                  [SAY_WRONG] = {"wrong", "7 rows are off"},
                  [CLOSE_PIPE] = {"crash", ""}};
  for (int way = 0; way < WAYS; way++) {
#ifdef __SANITIZE_ADDRESS__
    if (way == STARVE) // no memory limit beside its shadow
      continue;
#endif
    unlink(path);
    for (int i = 0; i < N; i++)
      points[i].window = way;
    points[3].limit_s = way == HANG ? 0.5 : 20;
    const double begin_us = timer_now_us();
    if (run(misbehave))
      fail_msg("way %d: %s", way, err);
    assert_true(timer_now_us() - begin_us < 10e6);
    expect_each_once();
    struct row *rows = read_rows(N);
    for (int i = 0; i < N; i++)
      if (rows[i].draw != 3) {
        assert_string_equal(rows[i].status, "ok");
        assert_true(rows[i].time_us == 100 + rows[i].draw);
      }
    const struct row *bad = row_of_draw(rows, 3);
    assert_string_equal(bad->status, want[way].status);
    if (!strstr(bad->reason, want[way].reason))
      fail_msg("way %d: '%s' does not say '%s'", way, bad->reason, want[way].reason);
    assert_true(isnan(bad->time_us) || way == STARVE);
    if (way == ABORT) { // all that it printed is kept
      char log[256], text[256] = "";
      snprintf(log, sizeof log, "%s/m/log/%.60s", folder, bad->log);
      FILE *f = fopen(log, "re");
      assert_non_null(f);
      assert_non_null(fgets(text, sizeof text, f));
      assert_string_equal(text, "first line\n");
      fclose(f);
    }
    free(rows);
  }
}

static bool write_file(const char *group, const char *name, const char *text) {
  char file[160];
  snprintf(file, sizeof file, "%s/%s", group, name);
  FILE *f = fopen(file, "we");
  const bool written = f && fputs(text, f) >= 0 && !fflush(f);
  if (f)
    fclose(f);
  return written;
}

static int eat(const struct point *p, struct row *row) {
  for (int i = 0; p->draw == 3 && i < 512; i++) {
    char *block = malloc(1 << 20);
    memset(block, i, 1 << 20); // NULL is no answer here: far more than this is free
  }
  return fine(p, row);
}

// The kernel kills for real: all of this runs in a control group that has 128 MB. It must take the
// worker and not the parent, and the row must say what happened.
static void killed_for_lack_of_memory_is_oom(void **state) {
  char group[64];
  snprintf(group, sizeof group, "/sys/fs/cgroup/memory/longca-%d", getpid());
  bool made = !mkdir(group, 0755) && write_file(group, "memory.limit_in_bytes", "128M");
  if (!made) { // the second version of control groups
    snprintf(group, sizeof group, "/sys/fs/cgroup/longca-%d", getpid());
    made = !mkdir(group, 0755) && write_file(group, "memory.max", "128M") &&
           write_file(group, "memory.swap.max", "0");
  }
#ifdef __SANITIZE_ADDRESS__
  rmdir(group);
  made = false;
#endif
  if (!made) {
    rmdir(group);
    print_message("needs the right to make a control group with a memory limit\n");
    skip();
  }
  const pid_t child = fork();
  if (child == 0)
    _exit(!write_file(group, "cgroup.procs", "0") || run(eat) ? 1 : 0);
  int status;
  waitpid(child, &status, 0);
  rmdir(group);
  assert_int_equal(status, 0);
  expect_each_once();
  struct row *rows = read_rows(N);
  assert_string_equal(row_of_draw(rows, 3)->status, "oom");
  assert_non_null(strstr(row_of_draw(rows, 3)->reason, "lack of memory"));
  free(rows);
}

static void retry_measures_again_what_failed(void **state) {
  assert_int_equal(run(misbehave), 0);
  assert_int_equal(sum.by_status[RUNNER_CRASH], 1);
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

static void error_of_the_harness_stops_the_run(void **state) {
  assert_int_equal(run(broken_harness), -1);
  assert_non_null(strstr(err, "above the peak"));
  free(read_rows(2)); // draws 0 and 1; the impossible row is not written
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

// The parent is killed again and again; whatever moment that hits, the sweep ends up complete.
static void killed_parent_resumes(void **state) {
  int kills = 0;
  for (int round = 0; round < 60; round++) {
    const pid_t child = fork();
    if (child == 0)
      _exit(run(slow) ? 1 : 0);
    usleep(1000 * (useconds_t)(3 + round * 7 % 90));
    int status;
    const bool ended = waitpid(child, &status, WNOHANG) == child;
    if (!ended) {
      kill(child, SIGKILL);
      waitpid(child, &status, 0);
      kills++;
      // Sometimes the disk holds half a line afterwards, too.
      FILE *f = round % 3 ? NULL : fopen(path, "ae");
      if (f) {
        fputs("1,test,cpu,torn", f);
        fclose(f);
      }
    } else {
      assert_int_equal(status, 0);
      break;
    }
  }
  assert_true(kills >= 2);
  assert_int_equal(run(slow), 0); // the lock is free: no worker of a killed run is left
  expect_each_once();
}

static int hang(const struct point *p, struct row *row) {
  while (pause()) // it returns only with -1, when a signal came
    ;
  return 0;
}

// A worker that hangs must not outlive a killed parent: it would hold memory, or the GPU.
static void workers_die_with_their_parent(void **state) {
  int held[2]; // open as long as one of the processes lives
  char c;
  assert_int_equal(pipe(held), 0);
  const pid_t child = fork();
  if (child == 0) {
    close(held[0]);
    _exit(run(hang));
  }
  close(held[1]);
  usleep(200000); // until the worker hangs
  kill(child, SIGKILL);
  waitpid(child, NULL, 0);
  struct pollfd end = {.fd = held[0], .events = POLLIN};
  assert_int_equal(poll(&end, 1, 5000), 1);
  assert_int_equal(read(held[0], &c, 1), 0);
  close(held[0]);
}

static void two_runs_do_not_mix(void **state) {
  struct store other;
  assert_int_equal(store_open(&other, path, err, sizeof err), 0);
  assert_int_equal(run(fine), -1);
  assert_non_null(strstr(err, "another run"));
  store_close(&other);
  assert_int_equal(run(fine), 0);
  expect_each_once();
}

static void full_disk_stops_and_resumes(void **state) {
  const pid_t child = fork();
  if (child == 0) {
    signal(SIGXFSZ, SIG_IGN);
    const struct rlimit limit = {1500, 1500}; // the header and a few rows
    int bad = setrlimit(RLIMIT_FSIZE, &limit);
    bad |= (run(fine) != -1) << 1 | (strstr(err, "cpu.csv: ") == NULL) << 2;
    _exit(bad);
  }
  int status;
  waitpid(child, &status, 0);
  assert_int_equal(status, 0);
  struct row *rows;
  size_t before;
  assert_int_equal(store_read(path, &rows, &before, err, sizeof err), 0);
  free(rows);
  assert_in_range(before, 1, N - 1);
  assert_int_equal(run(fine), 0);
  assert_int_equal(sum.there, before);
  expect_each_once();
}

static void interrupt_stops_between_rows(void **state) {
  const pid_t child = fork();
  if (child == 0)
    _exit(run(slow) == -1 && strstr(err, "goes on from here") ? 0 : 1);
  usleep(70000);
  kill(child, SIGINT);
  int status;
  waitpid(child, &status, 0);
  assert_int_equal(status, 0);
  assert_int_equal(run(slow), 0);
  expect_each_once();
}

int main(void) {
#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
  const struct CMUnitTest tests[] = {
      TEST(every_point_once_and_never_again),
      TEST(dry_run_writes_nothing),
      TEST(only_selects),
      TEST(comparisons_come_from_one_run),
      TEST(failures_cost_one_row),
      TEST(killed_for_lack_of_memory_is_oom),
      TEST(retry_measures_again_what_failed),
      TEST(left_out_points_have_a_row_until_measured),
      TEST(error_of_the_harness_stops_the_run),
      TEST(host_points_get_fresh_workers_and_device_points_share_one),
      TEST(killed_parent_resumes),
      TEST(workers_die_with_their_parent),
      TEST(two_runs_do_not_mix),
      TEST(full_disk_stops_and_resumes),
      TEST(interrupt_stops_between_rows),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
