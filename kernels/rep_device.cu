// rep_device.cu -- see rep_device.h.
#include "rep_device.h"

#include <stdlib.h>
#include <string.h>

#include "gpu.cuh"

int rep_device_open(struct rep_device *rep, const struct rep_ops *ops, const struct mask *mask) {
  memset(rep, 0, sizeof *rep);
  rep->ops = ops;
  rep->copy = calloc(2, ops->size); // second half: the host's own
  void *host = rep->copy ? (char *)rep->copy + ops->size : NULL;
  if (!host || ops->build(host, mask)) {
    attn_error_set(true, "out of host memory for the mask as %s", ops->name);
    return -1;
  }
  memcpy(rep->copy, host, ops->size);
  struct rep_array list[REP_ARRAYS_MAX];
  const int count = ops->arrays(host, list);
  int status = 0;
  for (int i = 0; i < count && !status; i++) {
    void *from, *to = NULL;
    memcpy(&from, (char *)host + list[i].offset, sizeof from);
    if (list[i].bytes) {
      status = gpu_check(cudaMalloc(&to, list[i].bytes), "allocating the mask on the GPU");
      if (!status) {
        rep->arrays[rep->count++] = to;
        rep->bytes += (int64_t)list[i].bytes;
        status = gpu_check(cudaMemcpy(to, from, list[i].bytes, cudaMemcpyHostToDevice),
                           "copying the mask to the GPU");
      }
    }
    memcpy((char *)rep->copy + list[i].offset, &to, sizeof to);
  }
  ops->release(host);
  return status;
}

void rep_device_close(struct rep_device *rep) {
  for (int i = 0; i < rep->count; i++)
    cudaFree(rep->arrays[i]);
  free(rep->copy);
  memset(rep, 0, sizeof *rep);
}
