// pieces.cuh -- backward's last items in pieces, so that all multiprocessors are done together.
//
// A whole item is a CTA's: its keys, against every query head of the group. CTAs begin in the order of
// their numbers, as places for them come free, so an item that begins with `left` steps yet to begin
// (its own included) ends in time where it has at most left / places of them; else it is cut into
// pieces that have. Pieces shrink towards the end, and few are needed: all multiprocessors end within
// the shortest piece. What pieces of an item sum meets in fp32, and is rounded by a pass of its own.
#ifndef LONGCA_MMA_PIECES_CUH
#define LONGCA_MMA_PIECES_CUH

#include <algorithm>
#include <vector>

#include "../gpu.cuh"
#include "../ptx/math.cuh"
#include "engine.h"

namespace mma {

// Steps. To begin and to leave sums behind costs a piece about one, so with 8 that is still little.
constexpr int64_t SHORTEST_PIECE = 8;

// The pieces that follow the first *whole items, and how many items have sums. An item is known by
// its number, KV head * list.seen + place in the list. 0, or -1 with attn_error() set.
static inline int cut_items(const worklist &list, int heads_kv, int group, int64_t places,
                            std::vector<mma_piece> *pieces, int32_t *whole, int32_t *cut) {
  std::vector<worklist_item> items(list.seen);
  int32_t number = list.seen * heads_kv;
  int64_t left = 0;
  *whole = number, *cut = 0;
  while (number > 0 && left < (int64_t)list.longest * group * places) {
    const int head = --number / list.seen, place = number % list.seen;
    if (place == list.seen - 1 && (list.view.classes > 1 || head == heads_kv - 1))
      GPU_TRY(cudaMemcpy(items.data(),
                         list.view.items + (list.view.classes > 1 ? head : 0) * (int64_t)list.view.count,
                         items.size() * sizeof items[0], cudaMemcpyDeviceToHost));
    const int64_t steps = (int64_t)items[place].tiles * group;
    left += steps;
    const int64_t most = std::max(SHORTEST_PIECE, left / places), parts = (steps + most - 1) / most;
    for (int64_t i = parts; i-- > 0;) {
      const int32_t begin = (int32_t)(steps * i / parts), end = (int32_t)(steps * (i + 1) / parts);
      pieces->push_back({number, begin, end - begin, parts > 1 ? *cut : -1});
    }
    if (parts == 0)
      pieces->push_back({number, 0, 0, -1});
    if (parts > 1)
      *whole = number, ++*cut;
  }
  while (!pieces->empty() && pieces->back().item < *whole)
    pieces->pop_back();
  std::reverse(pieces->begin(), pieces->end());
  return 0;
}

// Block (x, y): dK (y 0) or dV of the item that piece x is the first of.
static __global__ void round_pieces(const mma_piece *pieces, worklist_view list, int tile,
                                    const float4 *sums, uint2 *dk, uint2 *dv, int heads_kv, int dim) {
  const mma_piece piece = pieces[blockIdx.x];
  if (piece.sums < 0 || piece.begin > 0)
    return;
  const int head = piece.item / list.count, chunks = dim / 4;
  const worklist_item &item =
      list.items[(int64_t)(list.classes > 1 ? head : 0) * list.count + piece.item % list.count];
  sums += ((int64_t)piece.sums * 2 + blockIdx.y) * tile * chunks;
  uint2 *out = blockIdx.y ? dv : dk;
  for (int i = threadIdx.x; i < item.rows * chunks; i += blockDim.x)
    out[((int64_t)(item.row + i / chunks) * heads_kv + head) * chunks + i % chunks] = make_uint2(
        ptx::pack_bf16(sums[i].x, sums[i].y), ptx::pack_bf16(sums[i].z, sums[i].w));
}

} // namespace mma
#endif
