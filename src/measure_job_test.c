// measure_job_test.c -- jobs that stay from point to point: how often one is started, what a killed rank, a
// limit of time and an end leave behind. The program is also what mpirun starts, as measure_cp_test.c; each
// rank notes its process in the folder that is TMPDIR here.
// clang-format off
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
// clang-format on
#include <dirent.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../cp/cp.h"
#include "cmd.h"
#include "measure.h"
#include "measure_cp.h"
#include "measure_cp_test_case.h"
#include "timer.h"
#include "worker.h"

static char folder[64];

// Goes on until something ends it.
static struct point endless_point(int32_t ranks) {
  struct point p = make_point("ring_p2p", "mpi", ranks);
  p.samples_min = p.samples_max = 1000000;
  return p;
}

static void assert_ok(const struct row *row, const struct point *p) {
  if (strcmp(row->status, "ok") != 0)
    fail_msg("%s, %s", row->status, row->reason);
  assert_true(row->ranks == p->ranks && row->time_us > 0 && row->err_max <= 1e-5);
}

static struct row measured(const struct point *p) {
  struct row row;
  point_to_row(p, &row);
  assert_int_equal(0, measure_point(p, &row));
  return row;
}

// ---- what the ranks leave in the folder -----------------------------------------------------

static void note_process(const char *launched_in) {
  char path[128];
  const char *rank = getenv("OMPI_COMM_WORLD_RANK");
  snprintf(path, sizeof path, "%s/pid.%s.%s", getenv("TMPDIR"), strrchr(launched_in, '-') + 1,
           rank);
  FILE *f = fopen(path, "we");
  if (f) {
    fprintf(f, "%d", (int)getpid());
    fclose(f);
  }
}

// Files or folders that begin so; the last one's name after that.
static int count(const char *prefix, char *rest) {
  int n = 0;
  DIR *d = opendir(folder);
  for (struct dirent *e; (e = readdir(d));)
    if (!strncmp(e->d_name, prefix, strlen(prefix))) {
      n++;
      if (rest)
        snprintf(rest, 64, "%.60s", e->d_name + strlen(prefix));
    }
  closedir(d);
  return n;
}

// The process of that rank of the one job that lives; waits for it to be there.
static pid_t process_of(int rank) {
  char job[64], path[256];
  int pid = 0;
  for (int i = 0; i < 10000 && !pid; i++, usleep(1000)) {
    if (count("longca-", job) != 1)
      continue;
    snprintf(path, sizeof path, "%s/pid.%s.%d", folder, job, rank);
    FILE *f = fopen(path, "re");
    if (f && fscanf(f, "%d", &pid) != 1)
      pid = 0;
    if (f)
      fclose(f);
  }
  assert_true(pid > 0);
  return pid;
}

// State and parent of a process; 'X' when there is none. Ends of mpirun's may be ours to bury: 'Z'.
static char state_of(pid_t pid, int *parent) {
  char path[64], process_state = 'X';
  snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
  FILE *f = fopen(path, "re");
  if (f && fscanf(f, "%*d (%*[^)]) %c %d", &process_state, parent) != 2)
    process_state = 'X';
  if (f)
    fclose(f);
  return process_state;
}

static bool is_gone_within(pid_t pid, int limit_ms) {
  int parent;
  for (int i = 0; i < limit_ms && !strchr("XZ", state_of(pid, &parent)); i++)
    usleep(1000);
  return strchr("XZ", state_of(pid, &parent));
}

static int set_up(void **state) {
  snprintf(folder, sizeof folder, "/tmp/longca_job_test-XXXXXX");
  setenv("ASAN_OPTIONS", "detect_leaks=0", 1); // of the job: Open MPI leaves some
  return !mkdtemp(folder) || setenv("TMPDIR", folder, 1);
}

static int tear_down(void **state) {
  char command[128];
  measure_cp_end_jobs();
  snprintf(command, sizeof command, "rm -rf '%s'", folder);
  return system(command);
}

static void need_mpi(void) {
  if (cp_transport_find("mpi") && system("command -v mpirun >/dev/null 2>&1") == 0)
    return;
  print_message("this build has no MPI, or there is no mpirun\n");
  skip();
}

// ---- tests ----------------------------------------------------------------------------------

static void jobs_stay(void **state) {
  need_mpi();
  static const int32_t ranks[] = {2, 1, 2, 1, 2};
  for (int i = 0; i < 5; i++) {
    struct point p = make_point("ring_p2p", "mpi", ranks[i]);
    p.seqlen += i;
    p.draw = i;
    const struct row row = measured(&p);
    assert_ok(&row, &p);
    assert_true(row.seqlen == p.seqlen && row.draw == p.draw); // this point's row, not an older one
  }
  assert_int_equal(count("longca-", NULL), 2);
  assert_int_equal(count("pid.", NULL), 2 + 1); // two jobs were all
  measure_cp_end_jobs();
  assert_int_equal(count("longca-", NULL), 0);
}

static void a_fifth_job_ends_the_one_that_was_idle_longest(void **state) {
  need_mpi();
  for (int32_t i = 0; i < 6; i++) { // 1 2 3 4, and 1 again before 5
    const struct point p = make_point("ring_p2p", "mpi", i < 4 ? i + 1 : i == 4 ? 1 : 5);
    const struct row row = measured(&p);
    assert_ok(&row, &p);
  }
  assert_int_equal(count("longca-", NULL), 4);
  assert_int_equal(count("pid.", NULL), 1 + 2 + 3 + 4 + 5); // each was started once
  struct point p = make_point("ring_p2p", "mpi", 1);
  struct row row = measured(&p);
  assert_ok(&row, &p);
  assert_int_equal(count("pid.", NULL), 1 + 2 + 3 + 4 + 5);
  p = make_point("ring_p2p", "mpi", 2);
  row = measured(&p);
  assert_ok(&row, &p);
  assert_int_equal(count("pid.", NULL), 1 + 2 + 3 + 4 + 5 + 2);
}

static void a_killed_rank_costs_the_row_in_flight(void **state) {
  need_mpi();
  const struct point p = make_point("ring_p2p", "mpi", 2), endless = endless_point(2);
  struct row row = measured(&p);
  assert_ok(&row, &p);
  const pid_t victim = process_of(1), killer = fork();
  if (killer == 0) {
    usleep(300000);
    _exit(kill(victim, SIGKILL));
  }
  row = measured(&endless);
  waitpid(killer, NULL, 0);
  assert_string_equal(row.status, "crash");
  assert_true(strstr(row.reason, "exit code") || strstr(row.reason, "rank 1"));
  assert_int_equal(count("longca-", NULL), 0);
  row = measured(&p);
  assert_ok(&row, &p);
  assert_int_equal(count("pid.", NULL), 4);
  // One that dies between points costs none.
  const pid_t idle = process_of(0);
  int launcher;
  state_of(idle, &launcher);
  kill(idle, SIGKILL);
  assert_true(is_gone_within(launcher, 20000));
  usleep(100000); // and its shell
  row = measured(&p);
  assert_ok(&row, &p);
}

static void a_limit_of_time_ends_worker_and_job(void **state) {
  need_mpi();
  struct worker w = {0};
  struct point p = make_point("ring_p2p", "mpi", 2), endless = endless_point(2);
  struct row row;
  assert_int_equal(worker_run(&w, measure_point, &p, &row, -1, NULL, NULL), WORKER_ROW);
  assert_ok(&row, &p);
  assert_true(w.pid > 0); // a host point, and yet the worker lives: its ranks are not in it
  const pid_t ranks[2] = {process_of(0), process_of(1)};
  endless.limit_s = 1;
  const double begin_us = timer_now_us();
  assert_int_equal(worker_run(&w, measure_point, &endless, &row, -1, NULL, NULL), WORKER_ROW);
  assert_string_equal(row.status, "timeout");
  assert_true(timer_now_us() - begin_us < 8e6);
  assert_true(is_gone_within(ranks[0], 100) && is_gone_within(ranks[1], 100));
  assert_int_equal(count("longca-", NULL), 0);
  assert_int_equal(worker_run(&w, measure_point, &p, &row, -1, NULL, NULL), WORKER_ROW);
  assert_ok(&row, &p);
  const pid_t last = process_of(1);
  worker_end(&w);
  assert_true(is_gone_within(last, 100));
  assert_int_equal(count("longca-", NULL), 0);
}

// Seconds of processor time that a process has had.
static double cpu_s(pid_t pid) {
  char path[64];
  long user = 0, system_time = 0;
  snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
  FILE *f = fopen(path, "re");
  assert_true(f && fscanf(f, "%*d (%*[^)]) %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %ld %ld",
                          &user, &system_time) == 2);
  fclose(f);
  return (double)(user + system_time) / (double)sysconf(_SC_CLK_TCK);
}

static void an_idle_job_sleeps(void **state) {
  need_mpi();
  const struct point p = make_point("ring_p2p", "mpi", 2);
  const struct row row = measured(&p);
  assert_ok(&row, &p);
  const pid_t rank = process_of(1);
  const double before_s = cpu_s(rank);
  sleep(2);
  const double used_s = cpu_s(rank) - before_s;
  print_message("%g s in 2 s\n", used_s);
  assert_true(used_s <= 0.2);
}

int main(int argc, char **argv) {
  if (argc > 2 && !strcmp(argv[1], "rank")) {
    note_process(argv[2]);
    return cmd_rank(argc - 1, argv + 1);
  }
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(jobs_stay, set_up, tear_down),
      cmocka_unit_test_setup_teardown(a_fifth_job_ends_the_one_that_was_idle_longest, set_up,
                                      tear_down),
      cmocka_unit_test_setup_teardown(a_killed_rank_costs_the_row_in_flight, set_up, tear_down),
      cmocka_unit_test_setup_teardown(a_limit_of_time_ends_worker_and_job, set_up, tear_down),
      cmocka_unit_test_setup_teardown(an_idle_job_sleeps, set_up, tear_down),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
