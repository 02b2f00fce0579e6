// blocklist.cu -- the mma engine over lists of square blocks, one list a KV head. Tiles that lie in a
// block are full; those that straddle blocks ask for each pair.
#include "../rep/blocklist.h"
#include "launch.cuh"

MMA_ALLOWS(blocklist)
MMA_REP(blocklist)
