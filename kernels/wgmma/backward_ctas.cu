// backward_ctas.cu -- what each CTA of the wgmma engine's backward does (balance.h), as the kernel reads it: most take
// an item of the list, those near the end an item or a part that the tail names.
#include <algorithm>
#include <vector>

#include "backward_engine.h"
#include "backward_shared.cuh"
#include "balance.h"

using namespace wgmma;
static_assert(BALANCE_KEYS == static_cast<int>(BWD_KEYS) && BALANCE_QUERIES == static_cast<int>(BWD_QUERIES),
              "balance.h counts in the kernel's steps");

namespace {

// The tail: items, and parts of items, whose runs stand behind the list's.
int list_tail(wgmma_backward_state *s, const std::vector<worklist_item> &items, const balance &b,
              struct attn_plan *plan) {
  const int group = plan->problem.heads_q / plan->problem.heads_kv;
  worklist_view &v = s->queries.view;
  const int64_t known = s->queries.runs;
  const int32_t *const first = s->bits.view.first;
  struct class_runs { // of its items in parts: [begin, end) of the list's
    int32_t begin = INT32_MAX, end = 0;
    std::vector<worklist_run> runs;
    std::vector<int32_t> first; // bits of each
  };
  std::vector<class_runs> classes(v.classes);
  const auto class_of = [&](const balance_part &part) { return v.classes == 1 ? 0 : part.head / group; };
  const auto item_of = [&](const balance_part &part) { return items[(int64_t)class_of(part) * v.count + part.place]; };
  const std::vector<balance_part> parts(b.parts, b.parts + b.count);
  for (const balance_part &part : parts)
    if (part.slot >= 0) {
      class_runs &of = classes[class_of(part)];
      of.begin = std::min(of.begin, item_of(part).run_begin);
      of.end = std::max(of.end, item_of(part).run_end);
    }
  for (class_runs &of : classes)
    if (of.begin < of.end) {
      of.runs.resize(of.end - of.begin);
      GPU_TRY(cudaMemcpy(of.runs.data(), v.runs + of.begin, of.runs.size() * sizeof *v.runs, cudaMemcpyDeviceToHost));
      of.first.resize(of.runs.size(), -1);
      if (first)
        GPU_TRY(cudaMemcpy(of.first.data(), first + of.begin, of.runs.size() * sizeof *first, cudaMemcpyDeviceToHost));
    }
  std::vector<worklist_item> tail;
  std::vector<worklist_run> cut;
  std::vector<int32_t> cut_first;
  std::vector<int4> slots;
  for (const balance_part &part : parts) {
    worklist_item item = item_of(part);
    if (part.slot >= 0) {
      if (part.from == 0)
        slots.push_back({item.row, item.rows, part.head / group, 0});
      const class_runs &of = classes[class_of(part)];
      const int32_t begin = (int32_t)(known + (int64_t)cut.size());
      int32_t before = 0; // tiles
      for (int32_t r = item.run_begin; r < item.run_end; r++) {
        const worklist_run &run = of.runs[r - of.begin];
        const int32_t from = std::max(part.from - before, 0), to = std::min(part.from + part.tiles - before, run.tiles);
        before += run.tiles;
        if (from >= to)
          continue;
        const int32_t bits = of.first[r - of.begin];
        cut_first.push_back(bits < 0 ? -1 : bits + from);
        cut.push_back({run.row + from * BWD_QUERIES, run.pos + from * BWD_QUERIES, to - from,
                       !run.valid || to == run.tiles ? run.valid : (run.valid & ~0xffff) | BWD_QUERIES});
      }
      item.run_begin = begin;
      item.run_end = (int32_t)(known + (int64_t)cut.size());
    }
    item.tiles = part.tiles;
    item.partial = part.slot;
    item.reserved = part.head;
    tail.push_back(item);
    s->tail_seen += part.tiles > 0;
  }
  s->tail_count = b.count;
  worklist_run *runs;
  if (s->own.copy(&s->tail, tail.data(), (int64_t)tail.size(), &plan->prep_bytes) ||
      s->own.copy(&s->slot_rows, slots.data(), (int64_t)slots.size(), &plan->prep_bytes) ||
      s->own.get(&runs, known + (int64_t)cut.size(), &plan->prep_bytes))
    return -1;
  GPU_TRY(cudaMemcpy(runs, v.runs, known * sizeof *runs, cudaMemcpyDeviceToDevice));
  GPU_TRY(cudaMemcpy(runs + known, cut.data(), cut.size() * sizeof *runs, cudaMemcpyHostToDevice));
  v.runs = runs;
  if (!first)
    return 0;
  if (s->own.get(&s->tail_first, known + (int64_t)cut.size(), &plan->prep_bytes))
    return -1;
  GPU_TRY(cudaMemcpy(s->tail_first, first, known * sizeof *first, cudaMemcpyDeviceToDevice));
  GPU_TRY(cudaMemcpy(s->tail_first + known, cut_first.data(), cut.size() * sizeof *first, cudaMemcpyHostToDevice));
  return 0;
}

} // namespace

int wgmma_backward_ctas(wgmma_backward_state *s, struct attn_plan *plan) {
  const struct attn_problem *p = &plan->problem;
  const worklist_view &v = s->queries.view;
  int sms, l2_bytes;
  if (gpu_attribute(&sms, cudaDevAttrMultiProcessorCount) || gpu_attribute(&l2_bytes, cudaDevAttrL2CacheSize))
    return -1;
  std::vector<worklist_item> items((size_t)v.count * v.classes);
  GPU_TRY(cudaMemcpy(items.data(), v.items, items.size() * sizeof items[0], cudaMemcpyDeviceToHost));
  const balance_list list = {items.data(), v.count,  v.classes, p->heads_q, p->heads_kv,     p->dim,
                             p->rows_k,    s->tiles, sms,       l2_bytes,   p->deterministic};
  balance b;
  if (balance_make(&b, &list)) {
    attn_error_set(true, "out of memory for the order of backward's items");
    return -1;
  }
  s->loop = b.loop;
  s->section = b.section;
  s->before = b.before;
  s->slots = b.slots;
  s->by_slot = b.slots && b.loop == p->heads_q / p->heads_kv;
  const int failed = (b.together && s->own.get(&s->at_tile, p->heads_q, &plan->workspace_bytes)) ||
                     (b.count && list_tail(s, items, b, plan));
  balance_free(&b);
  return failed ? -1 : 0;
}
