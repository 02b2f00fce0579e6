// row_csv.c -- see row_csv.h. libcsv reads; a row is always one line, so a fault is told by its line.
#include "row_csv.h"

#include <csv.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct reader {
  // By position in the file; NULL: not known here.
  const struct row_column *columns[ROW_CSV_COLUMNS];
  int n_columns, field;
  size_t line; // of the file, from 1
  bool header_done, any_known, row_done;
  struct row row, *rows;
  size_t n, capacity;
  char fault[160];
};

// libcsv calls these at the end of every field and of every line.
static void on_field(void *text, size_t size, void *context) {
  struct reader *r = context;
  const int i = r->field++;
  char buf[ROW_REASON];
  snprintf(buf, sizeof buf, "%.*s", (int)size, text ? (const char *)text : "");
  if (!r->header_done) {
    if (i < ROW_CSV_COLUMNS && (r->columns[i] = row_find_column(buf)))
      r->any_known = true;
    return;
  }
  const struct row_column *c = i < r->n_columns ? r->columns[i] : NULL;
  if (!c)
    return;
  if (c->text) {
    memcpy((char *)&r->row + c->offset, buf, sizeof buf);
    return;
  }
  char *end;
  const double x = *buf ? strtod(buf, &end) : NAN;
  if (*buf && *end && !*r->fault)
    snprintf(r->fault, sizeof r->fault, "line %zu: '%.40s' is not a number (column %s)", r->line,
             buf, c->name);
  memcpy((char *)&r->row + c->offset, &x, sizeof x);
}

static void on_line(int end, void *context) {
  (void)end;
  struct reader *r = context;
  if (!r->header_done) {
    r->header_done = true;
    r->n_columns = r->field;
    if (r->field > ROW_CSV_COLUMNS)
      snprintf(r->fault, sizeof r->fault, "more than %d columns", (int)ROW_CSV_COLUMNS);
    else if (!r->any_known)
      snprintf(r->fault, sizeof r->fault,
               "line %zu: no column of a row (%s, %s, ...) in this header", r->line,
               row_columns[0].name, row_columns[1].name);
  } else if (r->field != r->n_columns && !*r->fault) {
    snprintf(r->fault, sizeof r->fault, "line %zu: %d fields where the header has %d", r->line,
             r->field, r->n_columns);
  } else if (*r->row.status && row_status_find(r->row.status) < 0 && !*r->fault) {
    snprintf(r->fault, sizeof r->fault, "line %zu: '%.40s' is no status of a row", r->line,
             r->row.status);
  } else if (!*r->fault) {
    if (r->n == r->capacity) {
      const size_t capacity = r->capacity ? 2 * r->capacity : 64;
      struct row *rows = realloc(r->rows, capacity * sizeof *rows);
      if (!rows) {
        snprintf(r->fault, sizeof r->fault, "out of memory");
        return;
      }
      r->rows = rows;
      r->capacity = capacity;
    }
    r->rows[r->n++] = r->row;
  }
  r->field = 0;
  r->row_done = true;
  row_clear(&r->row);
}

int row_csv_parse(const char *text, size_t size, struct row **rows, size_t *n, char *err,
                  size_t err_size) {
  struct reader r = {.line = 1};
  struct csv_parser parser;
  row_clear(&r.row);
  csv_init(&parser, CSV_STRICT);
  for (size_t at = 0; at < size && !*r.fault; r.line++) {
    const size_t length = (size_t)((char *)memchr(text + at, '\n', size - at) - (text + at)) + 1;
    const bool blank = length == strspn(text + at, " \t\r") + 1;
    r.row_done = blank || text[at] == '#';
    if (!r.row_done && csv_parse(&parser, text + at, length, on_field, on_line, &r) != length)
      snprintf(r.fault, sizeof r.fault, "line %zu: a quotation mark inside a field without",
               r.line);
    else if (!r.row_done)
      snprintf(r.fault, sizeof r.fault, "line %zu: a quotation mark is not closed", r.line);
    at += length;
  }
  csv_fini(&parser, on_field, on_line, &r);
  csv_free(&parser);
  *rows = *r.fault ? NULL : r.rows;
  *n = *r.fault ? 0 : r.n;
  if (!*r.fault)
    return 0;
  free(r.rows);
  snprintf(err, err_size, "%s", r.fault);
  return -1;
}

size_t row_csv_line(const struct row *row, char *line) {
  size_t at = 0;
  for (const struct row_column *c = row_columns; c->name; c++) {
    char buf[ROW_REASON];
    const char *text = row ? row_text(row, c, buf, sizeof buf) : c->name;
    const bool quote = strpbrk(text, ",\"#") != NULL;
    if (c != row_columns)
      line[at++] = ',';
    if (quote)
      line[at++] = '"';
    for (; *text && at + 4 < ROW_CSV_LINE_BYTES; text++) {
      if (*text == '"')
        line[at++] = '"';
      line[at++] = (unsigned char)*text < ' ' ? ' ' : *text;
    }
    if (quote)
      line[at++] = '"';
  }
  line[at++] = '\n';
  return at;
}
