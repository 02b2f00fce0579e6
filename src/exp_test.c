// exp_test.c -- conditions, experiment files, their expansion, and the identity of points.
#include "exp.h"

#include <dirent.h>
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

#include "store.h"

static struct experiment e;
static char err[2048], file[64];

// ---- conditions -----------------------------------------------------------------------------

static bool holds(const char *text, const struct row *row) {
  struct filter f = {.n = 0};
  if (filter_add(&f, text, err, sizeof err))
    fail_msg("%s", err);
  return filter_match(&f, row);
}

static void conditions(void **state) {
  struct row row;
  row_clear(&row);
  snprintf(row.kernel, sizeof row.kernel, "fa2");
  row.seqlen = 16384;
  assert_true(holds("kernel=fa2", &row) && holds("kernel=naive,fa2", &row) &&
              !holds("kernel=fa3", &row));
  assert_true(holds("kernel!=naive,sdpa", &row) && !holds("kernel!=naive,fa2", &row));
  assert_true(holds("seqlen=16K", &row) && holds("seqlen=1K,16384", &row) &&
              !holds("seqlen!=16k", &row));
  assert_true(holds("seqlen<=16K", &row) && !holds("seqlen<16K", &row));
  assert_true(holds("seqlen>=16K", &row) && !holds("seqlen>16K", &row));
  // NaN is neither more nor less than anything.
  assert_false(holds("ratio<1", &row) || holds("ratio>=0", &row) || holds("ratio=0", &row));
}

static void bad_conditions_say_why(void **state) {
  static const char *const bad[][2] = {{"kernel", "is not column=value"},
                                       {"kernel!fa2", "is not column=value"},
                                       {"seqlen=", "is not column=value"},
                                       {"seqlen=>4K", "is not column=value"},
                                       {"size=3", "the columns are mode, place, tokens, schema"},
                                       {"kernel<fa2", "kernel holds text"},
                                       {"kernel=fa2,fa9", "unknown kernel 'fa9'"},
                                       {"mask!=circle", "unknown mask 'circle'"},
                                       {"seqlen<many", "'many' is not a number"}};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    struct filter f = {.n = 0};
    assert_int_equal(filter_add(&f, bad[i][0], err, sizeof err), -1);
    if (!strstr(err, bad[i][1]))
      fail_msg("'%s' was answered '%s'", bad[i][0], err);
  }
}

// ---- files ----------------------------------------------------------------------------------

static void write_exp(const char *text) {
  snprintf(file, sizeof file, "/tmp/longca-XXXXXX.exp");
  const int fd = mkstemps(file, 4);
  FILE *f = fdopen(fd, "w");
  assert_non_null(f);
  fputs(text, f);
  fclose(f);
}

static struct point *points_of(const char *text, const char *profile, size_t *n) {
  write_exp(text);
  struct point *points = NULL;
  if (exp_load(&e, file, profile, err, sizeof err) || exp_points(&e, &points, n, err, sizeof err))
    fail_msg("%s", err);
  unlink(file);
  return points;
}

static void expect_fault(const char *text, const char *want) {
  struct point *points = NULL;
  size_t n;
  write_exp(text);
  if (!exp_load(&e, file, "cpu", err, sizeof err) && !exp_points(&e, &points, &n, err, sizeof err))
    fail_msg("accepted: %s", text);
  unlink(file);
  if (!strstr(err, want))
    fail_msg("'%s' does not say '%s'", err, want);
}

#define SMALL "[axes]\nmask = full causal\nkernel = naive fa2 flex\nseqlen = 128\n[cpu]\n"

static void profile_goes_over_axes(void **state) {
  size_t n;
  struct point *p =
      points_of(SMALL "heads = 8:1\nseqlen = 1K\n  2K\nkernel = fa2\npass = bwd\n", "cpu", &n);
  assert_int_equal(n, 4); // 2 masks, 2 lengths on two lines
  for (size_t i = 0; i < n; i++) {
    assert_int_equal(p[i].heads_q, 8);
    assert_int_equal(p[i].heads_kv, 1);
    assert_int_equal(p[i].seqlen, i < 2 ? 1024 : 2048);
    assert_int_equal(p[i].pass, ATTN_BWD);
    assert_false(p[i].deterministic);
    assert_int_equal(p[i].dim, 128);
    assert_int_equal(p[i].seed, 42);
    assert_int_equal(p[i].place, ATTN_HOST); // from profiles.ini
    assert_int_equal(p[i].mask, i % 2 ? MASK_CAUSAL : MASK_FULL);
    assert_string_equal(p[i].profile, "cpu");
  }
  free(p);
}

static void passes_by_name(void **state) {
  size_t n;
  struct point *p =
      points_of(SMALL "mask = full\nkernel = fa2\npass = fwd bwd bwd_det\n", "cpu", &n);
  assert_int_equal(n, 3);
  for (size_t i = 0; i < n; i++) {
    struct row row;
    assert_int_equal(p[i].pass, i ? ATTN_BWD : ATTN_FWD);
    assert_int_equal(p[i].deterministic, i == 2);
    point_to_row(&p[i], &row);
    assert_string_equal(row.pass, i == 0 ? "fwd" : i == 1 ? "bwd" : "bwd_det");
  }
  free(p);
}

static void command_line_goes_over_all(void **state) {
  write_exp(SMALL "seqlen = 1K\n");
  struct point *p;
  size_t n;
  assert_int_equal(exp_load(&e, file, "cpu", err, sizeof err), 0);
  assert_int_equal(exp_set(&e, "seqlen", "17,129", err, sizeof err), 0);
  assert_int_equal(exp_set(&e, "length", "17", err, sizeof err), -1);
  assert_non_null(strstr(err, "the settings are mask"));
  assert_int_equal(exp_points(&e, &p, &n, err, sizeof err), 0);
  unlink(file);
  assert_int_equal(n, 2 * 2 * 2 * 3);
  for (size_t i = 0; i < n; i++)
    assert_true(p[i].seqlen == 17 || p[i].seqlen == 129);
  free(p);
}

static void faults_are_sentences(void **state) {
  expect_fault(SMALL "lenght = 3\n", "unknown setting 'lenght'; the settings are mask kernel");
  expect_fault(SMALL "seqlen = many\n", "seqlen = 'many': expected a whole number");
  expect_fault(SMALL "seqlen = 0\n", "at least 1");
  expect_fault(SMALL "mask = circle\n", "unknown mask 'circle'; the masks are full");
  expect_fault(SMALL "kernel = fa9\n", "unknown kernel 'fa9'; the kernels are naive");
  expect_fault(SMALL "heads = 8:3\n", "expected query heads:KV heads");
  expect_fault(SMALL "heads = 8\n", "expected query heads:KV heads");
  expect_fault(SMALL "pass = sideways\n", "expected fwd, bwd or bwd_det");
  expect_fault(SMALL "ratio = 1.5\n", "at most 1");
  expect_fault(SMALL "seqlen =\n", "does not say which seqlen");
  expect_fault(SMALL "except = kernel=naive\n", "lacks its reason");
  expect_fault(SMALL "except = kernels=naive : slow\n", "unknown column 'kernels'");
  expect_fault("[axes]\nmask = full\nkernel = fa2\nseqlen = 1\n", "has no section [cpu]");
  expect_fault("[axes]\nmask full\n", "line 2");
  expect_fault("[experiment]\nname = x\n[cpu]\nseqlen = 1\n", "unknown key 'name'");
  assert_int_equal(exp_load(&e, "fig999", "cpu", err, sizeof err), -1);
  assert_non_null(strstr(err, "no experiment 'fig999'"));
  assert_non_null(strstr(err, "fig3"));
  assert_int_equal(exp_load(&e, "fig3", "huge", err, sizeof err), -1);
  assert_non_null(strstr(err, "the profiles are [paper]"));
}

// ---- points ---------------------------------------------------------------------------------

static void draws_come_outermost_and_kernels_stand_together(void **state) {
  size_t n, m;
  const char text[] =
      "[axes]\nmask = full causal_document\nkernel = naive sdpa fa2 flex flashmask\n"
      "seqlen = 128 256\n[cpu]\ndraws = 1\ndraws_docs = 3\n";
  struct point *p = points_of(text, "cpu", &n), *again = points_of(text, "cpu", &m);
  assert_int_equal(n, 5 * 2 * 2 * (1 + 3)); // kernels, lengths, passes, draws of both masks
  assert_int_equal(m, n);
  bool shuffled = false;
  for (size_t i = 0; i < n; i += 5)
    for (size_t k = 0; k < 5; k++) {
      assert_string_equal(p[i + k].kernel, again[i + k].kernel); // seeded
      assert_true(p[i + k].mask == p[i].mask && p[i + k].seqlen == p[i].seqlen &&
                  p[i + k].pass == p[i].pass && p[i + k].draw == p[i].draw);
      for (size_t j = 0; j < k; j++)
        assert_string_not_equal(p[i + k].kernel, p[i + j].kernel);
      shuffled = shuffled || strcmp(p[i + k].kernel, p[k].kernel) != 0;
      assert_true(i == 0 || p[i].draw >= p[i - 1].draw);
    }
  assert_true(shuffled);
  free(p);
  free(again);
}

static void except_leaves_out_with_its_reason(void **state) {
  size_t n, out = 0;
  struct point *p = points_of(SMALL "pass = fwd\nseqlen = 1K 2K\n"
                                    "except = kernel=naive seqlen>1K : quadratic: too slow\n",
                              "cpu", &n);
  for (size_t i = 0; i < n; i++)
    if (*p[i].left_out) {
      assert_string_equal(p[i].kernel, "naive");
      assert_int_equal(p[i].seqlen, 2048);
      assert_string_equal(p[i].left_out, "quadratic: too slow");
      out++;
    }
  assert_int_equal(out, 2); // two masks
  free(p);
}

static const char *key_of(const struct point *p, char key[POINT_KEY]) {
  struct row row;
  point_to_row(p, &row);
  return point_key(&row, key);
}

static void key_holds_what_matters_and_nothing_else(void **state) {
  struct point p = {.profile = "cpu",
                    .kernel = "fa2",
                    .mask = MASK_CAUSAL,
                    .heads_q = 8,
                    .heads_kv = 1,
                    .dim = 128,
                    .seqlen = 512,
                    .window = 128,
                    .block = 64,
                    .ratio = 0.5,
                    .seed = 42,
                    .exp = "fig3",
                    .limit_s = 3};
  char a[POINT_KEY], b[POINT_KEY];
  point_normalise(&p);
  assert_int_equal(p.window + p.block, 0);
  key_of(&p, a);
  struct point q = p;
  snprintf(q.exp, sizeof q.exp, "fig8");
  q.limit_s = 7;
  assert_string_equal(a, key_of(&q, b));
#define DIFFERS(field, value) \
  q = p; \
  q.field = value; \
  assert_string_not_equal(a, key_of(&q, b));
  DIFFERS(pass, ATTN_BWD)
  DIFFERS(dtype, ATTN_FP32)
  DIFFERS(place, ATTN_DEVICE)
  DIFFERS(heads_q, 16)
  DIFFERS(heads_kv, 2)
  DIFFERS(dim, 64)
  DIFFERS(seqlen, 513)
  DIFFERS(seed, 43)
  DIFFERS(draw, 1)
  DIFFERS(mask, MASK_FULL)
  DIFFERS(profile[0], 'q')
  p.pass = ATTN_BWD;
  key_of(&p, a);
  DIFFERS(deterministic, true)
  DIFFERS(kernel[2], '3')
  p.mask = MASK_UNIFORM_BLOCK_SPARSE;
  p.block = 64;
  p.ratio = 0.2;
  key_of(&p, a);
  DIFFERS(block, 128)
  DIFFERS(ratio, 0.5)
  p.mask = MASK_SLIDING_WINDOW;
  key_of(&p, a);
  DIFFERS(window, 1)
  p.mask = MASK_CAUSAL_DOCUMENT;
  point_normalise(&p);
  assert_string_equal(p.histogram, "pile");
  key_of(&p, a);
  DIFFERS(histogram[0], 'm')
}

// What a measurement adds -- documents, the drawn window and prefix -- does not change the key, and
// neither does the way through a file.
static void key_survives_measurement_and_disk(void **state) {
  char path[] = "/tmp/longca-key-XXXXXX", a[POINT_KEY], b[POINT_KEY];
  close(mkstemp(path));
  for (int kind = 0; kind < MASK_KINDS; kind++) {
    struct point p = {.profile = "cpu",
                      .kernel = "flex",
                      .mask = (enum mask_kind)kind,
                      .heads_q = 8,
                      .heads_kv = 8,
                      .dim = 64,
                      .seqlen = 777,
                      .window = 5,
                      .block = 64,
                      .ratio = 0.1,
                      .seed = 7,
                      .draw = 3};
    point_normalise(&p);
    struct row row, *rows;
    size_t n;
    point_to_row(&p, &row);
    point_key(&row, a);
    row.docs = 12;
    row.prefix = 99;
    if (kind == MASK_GLOBAL_SLIDING_WINDOW)
      row.window = 33;
    row.time_us = 1;
    struct store s;
    unlink(path);
    assert_int_equal(store_open(&s, path, err, sizeof err), 0);
    assert_int_equal(store_append(&s, &row, err, sizeof err), 0);
    store_close(&s);
    assert_int_equal(store_read(path, &rows, &n, err, sizeof err), 0);
    assert_int_equal(n, 1);
    assert_string_equal(a, point_key(&rows[0], b));
    free(rows);
  }
  unlink(path);
}

// Every experiment of the tree loads and expands in each of its profiles.
static void experiments_of_the_tree_expand(void **state) {
  static const char *const profiles[] = {"paper", "quick", "cpu", "smoke"};
  char folder[1100];
  snprintf(folder, sizeof folder, "%s/experiments", exp_root());
  DIR *dir = opendir(folder);
  assert_non_null(dir);
  int found = 0;
  for (struct dirent *d; (d = readdir(dir));) {
    const char *dot = strrchr(d->d_name, '.');
    if (!dot || strcmp(dot, ".exp") != 0)
      continue;
    found++;
    char path[1400];
    snprintf(path, sizeof path, "%s/%s", folder, d->d_name);
    for (size_t i = 0; i < 4; i++) {
      struct point *p;
      size_t n;
      if (exp_load(&e, path, profiles[i], err, sizeof err) ||
          exp_points(&e, &p, &n, err, sizeof err))
        fail_msg("%s: %s", d->d_name, err);
      assert_true(n > 0 && *e.title && *e.figures && *e.why);
      for (size_t k = 0; k < n; k++)
        assert_true(p[k].samples_min >= 6 && p[k].limit_s >= 10);
      free(p);
    }
  }
  closedir(dir);
  assert_true(found >= 13);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(conditions),
      cmocka_unit_test(bad_conditions_say_why),
      cmocka_unit_test(profile_goes_over_axes),
      cmocka_unit_test(passes_by_name),
      cmocka_unit_test(command_line_goes_over_all),
      cmocka_unit_test(faults_are_sentences),
      cmocka_unit_test(draws_come_outermost_and_kernels_stand_together),
      cmocka_unit_test(except_leaves_out_with_its_reason),
      cmocka_unit_test(key_holds_what_matters_and_nothing_else),
      cmocka_unit_test(key_survives_measurement_and_disk),
      cmocka_unit_test(experiments_of_the_tree_expand),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
