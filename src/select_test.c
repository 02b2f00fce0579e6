// select_test.c -- filters, points over draws, wishes: what figures and claims are made of.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "select.h"

static struct row make_row(const char *kernel, const char *mask, double seqlen, double draw,
                           double rate) {
  struct row r;
  row_clear(&r);
  snprintf(r.kernel, sizeof r.kernel, "%s", kernel);
  snprintf(r.mask, sizeof r.mask, "%s", mask);
  snprintf(r.engine, sizeof r.engine, "cpu");
  snprintf(r.pass, sizeof r.pass, "fwd");
  snprintf(r.status, sizeof r.status, isnan(rate) ? "oom" : "ok");
  r.seqlen = seqlen;
  r.draw = draw;
  r.heads_q = 8;
  r.heads_kv = 1;
  r.flop = 1e9;
  r.tflop_s = rate;
  r.time_us = isnan(rate) ? NAN : 1e3 / rate;
  r.time_us_low = r.time_us * 0.9;
  r.time_us_high = r.time_us * 1.25;
  return r;
}

static struct filter parse(const char *text) {
  struct filter f = {.n = 0};
  char err[1024] = "";
  assert_int_equal(filter_add(&f, text, err, sizeof err), 0);
  return f;
}

static void filters_select_what_they_say(void **state) {
  struct row r = make_row("fa2", "full", 8192, 0, 1);
  r.ranks = 4;
  const struct {
    const char *text;
    bool match;
  } cases[] = {{"", true},
               {"kernel=fa2", true},
               {"kernel=flex,fa2", true},
               {"kernel!=flex,fa2", false},
               {"kernel!=flex", true},
               {"seqlen=8K", true},
               {"seqlen=8192.0", true},
               {"seqlen>=8K seqlen<=8K", true},
               {"seqlen>8K", false},
               {"seqlen<8K", false},
               {"mode=gqa place=host", true},
               {"mode=mha", false},
               {"tokens=2K", true},
               {"tokens!=2048", false},
               {"ratio>0", false}, // does not apply: no number
               {"ratio!=0.5", true},
               {"mask=regular", true},
               {"mask=heterogeneous", false},
               {"mask=heterogeneous,full", true},
               {"kernel=fa2; pass=bwd", false}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    const struct filter f = parse(cases[i].text);
    if (filter_match(&f, &r) != cases[i].match)
      fail_msg("'%s' should %smatch", cases[i].text, cases[i].match ? "" : "not ");
  }
}

static void bad_filters_say_what_is_known(void **state) {
  const struct {
    const char *text, *said;
  } cases[] = {{"kernel=fa9", "flashmask"}, {"mask=ful", "causal_document"},
               {"speed=1", "time_us"},      {"kernel", "column=value"},
               {"kernel=", "column=value"}, {"kernel=>fa2", "column=value"}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    struct filter f = {.n = 0};
    char err[2048] = "";
    assert_int_equal(filter_add(&f, cases[i].text, err, sizeof err), -1);
    if (!strstr(err, cases[i].said))
      fail_msg("'%s': \"%s\" does not say %s", cases[i].text, err, cases[i].said);
  }
  struct filter f = {.n = 0};
  char err[64], long_text[4096];
  memset(long_text, 'x', sizeof long_text - 1);
  long_text[sizeof long_text - 1] = 0;
  assert_int_equal(filter_add(&f, long_text, err, sizeof err), -1);
}

static struct measured *points_of(const struct row *rows, size_t n, const char *quantity,
                                  size_t *m) {
  struct filter all = {.n = 0};
  struct quantity q;
  struct measured *p = NULL;
  char err[256];
  assert_int_equal(quantity_parse(&q, quantity, err, sizeof err), 0);
  assert_int_equal(select_points(rows, n, &all, &q, &p, m), 0);
  return p;
}

static void one_draw_keeps_its_interval(void **state) {
  const struct row r = make_row("fa2", "full", 1024, 0, 2);
  size_t m;
  struct measured *p = points_of(&r, 1, "tflop_s", &m);
  assert_int_equal(m, 1);
  assert_true(p->y == 2 && p->draws == 1 && p->ok == 1);
  // A rate is lowest at the longest time: 1e9 FLOP in 625 us.
  assert_true(fabs(p->low - 1.6) < 1e-12 && fabs(p->high - 2 / 0.9) < 1e-12);
  free(p);
  p = points_of(&r, 1, "time_us/1e3", &m);
  assert_true(fabs(p->y - 0.5) < 1e-12 && fabs(p->low - 0.45) < 1e-12 &&
              fabs(p->high - 0.625) < 1e-12);
  free(p);
}

static void draws_give_median_and_range(void **state) {
  struct row r[7];
  const double rates[] = {3, 1, 2, 9, 5};
  for (int i = 0; i < 5; i++)
    r[i] = make_row("fa2", "full_document", 1024, i, rates[i]);
  r[3].docs = 17; // what a draw decides does not part the draws
  r[4].prefix = 3;
  r[5] = make_row("fa2", "full_document", 1024, 3, 4); // draw 3 measured again: this one counts
  r[6] = make_row("fa2", "full_document", 2048, 0, 7); // another point
  size_t m;
  struct measured *p = points_of(r, 7, "tflop_s", &m);
  assert_int_equal(m, 2);
  const struct measured *q = p[0].row->seqlen == 1024 ? &p[0] : &p[1];
  assert_int_equal(q->draws, 5);
  assert_true(q->y == 3 && q->low == 1 && q->high == 5);
  free(p);
}

static void failed_draws_show(void **state) {
  struct row r[3] = {make_row("sdpa", "full_document", 1024, 0, 3),
                     make_row("sdpa", "full_document", 1024, 1, NAN),
                     make_row("sdpa", "full_document", 1024, 2, 5)};
  size_t m;
  struct measured *p = points_of(r, 3, "tflop_s", &m);
  assert_true(m == 1 && p->draws == 3 && p->ok == 2 && p->y == 4);
  free(p);
  snprintf(r[2].status, sizeof r[2].status, "wrong"); // one wrong draw: the point is wrong
  p = points_of(r, 3, "tflop_s", &m);
  assert_true(m == 1 && isnan(p->y));
  assert_string_equal(p->row->status, "wrong");
  free(p);
  p = points_of(&r[1], 1, "tflop_s", &m);
  assert_true(m == 1 && isnan(p->y) && p->ok == 0);
  assert_string_equal(p->row->status, "oom");
  free(p);
  p = points_of(r, 0, "tflop_s", &m);
  assert_int_equal(m, 0);
  free(p);
}

// The window of GLOBAL SLIDING is drawn with the mask; that of a sliding window is a setting.
static void windows_part_points_only_where_they_are_settings(void **state) {
  struct row r[4] = {make_row("flex", "global_sliding_window", 1024, 0, 1),
                     make_row("flex", "global_sliding_window", 1024, 1, 3),
                     make_row("flex", "sliding_window", 1024, 0, 1),
                     make_row("flex", "sliding_window", 1024, 0, 3)};
  r[0].window = 17;
  r[1].window = 129;
  r[2].window = 17;
  r[3].window = 129;
  size_t m;
  struct measured *p = points_of(r, 4, "tflop_s", &m);
  assert_int_equal(m, 3);
  free(p);
}

static void wishes_are_granted_or_replaced(void **state) {
  char err[256];
  struct row r[5];
  for (int i = 0; i < 5; i++)
    r[i] = make_row("fa2", "full", i < 2 ? 1024 : i < 4 ? 2048 : 512, 0, i + 1);
  struct row copy[5];
  memcpy(copy, r, sizeof r);
  size_t n = 5;
  assert_int_equal(select_prefer(copy, &n, "seqlen=512", err, sizeof err), 0);
  assert_true(n == 1 && copy[0].tflop_s == 5);
  memcpy(copy, r, sizeof r);
  n = 5; // no row at 8K; 1024 and 2048 have two rows each: the larger
  assert_int_equal(select_prefer(copy, &n, "seqlen=8K", err, sizeof err), 0);
  assert_true(n == 2 && copy[0].seqlen == 2048 && copy[1].seqlen == 2048);
  n = 0;
  assert_int_equal(select_prefer(copy, &n, "seqlen=8K", err, sizeof err), 0);
  assert_int_equal(n, 0);
  assert_int_equal(select_prefer(copy, &n, "seqlen>8K", err, sizeof err), -1);
}

static void order_is_the_readers(void **state) {
  assert_true(filter_order("seqlen", "1024", "16384") < 0 &&
              filter_order("seqlen", "2048", "1024") > 0);
  assert_true(filter_order("pass", "fwd", "bwd") < 0);
  assert_true(filter_order("mode", "gqa", "mha") < 0);
  assert_true(filter_order("kernel", "naive", "flashmask") < 0 &&
              filter_order("kernel", "vsa", "fa2") > 0);
  assert_true(filter_order("mask", "full", "causal") < 0 &&
              filter_order("mask", "sliding_window", "full") > 0);
  assert_int_equal(filter_order("kernel", "fa2", "fa2"), 0);
}

// Rows with a schedule share the file with those of one device; they come when they are asked for.
static void schedules_come_when_asked_for(void **state) {
  char path[] = "/tmp/select_test.XXXXXX", err[256], *paths[] = {path};
  FILE *file = fdopen(mkstemp(path), "w");
  fputs("kernel,cp,seqlen\nfa2,none,1\nfa2,ulysses,2\nfa2,,3\n", file);
  fclose(file);
  struct row *rows;
  size_t n;
  const struct filter all = {.n = 0}, cp = parse("cp!=none cp=ulysses,usp");
  assert_int_equal(select_load(paths, 1, &all, NULL, 0, &rows, &n, err, sizeof err), 0);
  assert_true(n == 2 && rows[0].seqlen == 1 && rows[1].seqlen == 3);
  free(rows);
  assert_int_equal(select_load(paths, 1, &cp, NULL, 0, &rows, &n, err, sizeof err), 0);
  assert_true(n == 1 && rows[0].seqlen == 2);
  free(rows);
  unlink(path);
}

static void emulated_rows_are_found(void **state) {
  static struct row rows[2];
  char err[256] = "";
  snprintf(rows[0].machine, sizeof rows[0].machine, "h200");
  snprintf(rows[1].machine, sizeof rows[1].machine, "h200-emulated-");
  assert_false(select_is_emulated(rows, 2, err, sizeof err));
  assert_string_equal(err, "");
  snprintf(rows[1].machine, sizeof rows[1].machine, "emulated-h200");
  assert_true(select_is_emulated(rows, 2, err, sizeof err));
  assert_non_null(strstr(err, "emulated-h200 are no measurements"));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(filters_select_what_they_say),
      cmocka_unit_test(bad_filters_say_what_is_known),
      cmocka_unit_test(one_draw_keeps_its_interval),
      cmocka_unit_test(draws_give_median_and_range),
      cmocka_unit_test(failed_draws_show),
      cmocka_unit_test(windows_part_points_only_where_they_are_settings),
      cmocka_unit_test(wishes_are_granted_or_replaced),
      cmocka_unit_test(order_is_the_readers),
      cmocka_unit_test(schedules_come_when_asked_for),
      cmocka_unit_test(emulated_rows_are_found),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
