// cond.c -- conditions on the columns of a row, for --only and the `except` lines of experiments.
#include "cond.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool cond_number(const char *text, double *x) {
  char *end;
  *x = strtod(text, &end);
  if (end != text && (*end == 'K' || *end == 'k')) {
    *x *= 1024;
    end++;
  }
  return end != text && !*end;
}

int cond_parse(struct cond *c, const char *text, char *err, size_t err_size) {
  const size_t name_size = strcspn(text, "=!<>");
  const char *op = text + name_size;
  const size_t op_size = strspn(op, "=!<>");
  char name[48];
  snprintf(name, sizeof name, "%.*s", (int)name_size, text);
  snprintf(c->op, sizeof c->op, "%.*s", (int)op_size, op);
  if (!op_size || op_size > 2 || !strcmp(c->op, "!") || !op[op_size]) {
    snprintf(err, err_size,
             "'%s' is not a condition such as seqlen<=16K, kernel=fa2,flex or pass!=bwd", text);
    return -1;
  }
  c->column = row_find_column(name);
  if (!c->column) {
    int at = snprintf(err, err_size, "unknown column '%s'; the columns are", name);
    for (const struct row_column *k = row_columns; k->name && at > 0 && (size_t)at < err_size; k++)
      at += snprintf(err + at, err_size - (size_t)at, " %s", k->name);
    return -1;
  }
  if (snprintf(c->value, sizeof c->value, "%s", op + op_size) >= (int)sizeof c->value) {
    snprintf(err, err_size, "the condition on %s is too long", name);
    return -1;
  }
  char values[COND_TEXT], *rest = values;
  snprintf(values, sizeof values, "%s", c->value);
  for (char *v; !c->column->text && (v = strsep(&rest, ","));) {
    double x;
    if (!cond_number(v, &x)) {
      snprintf(err, err_size, "'%s' is not a number (column %s)", v, name);
      return -1;
    }
  }
  return 0;
}

static bool equals(const struct cond *c, const struct row *row, const char *value) {
  if (c->column->text)
    return !strcmp((const char *)row + c->column->offset, value);
  double x = 0;
  return cond_number(value, &x) && row_number(row, c->column->name) == x;
}

bool cond_match(const struct cond *c, const struct row *row) {
  if (c->op[0] == '<' || c->op[0] == '>') {
    double x = 0;
    const double y = row_number(row, c->column->name);
    if (!cond_number(c->value, &x))
      return false;
    return c->op[0] == '<' ? (c->op[1] ? y <= x : y < x) : (c->op[1] ? y >= x : y > x);
  }
  char values[COND_TEXT], *rest = values;
  snprintf(values, sizeof values, "%s", c->value);
  bool any = false;
  for (char *v; (v = strsep(&rest, ","));)
    any = any || equals(c, row, v);
  return c->op[0] == '!' ? !any : any;
}
