// select.c -- the points that figures, tables and claims are made of.
//
// Draws of one point are different masks, so their spread is the subject's, not the clock's: a point
// of several draws shows the range of its draws, a point of one draw the interval of its median.
#include "select.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "filter.h"
#include "stats.h"
#include "store.h"

const char *const select_key[] = {"machine",   "profile", "mask",      "kernel",   "pass",
                                  "dtype",     "batch",   "heads_q",   "heads_kv", "dim",
                                  "seqlen",    "window",  "block",     "ratio",    "seed",
                                  "histogram", "cp",      "transport", "ranks",    NULL};

// ---- points ---------------------------------------------------------------------------------

int quantity_parse(struct quantity *q, const char *text, char *err, size_t err_size) {
  const size_t size = strcspn(text, "/");
  q->divisor = 1;
  snprintf(q->column, sizeof q->column, "%.*s", (int)size, text);
  const struct row_column *c = row_find_column(q->column);
  if (!c || c->text || size >= sizeof q->column ||
      (text[size] && (!filter_number(text + size + 1, &q->divisor) || !(q->divisor > 0)))) {
    snprintf(err, err_size,
             "'%s' is not a quantity: a column of numbers, such as time_us, tflop_s or "
             "peak_mem_bytes/1e9",
             text);
    return -1;
  }
  return 0;
}

struct keyed {
  const struct row *row;
  char *key;
};

static double draw_of(const struct row *row) { return isnan(row->draw) ? -1 : row->draw; }

static int by_key(const void *a, const void *b) {
  const struct keyed *x = a, *y = b;
  const int d = strcmp(x->key, y->key);
  if (d)
    return d;
  const double p = draw_of(x->row), q = draw_of(y->row);
  if (p != q)
    return p < q ? -1 : 1;
  return (x->row > y->row) - (x->row < y->row); // as in the file
}

// The window of GLOBAL SLIDING is drawn; everywhere else it is a setting.
static char *make_key(const struct row *row) {
  char key[2048] = "", value[ROW_REASON];
  size_t at = 0;
  for (int i = 0; select_key[i]; i++) {
    const bool drawn =
        !strcmp(select_key[i], "window") && !strcmp(row->mask, "global_sliding_window");
    const int w = snprintf(key + at, sizeof key - at, "%.90s\t",
                           drawn ? "" : filter_text(row, select_key[i], value, sizeof value));
    at += (size_t)w;
  }
  return strdup(key);
}

static void draw_value(const struct row *row, const struct quantity *q, double value[3]) {
  value[0] = value[1] = value[2] = row_number(row, q->column);
  if (!strcmp(q->column, "time_us")) {
    value[1] = row->time_us_low;
    value[2] = row->time_us_high;
  } else if (!strcmp(q->column, "tflop_s") && row->time_us_low > 0 && row->time_us_high > 0) {
    value[1] = row->tflop_s * row->time_us / row->time_us_high; // a rank's, where there are ranks
    value[2] = row->tflop_s * row->time_us / row->time_us_low;
  }
  for (int i = 0; i < 3; i++)
    value[i] /= q->divisor;
}

// The point of rows that differ in their draws alone.
static struct measured make_point(const struct keyed *k, size_t n, const struct quantity *q) {
  struct measured p = {k[n - 1].row, NAN, NAN, NAN, 0, 0};
  double *values = malloc(n * sizeof *values), one[3] = {NAN, NAN, NAN};
  const struct row *wrong = NULL, *ok = NULL;
  for (size_t i = 0; values && i < n; i++) {
    if (i + 1 < n && draw_of(k[i + 1].row) == draw_of(k[i].row))
      continue; // measured again
    p.draws++;
    if (!strcmp(k[i].row->status, "wrong"))
      wrong = k[i].row;
    if (strcmp(k[i].row->status, "ok") != 0)
      continue;
    ok = k[i].row;
    draw_value(ok, q, one);
    values[p.ok++] = one[0];
  }
  if (wrong || ok)
    p.row = wrong ? wrong : ok;
  if (!wrong && p.ok == 1) {
    p.y = one[0];
    p.low = one[1];
    p.high = one[2];
  } else if (!wrong && p.ok > 1) {
    p.y = stats_median(values, (size_t)p.ok);
    p.low = stats_quantile(values, (size_t)p.ok, 0);
    p.high = stats_quantile(values, (size_t)p.ok, 1);
  }
  free(values);
  return p;
}

int select_points(const struct row *rows, size_t n, const struct filter *f,
                  const struct quantity *q, struct measured **points, size_t *n_points) {
  struct keyed *k = calloc(n + 1, sizeof *k);
  struct measured *p = calloc(n + 1, sizeof *p);
  size_t m = 0, np = 0;
  bool short_of_memory = !k || !p;
  for (size_t i = 0; !short_of_memory && i < n; i++)
    if (filter_match(f, &rows[i])) {
      k[m].row = &rows[i];
      k[m].key = make_key(&rows[i]);
      short_of_memory = !k[m++].key;
    }
  if (!short_of_memory) {
    qsort(k, m, sizeof *k, by_key);
    for (size_t i = 0, j; i < m; i = j) {
      for (j = i + 1; j < m && !strcmp(k[i].key, k[j].key); j++) {
      }
      p[np++] = make_point(k + i, j - i, q);
    }
  }
  for (size_t i = 0; i < m; i++)
    free(k[i].key);
  free(k);
  *points = p;
  *n_points = np;
  return short_of_memory ? -1 : 0;
}

int select_prefer(struct row *rows, size_t *n, const char *wish, char *err, size_t err_size) {
  struct filter f = {.n = 0};
  if (filter_add(&f, wish, err, err_size))
    return -1;
  if (f.n != 1 || strcmp(f.terms[0].op, "=") != 0) {
    snprintf(err, err_size, "'%s' is not column=value", wish);
    return -1;
  }
  const char *column = f.terms[0].column;
  char best[ROW_REASON] = "", value[ROW_REASON];
  size_t best_count = 0;
  bool granted = false;
  for (size_t i = 0; i < *n && !granted; i++)
    granted = filter_match(&f, &rows[i]);
  for (size_t i = 0; i < *n && !granted; i++) {
    filter_text(&rows[i], column, value, sizeof value);
    size_t count = 0;
    for (size_t j = 0; j < *n; j++) {
      char other[ROW_REASON];
      count += !strcmp(value, filter_text(&rows[j], column, other, sizeof other));
    }
    if (count > best_count || (count == best_count && filter_order(column, value, best) > 0)) {
      best_count = count;
      memcpy(best, value, sizeof best);
    }
  }
  size_t kept = 0;
  for (size_t i = 0; i < *n; i++)
    if (granted ? filter_match(&f, &rows[i])
                : !strcmp(best, filter_text(&rows[i], column, value, sizeof value))) {
      if (kept != i)
        rows[kept] = rows[i];
      kept++;
    }
  *n = kept;
  return 0;
}

int select_read(char *const *paths, int n_paths, struct row **rows, size_t *n, char *err,
                size_t err_size) {
  *rows = NULL;
  *n = 0;
  for (int i = 0; i < n_paths; i++) {
    struct row *more = NULL;
    size_t m = 0;
    int status = store_read(paths[i], &more, &m, err, err_size);
    struct row *all = status ? NULL : realloc(*rows, (*n + m + 1) * sizeof *all);
    if (all) {
      if (m)
        memcpy(all + *n, more, m * sizeof *all);
      *rows = all;
      *n += m;
    } else if (!status) {
      snprintf(err, err_size, "out of memory");
      status = -1;
    }
    free(more);
    if (status) {
      free(*rows);
      *rows = NULL;
      return -1;
    }
  }
  return 0;
}

bool select_is_emulated(const struct row *rows, size_t n, char *err, size_t err_size) {
  for (size_t i = 0; i < n; i++)
    if (row_is_emulated(&rows[i])) {
      snprintf(err, err_size,
               "rows of %.60s are no measurements: an emulated GPU shows that things work; "
               "`longca show FILE` lists them",
               rows[i].machine);
      return true;
    }
  return false;
}

bool select_is_single(const struct row *row) { return !*row->cp || !strcmp(row->cp, "none"); }

int select_load(char *const *paths, int n_paths, const struct filter *where, char *const *wishes,
                int n_wishes, struct row **rows, size_t *n, char *err, size_t err_size) {
  size_t kept = 0;
  if (select_read(paths, n_paths, rows, n, err, err_size))
    return -1;
  for (size_t i = 0; i < *n; i++)
    if (filter_match(where, &(*rows)[i]) &&
        (filter_mentions(where, "cp") || select_is_single(&(*rows)[i]))) {
      if (kept != i)
        (*rows)[kept] = (*rows)[i];
      kept++;
    }
  *n = kept;
  for (int i = 0; i < n_wishes; i++)
    if (select_prefer(*rows, n, wishes[i], err, err_size)) {
      free(*rows);
      *rows = NULL;
      return -1;
    }
  return 0;
}
