// blockmap.cu -- the wgmma engine over the blockmap representation.
#include "backward_launch.cuh"
#include "launch.cuh"

WGMMA_REP(blockmap)
WGMMA_BACKWARD(blockmap)
