// device.h -- the GPU as the harness sees it: memory, and timed samples. Plain C, no
// CUDA types. Without CUDA device_none.c stands in: there are 0 devices and every call fails,
// saying so.
//
// Calls return 0, or -1 with device_error() set; device_error_is_oom() tells lack of memory from
// the rest. One device a process, and no call but device_count() before device_open().
#ifndef LONGCA_DEVICE_H
#define LONGCA_DEVICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct device_info {
  char name[96];
  int arch; // compute capability * 10: 80, 90
  int sms;
  int64_t mem_bytes, l2_bytes;
  double sm_mhz_max;
  double peak_tflop_s_bf16; // dense tensor-core rate at sm_mhz_max; NaN where we do not know it
  int driver, runtime;      // CUDA versions * 1000: 13000
  bool emulated;            // kernels/emu: right, but without times
};

struct device_sample {
  double time_us; // between events around the call; launch cost hidden by a spinning kernel
  double sm_mhz; // mean SM clock during the sample, from clock64 over globaltimer; NaN if too short
  double power_w; // board power read after the sample; NaN without NVML
  bool throttled; // sm_mhz below 75 % of sm_mhz_max
  bool exposed;   // the spin's time limit ran out first, so launch cost is in time_us
};

int device_count(void);
int device_open(int index); // also makes the context, so that its memory is not a kernel's
int device_info(struct device_info *info);
void device_close(void); // releases what this module holds

int device_alloc(void **ptr, size_t bytes); // bytes 0 gives NULL
void device_free(void *ptr);
int device_upload(void *device, const void *host, size_t bytes);
int device_download(void *host, const void *device, size_t bytes);
int device_fill(void *device, int byte, size_t bytes);
int device_sync(void);         // also reports what earlier launches did wrong
int64_t device_mem_used(void); // bytes in use on the whole device, from the driver; -1 on error

// One cold sample of call(ctx), which enqueues on the default stream and must not synchronise:
//   flush L2 (write 256 MB) | spin until released | stamp, event, CALL, event, stamp
// Non-zero from the call becomes -1 here and leaves device_error() to the caller.
int device_sample(int (*call)(void *ctx), void *ctx, struct device_sample *sample);

// `count` such samples, after warm-up, of C = A B: bf16, n x n, columns first, in host memory.
int device_gemm(int n, const void *a, const void *b, void *c, struct device_sample *samples,
                int count);

const char *device_error(void);
bool device_error_is_oom(void);

#ifdef __cplusplus
}
#endif
#endif
