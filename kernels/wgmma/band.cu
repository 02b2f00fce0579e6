// band.cu -- the wgmma engine over the band representation.
#include "backward_launch.cuh"
#include "launch.cuh"

WGMMA_REP(band)
WGMMA_BACKWARD(band)
