// cond.h -- a condition on a row, as people write it: "seqlen>16K", "kernel=naive,sdpa", "pass!=bwd".
#ifndef LONGCA_COND_H
#define LONGCA_COND_H

#include "row.h"

enum { COND_TEXT = 160 };

struct cond {
  const struct row_column *column;
  char op[3]; // = != < <= > >=
  char value[COND_TEXT];
};

// 0, or -1 with a sentence in err: no operator, no such column (lists them), not a number.
int cond_parse(struct cond *c, const char *text, char *err, size_t err_size);
// = holds for any of the comma-separated values, != for none of them.
bool cond_match(const struct cond *c, const struct row *row);

// A number with an optional K (1024): "48K" is 49152. False when text is not one.
bool cond_number(const char *text, double *x);

#endif
