// timer.h -- the host's clock.
#ifndef LONGCA_TIMER_H
#define LONGCA_TIMER_H

#include <stddef.h>

// Monotonic time in microseconds since an arbitrary moment; resolution about 0.03 us.
double timer_now_us(void);
// UTC now as 2026-01-31T23:59:59Z into buf (at least 21 bytes); returns buf.
const char *timer_utc(char *buf, size_t size);

#endif
