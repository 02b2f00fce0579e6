// measure_cp.c -- a point of context parallelism from mask to row (study 3.2, 6.1):
//   every rank draws the same mask, fills its shards by position, plans | one pass, whose outputs rank 0
//   gathers and checks against the double reference | warm-up | timed passes.
// The time of a pass is the SLOWEST rank's, from a common barrier to the end of its own work; the
// study summed the ranks' times, which hides imbalance. tflop_s is a rank's: work / ranks / that time.
// comm_bytes: most that a rank sent; comm_us: most that a rank waited for transfers.
#include "measure_cp.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../cp/cp.h"
#include "check.h"
#include "env.h"
#include "flops.h"
#include "mask_draw.h"
#include "place.h"
#include "stats.h"
#include "tensor.h"
#include "timer.h"

enum { Q, K, V, D_O, O, LSE, DQ, DK, DV, TENSORS };

struct shared { // by the ranks of one process; rank 0 writes the row
  const struct point *p;
  struct row *row;
  const struct cp_schedule *schedule;
  struct cp_wish wish;
  const struct attn_kernel *kernel;
};

struct rank { // one rank's side
  struct shared *s;
  struct cp_comm *comm;
  struct mask mask;
  struct attn_problem problem;
  struct cp_plan plan;
  int32_t *pos;     // [context_rows]
  void *t[TENSORS]; // in the transport's memory
  int64_t bytes[TENSORS];
};

static double rounded(double x, int digits) {
  char text[32];
  snprintf(text, sizeof text, "%.*g", digits, x);
  return strtod(text, NULL);
}

static void set_status(struct row *row, const char *status, const char *reason) {
  snprintf(row->status, sizeof row->status, "%s", status);
  snprintf(row->reason, sizeof row->reason, "%s", reason);
}

static int out_of_memory(const char *what) {
  attn_error_set(true, "out of host memory for %s", what);
  return -1;
}

static int draw(const struct point *p, struct mask *mask) {
  char err[ROW_REASON] = "";
  const struct mask_recipe recipe = {.kind = p->mask,
                                     .seqlen = p->seqlen,
                                     .histogram = *p->histogram ? p->histogram : NULL,
                                     .distributed = true,
                                     .heads_kv = p->heads_kv,
                                     .window = p->window,
                                     .block = p->block,
                                     .ratio = p->ratio};
  if (!mask_draw_nth(mask, p->seed, p->draw, &recipe, err, sizeof err))
    return 0;
  attn_error_set(false, "%s", err);
  return -1;
}

static struct attn_problem whole_problem(const struct point *p, const struct mask *mask) {
  return (struct attn_problem){.mask = mask,
                               .dtype = p->dtype,
                               .heads_q = p->heads_q,
                               .heads_kv = p->heads_kv,
                               .dim = p->dim,
                               .rows_q = p->seqlen,
                               .rows_k = p->seqlen,
                               .backward = p->pass == ATTN_BWD};
}

// ---- one rank -------------------------------------------------------------------------------

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
  for (int i = 0; i < (p->pass == ATTN_BWD ? TENSORS : LSE + 1); i++) {
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

static int run_pass(struct rank *r, enum attn_pass pass) {
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
  for (int32_t i = 0; i < s->segs[context]; i++)
    for (int32_t j = 0; j < s->seg[context][i].len; j++) {
      const int32_t row = s->seg[context][i].row + j, pos = s->seg[context][i].pos + j;
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

// The whole tensor on rank 0 (for free()); elsewhere sends the shard. 0 or -1.
static int gather(struct rank *r, int tensor, void **whole) {
  struct cp_comm *comm = r->comm;
  const struct point *p = r->s->p;
  const struct cp_transport *net = comm->transport;
  if (comm->rank) {
    const struct cp_op op = {true, 0, r->t[tensor], r->bytes[tensor]};
    return net->post(comm, CP_HEADS, &op, 1) || net->wait(comm, CP_HEADS) ? -1 : 0;
  }
  const bool lse = tensor == LSE;
  *whole = tensor_alloc(lse ? ATTN_FP32 : p->dtype,
                        (int64_t)p->seqlen * heads_of(p, tensor) * (lse ? 1 : p->dim));
  char *host = malloc((size_t)r->bytes[tensor]);
  void *placed = comm->memory->alloc(r->bytes[tensor]);
  int status = *whole && host && placed ? 0 : out_of_memory("the whole tensors");
  for (int from = 0; !status && from < comm->size; from++) {
    const struct cp_op op = {false, from, placed, r->bytes[tensor]};
    status = (from && (net->post(comm, CP_HEADS, &op, 1) || net->wait(comm, CP_HEADS))) ||
             comm->memory->sync(comm->stream) ||
             comm->memory->download(host, from ? placed : r->t[tensor], r->bytes[tensor]);
    if (!status)
      place_shard(r, from, tensor, host, *whole);
  }
  free(host);
  comm->memory->release(placed);
  return status ? -1 : 0;
}

// Runs one pass and checks it whole on rank 0. *right is the same on all ranks.
static int check_pass(struct rank *r, enum attn_pass pass, bool *right) {
  struct row *row = r->s->row;
  void *whole[TENSORS] = {NULL};
  int status = run_pass(r, pass);
  for (int i = 0; !status && i < TENSORS; i++)
    if (r->t[i] && !(pass == ATTN_FWD && i >= DQ))
      status = gather(r, i, &whole[i]);
  int verdict = 0, verdicts[4096];
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
    verdict = check_outputs(&r->problem, &a, pass, r->s->p->seed, &report);
    row->err_max = rounded(report.err_max, 4);
    row->err_cos = rounded(report.err_cos, 4);
    row->wrong = (double)report.wrong;
    if (!verdict) {
      char reason[ROW_REASON];
      snprintf(reason, sizeof reason,
               "%s: %lld of %lld checked rows are off, row %lld by %.3g (relative)",
               point_pass_name(pass), (long long)report.wrong, (long long)report.rows,
               (long long)report.worst, report.err_max);
      set_status(row, "wrong", reason);
    }
  }
  for (int i = 0; i < TENSORS; i++)
    free(whole[i]);
  // The reference takes rank 0 a while: the others wait for it with more patience than for a transfer.
  struct cp_comm patient = *r->comm;
  patient.limit_s = r->s->p->limit_s;
  if (status || patient.transport->share(&patient, &verdict, verdicts, sizeof verdict))
    return -1;
  *right = verdicts[0];
  return 0;
}

// ---- timing ---------------------------------------------------------------------------------

struct sample {
  double time_us, wait_us;
};

// One pass from a common start; the slowest rank's numbers, the same on all ranks.
static int sample_pass(struct rank *r, struct sample *slowest) {
  struct sample mine, all[4096];
  struct cp_comm *comm = r->comm;
  if (comm->transport->barrier(comm))
    return -1;
  const double wait_us = comm->wait_us, begin_us = timer_now_us();
  if (run_pass(r, r->s->p->pass) || comm->memory->sync(comm->stream))
    return -1;
  mine.time_us = timer_now_us() - begin_us;
  if (comm->transport->barrier(comm)) // waits that a device measured are known after it
    return -1;
  mine.wait_us = comm->wait_us - wait_us;
  if (comm->transport->share(comm, &mine, all, sizeof mine))
    return -1;
  *slowest = all[0];
  for (int i = 1; i < comm->size; i++) {
    slowest->time_us = fmax(slowest->time_us, all[i].time_us);
    slowest->wait_us = fmax(slowest->wait_us, all[i].wait_us);
  }
  return 0;
}

static bool precise(const double *time_us, int n) {
  double low, high;
  return stats_median_interval(time_us, (size_t)n, &low, &high) &&
         high - low <= 0.02 * stats_median(time_us, (size_t)n);
}

// Passes without kernels: how long the transfers are waited for when nothing hides them.
static int transfers_us(struct rank *r, double *median_us) {
  double waited_us[5];
  struct sample s;
  int status = 0;
  r->plan.transfers_only = true;
  for (int i = 0; !status && i < 5; i++) {
    status = sample_pass(r, &s);
    waited_us[i] = s.wait_us;
  }
  r->plan.transfers_only = false;
  *median_us = status ? NAN : stats_median(waited_us, 5);
  return status;
}

static int time_passes(struct rank *r) {
  const struct point *p = r->s->p;
  const int most = p->samples_max > p->samples_min ? p->samples_max : p->samples_min;
  double *time_us = malloc(2 * (size_t)most * sizeof *time_us), *wait_us = time_us + most;
  if (!time_us)
    return out_of_memory("the samples");
  double spent_us = 0, alone_us = NAN;
  int n = 0, status = 0;
  // Every rank sees the same samples, so all stop together.
  for (int i = -p->warmup; !status && n < most; i++) {
    struct sample s;
    if (i < 0 && spent_us > 0.25e6 * p->seconds)
      i = 0;
    if (i == 0)
      spent_us = 0;
    status = sample_pass(r, &s);
    spent_us += s.time_us;
    if (status || i < 0)
      continue;
    time_us[n] = s.time_us;
    wait_us[n++] = s.wait_us;
    if (n >= p->samples_min && (spent_us > p->seconds * 1e6 || precise(time_us, n)))
      break;
  }
  // On the host nothing moves while a kernel runs, so there is no overlap to speak of.
  if (!status && r->comm->memory->place == ATTN_DEVICE && r->comm->size > 1)
    status = transfers_us(r, &alone_us);
  struct row *row = r->s->row;
  if (!status && r->comm->rank == 0) {
    row->n = n;
    row->time_us = rounded(stats_median(time_us, (size_t)n), 6);
    stats_median_interval(time_us, (size_t)n, &row->time_us_low, &row->time_us_high);
    row->time_us_low = rounded(row->time_us_low, 6);
    row->time_us_high = rounded(row->time_us_high, 6);
    row->time_us_q20 = rounded(stats_quantile(time_us, (size_t)n, 0.2), 6);
    row->time_us_q80 = rounded(stats_quantile(time_us, (size_t)n, 0.8), 6);
    row->time_us_p99 = rounded(stats_quantile(time_us, (size_t)n, 0.99), 6);
    row->comm_us = rounded(stats_median(wait_us, (size_t)n), 6);
    const double hidden = 100 * (1 - row->comm_us / alone_us);
    row->overlap_pct = isnan(hidden) ? NAN : rounded(fmax(hidden, 0), 4);
  }
  free(time_us);
  return status;
}

// ---- the row --------------------------------------------------------------------------------

struct account {
  double prep_us, prep_bytes, account_bytes, comm_bytes, peak_bytes;
};

static int fill_row(struct rank *r, const struct account *mine) {
  struct account all[4096], most = {0};
  if (r->comm->transport->share(r->comm, mine, all, sizeof *mine))
    return -1;
  if (r->comm->rank)
    return 0;
  for (int i = 0; i < r->comm->size; i++) {
    most.prep_us = fmax(most.prep_us, all[i].prep_us);
    most.prep_bytes = fmax(most.prep_bytes, all[i].prep_bytes);
    most.account_bytes = fmax(most.account_bytes, all[i].account_bytes);
    most.comm_bytes = fmax(most.comm_bytes, all[i].comm_bytes);
    most.peak_bytes = fmax(most.peak_bytes, all[i].peak_bytes);
  }
  const struct point *p = r->s->p;
  struct row *row = r->s->row;
  row->area = mask_area(&r->mask);
  row->flop = flops_attention(row->area, p->heads_q, p->dim, p->pass);
  row->prep_us = rounded(most.prep_us, 6);
  row->prep_bytes = most.prep_bytes;
  row->account_bytes = most.account_bytes;
  row->comm_bytes = most.comm_bytes;
  row->peak_mem_bytes = most.peak_bytes > 0 ? most.peak_bytes : NAN;
  if (mask_has_docs(p->mask))
    row->docs = r->mask.docs;
  row->tflop_s = rounded(row->flop / p->ranks / row->time_us * 1e-6, 6);
  set_status(row, "ok", "");
  return 0;
}

static int measure_rank(struct rank *r) {
  const struct point *p = r->s->p;
  const bool device =
      r->comm->memory->place == ATTN_DEVICE && strcmp(p->transport, "loopback_gpu") != 0;
  const double used_before = device ? (double)device_mem_used() : 0;
  r->problem = whole_problem(p, &r->mask);
  bool right = true;
  if (draw(p, &r->mask) ||
      cp_plan_init(&r->plan, r->s->schedule, &r->s->wish, r->s->kernel, &r->problem, r->comm) ||
      make_tensors(r) || check_pass(r, ATTN_FWD, &right))
    return -1;
  if (right && p->pass == ATTN_BWD && check_pass(r, ATTN_BWD, &right))
    return -1;
  if (!right)
    return 0;
  struct account account = {.prep_us = r->plan.prep_us,
                            .prep_bytes = (double)r->plan.prep_bytes,
                            .account_bytes = (double)(r->plan.bytes + r->plan.kernel_bytes),
                            .peak_bytes = device ? (double)device_mem_used() - used_before : 0};
  for (int i = 0; i < TENSORS; i++)
    account.account_bytes += (double)r->bytes[i];
  const int64_t sent = r->comm->bytes_sent;
  if (run_pass(r, p->pass))
    return -1;
  account.comm_bytes = (double)(r->comm->bytes_sent - sent);
  const int64_t formula =
      cp_volume(r->s->schedule, &r->plan.grid, &r->problem, r->plan.shard.context_rows, p->pass);
  if ((int64_t)account.comm_bytes != formula) {
    attn_error_set(false, "sent %.0f bytes, where the formula says %lld", account.comm_bytes,
                   (long long)formula);
    return -1;
  }
  return time_passes(r) || fill_row(r, &account) ? -1 : 0;
}

static int rank_body(struct cp_comm *comm, void *context) {
  struct rank r = {.s = context, .comm = comm};
  const int status = measure_rank(&r);
  for (int i = 0; i < TENSORS; i++)
    if (r.t[i])
      comm->memory->release(r.t[i]);
  free(r.pos);
  cp_plan_release(&r.plan);
  mask_free(&r.mask);
  return status;
}

// ---- the point ------------------------------------------------------------------------------

// Whether this can be run at all; the sentence stands in the row otherwise.
static bool refused(struct shared *s, const struct cp_transport *transport) {
  const struct point *p = s->p;
  char reason[ROW_REASON] = "";
  struct cp_grid grid;
  struct mask mask;
  if (!transport)
    snprintf(reason, sizeof reason, "this build has no transport '%s'; it has %s", p->transport,
             cp_transport_names());
  else if (transport->place != p->place)
    snprintf(reason, sizeof reason, "the transport '%s' carries %s memory", p->transport,
             point_place_name(transport->place));
  else if (!s->kernel)
    snprintf(reason, sizeof reason, "this build has no kernel '%s' for the %s", p->kernel,
             point_place_name(p->place));
  else if (p->ranks > 4096)
    snprintf(reason, sizeof reason, "more than 4096 ranks");
  else if (draw(p, &mask))
    snprintf(reason, sizeof reason, "%s", attn_error());
  else {
    const struct attn_problem problem = whole_problem(p, &mask);
    const char *why = cp_why_not(s->schedule, s->kernel, &problem, p->ranks, &s->wish, &grid);
    snprintf(reason, sizeof reason, "%s", why ? why : "");
    mask_free(&mask);
  }
  if (*reason)
    set_status(s->row, "unsupported", reason);
  return *reason;
}

// Share of the peak; -1 when it is above what the hardware can do. Ranks on the host share its peak, and
// it is measured where all cores are ours: not in a rank, which has some of them.
static int judge(const struct point *p, struct row *row) {
  if (strcmp(row->status, "ok") != 0) {
    row->err_max = row->err_cos = row->wrong = NAN;
    return 0;
  }
  const bool shared = p->place == ATTN_HOST || !strcmp(p->transport, "loopback_gpu");
  const double all = row->tflop_s * (shared ? p->ranks : 1);
  const double peak = place_of(p->place)->peak_tflop_s(p->dtype, all);
  row->peak_pct = rounded(100 * all / peak, 4);
  if (!(all > peak)) // an unknown peak is NaN
    return 0;
  char reason[ROW_REASON];
  snprintf(reason, sizeof reason,
           "%.4g TFLOP/s are above the peak of %.4g: the timing or the FLOP count is wrong", all,
           peak);
  set_status(row, "", reason);
  return -1;
}

static int run_here(struct shared *s, const struct cp_transport *transport) {
  if (s->p->place == ATTN_DEVICE && place_of(ATTN_DEVICE)->open()) {
    set_status(s->row, "crash", place_of(ATTN_DEVICE)->error());
    return 0;
  }
  if (s->p->place == ATTN_DEVICE && place_of(ATTN_DEVICE)->arch() < s->kernel->min_arch) {
    char reason[ROW_REASON];
    snprintf(reason, sizeof reason, "needs a GPU of compute capability %d.%d or later",
             s->kernel->min_arch / 10, s->kernel->min_arch % 10);
    set_status(s->row, "unsupported", reason);
    return 0;
  }
  // A tenth of the point's time for one transfer; the point's own limit ends what is stuck elsewhere.
  if (transport->run(s->p->ranks, fmax(5, s->p->limit_s / 10), rank_body, s))
    set_status(s->row, attn_error_is_oom() ? "oom" : "crash", attn_error());
  return transport->job && s->p->place == ATTN_HOST ? 0 : judge(s->p, s->row);
}

int measure_cp(const struct point *p, struct row *row) {
  struct shared s = {.p = p, .row = row, .kernel = attn_find(p->kernel, p->place)};
  const struct cp_transport *transport = cp_transport_find(p->transport);
  s.schedule = cp_schedule_find(p->cp, &s.wish);
  if (refused(&s, transport))
    return 0;
  if (!transport->job)
    return run_here(&s, transport);
  if (p->place == ATTN_DEVICE && !getenv("LONGCA_MPIRUN") && p->ranks > env_gpu_count()) {
    char reason[ROW_REASON];
    snprintf(reason, sizeof reason,
             "%d ranks need as many GPUs, and this host has %d (experiments/cluster)", p->ranks,
             env_gpu_count());
    set_status(row, "unsupported", reason);
    return 0;
  }
  return measure_cp_job(p, row) ? -1 : p->place == ATTN_HOST ? judge(p, row) : 0;
}

int measure_cp_here(const struct point *p, struct row *row) {
  struct shared s = {.p = p, .row = row, .kernel = attn_find(p->kernel, p->place)};
  const struct cp_transport *transport = cp_transport_find(p->transport);
  s.schedule = cp_schedule_find(p->cp, &s.wish);
  return refused(&s, transport) ? 0 : run_here(&s, transport);
}
