// blocklist.cu -- the mma engine over lists of square blocks, one list a KV head. A tile that lies
// in a block is full; one that straddles blocks looks each row up in its list once.
#include "../rep/blocklist.h"
#include "launch.cuh"

MMA_ROW_BITS(blocklist)
MMA_REP(blocklist)
