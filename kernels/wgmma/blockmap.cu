// blockmap.cu -- the wgmma engine over the block map. Its kernels have a predicate compiled in and come by
// wgmma_use(); none stands here.
#include "backward_launch.cuh"
#include "launch.cuh"

template <> const void *wgmma::own_forward<blockmap, 64>() { return NULL; }
template <> const void *wgmma::own_forward<blockmap, 128>() { return NULL; }
template <> const void *wgmma::own_backward<blockmap, 64>() { return NULL; }
template <> const void *wgmma::own_backward<blockmap, 128>() { return NULL; }

WGMMA_REP(blockmap)
WGMMA_BACKWARD(blockmap)
