// store_test.c -- rows on a real disk: round trips, torn lines, a full disk, two writers.
#define _GNU_SOURCE
#include "store.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static char folder[64], path[128], err[1024];

static int set_up(void **state) {
  snprintf(folder, sizeof folder, "/tmp/longca-store-XXXXXX");
  if (!mkdtemp(folder))
    return -1;
  snprintf(path, sizeof path, "%s/machine/cpu.csv", folder);
  return 0;
}

static int tear_down(void **state) {
  char command[128];
  snprintf(command, sizeof command, "rm -rf '%s'", folder);
  return system(command);
}

static struct row sample(double draw) {
  struct row row;
  row_clear(&row);
  snprintf(row.mask, sizeof row.mask, "causal");
  snprintf(row.reason, sizeof row.reason, "a \"quoted\" reason, with commas\nand a line");
  row.draw = draw;
  row.time_us = 0.1;
  row.area = 1e15 + 1;
  row.err_max = 1.0 / 3;
  return row;
}

static void append(const char *file, const char *text) {
  FILE *f = fopen(file, "ae");
  assert_non_null(f);
  fputs(text, f);
  assert_int_equal(fclose(f), 0);
}

static void fill(int n) {
  struct store s;
  assert_int_equal(store_open(&s, path, err, sizeof err), 0);
  for (int i = 0; i < n; i++) {
    const struct row row = sample(i);
    assert_int_equal(store_append(&s, &row, err, sizeof err), 0);
  }
  store_close(&s);
}

// Rows 0 .. n - 1 and nothing else.
static void expect(size_t n) {
  struct row *rows;
  size_t got;
  if (store_read(path, &rows, &got, err, sizeof err))
    fail_msg("%s", err);
  assert_int_equal(got, n);
  for (size_t i = 0; i < n; i++)
    assert_true(rows[i].draw == (double)i);
  free(rows);
}

static void rows_come_back_as_they_were(void **state) {
  fill(3);
  struct row *rows;
  size_t n;
  assert_int_equal(store_read(path, &rows, &n, err, sizeof err), 0);
  assert_int_equal(n, 3);
  assert_string_equal(rows[2].mask, "causal");
  assert_string_equal(rows[2].reason, "a \"quoted\" reason, with commas and a line");
  assert_true(rows[2].schema == ROW_SCHEMA && rows[2].draw == 2);
  assert_true(rows[2].time_us == 0.1 && rows[2].area == 1e15 + 1 && rows[2].err_max == 1.0 / 3);
  assert_true(isnan(rows[2].tflop_s));
  assert_string_equal(rows[2].kernel, "");
  free(rows);
}

static void every_column_holds_its_longest_text(void **state) {
  struct row row;
  row_clear(&row);
  for (const struct row_column *c = row_columns; c->name; c++)
    if (c->text)
      memset((char *)&row + c->offset, '"', ROW_REASON - 1);
  snprintf(row.status, sizeof row.status, "ok");
  struct store s;
  assert_int_equal(store_open(&s, path, err, sizeof err), 0);
  assert_int_equal(store_append(&s, &row, err, sizeof err), 0);
  store_close(&s);
  struct row *rows;
  size_t n;
  assert_int_equal(store_read(path, &rows, &n, err, sizeof err), 0);
  assert_int_equal(n, 1);
  assert_memory_equal(rows[0].reason, row.reason, sizeof row.reason);
  assert_memory_equal(rows[0].log, row.log, sizeof row.log);
  free(rows);
}

static void torn_line_is_left_out_and_then_cut_off(void **state) {
  fill(2);
  append(path, "1,fig8,cpu,half a li");
  expect(2); // a reader does not see it
  fill(0);   // a writer cuts it off
  fill(0);
  struct store s;
  const struct row row = sample(2);
  assert_int_equal(store_open(&s, path, err, sizeof err), 0);
  assert_int_equal(store_append(&s, &row, err, sizeof err), 0);
  store_close(&s);
  expect(3);
}

static void torn_header_is_written_again(void **state) {
  fill(0);
  assert_int_equal(truncate(path, 17), 0);
  fill(2);
  expect(2);
}

static void columns_are_found_by_name(void **state) {
  char other[160];
  snprintf(other, sizeof other, "%s/other.csv", folder);
  append(other, "# a remark\nseqlen,surprise,mask,draw\n1024,x,full,\n2048,,\"causal\",7\n");
  struct row *rows;
  size_t n;
  assert_int_equal(store_read(other, &rows, &n, err, sizeof err), 0);
  assert_int_equal(n, 2);
  assert_true(rows[0].seqlen == 1024 && isnan(rows[0].draw) && isnan(rows[0].time_us));
  assert_true(rows[1].seqlen == 2048 && rows[1].draw == 7);
  assert_string_equal(rows[1].mask, "causal");
  free(rows);
}

static void faults_name_the_line(void **state) {
  static const struct {
    const char *text, *fault;
  } bad[] = {{"mask,draw\nfull,0\nfull,zero\n", "line 3: 'zero' is not a number (column draw)"},
             {"mask,draw\nfull,0\nfull\n", "line 3: 1 fields where the header has 2"},
             {"mask,draw\n\n# full\n\"full,0\nfull,0\n", "line 4: a quotation mark is not closed"},
             {"mask,draw\nfull,0\nfull,\"0\n", "line 3: a quotation mark is not closed"},
             {"mask,draw\nfull,0\nfu\"ll,0\n", "line 3: a quotation mark inside a field without"},
             {"draw,status\n0,ok\n1,oké\n", "line 3: 'oké' is no status of a row"},
             {"time,rate\n1,2\n", "line 1: no column of a row (schema, exp, ...) in this header"}};
  char other[160];
  struct row *rows;
  size_t n;
  snprintf(other, sizeof other, "%s/bad.csv", folder);
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    append(other, bad[i].text);
    assert_int_equal(store_read(other, &rows, &n, err, sizeof err), -1);
    if (!strstr(err, bad[i].fault))
      fail_msg("'%s' does not say '%s'", err, bad[i].fault);
    assert_true(!rows && !n);
    unlink(other);
  }
  assert_int_equal(store_read("/nowhere.csv", &rows, &n, err, sizeof err), -1);
  assert_non_null(strstr(err, "No such file"));
}

static void rows_come_through_a_pipe(void **state) {
  static const char text[] = "mask,draw\nfull,3\n";
  int ends[2];
  char name[32];
  struct row *rows;
  size_t n;
  assert_int_equal(pipe(ends), 0);
  assert_int_equal(write(ends[1], text, strlen(text)), strlen(text));
  close(ends[1]);
  snprintf(name, sizeof name, "/dev/fd/%d", ends[0]);
  assert_int_equal(store_read(name, &rows, &n, err, sizeof err), 0);
  close(ends[0]);
  assert_int_equal(n, 1);
  assert_true(rows[0].draw == 3);
  free(rows);
}

static void older_columns_are_brought_along(void **state) {
  char command[512];
  fill(2);
  // The same rows without the last column, as a version before it would have written them.
  snprintf(command, sizeof command, "sed -i 's/,[^,]*$//' '%s'", path);
  assert_int_equal(system(command), 0);
  fill(0);
  expect(2);
  snprintf(command, sizeof command, "sed -i '1s/mask/musk/' '%s'", path);
  assert_int_equal(system(command), 0);
  struct store s;
  assert_int_equal(store_open(&s, path, err, sizeof err), -1);
  assert_non_null(strstr(err, "unknown column 'musk'"));
}

static void one_writer_at_a_time(void **state) {
  struct store a, b;
  assert_int_equal(store_open(&a, path, err, sizeof err), 0);
  assert_int_equal(store_open(&b, path, err, sizeof err), -1);
  assert_non_null(strstr(err, "another run"));
  const struct row rows[] = {sample(0), sample(1)};
  assert_int_equal(store_replace(&a, rows, 2, err, sizeof err), 0);
  assert_int_equal(store_open(&b, path, err, sizeof err), -1); // the lock moved along
  store_close(&a);
  expect(2);
  assert_int_equal(store_open(&b, path, err, sizeof err), 0);
  store_close(&b);
}

static void lock_goes_with_its_killed_holder(void **state) {
  int ready[2];
  assert_int_equal(pipe(ready), 0);
  const pid_t child = fork();
  if (child == 0) {
    struct store s;
    const char ok = store_open(&s, path, err, sizeof err) ? 'n' : 'y';
    if (write(ready[1], &ok, 1) == 1)
      pause();
    _exit(1);
  }
  char ok;
  assert_int_equal(read(ready[0], &ok, 1), 1);
  assert_int_equal(ok, 'y');
  struct store s;
  assert_int_equal(store_open(&s, path, err, sizeof err), -1);
  kill(child, SIGKILL);
  waitpid(child, NULL, 0);
  assert_int_equal(store_open(&s, path, err, sizeof err), 0);
  store_close(&s);
  close(ready[0]);
  close(ready[1]);
}

// A file size limit cuts a write short in the middle of a line, as a full disk does.
static void full_disk_leaves_whole_rows(void **state) {
  fill(3);
  struct stat st;
  assert_int_equal(stat(path, &st), 0);
  const pid_t child = fork();
  if (child == 0) {
    struct store s;
    const struct row row = sample(3);
    struct rlimit limit = {(rlim_t)st.st_size + 20, RLIM_INFINITY};
    signal(SIGXFSZ, SIG_IGN);
    int bad = store_open(&s, path, err, sizeof err);
    bad |= setrlimit(RLIMIT_FSIZE, &limit);
    bad |= (store_append(&s, &row, err, sizeof err) != -1) << 1;
    struct stat now;
    bad |= (stat(path, &now) || now.st_size != st.st_size) << 2;
    limit.rlim_cur = RLIM_INFINITY; // room again: the very row goes in
    bad |= setrlimit(RLIMIT_FSIZE, &limit);
    bad |= (store_append(&s, &row, err, sizeof err) != 0) << 3;
    _exit(bad);
  }
  int status;
  waitpid(child, &status, 0);
  assert_int_equal(status, 0);
  expect(4);
}

static void full_disk_is_said_when_replacing(void **state) {
  struct store s;
  fill(2);
  assert_int_equal(store_open(&s, path, err, sizeof err), 0);
  char new_path[160];
  snprintf(new_path, sizeof new_path, "%s.new", path);
  assert_int_equal(symlink("/dev/full", new_path), 0);
  const struct row row = sample(9);
  assert_int_equal(store_replace(&s, &row, 1, err, sizeof err), -1);
  assert_non_null(strstr(err, "No space left"));
  store_close(&s);
  expect(2);
}

// A file system of 16 KiB, where we may mount one.
static void really_full_file_system(void **state) {
  if (mount("tmpfs", folder, "tmpfs", 0, "size=16k")) {
    print_message("needs the right to mount a tmpfs (%s)\n", strerror(errno));
    skip();
  }
  struct store s;
  assert_int_equal(store_open(&s, path, err, sizeof err), 0);
  int n = 0;
  for (; n < 1000; n++) {
    const struct row row = sample(n);
    if (store_append(&s, &row, err, sizeof err))
      break;
  }
  assert_in_range(n, 1, 999);
  assert_non_null(strstr(err, "No space left"));
  store_close(&s);
  expect((size_t)n);
  fill(0); // and it opens again
  expect((size_t)n);
  assert_int_equal(umount(folder), 0);
}

int main(void) {
#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
  const struct CMUnitTest tests[] = {
      TEST(rows_come_back_as_they_were),
      TEST(every_column_holds_its_longest_text),
      TEST(torn_line_is_left_out_and_then_cut_off),
      TEST(torn_header_is_written_again),
      TEST(columns_are_found_by_name),
      TEST(faults_name_the_line),
      TEST(rows_come_through_a_pipe),
      TEST(older_columns_are_brought_along),
      TEST(one_writer_at_a_time),
      TEST(lock_goes_with_its_killed_holder),
      TEST(full_disk_leaves_whole_rows),
      TEST(full_disk_is_said_when_replacing),
      TEST(really_full_file_system),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
