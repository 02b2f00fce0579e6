// runner_fault_test.c -- sweeps that are killed, run out of disk, and whose workers crash, hang or starve.
// The points are real, the measurement is a function of this file: what is tested is what surrounds it.
#define _GNU_SOURCE
#include "runner_test_case.h"

#include <math.h>
#include <poll.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "sys.h"
#include "timer.h"

// ---- measurements that go wrong, each in its way --------------------------------------------

static int no_memory_left(const struct point *p, struct row *row) {
  // More than is free, less than what the kernel refuses out of hand; never touched.
  void *block = malloc((size_t)(sys_field_bytes("/proc/meminfo", "MemAvailable") * 1.02));
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

// ---- tests ----------------------------------------------------------------------------------

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

static void error_of_the_harness_stops_the_run(void **state) {
  assert_int_equal(run(broken_harness), -1);
  assert_non_null(strstr(err, "above the peak"));
  free(read_rows(2)); // draws 0 and 1; the impossible row is not written
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
  const struct CMUnitTest tests[] = {
      TEST(failures_cost_one_row),
      TEST(killed_for_lack_of_memory_is_oom),
      TEST(error_of_the_harness_stops_the_run),
      TEST(killed_parent_resumes),
      TEST(workers_die_with_their_parent),
      TEST(two_runs_do_not_mix),
      TEST(full_disk_stops_and_resumes),
      TEST(interrupt_stops_between_rows),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
