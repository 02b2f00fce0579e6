// table.h -- one table, printed as aligned text, Markdown, LaTeX, HTML or CSV.
#ifndef LONGCA_TABLE_H
#define LONGCA_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

enum table_format { TABLE_TEXT, TABLE_MD, TABLE_TEX, TABLE_HTML, TABLE_CSV };

struct table {
  int columns;
  size_t cells, capacity; // cells filled, row after row; the first row is the header
  char **cell;
  const char *caption; // NULL: none; not owned
};

struct table table_new(int columns);
// Next cell, left to right and row after row. Memory that runs out ends the program (exit code 1).
void table_add(struct table *t, const char *format, ...) __attribute__((format(printf, 2, 3)));
// Columns in which every cell below the header is a number, a dash or empty are set flush right.
void table_print(const struct table *t, enum table_format format, FILE *out);
void table_free(struct table *t);

// Format of a name (text md tex html csv), or -1; table_formats() lists the names.
int table_format_parse(const char *name);
const char *table_formats(void);

#endif
