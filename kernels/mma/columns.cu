// columns.cu -- the mma engine over FlashMask's column intervals: four bounds a key.
#include "../rep/columns.h"
#include "launch.cuh"

MMA_ALLOWS(columns)
MMA_REP(columns)
