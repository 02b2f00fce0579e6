// worklist.cu -- builds the work list on the device (worklist.h).
//
// A warp takes an outer tile and its lanes an inner tile each, 32 at a time: the representation's
// own walk, over that tile alone, says its class. Neighbours of one class are one run; the ragged
// last tile of a full run becomes a partial run of its own, so that an engine looks at `valid` in
// partial runs only. There are two passes: the first counts, and each item finds its place from the
// counts of its class, longest first; the second writes. The host reads the totals between them,
// to allocate what is needed and no more.
#include <string.h>

#include <algorithm>
#include <vector>

#include "gpu.cuh"
#include "rep/band.h"
#include "rep/blocklist.h"
#include "rep/blockmap.h"
#include "rep/columns.h"
#include "rep/dense.h"
#include "rep/varblock.h"
#include "rep_device.h"
#include "worklist.h"

namespace {

// A tile of positions, outer by inner.
struct tile {
  int32_t outer_begin, outer_end, inner_begin, inner_end;
};

// The class of one tile by the walk that suits the side, by overload.
#define CLASS_OF(X) \
  __device__ __forceinline__ tile_class class_of(const X *x, int head, const tile &t, bool keys) { \
    const tile_view view = \
        keys ? tile_view{t.outer_begin, t.outer_end, t.inner_begin, t.inner_end, \
                         t.inner_end - t.inner_begin} \
             : tile_view{t.inner_begin, t.inner_end, t.outer_begin, t.outer_end, \
                         t.inner_end - t.inner_begin}; \
    const tile_run run = keys ? X##_next_keys(x, head, &view, 0) : X##_next_queries(x, head, &view, 0); \
    return run.begin >= run.end ? TILE_EMPTY : run.full ? TILE_FULL : TILE_PARTIAL; \
  }
CLASS_OF(dense)
CLASS_OF(band)
CLASS_OF(columns)
CLASS_OF(blockmap)
CLASS_OF(blocklist)
CLASS_OF(varblock)
#undef CLASS_OF

struct list_shape {
  const worklist_item *cuts;    // [count] a class's items in the order of rows: row, pos, rows
  const attn_segment *segments; // [segment_count] of the inner side
  int32_t count, classes, segment_count, outer, inner;
  bool keys, halves;
};

// What a run says of a tile: `valid` of a run of this tile alone, or UNSEEN.
enum { UNSEEN = -1, WHOLE = 0, HALVES = ~0xffff };

template<class Rep>
__device__ int32_t code_of(const Rep *rep, int head, const list_shape &s, const worklist_item &item,
                           int32_t at, int32_t valid) {
  tile t = {item.pos, item.pos + item.rows, at, at + valid};
  const tile_class whole = class_of(rep, head, t, s.keys);
  if (whole == TILE_EMPTY)
    return UNSEEN;
  if (whole == TILE_FULL && valid == s.inner)
    return WHOLE;
  if (!s.halves)
    return valid;
  int32_t bits = 0;
  for (int h = 0; h < 2; h++) {
    t.outer_begin = item.pos + h * (s.outer / 2);
    t.outer_end = item.pos + (h ? item.rows : min(item.rows, s.outer / 2));
    if (t.outer_begin >= t.outer_end)
      continue;
    const tile_class half = class_of(rep, head, t, s.keys);
    bits |= (half != TILE_EMPTY ? WORKLIST_SEEN << h : 0) | (half == TILE_FULL ? WORKLIST_WHOLE << h : 0);
  }
  return bits ? valid | bits : UNSEEN; // a block map may list what no half sees
}

// One warp an item. First pass (runs NULL): its counts to items, run_end as the number of runs, and
// the sums to totals [classes + 2]: runs of each class, tiles, partial tiles. Second: its runs.
template<class Rep>
__global__ void walk_items(Rep rep, list_shape s, worklist_item *items, unsigned long long *totals,
                           worklist_run *runs) {
  const int i = (blockIdx.x * blockDim.x + threadIdx.x) / 32, lane = threadIdx.x % 32;
  if (i >= s.count * s.classes)
    return;
  worklist_item item = runs ? items[i] : s.cuts[i % s.count];
  const int head = runs ? item.reserved : i / s.count; // its class
  worklist_run *out = runs ? runs + item.run_begin : nullptr;
  worklist_run open = {0, 0, 0, 0}; // the run of the tile before this round's; tiles == 0: none
  int32_t count = 0, tiles = 0, partial = 0;
  for (int j = 0; j < s.segment_count && item.pos >= 0; j++) { // pos -1: padding, sees nothing
    const attn_segment seg = s.segments[j];
    const int32_t n = rep_tiles(0, seg.len, s.inner);
    for (int32_t base = 0; base < n; base += 32) {
      const int32_t at = (base + lane) * s.inner, row = seg.row + at, pos = seg.pos + at;
      const int32_t code =
          base + lane < n ? code_of(&rep, head, s, item, pos, min(s.inner, seg.len - at)) : UNSEEN;
      int32_t before = __shfl_up_sync(~0u, code, 1);
      if (lane == 0)
        before = open.tiles && row == open.row + open.tiles * s.inner &&
                         pos == open.pos + open.tiles * s.inner
                     ? open.valid
                     : UNSEEN;
      // A partial tile goes on where the one before is whole and its halves see the same.
      const bool joins = before == (code == WHOLE ? WHOLE : s.inner | (code & HALVES));
      const unsigned seen = __ballot_sync(~0u, code != UNSEEN),
                     starts = __ballot_sync(~0u, code != UNSEEN && !joins),
                     masked = __ballot_sync(~0u, code > 0);
      // The run up to this lane: from the last start, or the open one.
      const unsigned started = starts & ~0u >> (31 - lane);
      const int32_t first = started ? 31 - __clz(started) : 0, length = lane - first + 1;
      worklist_run run = {row - (lane - first) * s.inner, pos - (lane - first) * s.inner, length, code};
      if (!started)
        run = {open.row, open.pos, open.tiles + length, code};
      const bool goes_on = lane < 31 && (seen & ~starts) >> (lane + 1) & 1;
      if (out && code != UNSEEN && !goes_on)
        out[count + __popc(started) - 1] = run;
      __syncwarp(); // the next round may write the same run again, longer
      const int last = min(31, n - 1 - base);
      open.row = __shfl_sync(~0u, run.row, last);
      open.pos = __shfl_sync(~0u, run.pos, last);
      open.tiles = seen >> last & 1 ? __shfl_sync(~0u, run.tiles, last) : 0;
      open.valid = __shfl_sync(~0u, run.valid, last);
      count += __popc(starts);
      tiles += __popc(seen);
      partial += __popc(masked);
    }
  }
  if (runs || lane)
    return;
  item.run_end = count;
  item.tiles = tiles;
  item.partial = partial;
  item.reserved = head;
  items[i] = item;
  atomicAdd(&totals[head], (unsigned long long)count);
  atomicAdd(&totals[s.classes], (unsigned long long)tiles);
  atomicAdd(&totals[s.classes + 1], (unsigned long long)partial);
}

// Each item to its place in its class, the longest first, equals in the order of rows; and its runs
// behind those of the items before. n^2 comparisons: a few thousand items a class are a few
// microseconds, and nothing waits for anything.
__global__ void place_items(const worklist_item *counted, const unsigned long long *totals,
                            int32_t count, int32_t classes, worklist_item *items) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= count * classes)
    return;
  const int head = i / count;
  const worklist_item *peers = counted + (int64_t)head * count;
  worklist_item item = counted[i];
  int32_t place = 0, begin = 0;
  for (int c = 0; c < head; c++)
    begin += (int32_t)totals[c];
#pragma unroll 4
  for (int j = 0; j < count; j++) {
    const bool before = peers[j].tiles > item.tiles || (peers[j].tiles == item.tiles && j < i % count);
    place += before;
    begin += before ? peers[j].run_end : 0;
  }
  item.run_begin = begin;
  item.run_end += begin;
  items[(int64_t)head * count + place] = item;
}

template<class Rep>
void launch_as(const rep_device *rep, const list_shape &s, worklist_item *items,
               unsigned long long *totals, worklist_run *runs) {
  walk_items<Rep><<<(s.count * s.classes + 3) / 4, 128>>>(*(const Rep *)rep->copy, s, items, totals, runs);
}
int launch(const rep_device *rep, const list_shape &s, worklist_item *items,
           unsigned long long *totals, worklist_run *runs) {
  const char *name = rep->ops->name;
  if (!strcmp(name, "dense"))
    launch_as<dense>(rep, s, items, totals, runs);
  else if (!strcmp(name, "band"))
    launch_as<band>(rep, s, items, totals, runs);
  else if (!strcmp(name, "columns"))
    launch_as<columns>(rep, s, items, totals, runs);
  else if (!strcmp(name, "blockmap"))
    launch_as<blockmap>(rep, s, items, totals, runs);
  else if (!strcmp(name, "blocklist"))
    launch_as<blocklist>(rep, s, items, totals, runs);
  else
    launch_as<varblock>(rep, s, items, totals, runs);
  GPU_LAUNCHED("building the work list");
  return 0;
}

std::vector<attn_segment> segments_of(const attn_segment *list, int32_t count, int32_t rows) {
  if (list)
    return std::vector<attn_segment>(list, list + count);
  return {attn_segment{0, 0, rows}};
}

void cut(std::vector<worklist_item> &items, int32_t row, int32_t pos, int32_t rows, int32_t outer) {
  for (int32_t i = 0; i < rows; i += outer)
    items.push_back({row + i, pos < 0 ? -1 : pos + i, std::min(outer, rows - i), 0, 0, 0, 0, 0});
}

// The items of a class, in the order of rows; rows in no segment are items that see nothing.
std::vector<worklist_item> cuts_of(const std::vector<attn_segment> &segments, int32_t rows, int32_t outer) {
  std::vector<worklist_item> items;
  int32_t done = 0;
  for (const attn_segment &s : segments) {
    cut(items, done, -1, s.row - done, outer);
    cut(items, s.row, s.pos, s.len, outer);
    done = s.row + s.len;
  }
  cut(items, done, -1, rows - done, outer);
  return items;
}

} // namespace

int worklist_build(struct worklist *list, const struct rep_device *rep,
                   const struct attn_problem *p, enum worklist_side side, int32_t outer,
                   int32_t inner, bool halves) {
  memset(list, 0, sizeof *list);
  const bool keys = side == WORKLIST_KEYS;
  const std::vector<attn_segment> q = segments_of(p->q_seg, p->q_segs, p->rows_q),
                                  k = segments_of(p->k_seg, p->k_segs, p->rows_k);
  const std::vector<worklist_item> cuts = cuts_of(keys ? q : k, keys ? p->rows_q : p->rows_k, outer);
  const std::vector<attn_segment> &inside = keys ? k : q;
  const int32_t classes = p->mask->heads > 1 ? p->mask->heads : 1;
  const int64_t count = (int64_t)cuts.size(), n = count * classes;
  list_shape s = {nullptr, nullptr, (int32_t)count, classes, (int32_t)inside.size(),
                  outer,   inner,   keys,           halves};

  gpu_memory building;
  int64_t account = 0; // of `building`: not kept
  worklist_item *counted;
  unsigned long long *totals;
  std::vector<unsigned long long> sums(classes + 2);
  if (building.copy((worklist_item **)&s.cuts, cuts.data(), count, &account) ||
      building.copy((attn_segment **)&s.segments, inside.data(), s.segment_count, &account) ||
      building.copy(&totals, sums.data(), classes + 2, &account) ||
      building.get(&counted, n, &account))
    return -1;
  if (n && launch(rep, s, counted, totals, nullptr))
    return -1;
  GPU_TRY(cudaMemcpy(sums.data(), totals, sums.size() * sizeof *totals, cudaMemcpyDeviceToHost));
  int64_t runs = 0;
  for (int c = 0; c < classes; c++)
    runs += (int64_t)sums[c];
  list->tiles = (int64_t)sums[classes];
  list->partial = (int64_t)sums[classes + 1];
  if (runs > INT32_MAX) {
    attn_error_set(false, "the mask needs %lld runs of tiles, more than a work list holds",
                   (long long)runs);
    return -1;
  }
  // What stays: items, runs and counter in one allocation.
  const int64_t items_bytes = n * sizeof(worklist_item), runs_bytes = runs * sizeof(worklist_run);
  char *memory;
  list->bytes = items_bytes + runs_bytes + 2 * sizeof(int32_t);
  if (gpu_check(cudaMalloc(&memory, list->bytes), "allocating the work list"))
    return -1;
  worklist_item *items = (worklist_item *)memory;
  list->view.items = items;
  list->view.runs = (worklist_run *)(memory + items_bytes);
  list->view.counter = (int32_t *)(memory + items_bytes + runs_bytes);
  list->view.count = s.count;
  list->view.classes = classes;
  GPU_TRY(cudaMemset(list->view.counter, 0, 2 * sizeof(int32_t)));
  if (n) {
    place_items<<<(unsigned)((n + 127) / 128), 128>>>(counted, totals, s.count, classes, items);
    if (launch(rep, s, items, totals, (worklist_run *)list->view.runs))
      return -1;
  }
  GPU_TRY(cudaDeviceSynchronize());
  return 0;
}

void worklist_free(struct worklist *list) {
  cudaFree((void *)list->view.items);
  memset(list, 0, sizeof *list);
}
