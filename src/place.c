// place.c -- the host and the device behind struct place.
//
// Memory: on the host the kernel's high-water mark of resident memory (VmHWM) less what was resident
// before; the process is fresh, so the mark is this point's. On the device what the driver counts,
// read right after the call: a plan holds its workspace, so nothing is given back before.
// Peaks: a device's comes from its clock and tensor cores; the host's is its own FMA rate, measured.
#include "place.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "../kernels/cpu/cpu.h"
#include "sys.h"
#include "timer.h"

static int nothing(void) { return 0; }

// ---- host -----------------------------------------------------------------------------------

static double resident_before;

static double status_bytes(const char *field) {
  return sys_field_bytes("/proc/self/status", field);
}

static void host_peak_begin(size_t held) { resident_before = status_bytes("VmRSS") - (double)held; }
static double host_peak_bytes(void) { return status_bytes("VmHWM") - resident_before; }

static int host_sample(int (*call)(void *), void *context, struct device_sample *sample) {
  memset(sample, 0, sizeof *sample);
  sample->sm_mhz = sample->power_w = NAN;
  const double begin_us = timer_now_us();
  const int status = call(context);
  sample->time_us = timer_now_us() - begin_us;
  return status ? -1 : 0;
}

// Best of several short runs of FMA on one thread, times the threads: all at once would need every core
// to be free at the same moment, and one that is not makes the peak too low.
static double fma_tflop_s(void) {
  double best = 0;
  for (int i = 0; i < 10; i++) {
    const double begin_us = timer_now_us();
    const double flop = cpu_isa()->peak(2000);
    const double rate = flop / (timer_now_us() - begin_us) * 1e-6;
    best = rate > best ? rate : best;
  }
  return best * omp_get_max_threads();
}

static double *host_peak; // in memory that forked workers share: each may find a better one

static double host_peak_tflop_s(enum attn_dtype dtype, double seen) {
  // bf16 is computed in fp32, so both have the same peak. A busy machine measures it too low.
  for (int i = 0; i < 8 && (*host_peak == 0 || seen > *host_peak); i++) {
    const double again = fma_tflop_s();
    *host_peak = again > *host_peak ? again : *host_peak;
  }
  return *host_peak;
}

static const char *host_error(void) { return "out of host memory"; }
static bool host_oom(void) { return true; } // nothing else can fail here

static const struct place host = {.shares_host = true,
                                  .open = nothing,
                                  .arch = nothing,
                                  .sync = nothing,
                                  .sample = host_sample,
                                  .peak_begin = host_peak_begin,
                                  .peak_bytes = host_peak_bytes,
                                  .peak_tflop_s = host_peak_tflop_s,
                                  .error = host_error,
                                  .error_is_oom = host_oom};

// ---- device ---------------------------------------------------------------------------------

static struct device_info info;
static double used_before;

static int open_device(void) {
  static bool done;
  const char *index = getenv("LONGCA_DEVICE"); // set by `longca rank`: a GPU a rank
  if (!done && (device_open(index ? atoi(index) : 0) || device_info(&info)))
    return -1;
  done = true;
  return 0;
}

static int device_arch(void) { return info.arch; }

static void *alloc_device(size_t bytes) {
  void *ptr;
  return device_alloc(&ptr, bytes) ? NULL : ptr;
}

static int poison_device(void *placed, size_t bytes) { return device_fill(placed, 0xff, bytes); }

static double used_bytes(void) {
  const int64_t used = device_mem_used();
  return used < 0 ? NAN : (double)used;
}

static void device_peak_begin(size_t held) { used_before = used_bytes() - (double)held; }
static double device_peak_bytes(void) { return used_bytes() - used_before; }

static double device_peak_tflop_s(enum attn_dtype dtype, double seen) {
  return dtype == ATTN_BF16 ? info.peak_tflop_s_bf16 : NAN;
}

static const struct place device = {.open = open_device,
                                    .arch = device_arch,
                                    .alloc = alloc_device,
                                    .release = device_free,
                                    .poison = poison_device,
                                    .upload = device_upload,
                                    .download = device_download,
                                    .sync = device_sync,
                                    .sample = device_sample,
                                    .peak_begin = device_peak_begin,
                                    .peak_bytes = device_peak_bytes,
                                    .peak_tflop_s = device_peak_tflop_s,
                                    .error = device_error,
                                    .error_is_oom = device_error_is_oom};

const struct place *place_of(enum attn_place place) {
  static double alone;
  if (!host_peak) {
    host_peak =
        mmap(NULL, sizeof *host_peak, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (host_peak == MAP_FAILED)
      host_peak = &alone;
  }
  return place == ATTN_DEVICE ? &device : &host;
}
