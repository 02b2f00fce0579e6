// progress.h -- how far a run is, on stderr: one line rewritten on a terminal, plain lines elsewhere.
#ifndef LONGCA_PROGRESS_H
#define LONGCA_PROGRESS_H

#include <stdbool.h>
#include <stddef.h>

struct progress {
  bool terminal, quiet;
  size_t done, total;
  double begin_us, last_us;
  double expected_s, passed_s; // estimates: of all points, and of those done
};

void progress_begin(struct progress *p, size_t total, double expected_s, bool quiet);
// One point is done that was expected to take expected_s. `text` describes it; `notable` lines are
// printed always, others on a terminal or every few seconds.
void progress_step(struct progress *p, double expected_s, const char *text, bool notable);
void progress_end(struct progress *p, const char *text);
// Seconds left, by the estimates scaled to the time that they really took so far.
double progress_left_s(const struct progress *p);
// "3m20s" into buf; returns buf.
const char *progress_duration(double s, char *buf, size_t size);

#endif
