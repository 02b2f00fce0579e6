// select.c -- filters over rows, and the points that figures, tables and claims are made of.
//
// Draws of one point are different masks, so their spread is the subject's, not the clock's: a point
// of several draws shows the range of its draws, a point of one draw the interval of its median.
#include "select.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../kernels/attn.h"
#include "mask.h"
#include "stats.h"
#include "store.h"

const char *const select_key[] = {"machine", "profile", "mask",     "kernel", "pass",  "dtype",
                                  "batch",   "heads_q", "heads_kv", "dim",    "seqlen", "window",
                                  "block",   "ratio",   "seed",     "histogram", "cp",  "transport",
                                  "ranks",   NULL};

// ---- values ---------------------------------------------------------------------------------

bool select_is_column(const char *column) {
  return !strcmp(column, "mode") || !strcmp(column, "place") || row_find_column(column);
}

const char *select_text(const struct row *row, const char *column, char *buf, size_t size) {
  if (!strcmp(column, "mode")) {
    snprintf(buf, size, "%s", row->heads_q == row->heads_kv ? "mha" : "gqa");
  } else if (!strcmp(column, "place")) {
    snprintf(buf, size, "%s", !*row->engine ? "" : !strcmp(row->engine, "cpu") ? "host" : "device");
  } else {
    const struct row_column *c = row_find_column(column);
    if (!c || (!c->text && isnan(row_number(row, column))))
      snprintf(buf, size, "%s", "");
    else
      row_text(row, c, buf, size);
  }
  return buf;
}

static int place_in(const char *const *list, const char *name) {
  int i = 0;
  while (list[i] && strcmp(list[i], name) != 0)
    i++;
  return i;
}

static int kernel_place(const char *name) {
  int i = 0;
  while (attn_kernels[i] && strcmp(attn_kernels[i]->name, name) != 0)
    i++;
  return i;
}

int select_order(const char *column, const char *a, const char *b) {
  static const char *const passes[] = {"fwd", "bwd", NULL};
  int d = 0;
  if (!strcmp(column, "kernel"))
    d = kernel_place(a) - kernel_place(b);
  else if (!strcmp(column, "mask"))
    d = (mask_parse(a) & 0xff) - (mask_parse(b) & 0xff);
  else if (!strcmp(column, "pass"))
    d = place_in(passes, a) - place_in(passes, b);
  if (d)
    return d;
  char *end_a, *end_b;
  const double x = strtod(a, &end_a), y = strtod(b, &end_b);
  if (*a && *b && !*end_a && !*end_b && x != y)
    return x < y ? -1 : 1;
  return strcmp(a, b);
}

// ---- filters --------------------------------------------------------------------------------

static int check_value(const char *column, const char *value, char *err, size_t err_size) {
  if (!strcmp(column, "mask") && mask_parse(value) < 0) {
    snprintf(err, err_size, "unknown mask '%s'; the masks are %s", value, mask_names());
    return -1;
  }
  if (!strcmp(column, "kernel") && !attn_kernels[kernel_place(value)]) {
    int at = snprintf(err, err_size, "unknown kernel '%s'; the kernels are", value);
    for (int i = 0; attn_kernels[i]; i++)
      if (kernel_place(attn_kernels[i]->name) == i && at < (int)err_size)
        at += snprintf(err + at, err_size - (size_t)at, "%s %s", i ? "," : "", attn_kernels[i]->name);
    return -1;
  }
  return 0;
}

// A number with an optional K or M; false when it is none.
static bool parse_number(const char *text, double *x) {
  char *end;
  *x = strtod(text, &end);
  if (end == text)
    return false;
  if (*end == 'K' || *end == 'M')
    *x *= *end++ == 'K' ? 1024.0 : 1048576.0;
  return !*end;
}

// The two classes of static masks by name (study 1.1): regular, heterogeneous.
static bool add_class(struct filter_term *t, const char *name) {
  const bool regular = !strcmp(name, "regular");
  if ((!regular && strcmp(name, "heterogeneous") != 0) || t->n + 6 > FILTER_VALUES)
    return false;
  const int first = regular ? MASK_FULL : MASK_SHARE_QUESTION;
  for (int kind = first; kind < first + 6; kind++)
    snprintf(t->values[t->n++], FILTER_TEXT, "%s", mask_name((enum mask_kind)kind));
  return true;
}

static int add_term(struct filter *f, const char *text, char *err, size_t err_size) {
  const size_t name = strcspn(text, "=!<>");
  const size_t op = name + strspn(text + name, "=!<>");
  if (f->n == FILTER_TERMS) {
    snprintf(err, err_size, "a filter has at most %d terms", (int)FILTER_TERMS);
    return -1;
  }
  struct filter_term *t = &f->terms[f->n];
  memset(t, 0, sizeof *t);
  static const char *const ops[] = {"=", "!=", "<", "<=", ">", ">=", NULL};
  if (name && name < sizeof t->column && op - name && op - name < sizeof t->op) {
    memcpy(t->column, text, name);
    memcpy(t->op, text + name, op - name);
  }
  if (!*t->column || !ops[place_in(ops, t->op)] || !text[op]) {
    snprintf(err, err_size, "'%s' is not column=value (or != < <= > >=)", text);
    return -1;
  }
  if (!select_is_column(t->column)) {
    int at = snprintf(err, err_size, "unknown column '%s'; the columns are mode, place", t->column);
    for (const struct row_column *c = row_columns; c->name && at < (int)err_size; c++)
      at += snprintf(err + at, err_size - (size_t)at, ", %s", c->name);
    return -1;
  }
  for (const char *v = text + op; *v;) {
    const size_t size = strcspn(v, ",");
    if (t->n == FILTER_VALUES || size >= FILTER_TEXT) {
      snprintf(err, err_size, "'%s': at most %d values of %d characters", text, (int)FILTER_VALUES,
               (int)FILTER_TEXT - 1);
      return -1;
    }
    snprintf(t->values[t->n], FILTER_TEXT, "%.*s", (int)size, v);
    if (!strcmp(t->column, "mask") && add_class(t, t->values[t->n])) {
    } else if (check_value(t->column, t->values[t->n++], err, err_size)) {
      return -1;
    }
    v += size + (v[size] == ',');
  }
  f->n++;
  return 0;
}

int filter_add(struct filter *f, const char *text, char *err, size_t err_size) {
  while (*text) {
    text += strspn(text, " ;");
    const size_t size = strcspn(text, " ;");
    char term[1024];
    if (size >= sizeof term) {
      snprintf(err, err_size, "a filter term is at most %zu characters long", sizeof term - 1);
      return -1;
    }
    snprintf(term, sizeof term, "%.*s", (int)size, text);
    if (size && add_term(f, term, err, err_size))
      return -1;
    text += size;
  }
  return 0;
}

static bool equal(const char *have, const char *want) {
  double x, y;
  return !strcmp(have, want) || (parse_number(have, &x) && parse_number(want, &y) && x == y);
}

static bool term_match(const struct filter_term *t, const struct row *row) {
  char have[ROW_REASON];
  select_text(row, t->column, have, sizeof have);
  if (*t->op == '=' || *t->op == '!') {
    for (int i = 0; i < t->n; i++)
      if (equal(have, t->values[i]))
        return *t->op == '=';
    return *t->op == '!';
  }
  double x, y;
  if (!parse_number(have, &x) || !parse_number(t->values[0], &y))
    return false;
  return (t->op[1] == '=' && x == y) || (*t->op == '<' ? x < y : x > y);
}

bool filter_match(const struct filter *f, const struct row *row) {
  for (int i = 0; i < f->n; i++)
    if (!term_match(&f->terms[i], row))
      return false;
  return true;
}

bool filter_mentions(const struct filter *f, const char *column) {
  for (int i = 0; i < f->n; i++)
    if (!strcmp(f->terms[i].column, column))
      return true;
  return false;
}

// ---- points ---------------------------------------------------------------------------------

int quantity_parse(struct quantity *q, const char *text, char *err, size_t err_size) {
  const size_t size = strcspn(text, "/");
  q->divisor = 1;
  snprintf(q->column, sizeof q->column, "%.*s", (int)size, text);
  const struct row_column *c = row_find_column(q->column);
  if (!c || c->text || size >= sizeof q->column ||
      (text[size] && (!parse_number(text + size + 1, &q->divisor) || !(q->divisor > 0)))) {
    snprintf(err, err_size, "'%s' is not a quantity: a column of numbers, such as time_us, tflop_s or "
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
    const bool drawn = !strcmp(select_key[i], "window") && !strcmp(row->mask, "global_sliding_window");
    const int w = snprintf(key + at, sizeof key - at, "%.90s\t",
                           drawn ? "" : select_text(row, select_key[i], value, sizeof value));
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
    value[1] = row->flop / row->time_us_high * 1e-6;
    value[2] = row->flop / row->time_us_low * 1e-6;
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

int select_points(const struct row *rows, size_t n, const struct filter *f, const struct quantity *q,
                  struct measured **points, size_t *n_points) {
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
    select_text(&rows[i], column, value, sizeof value);
    size_t count = 0;
    for (size_t j = 0; j < *n; j++) {
      char other[ROW_REASON];
      count += !strcmp(value, select_text(&rows[j], column, other, sizeof other));
    }
    if (count > best_count || (count == best_count && select_order(column, value, best) > 0)) {
      best_count = count;
      memcpy(best, value, sizeof best);
    }
  }
  size_t kept = 0;
  for (size_t i = 0; i < *n; i++)
    if (granted ? filter_match(&f, &rows[i])
                : !strcmp(best, select_text(&rows[i], column, value, sizeof value))) {
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
