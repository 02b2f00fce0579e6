// runner_plan.c -- see runner_plan.h. Sets of keys are binary trees of the C library.
#define _GNU_SOURCE // tdestroy
#include "runner_plan.h"

#include <search.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "estimate.h"

// ---- keys -----------------------------------------------------------------------------------

static int by_text(const void *a, const void *b) { return strcmp(a, b); }

static bool has_key(void *const *keys, const char *key) {
  return tfind(key, keys, by_text) != NULL;
}

// False when memory runs out.
static bool add_key(void **keys, const char *key) {
  if (has_key(keys, key))
    return true;
  char *copy = strdup(key);
  return copy && tsearch(copy, keys, by_text);
}

// What the kernels of a comparison share of their keys.
static const char *comparison_key(const struct row *row, char key[POINT_KEY]) {
  struct row other = *row;
  other.kernel[0] = 0;
  return point_key(&other, key);
}

const char *plan_comparison(const struct point *p, char key[POINT_KEY]) {
  struct row row;
  point_to_row(p, &row);
  return comparison_key(&row, key);
}

// Whether a row answers for its point.
static bool settles(const struct row *row, const struct runner_options *o) {
  if (!strncmp(row->reason, PLAN_LEFT_OUT, strlen(PLAN_LEFT_OUT)))
    return false;
  return !o->retry || !strcmp(row->status, "ok");
}

static bool wanted(const struct row *row, const struct runner_options *o) {
  return !o->only || filter_match(o->only, row);
}

// ---- the plan -------------------------------------------------------------------------------

// Drops the rows that are to be replaced: those that --retry measures again, and rows left out by
// one experiment that another now measures.
static int drop_stale(struct store *s, struct row *rows, size_t n, void *const *todo, char *err,
                      size_t err_size) {
  size_t kept = 0;
  char key[POINT_KEY];
  for (size_t i = 0; i < n; i++)
    if (!has_key(todo, point_key(&rows[i], key)))
      rows[kept++] = rows[i];
  return kept == n ? 0 : store_replace(s, rows, kept, err, err_size);
}

int plan_drop_comparison(struct store *s, const struct plan *plan, size_t i, char *err,
                         size_t err_size) {
  char first[POINT_KEY], key[POINT_KEY];
  struct row *rows, row;
  size_t n;
  void *todo = NULL;
  bool memory = true;
  plan_comparison(plan->points[i], first);
  for (; memory && i < plan->n && !strcmp(plan_comparison(plan->points[i], key), first); i++) {
    point_to_row(plan->points[i], &row);
    memory = add_key(&todo, point_key(&row, key));
  }
  if (!memory)
    snprintf(err, err_size, "out of memory");
  int status = memory ? store_read(s->path, &rows, &n, err, err_size) : -1;
  if (!status) {
    status = drop_stale(s, rows, n, &todo, err, err_size);
    free(rows);
  }
  tdestroy(todo, free);
  return status;
}

int plan_make(struct plan *plan, const struct point *points, size_t n, struct store *s,
              const struct runner_options *o, struct runner_summary *sum, char *err,
              size_t err_size) {
  struct row *rows = NULL, row;
  size_t n_rows = 0;
  void *done = NULL, *left_out = NULL, *asked = NULL, *todo = NULL, *open = NULL;
  char key[POINT_KEY];
  int status = -1;
  plan->points = calloc(n + 1, sizeof *plan->points);
  plan->expected_s = calloc(n + 1, sizeof *plan->expected_s);
  bool memory = plan->points && plan->expected_s;
  struct stat st;
  if ((s || !stat(o->path, &st)) && store_read(o->path, &rows, &n_rows, err, err_size))
    goto out;
  for (size_t i = 0; i < n_rows && memory; i++) {
    point_key(&rows[i], key);
    if (settles(&rows[i], o))
      memory = add_key(&done, key);
    else if (!strncmp(rows[i].reason, PLAN_LEFT_OUT, strlen(PLAN_LEFT_OUT)))
      memory = add_key(&left_out, key);
  }
  estimate_learn(rows, n_rows);
  for (size_t i = 0; i < n && memory && o->together; i++) {
    point_to_row(&points[i], &row);
    if (wanted(&row, o) && !*points[i].left_out && !has_key(&done, point_key(&row, key)))
      memory = add_key(&open, comparison_key(&row, key));
  }
  for (size_t i = 0; i < n && memory; i++) {
    point_to_row(&points[i], &row);
    point_key(&row, key);
    if (!wanted(&row, o) || has_key(&asked, key))
      continue;
    memory = add_key(&asked, key);
    sum->points++;
    char series[POINT_KEY];
    const bool there = has_key(&done, key) || (*points[i].left_out && has_key(&left_out, key));
    if (there && !has_key(&open, comparison_key(&row, series))) {
      sum->there++;
      continue;
    }
    memory = memory && add_key(&todo, key);
    plan->expected_s[plan->n] = estimate_s(&points[i]);
    sum->expected_s += plan->expected_s[plan->n];
    plan->points[plan->n++] = &points[i];
  }
  if (!memory)
    snprintf(err, err_size, "out of memory");
  else
    status = s && !o->together ? drop_stale(s, rows, n_rows, &todo, err, err_size) : 0;
out:
  tdestroy(done, free);
  tdestroy(left_out, free);
  tdestroy(asked, free);
  tdestroy(todo, free);
  tdestroy(open, free);
  free(rows);
  return status;
}

void plan_release(struct plan *plan) {
  free(plan->points);
  free(plan->expected_s);
}
