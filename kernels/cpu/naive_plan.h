// naive_plan.h -- what a plan of the CPU's naive kernel holds: the bytes of the mask and, for one query
// head at a time, the S x S scores and the padded fp32 copies that the products read.
#ifndef LONGCA_CPU_NAIVE_PLAN_H
#define LONGCA_CPU_NAIVE_PLAN_H

#include "cpu.h"

enum { NAIVE_TILE = 128 }; // products are cut into squares of it; rows are padded to whole ones

// What plans that never run at once have in common (attn_problem.like), of the size that the largest of
// them needs. The mask's bytes are those of one plan at a time, because a ring's steps lie at positions of
// their own: together they would grow with the ranks, as large as the scores.
struct naive_common {
  uint8_t *visible;                // [patterns, rows_q, rows_k] of the plan `shown`
  const struct naive_state *shown; // NULL: nobody's
  float *memory;
  int64_t visible_bytes, memory_bytes;
};

struct naive_state {
  struct naive_common *common, own; // own, or another plan's
  int patterns;                     // of the mask: one, or one a KV head
  int64_t pad_q, pad_k;             // rows_q and rows_k in whole tiles
  int64_t ld;                       // row stride of scores and of transposed keys, in floats
  int threads;
  // In common->memory. ds, d_o, v_t, k, dk, dv: backward only.
  float *p, *ds;          // [pad_q, ld] scores, then probabilities; dP, then dS
  float *q, *d_o, *out;   // [pad_q, LD(dim)]; out: O or dQ
  float *k_t, *v_t;       // [dim, ld]
  float *k, *v, *dk, *dv; // [pad_k, LD(dim)]
};

// Functions of the attn_kernel.
int naive_prepare(struct attn_plan *plan);
void naive_release(struct attn_plan *plan);
// To be called before each pass: places the arrays in the common memory, which may have grown since the
// last call, and writes the mask where another plan's lies there.
void naive_begin(struct attn_plan *plan);

#endif
