// blocklist.cu -- the mma engine over lists of square blocks, one list a KV head. A tile that lies
// in a block is full; one that straddles blocks (a segment that begins in one) looks each row up in
// its list once. Lists of blocks of 64 have tiles of 64.
#include "../rep/blocklist.h"
#include "launch.cuh"

MMA_ROW_BITS(blocklist)
template<> constexpr bool mma::small_tiles<blocklist> = true;
MMA_REP(blocklist)
