// verify.h -- comparison of a kernel's tensor with the double reference, row by row.
//
// A row of `dim` elements is right when |got - want| <= rel |want| + floor * rms row norm of the
// tensor + 5 standard deviations of the row's own noise (2-norms; ref.h). Rows, not elements: an element
// near zero says nothing, a row that saw one key too many does. NaN fails; infinities must agree in place
// and sign.
#ifndef LONGCA_VERIFY_H
#define LONGCA_VERIFY_H

#include "../kernels/attn.h"

struct verify_limits {
  double rel, floor;
};

struct verify_report {
  int64_t rows, wrong; // compared, and not right
  double err_max;      // largest |got - want| / (|want| + rms row norm + 5 noise) of a row
  double err_cos;      // 1 - cosine between the whole tensors
  int64_t worst; // index of the row behind err_max; NaN and misplaced infinities count as worst
  // running sums
  double sum_got2, sum_want2, sum_dot;
};

// bf16: inputs, P and dS are rounded to 2^-9 relative and averaged, outputs rounded once more; fp32:
// sums of a few thousand terms. Gradients carry the rounding of O through dO.O, hence the higher floor.
struct verify_limits verify_limits_for(enum attn_dtype dtype, bool gradient);

// got [rows, dim] of dtype with `stride` elements between rows; want [rows, dim] dense. Adds to the
// report, which starts as zeros. noise [rows], or NULL for none.
void verify_rows(struct verify_report *report, const void *got, enum attn_dtype dtype,
                 int64_t stride, const double *want, const double *noise, int64_t rows, int32_t dim,
                 double rms_row, struct verify_limits limits);
// lse: absolute error at most `limit`, -inf exactly where wanted.
void verify_lse(struct verify_report *report, const float *got, const double *want, int64_t n,
                double limit);
// Root mean square of the row norms of want [rows, dim].
double verify_rms_row(const double *want, int64_t rows, int32_t dim);
// Fills err_cos; true when every compared row was right and at least one was compared.
bool verify_finish(struct verify_report *report);

#endif
