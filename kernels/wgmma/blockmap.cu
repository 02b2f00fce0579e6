// blockmap.cu -- the wgmma engine over the blockmap representation.
#include "launch.cuh"

WGMMA_REP(blockmap)
