// check.h -- is what a kernel just wrote right? The gate before every timing.
#ifndef LONGCA_CHECK_H
#define LONGCA_CHECK_H

#include "verify.h"

// Compares the outputs in `args` (host memory: o and lse, or dq, dk, dv with o and lse of the forward)
// with the double reference on the same inputs. Whole tensors while the reference costs at most
// CHECK_FULL_FLOP; above that, CHECK_SAMPLES seeded rows of each tensor over seeded heads, the first
// and the last row always among them, and no NaN anywhere. True when right; the report tells how far off.
// An error of memory is reported as wrong, with `rows` 0.
#define CHECK_FULL_FLOP 2e8
enum { CHECK_SAMPLES = 24 };
bool check_outputs(const struct attn_problem *p, const struct attn_args *args, enum attn_pass pass,
                   uint64_t seed, struct verify_report *report);

#endif
