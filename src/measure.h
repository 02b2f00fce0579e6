// measure.h -- measures one point, in the process that calls it (the runner calls it in a worker).
#ifndef LONGCA_MEASURE_H
#define LONGCA_MEASURE_H

#include "point.h"

// Fills the columns that the measurement decides: status, reason, mask parameters, times, work, memory,
// clocks, check. `row` comes from point_to_row(). Returns 0 when the row stands, whatever its status;
// -1 for an error of the harness itself (a rate above the device's peak): row->reason says it, and
// nothing measured so far can be trusted.
int measure_point(const struct point *p, struct row *row);
// The same with this kernel instead of the registry's; NULL: there is none.
int measure_kernel(const struct point *p, const struct attn_kernel *kernel, struct row *row);

#endif
