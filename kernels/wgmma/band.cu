// band.cu -- the wgmma engine over the band representation.
#include "launch.cuh"

WGMMA_REP(band)
