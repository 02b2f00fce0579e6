// runner_plan.h -- what a run has to measure: the points that lack a row, and the rows that give way to them.
//
// A point is done when its file has a row of the same key (point_key: profile and independent
// variables, not the experiment), so what one figure measured another never repeats. A row that was
// only left out by one experiment does not stand in the way of another that measures it.
#ifndef LONGCA_RUNNER_PLAN_H
#define LONGCA_RUNNER_PLAN_H

#include "runner.h"
#include "store.h"

#define PLAN_LEFT_OUT "left out: " // how the reason of a row begins that an experiment left out

struct plan {
  const struct point **points; // [n], the caller's
  double *expected_s;          // [n]
  size_t n;
};

// The points to measure, and what they count in the summary. s: the open file, whose rows that will be
// measured again are dropped (with o->together not before their comparison begins); NULL: a dry run.
// 0, or -1 with a sentence in err. Release it even after a failure.
int plan_make(struct plan *plan, const struct point *points, size_t n, struct store *s,
              const struct runner_options *o, struct runner_summary *sum, char *err,
              size_t err_size);
void plan_release(struct plan *plan);

// What the kernels of a comparison share of their keys; returns key.
const char *plan_comparison(const struct point *p, char key[POINT_KEY]);
// Drops the old rows of the comparison that begins at point i of the plan. 0, or -1 with err.
int plan_drop_comparison(struct store *s, const struct plan *plan, size_t i, char *err,
                         size_t err_size);

#endif
