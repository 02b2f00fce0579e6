// cmd_model.c -- `longca model`: what context parallelism would take on ranks that are not here, how far
// that is from what was measured, and the measurement of a machine's rates and links.
#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../cp/model.h"
#include "calibrate.h"
#include "cmd.h"
#include "cond.h"
#include "flops.h"
#include "mask_draw.h"
#include "point.h"
#include "select.h"
#include "table.h"

static const char help[] =
    "usage: longca model --machine FILE.ini [OPTION...]\n"
    "       longca model --machine FILE.ini --against ROWS.csv...\n"
    "       longca model --calibrate TRANSPORT [--kernel K] [--size RANKS]\n"
    "\n"
    "Time, exposed communication, bytes and memory of a rank for schedules of context "
    "parallelism.\n"
    "--against holds the model against rows that were measured (or data/published/cp.csv); "
    "--calibrate\n"
    "measures a machine file: with `loopback` in this process, with `mpi` and `nccl` under\n"
    "mpirun -n 2 (near links; with two hosts, those far away).\n"
    "\n"
    "  --cp LIST       schedules (default: all); usp:8x12 and loongtrain:8x12x3 give a shape\n"
    "  --ranks LIST    default 8,16,32,64,96\n"
    "  --mask LIST     default full,causal,full_document_long,causal_document_long\n"
    "  --pass LIST     default fwd,bwd\n"
    "  --heads Q:KV    default 64:8       --dim D       default 128\n"
    "  --tokens N      a rank's, default 8K\n"
    "  --draws N       masks with documents: the mean over so many draws, default 4\n"
    "  --node N        ranks of a node, instead of the machine file's\n"
    "  --set KEY=X     another value for a setting of the machine file (repeatable)\n"
    "  --format F      text, md, csv, ...\n";

struct request {
  struct cp_machine machine;
  const char *cp, *ranks, *mask, *pass, *heads, *machine_path, *calibrate, *kernel;
  int32_t heads_q, heads_kv, dim, tokens, draws, size;
  enum table_format format;
};

static int bad(const char *format, const char *what) {
  fputs("longca model: ", stderr);
  fprintf(stderr, format, what);
  fputs(".\n", stderr);
  return 2;
}

// Next word of a list, or false. *rest starts as the list.
static bool next_word(const char **rest, char word[64]) {
  *rest += strspn(*rest, ", ");
  const size_t n = strcspn(*rest, ", ");
  snprintf(word, 64, "%.*s", (int)(n < 63 ? n : 63), *rest);
  *rest += n;
  return n > 0;
}

// ---- estimates ------------------------------------------------------------------------------

struct wanted {
  enum mask_kind mask;
  enum attn_pass pass;
  int32_t heads_q, heads_kv, dim, seqlen, ranks, draws;
  enum attn_dtype dtype;
  const char *cp;
};

struct answer {
  struct cp_estimate mean; // over the draws
  double tflop_s;          // of a rank
  char refusal[256];
};

// Mean over the draws. -1 after a message.
static int ask(const struct cp_machine *machine, const struct wanted *w, struct answer *a) {
  struct cp_wish wish;
  const struct cp_schedule *schedule = cp_schedule_find(w->cp, &wish);
  if (!schedule)
    return bad("unknown schedule '%s'; longca list strategies names them", w->cp);
  const int draws = mask_has_docs(w->mask) ? w->draws : 1;
  memset(a, 0, sizeof *a);
  for (int draw = 0; draw < draws; draw++) {
    struct mask mask;
    char err[256] = "";
    const struct mask_recipe recipe = {
        .kind = w->mask, .seqlen = w->seqlen, .distributed = true, .heads_kv = w->heads_kv};
    if (mask_draw_nth(&mask, 42, draw, &recipe, err, sizeof err)) {
      snprintf(a->refusal, sizeof a->refusal, "%s", err);
      return 0;
    }
    const struct attn_problem p = {.mask = &mask,
                                   .dtype = w->dtype,
                                   .heads_q = w->heads_q,
                                   .heads_kv = w->heads_kv,
                                   .dim = w->dim};
    struct cp_estimate e;
    const char *why = cp_model(machine, schedule, &wish, &p, w->ranks, w->pass, &e);
    if (!why) {
      a->tflop_s += flops_attention(mask_area(&mask), w->heads_q, w->dim, w->pass) / w->ranks /
                    e.time_us * 1e-6 / draws;
      a->mean.time_us += e.time_us / draws;
      a->mean.kernel_us += e.kernel_us / draws;
      a->mean.exposed_us += e.exposed_us / draws;
      a->mean.balance = fmax(a->mean.balance, e.balance);
      a->mean.sent_bytes = e.sent_bytes > a->mean.sent_bytes ? e.sent_bytes : a->mean.sent_bytes;
      a->mean.mem_bytes = e.mem_bytes > a->mean.mem_bytes ? e.mem_bytes : a->mean.mem_bytes;
      a->mean.grid = e.grid;
    }
    mask_free(&mask);
    if (why) {
      snprintf(a->refusal, sizeof a->refusal, "%s", why);
      return 0;
    }
  }
  return 0;
}

static void add_answer(struct table *t, const struct wanted *w, const struct answer *a) {
  table_add(t, "%s", mask_name(w->mask));
  table_add(t, "%s", point_pass_name(w->pass));
  table_add(t, "%s", w->cp);
  table_add(t, "%d", w->ranks);
  if (*a->refusal) {
    for (int i = 0; i < 8; i++)
      table_add(t, "-");
    table_add(t, "%s", a->refusal);
    return;
  }
  const struct cp_grid *g = &a->mean.grid;
  table_add(t, "%dx%dx%d", g->heads, g->context, g->windows);
  table_add(t, "%.4g", a->mean.time_us);
  table_add(t, "%.4g", a->mean.kernel_us);
  table_add(t, "%.4g", a->mean.exposed_us);
  table_add(t, "%.4g", a->tflop_s);
  table_add(t, "%.4f", a->mean.balance);
  table_add(t, "%.1f", (double)a->mean.sent_bytes / 1e6);
  table_add(t, "%.1f", (double)a->mean.mem_bytes / 1e6);
  table_add(t, "%s", "");
}

static int print_estimates(const struct request *r) {
  static const char *const heads[] = {"mask",    "pass",      "cp",         "ranks",   "shape",
                                      "time_us", "kernel_us", "exposed_us", "tflop_s", "balance",
                                      "sent_mb", "mem_mb",    "refused"};
  struct table t = table_new(13);
  int status = 0;
  for (int i = 0; i < 13; i++)
    table_add(&t, "%s", heads[i]);
  char mask[64], pass[64], ranks[64], cp[64];
  for (const char *m = r->mask; !status && next_word(&m, mask);) {
    const int kind = mask_parse(mask);
    if (kind < 0)
      status = bad("unknown mask '%s'; longca list masks names them", mask);
    for (const char *p = r->pass; !status && next_word(&p, pass);) {
      if (strcmp(pass, "fwd") != 0 && strcmp(pass, "bwd") != 0)
        status = bad("unknown pass '%s'; there are fwd and bwd", pass);
      for (const char *n = r->ranks; !status && next_word(&n, ranks);)
        for (const char *c = r->cp; !status && next_word(&c, cp);) {
          const struct wanted w = {.mask = (enum mask_kind)kind,
                                   .pass = !strcmp(pass, "bwd") ? ATTN_BWD : ATTN_FWD,
                                   .heads_q = r->heads_q,
                                   .heads_kv = r->heads_kv,
                                   .dim = r->dim,
                                   .ranks = atoi(ranks),
                                   .seqlen = r->tokens * atoi(ranks),
                                   .draws = r->draws,
                                   .cp = cp};
          struct answer a;
          if (w.ranks < 1 || (double)r->tokens * w.ranks > 1 << 30)
            status = bad("'%s' ranks: expected at least 1, and at most 2^30 tokens in all", ranks);
          else if (!(status = ask(&r->machine, &w, &a)))
            add_answer(&t, &w, &a);
        }
    }
  }
  if (!status)
    table_print(&t, r->format, stdout);
  table_free(&t);
  return status;
}

// ---- against rows ---------------------------------------------------------------------------

struct errors {
  double sum, worst;
  int n;
};

static void add_error(struct errors *e, double ratio) {
  const double off = fabs(log(ratio));
  e->sum += off;
  e->worst = off > e->worst ? off : e->worst;
  e->n++;
}

static int against(const struct request *r, char **paths, int n_paths) {
  struct row *rows = NULL;
  size_t n = 0;
  char err[1024];
  if (select_read(paths, n_paths, &rows, &n, err, sizeof err))
    return bad("%s", err);
  // Draws of one point are compared by their mean, so they are asked for once.
  struct table t = table_new(7);
  static const char *const heads[] = {"mask",     "pass",     "cp",   "ranks",
                                      "measured", "modelled", "ratio"};
  for (int i = 0; i < 7; i++)
    table_add(&t, "%s", heads[i]);
  struct errors all = {0};
  int status = 0;
  for (size_t i = 0; i < n && !status; i++) {
    const struct row *row = &rows[i];
    const int kind = mask_parse(row->mask);
    if (kind < 0 || strcmp(row->status, "ok") != 0 || !*row->cp || !strcmp(row->cp, "none"))
      continue;
    double sum = 0;
    int draws = 0;
    bool first = true;
    for (size_t j = 0; j < n; j++) {
      const struct row *other = &rows[j];
      if (strcmp(other->status, "ok") != 0 || strcmp(other->cp, row->cp) != 0 ||
          other->ranks != row->ranks || strcmp(other->mask, row->mask) != 0 ||
          strcmp(other->pass, row->pass) != 0 || other->seqlen != row->seqlen ||
          other->heads_q != row->heads_q || other->heads_kv != row->heads_kv ||
          other->dim != row->dim || strcmp(other->transport, row->transport) != 0 ||
          strcmp(other->kernel, row->kernel) != 0)
        continue;
      first = first && j >= i;
      sum += other->tflop_s;
      draws++;
    }
    if (!first)
      continue;
    const struct wanted w = {.mask = (enum mask_kind)kind,
                             .pass = !strcmp(row->pass, "bwd") ? ATTN_BWD : ATTN_FWD,
                             .heads_q = (int32_t)row->heads_q,
                             .heads_kv = (int32_t)row->heads_kv,
                             .dim = (int32_t)row->dim,
                             .seqlen = (int32_t)row->seqlen,
                             .ranks = (int32_t)row->ranks,
                             .dtype = !strcmp(row->dtype, "fp32") ? ATTN_FP32 : ATTN_BF16,
                             .draws = draws > 1 ? draws : r->draws,
                             .cp = row->cp};
    struct answer a;
    status = ask(&r->machine, &w, &a);
    if (status || *a.refusal)
      continue;
    const double measured = sum / draws;
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
    status = bad("%s", "no row of context parallelism is ok in these files");
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

// ---- command line ---------------------------------------------------------------------------

static int whole(const char *text, int32_t *to) {
  double x;
  if (cond_number(text, &x) && x >= 1 && x <= 1 << 30 && x == floor(x)) {
    *to = (int32_t)x;
    return 0;
  }
  return bad("'%s': expected a whole number of at least 1", text);
}

int cmd_model(int argc, char **argv) {
  static const struct option options[] = {
      {"machine", 1, NULL, 'm'}, {"against", 0, NULL, 'a'}, {"calibrate", 1, NULL, 'c'},
      {"cp", 1, NULL, 's'},      {"ranks", 1, NULL, 'r'},   {"mask", 1, NULL, 'k'},
      {"pass", 1, NULL, 'p'},    {"heads", 1, NULL, 'H'},   {"dim", 1, NULL, 'd'},
      {"tokens", 1, NULL, 't'},  {"draws", 1, NULL, 'n'},   {"node", 1, NULL, 'N'},
      {"set", 1, NULL, 'S'},     {"format", 1, NULL, 'f'},  {"kernel", 1, NULL, 'K'},
      {"size", 1, NULL, 'z'},    {"help", 0, NULL, 'h'},    {0}};
  struct request r = {.cp = "ulysses,ring_p2p,ring_allgather,usp,loongtrain",
                      .ranks = "8,16,32,64,96",
                      .mask = "full,causal,full_document_long,causal_document_long",
                      .pass = "fwd,bwd",
                      .heads_q = 64,
                      .heads_kv = 8,
                      .dim = 128,
                      .tokens = 8192,
                      .draws = 4,
                      .size = 2,
                      .kernel = "fa2"};
  const char *sets[32];
  int n_sets = 0, end = 0;
  bool rows = false;
  int32_t node = 0;
  for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
    int status = 0;
    switch (c) {
    case 'h':
      fputs(help, stdout);
      return 0;
    case 'm':
      r.machine_path = optarg;
      break;
    case 'a':
      rows = true;
      break;
    case 'c':
      r.calibrate = optarg;
      break;
    case 's':
      r.cp = optarg;
      break;
    case 'r':
      r.ranks = optarg;
      break;
    case 'k':
      r.mask = optarg;
      break;
    case 'p':
      r.pass = optarg;
      break;
    case 'K':
      r.kernel = optarg;
      break;
    case 'd':
      status = whole(optarg, &r.dim);
      break;
    case 't':
      status = whole(optarg, &r.tokens);
      break;
    case 'n':
      status = whole(optarg, &r.draws);
      break;
    case 'N':
      status = whole(optarg, &node);
      break;
    case 'z':
      status = whole(optarg, &r.size);
      break;
    case 'H':
      if (sscanf(optarg, "%d:%d%n", &r.heads_q, &r.heads_kv, &end) != 2 || optarg[end] ||
          r.heads_kv < 1 || r.heads_q < 1 || r.heads_q % r.heads_kv)
        status = bad("'%s': expected query heads:KV heads such as 64:8", optarg);
      break;
    case 'S':
      if (n_sets == 32)
        status = bad("%s", "too many --set");
      else
        sets[n_sets++] = optarg;
      break;
    case 'f': {
      const int format = table_format_parse(optarg);
      if (format < 0)
        status = bad("unknown format '%s'; the formats are text md tex html csv", optarg);
      r.format = (enum table_format)format;
      break;
    }
    default:
      return 2;
    }
    if (status)
      return status;
  }
  if (r.calibrate)
    return calibrate(&(struct calibrate_request){.transport = r.calibrate,
                                                 .kernel = r.kernel,
                                                 .ranks = r.size,
                                                 .heads_q = r.heads_q,
                                                 .heads_kv = r.heads_kv,
                                                 .dim = r.dim});
  if (!r.machine_path)
    return bad("%s", "which machine? --machine FILE.ini (experiments/cluster/h100.ini, or one made "
                     "by --calibrate)");
  char err[1024];
  if (cp_machine_read(&r.machine, r.machine_path, err, sizeof err))
    return bad("%s", err);
  for (int i = 0; i < n_sets; i++)
    if (cp_machine_set(&r.machine, sets[i], err, sizeof err))
      return bad("%s", err);
  if (node)
    r.machine.node = node;
  if (rows && optind == argc)
    return bad(
        "%s",
        "which rows? --against FILE.csv (data/fresh/MACHINE/PROFILE.csv, data/published/cp.csv)");
  if (!rows && optind < argc)
    return bad("unexpected '%s'; rows are given after --against", argv[optind]);
  return rows ? against(&r, argv + optind, argc - optind) : print_estimates(&r);
}
