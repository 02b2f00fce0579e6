// plan.c -- a rank's plan: its place in the grid, its shard, kernel plans and buffers.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../src/timer.h"
#include "cp.h"

static _Thread_local char sentence[256];

const char *cp_heads_why_not(const struct attn_problem *p, int heads) {
  if (heads > CP_HEADS_MAX)
    return "more than 1024 ranks cannot split the heads";
  if (p->heads_q % heads) {
    snprintf(sentence, sizeof sentence, "%d query heads cannot be split over %d ranks", p->heads_q,
             heads);
    return sentence;
  }
  if (p->heads_kv % heads && heads % p->heads_kv) {
    snprintf(sentence, sizeof sentence,
             "%d KV heads can be neither split over %d ranks nor copied a whole number of times",
             p->heads_kv, heads);
    return sentence;
  }
  return NULL;
}

// Windows: as wished, else the largest divisor n of the ring with n <= ring / n (study 6.1).
static const char *set_windows(struct cp_grid *g, const struct cp_wish *wish) {
  g->windows = 1;
  if (wish->windows && g->context % wish->windows) {
    snprintf(sentence, sizeof sentence, "a ring of %d ranks cannot be cut into %d windows",
             g->context, wish->windows);
    return sentence;
  }
  for (int n = 1; n * n <= g->context; n++)
    if (g->context % n == 0)
      g->windows = n;
  if (wish->windows)
    g->windows = wish->windows;
  return NULL;
}

// Beyond a node of 8 GPUs the heads are split over 8 (study 6.1); within one, as nearly square as it
// goes, since 8 x 1 would be Ulysses. Where the heads do not allow that, the next smaller split.
const char *cp_arrange_hybrid(const struct attn_problem *p, int ranks, const struct cp_wish *wish,
                              struct cp_grid *grid) {
  int heads = wish->heads, context = wish->context;
  if (heads || context) {
    heads = heads ? heads : ranks / context;
    context = context ? context : ranks / heads;
    if (heads < 1 || heads * context != ranks) {
      snprintf(sentence, sizeof sentence, "%d x %d is not %d ranks", heads, context, ranks);
      return sentence;
    }
    const char *why = cp_heads_why_not(p, heads);
    if (why)
      return why;
  } else {
    heads = ranks > 8 && ranks % 8 == 0 ? 8 : 1;
    while (heads < ranks && (ranks % heads || heads * heads < ranks) && heads != 8)
      heads++;
    while (ranks % heads || cp_heads_why_not(p, heads))
      heads--;
  }
  grid->heads = heads;
  grid->context = ranks / heads;
  return set_windows(grid, wish);
}

// Rings merge what each step's keys give; with all keys at once only dK and dV are sums of ranks.
static bool merges(const struct cp_schedule *schedule, const struct cp_grid *grid, bool backward) {
  return grid->context > 1 && (backward || !schedule->gathers);
}

// More hide little more, and each has its latency and a kernel's last wave; around a ring, one of every step. On four
// H200s USP does best with 2 in both passes, Ulysses with 4 forward, where that many fit.
enum { PIECES_MAX = 4, PIECES_MAX_AROUND_RING = 2 };

// Whether a rank's heads can be exchanged and computed in that many pieces: whole KV heads with their query heads; or,
// where keys are sent but once and no gradients are summed, parts of a KV head's query heads.
static bool pieces_fit(const struct cp_grid *g, const struct attn_problem *p, int pieces) {
  const int kv = p->heads_kv < g->heads ? 1 : p->heads_kv / g->heads;
  const int group = p->heads_q / g->heads / kv;
  return kv % pieces == 0 ||
         (g->context == 1 && !p->backward && pieces % kv == 0 && group % (pieces / kv) == 0);
}

// As wished, else as many as there may be.
static const char *set_pieces(struct cp_grid *g, const struct attn_problem *p,
                              const struct cp_wish *wish) {
  g->pieces = 1;
  if (wish->pieces && wish->pieces > 1 && (g->heads == 1 || !pieces_fit(g, p, wish->pieces))) {
    snprintf(sentence, sizeof sentence,
             "the heads of one of %d ranks (of %d:%d) cannot be exchanged in %d pieces", g->heads,
             p->heads_q, p->heads_kv, wish->pieces);
    return sentence;
  }
  const int most = g->context > 1 ? PIECES_MAX_AROUND_RING : PIECES_MAX;
  for (int n = 1; n <= most && g->heads > 1; n++)
    if (pieces_fit(g, p, n))
      g->pieces = n;
  if (wish->pieces)
    g->pieces = wish->pieces;
  return NULL;
}

// More have fewer calls, between which O is read and written in fp32, but longer transfers under the first one: of
// three blocks no more than that call lasts, where it is not of short documents.
enum { BLOCKS = 3 };

// As wished or by default, but no more than there are.
static const char *set_blocks(struct cp_grid *g, const struct cp_schedule *schedule, int ranks,
                              const struct cp_wish *wish) {
  const int wanted = wish->blocks ? wish->blocks : BLOCKS, others = g->context / g->windows - 1;
  if (wish->blocks > 1 && ranks > 1 && (schedule->gathers || g->context == 1)) {
    snprintf(sentence, sizeof sentence, "%s has no ring whose blocks come %d at a time",
             schedule->name, wish->blocks);
    return sentence;
  }
  g->blocks = others < 1 ? 1 : wanted < others ? wanted : others;
  return NULL;
}

// What the kernel says to the segments of the ranks.
static const char *layout_why_not(const struct attn_kernel *kernel, struct attn_problem p,
                                  const struct cp_shard *s) {
  const char *why = NULL;
  p.rows_q = p.rows_k = s->context_rows;
  for (int r = 0; r < s->contexts && !why; r++) {
    p.q_seg = p.k_seg = s->seg[r];
    p.q_segs = p.k_segs = s->segs[r];
    why = attn_why_not(kernel, &p);
  }
  return why;
}

// The grid and the shard of a problem, which gets to know whether its results are merged; or why not.
// Free the shard in any case.
static const char *lay_out(const struct cp_schedule *schedule, const struct attn_kernel *kernel,
                           struct attn_problem *problem, int ranks, const struct cp_wish *wish,
                           struct cp_grid *grid, struct cp_shard *shard) {
  const struct cp_wish none = {0};
  memset(shard, 0, sizeof *shard);
  wish = wish ? wish : &none;
  *grid = (struct cp_grid){.cut = wish->cut,
                           .heads = 1,
                           .context = 1,
                           .windows = 1,
                           .pieces = 1,
                           .blocks = 1,
                           .context_first = schedule->context_first};
  if (ranks < 1)
    return "at least one rank is needed";
  if (mask_is_block_sparse(problem->mask->kind))
    return "block-sparse masks have a pattern a head, which schedules do not split";
  const char *why = attn_why_not(kernel, problem);
  if (!why)
    why = schedule->arrange(problem, ranks, wish, grid);
  if (!why)
    why = set_pieces(grid, problem, wish);
  if (!why)
    why = set_blocks(grid, schedule, ranks, wish);
  if (!why && (double)problem->mask->seqlen + 2.0 * ranks * problem->mask->docs > INT32_MAX)
    why = "positions are counted in 31 bits";
  if (why)
    return why;
  if (cp_shard_init(shard, problem->mask, grid)) {
    snprintf(sentence, sizeof sentence, "%s", attn_error());
    return sentence;
  }
  problem->merges = merges(schedule, grid, problem->backward);
  return layout_why_not(kernel, *problem, shard);
}

const char *cp_why_not(const struct cp_schedule *schedule, const struct attn_kernel *kernel,
                       const struct attn_problem *problem, int ranks, const struct cp_wish *wish,
                       struct cp_grid *grid) {
  struct attn_problem p = *problem;
  struct cp_shard shard;
  const char *why = lay_out(schedule, kernel, &p, ranks, wish, grid, &shard);
  cp_shard_free(&shard);
  return why;
}

// Whether forward may leave Q and O with their owners; backward wants what forward has exchanged.
static bool may_be_direct(const struct cp_plan *plan, const struct cp_wish *wish) {
  struct attn_problem p = plan->problem;
  p.owner_rows = plan->shard.rows;
  return plan->grid.heads > 1 && plan->grid.heads <= ATTN_OWNERS_MAX && !p.backward &&
         plan->comm->transport->map && !(wish && (wish->exchange || wish->pieces)) &&
         !layout_why_not(plan->kernel, p, &plan->shard);
}

void *cp_buffer(struct cp_plan *plan, int64_t bytes) {
  if (plan->n_buffers == (int)(sizeof plan->buffers / sizeof *plan->buffers)) {
    attn_error_set(false, "a context-parallel plan has more buffers than it can note down");
    return NULL;
  }
  void *data = plan->comm->memory->alloc(bytes);
  if (data) {
    plan->buffers[plan->n_buffers++] = data;
    plan->bytes += bytes;
  }
  return data;
}

// When a pass calls that step; -1: never. Forward's groups come after their window's first block, or blocks come one by
// one; backward begins with the second block of a window, and with the second window.
static int turn_of(const struct cp_plan *plan, int step, enum attn_pass pass) {
  const int ring = plan->grid.context, n = plan->grid.windows, size = ring / n;
  const int groups = cp_grid_groups(&plan->grid), group = step - ring;
  if (pass == ATTN_BWD)
    return group >= 0 ? -1 : (step / size - 1 + n) % n * size + (step % size - 1 + size) % size;
  if (group >= 0)
    return group / groups * size + 1 + group % groups;
  return plan->grid.blocks == 1 || step % size == 0 ? step : -1;
}

int cp_prepare_step(struct cp_plan *plan, int step, const struct attn_segment *k_seg,
                    int32_t k_segs, int32_t rows_k) {
  const struct cp_shard *s = &plan->shard;
  const struct attn_segment *q_seg = s->seg[plan->context];
  const int32_t q_segs = s->segs[plan->context];
  struct attn_problem *p = &plan->step_problems[step];
  *p = plan->problem;
  p->heads_q = plan->piece_q;
  p->heads_kv = plan->piece_kv;
  p->rows_q = s->context_rows;
  p->rows_k = rows_k;
  p->q_seg = q_seg;
  p->q_segs = q_segs;
  p->k_seg = k_seg;
  p->k_segs = k_segs;
  p->backward = plan->problem.backward && turn_of(plan, step, ATTN_BWD) >= 0;
  p->like = plan->like;
  if (plan->kernel_bytes >= plan->keep_bytes)
    return 0;
  struct attn_plan *kernel_plan = &plan->steps[step];
  if (attn_prepare(kernel_plan, plan->kernel, p))
    return -1;
  plan->kernel_bytes += kernel_plan->prep_bytes + kernel_plan->workspace_bytes;
  plan->prep_bytes += kernel_plan->prep_bytes;
  plan->like = plan->like ? plan->like : kernel_plan;
  return 0;
}

static int64_t q_elems(const struct cp_plan *plan) {
  return (int64_t)plan->shard.context_rows * plan->piece_q * plan->problem.dim;
}

int cp_begin_dq(struct cp_plan *plan, float **sums) {
  *sums = plan->like && plan->like->keeps_dq ? NULL : plan->acc;
  return *sums ? plan->comm->memory->zero(*sums, 4 * q_elems(plan), plan->comm->stream) : 0;
}

int cp_end_dq(struct cp_plan *plan, const float *sums, void *dq) {
  return sums ? plan->comm->memory->cast(dq, plan->problem.dtype, sums, q_elems(plan),
                                         plan->comm->stream)
              : 0;
}

enum attn_part cp_part(const struct cp_plan *plan, int step, enum attn_pass pass) {
  bool first = true, last = true;
  for (int i = 0; i < plan->n_steps; i++) {
    const int turn = turn_of(plan, i, pass);
    const bool before = turn < turn_of(plan, step, pass);
    if (i == step || turn < 0 || !plan->step_problems[i].heads_q)
      continue;
    first &= !before;
    last &= before;
  }
  return first ? (last ? ATTN_ALONE : ATTN_FIRST) : last ? ATTN_LAST : ATTN_NEXT;
}

int cp_call(struct cp_plan *plan, int step, enum attn_pass pass, const struct attn_args *args) {
  struct attn_plan late, *use = &plan->steps[step];
  if (!plan->step_problems[step].heads_q || plan->transfers_only)
    return 0;
  struct attn_args a = *args;
  a.stream = plan->comm->stream;
  a.part = cp_part(plan, step, pass);
  const bool is_late = !use->kernel;
  int status = 0;
  if (is_late) {
    status = attn_prepare(&late, plan->kernel, &plan->step_problems[step]);
    use = &late;
    const int64_t bytes = late.prep_bytes + late.workspace_bytes;
    if (bytes > plan->late_bytes) {
      plan->kernel_bytes += bytes - plan->late_bytes;
      plan->late_bytes = bytes;
    }
  }
  if (!status)
    status = pass == ATTN_BWD ? plan->kernel->backward(use, &a) : plan->kernel->forward(use, &a);
  if (is_late) {
    status = plan->comm->memory->sync(a.stream) || status ? -1 : 0;
    attn_release(&late);
  }
  return status ? -1 : 0;
}

int cp_plan_init(struct cp_plan *plan, const struct cp_schedule *schedule,
                 const struct cp_wish *wish, const struct attn_kernel *kernel,
                 const struct attn_problem *problem, struct cp_comm *comm) {
  memset(plan, 0, sizeof *plan);
  plan->comm = comm;
  const double begin_us = timer_now_us();
  plan->problem = *problem;
  const char *why =
      lay_out(schedule, kernel, &plan->problem, comm->size, wish, &plan->grid, &plan->shard);
  if (!why && kernel->place != comm->memory->place)
    why = "the kernel's memory is not the transport's";
  if (why) {
    attn_error_set(false, "%s", why);
    return -1;
  }
  plan->schedule = schedule;
  plan->kernel = kernel;
  // A GPU engine works in fp32 copies of dQ: 256 MiB a plan at the study's size. Hosts are smaller.
  plan->keep_bytes = comm->memory->place == ATTN_DEVICE ? (int64_t)32 << 30 : (int64_t)256 << 20;
  if (wish && wish->keep_bytes)
    plan->keep_bytes = wish->keep_bytes;
  if (may_be_direct(plan, wish) && cp_owners_plan(plan))
    return -1;
  if (plan->grid.direct) {
    plan->problem.owner_rows = plan->shard.rows;
    plan->grid.pieces = 1; // there is little left to hide
  }
  plan->head = cp_grid_head(&plan->grid, comm->rank);
  plan->context = cp_grid_context(&plan->grid, comm->rank);
  const int heads = plan->grid.heads;
  plan->heads_q = problem->heads_q / heads;
  plan->heads_kv = problem->heads_kv < heads ? 1 : problem->heads_kv / heads;
  const int pieces = plan->grid.pieces;
  plan->piece_q = plan->heads_q / pieces;
  plan->piece_kv = plan->heads_kv < pieces ? 1 : plan->heads_kv / pieces;
  plan->copies = problem->heads_kv < heads ? heads / problem->heads_kv : 1;
  if (schedule->plan(plan))
    return -1;
  plan->prep_us = timer_now_us() - begin_us;
  return 0;
}

void cp_plan_release(struct cp_plan *plan) {
  for (int i = plan->n_steps - 1; plan->steps && i >= 0; i--) // the first lends to the others
    attn_release(&plan->steps[i]);
  free(plan->steps);
  free(plan->step_problems);
  cp_owners_release(plan);
  for (int i = 0; i < plan->n_buffers; i++)
    plan->comm->memory->release(plan->buffers[i]);
  free(plan->k_seg);
  cp_shard_free(&plan->shard);
  memset(plan, 0, sizeof *plan);
}

int cp_forward(struct cp_plan *plan, const struct attn_args *args) {
  return plan->schedule->forward(plan, args);
}

int cp_backward(struct cp_plan *plan, const struct attn_args *args) {
  if (!plan->problem.backward) {
    attn_error_set(false, "the plan was prepared without backward");
    return -1;
  }
  return plan->schedule->backward(plan, args);
}
