// runner.c -- the loop that measures what the plan (runner_plan.h) says is missing.
//
// A GPU that is limited by power is another machine an hour later, so with `together` the kernels of a
// comparison come from one run. Old rows go when their comparison begins anew, not before.
#include "runner.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "measure_cp.h"
#include "progress.h"
#include "runner_plan.h"
#include "timer.h"

static enum row_status status_of(const struct row *row) {
  const int status = row_status_find(row->status);
  return status < 0 ? ROW_CRASH : (enum row_status)status;
}

static volatile int stop;
static void on_stop(int sig) { stop = sig; }

static void finish_row(struct row *row, const struct runner_options *o) {
  snprintf(row->machine, sizeof row->machine, "%s", o->machine);
  snprintf(row->commit, sizeof row->commit, "%s", o->commit);
  timer_utc(row->utc, sizeof row->utc);
}

// Workers: one measures by itself, the other has jobs. Both stay, but a GPU's memory is for one at a time.
static enum worker_end run_point(struct worker w[2], const struct point *p, struct row *row,
                                 const struct runner_options *o, struct store *s) {
  if (*p->left_out) {
    point_to_row(p, row);
    snprintf(row->status, sizeof row->status, "unsupported");
    snprintf(row->reason, sizeof row->reason, PLAN_LEFT_OUT "%.200s", p->left_out);
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
  const bool job = measure_cp_is_job(p);
  if (p->place == ATTN_DEVICE)
    worker_end(&w[!job]);
  return worker_run(&w[job], o->measure, &limited, row, s->fd, log_path, &stop);
}

static void tell(struct progress *progress, const struct point *p, const struct row *row,
                 double expected_s) {
  char what[160], text[480];
  point_describe(p, what, sizeof what);
  const enum row_status status = status_of(row);
  if (status == ROW_OK)
    snprintf(text, sizeof text, "%s  %.4g us  %.4g TFLOP/s", what, row->time_us, row->tflop_s);
  else
    snprintf(text, sizeof text, "%s  %.12s: %.200s", what, row->status, row->reason);
  progress_step(progress, expected_s, text, status != ROW_OK && status != ROW_UNSUPPORTED);
}

static int measure_all(const struct plan *plan, const struct runner_options *o, struct store *s,
                       struct runner_summary *sum, char *err, size_t err_size) {
  struct worker w[2] = {{0}};
  struct progress progress;
  int status = 0;
  char before[POINT_KEY] = "", key[POINT_KEY];
  progress_begin(&progress, plan->n, sum->expected_s, o->quiet);
  for (size_t i = 0; i < plan->n && !status; i++) {
    struct row row;
    if (strcmp(plan_comparison(plan->points[i], key), before) != 0) {
      if (o->stop_s > 0 && timer_now_us() - progress.begin_us > o->stop_s * 1e6) {
        sum->left = plan->n - i;
        break;
      }
      memcpy(before, key, sizeof before);
      if (o->together && (status = plan_drop_comparison(s, plan, i, err, err_size)))
        break;
    }
    const enum worker_end end = stop ? WORKER_STOPPED : run_point(w, plan->points[i], &row, o, s);
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
  worker_end(&w[0]);
  worker_end(&w[1]);
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
  if (plan_make(&plan, points, n, o->dry_run ? NULL : &s, o, sum, err, err_size))
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
  plan_release(&plan);
  return status;
}
