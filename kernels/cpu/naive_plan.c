// naive_plan.c -- preparation of the CPU's naive kernel: its memory, S x S on purpose, and the mask.
//
// Bytes: mask patterns * rows_q * rows_k; scores 4 * rows_q * rows_k, twice for backward. The steps of a
// ring share both (naive_plan.h), so that memory does not grow with the ranks; what that costs, the mask
// written anew in each step, is in the time of the call.
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "naive_plan.h"

// Hands the arrays their places behind `base`, or with NULL only counts; returns how many floats.
static int64_t lay_out(struct naive_state *st, const struct attn_problem *p, float *base) {
  const int64_t square = st->pad_q * st->ld, columns = p->dim * st->ld;
  const int64_t rows_q = st->pad_q * CPU_LD(p->dim), rows_k = st->pad_k * CPU_LD(p->dim);
  const struct {
    float **array;
    int64_t floats;
  } pieces[] = {{&st->p, square}, {&st->q, rows_q},  {&st->out, rows_q}, {&st->k_t, columns},
                {&st->v, rows_k}, {&st->ds, square}, {&st->d_o, rows_q}, {&st->v_t, columns},
                {&st->k, rows_k}, {&st->dk, rows_k}, {&st->dv, rows_k}};
  int64_t floats = 0;
  for (int i = 0; i < (p->backward ? 11 : 5); floats += pieces[i++].floats)
    *pieces[i].array = base ? base + floats : NULL;
  return floats;
}

// Position of a local row, or -1 for padding.
static int32_t position(const struct attn_segment *seg, int32_t segs, int32_t row) {
  for (int s = 0; s < segs; s++)
    if (row >= seg[s].row && row < seg[s].row + seg[s].len)
      return seg[s].pos + row - seg[s].row;
  return -1;
}

static void show(const struct attn_plan *plan) {
  const struct naive_state *st = plan->state;
  const struct attn_problem *p = &plan->problem;
  const struct attn_segment all_q = {0, 0, p->rows_q}, all_k = {0, 0, p->rows_k};
  const struct attn_segment *q_seg = p->q_seg ? p->q_seg : &all_q;
  const struct attn_segment *k_seg = p->k_seg ? p->k_seg : &all_k;
  const int32_t q_segs = p->q_seg ? p->q_segs : 1, k_segs = p->k_seg ? p->k_segs : 1;
#pragma omp parallel for schedule(static) num_threads(st->threads)
  for (int32_t q = 0; q < p->rows_q; q++)
    for (int h = 0; h < st->patterns; h++) {
      uint8_t *row = st->common->visible + ((int64_t)h * p->rows_q + q) * p->rows_k;
      const int32_t q_pos = position(q_seg, q_segs, q);
      memset(row, 0, (size_t)p->rows_k);
      for (int s = 0; s < k_segs && q_pos >= 0; s++)
        for (int32_t i = 0; i < k_seg[s].len; i++)
          row[k_seg[s].row + i] = mask_allows(p->mask, h, q_pos, k_seg[s].pos + i);
    }
  st->common->shown = st;
}

// Makes *block hold `bytes`; what it held is lost. 0, or -1 when memory is short, and it is as it was.
static int grow(void **block, int64_t *held, int64_t bytes, int64_t *account) {
  if (bytes <= *held)
    return 0;
  void *larger = aligned_alloc(64, (size_t)(bytes + 63) / 64 * 64);
  if (!larger)
    return -1;
  free(*block);
  *block = larger;
  *account += bytes - *held;
  *held = bytes;
  return 0;
}

int naive_prepare(struct attn_plan *plan) {
  const struct attn_problem *p = &plan->problem;
  const struct attn_plan *like = p->like;
  const bool shares = like && like->kernel == plan->kernel && like->problem.mask == p->mask;
  struct naive_state *st = plan->state = calloc(1, sizeof *st);
  if (!st) {
    attn_error_set(true, "out of memory for a plan of the naive kernel");
    return -1;
  }
  struct naive_common *c = st->common =
      shares ? ((struct naive_state *)like->state)->common : &st->own;
  st->threads = omp_get_max_threads();
  st->patterns = p->mask->heads ? p->mask->heads : 1;
  st->pad_q = (p->rows_q + NAIVE_TILE - 1) / NAIVE_TILE * NAIVE_TILE;
  st->pad_k = (p->rows_k + NAIVE_TILE - 1) / NAIVE_TILE * NAIVE_TILE;
  st->ld = st->pad_k + CPU_PAD;
  const int64_t bytes = lay_out(st, p, NULL) * (int64_t)sizeof(float);
  const int64_t visible = (int64_t)st->patterns * p->rows_q * p->rows_k;
  if (visible > c->visible_bytes)
    c->shown = NULL;
  if (grow((void **)&c->visible, &c->visible_bytes, visible, &plan->prep_bytes) ||
      grow((void **)&c->memory, &c->memory_bytes, bytes, &plan->workspace_bytes)) {
    attn_error_set(true, "out of memory for the naive kernel's S x S scores (%.1f GiB)",
                   (double)(bytes + visible) / 1073741824.0);
    return -1;
  }
  if (!shares)
    show(plan);
  return 0;
}

void naive_begin(struct attn_plan *plan) {
  struct naive_state *st = plan->state;
  lay_out(st, &plan->problem, st->common->memory);
  if (st->common->shown != st)
    show(plan);
}

void naive_release(struct attn_plan *plan) {
  struct naive_state *st = plan->state;
  if (!st)
    return;
  if (st->common->shown == st) // another plan's state may come to lie at this address
    st->common->shown = NULL;
  free(st->own.visible);
  free(st->own.memory);
  free(st);
  plan->state = NULL;
}
