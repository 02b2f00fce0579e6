// blocks_test.c -- the block file and the spread table that rows become, read back as text.
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

#include "blocks.h"
#include "spread.h"

static struct row make_row(const char *kernel, const char *mask, double heads_kv, double seqlen,
                           double rate) {
  struct row r;
  row_clear(&r);
  snprintf(r.machine, sizeof r.machine, "here");
  snprintf(r.profile, sizeof r.profile, "cpu");
  snprintf(r.commit, sizeof r.commit, "c0ffee");
  snprintf(r.utc, sizeof r.utc, "2026-11-20T05:00:00Z");
  snprintf(r.kernel, sizeof r.kernel, "%s", kernel);
  snprintf(r.rep, sizeof r.rep, "band");
  snprintf(r.engine, sizeof r.engine, "cpu");
  snprintf(r.mask, sizeof r.mask, "%s", mask);
  snprintf(r.pass, sizeof r.pass, "fwd");
  snprintf(r.dtype, sizeof r.dtype, "bf16");
  snprintf(r.status, sizeof r.status, isnan(rate) ? "oom" : "ok");
  if (isnan(rate))
    snprintf(r.reason, sizeof r.reason, "no room");
  r.heads_q = 8;
  r.heads_kv = heads_kv;
  r.dim = 128;
  r.seqlen = seqlen;
  r.draw = 0;
  r.tflop_s = r.peak_mem_bytes = rate;
  return r;
}

// What a call prints to stdout, for free().
static char *printed(int (*call)(void *), void *context, int *status) {
  FILE *keep = tmpfile();
  fflush(stdout);
  const int saved = dup(STDOUT_FILENO);
  dup2(fileno(keep), STDOUT_FILENO);
  *status = call(context);
  fflush(stdout);
  dup2(saved, STDOUT_FILENO);
  close(saved);
  const long size = ftell(keep) < 0 ? 0 : (fseek(keep, 0, SEEK_END), ftell(keep));
  char *text = calloc(1, (size_t)size + 1);
  rewind(keep);
  assert_int_equal(fread(text, 1, (size_t)size, keep), size);
  fclose(keep);
  return text;
}

struct work {
  const struct row *rows;
  size_t n;
  struct blocks what;
  struct spread_axis down, across;
};

static int call_blocks(void *context) {
  const struct work *w = context;
  return blocks_print(w->rows, w->n, &w->what);
}

static int call_spread(void *context) {
  const struct work *w = context;
  const struct quantity q = {"tflop_s", 1};
  return spread_print(w->rows, w->n, &w->down, &w->across, &q, TABLE_CSV, NULL);
}

static void need(const char *text, const char *part) {
  if (!strstr(text, part))
    fail_msg("'%s' is not in:\n%s", part, text);
}

static void blocks_hold_panels_series_and_gaps(void **state) {
  struct row rows[] = {
      make_row("flex", "causal", 1, 2048, 5),  make_row("fa2", "causal", 1, 2048, NAN),
      make_row("fa2", "causal", 1, 1024, 3),   make_row("fa2", "full", 1, 1024, 2.5),
      make_row("fa3", "causal", 1, 1024, NAN),
  };
  snprintf(rows[4].status, sizeof rows[4].status, "unsupported");
  struct work w = {rows,
                   5,
                   {.series = "kernel",
                    .x = "seqlen",
                    .panel = {"mask", "mode"},
                    .n_panel = 2,
                    .y = {"tflop_s", 1}},
                   {.n = 0},
                   {.n = 0}};
  int status;
  char *text = printed(call_blocks, &w, &status);
  assert_int_equal(status, 0);
  need(text, "#machine here\n");
  need(text, "#utc 2026-11-20\n");
  need(text, "#panels full/gqa causal/gqa\n"); // as in the study, not by the alphabet
  need(text, "#series fa2 fa3 flex\n");
  need(text, "#label fa2 fa2 (band)\n");
  need(text, "#shape causal/gqa 8:1 heads, d 128, bf16\n");
  need(text, "#drawn causal/gqa fa2 flex\n");
  need(text, "#unsupported causal/gqa fa3\n");
  need(text, "#failed causal/gqa\n");
  need(text, "#reason causal/gqa fa2 oom: no room\n");
  need(text, "\n\n# causal/gqa fa2 |\n1024 3 3 3 ok 1/1\n2048 nan nan nan oom 0/1\n\n\n# "
             "causal/gqa fa3 |\n");
  free(text);
}

static void text_on_the_axis_is_numbered(void **state) {
  const struct row rows[] = {make_row("fa2", "causal", 1, 1024, 3),
                             make_row("fa2", "full", 1, 1024, 2),
                             make_row("flex", "block_causal_document", 1, 1024, 1)};
  struct work w = {rows,
                   3,
                   {.series = "kernel", .x = "mask", .n_panel = 0, .y = {"tflop_s", 1}},
                   {.n = 0},
                   {.n = 0}};
  int status;
  char *text = printed(call_blocks, &w, &status);
  assert_int_equal(status, 0);
  need(text, "#xnames full causal block_causal_document\n");
  need(text, "# all fa2 |\n1 2 2 2 ok 1/1 full\n2 3 3 3 ok 1/1 causal\n");
  need(text, "# all flex |\n3 1 1 1 ok 1/1 block_causal_document\n");
  free(text);
}

// Rows of other experiments share the file: a panel keeps the number of heads that most points have.
static void a_panel_has_one_shape(void **state) {
  const struct row rows[] = {make_row("fa2", "full", 1, 1024, 3),
                             make_row("fa2", "full", 1, 2048, 4),
                             make_row("fa2", "full", 2, 1024, 9)};
  struct work w = {
      rows,
      3,
      {.series = "kernel", .x = "seqlen", .panel = {"mode"}, .n_panel = 1, .y = {"tflop_s", 1}},
      {.n = 0},
      {.n = 0}};
  int status;
  char *text = printed(call_blocks, &w, &status);
  need(text, "8:1 heads");
  assert_null(strstr(text, "1024 9"));
  need(text, "1024 3 3 3 ok 1/1\n2048 4");
  free(text);
}

static void nothing_to_draw_is_a_failure(void **state) {
  const struct row row = make_row("fa2", "full", 1, 1024, NAN);
  struct work w = {
      &row, 1, {.series = "kernel", .x = "seqlen", .y = {"tflop_s", 1}}, {.n = 0}, {.n = 0}};
  for (w.n = 0; w.n < 2; w.n++) {
    int status;
    char *text = printed(call_blocks, &w, &status);
    assert_int_equal(status, 1);
    assert_string_equal(text, "");
    free(text);
  }
}

static void spread_sets_machines_one_under_the_other(void **state) {
  struct row rows[] = {make_row("flashinfer", "full", 8, 16384, 211.78),
                       make_row("fa2_sparse", "full", 8, 16384, NAN),
                       make_row("flashinfer", "full", 8, 16384, 300.126),
                       make_row("flashinfer", "full", 8, 500, 1),
                       make_row("fa2_sparse", "full", 8, 16384, NAN)};
  for (int i = 0; i < 2; i++)
    snprintf(rows[i].machine, sizeof rows[i].machine,
             "paper"); // first in the files, so first in a group
  snprintf(rows[4].status, sizeof rows[4].status, "unsupported");
  char down[] = "seqlen,machine", across[] = "kernel", err[256];
  struct work w = {rows, 5, {.n_panel = 0}, {.n = 0}, {.n = 0}};
  assert_int_equal(spread_parse_axis(&w.down, down, err, sizeof err), 0);
  assert_int_equal(spread_parse_axis(&w.across, across, err, sizeof err), 0);
  int status;
  char *text = printed(call_spread, &w, &status);
  assert_string_equal(text, "seqlen,machine,fa2_sparse,flashinfer\n"
                            "500,here,,1\n"
                            "16K,paper,OOM,211.78\n"
                            "16K,here,–,300.13\n");
  free(text);
  char bad[] = "seqlen,speed";
  assert_int_equal(spread_parse_axis(&w.down, bad, err, sizeof err), -1);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(blocks_hold_panels_series_and_gaps),
      cmocka_unit_test(text_on_the_axis_is_numbered),
      cmocka_unit_test(a_panel_has_one_shape),
      cmocka_unit_test(nothing_to_draw_is_a_failure),
      cmocka_unit_test(spread_sets_machines_one_under_the_other),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
