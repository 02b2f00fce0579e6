// row_csv.h -- rows as CSV text: a header and lines, no files.
#ifndef LONGCA_ROW_CSV_H
#define LONGCA_ROW_CSV_H

#include "row.h"

enum {
  ROW_CSV_COLUMNS = 256, // of a file, known ones and others
  // Room for every column at its longest, each character a doubled quote.
  ROW_CSV_LINE_BYTES = ROW_CSV_COLUMNS * (2 * ROW_REASON + 3)
};

// A row as one line, newline included (line breaks inside text become blanks), or the header when row is
// NULL. line [ROW_CSV_LINE_BYTES]; returns its length.
size_t row_csv_line(const struct row *row, char *line);

// Every row of text [size], which ends in a newline: found by the names in its header, unknown columns
// ignored, missing ones empty or NaN; lines that begin with # are comments. *rows is for free().
// 0, or -1 with a sentence in err that names the line.
int row_csv_parse(const char *text, size_t size, struct row **rows, size_t *n, char *err,
                  size_t err_size);

#endif
