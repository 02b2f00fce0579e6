// blocks.c -- points into panels, series and rows of a block file; what they lack goes into its head.
#include "blocks.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NAME = 160 };

// A point with its names: where it is drawn.
struct place {
  char panel[NAME], series[FILTER_TEXT], x[FILTER_TEXT];
  const struct measured *point;
};

static const struct blocks *sort_request; // qsort has no context

static int compare_panels(const char *a, const char *b) {
  char x[NAME], y[NAME], *save_x, *save_y;
  snprintf(x, sizeof x, "%s", a);
  snprintf(y, sizeof y, "%s", b);
  const char *p = strtok_r(x, "/", &save_x), *q = strtok_r(y, "/", &save_y);
  for (int i = 0; p && q && i < sort_request->n_panel; i++) {
    const int d = filter_order(sort_request->panel[i], p, q);
    if (d)
      return d;
    p = strtok_r(NULL, "/", &save_x);
    q = strtok_r(NULL, "/", &save_y);
  }
  return strcmp(a, b);
}

static int by_place(const void *a, const void *b) {
  const struct place *p = a, *q = b;
  int d = compare_panels(p->panel, q->panel);
  d = d ? d : filter_order(sort_request->series, p->series, q->series);
  return d ? d : filter_order(sort_request->x, p->x, q->x);
}

static void name_place(struct place *p, const struct blocks *r) {
  char value[ROW_REASON];
  size_t at = 0;
  for (int i = 0; i < r->n_panel; i++)
    at += (size_t)snprintf(p->panel + at, sizeof p->panel - at, "%s%.30s", i ? "/" : "",
                           filter_text(p->point->row, r->panel[i], value, sizeof value));
  if (!r->n_panel)
    snprintf(p->panel, sizeof p->panel, "all");
  snprintf(p->series, sizeof p->series, "%.40s",
           filter_text(p->point->row, r->series, value, sizeof value));
  snprintf(p->x, sizeof p->x, "%.40s", filter_text(p->point->row, r->x, value, sizeof value));
}

// A sorted set of words: the values of one column.
struct names {
  char text[64][NAME];
  int n;
};

static void names_add(struct names *s, const char *column, const char *text) {
  int i = 0, d = 1;
  while (i < s->n && (d = *column == '/' ? compare_panels(s->text[i], text)
                                         : filter_order(column, s->text[i], text)) < 0)
    i++;
  if (!*text || !d || s->n == 64)
    return;
  memmove(s->text[i + 1], s->text[i], (size_t)(s->n++ - i) * NAME);
  snprintf(s->text[i], NAME, "%s", text);
}

// "#key a b c": the values that a column has ("/": the panels); of times only the days.
static void print_values(const char *key, const struct place *places, size_t n,
                         const char *column) {
  struct names names = {.n = 0};
  char value[ROW_REASON];
  for (size_t i = 0; i < n; i++) {
    const char *text = *column == '/'
                           ? places[i].panel
                           : filter_text(places[i].point->row, column, value, sizeof value);
    if (!strcmp(column, "utc"))
      value[10] = 0;
    names_add(&names, column, text);
  }
  printf("#%s", key);
  for (int i = 0; i < names.n; i++)
    printf(" %s", names.text[i]);
  putchar('\n');
}

// Kernels are labelled with what they are made of: "fa2 (band)".
static void print_labels(const struct place *places, size_t n, const char *series) {
  for (size_t i = 0; i < n; i++) {
    size_t first = 0, made = i;
    while (strcmp(places[first].series, places[i].series) != 0)
      first++;
    if (first < i)
      continue;
    for (size_t j = i; j < n && !*places[made].point->row->rep; j++)
      if (!strcmp(places[j].series, places[i].series))
        made = j;
    const struct row *row = places[made].point->row;
    const bool known = !strcmp(series, "kernel") && *row->rep && strcmp(row->rep, "none") != 0;
    printf("#label %s %s", places[i].series, places[i].series);
    printf(known ? " (%s)\n" : "\n", row->rep);
  }
}

static void print_blocks(const struct place *places, size_t n, const char *x_column) {
  const struct row_column *c = row_find_column(x_column);
  const bool x_text = !c || c->text;
  struct names names = {.n = 0};
  for (size_t i = 0; x_text && i < n; i++)
    names_add(&names, x_column, places[i].x);
  for (size_t i = 0; i < n; i++) {
    const struct place *p = &places[i];
    if (!i || strcmp(p->panel, p[-1].panel) != 0 || strcmp(p->series, p[-1].series) != 0)
      printf("\n\n# %s %s |\n", p->panel, p->series);
    int at = 0;
    while (at < names.n && strcmp(names.text[at], p->x) != 0)
      at++;
    if (x_text)
      printf("%d", at + 1);
    else
      printf("%s", p->x);
    printf(" %.6g %.6g %.6g %s %d/%d", p->point->y, p->point->low, p->point->high,
           p->point->row->status, p->point->ok, p->point->draws);
    printf(x_text ? " %s\n" : "\n", p->x);
  }
}

// What a panel holds: "#shape" its heads and type, "#drawn" the series with a value, "#unsupported"
// and "#failed" those without any, and a "#reason" for each series that lacks points.
static void print_panels(const struct place *places, size_t n) {
  static const char *const lists[] = {"drawn", "unsupported", "failed"};
  for (size_t i = 0, end; i < n; i = end) {
    const char *panel = places[i].panel;
    const struct row *r = places[i].point->row;
    for (end = i; end < n && !strcmp(places[end].panel, panel); end++) {
    }
    printf("#shape %s %g:%g heads, d %g, %s\n", panel, r->heads_q, r->heads_kv, r->dim, r->dtype);
    for (int list = 0; list < 3; list++) {
      printf("#%s %s", lists[list], panel);
      for (size_t j = i, k; j < end; j = k) {
        int kind = 1; // of the lists
        for (k = j; k < end && !strcmp(places[j].series, places[k].series); k++)
          if (!isnan(places[k].point->y))
            kind = 0;
          else if (kind && strcmp(places[k].point->row->status, "unsupported") != 0)
            kind = 2;
        if (kind == list)
          printf(" %s", places[j].series);
      }
      putchar('\n');
    }
    for (size_t j = i; j < end; j++)
      if (*places[j].point->row->reason &&
          (j + 1 == end || strcmp(places[j].series, places[j + 1].series) != 0))
        printf("#reason %s %s %s: %s\n", panel, places[j].series, places[j].point->row->status,
               places[j].point->row->reason);
  }
}

static size_t same_heads(const struct place *places, size_t n, const struct place *p) {
  size_t count = 0;
  for (size_t i = 0; i < n; i++)
    count += !strcmp(places[i].panel, p->panel) &&
             places[i].point->row->heads_q == p->point->row->heads_q &&
             places[i].point->row->heads_kv == p->point->row->heads_kv;
  return count;
}

// A panel shows one number of heads: the one with the most points, the larger if several. (Tables and
// figures that share a file of rows measure other numbers, too.) Returns how many places are left.
static size_t keep_one_shape(struct place *places, size_t n) {
  bool *drop = calloc(n + 1, sizeof *drop);
  size_t kept = 0;
  for (size_t i = 0; drop && i < n; i++)
    for (size_t j = 0; j < n && !drop[i]; j++) {
      const struct row *a = places[i].point->row, *b = places[j].point->row;
      if (strcmp(places[i].panel, places[j].panel) != 0 ||
          (a->heads_q == b->heads_q && a->heads_kv == b->heads_kv))
        continue;
      const size_t mine = same_heads(places, n, &places[i]),
                   theirs = same_heads(places, n, &places[j]);
      drop[i] = theirs > mine ||
                (theirs == mine && b->heads_q * 1e6 + b->heads_kv > a->heads_q * 1e6 + a->heads_kv);
    }
  for (size_t i = 0; drop && i < n; i++)
    if (!drop[i])
      places[kept++] = places[i];
  free(drop);
  return kept;
}

static double smallest(const struct place *places, size_t n) {
  double low = INFINITY;
  for (size_t i = 0; i < n; i++)
    low = fmin(low, places[i].point->y); // fmin passes over NaN
  return low;
}

int blocks_print(const struct row *rows, size_t n, const struct blocks *r) {
  struct measured *points = NULL;
  const struct filter all = {.n = 0};
  size_t m = 0, ok = 0;
  if (select_points(rows, n, &all, &r->y, &points, &m)) {
    fputs("longca select: out of memory\n", stderr);
    return 1;
  }
  struct place *places = calloc(m + 1, sizeof *places);
  for (size_t i = 0; places && i < m; i++) {
    places[i].point = &points[i];
    name_place(&places[i], r);
    ok += !isnan(points[i].y);
  }
  const size_t matched = m;
  m = places ? keep_one_shape(places, m) : 0;
  if (places && ok) {
    sort_request = r;
    qsort(places, m, sizeof *places, by_place);
    static const char *const keys[] = {"machine", "profile", "commit",   "utc", "mask",
                                       "seqlen",  "heads_q", "heads_kv", "dim", "dtype",
                                       "block",   "ratio",   NULL};
    printf("#y %s\n#x %s\n", r->y.column, r->x);
    printf("#low %.6g\n", smallest(places, m));
    puts("#bars 95 % interval of the median by exact ranks; over several draws, their range");
    for (int i = 0; keys[i]; i++)
      print_values(keys[i], places, m, keys[i]);
    print_values("panels", places, m, "/");
    print_values("series", places, m, r->series);
    print_values("xnames", places, m, r->x);
    print_labels(places, m, r->series);
    print_panels(places, m);
    print_blocks(places, m, r->x);
  } else if (matched) {
    fprintf(stderr, "longca select: %zu points match, but none has a value (%s: %s)\n", matched,
            points[0].row->status, points[0].row->reason);
  } else {
    fputs("longca select: no row matches; `longca run` measures what is missing\n", stderr);
  }
  free(places);
  free(points);
  return ok ? 0 : 1;
}
