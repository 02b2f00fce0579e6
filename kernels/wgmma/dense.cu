// dense.cu -- the wgmma engine over the dense representation.
#include "launch.cuh"

WGMMA_REP(dense)
