// varblock.cu -- the wgmma engine over the varblock representation.
#include "launch.cuh"

WGMMA_REP(varblock)
