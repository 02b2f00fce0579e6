// cmd_claims.c -- `longca claims`: a verdict on each claim of the paper, for each machine measured.
//
// Each file of rows (one machine, one profile) is judged by itself. A claim about GPUs is judged by
// rows of GPUs alone: the cpu profile shows that the method works, not what a GPU does.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "claims.h"
#include "cmd.h"
#include "exp.h"
#include "table.h"

static void usage(FILE *out) {
  fprintf(
      out,
      "usage: longca claims FILE... [--claims experiments/claims.tsv] [--format F] [--only ID]\n\n"
      "Prints HOLDS, FAILS or NOT MEASURED with the numbers. --format: %s\n",
      table_formats());
}

static int bad(const char *message) { return cmd_refuse("claims", "%s", message); }

static void add_number(char *buf, size_t size, const struct claim_result *r) {
  if (isnan(r->value))
    snprintf(buf, size, "%s", r->at);
  else
    snprintf(buf, size, "%.4g (n = %d%s%s)", r->value, r->n, *r->at ? "; " : "", r->at);
}

// The claims by one file, as text for people: claim, verdict, then each relation with its number.
static void print_text(const struct claim *c, size_t n, const struct row *rows, size_t n_rows,
                       const char *only, int tally[3]) {
  for (size_t i = 0, j; i < n; i = j) {
    enum claim_verdict verdict = CLAIM_HOLDS;
    for (j = i; j < n && !strcmp(c[i].id, c[j].id); j++)
      verdict = claim_join(verdict, claim_check(&c[j], rows, n_rows).verdict);
    if (only && strcmp(only, c[i].id) != 0)
      continue;
    tally[verdict]++;
    printf("%-4s %-13s %s\n", c[i].id, claim_verdict_name(verdict), c[i].sentence);
    for (j = i; j < n && !strcmp(c[i].id, c[j].id); j++) {
      const struct claim_result r = claim_check(&c[j], rows, n_rows);
      char number[300];
      add_number(number, sizeof number, &r);
      printf("       %s: %s\n", c[j].relation, number);
    }
  }
}

static void print_table(const struct claim *c, size_t n, const struct row *rows, size_t n_rows,
                        const char *only, int tally[3], enum table_format format,
                        const char *caption) {
  struct table t = table_new(6);
  t.caption = caption;
  static const char *const head[] = {"claim",        "verdict",  "the paper says",
                                     "confirmed by", "measured", "needs"};
  for (int i = 0; i < 6; i++)
    table_add(&t, "%s", head[i]);
  for (size_t i = 0, j; i < n; i = j) {
    enum claim_verdict verdict = CLAIM_HOLDS;
    for (j = i; j < n && !strcmp(c[i].id, c[j].id); j++)
      verdict = claim_join(verdict, claim_check(&c[j], rows, n_rows).verdict);
    if (only && strcmp(only, c[i].id) != 0)
      continue;
    tally[verdict]++;
    for (size_t k = i; k < j; k++) {
      const struct claim_result r = claim_check(&c[k], rows, n_rows);
      char number[300];
      add_number(number, sizeof number, &r);
      table_add(&t, "%s", k == i ? c[i].id : "");
      table_add(&t, "%s", k == i ? claim_verdict_name(verdict) : "");
      table_add(&t, "%s", k == i ? c[i].sentence : "");
      table_add(&t, "%s", c[k].relation);
      table_add(&t, "%s", number);
      table_add(&t, "%s", c[k].needs);
    }
  }
  table_print(&t, format, stdout);
  table_free(&t);
}

int cmd_claims(int argc, char **argv) {
  static const struct option options[] = {{"claims", required_argument, NULL, 'c'},
                                          {"format", required_argument, NULL, 'f'},
                                          {"only", required_argument, NULL, 'o'},
                                          {"help", no_argument, NULL, 'h'},
                                          {0}};
  char path[1200];
  const char *only = NULL;
  snprintf(path, sizeof path, "%s/experiments/claims.tsv", exp_root());
  char err[1400];
  enum table_format format = TABLE_TEXT;
  optind = 0;
  for (int c; (c = cmd_option(argc, argv, options)) != -1;) {
    if (c == 'h') {
      usage(stdout);
      return 0;
    }
    if (c == '?')
      return 2;
    if (c == 'c')
      snprintf(path, sizeof path, "%s", optarg);
    if (c == 'o')
      only = optarg;
    if (c == 'f' && cmd_format("claims", optarg, &format))
      return 2;
  }
  if (optind == argc)
    return bad("which file of rows? (data/fresh/MACHINE/PROFILE.csv)");
  struct claim *claims = NULL;
  size_t n = 0;
  if (claims_load(path, &claims, &n, err, sizeof err))
    return bad(err);
  if (!n) {
    snprintf(err, sizeof err, "%.1000s holds no claims", path);
    free(claims);
    return bad(err);
  }
  bool known = !only;
  for (size_t i = 0; i < n; i++)
    known |= only && !strcmp(only, claims[i].id);
  int status = 0;
  if (!known) {
    snprintf(err, sizeof err, "unknown claim '%.20s'; %s has %s to %s", only, path,
             n ? claims[0].id : "none", n ? claims[n - 1].id : "none");
    status = bad(err);
  }
  for (int i = optind; i < argc && !status; i++) {
    struct row *rows = NULL;
    size_t m = 0;
    if (select_read(argv + i, 1, &rows, &m, err, sizeof err) ||
        select_is_emulated(rows, m, err, sizeof err)) {
      status = bad(err);
      free(rows);
      break;
    }
    int tally[3] = {0, 0, 0};
    char caption[300];
    snprintf(caption, sizeof caption, "%.90s, profile %.40s: %zu rows of %.120s",
             m ? rows[0].machine : "?", m ? rows[0].profile : "?", m, argv[i]);
    if (format == TABLE_TEXT) {
      printf("%s%s\n\n", i > optind ? "\n" : "", caption);
      print_text(claims, n, rows, m, only, tally);
      printf("\n%d HOLDS, %d FAILS, %d NOT MEASURED\n", tally[CLAIM_HOLDS], tally[CLAIM_FAILS],
             tally[CLAIM_NOT_MEASURED]);
    } else {
      print_table(claims, n, rows, m, only, tally, format, caption);
    }
    free(rows);
  }
  free(claims);
  return status;
}
