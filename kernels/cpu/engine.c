// engine.c -- forward and backward of the CPU engine, over any representation (kernels/rep/rep.h).
//
// Both passes take a query tile (GQA heads packed together) along the key tiles that its
// representation names, so empty tiles cost nothing and full ones no masking. Forward: every (KV head,
// query tile) is a task, longest first within a head, so that the last tasks to finish are short.
// Backward recomputes P from the LSE (Dao et al. 2022, algorithm 4), keeps dQ with the tile and adds
// to dK and dV of its own (head, part); see plan.h for why that is deterministic.
#include <math.h>
#include <omp.h>
#include <string.h>

#include "plan.h"

static const float LOG2_E = 1.44269504088896341f, LN_2 = 0.693147180559945309f;

// Writes a finished gradient row, or adds it to the fp32 accumulator.
static void put_gradient(const struct attn_plan *plan, const struct attn_args *a, void *dst,
                         float *acc, int64_t at, const float *row, float scale) {
  const struct attn_problem *p = &plan->problem;
  const struct cpu_isa *isa = ((struct cpu_state *)plan->state)->isa;
  if (a->accumulate)
    isa->add_row(acc + at, row, p->dim, scale);
  else
    isa->store_row(dst, p->dtype, at, row, p->dim, scale);
}

static float scale_of(const struct attn_plan *plan, const struct attn_args *a) {
  return a->scale != 0 ? a->scale : 1 / sqrtf((float)plan->problem.dim);
}

// Row r of a tile: its query row and head, as an index into q [rows_q, heads_q, dim] or lse.
static int64_t row_at(const struct attn_problem *p, const struct cpu_task *t, int heads, int r) {
  return ((int64_t)(t->row + r / heads) * p->heads_q + t->head + r % heads) * p->dim;
}
// Where o (and q likewise) has that row: of the owner who has it (attn.h).
struct owned {
  int owner;
  int64_t at;
};
static struct owned owned_row(const struct attn_problem *p, const struct attn_args *a,
                              const struct cpu_task *t, int heads, int r) {
  const int64_t at = row_at(p, t, heads, r), row = at / p->dim / p->heads_q;
  if (!a->owners)
    return (struct owned){0, at};
  const int64_t first = row % p->owner_rows * a->owners->heads + a->owners->head;
  return (struct owned){(int)(row / p->owner_rows), at + (first - row * p->heads_q) * p->dim};
}
static int64_t lse_at(const struct attn_problem *p, const struct cpu_task *t, int heads, int r) {
  return (int64_t)(t->head + r % heads) * p->rows_q + t->row + r / heads;
}

// What the task's queries see of key tile `tile` of a segment; false: nothing at all.
static bool look(const struct cpu_state *st, const struct cpu_task *task,
                 const struct tile_view *view, int32_t tile, bool full, struct cpu_visible *seen) {
  const int32_t k = view->k_begin + tile * CPU_TK;
  const int32_t n = view->k_end - k < CPU_TK ? view->k_end - k : CPU_TK;
  seen->full = full && n == CPU_TK;
  if (seen->full)
    return true;
  const uint64_t low = n >= 64 ? ~0ull : (1ull << n) - 1;
  const uint64_t high = n >= 128 ? ~0ull : n > 64 ? (1ull << (n - 64)) - 1 : 0;
  uint64_t any = 0;
  for (int q = 0; q < task->count; q++) {
    uint64_t *bits = seen->bits[q];
    bits[0] = low, bits[1] = high;
    if (!full)
      st->ops->row_bits(st->rep, task->kv, task->pos + q, k, n, bits);
    any |= bits[0] | bits[1];
  }
  return any != 0;
}

// Takes the task's rows along all key tiles that they see. dk, dv NULL: forward.
static void walk(const struct cpu_state *st, const struct cpu_task *task, struct cpu_scratch *own,
                 float *dk, float *dv) {
  const int64_t floats = cpu_tile_floats(own->rows.dim);
  int64_t first = task->kv * (int64_t)st->tiles_k;
  for (int s = 0; s < st->k_segs; s++) {
    const struct attn_segment *seg = &st->k_seg[s];
    const struct tile_view view = {task->pos, task->pos + task->count, seg->pos,
                                   seg->pos + seg->len, CPU_TK};
    struct tile_run run = st->ops->next_keys(st->rep, task->kv, &view, 0);
    for (; run.begin < run.end; run = st->ops->next_keys(st->rep, task->kv, &view, run.end))
      for (int32_t t = run.begin; t < run.end; t++) {
        if (!look(st, task, &view, t, run.full, own->seen))
          continue;
        const int64_t at = (first + t) * floats;
        const int64_t grad = at - task->kv * (int64_t)st->tiles_k * floats;
        if (dk)
          st->isa->backward(&own->rows, st->k_t + at, st->v + at, st->k + at, own->seen, dk + grad,
                            dv + grad);
        else
          st->isa->forward(&own->rows, st->k_t + at, st->v + at, own->seen);
      }
    first += (seg->len + CPU_TK - 1) / CPU_TK;
  }
}

static void clear_matrix(float *m, int rows, int dim) {
  memset(m, 0, (size_t)rows * CPU_LD(dim) * sizeof *m);
}

static void forward_task(const struct attn_plan *plan, const struct attn_args *a,
                         const struct cpu_task *task, struct cpu_scratch *own) {
  const struct attn_problem *p = &plan->problem;
  const struct cpu_isa *isa = ((struct cpu_state *)plan->state)->isa;
  struct cpu_rows *r = &own->rows;
  const int ld = CPU_LD(p->dim);
  const float scale = scale_of(plan, a) * LOG2_E;
  r->rows = task->count * r->heads;
  clear_matrix(r->acc, CPU_TM, p->dim);
  memset(r->sum, 0, CPU_TM * CPU_LANES * sizeof *r->sum);
  for (int i = 0; i < r->rows; i++) {
    const int64_t at = row_at(p, task, r->heads, i);
    const struct owned q = owned_row(p, a, task, r->heads, i);
    isa->load_row(r->q + i * ld, a->owners ? a->owners->q[q.owner] : a->q, p->dtype, q.at, p->dim,
                  scale);
    r->max[i] = -INFINITY;
    const float lse = a->resume ? a->lse[lse_at(p, task, r->heads, i)] : -INFINITY;
    if (lse != -INFINITY) { // a normalised result is one that has seen weight 1 at maximum lse
      r->max[i] = lse * LOG2_E;
      r->sum[i * CPU_LANES] = 1;
      memcpy(r->acc + i * ld, a->o_acc + at, p->dim * sizeof(float));
    }
  }
  clear_matrix(r->q + r->rows * ld, CPU_TM - r->rows, p->dim);
  walk(plan->state, task, own, NULL, NULL);
  for (int i = 0; i < r->rows; i++) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int l = 0; l < CPU_LANES; l++)
      sum += r->sum[i * CPU_LANES + l];
    const float inverse = sum == 0 ? 0 : 1 / sum; // == : a NaN must come through
    a->lse[lse_at(p, task, r->heads, i)] = sum == 0 ? -INFINITY : (r->max[i] + log2f(sum)) * LN_2;
    const int64_t at = row_at(p, task, r->heads, i);
    const struct owned o = owned_row(p, a, task, r->heads, i);
    if (attn_writes_o(a))
      isa->store_row(a->owners ? a->owners->o[o.owner] : a->o, p->dtype, o.at, r->acc + i * ld,
                     p->dim, inverse);
    else
      isa->store_row(a->o_acc, ATTN_FP32, at, r->acc + i * ld, p->dim, inverse);
  }
}

int cpu_forward(struct attn_plan *plan, const struct attn_args *a) {
  const struct attn_problem *p = &plan->problem;
  struct cpu_state *st = plan->state;
  const int64_t tiles = (int64_t)p->heads_kv * st->tiles_k, floats = cpu_tile_floats(p->dim);
  const int64_t tasks = (int64_t)p->heads_kv * st->tasks_per_head;
  cpu_lay_out(st, p);
#pragma omp parallel num_threads(st->threads)
  {
    struct cpu_scratch *own = &st->scratch[omp_get_thread_num()];
#pragma omp for schedule(dynamic, 4)
    for (int64_t i = 0; i < tiles; i++) {
      const int kv = (int)(i / st->tiles_k);
      const struct cpu_key_tile *tile = &st->key_tiles[i % st->tiles_k];
      st->isa->pack(st->k_t + i * floats, a->k, p, kv, tile->row, tile->count, true);
      st->isa->pack(st->v + i * floats, a->v, p, kv, tile->row, tile->count, false);
    }
#pragma omp for schedule(dynamic, 1)
    for (int64_t i = 0; i < tasks; i++)
      forward_task(plan, a, &st->tasks[i], own);
  }
  return 0;
}

static void backward_task(const struct attn_plan *plan, const struct attn_args *a,
                          const struct cpu_task *task, struct cpu_scratch *own, float *dk,
                          float *dv) {
  const struct attn_problem *p = &plan->problem;
  const struct cpu_isa *isa = ((struct cpu_state *)plan->state)->isa;
  struct cpu_rows *r = &own->rows;
  const int ld = CPU_LD(p->dim);
  const float scale = scale_of(plan, a);
  _Alignas(64) float o[128];
  r->rows = task->count * r->heads;
  r->scale_l2 = scale * LOG2_E;
  clear_matrix(r->acc, CPU_TM, p->dim);
  for (int i = 0; i < r->rows; i++) {
    const int64_t at = row_at(p, task, r->heads, i);
    const float lse = a->lse[lse_at(p, task, r->heads, i)];
    isa->load_row(r->q + i * ld, a->q, p->dtype, at, p->dim, 1);
    isa->load_row(r->d_o + i * ld, a->d_o, p->dtype, at, p->dim, 1);
    isa->load_row(o, a->o, p->dtype, at, p->dim, 1);
    r->delta[i] = isa->dot(o, r->d_o + i * ld, p->dim);
    r->lse[i] = lse == -INFINITY ? INFINITY : lse * LOG2_E;
  }
  clear_matrix(r->q + r->rows * ld, CPU_TM - r->rows, p->dim);
  clear_matrix(r->d_o + r->rows * ld, CPU_TM - r->rows, p->dim);
  walk(plan->state, task, own, dk, dv);
  for (int i = 0; i < r->rows; i++)
    put_gradient(plan, a, a->dq, a->dq_acc, row_at(p, task, r->heads, i), r->acc + i * ld, scale);
}

// dK and dV of one key tile: the sum over the parts, in order, starting from grads of slot `slot`.
static void write_keys(const struct attn_plan *plan, const struct attn_args *a, int kv,
                       int32_t tile, int64_t slot, int parts) {
  const struct attn_problem *p = &plan->problem;
  const struct cpu_state *st = plan->state;
  const int64_t floats = cpu_tile_floats(p->dim), grad = st->tiles_k * floats;
  for (int i = 0; i < st->key_tiles[tile].count; i++) {
    float *dk = st->grads + slot * 2 * grad + tile * floats + (int64_t)i * CPU_LD(p->dim);
    for (int part = 1; part < parts; part++) {
      st->isa->add_row(dk, dk + part * 2 * grad, p->dim, 1);
      st->isa->add_row(dk + grad, dk + (part * 2 + 1) * grad, p->dim, 1);
    }
    const int64_t at = ((int64_t)(st->key_tiles[tile].row + i) * p->heads_kv + kv) * p->dim;
    put_gradient(plan, a, a->dk, a->dk_acc, at, dk, scale_of(plan, a));
    put_gradient(plan, a, a->dv, a->dv_acc, at, dk + grad, 1);
  }
}

int cpu_backward(struct attn_plan *plan, const struct attn_args *a) {
  const struct attn_problem *p = &plan->problem;
  struct cpu_state *st = plan->state;
  if (!p->backward) {
    attn_error_set(false, "the plan was prepared without backward");
    return -1;
  }
  const int64_t tiles = (int64_t)p->heads_kv * st->tiles_k, floats = cpu_tile_floats(p->dim);
  const int64_t pairs = (int64_t)p->heads_kv * st->parts, grad = st->tiles_k * floats;
  cpu_lay_out(st, p);
#pragma omp parallel num_threads(st->threads)
  {
    const int thread = omp_get_thread_num();
#pragma omp for schedule(dynamic, 4)
    for (int64_t i = 0; i < tiles; i++) {
      const int kv = (int)(i / st->tiles_k);
      const struct cpu_key_tile *tile = &st->key_tiles[i % st->tiles_k];
      st->isa->pack(st->k_t + i * floats, a->k, p, kv, tile->row, tile->count, true);
      st->isa->pack(st->v + i * floats, a->v, p, kv, tile->row, tile->count, true);
      st->isa->pack(st->k + i * floats, a->k, p, kv, tile->row, tile->count, false);
    }
#pragma omp for schedule(dynamic, 1)
    for (int64_t i = 0; i < pairs; i++) {
      const int kv = (int)(i / st->parts), part = (int)(i % st->parts);
      const int64_t slot = st->parts == 1 ? thread : i;
      float *dk = st->grads + slot * 2 * grad, *dv = dk + grad;
      memset(dk, 0, 2 * grad * sizeof *dk);
      for (int32_t t = part; t < st->tasks_per_head; t += st->parts)
        backward_task(plan, a, &st->tasks[(int64_t)kv * st->tasks_per_head + t],
                      &st->scratch[thread], dk, dv);
      if (st->parts == 1)
        for (int32_t tile = 0; tile < st->tiles_k; tile++)
          write_keys(plan, a, kv, tile, slot, 1);
    }
    if (st->parts > 1) {
#pragma omp for schedule(dynamic, 4)
      for (int64_t i = 0; i < tiles; i++) {
        const int kv = (int)(i / st->tiles_k);
        write_keys(plan, a, kv, (int32_t)(i % st->tiles_k), (int64_t)kv * st->parts, st->parts);
      }
    }
  }
  return 0;
}
