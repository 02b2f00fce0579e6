// mask.c -- names, parameters and row spans of the masks (study 1.1, 1.3).
#include "mask.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// kind, code id, abbreviation, sentence
#define MASKS(M) \
  M(FULL, "full", "F", "every query sees every key") \
  M(CAUSAL, "causal", "C", "a query sees the keys up to itself") \
  M(SLIDING_WINDOW, "sliding_window", "FSW", "a query sees the keys at most w before or after it") \
  M(SLIDING_WINDOW_CAUSAL, "sliding_window_causal", "CSW", \
    "a query sees itself and the w keys before it") \
  M(FULL_DOCUMENT, "full_document", "FD", "a query sees its own document") \
  M(CAUSAL_DOCUMENT, "causal_document", "CD", "a query sees its own document up to itself") \
  M(SHARE_QUESTION, "share_question", "SQ", \
    "causal documents; every answer also sees the first document, the question") \
  M(CAUSAL_BLOCKWISE, "causal_blockwise", "CB", \
    "causal documents; the last one, the test, also sees all before it") \
  M(GLOBAL_SLIDING_WINDOW, "global_sliding_window", "GS", \
    "window of g to both sides; the first g tokens see all and are seen by all") \
  M(PREFIX_LM_CAUSAL, "prefix_lm_causal", "PLC", "causal; the first p keys are seen by all") \
  M(PREFIX_LM_DOCUMENT, "prefix_lm_document", "PLD", \
    "causal documents; the first p keys of each are seen by all of it") \
  M(BLOCK_CAUSAL_DOCUMENT, "block_causal_document", "BCD", \
    "a query sees its own document up to the end of its block") \
  M(FULL_DOCUMENT_LONG, "full_document_long", "FDL", "FD with 6 of 10 tokens in long documents") \
  M(CAUSAL_DOCUMENT_LONG, "causal_document_long", "CDL", \
    "CD with 6 of 10 tokens in long documents") \
  M(UNIFORM_BLOCK_SPARSE, "uniform_block_sparse", "UBS", \
    "a block of queries sees a given number of key blocks, all blocks of one size") \
  M(VARIABLE_BLOCK_SPARSE, "variable_block_sparse", "VBS", \
    "a block of queries sees a given number of key blocks, sizes drawn at random")

static const struct {
  const char *name, *abbreviation, *summary;
} masks[MASK_KINDS] = {
#define ENTRY(kind, name, abbreviation, summary) [MASK_##kind] = {name, abbreviation, summary},
    MASKS(ENTRY)
#undef ENTRY
};

const char *mask_name(enum mask_kind kind) { return masks[kind].name; }
const char *mask_abbreviation(enum mask_kind kind) { return masks[kind].abbreviation; }
const char *mask_summary(enum mask_kind kind) { return masks[kind].summary; }

int mask_parse(const char *name) {
  for (int kind = 0; kind < MASK_KINDS; kind++)
    if (!strcmp(masks[kind].name, name))
      return kind;
  return -1;
}

const char *mask_names(void) {
#define LISTED(kind, name, abbreviation, summary) ", " name
  return &MASKS(LISTED)[2];
#undef LISTED
}

bool mask_has_docs(enum mask_kind kind) {
  switch (kind) {
  case MASK_FULL_DOCUMENT:
  case MASK_CAUSAL_DOCUMENT:
  case MASK_SHARE_QUESTION:
  case MASK_CAUSAL_BLOCKWISE:
  case MASK_PREFIX_LM_DOCUMENT:
  case MASK_BLOCK_CAUSAL_DOCUMENT:
  case MASK_FULL_DOCUMENT_LONG:
  case MASK_CAUSAL_DOCUMENT_LONG:
    return true;
  default:
    return false;
  }
}

bool mask_is_block_sparse(enum mask_kind kind) {
  return kind == MASK_UNIFORM_BLOCK_SPARSE || kind == MASK_VARIABLE_BLOCK_SPARSE;
}

static int fail(char *err, size_t err_size, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static int fail(char *err, size_t err_size, const char *format, ...) {
  if (err && err_size) {
    va_list ap;
    va_start(ap, format);
    vsnprintf(err, err_size, format, ap);
    va_end(ap);
  }
  return -1;
}

// First unmet condition on the parameters that the kind uses, else 0.
static int check(enum mask_kind kind, int32_t seqlen, const int32_t *lengths, int32_t docs,
                 int32_t window, int32_t prefix, int32_t block, char *err, size_t err_size) {
  if ((int)kind < 0 || kind >= MASK_KINDS)
    return fail(err, err_size, "mask kind %d does not exist", (int)kind);
  const char *name = mask_name(kind);
  if (mask_is_block_sparse(kind))
    return fail(err, err_size, "%s: its pattern is drawn (mask_draw.h), not given", name);
  if (seqlen < 1)
    return fail(err, err_size, "%s: a sequence has at least 1 token, not %d", name, seqlen);
  if (mask_has_docs(kind)) {
    int64_t sum = 0;
    for (int32_t i = 0; i < docs; i++) {
      if (lengths[i] < 1)
        return fail(err, err_size, "%s: document %d has %d tokens", name, i, lengths[i]);
      sum += lengths[i];
    }
    if (sum != seqlen)
      return fail(err, err_size, "%s: the documents have %lld tokens, the sequence %d", name,
                  (long long)sum, seqlen);
  }
  switch (kind) {
  case MASK_SLIDING_WINDOW:
  case MASK_SLIDING_WINDOW_CAUSAL:
  case MASK_GLOBAL_SLIDING_WINDOW:
    return window >= 0 ? 0 : fail(err, err_size, "%s: the window %d is negative", name, window);
  case MASK_PREFIX_LM_CAUSAL:
  case MASK_PREFIX_LM_DOCUMENT:
    return prefix >= 0 ? 0 : fail(err, err_size, "%s: the prefix %d is negative", name, prefix);
  case MASK_BLOCK_CAUSAL_DOCUMENT:
    return block >= 1 ? 0 : fail(err, err_size, "%s: a block of %d tokens", name, block);
  default:
    return 0;
  }
}

int mask_init(struct mask *m, enum mask_kind kind, int32_t seqlen, const int32_t *lengths,
              int32_t docs, int32_t window, int32_t prefix, int32_t block, char *err,
              size_t err_size) {
  memset(m, 0, sizeof *m);
  if (check(kind, seqlen, lengths, docs, window, prefix, block, err, err_size))
    return -1;
  if (!mask_has_docs(kind)) {
    lengths = &seqlen;
    docs = 1;
  }
  m->kind = kind;
  m->seqlen = seqlen;
  m->docs = docs;
  m->window = window;
  m->prefix = prefix;
  m->block = block;
  int32_t *begin = malloc(((size_t)docs + 1) * sizeof *begin);
  int32_t *of = malloc((size_t)seqlen * sizeof *of);
  m->doc_begin = begin;
  m->doc_of = of;
  if (!begin || !of) {
    mask_free(m);
    return fail(err, err_size, "%s: out of memory for %d tokens", mask_name(kind), seqlen);
  }
  begin[0] = 0;
  for (int32_t doc = 0; doc < docs; doc++) {
    begin[doc + 1] = begin[doc] + lengths[doc];
    for (int32_t x = begin[doc]; x < begin[doc + 1]; x++)
      of[x] = doc;
  }
  return 0;
}

void mask_free(struct mask *m) {
  free((void *)m->doc_begin);
  free((void *)m->doc_of);
  free((void *)m->row_begin);
  free((void *)m->col_begin);
  free((void *)m->kept);
  memset(m, 0, sizeof *m);
}

static int64_t min64(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t max64(int64_t a, int64_t b) { return a > b ? a : b; }

// The span [begin, end) cut to the sequence; joins the one before it when they touch. Returns how many.
static int add_span(struct mask_span *spans, int n, int64_t begin, int64_t end, int64_t seqlen) {
  begin = max64(begin, 0);
  end = min64(end, seqlen);
  if (begin >= end)
    return n;
  if (n && begin <= spans[n - 1].end) {
    spans[n - 1].end = (int32_t)max64(end, spans[n - 1].end);
    return n;
  }
  spans[n].begin = (int32_t)begin;
  spans[n].end = (int32_t)end;
  return n + 1;
}

int mask_row_spans(const struct mask *m, int32_t q, struct mask_span spans[MASK_SPANS_MAX]) {
  const int64_t size = m->seqlen, w = m->window, next = (int64_t)q + 1;
  const int32_t doc = m->doc_of[q];
  const int64_t begin = m->doc_begin[doc], end = m->doc_begin[doc + 1];
  int n = 0;
  switch (m->kind) {
  case MASK_FULL:
    return add_span(spans, 0, 0, size, size);
  case MASK_CAUSAL:
    return add_span(spans, 0, 0, next, size);
  case MASK_SLIDING_WINDOW:
    return add_span(spans, 0, q - w, next + w, size);
  case MASK_SLIDING_WINDOW_CAUSAL:
    return add_span(spans, 0, q - w, next, size);
  case MASK_GLOBAL_SLIDING_WINDOW:
    if (q < w)
      return add_span(spans, 0, 0, size, size);
    n = add_span(spans, 0, 0, w, size);
    return add_span(spans, n, q - w, next + w, size);
  case MASK_PREFIX_LM_CAUSAL:
    return add_span(spans, 0, 0, max64(next, m->prefix), size);
  case MASK_FULL_DOCUMENT:
  case MASK_FULL_DOCUMENT_LONG:
    return add_span(spans, 0, begin, end, size);
  case MASK_CAUSAL_DOCUMENT:
  case MASK_CAUSAL_DOCUMENT_LONG:
    return add_span(spans, 0, begin, next, size);
  case MASK_SHARE_QUESTION:
    n = add_span(spans, 0, 0, doc ? m->doc_begin[1] : 0, size);
    return add_span(spans, n, begin, next, size);
  case MASK_CAUSAL_BLOCKWISE:
    return add_span(spans, 0, doc == m->docs - 1 ? 0 : begin, next, size);
  case MASK_PREFIX_LM_DOCUMENT:
    return add_span(spans, 0, begin, min64(end, max64(next, begin + m->prefix)), size);
  case MASK_BLOCK_CAUSAL_DOCUMENT:
    return add_span(spans, 0, begin, min64(end, (q / m->block + INT64_C(1)) * m->block), size);
  default:
    return 0; // block-sparse masks: any number of spans
  }
}
