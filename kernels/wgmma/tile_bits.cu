// tile_bits.cu -- see tile_bits.h: which tiles have bits, and the kernels that make them for representations
// compiled ahead.
#include "tile_bits.cuh"

#include <string.h>

#include <algorithm>

#include "../gpu.cuh"
#include "../rep_device.h"
#include "backward_shared.cuh"
#include "forward_shared.cuh"

namespace {

using namespace wgmma;
static_assert(TILE_BITS_THREADS == 2 * FWD_ROWS && FWD_KEYS == 128, "a thread has two words of a tile's row pairs");
static_assert(TILE_BITS_THREADS == 2 * static_cast<int>(BWD_KEYS) && BWD_QUERIES == 64, "and one in backward");

// Whether a kernel asks for the bits of tiles of this run.
__device__ bool has_bits(const worklist_item &item, const worklist_run &run, attn_pass pass) {
  if (pass == ATTN_FWD)
    return run.valid;
  const int valid = run.valid ? run.valid & 0xffff : BWD_QUERIES;
  return bwd_part(run.valid, valid, item.rows, 0) > 0 || bwd_part(run.valid, valid, item.rows, 1) > 0;
}

// A warp takes an item and its lanes a run each. Places are given out as warps come by: which bits stand where
// changes nothing.
__global__ void place_bits(worklist_view list, attn_pass pass, int32_t *first, unsigned long long *tiles) {
  const int i = (blockIdx.x * blockDim.x + threadIdx.x) / 32, lane = threadIdx.x % 32;
  if (i >= list.count * list.classes)
    return;
  const worklist_item item = list.items[i];
  for (int base = item.run_begin; base < item.run_end; base += 32) {
    const int r = base + lane;
    int mine = 0;
    if (r < item.run_end) {
      const worklist_run run = list.runs[r];
      mine = has_bits(item, run, pass) ? run.tiles : 0;
    }
    int upto = mine; // of the lanes up to this one
#pragma unroll
    for (int by = 1; by < 32; by *= 2) {
      const int below = __shfl_up_sync(~0u, upto, by);
      upto += lane >= by ? below : 0;
    }
    int begin = 0;
    if (lane == 31 && upto)
      begin = (int)atomicAdd(tiles, (unsigned long long)upto);
    begin = __shfl_sync(~0u, begin, 31);
    if (r < item.run_end)
      first[r] = mine ? begin + upto - mine : -1;
  }
}

const void *own_kernel(const char *rep, attn_pass pass) {
#define OWN(X) \
  if (!strcmp(rep, #X)) \
    return pass == ATTN_FWD ? GPU_ENTRY(forward_bits<X>) : GPU_ENTRY(backward_bits<X>);
  OWN(dense)
  OWN(band)
  OWN(columns)
  OWN(spans)
  OWN(blocklist)
  OWN(varblock)
#undef OWN
  return NULL; // blockmap: its predicate is compiled at run time
}

} // namespace

int tile_bits_build(struct tile_bits *b, const struct rep_device *rep, const struct worklist *list,
                    enum attn_pass pass, const void *kernel) {
  memset(b, 0, sizeof *b);
  if (!list->runs)
    return 0;
  const int64_t items = (int64_t)list->view.count * list->view.classes;
  const int64_t tile_bytes = TILE_BITS_THREADS * (pass == ATTN_FWD ? sizeof(row_bits) : sizeof(uint32_t));
  gpu_memory counting;
  unsigned long long tiles = 0, *total;
  int64_t account = 0; // not kept
  int32_t *first;
  if (counting.copy(&total, &tiles, 1, &account))
    return -1;
  if (gpu_check(cudaMalloc(&first, list->runs * sizeof *first), "allocating the places of tiles' bits"))
    return -1;
  b->view.first = first;
  b->bytes = list->runs * (int64_t)sizeof *first;
  place_bits<<<(unsigned)((items + 3) / 4), 128>>>(list->view, pass, first, total);
  GPU_LAUNCHED("placing the bits of partial tiles");
  GPU_TRY(cudaMemcpy(&tiles, total, sizeof tiles, cudaMemcpyDeviceToHost));
  if (!tiles) {
    tile_bits_free(b);
    return 0;
  }
  if (tiles > INT32_MAX) {
    attn_error_set(false, "the mask has %llu partial tiles, more than %d", tiles, INT32_MAX);
    return -1;
  }
  void *bits;
  if (gpu_check(cudaMalloc(&bits, (int64_t)tiles * tile_bytes), "allocating the bits of partial tiles"))
    return -1;
  b->view.bits = bits;
  b->tiles = (int64_t)tiles;
  b->bytes += b->tiles * tile_bytes;
  // Blocks enough for all multiprocessors, and for a few long items among many.
  const int64_t slices = std::min<int64_t>(std::min<int64_t>(std::max<int64_t>(2048 / items, 8), 64), list->longest);
  if (!kernel)
    kernel = own_kernel(rep->ops->name, pass);
  void *args[] = {rep->copy, (void *)&list->view, &first, &bits};
  GPU_TRY(cudaLaunchKernel(kernel, dim3((unsigned)items, (unsigned)slices), TILE_BITS_THREADS, args, 0, NULL));
  GPU_TRY(cudaDeviceSynchronize());
  return 0;
}

void tile_bits_free(struct tile_bits *b) {
  cudaFree((void *)b->view.first);
  cudaFree((void *)b->view.bits);
  memset(b, 0, sizeof *b);
}
