// measure_job.h -- how a worker and the ranks of its job talk: two files of a folder, each replaced by a
// rename whenever there is something new, and numbered inside.
//
// On storage that hosts share, opening a file asks the server for its newest version, while a name that
// was missing may seem missing for long: so both files exist from the start, and none is waited for.
#ifndef LONGCA_MEASURE_JOB_H
#define LONGCA_MEASURE_JOB_H

#include <stdint.h>

#include "point.h"

enum { JOB_PATH = 600, JOB_END = -1 };

struct job_point { // file `point`: what to measure, or number JOB_END
  int64_t number;
  struct point point;
};

struct job_row { // file `row`: what became of the point of that number; 0: nothing yet
  int64_t number;
  struct row row;
};

// Replaces folder/name by way of another file. false with errno.
bool job_write(const char *folder, const char *name, const void *data, size_t size);
// false with errno, which is 0 where the file is short.
bool job_read(const char *folder, const char *name, void *data, size_t size);
// Sleeps between two looks: the longer the wait has been, the longer, from 1 to 20 ms; so an answer comes
// some 5 % late at worst, and a rank that waits costs nothing. *nap_us is 0 at first.
void job_nap(double *nap_us);

#endif
