// device_none.c -- device.h in a build without CUDA: no devices, and every call says so.
#include "device.h"

int device_count(void) { return 0; }
int device_open(int index) { return -1; }
int device_info(struct device_info *info) { return -1; }
void device_close(void) {}
int device_alloc(void **ptr, size_t bytes) {
  *ptr = NULL;
  return -1;
}
void device_free(void *ptr) {}
int device_upload(void *device, const void *host, size_t bytes) { return -1; }
int device_download(void *host, const void *device, size_t bytes) { return -1; }
int device_fill(void *device, int byte, size_t bytes) { return -1; }
int device_sync(void) { return -1; }
int64_t device_mem_used(void) { return -1; }
int device_sample(int (*call)(void *ctx), void *ctx, struct device_sample *sample) { return -1; }
int device_gemm(int n, const void *a, const void *b, void *c, struct device_sample *samples,
                int count) {
  return -1;
}
const char *device_error(void) { return "this build has no CUDA (make CUDA=1 with a toolkit)"; }
bool device_error_is_oom(void) { return false; }
