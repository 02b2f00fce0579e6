// list_support.c -- `longca list support`: which kernel runs which mask (tables 1 and 2).
//
// Each kernel's supports() is asked about a mask that was drawn, so the answer is what a run will meet:
// yes, forward alone, or a reason by number with the sentences below.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cmd_list.h"
#include "mask_draw.h"

enum { SUPPORT_SEQLEN = 2048, SUPPORT_DIM = 128 }; // a length that all kinds can be drawn at

// The rows of the support table: every kind; the uniform blocks in both sizes that the study runs.
static const struct support_mask {
  enum mask_kind kind;
  int32_t block;
} support_masks[] = {
    {MASK_FULL, 0},
    {MASK_CAUSAL, 0},
    {MASK_SLIDING_WINDOW, 0},
    {MASK_SLIDING_WINDOW_CAUSAL, 0},
    {MASK_FULL_DOCUMENT, 0},
    {MASK_CAUSAL_DOCUMENT, 0},
    {MASK_SHARE_QUESTION, 0},
    {MASK_CAUSAL_BLOCKWISE, 0},
    {MASK_GLOBAL_SLIDING_WINDOW, 0},
    {MASK_PREFIX_LM_CAUSAL, 0},
    {MASK_PREFIX_LM_DOCUMENT, 0},
    {MASK_BLOCK_CAUSAL_DOCUMENT, 0},
    {MASK_FULL_DOCUMENT_LONG, 0},
    {MASK_CAUSAL_DOCUMENT_LONG, 0},
    {MASK_UNIFORM_BLOCK_SPARSE, 64},
    {MASK_UNIFORM_BLOCK_SPARSE, 128},
    {MASK_VARIABLE_BLOCK_SPARSE, 256},
};
enum { SUPPORT_MASKS = sizeof support_masks / sizeof *support_masks, REASONS_MAX = 64 };

// Reasons met so far; a cell names them by number.
struct reasons {
  char *text[REASONS_MAX];
  int n;
};

static int reason_number(struct reasons *reasons, const char *why) {
  int i = 0;
  while (i < reasons->n && strcmp(reasons->text[i], why))
    i++;
  if (i == reasons->n && i < REASONS_MAX) {
    reasons->text[i] = strdup(why);
    reasons->n++;
  }
  return i + 1;
}

static void support_cells(struct table *t, const struct list_request *r,
                          const struct attn_kernel *k, const struct mask *m,
                          struct reasons *reasons) {
  struct attn_problem problem = {.mask = m,
                                 .dtype = ATTN_BF16,
                                 .heads_q = r->heads_q,
                                 .heads_kv = r->heads_kv,
                                 .dim = SUPPORT_DIM,
                                 .rows_q = m->seqlen,
                                 .rows_k = m->seqlen};
  char forward[256], backward[256]; // copied: a sentence may live in a buffer of the kernel's
  const char *why = attn_why_not(k, &problem);
  snprintf(forward, sizeof forward, "%s", why ? why : "");
  problem.backward = true;
  why = attn_why_not(k, &problem);
  snprintf(backward, sizeof backward, "%s", why ? why : "");
  if (r->format == TABLE_CSV) {
    table_add(t, "%s", mask_name(m->kind));
    table_add(t, "%d", m->heads ? m->block : 0);
    table_add(t, "%s", k->name);
    table_add(t, "%s", list_place(k->place));
    table_add(t, "%s", *forward ? "no" : "yes");
    table_add(t, "%s", *backward ? "no" : "yes");
    table_add(t, "%s", *forward ? forward : backward);
  } else if (*forward)
    table_add(t, "[%d]", reason_number(reasons, forward));
  else if (*backward)
    table_add(t, "fwd [%d]", reason_number(reasons, backward));
  else
    table_add(t, "yes");
}

static int support_rows(struct table *t, const struct list_request *r, enum attn_place place,
                        struct reasons *reasons) {
  for (int i = 0; i < SUPPORT_MASKS; i++) {
    const struct mask_recipe recipe = {.kind = support_masks[i].kind,
                                       .seqlen = SUPPORT_SEQLEN,
                                       .block = support_masks[i].block,
                                       .heads_kv = r->heads_kv,
                                       .ratio = 0.5};
    struct mask m;
    char err[256];
    if (mask_draw_nth(&m, 42, 0, &recipe, err, sizeof err)) {
      fprintf(stderr, "longca list: %s.\n", err);
      return 1;
    }
    if (r->format != TABLE_CSV) {
      char block[16] = "";
      if (m.heads)
        snprintf(block, sizeof block, " %d", m.block);
      table_add(t, "%s%s", mask_name(m.kind), block);
    }
    for (int k = 0; attn_kernels[k]; k++)
      if (attn_kernels[k]->place == place)
        support_cells(t, r, attn_kernels[k], &m, reasons);
    mask_free(&m);
  }
  return 0;
}

// One table a place; as CSV one row a mask and kernel.
int list_support(const struct list_request *r) {
  static const char *const columns[] = {"mask",    "block",    "kernel", "place",
                                        "forward", "backward", "reason"};
  const bool csv = r->format == TABLE_CSV;
  struct reasons reasons = {.n = 0};
  int status = 0, tables = 0;
  for (int place = ATTN_HOST; place <= ATTN_DEVICE && !status; place++) {
    int kernels = 0;
    for (int k = 0; attn_kernels[k]; k++)
      kernels += (int)attn_kernels[k]->place == place;
    if (!kernels)
      continue;
    char title[128];
    snprintf(title, sizeof title, "Support on the %s, %d:%d heads, head dimension %d, bf16",
             list_place((enum attn_place)place), r->heads_q, r->heads_kv, SUPPORT_DIM);
    list_title(r, title);
    struct table t = table_new(csv ? 7 : kernels + 1);
    if (!csv)
      table_add(&t, "mask");
    for (int k = 0; !csv && attn_kernels[k]; k++)
      if ((int)attn_kernels[k]->place == place)
        table_add(&t, "%s", attn_kernels[k]->name);
    for (int c = 0; csv && !tables && c < 7; c++) // one header a file
      table_add(&t, "%s", columns[c]);
    tables++;
    status = support_rows(&t, r, (enum attn_place)place, &reasons);
    table_print(&t, r->format, stdout);
    table_free(&t);
    if (!csv)
      putchar('\n');
  }
  if (!csv)
    puts("yes: forward and backward; fwd: forward alone. Numbers stand for:");
  for (int i = 0; i < reasons.n; i++) {
    printf("%s[%d] %s\n", r->format == TABLE_MD ? "- " : "  ", i + 1, reasons.text[i]);
    free(reasons.text[i]);
  }
  return status;
}
