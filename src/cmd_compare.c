// cmd_compare.c -- `longca compare A B`: is B faster than A, point by point, as far as can be known?
//
// Draws are compared one by one, by the 95 % intervals of their medians (stats.h): FASTER and SLOWER
// need disjoint intervals, SAME needs both inside the tolerance, anything else is UNCLEAR.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cmd.h"
#include "select.h"
#include "stats.h"
#include "table.h"

static void usage(FILE *out) {
  fprintf(
      out,
      "usage: longca compare A.csv B.csv [--where FILTER]... [--tolerance PERCENT] [--format F]\n\n"
      "Says of every point in both files whether B is FASTER or SLOWER than A, the SAME within "
      "the\n"
      "tolerance (2 %%), or UNCLEAR. Exit code 1 when a point is SLOWER. --format: %s\n",
      table_formats());
}

static int bad(const char *message) { return cmd_refuse("compare", "%s", message); }

// The same point on another machine or in another profile.
static bool same_point(const struct row *a, const struct row *b) {
  if (strcmp(a->kernel, b->kernel) != 0 || strcmp(a->mask, b->mask) != 0 || a->seqlen != b->seqlen)
    return false; // nearly always, and cheap
  char x[ROW_REASON], y[ROW_REASON];
  for (int i = 0; select_key[i]; i++)
    if (strcmp(select_key[i], "machine") != 0 && strcmp(select_key[i], "profile") != 0 &&
        strcmp(filter_text(a, select_key[i], x, sizeof x),
               filter_text(b, select_key[i], y, sizeof y)) != 0)
      return false;
  return !strcmp(filter_text(a, "draw", x, sizeof x), filter_text(b, "draw", y, sizeof y)) &&
         !strcmp(filter_text(a, "place", x, sizeof x), filter_text(b, "place", y, sizeof y));
}

static void add_time(struct table *t, const struct row *r) {
  if (strcmp(r->status, "ok") != 0)
    table_add(t, "%s", r->status);
  else if (isnan(r->time_us_low))
    table_add(t, "%.4g", r->time_us);
  else
    table_add(t, "%.4g [%.4g, %.4g]", r->time_us, r->time_us_low, r->time_us_high);
}

static void compare(const struct row *a, size_t na, const struct row *b, size_t nb,
                    const struct filter *where, double tolerance, struct table *t, int tally[5]) {
  for (size_t i = 0; i < na; i++) {
    const struct row *p = &a[i], *q = NULL;
    if (!filter_match(where, p))
      continue;
    for (size_t j = 0; j < nb; j++)
      if (same_point(p, &b[j]))
        q = &b[j];
    if (!q) {
      tally[4]++;
      continue;
    }
    const bool ok = !strcmp(p->status, "ok") && !strcmp(q->status, "ok");
    if (!ok && !strcmp(p->status, q->status))
      continue;
    const struct stats_time x = {p->time_us, p->time_us_low, p->time_us_high};
    const struct stats_time y = {q->time_us, q->time_us_low, q->time_us_high};
    const enum stats_verdict v = ok ? stats_compare(y, x, tolerance) : STATS_UNCLEAR;
    tally[v]++;
    table_add(t, "%s", p->mask);
    table_add(t, "%s", p->kernel);
    table_add(t, "%s", p->pass);
    table_add(t, "%g:%g", p->heads_q, p->heads_kv);
    table_add(t, "%g", p->seqlen);
    char draw[ROW_REASON];
    table_add(t, "%s", filter_text(p, "draw", draw, sizeof draw));
    add_time(t, p);
    add_time(t, q);
    if (ok)
      table_add(t, "%.3f", p->time_us / q->time_us);
    else
      table_add(t, "%s", "");
    table_add(t, "%s", stats_verdict_name(v));
  }
}

int cmd_compare(int argc, char **argv) {
  static const struct option options[] = {{"where", required_argument, NULL, 'w'},
                                          {"tolerance", required_argument, NULL, 't'},
                                          {"format", required_argument, NULL, 'f'},
                                          {"help", no_argument, NULL, 'h'},
                                          {0}};
  char err[1024];
  struct filter where = {.n = 0};
  double tolerance = 2;
  enum table_format format = TABLE_TEXT;
  optind = 0;
  for (int c; (c = cmd_option(argc, argv, options)) != -1;) {
    char *end = "";
    if (c == 'h') {
      usage(stdout);
      return 0;
    }
    if (c == '?')
      return 2;
    if (c == 'w' && filter_add(&where, optarg, err, sizeof err))
      return bad(err);
    if (c == 't')
      tolerance = strtod(optarg, &end);
    if (*end || !(tolerance >= 0))
      return bad("--tolerance is a percentage, such as 2");
    if (c == 'f' && cmd_format("compare", optarg, &format))
      return 2;
  }
  if (argc - optind != 2)
    return bad("two files of rows are wanted, the base first");
  struct row *a = NULL, *b = NULL;
  size_t na = 0, nb = 0;
  if (select_read(argv + optind, 1, &a, &na, err, sizeof err) ||
      select_read(argv + optind + 1, 1, &b, &nb, err, sizeof err) ||
      select_is_emulated(a, na, err, sizeof err) || select_is_emulated(b, nb, err, sizeof err)) {
    free(a);
    free(b);
    return bad(err);
  }
  struct table t = table_new(10);
  static const char *const head[] = {"mask", "kernel",     "pass",       "heads",    "seqlen",
                                     "draw", "A: time_us", "B: time_us", "A over B", "B is"};
  for (int i = 0; i < 10; i++)
    table_add(&t, "%s", head[i]);
  int tally[5] = {0, 0, 0, 0, 0};
  compare(a, na, b, nb, &where, tolerance / 100, &t, tally);
  const bool any = t.cells > 10;
  if (any)
    table_print(&t, format, stdout);
  fprintf(format == TABLE_TEXT && any ? stdout : stderr,
          "\n%d FASTER, %d SLOWER, %d SAME, %d UNCLEAR; %d points of A are not in B\n",
          tally[STATS_FASTER], tally[STATS_SLOWER], tally[STATS_SAME], tally[STATS_UNCLEAR],
          tally[4]);
  table_free(&t);
  free(a);
  free(b);
  return !any || tally[STATS_SLOWER] ? 1 : 0;
}
