// claims.c -- evaluates one line of experiments/claims.tsv. The tests, each giving a list of values:
//   ratio   quantity of each point of `of` over that of every point of `against` that agrees with it in
//           all variables that neither filter mentions
//   value   the quantity of each point
//   spread  (largest - smallest) / median over the draws of a point
//   vary    largest over smallest along a column, all other variables fixed
//   slope   exponent of a power law along a column (least squares in logarithms, >= 3 points)
//   reach   largest value of a column that still works, where a larger one was tried and failed or where
//           it lies above the bound already
//   share   fraction of the points that have a status
// The list is reduced (min, median, max, or wins: the fraction above 1) and held against bounds.
#include "claims.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "stats.h"

struct list {
  double *value;
  const struct row **from; // a row of the point that the value is of
  size_t n, capacity;
  bool failed; // memory
};

static void push(struct list *l, double value, const struct measured *from) {
  if (!isfinite(value))
    return;
  if (l->n == l->capacity) {
    const size_t capacity = l->capacity ? 2 * l->capacity : 64;
    double *v = realloc(l->value, capacity * sizeof *v);
    if (v)
      l->value = v;
    const struct row **p = realloc(l->from, capacity * sizeof *p);
    if (p)
      l->from = p;
    if (!v || !p) {
      l->failed = true;
      return;
    }
    l->capacity = capacity;
  }
  l->value[l->n] = value;
  l->from[l->n++] = from->row;
}

// Whether two points agree in all variables but `over` and those that of/against mention.
static bool agree(const struct claim *c, const struct measured *a, const struct measured *b) {
  char x[ROW_REASON], y[ROW_REASON];
  for (int i = 0; select_key[i]; i++) {
    const char *k = select_key[i];
    if (!strcmp(k, c->over) ||
        (c->against.n && (filter_mentions(&c->of, k) || filter_mentions(&c->against, k))))
      continue;
    // What a mask alone decides goes with the mask; what a draw decides is not a variable.
    const bool of_mask = claims_word_in(k, "window block ratio histogram");
    if (of_mask && c->against.n &&
        (filter_mentions(&c->of, "mask") || filter_mentions(&c->against, "mask")))
      continue;
    if (!strcmp(k, "window") && !strcmp(a->row->mask, "global_sliding_window"))
      continue;
    // Over the ranks at so many tokens each, the length goes with the ranks.
    if (!strcmp(k, "seqlen") && !strcmp(c->over, "ranks") && filter_mentions(&c->of, "tokens"))
      continue;
    // The histogram goes with the length (study 2.3).
    if (!strcmp(k, "histogram") &&
        (!strcmp(c->over, "seqlen") || filter_mentions(&c->of, "seqlen") ||
         filter_mentions(&c->of, "tokens")))
      continue;
    if (strcmp(filter_text(a->row, k, x, sizeof x), filter_text(b->row, k, y, sizeof y)) != 0)
      return false;
  }
  return true;
}

static double along(const struct claim *c, const struct measured *p) {
  char text[ROW_REASON];
  return strtod(filter_text(p->row, c->over, text, sizeof text), NULL);
}

// One value for the points p[i] of one group: those that agree with the group's first.
static double group_value(const struct claim *c, const struct measured *p, const size_t *member,
                          size_t n) {
  double low = INFINITY, high = -INFINITY, sx = 0, sy = 0, sxx = 0, sxy = 0, ok = -INFINITY,
         tried = -INFINITY;
  size_t m = 0;
  for (size_t i = 0; i < n; i++) {
    const struct measured *q = &p[member[i]];
    const double x = along(c, q), y = q->y;
    if (q->ok)
      ok = fmax(ok, x);
    else if (strcmp(q->row->status, "unsupported") != 0)
      tried = fmax(tried, x);
    if (!(y > 0))
      continue;
    m++;
    low = fmin(low, y);
    high = fmax(high, y);
    if (x > 0) {
      sx += log(x);
      sy += log(y);
      sxx += log(x) * log(x);
      sxy += log(x) * log(y);
    }
  }
  if (!strcmp(c->test, "reach"))
    return tried > ok || ok > c->high ? ok : NAN; // beyond the bound: decided without a failure
  if (!strcmp(c->test, "vary"))
    return m > 1 ? high / low : NAN;
  return m > 2 ? ((double)m * sxy - sx * sy) / ((double)m * sxx - sx * sx) : NAN;
}

static void collect_groups(const struct claim *c, const struct measured *p, size_t n,
                           struct list *l) {
  bool *done = calloc(n + 1, sizeof *done);
  size_t *member = calloc(n + 1, sizeof *member);
  l->failed |= !done || !member;
  for (size_t i = 0; !l->failed && i < n; i++) {
    size_t m = 0;
    if (done[i])
      continue;
    for (size_t j = i; j < n; j++)
      if (!done[j] && agree(c, &p[i], &p[j])) {
        done[j] = true;
        member[m++] = j;
      }
    push(l, group_value(c, p, member, m), &p[i]);
  }
  free(done);
  free(member);
}

static void collect(const struct claim *c, const struct row *rows, size_t n, struct list *l) {
  struct measured *a = NULL, *b = NULL;
  size_t na = 0, nb = 0;
  l->failed = select_points(rows, n, &c->of, &c->quantity, &a, &na) ||
              (c->against.n && select_points(rows, n, &c->against, &c->quantity, &b, &nb));
  if (l->failed) {
    free(a);
    free(b);
    return;
  }
  if (!strcmp(c->test, "ratio")) {
    for (size_t i = 0; i < na; i++)
      for (size_t j = 0; j < nb; j++)
        if (a[i].row != b[j].row && agree(c, &a[i], &b[j]))
          push(l, a[i].y / b[j].y, &a[i]);
  } else if (*c->over) {
    collect_groups(c, a, na, l);
  } else {
    for (size_t i = 0; i < na; i++)
      if (!strcmp(c->test, "spread"))
        push(l, a[i].ok > 1 ? (a[i].high - a[i].low) / a[i].y : NAN, &a[i]);
      else if (!strcmp(c->test, "share"))
        push(l, !strcmp(a[i].row->status, c->share), &a[i]);
      else
        push(l, a[i].y, &a[i]);
  }
  free(a);
  free(b);
}

static void describe(const struct row *r, char *buf, size_t size) {
  size_t at = (size_t)snprintf(buf, size, "%.40s %.12s %.30s %g:%g S=%g", r->kernel, r->pass,
                               r->mask, r->heads_q, r->heads_kv, r->seqlen);
  if (!isnan(r->ratio) && r->ratio > 0 && at < size)
    at += (size_t)snprintf(buf + at, size - at, " block %g ratio %g", r->block, r->ratio);
  if (!select_is_single(r) && at < size)
    snprintf(buf + at, size - at, " %.16s x%g", r->cp, r->ranks);
}

static bool is_evidence(const struct claim *c, const struct row *r, bool measured_on_device) {
  const bool single = select_is_single(r);
  const bool parallel = filter_mentions(&c->of, "cp") || filter_mentions(&c->where, "cp");
  if (parallel == single || !filter_match(&c->where, r))
    return false;
  if (!strcmp(c->needs, "any"))
    return true;
  // A host row is never evidence about a GPU, nor is its word on what is unsupported.
  if (!measured_on_device || !strcmp(r->engine, "cpu") || !strcmp(r->profile, "cpu"))
    return false;
  return strcmp(c->needs, "gpus") != 0 || r->ranks > 1;
}

struct claim_result claim_check(const struct claim *c, const struct row *rows, size_t n) {
  struct claim_result result = {CLAIM_NOT_MEASURED, NAN, 0, ""};
  struct list l = {.n = 0};
  struct row *use = malloc((n + 1) * sizeof *use);
  size_t m = 0;
  bool device = false;
  for (size_t i = 0; i < n; i++)
    device |=
        !strcmp(rows[i].status, "ok") && *rows[i].engine && strcmp(rows[i].engine, "cpu") != 0;
  for (size_t i = 0; use && i < n; i++)
    if (is_evidence(c, &rows[i], device))
      use[m++] = rows[i];
  if (use)
    collect(c, use, m, &l);
  result.n = (int)l.n;
  if (!use || l.failed) {
    snprintf(result.at, sizeof result.at, "out of memory");
  } else if (!device && strcmp(c->needs, "any") != 0) {
    snprintf(result.at, sizeof result.at, "needs %s",
             !strcmp(c->needs, "gpus") ? "several GPUs" : "a GPU");
  } else if (result.n < c->least) {
    snprintf(result.at, sizeof result.at, "%d of %d values; run %s", result.n, c->least, c->exp);
  } else {
    size_t best = 0, wins = 0;
    const bool max = !strcmp(c->reduce, "max");
    for (size_t i = 0; i < l.n; i++) {
      wins += l.value[i] > 1;
      if (max ? l.value[i] > l.value[best] : l.value[i] < l.value[best])
        best = i;
    }
    const bool extreme = max || !strcmp(c->reduce, "min");
    result.value = extreme                      ? l.value[best]
                   : !strcmp(c->reduce, "wins") ? (double)wins / (double)l.n
                                                : stats_median(l.value, l.n);
    result.verdict = result.value >= c->low && result.value <= c->high ? CLAIM_HOLDS : CLAIM_FAILS;
    if (extreme)
      describe(l.from[best], result.at, sizeof result.at);
  }
  free(l.value);
  free(l.from);
  free(use);
  return result;
}

enum claim_verdict claim_join(enum claim_verdict a, enum claim_verdict b) {
  if (a == CLAIM_FAILS || b == CLAIM_FAILS)
    return CLAIM_FAILS;
  return a == CLAIM_HOLDS && b == CLAIM_HOLDS ? CLAIM_HOLDS : CLAIM_NOT_MEASURED;
}

const char *claim_verdict_name(enum claim_verdict v) {
  static const char *const names[] = {"HOLDS", "FAILS", "NOT MEASURED"};
  return names[v];
}
