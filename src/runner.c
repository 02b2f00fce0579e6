// runner.c -- which points are missing, what they will take, and the loop that measures them.
//
// A point is done when its file has a row of the same key (point_key: profile and independent
// variables, not the experiment), so what one figure measured another never repeats. A row that was
// only left out by one experiment does not stand in the way of another that measures it.
//
// A GPU that is limited by power is another machine an hour later, so with `together` the kernels of a
// comparison come from one run. Old rows go when their comparison begins anew, not before.
#define _GNU_SOURCE
#include "runner.h"

#include <errno.h>
#include <math.h>
#include <search.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "estimate.h"
#include "progress.h"
#include "store.h"
#include "timer.h"

#define LEFT_OUT "left out: "

static const char *const status_names[] = {"ok", "oom", "unsupported", "wrong", "timeout", "crash"};

const char *runner_status_name(enum runner_status status) { return status_names[status]; }

static enum runner_status status_of(const struct row *row) {
  for (int s = 0; s < RUNNER_STATUSES; s++)
    if (!strcmp(status_names[s], row->status))
      return (enum runner_status)s;
  return RUNNER_CRASH;
}

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

static const char *comparison_of(const struct point *p, char key[POINT_KEY]) {
  struct row row;
  point_to_row(p, &row);
  return comparison_key(&row, key);
}

// Whether a row answers for its point.
static bool settles(const struct row *row, const struct runner_options *o) {
  if (!strncmp(row->reason, LEFT_OUT, strlen(LEFT_OUT)))
    return false;
  return !o->retry || !strcmp(row->status, "ok");
}

static bool wanted(const struct row *row, const struct runner_options *o) {
  for (int i = 0; i < o->onlys; i++)
    if (!cond_match(&o->only[i], row))
      return false;
  return true;
}

// ---- the plan -------------------------------------------------------------------------------

struct plan {
  const struct point **points;
  double *expected_s;
  size_t n;
};

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

// The same for the comparison that begins at point i of the plan.
static int drop_comparison(struct store *s, const struct plan *plan, size_t i, char *err,
                           size_t err_size) {
  char first[POINT_KEY], key[POINT_KEY];
  struct row *rows, row;
  size_t n;
  void *todo = NULL;
  bool memory = true;
  comparison_of(plan->points[i], first);
  for (; memory && i < plan->n && !strcmp(comparison_of(plan->points[i], key), first); i++) {
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

static int make_plan(struct plan *plan, const struct point *points, size_t n, struct store *s,
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
    else if (!strncmp(rows[i].reason, LEFT_OUT, strlen(LEFT_OUT)))
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

// ---- the loop -------------------------------------------------------------------------------

static volatile int stop;
static void on_stop(int sig) { stop = sig; }

static void finish_row(struct row *row, const struct runner_options *o) {
  snprintf(row->machine, sizeof row->machine, "%s", o->machine);
  snprintf(row->commit, sizeof row->commit, "%s", o->commit);
  timer_utc(row->utc, sizeof row->utc);
}

static enum worker_end run_point(struct worker *w, const struct point *p, struct row *row,
                                 const struct runner_options *o, struct store *s) {
  if (*p->left_out) {
    point_to_row(p, row);
    snprintf(row->status, sizeof row->status, "unsupported");
    snprintf(row->reason, sizeof row->reason, LEFT_OUT "%.200s", p->left_out);
    return WORKER_ROW;
  }
  struct point limited = *p;
  if (o->limit_s > 0)
    limited.limit_s = o->limit_s;
  // One log a key, so that a repeated failure does not pile up files.
  char log_path[STORE_PATH + 32], key[POINT_KEY];
  point_to_row(p, row);
  uint32_t hash = 2166136261u; // FNV-1a
  for (const char *c = point_key(row, key); *c; c++)
    hash = (hash ^ (unsigned char)*c) * 16777619u;
  const char *slash = strrchr(o->path, '/');
  snprintf(log_path, sizeof log_path, "%.*slog", slash ? (int)(slash - o->path + 1) : 0, o->path);
  snprintf(log_path + strlen(log_path), 32, "/%08x.txt", hash);
  return worker_run(w, o->measure, &limited, row, s->fd, log_path, &stop);
}

static void tell(struct progress *progress, const struct point *p, const struct row *row,
                 double expected_s) {
  char what[160], text[480];
  point_describe(p, what, sizeof what);
  const enum runner_status status = status_of(row);
  if (status == RUNNER_OK)
    snprintf(text, sizeof text, "%s  %.4g us  %.4g TFLOP/s", what, row->time_us, row->tflop_s);
  else
    snprintf(text, sizeof text, "%s  %.12s: %.200s", what, row->status, row->reason);
  progress_step(progress, expected_s, text, status != RUNNER_OK && status != RUNNER_UNSUPPORTED);
}

static int measure_all(const struct plan *plan, const struct runner_options *o, struct store *s,
                       struct runner_summary *sum, char *err, size_t err_size) {
  struct worker w = {0};
  struct progress progress;
  int status = 0;
  char before[POINT_KEY] = "", key[POINT_KEY];
  progress_begin(&progress, plan->n, sum->expected_s, o->quiet);
  for (size_t i = 0; i < plan->n && !status; i++) {
    struct row row;
    if (strcmp(comparison_of(plan->points[i], key), before) != 0) {
      if (o->stop_s > 0 && timer_now_us() - progress.begin_us > o->stop_s * 1e6) {
        sum->left = plan->n - i;
        break;
      }
      memcpy(before, key, sizeof before);
      if (o->together && (status = drop_comparison(s, plan, i, err, err_size)))
        break;
    }
    const enum worker_end end = stop ? WORKER_STOPPED : run_point(&w, plan->points[i], &row, o, s);
    if (end == WORKER_STOPPED) {
      snprintf(err, err_size,
               "stopped by %s with %zu of %zu points left; the same command goes on from here",
               stop == SIGINT ? "^C" : "a signal", plan->n - i, plan->n);
      status = -1;
      break;
    }
    if (end == WORKER_HARNESS) {
      char what[160];
      snprintf(err, err_size, "error of the harness at %s: %s",
               point_describe(plan->points[i], what, sizeof what), row.reason);
      status = -1;
      break;
    }
    finish_row(&row, o);
    if (store_append(s, &row, err, err_size)) {
      status = -1;
      break;
    }
    sum->measured++;
    sum->by_status[status_of(&row)]++;
    tell(&progress, plan->points[i], &row, plan->expected_s[i]);
  }
  worker_end(&w);
  if (plan->n && !status) {
    char took[32], text[128];
    progress_duration((timer_now_us() - progress.begin_us) * 1e-6, took, sizeof took);
    snprintf(text, sizeof text, "%zu points in %s", sum->measured, took);
    progress_end(&progress, text);
  } else if (progress.terminal && !o->quiet) {
    fputc('\n', stderr);
  }
  return status;
}

int runner_run(const struct point *points, size_t n, const struct runner_options *o,
               struct runner_summary *sum, char *err, size_t err_size) {
  memset(sum, 0, sizeof *sum);
  struct plan plan = {0};
  struct store s = {.fd = -1};
  int status = -1;
  if (!o->dry_run && store_open(&s, o->path, err, err_size))
    goto out;
  if (make_plan(&plan, points, n, o->dry_run ? NULL : &s, o, sum, err, err_size))
    goto out;
  if (o->dry_run) {
    status = 0;
    goto out;
  }
  stop = 0;
  struct sigaction before_int, before_term;
  const struct sigaction act = {.sa_handler = on_stop};
  sigaction(SIGINT, &act, &before_int);
  sigaction(SIGTERM, &act, &before_term);
  status = measure_all(&plan, o, &s, sum, err, err_size);
  sigaction(SIGINT, &before_int, NULL);
  sigaction(SIGTERM, &before_term, NULL);
out:
  store_close(&s);
  free(plan.points);
  free(plan.expected_s);
  return status;
}
