// spans.cu -- the wgmma engine over the spans representation.
#include "backward_launch.cuh"
#include "launch.cuh"

WGMMA_REP(spans)
WGMMA_BACKWARD(spans)
