// progress.c -- the status line. Time left follows the estimates of the points that remain, scaled by
// how true the estimates of the finished ones were.
#include "progress.h"

#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "timer.h"

enum { PLAIN_EVERY_S = 10 };

const char *progress_duration(double s, char *buf, size_t size) {
  const long t = s < 0 ? 0 : (long)(s + 0.5);
  if (t >= 3600)
    snprintf(buf, size, "%ldh%02ldm", t / 3600, t % 3600 / 60);
  else if (t >= 60)
    snprintf(buf, size, "%ldm%02lds", t / 60, t % 60);
  else
    snprintf(buf, size, "%lds", t);
  return buf;
}

void progress_begin(struct progress *p, size_t total, double expected_s, bool quiet) {
  *p = (struct progress){.terminal = isatty(STDERR_FILENO), .quiet = quiet, .total = total};
  p->expected_s = expected_s;
  p->begin_us = p->last_us = timer_now_us();
}

double progress_left_s(const struct progress *p) {
  const double left_s = p->expected_s - p->passed_s;
  const double took_s = (timer_now_us() - p->begin_us) * 1e-6;
  // The first points carry start-up costs: trust the estimates until a few seconds have passed.
  const double scale = took_s > 3 && p->passed_s > 0 ? took_s / p->passed_s : 1;
  return left_s > 0 ? left_s * scale : 0;
}

void progress_step(struct progress *p, double expected_s, const char *text, bool notable) {
  p->done++;
  p->passed_s += expected_s;
  const double now_us = timer_now_us();
  if (p->quiet || (!notable && !p->terminal && now_us - p->last_us < PLAIN_EVERY_S * 1e6))
    return;
  p->last_us = now_us;
  char left[32], line[512];
  snprintf(line, sizeof line, "[%zu/%zu] %s left  %s", p->done, p->total,
           progress_duration(progress_left_s(p), left, sizeof left), text);
  struct winsize window;
  if (p->terminal && !notable && !ioctl(STDERR_FILENO, TIOCGWINSZ, &window) && window.ws_col > 1)
    fprintf(stderr, "\r\033[K%.*s", window.ws_col - 1, line);
  else
    fprintf(stderr, "%s%s\n", p->terminal ? "\r\033[K" : "", line);
}

void progress_end(struct progress *p, const char *text) {
  if (!p->quiet)
    fprintf(stderr, "%s%s\n", p->terminal ? "\r\033[K" : "", text);
}
