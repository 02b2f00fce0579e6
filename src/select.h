// select.h -- choosing rows, and one value a point from the rows of its draws.
//
// A filter is text: "mask=full,causal pass=fwd seqlen>=4K". Terms are joined by blanks or ';', values
// by ','; operators = != < <= > >=; 8K means 8192; mask=regular and mask=heterogeneous mean six masks
// each. Besides the columns of row.h there are two derived
// ones: `mode` (gqa or mha, from the heads) and `place` (host or device, from the engine).
#ifndef LONGCA_SELECT_H
#define LONGCA_SELECT_H

#include "row.h"

enum { FILTER_TERMS = 24, FILTER_VALUES = 24, FILTER_TEXT = 48 };

struct filter {
  struct filter_term {
    char column[FILTER_TEXT], op[3], values[FILTER_VALUES][FILTER_TEXT];
    int n;
  } terms[FILTER_TERMS];
  int n;
};

// Adds the terms of `text`. 0, or -1 with a sentence in err (unknown column, mask, kernel, ...).
int filter_add(struct filter *f, const char *text, char *err, size_t err_size);
bool filter_match(const struct filter *f, const struct row *row);
bool filter_mentions(const struct filter *f, const char *column);

// Value of a column or derived column as text, into buf; empty for a number that does not apply.
const char *select_text(const struct row *row, const char *column, char *buf, size_t size);
bool select_is_column(const char *column); // of row.h, or derived
// Order of two values of a column as readers expect it: kernels as registered, masks as in the study,
// "gqa" before "mha", "fwd" before "bwd", numbers by size, other text by the alphabet.
int select_order(const char *column, const char *a, const char *b);

// "tflop_s", or scaled: "peak_mem_bytes/1e9".
struct quantity {
  char column[FILTER_TEXT];
  double divisor;
};
int quantity_parse(struct quantity *q, const char *text, char *err, size_t err_size);

// One tuple of independent variables. One draw: y and its 95 % interval (time_us, tflop_s; other
// quantities have none: low = high = y). Several draws: the median of the draws' values, and low, high
// the smallest and largest. A point with any wrong draw is wrong; else ok if a draw is ok.
struct measured {
  const struct row *row; // a row that stands for it: status, reason and variables are the point's
  double y, low, high;
  int draws, ok; // rows, and those with status ok
};
// Points of the rows that match, in no promised order; *points is for free(). Of several rows of one
// draw the last one counts. 0, or -1 when memory is short.
int select_points(const struct row *rows, size_t n, const struct filter *f, const struct quantity *q,
                  struct measured **points, size_t *n_points);

// Columns that tell one point from another, draws aside; NULL-terminated.
extern const char *const select_key[];

// "column=value" as a wish: keeps the rows that have the value, in *rows [*n], reordered in place; when
// none has, those with the value that most points have (the larger if several). 0, or -1 with err.
int select_prefer(struct row *rows, size_t *n, const char *wish, char *err, size_t err_size);

// Rows of several files, one after another; *rows is for free(). 0, or -1 with a sentence in err.
int select_read(char *const *paths, int n_paths, struct row **rows, size_t *n, char *err, size_t err_size);

#endif
