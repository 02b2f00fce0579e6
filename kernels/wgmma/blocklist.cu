// blocklist.cu -- the wgmma engine over the blocklist representation.
#include "launch.cuh"

WGMMA_REP(blocklist)
