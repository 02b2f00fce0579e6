// select.h -- rows read and chosen, and one value a point from the rows of its draws.
#ifndef LONGCA_SELECT_H
#define LONGCA_SELECT_H

#include "filter.h"

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
int select_points(const struct row *rows, size_t n, const struct filter *f,
                  const struct quantity *q, struct measured **points, size_t *n_points);

// Columns that tell one point from another, draws aside; NULL-terminated.
extern const char *const select_key[];

// "column=value" as a wish: keeps the rows that have the value, in *rows [*n], reordered in place; when
// none has, those with the value that most points have (the larger if several). 0, or -1 with err.
int select_prefer(struct row *rows, size_t *n, const char *wish, char *err, size_t err_size);

// Whether a row is of one device or host, without a context-parallel schedule.
bool select_is_single(const struct row *row);

// Rows of several files, one after another; *rows is for free(). 0, or -1 with a sentence in err.
int select_read(char *const *paths, int n_paths, struct row **rows, size_t *n, char *err,
                size_t err_size);

// Whether any row is an emulated GPU's, from which no figure, table or verdict may come; then err says so.
bool select_is_emulated(const struct row *rows, size_t n, char *err, size_t err_size);

// The rows of several files that match, after the wishes, in that order: what the commands work on.
// Rows with a schedule are left out unless the filter asks for `cp`.
int select_load(char *const *paths, int n_paths, const struct filter *where, char *const *wishes,
                int n_wishes, struct row **rows, size_t *n, char *err, size_t err_size);

#endif
