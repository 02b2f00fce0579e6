// worklist.cu -- builds the work list on the device (worklist.h).
//
// The host cuts the outer side's segments into items. Two passes of one kernel, a thread an item,
// walk the representation over every inner segment: the first counts runs and tiles, the second
// writes the runs. Between them the host sorts the items of each class, longest first, and gives
// out the places. Runs that meet and are of one class are joined; the ragged last tile of a full
// run becomes a partial run of its own, so that an engine looks at `valid` in partial runs only.
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

// next_keys or next_queries of each representation, and the class of one tile, by overload.
#define WALKS(X) \
  __device__ __forceinline__ tile_class class_of(const X *x, int head, const tile_view *t) { \
    return X##_class(x, head, t->q_begin, t->q_end, t->k_begin, t->k_end); \
  } \
  __device__ __forceinline__ tile_run next_inner(const X *x, int head, const tile_view *view, \
                                                 int from, bool keys) { \
    return keys ? X##_next_keys(x, head, view, from) : X##_next_queries(x, head, view, from); \
  }
WALKS(dense)
WALKS(band)
WALKS(columns)
WALKS(blockmap)
WALKS(blocklist)
WALKS(varblock)
#undef WALKS

// Collects runs; with `out` NULL it only counts.
struct run_writer {
  worklist_run *out;
  int32_t runs, tiles, partial;
  worklist_run open; // not written yet; tiles == 0: none
  int32_t inner;

  __device__ void flush() {
    if (open.tiles && out)
      out[runs] = open;
    runs += open.tiles > 0;
    open.tiles = 0;
  }
  // Tiles [row, pos) ... of one class; `valid` rows in the last, and what the halves see of each.
  __device__ void add(int32_t row, int32_t pos, int32_t n, bool full, int32_t valid, int32_t halves) {
    if (n == 0)
      return;
    const bool joins = open.tiles && (open.valid == 0) == full &&
                       (full || open.valid == (inner | halves)) &&
                       row == open.row + open.tiles * inner && pos == open.pos + open.tiles * inner;
    if (!joins) {
      flush();
      open.row = row;
      open.pos = pos;
    }
    open.tiles += n;
    open.valid = full ? 0 : valid | halves;
    tiles += n;
    partial += full ? 0 : n;
  }
};

// What the two halves of the outer tile see of inner tile [at, at + valid), as bits of worklist_run.
template<class Rep>
__device__ int32_t halves_of(const Rep *rep, int head, const worklist_item &item, int32_t outer,
                             int32_t at, int32_t valid, bool keys) {
  int32_t bits = 0;
  for (int h = 0; h < 2; h++) {
    const int32_t begin = item.pos + h * (outer / 2), end = item.pos + (h ? item.rows : min(item.rows, outer / 2));
    if (begin >= end)
      continue;
    const tile_view tile = keys ? tile_view{begin, end, at, at + valid, valid}
                                : tile_view{at, at + valid, begin, end, valid};
    const tile_class seen = class_of(rep, head, &tile);
    bits |= (seen != TILE_EMPTY ? WORKLIST_SEEN << h : 0) | (seen == TILE_FULL ? WORKLIST_WHOLE << h : 0);
  }
  return bits;
}

template<class Rep>
__global__ void walk_items(Rep rep, worklist_item *items, worklist_run *runs, int32_t count,
                           int32_t classes, const attn_segment *segments, int32_t segment_count,
                           int32_t inner, bool keys, int32_t halved) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= count * classes)
    return;
  worklist_item item = items[i];
  const int head = item.reserved; // class, while building
  run_writer w = {runs ? runs + item.run_begin : nullptr, 0, 0, 0, {0, 0, 0, 0}, inner};
  for (int s = 0; s < segment_count && item.pos >= 0; s++) { // pos -1: padding, sees nothing
    const attn_segment seg = segments[s];
    const int32_t end = seg.pos + seg.len;
    const tile_view view = keys ? tile_view{item.pos, item.pos + item.rows, seg.pos, end, inner}
                                : tile_view{seg.pos, end, item.pos, item.pos + item.rows, inner};
    for (int32_t from = 0;;) {
      const tile_run run = next_inner(&rep, head, &view, from, keys);
      if (run.begin >= run.end)
        break;
      const int32_t at = run.begin * inner, n = run.end - run.begin;
      const int32_t valid = min(inner, seg.len - (run.end - 1) * inner);
      const bool ragged = run.full && valid < inner;
      from = run.end;
      if (halved && !run.full) { // tile by tile; what no half sees is left out
        for (int32_t t = 0; t < n; t++) {
          const int32_t some = t < n - 1 ? inner : valid;
          const int32_t bits =
              halves_of(&rep, head, item, halved, seg.pos + at + t * inner, some, keys);
          w.add(seg.row + at + t * inner, seg.pos + at + t * inner, bits != 0, false, some, bits);
        }
        continue;
      }
      w.add(seg.row + at, seg.pos + at, n - ragged, run.full, valid, 0);
      if (ragged) {
        const int32_t last = (n - 1) * inner;
        w.add(seg.row + at + last, seg.pos + at + last, 1, false, valid,
              halved ? halves_of(&rep, head, item, halved, seg.pos + at + last, valid, keys) : 0);
      }
    }
  }
  w.flush();
  items[i].run_end = item.run_begin + w.runs;
  items[i].tiles = w.tiles;
  items[i].partial = w.partial;
}

struct builder {
  gpu_memory memory; // while building
  std::vector<worklist_item> items;
  worklist_item *device_items;
  const attn_segment *segments;
  int32_t count, classes, segment_count, inner;
  int32_t halved; // the outer tile, where its halves are told apart; 0: they are not
  bool keys;

  template<class Rep> void launch_as(const rep_device *rep, worklist_run *runs) {
    const int n = count * classes;
    walk_items<Rep><<<(n + 31) / 32, 32>>>(*(const Rep *)rep->copy, device_items, runs, count, classes,
                                      segments, segment_count, inner, keys, halved);
  }
  int launch(const rep_device *rep, worklist_run *runs) {
    const char *name = rep->ops->name;
    if (!strcmp(name, "dense"))
      launch_as<dense>(rep, runs);
    else if (!strcmp(name, "band"))
      launch_as<band>(rep, runs);
    else if (!strcmp(name, "columns"))
      launch_as<columns>(rep, runs);
    else if (!strcmp(name, "blockmap"))
      launch_as<blockmap>(rep, runs);
    else if (!strcmp(name, "blocklist"))
      launch_as<blocklist>(rep, runs);
    else
      launch_as<varblock>(rep, runs);
    GPU_LAUNCHED("building the work list");
    GPU_TRY(cudaDeviceSynchronize());
    return 0;
  }
};

std::vector<attn_segment> segments_of(const attn_segment *list, int32_t count, int32_t rows) {
  if (list)
    return std::vector<attn_segment>(list, list + count);
  return {attn_segment{0, 0, rows}};
}

void cut(std::vector<worklist_item> &items, int32_t row, int32_t pos, int32_t rows, int32_t outer,
         int head) {
  for (int32_t i = 0; i < rows; i += outer)
    items.push_back({row + i, pos < 0 ? -1 : pos + i, std::min(outer, rows - i), 0, 0, 0, 0, head});
}

int build(struct worklist *list, builder &b, const rep_device *rep) {
  const int64_t n = (int64_t)b.items.size();
  int64_t account = 0;
  if (b.memory.copy(&b.device_items, b.items.data(), n, &account) || b.launch(rep, nullptr))
    return -1;
  GPU_TRY(cudaMemcpy(b.items.data(), b.device_items, n * sizeof(worklist_item),
                     cudaMemcpyDeviceToHost));
  int64_t runs = 0;
  for (int32_t c = 0; c < b.classes; c++)
    std::stable_sort(
        b.items.begin() + (int64_t)c * b.count, b.items.begin() + (int64_t)(c + 1) * b.count,
        [](const worklist_item &x, const worklist_item &y) { return x.tiles > y.tiles; });
  for (worklist_item &item : b.items) {
    const int32_t size = item.run_end - item.run_begin;
    item.run_begin = (int32_t)runs;
    item.run_end = (int32_t)(runs + size);
    runs += size;
    list->tiles += item.tiles;
    list->partial += item.partial;
  }
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
  list->view.items = (worklist_item *)memory;
  list->view.runs = (worklist_run *)(memory + items_bytes);
  list->view.counter = (int32_t *)(memory + items_bytes + runs_bytes);
  list->view.count = b.count;
  list->view.classes = b.classes;
  GPU_TRY(cudaMemcpy(memory, b.items.data(), items_bytes, cudaMemcpyHostToDevice));
  GPU_TRY(cudaMemset(list->view.counter, 0, 2 * sizeof(int32_t)));
  b.device_items = (worklist_item *)memory;
  return b.launch(rep, (worklist_run *)list->view.runs);
}

} // namespace

int worklist_build(struct worklist *list, const struct rep_device *rep,
                   const struct attn_problem *p, enum worklist_side side, int32_t outer,
                   int32_t inner, bool halves) {
  memset(list, 0, sizeof *list);
  builder b = {};
  b.keys = side == WORKLIST_KEYS;
  b.inner = inner;
  b.halved = halves ? outer : 0;
  b.classes = p->mask->heads > 1 ? p->mask->heads : 1;
  const std::vector<attn_segment> q = segments_of(p->q_seg, p->q_segs, p->rows_q),
                                  k = segments_of(p->k_seg, p->k_segs, p->rows_k);
  const std::vector<attn_segment> &outside = b.keys ? q : k, &inside = b.keys ? k : q;
  const int32_t rows = b.keys ? p->rows_q : p->rows_k;
  for (int32_t c = 0; c < b.classes; c++) {
    int32_t done = 0;
    for (const attn_segment &s : outside) {
      cut(b.items, done, -1, s.row - done, outer, c); // rows in no segment
      cut(b.items, s.row, s.pos, s.len, outer, c);
      done = s.row + s.len;
    }
    cut(b.items, done, -1, rows - done, outer, c);
  }
  b.count = (int32_t)(b.items.size() / b.classes);
  int64_t account = 0;
  attn_segment *segments;
  if (b.memory.copy(&segments, inside.data(), (int64_t)inside.size(), &account))
    return -1;
  b.segments = segments;
  b.segment_count = (int32_t)inside.size();
  return build(list, b, rep);
}

void worklist_free(struct worklist *list) {
  cudaFree((void *)list->view.items);
  memset(list, 0, sizeof *list);
}
