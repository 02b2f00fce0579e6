// measure_cp.c -- a point of context parallelism from mask to row (study 3.2, 6.1):
//   every rank draws the same mask, fills its shards by position, plans | one pass, whose outputs rank 0
//   gathers and checks against the double reference | warm-up | timed passes.
// The time of a pass is the SLOWEST rank's, from a common barrier to the end of its own work; the
// study summed the ranks' times, which hides imbalance. What the host takes to enqueue a pass hides behind
// earlier work in use, and so it does here (sample_pass). tflop_s is a rank's: work / ranks / that time.
// comm_bytes: most that a rank sent. comm_us: least that a rank waited for transfers, which is what they
// add to the pass: the slowest rank waits for no peer. What others waited longer is skew_us, the ranks' own
// imbalance: of masks, or of GPUs whose clocks differ.
#include "measure_cp.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "env.h"
#include "flops.h"
#include "measure_rank.h"
#include "place.h"
#include "stats.h"
#include "timer.h"

// ---- timing ---------------------------------------------------------------------------------

struct sample {
  double time_us;            // of the slowest rank
  double wait_us, waited_us; // for transfers: least and most of a rank
  double enqueue_us;         // the host's part, most of a rank
  bool exposed;              // some of which may be in time_us
};

// At least what a host's jitter may add to a short pass. At most what a long one takes to enqueue: where the host waits
// for the device within a pass (kernels that are made when called), no spin is long enough.
enum { SPIN_US_MIN = 200, SPIN_US_MAX = 20000, SPIN_TRIES = 4 };

static int take_sample(struct rank *r, double spin_us, struct sample *s) {
  struct sample mine = {0}, all[RANKS_MAX];
  struct cp_comm *comm = r->comm;
  const struct cp_transport *net = comm->transport;
  if (net->barrier(comm))
    return -1;
  const double wait_us = comm->wait_us, begin_us = timer_now_us();
  if ((net->begin_timing && net->begin_timing(comm, spin_us)) || rank_pass(r, r->s->p->pass))
    return -1;
  mine.enqueue_us = timer_now_us() - begin_us;
  if (net->end_timing ? net->end_timing(comm, &mine.time_us) : comm->memory->sync(comm->stream))
    return -1;
  if (!net->end_timing)
    mine.time_us = timer_now_us() - begin_us;
  if (net->barrier(comm)) // waits that a device measured are known after it
    return -1;
  mine.wait_us = mine.waited_us = comm->wait_us - wait_us;
  if (net->share(comm, &mine, all, sizeof mine))
    return -1;
  *s = all[0];
  for (int i = 1; i < comm->size; i++) {
    s->time_us = fmax(s->time_us, all[i].time_us);
    s->wait_us = fmin(s->wait_us, all[i].wait_us);
    s->waited_us = fmax(s->waited_us, all[i].waited_us);
    s->enqueue_us = fmax(s->enqueue_us, all[i].enqueue_us);
  }
  s->exposed = net->begin_timing && s->enqueue_us > spin_us;
  return 0;
}

// One pass from a common start; the same on all ranks. Where the device has a clock (cp_transport.begin_timing),
// its stream spins while the host enqueues the pass, and events bracket the pass alone. Ranks leave the barrier
// within microseconds of one another and spin equally long, so their spins end together; a rank whose spin
// ends first waits for the others' data within its own time.
static int sample_pass(struct rank *r, struct sample *s) {
  for (int tries = 1;; tries++) {
    const double spin_us = fmin(fmax(3 * r->enqueue_us, SPIN_US_MIN), SPIN_US_MAX);
    if (take_sample(r, spin_us, s))
      return -1;
    r->enqueue_us = s->enqueue_us;
    if (!s->exposed || spin_us == SPIN_US_MAX || tries == SPIN_TRIES)
      return 0;
  }
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
  double *time_us = malloc(3 * (size_t)most * sizeof *time_us), *wait_us = time_us + most,
         *skew_us = wait_us + most;
  if (!time_us) {
    attn_error_set(true, "out of host memory for the samples");
    return -1;
  }
  double spent_us = 0, alone_us = NAN;
  int n = 0, exposed = 0, status = 0;
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
    wait_us[n] = s.wait_us;
    skew_us[n++] = s.waited_us - s.wait_us;
    exposed += s.exposed;
    if (n >= p->samples_min && (spent_us > p->seconds * 1e6 || precise(time_us, n)))
      break;
  }
  // On the host nothing moves while a kernel runs, so there is no overlap to speak of.
  if (!status && r->comm->memory->place == ATTN_DEVICE && r->comm->size > 1)
    status = transfers_us(r, &alone_us);
  struct row *row = r->s->row;
  if (!status && r->comm->rank == 0) {
    row_times(row, time_us, n);
    row->comm_us = row_rounded(stats_median(wait_us, (size_t)n), 6);
    row->skew_us = row_rounded(stats_median(skew_us, (size_t)n), 6);
    if (r->comm->transport->begin_timing)
      row->exposed = exposed;
    const double hidden = 100 * (1 - row->comm_us / alone_us);
    row->overlap_pct = isnan(hidden) ? NAN : row_rounded(fmax(hidden, 0), 4);
  }
  free(time_us);
  return status;
}

// ---- the row --------------------------------------------------------------------------------

struct account {
  double prep_us, prep_bytes, account_bytes, comm_bytes, peak_bytes;
};

// After the rank's release; the maxima over the ranks into rank 0's row, which is complete then.
static int fill_row(struct rank *r, const struct account *mine) {
  struct account all[RANKS_MAX], most = {0};
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
  struct row *row = r->s->row;
  row->prep_us = row_rounded(most.prep_us, 6);
  row->prep_bytes = most.prep_bytes;
  row->account_bytes = most.account_bytes;
  row->comm_bytes = most.comm_bytes;
  row->peak_mem_bytes = most.peak_bytes > 0 ? most.peak_bytes : NAN;
  row_status(row, "ok", "");
  return 0;
}

static int measure_rank(struct rank *r, struct account *account, bool *right) {
  const struct point *p = r->s->p;
  if (rank_make(r) || rank_check(r, ATTN_FWD, right))
    return -1;
  if (*right && p->pass == ATTN_BWD && rank_check(r, ATTN_BWD, right))
    return -1;
  if (!*right)
    return 0;
  *account = (struct account){.prep_us = r->plan.prep_us,
                              .prep_bytes = (double)r->plan.prep_bytes,
                              .account_bytes = (double)(r->plan.bytes + r->plan.kernel_bytes)};
  for (int i = 0; i < RANK_TENSORS; i++)
    account->account_bytes += (double)r->bytes[i];
  const int64_t sent = r->comm->bytes_sent;
  if (rank_pass(r, p->pass))
    return -1;
  account->comm_bytes = (double)(r->comm->bytes_sent - sent);
  const int64_t formula =
      cp_volume(&r->plan.grid, &r->problem, r->plan.shard.context_rows, p->pass);
  if ((int64_t)account->comm_bytes != formula) {
    attn_error_set(false, "sent %.0f bytes, where the formula says %lld", account->comm_bytes,
                   (long long)formula);
    return -1;
  }
  if (time_passes(r))
    return -1;
  struct row *row = r->s->row;
  if (r->comm->rank == 0) {
    row->area = mask_area(&r->mask);
    row->flop = flops_attention(row->area, p->heads_q, p->dim, p->pass);
    row->tflop_s = row_rounded(row->flop / p->ranks / row->time_us * 1e-6, 6);
    row->docs = mask_has_docs(p->mask) ? r->mask.docs : row->docs;
  }
  return 0;
}

// Memory is what the point gives back at its end: what a rank's process has got into meanwhile and keeps for
// the next point, such as NCCL's buffers and kernels' code, would depend on which point is first.
static int rank_body(struct cp_comm *comm, void *context) {
  struct rank r = {.s = context, .comm = comm};
  const bool device =
      comm->memory->place == ATTN_DEVICE && strcmp(r.s->p->transport, "loopback_gpu") != 0;
  struct account account = {0};
  bool right = true;
  const int status = measure_rank(&r, &account, &right) || cp_unmap(&r.plan) ? -1 : 0;
  const bool counts = device && !status;
  const double used_bytes = counts ? (double)device_mem_used() : 0;
  rank_release(&r);
  account.peak_bytes = counts ? used_bytes - (double)device_mem_used() : 0;
  return status || !right ? status : fill_row(&r, &account);
}

// ---- the point ------------------------------------------------------------------------------

// Whether this can be run at all; the sentence stands in the row otherwise.
static bool refused(struct rank_shared *s, const struct cp_transport *transport) {
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
  else if (p->ranks > RANKS_MAX)
    snprintf(reason, sizeof reason, "more than 4096 ranks");
  else if (rank_draw(p, &mask))
    snprintf(reason, sizeof reason, "%s", attn_error());
  else {
    const struct attn_problem problem = point_problem(p, &mask);
    const char *why = cp_why_not(s->schedule, s->kernel, &problem, p->ranks, &s->wish, &grid);
    snprintf(reason, sizeof reason, "%s", why ? why : "");
    mask_free(&mask);
  }
  if (*reason)
    row_status(s->row, "unsupported", reason);
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
  row->peak_pct = row_rounded(100 * all / peak, 4);
  if (!(all > peak)) // an unknown peak is NaN
    return 0;
  char reason[ROW_REASON];
  snprintf(reason, sizeof reason,
           "%.4g TFLOP/s are above the peak of %.4g: the timing or the FLOP count is wrong", all,
           peak);
  row_status(row, "", reason);
  return -1;
}

static int run_here(struct rank_shared *s, const struct cp_transport *transport) {
  if (s->p->place == ATTN_DEVICE && place_of(ATTN_DEVICE)->open()) {
    row_status(s->row, "crash", place_of(ATTN_DEVICE)->error());
    return 0;
  }
  const char *other =
      s->p->place == ATTN_DEVICE ? attn_why_not_on(s->kernel, place_of(ATTN_DEVICE)->arch()) : NULL;
  if (other) {
    row_status(s->row, "unsupported", other);
    return 0;
  }
  // A tenth of the point's time for one transfer; the point's own limit ends what is stuck elsewhere.
  if (transport->run(s->p->ranks, fmax(5, s->p->limit_s / 10), rank_body, s))
    row_status(s->row, attn_error_is_oom() ? "oom" : "crash", attn_error());
  return transport->job && s->p->place == ATTN_HOST ? 0 : judge(s->p, s->row);
}

bool measure_cp_is_job(const struct point *p) {
  const struct cp_transport *transport = point_is_cp(p) ? cp_transport_find(p->transport) : NULL;
  return transport && transport->job;
}

int measure_cp(const struct point *p, struct row *row) {
  struct rank_shared s = {.p = p, .row = row, .kernel = attn_find(p->kernel, p->place)};
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
    row_status(row, "unsupported", reason);
    return 0;
  }
  return measure_cp_job(p, row) ? -1 : p->place == ATTN_HOST ? judge(p, row) : 0;
}

int measure_cp_here(const struct point *p, struct row *row) {
  struct rank_shared s = {.p = p, .row = row, .kernel = attn_find(p->kernel, p->place)};
  const struct cp_transport *transport = cp_transport_find(p->transport);
  s.schedule = cp_schedule_find(p->cp, &s.wish);
  return refused(&s, transport) ? 0 : run_here(&s, transport);
}
