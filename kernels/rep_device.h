// rep_device.h -- a mask representation with its arrays on the device, where they are built (prep.cuh),
// but for band, which the host builds and copies. `copy` is struct X itself, in host memory with
// device pointers: kernels take it by value.
#ifndef LONGCA_REP_DEVICE_H
#define LONGCA_REP_DEVICE_H

#include "rep/rep.h"

#ifdef __cplusplus
extern "C" {
#endif

struct rep_device {
  const struct rep_ops *ops;
  void *copy;
  int64_t bytes; // of the arrays on the device
  void *arrays[REP_ARRAYS_MAX];
  int count;
};

// 0, or -1 with attn_error() set; close in both cases.
int rep_device_open(struct rep_device *rep, const struct rep_ops *ops, const struct mask *mask);
// The same arrays, which stay the other's.
int rep_device_share(struct rep_device *rep, const struct rep_device *other);
void rep_device_close(struct rep_device *rep);

#ifdef __cplusplus
}
#endif
#endif
