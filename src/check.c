// check.c -- see check.h.
#include "check.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "ref.h"
#include "tensor.h"

// LSE is a sum of fp32 products in every kernel; GPU exponentials are good to about 2^-22.
static double lse_limit(enum attn_dtype dtype) { return dtype == ATTN_FP32 ? 5e-5 : 1e-3; }

static bool check_full_forward(const struct attn_problem *p, const struct attn_args *a,
                               struct verify_report *report) {
  const int64_t rows = (int64_t)p->rows_q * p->heads_q;
  double *o = malloc(sizeof *o * (size_t)(rows * p->dim)),
         *lse = malloc(sizeof *lse * (size_t)rows);
  const bool ran = o && lse && ref_forward(p, a, o, lse) == 0;
  if (ran) {
    verify_rows(report, a->o, p->dtype, p->dim, o, NULL, rows, p->dim,
                verify_rms_row(o, rows, p->dim), verify_limits_for(p->dtype, false));
    verify_lse(report, a->lse, lse, rows, lse_limit(p->dtype));
  }
  free(o), free(lse);
  return ran;
}

static bool check_full_backward(const struct attn_problem *p, const struct attn_args *a,
                                struct verify_report *report) {
  const int64_t rows_q = (int64_t)p->rows_q * p->heads_q, rows_k = (int64_t)p->rows_k * p->heads_kv;
  const int64_t n_q = rows_q * p->dim, n_k = rows_k * p->dim;
  double *dq = malloc(sizeof *dq * (size_t)n_q);
  double *dk = malloc(sizeof *dk * (size_t)n_k), *dv = malloc(sizeof *dv * (size_t)n_k);
  double *noise_q = malloc(sizeof *dq * (size_t)rows_q),
         *noise_k = malloc(sizeof *dk * (size_t)rows_k);
  const bool ran = dq && dk && dv && noise_q && noise_k &&
                   ref_backward_noise(p, a, dq, dk, dv, noise_q, noise_k) == 0;
  if (ran) {
    const struct verify_limits limits = verify_limits_for(p->dtype, true);
    const bool rounded = p->dtype == ATTN_BF16;
    verify_rows(report, a->dq, p->dtype, p->dim, dq, rounded ? noise_q : NULL, rows_q, p->dim,
                verify_rms_row(dq, rows_q, p->dim), limits);
    verify_rows(report, a->dk, p->dtype, p->dim, dk, rounded ? noise_k : NULL, rows_k, p->dim,
                verify_rms_row(dk, rows_k, p->dim), limits);
    verify_rows(report, a->dv, p->dtype, p->dim, dv, NULL, rows_k, p->dim,
                verify_rms_row(dv, rows_k, p->dim), limits);
  }
  free(dq), free(dk), free(dv), free(noise_q), free(noise_k);
  return ran;
}

static uint64_t next_random(uint64_t *state) { // xorshift64*
  *state ^= *state >> 12, *state ^= *state << 25, *state ^= *state >> 27;
  return *state * 0x2545f4914f6cdd1du;
}

// Sample i of n: row 0 first, the last row second, then anywhere.
static int32_t sample_row(int i, int32_t rows, uint64_t *state) {
  return i == 0 ? 0 : i == 1 ? rows - 1 : (int32_t)(next_random(state) % (uint64_t)rows);
}

static const void *row_at(const void *x, const struct attn_problem *p, int32_t row, int32_t heads,
                          int32_t head) {
  return (const char *)x +
         ((int64_t)row * heads + head) * p->dim * (int64_t)tensor_elem_bytes(p->dtype);
}

static bool check_sampled(const struct attn_problem *p, const struct attn_args *a,
                          enum attn_pass pass, uint64_t seed, struct verify_report *report) {
  const struct verify_limits limits = verify_limits_for(p->dtype, pass == ATTN_BWD);
  const int tensors = pass == ATTN_FWD ? 1 : 3;
  const int32_t dim = p->dim;
  uint64_t state = seed * 2 + 1;
  // [tensor][sample][dim]: O, or dQ dK dV
  double *want = malloc(sizeof *want * (size_t)(tensors * CHECK_SAMPLES * dim)), o[256];
  double lse[CHECK_SAMPLES], noise[3][CHECK_SAMPLES] = {{0}}; // dV has none
  int32_t head[CHECK_SAMPLES], row[CHECK_SAMPLES], key_head[CHECK_SAMPLES], key[CHECK_SAMPLES];
  for (int i = 0; i < CHECK_SAMPLES; i++) {
    head[i] = (int32_t)(next_random(&state) % (uint64_t)p->heads_q);
    key_head[i] = (int32_t)(next_random(&state) % (uint64_t)p->heads_kv);
    row[i] = sample_row(i, p->rows_q, &state);
    key[i] = sample_row(i, p->rows_k, &state);
  }
  int failed = want == NULL;
#pragma omp parallel for schedule(dynamic) reduction(| : failed) private(o)
  for (int i = 0; i < CHECK_SAMPLES; i++) {
    if (failed)
      continue;
    double *first = want + (int64_t)i * dim;
    if (pass == ATTN_FWD) {
      failed |= ref_query_row(p, a, head[i], row[i], first, &lse[i], NULL, NULL) != 0;
      continue;
    }
    double *dk = first + (int64_t)CHECK_SAMPLES * dim, *dv = dk + (int64_t)CHECK_SAMPLES * dim;
    failed |= ref_query_row(p, a, head[i], row[i], o, &lse[i], first, &noise[0][i]) != 0;
    failed |= ref_key_row(p, a, key_head[i], key[i], dk, dv, &noise[1][i]) != 0;
  }
  for (int t = 0; !failed && t < tensors; t++) {
    const double *part = want + (int64_t)t * CHECK_SAMPLES * dim;
    const double rms = verify_rms_row(part, CHECK_SAMPLES, dim);
    const void *got = pass == ATTN_FWD ? a->o : t == 0 ? a->dq : t == 1 ? a->dk : a->dv;
    for (int i = 0; i < CHECK_SAMPLES; i++)
      verify_rows(report,
                  t == 0 ? row_at(got, p, row[i], p->heads_q, head[i])
                         : row_at(got, p, key[i], p->heads_kv, key_head[i]),
                  p->dtype, dim, part + (int64_t)i * dim,
                  p->dtype == ATTN_BF16 ? &noise[t][i] : NULL, 1, dim, rms, limits);
  }
  for (int i = 0; !failed && pass == ATTN_FWD && i < CHECK_SAMPLES; i++)
    verify_lse(report, a->lse + (int64_t)head[i] * p->rows_q + row[i], &lse[i], 1,
               lse_limit(p->dtype));
  free(want);
  return !failed;
}

static bool any_nan(const void *x, enum attn_dtype dtype, int64_t n) {
  int found = 0;
#pragma omp parallel for schedule(static) reduction(| : found)
  for (int64_t i = 0; i < n; i++)
    found |= dtype == ATTN_BF16 ? (((const uint16_t *)x)[i] & 0x7fff) > 0x7f80
                                : isnan(((const float *)x)[i]) != 0;
  return found != 0;
}

// Outputs start as NaN, so what a kernel never wrote shows wherever it is.
static bool check_written(const struct attn_problem *p, const struct attn_args *a,
                          enum attn_pass pass, struct verify_report *report) {
  const int64_t n_q = (int64_t)p->rows_q * p->heads_q * p->dim,
                n_k = (int64_t)p->rows_k * p->heads_kv * p->dim;
  const bool nan = pass == ATTN_FWD
                       ? any_nan(a->o, p->dtype, n_q) || any_nan(a->lse, ATTN_FP32, n_q / p->dim)
                       : any_nan(a->dq, p->dtype, n_q) || any_nan(a->dk, p->dtype, n_k) ||
                             any_nan(a->dv, p->dtype, n_k);
  if (!nan)
    return true;
  report->wrong++;
  report->err_max = INFINITY;
  return false;
}

bool check_outputs(const struct attn_problem *p, const struct attn_args *a, enum attn_pass pass,
                   uint64_t seed, struct verify_report *report) {
  memset(report, 0, sizeof *report);
  const double flop = (pass == ATTN_FWD ? 4.0 : 14.0) * p->rows_q * p->rows_k * p->heads_q * p->dim;
  const bool sampled = flop > CHECK_FULL_FLOP;
  const bool ran = sampled            ? check_sampled(p, a, pass, seed, report)
                   : pass == ATTN_FWD ? check_full_forward(p, a, report)
                                      : check_full_backward(p, a, report);
  const bool right = verify_finish(report);
  return (!sampled || check_written(p, a, pass, report)) && right && ran;
}
