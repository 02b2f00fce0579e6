// split.cu -- which items of the forward kernel are cut along their keys (split.h): chosen on the host from
// the lengths of the items, then each part finds its runs on the device.
#include "split.h"

#include <string.h>

#include <algorithm>
#include <numeric>
#include <vector>

#include "../gpu.cuh"
#include "cuts.h"
#include "engine.h"
#include "forward_shared.cuh"

namespace {

// Costs in steps of a CTA, 128 x 128 pairs: an item beyond its steps, and of unlike halves, where its Q comes when the
// products before it are done; leaving a part, 64 KB at dim 128, behind; reading one.
constexpr double ITEM = 0.2, HALVES_ITEM = 1, LEAVE = 0.6, READ = 0.6;
// A gain below 1/400 of the whole is none.
constexpr double WORTH = 0.0025;

// Works of a list in the order in which they are handed out.
struct works {
  const std::vector<int32_t> &steps; // [classes, count]
  double item;                       // ITEM, or HALVES_ITEM
  int32_t count, classes, heads, group, section; // gathering: heads and those of a group that make a tile are one
  int64_t size() const { return (int64_t)count * heads; }
  wgmma::fwd_work place(int64_t work) const { return {(int)work, count, heads, section}; }
  int64_t item_of(const wgmma::fwd_work &at) const {
    return (classes == 1 ? 0 : (int64_t)(at.head / group) * count) + at.rank;
  }
  int32_t operator[](int64_t work) const { return steps[item_of(place(work))]; }
};

// CTAs, from the time when all begin.
struct simulation {
  cut_clocks clocks = {};
  double item;
  simulation(int ctas, double item) : item(item) { clocks.n = std::min<int>(ctas, CUT_MACHINES_MAX); }
  void add(int32_t steps, int parts) {
    for (int i = 0; i < parts; i++) {
      const double own = cut_begin(steps, i + 1, parts) - cut_begin(steps, i, parts);
      const double extra = parts == 1 ? 0 : LEAVE + (i == parts - 1 ? READ * parts : 0);
      cut_take(&clocks, own + item + extra);
    }
  }
};

struct cut {
  int64_t begin, end;          // works
  std::vector<uint16_t> parts; // of each of these; of the first and of the last more than one
  double last;                 // when the last CTA ends
};

// Works from `begin` on, of `left` steps, cut; `s` is where all before are done.
cut cut_works(const works &w, int64_t begin, int64_t left, int ctas, const cut_rule &by, simulation s) {
  cut c = {w.size(), 0, {}, 0};
  for (int64_t i = begin; i < w.size(); i++) {
    const int32_t steps = w[i];
    const int parts = cut_parts(&by, steps, left, ctas);
    s.add(steps, parts);
    left -= steps;
    if (parts > 1) {
      c.begin = std::min(c.begin, i);
      c.end = i + 1;
    }
    if (i >= c.begin)
      c.parts.push_back((uint16_t)parts);
  }
  c.parts.resize(std::max<int64_t>(c.end - c.begin, 0));
  c.last = s.clocks.last;
  return c;
}

// Not even a whole round of the longest would.
bool may_pay(int64_t total, int32_t longest, int ctas) {
  return longest > CUT_SHORTEST && (double)longest * ctas >= WORTH * (double)total;
}

// The best of some, or one without parts. Sets when the last CTA ends without it and with it.
cut choose(const works &w, int64_t total, int32_t longest, int ctas, double *whole_steps, double *split_steps) {
  int64_t begin = w.size(), rest = 0; // works that the first rule would cut, and their steps
  for (int64_t i = w.size(), left = 0; i > 0 && (double)left < (double)longest * ctas;) {
    const int32_t steps = w[--i];
    left += steps;
    if (steps > cut_longest(&cut_rules[0], steps, left, ctas)) {
      begin = i;
      rest = left;
    }
  }
  cut best = {};
  if (!rest)
    return best;
  // A few rounds before, where all CTAs are free at once if items are alike.
  simulation before(ctas, w.item);
  for (int64_t i = std::max<int64_t>(begin / ctas - 4, 0) * ctas; i < begin; i++)
    before.add(w[i], 1);
  simulation whole = before;
  for (int64_t i = begin; i < w.size(); i++)
    whole.add(w[i], 1);
  *whole_steps = *split_steps = whole.clocks.last;
  const double pays = whole.clocks.last - WORTH * (double)total / ctas;
  for (const cut_rule &by : cut_rules) {
    cut c = cut_works(w, begin, rest, ctas, by, before);
    const int parts = std::accumulate(c.parts.begin(), c.parts.end(), 0);
    if (parts <= 2 * ctas && c.last < std::min(pays, *split_steps)) {
      *split_steps = c.last;
      best = c;
    }
  }
  return best;
}

// Thread i: where part i begins in the runs of its item; until then `skip` counts from the item's first run.
__global__ void find_runs(split_part *parts, int32_t count, const worklist_run *runs) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= count)
    return;
  split_part &part = parts[i];
  while (part.skip && part.skip >= runs[part.run].tiles)
    part.skip -= runs[part.run++].tiles;
}

} // namespace

// As many as have their K and V in about half of the L2 together.
int split_section(const attn_problem *p) {
  const int64_t bytes = (int64_t)p->rows_k * p->dim * 4, group = p->heads_q / p->heads_kv;
  int64_t kv = 1;
  while (2 * kv * bytes <= (32 << 20))
    kv *= 2;
  return (int)std::min(kv * group, (int64_t)p->heads_q);
}

// What `c` cuts, on the device. fill(part, item, begin, end): which of its item's steps a part has.
template <class Fill>
static int place_parts(struct split *s, const works &w, const cut &c, int32_t dim, const Fill &fill) {
  std::vector<split_part> parts;
  for (size_t i = 0; i < c.parts.size(); i++) {
    const wgmma::fwd_work at = w.place(c.begin + i);
    const int64_t item = w.item_of(at);
    const int32_t n = c.parts[i], steps = w.steps[item];
    const uint16_t first = (uint16_t)parts.size();
    for (int32_t k = 0; k < n; k++) {
      split_part part = {0, 0, 0, at.head, 0, 0, 0, first, (uint16_t)n};
      part.rows = (n > 1 ? (int32_t)parts.size() + 1 : 0) << wgmma::TILE_ROWS_BITS;
      fill(part, item, cut_begin(steps, k, n), cut_begin(steps, k + 1, n));
      parts.push_back(part);
    }
    for (int e = i > 0; e < 2; e++) { // the first; and the last so far
      s->rank[e] = at.rank;
      s->head[e] = at.head;
    }
  }
  if (parts.empty())
    return 0;
  const int64_t n = (int64_t)parts.size(), parts_bytes = n * (int64_t)sizeof parts[0];
  char *memory;
  s->bytes = parts_bytes + n * 8 * (int64_t)sizeof(int32_t);
  if (gpu_check(cudaMalloc(&memory, s->bytes), "allocating parts of query tiles"))
    return -1;
  s->view.parts = (split_part *)memory;
  s->view.arrived = (int32_t *)(memory + parts_bytes);
  s->view.count = (int32_t)n;
  s->view.begin = (int32_t)c.begin;
  s->view.works = (int32_t)c.parts.size();
  s->left_floats = n * (dim / 8 + 1) * 256 * 4;
  GPU_TRY(cudaMemset(s->view.arrived, 0, n * 8 * sizeof(int32_t)));
  GPU_TRY(cudaMemcpy(memory, parts.data(), parts_bytes, cudaMemcpyHostToDevice));
  return 0;
}

int split_build(struct split *s, const struct worklist *list, const struct attn_problem *p, int ctas) {
  memset(s, 0, sizeof *s);
  const struct worklist_view &v = list->view;
  const int32_t group = p->heads_q / p->heads_kv;
  const int64_t total = list->tiles * (v.classes == 1 ? p->heads_q : group);
  if (!may_pay(total, list->longest, ctas))
    return 0;
  std::vector<worklist_item> items((size_t)v.count * v.classes);
  std::vector<int32_t> steps(items.size());
  GPU_TRY(cudaMemcpy(items.data(), v.items, items.size() * sizeof items[0], cudaMemcpyDeviceToHost));
  for (size_t i = 0; i < items.size(); i++)
    steps[i] = std::max(items[i].tiles, 1); // none: a step of nothing
  const works w = {steps, ITEM, v.count, v.classes, p->heads_q, group, split_section(p)};
  const cut c = choose(w, total, list->longest, ctas, &s->whole_steps, &s->split_steps);
  if (place_parts(s, w, c, p->dim, [&](split_part &part, int64_t i, int32_t begin, int32_t end) {
        part.row = items[i].row;
        part.pos = items[i].pos;
        part.rows |= items[i].rows;
        part.run = items[i].run_begin;
        part.skip = begin;
        part.tiles = std::min(end, items[i].tiles) - begin;
      }))
    return -1;
  if (!s->view.count)
    return 0;
  find_runs<<<(unsigned)((s->view.count + 127) / 128), 128>>>((split_part *)s->view.parts, s->view.count, v.runs);
  GPU_LAUNCHED("cutting query tiles into parts");
  GPU_TRY(cudaDeviceSynchronize());
  return 0;
}

int split_gathered(struct split *s, const struct gather *list, const struct attn_problem *p, int ctas) {
  memset(s, 0, sizeof *s);
  const struct gather_view &v = list->view;
  const int32_t units = p->heads_q / v.heads, group = p->heads_q / p->heads_kv / v.heads;
  const int64_t total = list->rounds * (v.classes == 1 ? units : group);
  std::vector<gather_tile> tiles((size_t)v.count * v.classes);
  std::vector<int32_t> steps(tiles.size());
  GPU_TRY(cudaMemcpy(tiles.data(), v.tiles, tiles.size() * sizeof tiles[0], cudaMemcpyDeviceToHost));
  for (size_t i = 0; i < tiles.size(); i++)
    steps[i] = tiles[i].end - tiles[i].begin - tiles[i].pairs;
  const int32_t longest = *std::max_element(steps.begin(), steps.end());
  if (!may_pay(total, longest, ctas))
    return 0;
  const double item = v.heads > 1 ? ITEM : HALVES_ITEM;
  const works w = {steps, item, v.count, v.classes, units, group, split_section(p) / v.heads};
  const cut c = choose(w, total, longest, ctas, &s->whole_steps, &s->split_steps);
  return place_parts(s, w, c, p->dim, [&](split_part &part, int64_t i, int32_t begin, int32_t end) {
    const int32_t for_both = steps[i] - tiles[i].pairs;
    const auto stage = [&](int32_t round) { return round + std::max(round - for_both, 0); };
    part.row = (int32_t)i;
    part.run = tiles[i].begin + stage(begin);
    part.tiles = stage(end) - stage(begin);
  });
}

struct split_view split_of(const struct split *s, const struct attn_problem *p, int32_t count) {
  split_view view = s->view;
  const int section = split_section(p);
  int work[2];
  for (int i = 0; i < 2; i++)
    work[i] = wgmma::fwd_work::index(s->rank[i], s->head[i], count, p->heads_q, section);
  view.begin = work[0];
  view.works = view.count ? work[1] - work[0] + 1 : 0;
  return view;
}

void split_free(struct split *s) {
  cudaFree((void *)s->view.parts);
  memset(s, 0, sizeof *s);
}
