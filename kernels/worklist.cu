// worklist.cu -- builds the work list on the device (worklist.h).
//
// A warp takes an outer tile and its lanes an inner tile each, 32 at a time. Neighbours of one class
// are one run; the ragged last tile of a full run becomes a partial run of its own, so that an engine
// looks at `valid` in partial runs only. The first pass asks the representation for the classes, keeps
// them as bits, and counts; from the counts each item finds its place, longest first in its class; the
// second pass writes the runs from the bits. Between the two the host reads the totals, to allocate what
// is needed and no more.
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

// Queries [q0, q1) by keys [k0, k1).
struct tile {
  int32_t q0, q1, k0, k1;
};

// The class of one tile, by overload; `keys`: lanes are at tiles of keys, else of queries. Lists are
// searched along the lanes, in the rows that all of them share.
#define CLASS_OF(X) \
  __device__ __forceinline__ tile_class class_of(const X *x, int head, const tile &t, bool) { \
    return X##_class(x, head, t.q0, t.q1, t.k0, t.k1); \
  }
#define CLASS_OF_LISTS(X, ROW, AXIS) \
  __device__ __forceinline__ tile_class class_of(const X *x, int head, const tile &t, bool keys) { \
    if (keys) \
      return X##_class(x, head, t.q0, t.q1, t.k0, t.k1); \
    const block_axis axis = AXIS; \
    return block_lists_class(&x->k2q, ROW(x, head, t.k0), ROW(x, head, t.k1 - 1), &axis, t.q0, t.q1); \
  }
CLASS_OF(dense)
CLASS_OF(band)
CLASS_OF(columns)
CLASS_OF_LISTS(blockmap, blockmap_row, blockmap_axis(x))
CLASS_OF_LISTS(blocklist, blocklist_row, blocklist_axis(x))
CLASS_OF_LISTS(varblock, varblock_col, varblock_rows(x, head))
#undef CLASS_OF
#undef CLASS_OF_LISTS

struct list_shape {
  const worklist_item *cuts;    // [count] a class's items in the order of rows: row, pos, rows
  const attn_segment *segments; // [segment_count] of the inner side
  int32_t count, classes, segment_count, outer, inner;
  int32_t rounds, planes; // bits of an item: a word a plane and round of 32 tiles
  bool keys, halves;
};

// A tile's code: what worklist_run.valid says of a run of this tile alone; or UNSEEN.
enum { UNSEEN = -1, WHOLE = 0, HALVES = ~0xffff };

template<class Rep>
__device__ int32_t code_of(const Rep *rep, int head, const list_shape &s, const worklist_item &item,
                           int32_t at, int32_t valid) {
  const auto seen = [&](int32_t begin, int32_t end) {
    return class_of(rep, head, s.keys ? tile{begin, end, at, at + valid} : tile{at, at + valid, begin, end},
                    s.keys);
  };
  const tile_class all = seen(item.pos, item.pos + item.rows);
  if (all == TILE_EMPTY)
    return UNSEEN;
  if (all == TILE_FULL && valid == s.inner)
    return WHOLE;
  if (!s.halves)
    return valid;
  int32_t bits = 0;
  for (int h = 0; h < 2; h++) {
    const int32_t begin = h * (s.outer / 2), end = h ? item.rows : min(item.rows, s.outer / 2);
    if (begin >= end)
      continue;
    const tile_class half = seen(item.pos + begin, item.pos + end);
    bits |= (half != TILE_EMPTY ? WORKLIST_SEEN << h : 0) | (half == TILE_FULL ? WORKLIST_WHOLE << h : 0);
  }
  return bits ? valid | bits : UNSEEN; // a block map may list what no half sees
}

// A code less its rows is two bits, seen and masked, and four more where halves are told apart. Lane p
// has the word of plane p.
__device__ __forceinline__ int bit_of_plane(int p) { return p < 4 ? 14 + p : 20 + p; }
__device__ uint32_t planes_of_codes(int32_t code, int planes, int lane) {
  uint32_t mine = 0;
  for (int p = 0; p < planes; p++) {
    const bool bit = p == 0 ? code != UNSEEN : p == 1 ? code > 0 : code >> bit_of_plane(p) & 1;
    const uint32_t word = __ballot_sync(~0u, bit);
    mine = lane == p ? word : mine;
  }
  return mine;
}
__device__ int32_t code_of_planes(uint32_t mine, int planes, int lane, int32_t valid) {
  const uint32_t seen = __shfl_sync(~0u, mine, 0), masked = __shfl_sync(~0u, mine, 1);
  int32_t code = masked >> lane & 1 ? valid : WHOLE;
  for (int p = 2; p < planes; p++) {
    const uint32_t word = __shfl_sync(~0u, mine, p);
    code |= word >> lane & 1 ? 1 << bit_of_plane(p) : 0;
  }
  return seen >> lane & 1 ? code : UNSEEN;
}

struct item_counts {
  int32_t runs, tiles, partial;
};

// A warp walks an item's inner tiles: get(round, whether there is one, position, rows) says the
// lane's code. Runs go to `out` unless it is NULL.
template<class Get>
__device__ item_counts walk(const list_shape &s, const worklist_item &item, worklist_run *out, int lane,
                            Get get) {
  worklist_run open = {0, 0, 0, 0}; // the run of the tile before this round's; tiles == 0: none
  item_counts n = {0, 0, 0};
  int round = 0;
  for (int j = 0; j < s.segment_count && item.pos >= 0; j++) { // pos -1: padding, sees nothing
    const attn_segment seg = s.segments[j];
    const int32_t tiles = rep_tiles(0, seg.len, s.inner);
    for (int32_t base = 0; base < tiles; base += 32, round++) {
      const int32_t at = (base + lane) * s.inner, row = seg.row + at, pos = seg.pos + at;
      const int32_t code = get(round, base + lane < tiles, pos, min(s.inner, seg.len - at));
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
        out[n.runs + __popc(started) - 1] = run;
      __syncwarp(); // the next round may write the same run again, longer
      const int last = min(31, tiles - 1 - base);
      open.row = __shfl_sync(~0u, run.row, last);
      open.pos = __shfl_sync(~0u, run.pos, last);
      open.tiles = seen >> last & 1 ? __shfl_sync(~0u, run.tiles, last) : 0;
      open.valid = __shfl_sync(~0u, run.valid, last);
      n.runs += __popc(starts);
      n.tiles += __popc(seen);
      n.partial += __popc(masked);
    }
  }
  return n;
}

// Counts of each item, run_end as the number of runs, and their sums, totals [classes + 3]: runs of
// each class, tiles, partial tiles, and the most tiles of an item. bits [classes, count, rounds, planes].
template<class Rep>
__global__ void count_items(Rep rep, list_shape s, worklist_item *items, unsigned long long *totals,
                            uint32_t *bits) {
  const int i = (blockIdx.x * blockDim.x + threadIdx.x) / 32, lane = threadIdx.x % 32;
  if (i >= s.count * s.classes)
    return;
  worklist_item item = s.cuts[i % s.count];
  const int head = i / s.count; // its class
  bits += (int64_t)i * s.rounds * s.planes;
  const item_counts n =
      walk(s, item, nullptr, lane, [&](int round, bool exists, int32_t pos, int32_t valid) {
        const int32_t code = exists ? code_of(&rep, head, s, item, pos, valid) : UNSEEN;
        const uint32_t mine = planes_of_codes(code, s.planes, lane);
        if (lane < s.planes)
          bits[round * s.planes + lane] = mine;
        return code;
      });
  if (lane)
    return;
  item.run_end = n.runs;
  item.tiles = n.tiles;
  item.partial = n.partial;
  item.reserved = i; // where its bits are
  items[i] = item;
  atomicAdd(&totals[head], (unsigned long long)n.runs);
  atomicAdd(&totals[s.classes], (unsigned long long)n.tiles);
  atomicAdd(&totals[s.classes + 1], (unsigned long long)n.partial);
  atomicMax(&totals[s.classes + 2], (unsigned long long)n.tiles);
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

__global__ void write_runs(list_shape s, worklist_item *items, const uint32_t *bits, worklist_run *runs) {
  const int i = (blockIdx.x * blockDim.x + threadIdx.x) / 32, lane = threadIdx.x % 32;
  if (i >= s.count * s.classes)
    return;
  const worklist_item item = items[i];
  bits += (int64_t)item.reserved * s.rounds * s.planes;
  walk(s, item, runs + item.run_begin, lane, [&](int round, bool, int32_t, int32_t valid) {
    const uint32_t mine = lane < s.planes ? bits[round * s.planes + lane] : 0;
    return code_of_planes(mine, s.planes, lane, valid);
  });
  __syncwarp();
  if (lane == 0)
    items[i].reserved = i / s.count; // its class
}

enum { WARPS = 4 };
unsigned blocks_of(int64_t warps) { return (unsigned)((warps + WARPS - 1) / WARPS); }

int count(const rep_device *rep, const list_shape &s, worklist_item *items, unsigned long long *totals,
          uint32_t *bits) {
#define COUNT_AS(X) \
  if (!strcmp(rep->ops->name, #X)) \
    count_items<X><<<blocks_of((int64_t)s.count * s.classes), WARPS * 32>>>( \
        *(const X *)rep->copy, s, items, totals, bits);
  COUNT_AS(dense)
  COUNT_AS(band)
  COUNT_AS(columns)
  COUNT_AS(blockmap)
  COUNT_AS(blocklist)
  COUNT_AS(varblock)
#undef COUNT_AS
  GPU_LAUNCHED("counting the work list");
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
  const int64_t n = (int64_t)cuts.size() * classes;
  list_shape s = {};
  s.count = (int32_t)cuts.size();
  s.classes = classes;
  s.segment_count = (int32_t)inside.size();
  s.outer = outer;
  s.inner = inner;
  for (const attn_segment &seg : inside)
    s.rounds += rep_tiles(0, seg.len, 32 * inner);
  s.planes = halves ? 6 : 2;
  s.keys = keys;
  s.halves = halves;

  gpu_memory building;
  int64_t account = 0; // of `building`: not kept
  worklist_item *counted;
  uint32_t *bits;
  unsigned long long *totals;
  std::vector<unsigned long long> sums(classes + 3);
  if (building.copy((worklist_item **)&s.cuts, cuts.data(), s.count, &account) ||
      building.copy((attn_segment **)&s.segments, inside.data(), s.segment_count, &account) ||
      building.copy(&totals, sums.data(), classes + 3, &account) ||
      building.get(&counted, n, &account) || building.get(&bits, n * s.rounds * s.planes, &account))
    return -1;
  if (n && count(rep, s, counted, totals, bits))
    return -1;
  GPU_TRY(cudaMemcpy(sums.data(), totals, sums.size() * sizeof *totals, cudaMemcpyDeviceToHost));
  int64_t runs = 0;
  for (int c = 0; c < classes; c++)
    runs += (int64_t)sums[c];
  list->tiles = (int64_t)sums[classes];
  list->partial = (int64_t)sums[classes + 1];
  list->longest = (int32_t)sums[classes + 2];
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
    write_runs<<<blocks_of(n), WARPS * 32>>>(s, items, bits, (worklist_run *)list->view.runs);
    GPU_LAUNCHED("writing the work list");
  }
  GPU_TRY(cudaDeviceSynchronize());
  return 0;
}

void worklist_free(struct worklist *list) {
  cudaFree((void *)list->view.items);
  memset(list, 0, sizeof *list);
}
