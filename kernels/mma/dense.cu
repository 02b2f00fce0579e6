// dense.cu -- the mma engine over the S x S boolean mask: a row's keys in a tile are a 64-bit word.
#include "../rep/dense.h"
#include "launch.cuh"

MMA_ROW_BITS(dense)
MMA_REP(dense)
