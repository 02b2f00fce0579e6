// calibrate.h -- a machine file for `longca model`, measured.
#ifndef LONGCA_CALIBRATE_H
#define LONGCA_CALIBRATE_H

#include "../cp/model.h"

struct calibrate_request {
  const char *transport, *kernel;
  int32_t ranks, heads_q, heads_kv, dim; // ranks 0: the job's, and 2 where ranks are threads
};

// Measures on these ranks and prints the machine file on rank 0's stdout. Exit status; says on
// stderr what is wrong.
int calibrate(const struct calibrate_request *r);

#endif
