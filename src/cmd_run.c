// cmd_run.c -- `longca run`: measures experiments into data/fresh/MACHINE/PROFILE.csv.
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cmd.h"
#include "env.h"
#include "exp.h"
#include "measure.h"
#include "place.h"
#include "progress.h"
#include "runner.h"
#include "store.h"

static const char help[] =
    "usage: longca run EXPERIMENT|FILE.exp... [OPTION...]\n"
    "\n"
    "Measures the points of experiments (experiments/NAME.exp) that this machine has no rows for, "
    "each\n"
    "in a worker process, and appends a row a point to DATA/MACHINE/PROFILE.csv. Stop it as you "
    "like:\n"
    "the same command goes on where it was.\n"
    "\n"
    "  --profile P       scale: a section of experiments/profiles.ini (default: quick with a GPU, "
    "else cpu)\n"
    "  --only COND       only rows that fulfil it: kernel=fa2,flex  seqlen<=4K  mask!=full  "
    "(repeatable)\n"
    "  --set KEY=VALUES  instead of what the experiment says: --set 'seqlen=1K 2K'  (repeatable)\n"
    "  --dry-run         count the points, estimate the minutes, measure nothing\n"
    "  --list            with --dry-run: name the points\n"
    "  --limit-s N       time limit of a point (default: the profile's limit_s)\n"
    "  --minutes N       begin no comparison (kernels on one mask, shape, pass) after N minutes\n"
    "  --together        kernels of a comparison in one run: all again where one has no row\n"
    "  --retry           measure again the points whose row is not ok\n"
    "  --machine M       folder of the rows (default: longca env --machine; or LONGCA_MACHINE)\n"
    "  --data DIR        default: data/fresh\n"
    "  --quiet           no progress\n"
    "\n"
    "Exit code: 0 done (unsupported, oom and timeout are results), 1 something was wrong or "
    "crashed or\n"
    "the run had to stop, 2 bad input.\n";

enum { MAX_SET = 32, MAX_EXPS = 64 };

struct request {
  const char *exps[MAX_EXPS], *sets[MAX_SET], *profile, *machine, *data;
  int n_exps, n_sets;
  struct filter only;
  bool dry_run, list, retry, together, quiet;
  double limit_s, minutes;
};

static int bad(const char *sentence) { return cmd_refuse("run", "%s", sentence); }

static int parse_seconds(const char *option, double *s) {
  if (filter_number(optarg, s) && *s > 0)
    return 0;
  return cmd_refuse("run", "%s needs a number above 0, not '%s'", option, optarg);
}

// 0 to go on, 1 when help was asked for, 2 for bad input.
static int parse(struct request *r, int argc, char **argv) {
  const struct option options[] = {{"profile", 1, NULL, 'p'},  {"only", 1, NULL, 'o'},
                                   {"set", 1, NULL, 's'},      {"limit-s", 1, NULL, 'l'},
                                   {"minutes", 1, NULL, 'm'},  {"machine", 1, NULL, 'M'},
                                   {"data", 1, NULL, 'd'},     {"dry-run", 0, NULL, 'n'},
                                   {"list", 0, NULL, 'L'},     {"retry", 0, NULL, 'r'},
                                   {"together", 0, NULL, 't'}, {"quiet", 0, NULL, 'q'},
                                   {"help", 0, NULL, 'h'},     {0}};
  char err[1024];
  int status = 0;
  optind = 0;
  for (int c; !status && (c = cmd_option(argc, argv, options)) != -1;)
    switch (c) {
    case 'p':
      r->profile = optarg;
      break;
    case 'M':
      r->machine = optarg;
      break;
    case 'd':
      r->data = optarg;
      break;
    case 'n':
      r->dry_run = true;
      break;
    case 'L':
      r->list = true;
      break;
    case 'r':
      r->retry = true;
      break;
    case 't':
      r->together = true;
      break;
    case 'q':
      r->quiet = true;
      break;
    case 'l':
      status = parse_seconds("--limit-s", &r->limit_s);
      break;
    case 'm':
      status = parse_seconds("--minutes", &r->minutes);
      break;
    case 'o':
      status = filter_add(&r->only, optarg, err, sizeof err) ? bad(err) : 0;
      break;
    case 's':
      if (r->n_sets == MAX_SET || !strchr(optarg, '='))
        status = bad("--set needs KEY=VALUES, at most 32 times");
      else
        r->sets[r->n_sets++] = optarg;
      break;
    case 'h':
      fputs(help, stdout);
      return 1;
    default:
      status = 2;
    }
  for (; !status && optind < argc; optind++)
    if (r->n_exps == MAX_EXPS)
      status = bad("too many experiments");
    else
      r->exps[r->n_exps++] = argv[optind];
  if (!status && r->list && !r->dry_run)
    status = bad("--list goes with --dry-run");
  if (!status && r->data && !*r->data)
    status = bad("--data needs a folder");
  return status      ? status
         : r->n_exps ? 0
                     : bad("which experiment? longca list experiments names them");
}

// All points of all experiments, for free(); NULL after a message on stderr.
static struct point *load(const struct request *r, size_t *n) {
  struct point *all = calloc(1, sizeof *all);
  static struct experiment e;
  char err[2048];
  *n = 0;
  for (int i = 0; i < r->n_exps && all; i++) {
    struct point *points = NULL, *more = NULL;
    size_t count = 0;
    bool ok = !exp_load(&e, r->exps[i], r->profile, err, sizeof err);
    for (int s = 0; ok && s < r->n_sets; s++) {
      char key[64];
      snprintf(key, sizeof key, "%.*s", (int)strcspn(r->sets[s], "="), r->sets[s]);
      ok = !exp_set(&e, key, strchr(r->sets[s], '=') + 1, err, sizeof err);
    }
    ok = ok && !exp_points(&e, &points, &count, err, sizeof err);
    if (ok)
      more = realloc(all, (*n + count + 1) * sizeof *all);
    if (!more) {
      bad(ok ? "out of memory" : err);
      free(points);
      free(all);
      return NULL;
    }
    all = more;
    memcpy(all + *n, points, count * sizeof *all);
    *n += count;
    free(points);
  }
  return all;
}

// PROFILE.env.json beside the rows; the one that was there is replaced.
static int write_env(const char *path, enum attn_place place) {
  char name[STORE_PATH], new_name[STORE_PATH + 8];
  const char *dot = strrchr(path, '.');
  snprintf(name, sizeof name, "%.*s.env.json", (int)(dot - path), path);
  snprintf(new_name, sizeof new_name, "%s.new", name);
  char *json = env_json(place);
  FILE *f = json ? fopen(new_name, "we") : NULL;
  const bool written = f && fputs(json, f) >= 0 && fputc('\n', f) >= 0 && !fflush(f);
  if (f)
    fclose(f);
  free(json);
  if (written && !rename(new_name, name))
    return 0;
  fprintf(stderr, "longca run: %s: %s.\n", name, strerror(errno));
  remove(new_name);
  return -1;
}

static void print_plan(const struct request *r, const struct point *points, size_t n,
                       const struct runner_summary *sum, const char *path) {
  for (size_t i = 0; r->list && i < n; i++) {
    char text[256];
    struct row row;
    point_to_row(&points[i], &row);
    if (!filter_match(&r->only, &row))
      continue;
    printf("%s: %s%s%s\n", points[i].exp, point_describe(&points[i], text, sizeof text),
           *points[i].left_out ? "  left out: " : "", points[i].left_out);
  }
  char duration[32];
  printf("%zu points, %zu measured before, %zu to measure in about %s (%.1f minutes); rows in %s\n",
         sum->points, sum->there, sum->points - sum->there,
         progress_duration(sum->expected_s, duration, sizeof duration), sum->expected_s / 60, path);
}

static int report(const struct runner_summary *sum, const struct runner_options *o) {
  if (!o->quiet) {
    printf("%zu points, %zu measured before, %zu now:", sum->points, sum->there, sum->measured);
    for (int s = 0; s < ROW_STATUSES; s++)
      if (s == ROW_OK || sum->by_status[s])
        printf(" %zu %s", sum->by_status[s], row_status_names[s]);
    if (sum->left)
      printf(", %zu left for want of time", sum->left);
    printf("; rows in %s\n", o->path);
  }
  return sum->by_status[ROW_WRONG] || sum->by_status[ROW_CRASH] ? 1 : 0;
}

// Waiting threads sleep instead of spinning: on a machine that does anything else, spinning costs the
// others a time slice at every barrier, and us their answer (measured with 7 runnable processes on 2
// cores: medians 20 to 30 times longer; on a free machine no difference). libgomp reads this variable
// when it is loaded, so the program starts itself again.
static void wait_passively(int argc, char **argv) {
  if (getenv("OMP_WAIT_POLICY"))
    return;
  setenv("OMP_WAIT_POLICY", "passive", 1);
  char **again = calloc((size_t)argc + 2, sizeof *again);
  if (!again)
    return;
  again[0] = "longca";
  memcpy(again + 1, argv, (size_t)argc * sizeof *argv);
  execv("/proc/self/exe", again);
  free(again); // without /proc we go on as we are
}

int cmd_run(int argc, char **argv) {
  wait_passively(argc, argv);
  static struct request r;
  r = (struct request){0};
  const int parsed = parse(&r, argc, argv);
  if (parsed)
    return parsed == 1 ? 0 : parsed;
  if (!r.profile)
    r.profile = env_gpu_count() > 0 ? "quick" : "cpu";
  size_t n;
  struct point *points = load(&r, &n);
  if (!points)
    return 2;
  const enum attn_place place = n ? points[0].place : ATTN_HOST;
  place_of(place); // before the first fork
  char machine[96], path[STORE_PATH], err[1024];
  if (r.machine)
    setenv("LONGCA_MACHINE", r.machine, 1);
  env_machine(place, machine, sizeof machine);
  if (r.data)
    snprintf(path, sizeof path, "%s/%s/%s.csv", r.data, machine, r.profile);
  else
    snprintf(path, sizeof path, "%s/data/fresh/%s/%s.csv", exp_root(), machine, r.profile);
  const struct runner_options o = {.path = path,
                                   .machine = machine,
                                   .commit = env_commit(),
                                   .only = &r.only,
                                   .retry = r.retry,
                                   .together = r.together,
                                   .dry_run = r.dry_run,
                                   .quiet = r.quiet,
                                   .limit_s = r.limit_s,
                                   .stop_s = 60 * r.minutes,
                                   .measure = measure_point};
  if (place == ATTN_DEVICE && !r.dry_run && env_gpu_count() < 1) {
    fprintf(
        stderr,
        "longca run: profile '%s' measures on a GPU, and there is none that this build can use; "
        "--profile cpu needs none, make check-env says what is missing.\n",
        r.profile);
    free(points);
    return 2;
  }
  struct runner_summary sum;
  int status = 0;
  if (runner_run(points, n, &o, &sum, err, sizeof err)) {
    fprintf(stderr, "longca run: %s.\n", err);
    status = 1;
  } else if (r.dry_run) {
    print_plan(&r, points, n, &sum, path);
  } else {
    status = report(&sum, &o);
  }
  if (!r.dry_run && sum.measured && write_env(path, place))
    status = 1;
  free(points);
  return status;
}
