// estimate.h -- how long a point will take, before it is measured.
#ifndef LONGCA_ESTIMATE_H
#define LONGCA_ESTIMATE_H

#include "point.h"

// Learns rates (TFLOP/s by kernel and pass) from the machine's rows; without any, assumed ones stand.
void estimate_learn(const struct row *rows, size_t n);
// Seconds for the whole point: worker, mask, check, warm-up and timed calls.
double estimate_s(const struct point *p);

#endif
