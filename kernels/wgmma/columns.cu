// columns.cu -- the wgmma engine over the columns representation.
#include "backward_launch.cuh"
#include "launch.cuh"

WGMMA_REP(columns)
WGMMA_BACKWARD(columns)
