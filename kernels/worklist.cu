// worklist.cu -- builds the work list on the device (worklist.h).
//
// A warp takes an outer tile and its lanes an inner tile each, 32 at a time. Neighbours of one class
// are one run; the ragged last tile of a full run becomes a partial run of its own, so that an engine
// looks at `valid` in partial runs only. The first pass asks the representation for the classes, keeps
// them as bits, and counts; from the counts each item finds its place, longest first in its class; the
// second pass writes the runs from the bits. Between the two the host reads the totals, to allocate what
// is needed and no more.
#include <string.h>

#include "gpu.cuh"
#include "rep_device.h"
#include "work_items.cuh"
#include "worklist.h"
#include "worklist_codes.cuh"

namespace {

// Item i of a class in the order of rows.
__device__ worklist_item item_of(const list_shape &s, int32_t i) {
  const attn_segment *range = s.ranges;
  for (int32_t items; (items = rep_tiles(0, range->len, s.outer)) <= i; range++)
    i -= items;
  const int32_t at = i * s.outer;
  return {range->row + at, range->pos < 0 ? -1 : range->pos + at, min(s.outer, range->len - at)};
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

// Counts of each item, run_end as the number of runs, and their sums, totals [classes + 4]: runs of
// each class, tiles, partial tiles, the most tiles of an item, items that have any.
// bits [classes, count, rounds, planes].
template<class Rep>
__global__ void count_items(Rep rep, list_shape s, worklist_item *items, unsigned long long *totals,
                            uint32_t *bits) {
  const int i = (blockIdx.x * blockDim.x + threadIdx.x) / 32, lane = threadIdx.x % 32;
  if (i >= s.count * s.classes)
    return;
  worklist_item item = item_of(s, i % s.count);
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
  atomicAdd(&totals[s.classes + 3], n.tiles ? 1ULL : 0ULL);
}

// Each item to its place in its class, and its runs behind those of the items before.
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
  each_before(
      i % count, count, [&](int32_t j) { return peers[j].tiles; },
      [&](int32_t j) {
        place++;
        begin += peers[j].run_end;
      });
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
  COUNT_AS(spans)
  COUNT_AS(blockmap)
  COUNT_AS(blocklist)
  COUNT_AS(varblock)
#undef COUNT_AS
  GPU_LAUNCHED("counting the work list");
  return 0;
}

} // namespace

int worklist_build(struct worklist *list, const struct rep_device *rep,
                   const struct attn_problem *p, enum worklist_side side, int32_t outer,
                   int32_t inner, bool halves) {
  memset(list, 0, sizeof *list);
  const bool keys = side == WORKLIST_KEYS;
  const std::vector<attn_segment> ranges = keys ? row_ranges(p->q_seg, p->q_segs, p->rows_q, p->owner_rows)
                                                : row_ranges(p->k_seg, p->k_segs, p->rows_k);
  const attn_segment whole = {0, 0, keys ? p->rows_k : p->rows_q};
  const attn_segment *given = keys ? p->k_seg : p->q_seg, *inside = given ? given : &whole;
  const int32_t classes = p->mask->heads > 1 ? p->mask->heads : 1;
  list_shape s = {};
  s.classes = classes;
  s.segment_count = !given ? 1 : keys ? p->k_segs : p->q_segs;
  s.outer = outer;
  s.inner = inner;
  for (const attn_segment &range : ranges)
    s.count += rep_tiles(0, range.len, outer);
  for (int32_t i = 0; i < s.segment_count; i++)
    s.rounds += rep_tiles(0, inside[i].len, 32 * inner);
  const int64_t n = (int64_t)s.count * classes;
  s.planes = halves ? 6 : 2;
  s.keys = keys;
  s.halves = halves;

  gpu_memory building;
  int64_t account = 0; // of `building`: not kept
  worklist_item *counted;
  uint32_t *bits;
  unsigned long long *totals;
  std::vector<unsigned long long> sums(classes + 4);
  if (building.copy((attn_segment **)&s.ranges, ranges.data(), ranges.size(), &account) ||
      building.copy((attn_segment **)&s.segments, inside, s.segment_count, &account) ||
      building.copy(&totals, sums.data(), classes + 4, &account) ||
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
  list->seen = classes == 1 ? (int32_t)sums[classes + 3] : s.count;
  list->runs = runs;
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
