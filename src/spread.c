// spread.c -- labels the points along both axes, sorts the labels, fills the cells.
#include "spread.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LABEL = 200 };

int spread_parse_axis(struct spread_axis *a, char *text, char *err, size_t err_size) {
  char *save = NULL;
  for (char *name = strtok_r(text, ",", &save); name; name = strtok_r(NULL, ",", &save)) {
    if (a->n == SPREAD_KEYS || !filter_is_column(name)) {
      snprintf(err, err_size,
               a->n == SPREAD_KEYS ? "'%s': an axis has at most six columns"
                                   : "unknown column '%s'; `longca show --columns help` lists them",
               name);
      return -1;
    }
    snprintf(a->column[a->n++], FILTER_TEXT, "%s", name);
  }
  return 0;
}

static const struct spread_axis *sort_axis; // qsort has no context

struct label {
  const struct row *row;
  char text[LABEL];
};

static int by_axis(const void *a, const void *b) {
  const struct label *x = a, *y = b;
  char p[ROW_REASON], q[ROW_REASON];
  for (int i = 0; i < sort_axis->n; i++) {
    const char *column = sort_axis->column[i];
    filter_text(x->row, column, p, sizeof p);
    filter_text(y->row, column, q, sizeof q);
    if (!strcmp(p, q))
      continue;
    if (!strcmp(column, "machine") || !strcmp(column, "profile"))
      return x->row < y->row ? -1 : 1;
    const int d = filter_order(column, p, q);
    if (d)
      return d;
  }
  return 0;
}

static void label_point(struct label *l, const struct spread_axis *a, const struct row *row) {
  char value[ROW_REASON];
  size_t at = 0;
  l->row = row;
  l->text[0] = 0;
  for (int i = 0; i < a->n; i++)
    at += (size_t)snprintf(l->text + at, sizeof l->text - at, "%s%.60s", i ? "\t" : "",
                           filter_text(row, a->column[i], value, sizeof value));
}

// Distinct labels in order; returns how many.
static size_t distinct(struct label *l, size_t n, const struct spread_axis *a) {
  sort_axis = a;
  qsort(l, n, sizeof *l, by_axis);
  size_t m = 0;
  for (size_t i = 0; i < n; i++) {
    size_t j = 0;
    while (j < m && strcmp(l[j].text, l[i].text) != 0)
      j++;
    if (j == m)
      l[m++] = l[i];
  }
  return m;
}

static void add_cell(struct table *t, const struct measured *p) {
  if (!p)
    table_add(t, "%s", "");
  else if (!isnan(p->y))
    table_add(t, fabs(p->y) < 1e5 ? "%.5g" : "%.0f", p->y);
  else if (!strcmp(p->row->status, "oom"))
    table_add(t, "OOM");
  else if (!strcmp(p->row->status, "unsupported"))
    table_add(t, "\u2013");
  else
    table_add(t, "%s", p->row->status);
}

int spread_print(const struct row *rows, size_t n, const struct spread_axis *down,
                 const struct spread_axis *across, const struct quantity *q,
                 enum table_format format, const char *caption) {
  const struct filter all = {.n = 0};
  struct measured *p = NULL;
  size_t m = 0;
  struct label *l = NULL, *head = NULL, *own = NULL;
  if (!select_points(rows, n, &all, q, &p, &m)) {
    l = calloc(m + 1, sizeof *l);
    head = calloc(m + 1, sizeof *head);
    own = calloc(2 * m + 1, sizeof *own);
  }
  if (!l || !head || !own) {
    fputs("longca show: out of memory\n", stderr);
    free(l);
    free(head);
    free(own);
    free(p);
    return 1;
  }
  for (size_t i = 0; i < m; i++) {
    label_point(&own[2 * i], down, p[i].row);
    label_point(&own[2 * i + 1], across, p[i].row);
    l[i] = own[2 * i];
    head[i] = own[2 * i + 1];
  }
  const size_t n_rows = distinct(l, m, down), n_columns = distinct(head, m, across);
  struct table t = table_new(down->n + (int)n_columns);
  t.caption = caption;
  for (int c = 0; c < down->n; c++)
    table_add(&t, "%s", down->column[c]);
  for (size_t c = 0; c < n_columns; c++) {
    char text[LABEL];
    snprintf(text, sizeof text, "%s", head[c].text);
    for (char *s = text; *s; s++)
      *s = *s == '\t' ? '\n' : *s;
    table_add(&t, "%s", text);
  }
  for (size_t r = 0; r < n_rows; r++) {
    char value[ROW_REASON];
    for (int c = 0; c < down->n; c++) {
      filter_text(l[r].row, down->column[c], value, sizeof value);
      const double x = l[r].row->seqlen;
      if (!strcmp(down->column[c], "seqlen") && x >= 1024 && fmod(x, 1024) == 0)
        table_add(&t, "%.0fK", x / 1024);
      else
        table_add(&t, "%s", value);
    }
    for (size_t c = 0; c < n_columns; c++) {
      const struct measured *found = NULL;
      for (size_t i = 0; i < m; i++)
        if (!strcmp(own[2 * i].text, l[r].text) && !strcmp(own[2 * i + 1].text, head[c].text) &&
            (!found || isnan(found->y)))
          found = &p[i];
      add_cell(&t, found);
    }
  }
  table_print(&t, format, stdout);
  table_free(&t);
  free(l);
  free(head);
  free(own);
  free(p);
  return 0;
}
