// tile_bits.h -- what the partial tiles of a work list show, made once, in preparation.
//
// The bits of a tile are the same for all query heads of a class, and for each of the 256 threads that hold its
// accumulators one or two words (row_bits.cuh). So the kernels do not ask a representation: a thread loads its
// words. In the order of threads, a tile of forward has 2 KB, a step of backward 1 KB.
#ifndef LONGCA_WGMMA_TILE_BITS_H
#define LONGCA_WGMMA_TILE_BITS_H

#include "../attn.h"
#include "../worklist.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { TILE_BITS_THREADS = 256 };

struct tile_bits_view {
  // [runs of the list] where the bits of a run's first tile stand, those of the others behind them; -1: they
  // have none. NULL: no run has any.
  const int32_t *first;
  const void *bits; // [tiles that have them][threads]: of forward, row_bits; of backward, uint32_t
};

struct tile_bits {
  struct tile_bits_view view; // device memory
  int64_t tiles, bytes;       // that have bits; of that memory
};

struct rep_device;

// kernel: NULL, or forward_bits or backward_bits (tile_bits.cuh) compiled at run time, over a struct that begins as
// the representation's. 0, or -1 with attn_error() set. Blocks.
int tile_bits_build(struct tile_bits *bits, const struct rep_device *rep,
                    const struct worklist *list, enum attn_pass pass, const void *kernel);
void tile_bits_free(struct tile_bits *bits);

#ifdef __cplusplus
}
#endif

#endif
