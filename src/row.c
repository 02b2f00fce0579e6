// row.c -- the columns of a row as a table, and their values as text. The list itself is in row.h.
#include "row.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "stats.h"

const struct row_column row_columns[] = {
#define COLUMN_T(column) {#column, true, offsetof(struct row, column)},
#define COLUMN_N(column) {#column, false, offsetof(struct row, column)},
    ROW_COLUMNS(COLUMN_T, COLUMN_N){NULL, false, 0}};

void row_clear(struct row *row) {
  memset(row, 0, sizeof *row);
  for (const struct row_column *c = row_columns; c->name; c++)
    if (!c->text) {
      const double none = NAN;
      memcpy((char *)row + c->offset, &none, sizeof none);
    }
  row->schema = ROW_SCHEMA;
}

bool row_is_emulated(const struct row *row) {
  return !strncmp(row->machine, "emulated-", strlen("emulated-"));
}

static double number_at(const struct row *row, const struct row_column *column) {
  double x;
  memcpy(&x, (const char *)row + column->offset, sizeof x);
  return x;
}

const char *row_text(const struct row *row, const struct row_column *column, char *buf,
                     size_t size) {
  if (column->text) {
    snprintf(buf, size, "%s", (const char *)row + column->offset);
    return buf;
  }
  const double x = number_at(row, column);
  if (isnan(x)) {
    snprintf(buf, size, "nan");
  } else if (x == floor(x) && fabs(x) < 1e15) {
    snprintf(buf, size, "%.0f", x);
  } else {
    for (int digits = 1; digits <= 17; digits++) {
      snprintf(buf, size, "%.*g", digits, x);
      if (strtod(buf, NULL) == x)
        break;
    }
  }
  return buf;
}

const struct row_column *row_find_column(const char *name) {
  for (const struct row_column *c = row_columns; c->name; c++)
    if (!strcmp(c->name, name))
      return c;
  return NULL;
}

double row_number(const struct row *row, const char *column) {
  const struct row_column *c = row_find_column(column);
  return c && !c->text ? number_at(row, c) : NAN;
}

// No clock is better than 6 digits, and rows are read by people too.
double row_rounded(double x, int digits) {
  char text[32];
  snprintf(text, sizeof text, "%.*g", digits, x);
  return strtod(text, NULL);
}

const char *const row_status_names[ROW_STATUSES] = {"ok",    "oom",     "unsupported",
                                                    "wrong", "timeout", "crash"};

int row_status_find(const char *name) {
  for (int s = 0; s < ROW_STATUSES; s++)
    if (!strcmp(row_status_names[s], name))
      return s;
  return -1;
}

void row_status(struct row *row, const char *status, const char *reason) {
  snprintf(row->status, sizeof row->status, "%s", status);
  snprintf(row->reason, sizeof row->reason, "%s", reason);
}

void row_times(struct row *row, const double *time_us, int n) {
  const size_t count = (size_t)n;
  row->n = n;
  row->time_us = row_rounded(stats_median(time_us, count), 6);
  stats_median_interval(time_us, count, &row->time_us_low, &row->time_us_high);
  row->time_us_low = row_rounded(row->time_us_low, 6);
  row->time_us_high = row_rounded(row->time_us_high, 6);
  row->time_us_q20 = row_rounded(stats_quantile(time_us, count, 0.2), 6);
  row->time_us_q80 = row_rounded(stats_quantile(time_us, count, 0.8), 6);
  row->time_us_p99 = row_rounded(stats_quantile(time_us, count, 0.99), 6);
}
