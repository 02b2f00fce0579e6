// loopback_gpu.c -- loopback with buffers on one GPU, which all ranks share: proves schedules on device memory
// where there is but one GPU, and says nothing of links.
#include <cuda_runtime_api.h>

#include "loopback.h"

extern const struct cp_transport cp_loopback_gpu;

struct on_device {
  int device;
  int (*body)(struct cp_comm *, void *);
  void *context;
};

// A new thread would use the first GPU, whichever this one has chosen.
static int body_on_device(struct cp_comm *comm, void *context) {
  const struct on_device *d = context;
  if (cudaSetDevice(d->device) == cudaSuccess)
    return d->body(comm, d->context);
  attn_error_set(false, "cannot use GPU %d", d->device);
  return -1;
}

static int run_gpu(int ranks, double limit_s, int (*body)(struct cp_comm *, void *),
                   void *context) {
  struct on_device d = {0, body, context};
  if (cudaGetDevice(&d.device) != cudaSuccess) {
    attn_error_set(false, "there is no GPU");
    return -1;
  }
  return cp_loopback_run(&cp_loopback_gpu, &cp_memory_device, ranks, limit_s, body_on_device, &d);
}

const struct cp_transport cp_loopback_gpu = {.name = "loopback_gpu",
                                             .summary = "all ranks as threads that share one GPU",
                                             .place = ATTN_DEVICE,
                                             .run = run_gpu,
                                             CP_LOOPBACK_TRANSFERS};
