// columns.cu -- the wgmma engine over the columns representation.
#include "launch.cuh"

WGMMA_REP(columns)
