// mask_sizes.h -- what a mask takes in each representation (kernels/rep): the paper's open question C.
#ifndef LONGCA_MASK_SIZES_H
#define LONGCA_MASK_SIZES_H

#include "mask.h"

// One CSV line a representation behind `prefix`: name, bytes of its arrays, milliseconds that the host's
// builder took, reason. Only the last where the mask cannot be expressed. A dense mask of more than
// 128 MiB is not built: its bytes are the formula's, and the time is left out. 0, or -1: out of memory.
int mask_sizes_print(const struct mask *m, const char *prefix);

#endif
