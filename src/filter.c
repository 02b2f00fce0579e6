// filter.c -- columns as text, their order, and conditions on them.
#include "filter.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../kernels/attn.h"
#include "mask.h"

// ---- values ---------------------------------------------------------------------------------

bool filter_is_column(const char *column) {
  return !strcmp(column, "mode") || !strcmp(column, "place") || !strcmp(column, "tokens") ||
         row_find_column(column);
}

const char *filter_text(const struct row *row, const char *column, char *buf, size_t size) {
  if (!strcmp(column, "mode")) {
    snprintf(buf, size, "%s", row->heads_q == row->heads_kv ? "mha" : "gqa");
  } else if (!strcmp(column, "place")) {
    snprintf(buf, size, "%s", !*row->engine ? "" : !strcmp(row->engine, "cpu") ? "host" : "device");
  } else if (!strcmp(column, "tokens")) {
    *buf = 0;
    if (row->ranks > 0)
      snprintf(buf, size, "%.12g", row->seqlen / row->ranks);
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

int filter_order(const char *column, const char *a, const char *b) {
  static const char *const passes[] = {"fwd", "bwd", "bwd_det", NULL};
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

bool filter_number(const char *text, double *x) {
  char *end;
  *x = strtod(text, &end);
  if (end != text && (*end == 'K' || *end == 'k')) {
    *x *= 1024;
    end++;
  }
  return end != text && !*end;
}

// ---- filters --------------------------------------------------------------------------------

static int check_value(const char *column, const char *value, char *err, size_t err_size) {
  const struct row_column *c = row_find_column(column);
  double x;
  if ((c ? !c->text : !strcmp(column, "tokens")) && !filter_number(value, &x)) {
    snprintf(err, err_size, "'%s' is not a number (column %s)", value, column);
    return -1;
  }
  if (!strcmp(column, "mask") && mask_parse(value) < 0) {
    snprintf(err, err_size, "unknown mask '%s'; the masks are %s", value, mask_names());
    return -1;
  }
  if (!strcmp(column, "kernel") && !attn_kernels[kernel_place(value)]) {
    int at = snprintf(err, err_size, "unknown kernel '%s'; the kernels are", value);
    for (int i = 0; attn_kernels[i]; i++)
      if (kernel_place(attn_kernels[i]->name) == i && at < (int)err_size)
        at +=
            snprintf(err + at, err_size - (size_t)at, "%s %s", i ? "," : "", attn_kernels[i]->name);
    return -1;
  }
  return 0;
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
  if (!filter_is_column(t->column)) {
    int at = snprintf(err, err_size, "unknown column '%s'; the columns are mode, place, tokens",
                      t->column);
    for (const struct row_column *c = row_columns; c->name && at < (int)err_size; c++)
      at += snprintf(err + at, err_size - (size_t)at, ", %s", c->name);
    return -1;
  }
  const struct row_column *c = row_find_column(t->column);
  if ((*t->op == '<' || *t->op == '>') && !(c && !c->text)) {
    snprintf(err, err_size, "'%s': %s holds text, which is = or !=", text, t->column);
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
    text += strspn(text, " \t;");
    const size_t size = strcspn(text, " \t;");
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
  return !strcmp(have, want) || (filter_number(have, &x) && filter_number(want, &y) && x == y);
}

static bool term_match(const struct filter_term *t, const struct row *row) {
  char have[ROW_REASON];
  filter_text(row, t->column, have, sizeof have);
  if (*t->op == '=' || *t->op == '!') {
    for (int i = 0; i < t->n; i++)
      if (equal(have, t->values[i]))
        return *t->op == '=';
    return *t->op == '!';
  }
  double x, y;
  if (!filter_number(have, &x) || !filter_number(t->values[0], &y))
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
