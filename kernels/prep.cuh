// prep.cuh -- representations built on the device (rep_device.h): the mask's own arrays go there once,
// as input, and all that follows from them is made there, the same bytes as the host's builders make.
// Lists of blocks have one builder (prep_lists.cu), from bits that say which blocks are seen.
#ifndef LONGCA_PREP_CUH
#define LONGCA_PREP_CUH

#include "gpu.cuh"
#include "rep/lists.h"

// Of each block row, a bit a block column: whether the block is seen, and whether all of it is.
struct block_bits {
  const uint32_t *seen, *full; // device, [heads, rows, ceil(columns / 32)]; may be the same
  int32_t heads, rows, columns;
};

// Lists both ways of the blocks that are seen; their arrays come from `memory`, counted in *bytes.
// 0, or -1 with attn_error() set, as below.
int prep_lists(block_lists *q2k, block_lists *k2q, const block_bits &bits, gpu_memory &memory,
               int64_t *bytes);

// Fills the zeroed struct of the representation `name`; 1: that one is built on the host.
int prep_rep(void *rep, const char *name, const struct mask *m, gpu_memory &memory, int64_t *bytes);

#endif
