// estimate.c -- expected time of a point: its FLOP over the rate that the machine's rows show for the
// kernel (else an assumed one), times the calls that the timing rule will make, plus what surrounds it.
#include "estimate.h"

#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "flops.h"
#include "mask_draw.h"
#include "place.h"
#include "stats.h"

// Assumed until there are rows: fractions of the host's own peak (measured in a moment) that a tiled
// and the naive kernel reach, a rate between a Hopper GPU's best and worst, and the rate of a thread on the
// double reference.
#define HOST_SHARE 0.5
#define NAIVE_SHARE 0.15
#define DEVICE_TFLOP_S 300.0
#define REFERENCE_THREAD_TFLOP_S 2e-3

enum { RATES = 64, SAMPLES = 4096 };
static struct rate {
  char kernel[POINT_NAME];
  bool bwd, host;
  double tflop_s;
} rates[RATES];
static int n_rates;

static struct rate *find_rate(const char *kernel, bool bwd, bool host) {
  for (int i = 0; i < n_rates; i++)
    if (!strcmp(rates[i].kernel, kernel) && rates[i].bwd == bwd && rates[i].host == host)
      return &rates[i];
  return NULL;
}

static bool row_is_host(const struct row *row) { return !strcmp(row->engine, "cpu"); }
static bool row_is_bwd(const struct row *row) { return !strncmp(row->pass, "bwd", 3); }

// Rate over the pairs that the kernel computes, as estimate_s() counts them.
static double pairs_tflop_s(const struct row *row) {
  return strcmp(row->kernel, "naive") != 0 ? row->tflop_s
                                           : row->tflop_s * row->seqlen * row->seqlen / row->area;
}

void estimate_learn(const struct row *rows, size_t n) {
  n_rates = 0;
  for (size_t i = 0; i < n; i++) {
    const bool bwd = row_is_bwd(&rows[i]), host = row_is_host(&rows[i]);
    if (strcmp(rows[i].status, "ok") != 0 || find_rate(rows[i].kernel, bwd, host) ||
        n_rates == RATES)
      continue;
    double seen[SAMPLES];
    size_t count = 0;
    for (size_t j = i; j < n && count < SAMPLES; j++)
      if (!strcmp(rows[j].status, "ok") && !strcmp(rows[j].kernel, rows[i].kernel) &&
          row_is_bwd(&rows[j]) == bwd && row_is_host(&rows[j]) == host)
        seen[count++] = pairs_tflop_s(&rows[j]);
    struct rate *r = &rates[n_rates++];
    snprintf(r->kernel, sizeof r->kernel, "%.40s", rows[i].kernel);
    r->bwd = bwd;
    r->host = host;
    r->tflop_s = stats_median(seen, count);
  }
}

// Area of the first draw; the last one is remembered, since a series asks for the same again and again.
static double area_of(const struct point *p) {
  static struct point last;
  static double area;
  if (mask_is_block_sparse(p->mask)) // drawing these patterns takes too long for an estimate
    return (double)p->seqlen * p->seqlen * p->ratio;
  if (last.mask == p->mask && last.seqlen == p->seqlen && last.window == p->window &&
      last.block == p->block && last.seed == p->seed && !strcmp(last.histogram, p->histogram))
    return area;
  struct mask mask;
  char err[ROW_REASON];
  const struct mask_recipe recipe = point_recipe(p);
  last = *p;
  area = 0;
  if (!mask_draw_nth(&mask, p->seed, 0, &recipe, err, sizeof err)) {
    area = mask_area(&mask);
    mask_free(&mask);
  }
  return area;
}

// Whether the kernel refuses such points: asked with the smallest mask of the kind.
static bool refused(const struct point *p) {
  const struct attn_kernel *kernel = attn_find(p->kernel, p->place);
  struct mask mask;
  char err[ROW_REASON];
  struct point small = *p;
  small.seqlen = p->block ? 2 * p->block : p->seqlen < 64 ? p->seqlen : 64;
  const struct mask_recipe recipe = point_recipe(&small);
  if (!kernel || mask_draw_nth(&mask, p->seed, 0, &recipe, err, sizeof err))
    return true;
  const struct attn_problem problem = point_problem(&small, &mask);
  const bool no = attn_why_not(kernel, &problem) != NULL;
  mask_free(&mask);
  return no;
}

// Work of the check (check.h): whole tensors while that is cheap, else rows of them; a row of dK needs
// all queries of its group.
static double reference_flop(const struct point *p, double area) {
  const bool bwd = p->pass == ATTN_BWD;
  const double whole = flops_attention(area, p->heads_q, p->dim, ATTN_FWD) * (bwd ? 4.5 : 1);
  const double row = 4.0 * p->seqlen * p->dim, group = (double)p->heads_q / p->heads_kv;
  // Reading a head's rows as doubles takes as long as the product with them, thrice.
  return whole <= CHECK_FULL_FLOP ? whole : CHECK_SAMPLES * row * (bwd ? 8 + 2.5 * group : 4);
}

static double rate_of(const struct point *p, bool whole_square) {
  const bool host = p->place == ATTN_HOST;
  const struct rate *r = find_rate(p->kernel, p->pass == ATTN_BWD, host);
  if (r && r->tflop_s > 0)
    return r->tflop_s;
  if (!host)
    return DEVICE_TFLOP_S;
  const double peak = place_of(ATTN_HOST)->peak_tflop_s(p->dtype, 0);
  return peak * (whole_square ? NAIVE_SHARE : HOST_SHARE);
}

double estimate_s(const struct point *p) {
  const bool host = p->place == ATTN_HOST;
  const double worker_s = host ? 0.005 : 0.02;
  if (*p->left_out)
    return 0.001;
  if (refused(p))
    return worker_s;
  const double area = area_of(p);
  // The naive path computes every pair, whatever the mask.
  const bool whole_square = !strcmp(p->kernel, "naive");
  const double pairs = whole_square ? (double)p->seqlen * p->seqlen : area;
  const double call_s =
      flops_attention(pairs, p->heads_q, p->dim, p->pass) / rate_of(p, whole_square) * 1e-12;
  double calls = p->seconds / call_s;
  calls = fmax(p->samples_min, fmin(calls, p->samples_max));
  const double warm = fmin(p->warmup, 0.25 * p->seconds / call_s) + 1;
  // A device's inputs serve the kernels of a comparison; its outputs go to the host.
  const double inputs_s =
      3.0 * p->seqlen * p->dim * (p->heads_q + p->heads_kv) * (host ? 10e-9 : 0.5e-9);
  const double reference_s =
      reference_flop(p, area) / (REFERENCE_THREAD_TFLOP_S * omp_get_max_threads()) * 1e-12;
  return worker_s + inputs_s + reference_s + (warm + calls) * call_s;
}
