// tile_bits.cuh -- the kernels that make the bits of partial tiles (tile_bits.h), for any representation. A thread
// stands for one of the 256 that will hold the tile's accumulators; blocks y share the tiles of item x.
#ifndef LONGCA_WGMMA_TILE_BITS_CUH
#define LONGCA_WGMMA_TILE_BITS_CUH

#include "seen_by.cuh"
#include "tile_bits.h"
#include "visible.cuh"

namespace wgmma {

// make(place, position, valid) for this block's share of the tiles that have bits; valid: inner rows that exist.
template <int Inner, class Make>
static __device__ __forceinline__ void each_tile_with_bits(const worklist_view &list, const worklist_item &item,
                                                           const int32_t *first, Make make) {
  const int slices = gridDim.y, slice = blockIdx.y;
  for (int r = item.run_begin; r < item.run_end; r++) {
    const int begin = first[r];
    if (begin < 0)
      continue;
    const worklist_run run = list.runs[r];
    for (int t = (slice + slices - begin % slices) % slices; t < run.tiles; t += slices) {
      const bool cut = run.valid && t == run.tiles - 1;
      make(static_cast<int64_t>(begin) + t, run.pos + t * Inner, cut ? run.valid & 0xffff : Inner);
    }
  }
}

// This thread's first row in a tile of the outer side.
static __device__ __forceinline__ int tile_bits_row() { return threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4; }

template <class Rep>
__global__ void __launch_bounds__(TILE_BITS_THREADS)
    forward_bits(const __grid_constant__ Rep rep, const worklist_view list, const int32_t *first, uint2 *out) {
  const worklist_item item = list.items[blockIdx.x];
  const int head = blockIdx.x / list.count; // its class
  const int row = tile_bits_row(), last = item.rows - 1;
  each_tile_with_bits<128>(list, item, first, [&](int64_t place, int pos, int valid) {
    const row_bits seen =
        visible<128>(rep, head, item.pos + min(row, last), item.pos + min(row + 8, last), pos, valid);
    out[place * TILE_BITS_THREADS + threadIdx.x] = make_uint2(seen.top, seen.bottom);
  });
}

template <class Rep>
__global__ void __launch_bounds__(TILE_BITS_THREADS)
    backward_bits(const __grid_constant__ Rep rep, const worklist_view list, const int32_t *first, uint32_t *out) {
  const worklist_item item = list.items[blockIdx.x];
  const int head = blockIdx.x / list.count, key = tile_bits_row();
  each_tile_with_bits<64>(list, item, first, [&](int64_t place, int pos, int valid) {
    out[place * TILE_BITS_THREADS + threadIdx.x] =
        seen_in_step(rep, head, item.pos, key, item.rows, pos, valid);
  });
}

} // namespace wgmma
#endif
