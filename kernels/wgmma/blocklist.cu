// blocklist.cu -- the wgmma engine over the blocklist representation.
#include "backward_launch.cuh"
#include "launch.cuh"

WGMMA_REP(blocklist)
WGMMA_BACKWARD(blocklist)
