// plan.h -- what a plan of the CPU engine holds: the representation, the work list, the memory.
#ifndef LONGCA_CPU_PLAN_H
#define LONGCA_CPU_PLAN_H

#include "cpu.h"

// One query tile of one KV head: queries [row, row + count), which stand at positions [pos, ...), of
// the query heads [head, head + heads of a tile).
struct cpu_task {
  int32_t kv, head, row, pos, count;
  int64_t cost; // key tiles to visit
};

struct cpu_key_tile {
  int32_t row, count; // local rows; a segment begins a tile of its own
};

// What one thread needs beside the packed keys.
struct cpu_scratch {
  struct cpu_rows rows;
  struct cpu_visible *seen;
};

// What plans that never run at once have in common (attn_problem.like).
struct cpu_common {
  void *rep;
  float *memory; // of the plan that needs most
  int64_t memory_bytes;
};

struct cpu_state {
  struct cpu_common *common, own; // own, or another plan's
  const struct rep_ops *ops;
  const void *rep; // common->rep
  const struct cpu_isa *isa;
  struct attn_segment q_whole, k_whole; // used where the problem names no segments
  const struct attn_segment *q_seg, *k_seg;
  int32_t q_segs, k_segs;
  int threads;
  int heads, queries;     // of a query tile: heads divides the GQA group, heads * queries <= CPU_TM
  struct cpu_task *tasks; // by KV head, then longest first; as many for each
  int32_t tasks_per_head;
  struct cpu_key_tile *key_tiles; // of all segments, in order
  int32_t tiles_k;
  // Packed keys and values, [heads_kv, tiles_k, TK * LD(dim)] each.
  // Forward: k_t, v. Backward: k_t, v_t, k.
  float *k_t, *v, *k;
  struct cpu_scratch *scratch; // [threads]
  // Backward: a KV head's queries are dealt into `parts`, each with dK and dV of its own, summed in
  // order afterwards, so the result does not depend on who finishes first.
  int parts;
  // [slots, 2, tiles_k * TK, LD(dim)]; slots: threads if parts = 1, or heads_kv * parts
  float *grads;
};

// Places the floats above in the common memory, which may have grown since the last call.
void cpu_lay_out(struct cpu_state *st, const struct attn_problem *p);

static inline int64_t cpu_tile_floats(int dim) { return (int64_t)CPU_TK * CPU_LD(dim); }

#endif
