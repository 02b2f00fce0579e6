// runner.h -- measures a list of points into the rows of one machine and profile, resuming.
#ifndef LONGCA_RUNNER_H
#define LONGCA_RUNNER_H

#include "filter.h"
#include "worker.h"

struct runner_options {
  const char *path; // of the rows: data/fresh/MACHINE/PROFILE.csv
  const char *machine, *commit;
  const struct filter *only; // NULL: all points
  bool retry;                // measure again what is there but not ok
  bool together; // measure all kernels of a comparison again where one of them has no row
  bool dry_run;  // count and estimate, measure nothing
  bool quiet;
  double limit_s; // time limit of a point instead of the experiment's; 0: the experiment's
  double stop_s;  // no comparison is begun after this time; 0: no limit
  worker_measure measure;
};

struct runner_summary {
  size_t points;                  // asked for, after `only` and without repetitions
  size_t there;                   // of these, measured before
  size_t measured;                // rows appended now
  size_t left;                    // not begun: stop_s had passed
  size_t by_status[ROW_STATUSES]; // of those measured now
  double expected_s;              // estimate of what is (was) to be measured
};

// A comparison is the kernels of one mask, shape, pass and draw, which follow each other.
// Runs the points that have no row yet. Returns 0, or -1 with a sentence in err when the run had to
// stop: another run has the file, the disk is full, the harness is wrong, SIGINT or SIGTERM came.
// Every row appended before stays, and the same call goes on from there.
int runner_run(const struct point *points, size_t n, const struct runner_options *o,
               struct runner_summary *summary, char *err, size_t err_size);

#endif
