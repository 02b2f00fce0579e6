// point.c -- points as rows, keys and text. A row's key is made of its own columns alone, so rows
// that another program or version wrote are recognised as well.
#include "point.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "../kernels/attn.h"

struct mask_recipe point_recipe(const struct point *p) {
  return (struct mask_recipe){.kind = p->mask,
                              .seqlen = p->seqlen,
                              .histogram = *p->histogram ? p->histogram : NULL,
                              .heads_kv = p->heads_kv,
                              .window = p->window,
                              .block = p->block,
                              .ratio = p->ratio};
}

struct attn_problem point_problem(const struct point *p, const struct mask *mask) {
  return (struct attn_problem){.mask = mask,
                               .dtype = p->dtype,
                               .heads_q = p->heads_q,
                               .heads_kv = p->heads_kv,
                               .dim = p->dim,
                               .rows_q = p->seqlen,
                               .rows_k = p->seqlen,
                               .backward = p->pass == ATTN_BWD,
                               .deterministic = p->deterministic};
}

bool point_parse_heads(const char *text, int32_t *heads_q, int32_t *heads_kv) {
  int end = 0;
  return sscanf(text, "%d:%d%n", heads_q, heads_kv, &end) == 2 && !text[end] && *heads_kv >= 1 &&
         *heads_q >= *heads_kv && *heads_q <= 1024 && *heads_q % *heads_kv == 0;
}

const char *point_pass_name(enum attn_pass pass) { return pass == ATTN_BWD ? "bwd" : "fwd"; }
const char *point_pass_text(const struct point *p) {
  return p->pass == ATTN_BWD && p->deterministic ? "bwd_det" : point_pass_name(p->pass);
}
const char *point_dtype_name(enum attn_dtype dtype) { return dtype == ATTN_FP32 ? "fp32" : "bf16"; }
const char *point_place_name(enum attn_place place) {
  return place == ATTN_DEVICE ? "device" : "host";
}

static bool has_window(enum mask_kind kind) {
  return kind == MASK_SLIDING_WINDOW || kind == MASK_SLIDING_WINDOW_CAUSAL;
}

static bool has_block(enum mask_kind kind) {
  return kind == MASK_BLOCK_CAUSAL_DOCUMENT || mask_is_block_sparse(kind);
}

bool point_is_cp(const struct point *p) { return *p->cp && strcmp(p->cp, "none") != 0; }

void point_normalise(struct point *p) {
  if (!has_window(p->mask))
    p->window = 0;
  if (!has_block(p->mask))
    p->block = 0;
  if (!mask_is_block_sparse(p->mask))
    p->ratio = 0;
  const bool docs = mask_has_docs(p->mask);
  if (!docs)
    *p->histogram = 0;
  else if (!*p->histogram)
    snprintf(p->histogram, sizeof p->histogram, "%s",
             mask_histogram_for(p->seqlen, point_is_cp(p)));
  if (!point_is_cp(p)) {
    snprintf(p->cp, sizeof p->cp, "none");
    snprintf(p->transport, sizeof p->transport, "none");
    p->ranks = 1;
  }
}

static double or_nan(bool applies, double x) { return applies ? x : NAN; }

void point_to_row(const struct point *p, struct row *row) {
  row_clear(row);
  const struct attn_kernel *kernel = attn_find(p->kernel, p->place);
  snprintf(row->exp, sizeof row->exp, "%s", p->exp);
  snprintf(row->profile, sizeof row->profile, "%s", p->profile);
  snprintf(row->mask, sizeof row->mask, "%s", mask_name(p->mask));
  snprintf(row->kernel, sizeof row->kernel, "%s", p->kernel);
  snprintf(row->rep, sizeof row->rep, "%s", kernel ? kernel->rep : "");
  snprintf(row->engine, sizeof row->engine, "%s",
           kernel                  ? kernel->engine
           : p->place == ATTN_HOST ? "cpu"
                                   : "");
  snprintf(row->pass, sizeof row->pass, "%s", point_pass_text(p));
  snprintf(row->dtype, sizeof row->dtype, "%s", point_dtype_name(p->dtype));
  snprintf(row->histogram, sizeof row->histogram, "%s", p->histogram);
  const bool cp = point_is_cp(p);
  snprintf(row->cp, sizeof row->cp, "%s", cp ? p->cp : "none");
  snprintf(row->transport, sizeof row->transport, "%s", cp ? p->transport : "none");
  row->batch = 1;
  row->ranks = cp ? p->ranks : 1;
  row->heads_q = p->heads_q;
  row->heads_kv = p->heads_kv;
  row->dim = p->dim;
  row->seqlen = p->seqlen;
  row->window = or_nan(has_window(p->mask), p->window);
  row->block = or_nan(has_block(p->mask), p->block);
  row->ratio = or_nan(mask_is_block_sparse(p->mask), p->ratio);
  row->seed = (double)p->seed;
  row->draw = p->draw;
}

const char *point_key(const struct row *row, char key[POINT_KEY]) {
  const int kind = mask_parse(row->mask);
  const bool known = kind >= 0;
  // Drawn values (documents, prefix, the window of GLOBAL SLIDING) follow from seed and draw.
  const bool window = known && has_window(kind), block = known && has_block(kind);
  const bool ratio = known && mask_is_block_sparse(kind), docs = known && mask_has_docs(kind);
  snprintf(key, POINT_KEY,
           "%.40s|%.30s|%.30s|%s|%.8s|%.4s|%.0f|%.0f:%.0f|%.0f|%.0f|%.0f|%.0f|%.6g|%.20s|%.0f|%.0f|"
           "%.20s|%.20s|%.0f",
           row->profile, row->mask, row->kernel, strcmp(row->engine, "cpu") ? "device" : "host",
           row->pass, row->dtype, row->batch, row->heads_q, row->heads_kv, row->dim, row->seqlen,
           window ? row->window : 0, block ? row->block : 0, ratio ? row->ratio : 0,
           docs ? row->histogram : "", row->seed, row->draw, row->cp, row->transport, row->ranks);
  return key;
}

const char *point_describe(const struct point *p, char *buf, size_t size) {
  char extra[48] = "", ranks[2 * POINT_NAME + 32] = "";
  if (mask_is_block_sparse(p->mask))
    snprintf(extra, sizeof extra, " block %d ratio %g", p->block, p->ratio);
  if (point_is_cp(p))
    snprintf(ranks, sizeof ranks, " %s on %d ranks, %s", p->cp, p->ranks, p->transport);
  snprintf(buf, size, "%s %s %d:%d d%d S=%d%s %s%s draw %d", mask_name(p->mask), point_pass_text(p),
           p->heads_q, p->heads_kv, p->dim, p->seqlen, extra, p->kernel, ranks, p->draw);
  return buf;
}
