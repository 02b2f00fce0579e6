// filter.h -- which rows: conditions on their columns, as text; of --where, --only and `except` lines.
//
// A filter is text: "mask=full,causal pass=fwd seqlen>=4K". Terms are joined by blanks or ';', values
// by ','; operators = != < <= > >=; 8K means 8192; mask=regular and mask=heterogeneous mean six masks
// each. Besides the columns of row.h there are derived ones: `mode` (gqa or mha, from the heads), `place`
// (host or device, from the engine) and `tokens` (of a rank).
#ifndef LONGCA_FILTER_H
#define LONGCA_FILTER_H

#include "row.h"

enum { FILTER_TERMS = 24, FILTER_VALUES = 24, FILTER_TEXT = 48 };

struct filter {
  struct filter_term {
    char column[FILTER_TEXT], op[3], values[FILTER_VALUES][FILTER_TEXT];
    int n;
  } terms[FILTER_TERMS];
  int n;
};

// Adds the terms of `text`. 0, or -1 with a sentence in err (unknown column, mask, kernel, no number, ...).
int filter_add(struct filter *f, const char *text, char *err, size_t err_size);
// Whether all terms hold. NaN is neither more nor less than anything, and equals nothing.
bool filter_match(const struct filter *f, const struct row *row);
bool filter_mentions(const struct filter *f, const char *column);

// A number with an optional K (1024): "48K" is 49152. False when text is not one.
bool filter_number(const char *text, double *x);

// Value of a column or derived column as text, into buf; empty for a number that does not apply.
const char *filter_text(const struct row *row, const char *column, char *buf, size_t size);
bool filter_is_column(const char *column); // of row.h, or derived
// Order of two values of a column as readers expect it: kernels as registered, masks as in the study,
// "gqa" before "mha", "fwd" before "bwd", numbers by size, other text by the alphabet.
int filter_order(const char *column, const char *a, const char *b);

#endif
