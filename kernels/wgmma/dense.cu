// dense.cu -- the wgmma engine over the dense representation.
#include "backward_launch.cuh"
#include "launch.cuh"

WGMMA_REP(dense)
WGMMA_BACKWARD(dense)
