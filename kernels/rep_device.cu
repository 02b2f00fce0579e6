// rep_device.cu -- see rep_device.h.
#include "rep_device.h"

#include <stdlib.h>
#include <string.h>

#include "prep.cuh"

// Built on the host, array by array to the device.
static int copy_from_host(struct rep_device *rep, const struct mask *mask, gpu_memory &memory) {
  std::vector<char> host(rep->ops->size);
  if (rep->ops->build(host.data(), mask)) {
    attn_error_set(true, "out of host memory for the mask as %s", rep->ops->name);
    return -1;
  }
  memcpy(rep->copy, host.data(), host.size());
  struct rep_array list[REP_ARRAYS_MAX];
  const int count = rep->ops->arrays(host.data(), list);
  int status = 0;
  for (int i = 0; i < count && !status; i++) {
    char *from, *to;
    memcpy(&from, host.data() + list[i].offset, sizeof from);
    status = memory.copy(&to, from, (int64_t)list[i].bytes, &rep->bytes);
    memcpy((char *)rep->copy + list[i].offset, &to, sizeof to);
  }
  rep->ops->release(host.data());
  return status;
}

int rep_device_open(struct rep_device *rep, const struct rep_ops *ops, const struct mask *mask) {
  memset(rep, 0, sizeof *rep);
  rep->ops = ops;
  rep->copy = calloc(1, ops->size);
  if (!rep->copy) {
    attn_error_set(true, "out of host memory for the mask as %s", ops->name);
    return -1;
  }
  gpu_memory memory;
  int status = prep_rep(rep->copy, ops->name, mask, memory, &rep->bytes);
  if (status > 0)
    status = copy_from_host(rep, mask, memory);
  for (void *array : memory.blocks)
    rep->arrays[rep->count++] = array;
  memory.blocks.clear(); // they are the representation's now
  return status;
}

int rep_device_share(struct rep_device *rep, const struct rep_device *other) {
  memset(rep, 0, sizeof *rep);
  rep->ops = other->ops;
  rep->copy = malloc(rep->ops->size);
  if (!rep->copy) {
    attn_error_set(true, "out of host memory for the mask as %s", rep->ops->name);
    return -1;
  }
  memcpy(rep->copy, other->copy, rep->ops->size);
  return 0;
}

void rep_device_close(struct rep_device *rep) {
  for (int i = 0; i < rep->count; i++)
    cudaFree(rep->arrays[i]);
  free(rep->copy);
  memset(rep, 0, sizeof *rep);
}
