// spread.h -- one quantity of many points as a table over two axes.
//
// The paper's printed numbers (data/published) are rows like any others, so they stand beside ours by
// reading both files: rows "seqlen,machine" across "kernel,block,ratio" of tflop_s.
#ifndef LONGCA_SPREAD_H
#define LONGCA_SPREAD_H

#include "select.h"
#include "table.h"

enum { SPREAD_KEYS = 6 };

// The columns whose values, taken together, label the rows or the columns of the table.
struct spread_axis {
  char column[SPREAD_KEYS][FILTER_TEXT];
  int n;
};

// "seqlen,machine". 0, or -1 with a sentence in err. Writes into text.
int spread_parse_axis(struct spread_axis *a, char *text, char *err, size_t err_size);
// Prints the table: a cell is the value of a point (of several, one that has a value), or its status.
// 0, or 1 when memory is short.
int spread_print(const struct row *rows, size_t n, const struct spread_axis *down,
                 const struct spread_axis *across, const struct quantity *q,
                 enum table_format format, const char *caption);

#endif
