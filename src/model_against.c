// model_against.c -- the model held against rows that were measured, or read off the paper
// (data/published/cp.csv): TFLOP/s a rank, and the error over all points.
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cmd.h"
#include "model_tables.h"
#include "select.h"

struct errors {
  double sum, worst;
  int n;
};

static void add_error(struct errors *e, double ratio) {
  const double off = fabs(log(ratio));
  e->sum += off;
  e->worst = fmax(e->worst, off);
  e->n++;
}

// Draws of one point are compared by their mean.
static bool same_point(const struct row *a, const struct row *b) {
  return !strcmp(a->mask, b->mask) && !strcmp(a->pass, b->pass) && !strcmp(a->cp, b->cp) &&
         !strcmp(a->transport, b->transport) && !strcmp(a->kernel, b->kernel) &&
         a->ranks == b->ranks && a->seqlen == b->seqlen && a->heads_q == b->heads_q &&
         a->heads_kv == b->heads_kv && a->dim == b->dim;
}

// Whether a later row has the same draw of the same point.
static bool measured_again(const struct row *rows, size_t n, size_t i) {
  for (size_t j = i + 1; j < n; j++)
    if (!strcmp(rows[j].status, "ok") && same_point(&rows[i], &rows[j]) &&
        rows[i].draw == rows[j].draw && !strcmp(rows[i].machine, rows[j].machine))
      return true;
  return false;
}

// TFLOP/s a rank over the draws of row i's point, and how many there are; 0 draws: an earlier row's point,
// or one that has nothing to compare.
static double measured_tflop_s(const struct row *rows, size_t n, size_t i, int *draws) {
  double sum = 0;
  *draws = 0;
  if (mask_parse(rows[i].mask) < 0 || strcmp(rows[i].status, "ok") != 0 || !*rows[i].cp ||
      !strcmp(rows[i].cp, "none"))
    return NAN;
  for (size_t j = 0; j < n; j++) {
    if (strcmp(rows[j].status, "ok") != 0 || !same_point(&rows[i], &rows[j]))
      continue;
    if (j < i) {
      *draws = 0;
      return NAN;
    }
    if (measured_again(rows, n, j))
      continue;
    sum += rows[j].tflop_s;
    ++*draws;
  }
  return sum / *draws;
}

int model_against(const struct model_request *r, char *const *paths, int n_paths) {
  static const char *const heads[] = {"mask",     "pass",     "cp",   "ranks",
                                      "measured", "modelled", "ratio"};
  struct row *rows = NULL;
  size_t n = 0;
  char err[1024];
  if (select_read(paths, n_paths, &rows, &n, err, sizeof err))
    return cmd_refuse("model", "%s", err);
  struct table t = table_new(7);
  for (int i = 0; i < 7; i++)
    table_add(&t, "%s", heads[i]);
  struct errors all = {0};
  int status = select_is_emulated(rows, n, err, sizeof err) ? cmd_refuse("model", "%s", err) : 0;
  for (size_t i = 0; i < n && !status; i++) {
    const struct row *row = &rows[i];
    int draws;
    const double measured = measured_tflop_s(rows, n, i, &draws);
    if (!draws)
      continue;
    const struct model_point p = {.mask = (enum mask_kind)mask_parse(row->mask),
                                  .pass = !strcmp(row->pass, "fwd") ? ATTN_FWD : ATTN_BWD,
                                  .heads_q = (int32_t)row->heads_q,
                                  .heads_kv = (int32_t)row->heads_kv,
                                  .dim = (int32_t)row->dim,
                                  .seqlen = (int32_t)row->seqlen,
                                  .ranks = (int32_t)row->ranks,
                                  .dtype = !strcmp(row->dtype, "fp32") ? ATTN_FP32 : ATTN_BF16,
                                  .draws = draws > 1 ? draws : r->draws,
                                  .cp = row->cp};
    struct model_answer a;
    status = model_ask(&r->machine, &p, &a);
    if (status || *a.refusal)
      continue;
    add_error(&all, a.tflop_s / measured);
    table_add(&t, "%s", row->mask);
    table_add(&t, "%s", row->pass);
    table_add(&t, "%s", row->cp);
    table_add(&t, "%.0f", row->ranks);
    table_add(&t, "%.4g", measured);
    table_add(&t, "%.4g", a.tflop_s);
    table_add(&t, "%.3f", a.tflop_s / measured);
  }
  if (!status && !all.n)
    status = cmd_refuse("model", "no row of context parallelism is ok in these files");
  if (!status) {
    t.caption = "TFLOP/s a rank";
    table_print(&t, r->format, stdout);
    printf("\n%d points; |ln(modelled / measured)|: mean %.3f, worst %.3f\n", all.n,
           all.sum / all.n, all.worst);
  }
  table_free(&t);
  free(rows);
  return status;
}
