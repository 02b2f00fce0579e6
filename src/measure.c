// measure.c -- one point from mask to row (study 3; rules of Hoefler and Belli, SC'15):
//   draw the mask, fill q, k, v, dO with N(0, 1) | prepare | one call, whose memory is noted and whose
//   outputs are checked against the double reference | warm-up | timed calls until the 95 % interval
//   of the median is within 1 % on either side, or samples_max, or the seconds are spent.
// Backward runs and checks forward first, on the same plan. Host calls are timed with warm caches,
// device calls cold (device.h). Where memory is, and how a call is timed, is struct place.
#include "measure.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "flops.h"
#include "inputs.h"
#include "measure_cp.h"
#include "stats.h"

enum {
  Q = INPUT_Q,
  K = INPUT_K,
  V = INPUT_V,
  D_O = INPUT_D_O,
  O = INPUTS,
  LSE,
  DQ,
  DK,
  DV,
  TENSORS
};

struct measurement {
  const struct point *p;
  const struct place *place;
  struct row *row;
  struct attn_problem problem;
  struct attn_plan plan;
  const struct mask *mask;
  struct buffer t[TENSORS];
  struct attn_args args; // in the place's memory
};

static int fail(struct row *row, const char *status, const char *reason) {
  row_status(row, status, reason);
  return 1;
}

static int fail_place(struct measurement *m) {
  return fail(m->row, m->place->error_is_oom() ? "oom" : "crash", m->place->error());
}

static int fail_kernel(struct measurement *m) {
  return fail(m->row, attn_error_is_oom() ? "oom" : "crash", attn_error());
}

// Inputs and outputs; 0, or 1 with the row's status set.
static int make_tensors(struct measurement *m) {
  const struct point *p = m->p;
  const int64_t q = (int64_t)p->heads_q * p->seqlen * p->dim,
                k = (int64_t)p->heads_kv * p->seqlen * p->dim;
  const int64_t n[TENSORS] = {
      [O] = q, [LSE] = (int64_t)p->heads_q * p->seqlen, [DQ] = q, [DK] = k, [DV] = k};
  char reason[ROW_REASON] = "";
  const char *status = inputs_tensors(p, m->place, m->t, reason);
  for (int i = O; !status && i <= (p->pass == ATTN_BWD ? DV : LSE); i++)
    status = buffer_make(&m->t[i], m->place, i == LSE ? ATTN_FP32 : p->dtype, n[i], reason);
  return status ? fail(m->row, status, reason) : 0;
}

static struct attn_args arguments(const struct measurement *m, bool on_host) {
  const struct buffer *t = m->t;
#define MEMORY(i) (on_host ? t[i].host : t[i].placed)
  return (struct attn_args){.q = MEMORY(Q),
                            .k = MEMORY(K),
                            .v = MEMORY(V),
                            .o = MEMORY(O),
                            .lse = MEMORY(LSE),
                            .d_o = MEMORY(D_O),
                            .dq = MEMORY(DQ),
                            .dk = MEMORY(DK),
                            .dv = MEMORY(DV)};
#undef MEMORY
}

static int call_forward(void *context) {
  struct measurement *m = context;
  return m->plan.kernel->forward(&m->plan, &m->args);
}

static int call_backward(void *context) {
  struct measurement *m = context;
  return m->plan.kernel->backward(&m->plan, &m->args);
}

// One call, and its outputs [first, last] checked.
static int run_checked(struct measurement *m, enum attn_pass pass, bool last_pass) {
  struct row *row = m->row;
  if ((pass == ATTN_BWD ? call_backward : call_forward)(m))
    return fail_kernel(m);
  if (m->place->sync())
    return fail_place(m);
  if (last_pass) // before the check, which needs memory of its own
    row->peak_mem_bytes = m->place->peak_bytes();
  for (int i = pass == ATTN_BWD ? DQ : O; i <= (pass == ATTN_BWD ? DV : LSE); i++)
    if (!m->place->shares_host &&
        m->place->download(m->t[i].host, m->t[i].placed, buffer_bytes(&m->t[i])))
      return fail_place(m);
  struct verify_report report = {0};
  const struct attn_args args = arguments(m, true);
  const bool right = check_outputs(&m->problem, &args, pass, m->p->seed, &report);
  row->err_max = row_rounded(report.err_max, 4);
  row->err_cos = row_rounded(report.err_cos, 4);
  row->wrong = (double)report.wrong;
  if (right)
    return 0;
  char reason[ROW_REASON];
  if (report.rows)
    snprintf(reason, sizeof reason,
             "%s: %lld of %lld checked rows are off, row %lld by %.3g (relative)",
             point_pass_name(pass), (long long)report.wrong, (long long)report.rows,
             (long long)report.worst, report.err_max);
  else
    snprintf(reason, sizeof reason, "%s: the reference ran out of memory, so nothing was checked",
             point_pass_name(pass));
  row->err_max = row->err_cos = row->wrong = NAN; // only ok carries numbers
  return fail(row, "wrong", reason);
}

static bool precise(const double *time_us, int n) {
  double low, high;
  return stats_median_interval(time_us, (size_t)n, &low, &high) &&
         high - low <= 0.02 * stats_median(time_us, (size_t)n);
}

static int time_calls(struct measurement *m) {
  const struct point *p = m->p;
  struct row *row = m->row;
  int (*const call)(void *) = p->pass == ATTN_BWD ? call_backward : call_forward;
  const int most = p->samples_max > p->samples_min ? p->samples_max : p->samples_min;
  double *time_us = malloc(3 * (size_t)most * sizeof *time_us);
  if (!time_us)
    return fail(row, "oom", "out of host memory for the samples");
  double *const sm_mhz = time_us + most, *const power_w = sm_mhz + most;
  int n = 0, bad = 0, exposed = 0;
  bool throttled = false;
  double spent_us = 0;
  attn_error_set(false, "%s", ""); // so that it tells the kernel's failures from the place's
  for (int i = -p->warmup; !bad && n < most; i++) {
    struct device_sample s;
    // Warm-up takes at most a quarter of the time; the checked call was one more.
    if (i < 0 && spent_us > 0.25e6 * p->seconds)
      i = 0;
    if (i == 0)
      spent_us = 0;
    bad = m->place->sample(call, m, &s);
    spent_us += s.time_us;
    if (bad || i < 0)
      continue;
    time_us[n] = s.time_us;
    sm_mhz[n] = s.sm_mhz;
    power_w[n++] = s.power_w;
    throttled = throttled || s.throttled;
    exposed += s.exposed;
    if (n >= p->samples_min && (spent_us > p->seconds * 1e6 || precise(time_us, n)))
      break;
  }
  if (bad) {
    free(time_us);
    return *attn_error() ? fail_kernel(m) : fail_place(m);
  }
  row_times(row, time_us, n);
  row->sm_mhz_median = row_rounded(stats_median(sm_mhz, (size_t)n), 5);
  row->sm_mhz_min = row_rounded(stats_quantile(sm_mhz, (size_t)n, 0), 5);
  row->power_w = row_rounded(stats_median(power_w, (size_t)n), 5);
  if (!m->place->shares_host) {
    row->throttled = throttled;
    row->exposed = exposed;
  }
  row->cold = !m->place->shares_host;
  free(time_us);
  return 0;
}

static void describe_mask(const struct mask *mask, struct row *row) {
  if (mask_has_docs(mask->kind))
    row->docs = mask->docs;
  if (mask->kind == MASK_GLOBAL_SLIDING_WINDOW)
    row->window = mask->window;
  if (mask->kind == MASK_PREFIX_LM_CAUSAL || mask->kind == MASK_PREFIX_LM_DOCUMENT)
    row->prefix = mask->prefix;
}

// Rate at the median time. -1 when it is above what the device can do.
static int rate(struct measurement *m) {
  struct row *row = m->row;
  row->flop = flops_attention(row->area, m->p->heads_q, m->p->dim, m->p->pass);
  if (mask_is_block_sparse(m->p->mask))
    row->flop_nominal = flops_attention((double)m->p->seqlen * m->p->seqlen * m->p->ratio,
                                        m->p->heads_q, m->p->dim, m->p->pass);
  row->tflop_s = row_rounded(row->flop / row->time_us * 1e-6, 6);
  const double peak = m->place->peak_tflop_s(m->p->dtype, row->tflop_s);
  row->peak_pct = row_rounded(100 * row->tflop_s / peak, 4);
  if (!(row->tflop_s > peak)) // an unknown peak is NaN
    return 0;
  snprintf(row->reason, sizeof row->reason,
           "%.4g TFLOP/s are above the peak of %.4g: the timing or the FLOP count is wrong",
           row->tflop_s, peak);
  return -1;
}

static int measure(struct measurement *m, const struct attn_kernel *kernel) {
  const struct point *p = m->p;
  struct row *row = m->row;
  char reason[ROW_REASON] = "";
  if (m->place->open())
    return fail_place(m);
  if (!kernel) {
    snprintf(reason, sizeof reason, "this build has no kernel '%s' for the %s", p->kernel,
             point_place_name(p->place));
    return fail(row, "unsupported", reason);
  }
  const char *other =
      kernel->place == ATTN_DEVICE ? attn_why_not_on(kernel, m->place->arch()) : NULL;
  if (other)
    return fail(row, "unsupported", other);
  const char *refused = inputs_mask(p, &m->mask, reason);
  if (refused)
    return fail(row, refused, reason);
  describe_mask(m->mask, row);
  m->problem = point_problem(p, m->mask);
  const char *why_not = attn_why_not(kernel, &m->problem);
  if (!why_not && !(p->pass == ATTN_BWD ? kernel->backward != NULL : kernel->forward != NULL))
    why_not = "this kernel has no such pass";
  if (why_not)
    return fail(row, "unsupported", why_not);
  m->place->peak_begin(inputs_held(p));
  if (make_tensors(m))
    return 1;
  if (attn_prepare(&m->plan, kernel, &m->problem))
    return fail_kernel(m);
  m->args = arguments(m, false);
  const bool bwd = p->pass == ATTN_BWD;
  if (run_checked(m, ATTN_FWD, !bwd) || (bwd && run_checked(m, ATTN_BWD, true)) || time_calls(m))
    return 1;
  row->area = mask_area(m->mask);
  const double tile_area = m->plan.tile_area[p->pass];
  row->tile_area = tile_area > 0 ? tile_area : NAN;
  row->prep_us = row_rounded(m->plan.prep_us, 6);
  row->compile_us = row_rounded(m->plan.compile_us, 6);
  row->prep_bytes = (double)m->plan.prep_bytes;
  row->workspace_bytes = (double)m->plan.workspace_bytes;
  row->input_bytes = row->output_bytes = 0;
  for (int i = 0; i < TENSORS; i++)
    *(i < INPUTS ? &row->input_bytes : &row->output_bytes) += (double)buffer_bytes(&m->t[i]);
  row->account_bytes =
      row->input_bytes + row->output_bytes + row->prep_bytes + row->workspace_bytes;
  if (rate(m))
    return -1;
  snprintf(row->status, sizeof row->status, "ok");
  return 0;
}

int measure_kernel(const struct point *p, const struct attn_kernel *kernel, struct row *row) {
  struct measurement m = {.p = p, .row = row, .place = place_of(p->place)};
  const int status = measure(&m, kernel);
  attn_release(&m.plan);
  for (int i = O; i < TENSORS; i++)
    buffer_release(&m.t[i], m.place);
  if (status > 0) // whatever was noted on the way: only ok carries numbers
    row->peak_mem_bytes = row->err_max = row->err_cos = row->wrong = NAN;
  return status < 0 ? -1 : 0;
}

int measure_point(const struct point *p, struct row *row) {
  if (point_is_cp(p))
    return measure_cp(p, row);
  return measure_kernel(p, attn_find(p->kernel, p->place), row);
}
