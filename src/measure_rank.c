// measure_rank.c -- see measure_rank.h. Inputs are drawn row by row from the row's position, so the numbers
// do not depend on who holds them, and every schedule computes the same.
#include "measure_rank.h"

#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "mask_draw.h"
#include "tensor.h"

static int out_of_memory(const char *what) {
  attn_error_set(true, "out of host memory for %s", what);
  return -1;
}

int rank_draw(const struct point *p, struct mask *mask) {
  char err[ROW_REASON] = "";
  struct mask_recipe recipe = point_recipe(p);
  recipe.distributed = true;
  if (!mask_draw_nth(mask, p->seed, p->draw, &recipe, err, sizeof err))
    return 0;
  attn_error_set(false, "%s", err);
  return -1;
}

static int32_t heads_of(const struct point *p, int tensor) {
  return tensor == K || tensor == V || tensor == DK || tensor == DV ? p->heads_kv : p->heads_q;
}

// Row by row from a stream of its position, so that the numbers do not depend on who holds them.
static int fill_shard(struct rank *r, int tensor) {
  const struct point *p = r->s->p;
  const int64_t row = (int64_t)heads_of(p, tensor) * p->dim, size = cp_elem_bytes(p->dtype);
  const int32_t *pos = r->pos + r->plan.head * r->plan.shard.rows;
  char *host = calloc((size_t)r->plan.shard.rows, (size_t)(row * size));
  if (!host)
    return out_of_memory("a shard");
#pragma omp parallel for schedule(static)
  for (int32_t i = 0; i < r->plan.shard.rows; i++)
    if (pos[i] >= 0)
      tensor_fill_normal(host + i * row * size, p->dtype, row, p->seed,
                         ((uint64_t)p->draw * p->seqlen + (uint64_t)pos[i]) * O + (uint64_t)tensor);
  const int status = r->comm->memory->upload(r->t[tensor], host, r->bytes[tensor]);
  free(host);
  return status;
}

static int make_tensors(struct rank *r) {
  const struct point *p = r->s->p;
  const struct cp_shard *shard = &r->plan.shard;
  r->pos = malloc(sizeof *r->pos * (size_t)shard->context_rows);
  if (!r->pos)
    return out_of_memory("positions");
  cp_shard_positions(shard, r->plan.context, r->pos);
  for (int i = 0; i < (p->pass == ATTN_BWD ? RANK_TENSORS : LSE + 1); i++) {
    r->bytes[i] = i == LSE
                      ? 4 * (int64_t)r->plan.heads_q * shard->context_rows
                      : (int64_t)shard->rows * heads_of(p, i) * p->dim * cp_elem_bytes(p->dtype);
    if ((i == D_O && p->pass == ATTN_FWD) ||
        ((r->t[i] = r->comm->memory->alloc(r->bytes[i])) && i >= O))
      continue;
    if (!r->t[i] || fill_shard(r, i))
      return -1;
  }
  return 0;
}

static struct attn_args arguments(const struct rank *r) {
  return (struct attn_args){.q = r->t[Q],
                            .k = r->t[K],
                            .v = r->t[V],
                            .o = r->t[O],
                            .lse = r->t[LSE],
                            .d_o = r->t[D_O],
                            .dq = r->t[DQ],
                            .dk = r->t[DK],
                            .dv = r->t[DV]};
}

int rank_pass(struct rank *r, enum attn_pass pass) {
  const struct attn_args a = arguments(r);
  return (pass == ATTN_BWD ? cp_backward : cp_forward)(&r->plan, &a);
}

// ---- gathering ------------------------------------------------------------------------------

// A shard of `rank` into the whole tensor, by position.
static void place_shard(const struct rank *r, int rank, int tensor, const char *shard,
                        char *whole) {
  const struct point *p = r->s->p;
  const struct cp_grid *g = &r->plan.grid;
  const struct cp_shard *s = &r->plan.shard;
  const int head = cp_grid_head(g, rank), context = cp_grid_context(g, rank);
  for (int32_t i = 0; i < s->segs[context]; i++) {
    const struct attn_segment *seg = &s->seg[context][i];
#pragma omp parallel for schedule(static) if (seg->len >= 128)
    for (int32_t j = 0; j < seg->len; j++) {
      const int32_t row = seg->row + j, pos = seg->pos + j;
      if (tensor == LSE) {
        for (int h = 0; h < r->plan.heads_q; h++)
          ((float *)whole)[(int64_t)(head * r->plan.heads_q + h) * p->seqlen + pos] =
              ((const float *)shard)[(int64_t)h * s->context_rows + row];
        continue;
      }
      const int64_t size = (int64_t)heads_of(p, tensor) * p->dim * cp_elem_bytes(p->dtype);
      const int32_t own = row - head * s->rows;
      if (own >= 0 && own < s->rows)
        memcpy(whole + pos * size, shard + own * size, (size_t)size);
    }
  }
}

// The whole tensor on rank 0; elsewhere sends the shard. 0 or -1.
static int gather(struct rank *r, int tensor) {
  struct cp_comm *comm = r->comm;
  const struct point *p = r->s->p;
  const struct cp_transport *net = comm->transport;
  if (comm->rank) {
    const struct cp_op op = {true, 0, r->t[tensor], r->bytes[tensor]};
    return net->post(comm, CP_HEADS, &op, 1) || net->wait(comm, CP_HEADS) ? -1 : 0;
  }
  const bool lse = tensor == LSE;
  void *whole = r->whole[tensor] = tensor_alloc(
      lse ? ATTN_FP32 : p->dtype, (int64_t)p->seqlen * heads_of(p, tensor) * (lse ? 1 : p->dim));
  char *host = malloc((size_t)r->bytes[tensor]);
  void *placed = comm->memory->alloc(r->bytes[tensor]);
  int status = whole && host && placed ? 0 : out_of_memory("the whole tensors");
  for (int from = 0; !status && from < comm->size; from++) {
    const struct cp_op op = {false, from, placed, r->bytes[tensor]};
    status = (from && (net->post(comm, CP_HEADS, &op, 1) || net->wait(comm, CP_HEADS))) ||
             comm->memory->sync(comm->stream) ||
             comm->memory->download(host, from ? placed : r->t[tensor], r->bytes[tensor]);
    if (!status)
      place_shard(r, from, tensor, host, whole);
  }
  free(host);
  comm->memory->release(placed);
  return status ? -1 : 0;
}

static void release_whole(struct rank *r) {
  for (int i = 0; i < RANK_TENSORS; i++) {
    free(r->whole[i]);
    r->whole[i] = NULL;
  }
}

// Runs one pass and checks it whole on rank 0. *right is the same on all ranks.
int rank_check(struct rank *r, enum attn_pass pass, bool *right) {
  struct row *row = r->s->row;
  void *const *whole = r->whole;
  int status = rank_pass(r, pass);
  // Backward's check has the inputs and forward's results from forward's.
  for (int i = 0; !status && i < RANK_TENSORS; i++)
    if (r->t[i] && !r->gathered[i] && !(pass == ATTN_FWD && i >= DQ)) {
      status = gather(r, i);
      r->gathered[i] = true;
    }
  int verdict = 0, verdicts[RANKS_MAX];
  if (!status && r->comm->rank == 0) {
    const struct attn_args a = {.q = whole[Q],
                                .k = whole[K],
                                .v = whole[V],
                                .o = whole[O],
                                .lse = whole[LSE],
                                .d_o = whole[D_O],
                                .dq = whole[DQ],
                                .dk = whole[DK],
                                .dv = whole[DV]};
    struct verify_report report = {0};
    const int share = omp_get_max_threads();
    if (!getenv("OMP_NUM_THREADS")) // the other ranks wait: their cores are free
      omp_set_num_threads(omp_get_num_procs());
    verdict = check_outputs(&r->problem, &a, pass, r->s->p->seed, &report);
    omp_set_num_threads(share);
    row->err_max = row_rounded(report.err_max, 4);
    row->err_cos = row_rounded(report.err_cos, 4);
    row->wrong = (double)report.wrong;
    if (!verdict) {
      char reason[ROW_REASON];
      snprintf(reason, sizeof reason,
               "%s: %lld of %lld checked rows are off, row %lld by %.3g (relative)",
               point_pass_name(pass), (long long)report.wrong, (long long)report.rows,
               (long long)report.worst, report.err_max);
      row_status(row, "wrong", reason);
    }
  }
  if (pass == r->s->p->pass)
    release_whole(r);
  // The reference takes rank 0 a while: the others wait for it with more patience than for a transfer.
  struct cp_comm patient = *r->comm;
  patient.limit_s = r->s->p->limit_s;
  if (status || patient.transport->share(&patient, &verdict, verdicts, sizeof verdict))
    return -1;
  *right = verdicts[0];
  return 0;
}

int rank_make(struct rank *r) {
  r->problem = point_problem(r->s->p, &r->mask);
  return rank_draw(r->s->p, &r->mask) ||
                 cp_plan_init(&r->plan, r->s->schedule, &r->s->wish, r->s->kernel, &r->problem,
                              r->comm) ||
                 make_tensors(r) || cp_map(&r->plan, r->t[Q], r->t[O])
             ? -1
             : 0;
}

void rank_release(struct rank *r) {
  for (int i = 0; i < RANK_TENSORS; i++)
    if (r->t[i])
      r->comm->memory->release(r->t[i]);
  release_whole(r);
  free(r->pos);
  cp_plan_release(&r->plan);
  mask_free(&r->mask);
}
