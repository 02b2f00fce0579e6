// place.h -- where a kernel runs, as measure.c sees it: memory, synchronisation, one timed call.
#ifndef LONGCA_PLACE_H
#define LONGCA_PLACE_H

#include "../kernels/attn.h"
#include "device.h"

struct place {
  bool shares_host;  // its memory is the host's; nothing is copied there
  int (*open)(void); // once a process; later calls do nothing. 0, or -1
  int (*arch)(void); // compute capability * 10; 0 on the host
  void *(*alloc)(size_t bytes);
  void (*release)(void *ptr);
  int (*poison)(void *placed, size_t bytes); // with NaN
  int (*upload)(void *placed, const void *host, size_t bytes);
  int (*download)(void *host, const void *placed, size_t bytes);
  int (*sync)(void);
  int (*sample)(int (*call)(void *), void *context, struct device_sample *sample);
  // Most memory in use since peak_begin(); `held` bytes of the point's tensors are there already.
  void (*peak_begin)(size_t held);
  double (*peak_bytes)(void); // NaN when it cannot be told
  // Peak rate; NaN when unknown. `seen` is a rate just measured: a peak that is itself measured
  // (the host's) is measured again before it is said to be below that.
  double (*peak_tflop_s)(enum attn_dtype dtype, double seen);
  const char *(*error)(void);
  bool (*error_is_oom)(void);
};

// The first call must come before the first fork: the host's measured peak is shared from then on.
const struct place *place_of(enum attn_place place);

#endif
