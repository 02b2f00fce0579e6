// plan.c -- preparation of the CPU engine: builds the representation, cuts the queries into tiles,
// orders them longest first, and allocates everything that the passes will use, O(S) in all. The steps
// of a ring share the representation and the floats (attn_problem.like).
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "plan.h"

// Hands out cache-line-aligned pieces of one block; with base NULL it only counts.
struct arena {
  float *base;
  int64_t used; // floats
};

static float *take(struct arena *arena, int64_t floats) {
  float *p = arena->base ? arena->base + arena->used : NULL;
  arena->used += (floats + CPU_LANES - 1) / CPU_LANES * CPU_LANES;
  return p;
}

static void lay_out(struct cpu_state *st, const struct attn_problem *p, struct arena *arena) {
  const int64_t packed = (int64_t)p->heads_kv * st->tiles_k * cpu_tile_floats(p->dim);
  const int64_t matrix = (int64_t)CPU_TM * CPU_LD(p->dim), square = (int64_t)CPU_TM * CPU_LDS;
  st->k_t = take(arena, packed);
  st->v = take(arena, packed);
  for (int t = 0; t < st->threads; t++) {
    struct cpu_rows *r = &st->scratch[t].rows;
    st->scratch[t].seen = (struct cpu_visible *)take(arena, sizeof(struct cpu_visible) / 4);
    r->q = take(arena, matrix);
    r->acc = take(arena, matrix);
    r->s = take(arena, square);
    r->max = take(arena, CPU_TM);
    r->sum = take(arena, CPU_TM * CPU_LANES);
    if (p->backward) {
      r->d_o = take(arena, matrix);
      r->ds = take(arena, square);
      r->lse = take(arena, CPU_TM);
      r->delta = take(arena, CPU_TM);
    }
  }
  if (p->backward) {
    const int64_t slots = st->parts == 1 ? st->threads : (int64_t)p->heads_kv * st->parts;
    st->k = take(arena, packed);
    st->grads = take(arena, slots * 2 * st->tiles_k * cpu_tile_floats(p->dim));
  }
}

// Fewest parts that keep the threads busy to 95 % when each does whole (head, part) pairs.
static int parts_for(int heads_kv, int threads, int tasks_per_head) {
  int parts = 1;
  for (;; parts++) {
    const int pairs = heads_kv * parts, idle = (threads - pairs % threads) % threads;
    if (idle * 20 <= pairs + idle || parts >= tasks_per_head)
      return parts;
  }
}

static int64_t tiles_visited(const struct cpu_state *st, const struct cpu_task *task) {
  int64_t n = 0;
  for (int s = 0; s < st->k_segs; s++) {
    const struct attn_segment *seg = &st->k_seg[s];
    const struct tile_view view = {task->pos, task->pos + task->count, seg->pos,
                                   seg->pos + seg->len, CPU_TK};
    struct tile_run run = st->ops->next_keys(st->rep, task->kv, &view, 0);
    for (; run.begin < run.end; run = st->ops->next_keys(st->rep, task->kv, &view, run.end))
      n += run.end - run.begin;
  }
  return n;
}

static int longest_first(const void *pa, const void *pb) {
  const struct cpu_task *a = pa, *b = pb;
  if (a->kv != b->kv)
    return a->kv < b->kv ? -1 : 1;
  if (a->cost != b->cost)
    return a->cost > b->cost ? -1 : 1;
  if (a->row != b->row)
    return a->row < b->row ? -1 : 1;
  return a->head < b->head ? -1 : a->head > b->head;
}

static int list_tasks(struct cpu_state *st, const struct attn_problem *p) {
  const int group = p->heads_q / p->heads_kv;
  int64_t tiles = 0;
  for (int s = 0; s < st->q_segs; s++)
    tiles += (st->q_seg[s].len + st->queries - 1) / st->queries;
  st->tasks_per_head = (int32_t)(tiles * (group / st->heads));
  st->tasks = malloc((size_t)p->heads_kv * st->tasks_per_head * sizeof *st->tasks + 1);
  if (!st->tasks)
    return -1;
  struct cpu_task *t = st->tasks;
  for (int kv = 0; kv < p->heads_kv; kv++)
    for (int s = 0; s < st->q_segs; s++)
      for (int32_t at = 0; at < st->q_seg[s].len; at += st->queries) {
        const int32_t left = st->q_seg[s].len - at;
        struct cpu_task task = {.kv = kv,
                                .head = kv * group,
                                .row = st->q_seg[s].row + at,
                                .pos = st->q_seg[s].pos + at,
                                .count = left < st->queries ? left : st->queries};
        // Only block-sparse masks differ between heads.
        const struct cpu_task *like =
            &st->tasks[t - st->tasks - kv * (ptrdiff_t)st->tasks_per_head];
        task.cost = p->mask->heads || !kv ? tiles_visited(st, &task) : like->cost;
        for (; task.head < (kv + 1) * group; task.head += st->heads)
          *t++ = task;
      }
  // Sorted at the end: above, the first head's tasks are read in the order they were made.
  qsort(st->tasks, (size_t)p->heads_kv * st->tasks_per_head, sizeof *st->tasks, longest_first);
  return 0;
}

static int list_key_tiles(struct cpu_state *st) {
  for (int s = 0; s < st->k_segs; s++)
    st->tiles_k += (st->k_seg[s].len + CPU_TK - 1) / CPU_TK;
  st->key_tiles = malloc(st->tiles_k * sizeof *st->key_tiles + 1);
  if (!st->key_tiles)
    return -1;
  struct cpu_key_tile *t = st->key_tiles;
  for (int s = 0; s < st->k_segs; s++)
    for (int32_t at = 0; at < st->k_seg[s].len; at += CPU_TK) {
      const int32_t left = st->k_seg[s].len - at;
      *t++ = (struct cpu_key_tile){st->k_seg[s].row + at, left < CPU_TK ? left : CPU_TK};
    }
  return 0;
}

void cpu_lay_out(struct cpu_state *st, const struct attn_problem *p) {
  lay_out(st, p, &(struct arena){st->common->memory, 0});
}

static int build_rep(struct cpu_state *st, const struct attn_problem *p) {
  void *rep = calloc(1, st->ops->size);
  if (!rep || st->ops->build(rep, p->mask)) {
    free(rep);
    return -1;
  }
  st->common->rep = rep;
  return 0;
}

static int no_memory(void) {
  attn_error_set(true, "out of memory while preparing the CPU engine");
  return -1;
}

int cpu_prepare(struct attn_plan *plan) {
  const struct attn_problem *p = &plan->problem;
  struct cpu_state *st = plan->state = calloc(1, sizeof *st);
  if (!st)
    return no_memory();
  st->ops = rep_find(plan->kernel->rep);
  st->isa = cpu_isa();
  st->threads = omp_get_max_threads();
  st->q_whole = (struct attn_segment){0, 0, p->rows_q};
  st->k_whole = (struct attn_segment){0, 0, p->rows_k};
  st->q_seg = p->q_seg ? p->q_seg : &st->q_whole;
  st->k_seg = p->k_seg ? p->k_seg : &st->k_whole;
  st->q_segs = p->q_seg ? p->q_segs : 1;
  st->k_segs = p->k_seg ? p->k_segs : 1;
  for (int n = 1; n <= 16; n++) // more heads than 16 would leave a tile less than 8 queries
    if (p->heads_q / p->heads_kv % n == 0)
      st->heads = n;
  st->queries = CPU_TM / st->heads;

  const struct attn_plan *like = p->like;
  const bool shares = like && like->kernel == plan->kernel && like->problem.mask == p->mask;
  struct cpu_common *c = st->common = shares ? ((struct cpu_state *)like->state)->common : &st->own;
  if (!shares) {
    if (build_rep(st, p))
      return no_memory();
    plan->prep_bytes = (int64_t)st->ops->bytes(c->rep);
  }
  st->rep = c->rep;

  st->scratch = calloc(st->threads, sizeof *st->scratch);
  if (!st->scratch || list_tasks(st, p) || list_key_tiles(st))
    return no_memory();
  st->parts = parts_for(p->heads_kv, st->threads, st->tasks_per_head);
  plan->workspace_bytes = (int64_t)p->heads_kv * st->tasks_per_head * sizeof *st->tasks +
                          st->tiles_k * (int64_t)sizeof *st->key_tiles +
                          st->threads * (int64_t)sizeof *st->scratch;
  struct arena arena = {NULL, 0};
  lay_out(st, p, &arena);
  const int64_t bytes = arena.used * (int64_t)sizeof(float);
  if (bytes > c->memory_bytes) {
    free(c->memory); // nothing in it lasts longer than a call
    plan->workspace_bytes += bytes - c->memory_bytes;
    c->memory_bytes = bytes;
    c->memory = aligned_alloc(64, bytes);
  }
  if (!c->memory) {
    c->memory_bytes = 0;
    return no_memory();
  }
  for (int t = 0; t < st->threads; t++) {
    st->scratch[t].rows.heads = st->heads;
    st->scratch[t].rows.dim = p->dim;
  }
  return 0;
}

void cpu_release(struct attn_plan *plan) {
  struct cpu_state *st = plan->state;
  if (!st)
    return;
  if (st->own.rep)
    st->ops->release(st->own.rep);
  free(st->own.rep);
  free(st->own.memory);
  free(st->scratch);
  free(st->tasks);
  free(st->key_tiles);
  free(st);
  plan->state = NULL;
}
