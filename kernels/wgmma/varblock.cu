// varblock.cu -- the wgmma engine over the varblock representation.
#include "backward_launch.cuh"
#include "launch.cuh"

WGMMA_REP(varblock)
WGMMA_BACKWARD(varblock)
