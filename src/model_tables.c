// model_tables.c -- see model_tables.h.
#include "model_tables.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "cmd.h"
#include "filter.h"
#include "flops.h"
#include "mask_draw.h"
#include "point.h"

enum { SEED = 42 }; // of the drawn masks, as in the experiments

int model_ask(const struct cp_machine *machine, const struct model_point *p,
              struct model_answer *a) {
  struct cp_wish wish;
  const struct cp_schedule *schedule = cp_schedule_find(p->cp, &wish);
  if (!schedule)
    return cmd_refuse("model", "unknown schedule '%s'; longca list strategies names them", p->cp);
  const int draws = mask_has_docs(p->mask) ? p->draws : 1;
  memset(a, 0, sizeof *a);
  for (int draw = 0; draw < draws; draw++) {
    struct mask mask;
    char err[256] = "";
    const struct mask_recipe recipe = {
        .kind = p->mask, .seqlen = p->seqlen, .distributed = true, .heads_kv = p->heads_kv};
    if (mask_draw_nth(&mask, SEED, draw, &recipe, err, sizeof err)) {
      snprintf(a->refusal, sizeof a->refusal, "%s", err);
      return 0;
    }
    const struct attn_problem problem = {.mask = &mask,
                                         .dtype = p->dtype,
                                         .heads_q = p->heads_q,
                                         .heads_kv = p->heads_kv,
                                         .dim = p->dim};
    struct cp_estimate e;
    const char *why = cp_model(machine, schedule, &wish, &problem, p->ranks, p->pass, &e);
    if (!why) {
      a->tflop_s += flops_attention(mask_area(&mask), p->heads_q, p->dim, p->pass) / p->ranks /
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

// Next word of a list, or false. *rest starts as the list.
static bool next_word(const char **rest, char word[64]) {
  *rest += strspn(*rest, ", ");
  const size_t n = strcspn(*rest, ", ");
  snprintf(word, 64, "%.*s", (int)(n < 63 ? n : 63), *rest);
  *rest += n;
  return n > 0;
}

static void add_answer(struct table *t, const struct model_point *p, const struct model_answer *a) {
  table_add(t, "%s", mask_name(p->mask));
  table_add(t, "%s", point_pass_name(p->pass));
  table_add(t, "%s", p->cp);
  table_add(t, "%d", p->ranks);
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

// A word such as 96, which with so many tokens each gives no mask that is too long. 2 after a message.
static int parse_ranks(const char *text, int32_t tokens, int32_t *ranks) {
  double x;
  if (!filter_number(text, &x) || !(x >= 1 && x * tokens <= 1 << 30) || x != floor(x))
    return cmd_refuse("model", "'%s' ranks: expected at least 1, and at most 2^30 tokens in all",
                      text);
  *ranks = (int32_t)x;
  return 0;
}

int model_estimates(const struct model_request *r) {
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
      status = cmd_refuse("model", "unknown mask '%s'; longca list masks names them", mask);
    for (const char *p = r->pass; !status && next_word(&p, pass);) {
      const bool bwd = !strcmp(pass, "bwd");
      if (!bwd && strcmp(pass, "fwd") != 0)
        status = cmd_refuse("model", "unknown pass '%s'; there are fwd and bwd", pass);
      for (const char *n = r->ranks; !status && next_word(&n, ranks);) {
        int32_t size = 0;
        status = parse_ranks(ranks, r->tokens, &size);
        for (const char *c = r->cp; !status && next_word(&c, cp);) {
          const struct model_point point = {.mask = (enum mask_kind)kind,
                                            .pass = bwd ? ATTN_BWD : ATTN_FWD,
                                            .heads_q = r->heads_q,
                                            .heads_kv = r->heads_kv,
                                            .dim = r->dim,
                                            .ranks = size,
                                            .seqlen = r->tokens * size,
                                            .draws = r->draws,
                                            .cp = cp};
          struct model_answer a;
          status = model_ask(&r->machine, &point, &a);
          if (!status)
            add_answer(&t, &point, &a);
        }
      }
    }
  }
  if (!status)
    table_print(&t, r->format, stdout);
  table_free(&t);
  return status;
}
