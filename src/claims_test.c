// claims_test.c -- every test of the grammar on rows whose verdict is known, and the claims themselves.
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

#include "claims.h"

static struct row make_row(const char *kernel, const char *pass, double seqlen, double rate) {
  struct row r;
  row_clear(&r);
  snprintf(r.profile, sizeof r.profile, "paper");
  snprintf(r.machine, sizeof r.machine, "m");
  snprintf(r.kernel, sizeof r.kernel, "%s", kernel);
  snprintf(r.mask, sizeof r.mask, "full");
  snprintf(r.engine, sizeof r.engine, "wgmma");
  snprintf(r.pass, sizeof r.pass, "%s", pass);
  snprintf(r.status, sizeof r.status, isnan(rate) ? "oom" : "ok");
  r.seqlen = seqlen;
  r.heads_q = r.heads_kv = 64;
  r.draw = 0;
  r.tflop_s = rate;
  r.peak_mem_bytes = isnan(rate) ? NAN : seqlen * seqlen;
  return r;
}

// One claim from the fields between id and sentence, written with | for tabs.
static struct claim make_claim(const char *fields) {
  char path[] = "/tmp/claims_test.XXXXXX", err[1024] = "";
  const int fd = mkstemp(path);
  assert_true(fd >= 0);
  FILE *f = fdopen(fd, "w");
  fputs("# comment\nid\tneeds\n\nC1\t", f);
  for (const char *s = fields; *s; s++)
    fputc(*s == '|' ? '\t' : *s, f);
  fputs("\tA sentence.\n", f);
  fclose(f);
  struct claim *all = NULL;
  size_t n = 0;
  // The header is known by its first field, whatever follows.
  const int status = claims_load(path, &all, &n, err, sizeof err);
  unlink(path);
  if (status)
    fail_msg("%s", err);
  assert_int_equal(n, 1);
  const struct claim c = all[0];
  free(all);
  return c;
}

static void expect(const char *fields, const struct row *rows, size_t n, enum claim_verdict verdict,
                   double value) {
  const struct claim c = make_claim(fields);
  const struct claim_result r = claim_check(&c, rows, n);
  if (r.verdict != verdict || !(isnan(value) ? isnan(r.value) : fabs(r.value - value) <= 1e-9))
    fail_msg("%s: %s, %g (n = %d; %s); expected %s, %g", fields, claim_verdict_name(r.verdict),
             r.value, r.n, r.at, claim_verdict_name(verdict), value);
}

static void ratios_pair_points_that_agree(void **state) {
  const struct row rows[] = {make_row("fa3", "fwd", 1024, 6), make_row("fa2", "fwd", 1024, 3),
                             make_row("fa3", "fwd", 2048, 8), make_row("fa2", "fwd", 2048, 2),
                             make_row("fa3", "bwd", 2048, 1), make_row("fa2", "bwd", 4096, 9)};
  const size_t n = sizeof rows / sizeof *rows;
  expect("gpu|x|ratio|tflop_s|kernel=fa3|kernel=fa2|-|min|1..|2", rows, n, CLAIM_HOLDS, 2);
  expect("gpu|x|ratio|tflop_s|kernel=fa3|kernel=fa2|-|max|..3.5|2", rows, n, CLAIM_FAILS, 4);
  expect("gpu|x|ratio|tflop_s|kernel=fa3|kernel=fa2|-|median|3..3|2", rows, n, CLAIM_HOLDS, 3);
  expect("gpu|x|ratio|tflop_s|kernel=fa3|kernel=fa2|-|wins|1..1|2", rows, n, CLAIM_HOLDS, 1);
  expect("gpu|x|ratio|tflop_s|kernel=fa3|kernel=fa2|seqlen>=2K|min|4..4|1", rows, n, CLAIM_HOLDS,
         4);
  expect("gpu|x|ratio|tflop_s|kernel=fa3|kernel=fa2|-|min|1..|3", rows, n, CLAIM_NOT_MEASURED, NAN);
  expect("gpu|x|ratio|tflop_s|pass=bwd|pass=fwd|-|min|..1|1", rows, n, CLAIM_HOLDS, 1.0 / 8);
  expect("gpu|x|ratio|tflop_s|seqlen=2K|seqlen=1K|kernel=fa3|min|1..|1", rows, n, CLAIM_HOLDS,
         8.0 / 6);
}

static void other_tests_give_their_values(void **state) {
  struct row rows[] = {make_row("naive", "fwd", 1024, 4), make_row("naive", "fwd", 2048, 5),
                       make_row("naive", "fwd", 4096, 8), make_row("naive", "fwd", 8192, NAN)};
  expect("gpu|x|vary|tflop_s|kernel=naive|seqlen|-|max|..2|1", rows, 4, CLAIM_HOLDS, 2);
  expect("gpu|x|slope|peak_mem_bytes|kernel=naive|seqlen|-|min|1.9..|1", rows, 4, CLAIM_HOLDS, 2);
  expect("gpu|x|reach|-|kernel=naive|seqlen|-|max|..4096|1", rows, 4, CLAIM_HOLDS, 4096);
  // Where nothing longer was tried in vain, how far it reaches is not known.
  expect("gpu|x|reach|-|kernel=naive|seqlen|-|max|..4096|1", rows, 3, CLAIM_NOT_MEASURED, NAN);
  // ... unless it reaches too far already.
  expect("gpu|x|reach|-|kernel=naive|seqlen|-|max|..2048|1", rows, 3, CLAIM_FAILS, 4096);
}

static void shares_and_spreads(void **state) {
  struct row rows[] = {make_row("naive", "fwd", 1024, 4), make_row("naive", "fwd", 1024, 5),
                       make_row("naive", "fwd", 1024, 8), make_row("naive", "fwd", 8192, NAN)};
  rows[1].draw = 1;
  rows[2].draw = 2;
  expect("gpu|x|share|oom|kernel=naive|-|-|min|0..0|2", rows, 4, CLAIM_HOLDS, 0);
  expect("gpu|x|share|oom|kernel=naive|-|seqlen=8K|min|1..1|1", rows, 4, CLAIM_HOLDS, 1);
  expect("gpu|x|spread|tflop_s|kernel=naive|-|-|median|0.5..|1", rows, 4, CLAIM_HOLDS, 4.0 / 5);
  expect("gpu|x|value|tflop_s|kernel=naive|-|-|max|..4|1", rows, 4, CLAIM_FAILS, 5);
}

static void a_cpu_is_no_evidence_about_gpus(void **state) {
  struct row rows[] = {make_row("fa3", "fwd", 1024, 6), make_row("fa2", "fwd", 1024, 3),
                       make_row("flex", "fwd", 1024, 1)};
  static const char *const gpu = "gpu|x|ratio|tflop_s|kernel=fa3|kernel=fa2|-|min|1..|1";
  expect(gpu, rows, 3, CLAIM_HOLDS, 2);
  for (int i = 0; i < 2; i++)
    snprintf(rows[i].engine, sizeof rows[i].engine, "cpu");
  expect(gpu, rows, 3, CLAIM_NOT_MEASURED, NAN); // host rows beside a device row
  expect(gpu, rows, 2, CLAIM_NOT_MEASURED, NAN);
  expect("any|x|ratio|tflop_s|kernel=fa3|kernel=fa2|-|min|1..|1", rows, 2, CLAIM_HOLDS, 2);
  // What a host says is unsupported is no evidence either, with or without an engine's name.
  for (int i = 0; i < 2; i++) {
    snprintf(rows[i].status, sizeof rows[i].status, "unsupported");
    rows[i].tflop_s = NAN;
    snprintf(rows[i].engine, sizeof rows[i].engine, "%s", i ? "cpu" : "");
  }
  expect("gpu|x|share|unsupported|kernel=fa3,fa2|-|-|min|1..1|1", rows, 2, CLAIM_NOT_MEASURED, NAN);
  expect("any|x|share|unsupported|kernel=fa3,fa2|-|-|min|1..1|2", rows, 2, CLAIM_HOLDS, 1);
}

static void single_and_parallel_rows_are_kept_apart(void **state) {
  struct row rows[] = {make_row("fa3", "fwd", 1024, 6), make_row("fa3", "fwd", 1024, 3)};
  snprintf(rows[1].cp, sizeof rows[1].cp, "ulysses");
  rows[1].ranks = 8;
  expect("gpu|x|value|tflop_s|kernel=fa3|-|-|max|..6|1", rows, 2, CLAIM_HOLDS, 6);
  expect("gpu|x|value|tflop_s|kernel=fa3|-|-|min|6..|1", rows, 2, CLAIM_HOLDS, 6);
  expect("gpus|x|value|tflop_s|cp=ulysses|-|-|max|..3|1", rows, 2, CLAIM_HOLDS, 3);
  expect("gpus|x|value|tflop_s|pass=fwd|-|cp=ulysses|max|..3|1", rows, 2, CLAIM_HOLDS, 3);
  rows[1].ranks = 1;
  expect("gpus|x|value|tflop_s|cp=ulysses|-|-|max|..3|1", rows, 2, CLAIM_NOT_MEASURED, NAN);
}

// At so many tokens a rank the length grows with the ranks; of one length, it does not.
static void ranks_are_compared_at_equal_tokens(void **state) {
  struct row rows[] = {make_row("fa3", "fwd", 2048, 6), make_row("fa3", "fwd", 4096, 3),
                       make_row("fa3", "fwd", 4096, 1)};
  for (int i = 0; i < 3; i++) {
    snprintf(rows[i].cp, sizeof rows[i].cp, "ring_p2p");
    rows[i].ranks = i == 1 ? 4 : 2;
  }
  expect("gpus|x|vary|tflop_s|cp=ring_p2p tokens=1K|ranks|-|max|..2|1", rows, 3, CLAIM_HOLDS, 2);
  expect("gpus|x|vary|tflop_s|cp=ring_p2p|ranks|-|max|3..|1", rows, 3, CLAIM_HOLDS, 3);
}

static void bad_lines_are_told_by_number(void **state) {
  static const char *const lines[] = {
      "C1\tgpu\tx\tratio\ttflop_s\tkernel=fa3\tkernel=fa2\t-\tmin\t1\t1\ts\n",    // bound
      "C1\tgpu\tx\tratio\ttflop_s\tkernel=fa3\tkernel=fa2\t-\tmin\t..\t1\ts\n",   // no bound at all
      "C1\tgpu\tx\tratio\ttflop_s\tkernel=fa3\t-\t-\tmin\t1..\t1\ts\n",           // against whom
      "C1\tgpu\tx\tratio\tspeed\tkernel=fa3\tkernel=fa2\t-\tmin\t1..\t1\ts\n",    // quantity
      "C1\tgpu\tx\tratio\ttflop_s\tkernel=fa8\tkernel=fa2\t-\tmin\t1..\t1\ts\n",  // kernel
      "C1\tmoon\tx\tratio\ttflop_s\tkernel=fa3\tkernel=fa2\t-\tmin\t1..\t1\ts\n", // place
      "C1\tgpu\tx\tratio\ttflop_s\tkernel=fa3\tkernel=fa2\t-\tmean\t1..\t1\ts\n", // reduce
      "C1\tgpu\tx\tratio\ttflop_s\tkernel=fa3\tkernel=fa2\t-\tmin\t1..\t0\ts\n",  // least
      "C1\tgpu\tx\tslope\ttflop_s\tkernel=fa3\tkernel=fa2\t-\tmin\t1..\t1\ts\n",  // column
      "C1\tgpu\tx\tratio\ttflop_s\tkernel=fa3\tkernel=fa2\t-\tmin\t1..\n",        // fields
  };
  for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
    char path[] = "/tmp/claims_test.XXXXXX", err[2048] = "";
    const int fd = mkstemp(path);
    FILE *f = fdopen(fd, "w");
    fprintf(f, "# comment\n%s", lines[i]);
    fclose(f);
    struct claim *all = NULL;
    size_t n = 0;
    const int status = claims_load(path, &all, &n, err, sizeof err);
    unlink(path);
    free(all);
    if (status != -1 || !strstr(err, "line 2"))
      fail_msg("line %zu was taken (\"%s\")", i, err);
  }
}

// The tree's own file: all 26 claims, in order, each with a relation that rows could refute.
static void the_claims_are_complete(void **state) {
  struct claim *c = NULL;
  size_t n = 0;
  char err[2048] = "";
  if (access("experiments/claims.tsv", R_OK))
    skip(); // not run from the root of the tree
  if (claims_load("experiments/claims.tsv", &c, &n, err, sizeof err))
    fail_msg("%s", err);
  int id = 0;
  for (size_t i = 0; i < n; i++) {
    const int this_id = atoi(c[i].id + 1);
    assert_true(c[i].id[0] == 'C' && (this_id == id || this_id == id + 1));
    id = this_id;
    assert_true(strlen(c[i].sentence) > 20);
    assert_true(claim_check(&c[i], NULL, 0).verdict == CLAIM_NOT_MEASURED);
  }
  assert_int_equal(id, 26);
  free(c);
}

static void verdicts_join(void **state) {
  assert_int_equal(claim_join(CLAIM_HOLDS, CLAIM_HOLDS), CLAIM_HOLDS);
  assert_int_equal(claim_join(CLAIM_HOLDS, CLAIM_NOT_MEASURED), CLAIM_NOT_MEASURED);
  assert_int_equal(claim_join(CLAIM_NOT_MEASURED, CLAIM_FAILS), CLAIM_FAILS);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(ratios_pair_points_that_agree),
      cmocka_unit_test(other_tests_give_their_values),
      cmocka_unit_test(shares_and_spreads),
      cmocka_unit_test(a_cpu_is_no_evidence_about_gpus),
      cmocka_unit_test(single_and_parallel_rows_are_kept_apart),
      cmocka_unit_test(ranks_are_compared_at_equal_tokens),
      cmocka_unit_test(bad_lines_are_told_by_number),
      cmocka_unit_test(the_claims_are_complete),
      cmocka_unit_test(verdicts_join),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
