// timer.c -- the host's clock: CLOCK_MONOTONIC, which no time service sets back.
#include "timer.h"

#include <time.h>

double timer_now_us(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec * 1e6 + (double)t.tv_nsec * 1e-3;
}

const char *timer_utc(char *buf, size_t size) {
  const time_t now = time(NULL);
  struct tm tm;
  gmtime_r(&now, &tm);
  if (!strftime(buf, size, "%Y-%m-%dT%H:%M:%SZ", &tm) && size)
    *buf = 0;
  return buf;
}
