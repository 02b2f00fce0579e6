// mask.c -- names, parameters, row spans, exact areas and pictures of the masks (study 1.3, 5.1, 5.2).
//
// In every mask but the block-sparse ones, the keys that row q sees begin and end at positions that
// are constant or move with q, so a range of rows sums in closed form, document by document:
//   sum over q of clamp(q + shift, low, high)      (sum_clamped)
// BLOCK CAUSAL moves in steps of a block and is summed block by block. Sums are exact in int64.
#include "mask.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// kind, code id, abbreviation, sentence
#define MASKS(M)                                                                                      \
  M(FULL, "full", "F", "every query sees every key")                                                  \
  M(CAUSAL, "causal", "C", "a query sees the keys up to itself")                                      \
  M(SLIDING_WINDOW, "sliding_window", "FSW", "a query sees the keys at most w before or after it")    \
  M(SLIDING_WINDOW_CAUSAL, "sliding_window_causal", "CSW",                                            \
    "a query sees itself and the w keys before it")                                                   \
  M(FULL_DOCUMENT, "full_document", "FD", "a query sees its own document")                            \
  M(CAUSAL_DOCUMENT, "causal_document", "CD", "a query sees its own document up to itself")           \
  M(SHARE_QUESTION, "share_question", "SQ",                                                           \
    "causal documents; every answer also sees the first document, the question")                      \
  M(CAUSAL_BLOCKWISE, "causal_blockwise", "CB",                                                       \
    "causal documents; the last one, the test, also sees all before it")                              \
  M(GLOBAL_SLIDING_WINDOW, "global_sliding_window", "GS",                                             \
    "window of g to both sides; the first g tokens see all and are seen by all")                      \
  M(PREFIX_LM_CAUSAL, "prefix_lm_causal", "PLC", "causal; the first p keys are seen by all")          \
  M(PREFIX_LM_DOCUMENT, "prefix_lm_document", "PLD",                                                  \
    "causal documents; the first p keys of each are seen by all of it")                               \
  M(BLOCK_CAUSAL_DOCUMENT, "block_causal_document", "BCD",                                            \
    "a query sees its own document up to the end of its block")                                       \
  M(FULL_DOCUMENT_LONG, "full_document_long", "FDL", "FD with 6 of 10 tokens in long documents")      \
  M(CAUSAL_DOCUMENT_LONG, "causal_document_long", "CDL", "CD with 6 of 10 tokens in long documents")  \
  M(UNIFORM_BLOCK_SPARSE, "uniform_block_sparse", "UBS",                                              \
    "a block of queries sees a given number of key blocks, all blocks of one size")                   \
  M(VARIABLE_BLOCK_SPARSE, "variable_block_sparse", "VBS",                                            \
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
              int32_t docs, int32_t window, int32_t prefix, int32_t block, char *err, size_t err_size) {
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
static int64_t clamp(int64_t x, int64_t low, int64_t high) { return max64(low, min64(x, high)); }

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

// Sum over x in [begin, end) of clamp(x + shift, low, high), low <= high.
static int64_t sum_clamped(int64_t begin, int64_t end, int64_t shift, int64_t low, int64_t high) {
  if (begin >= end)
    return 0;
  const int64_t ramp = clamp(low - shift, begin, end);  // before it: low
  const int64_t flat = clamp(high - shift, ramp, end);  // from it on: high
  const int64_t n = flat - ramp, first = ramp + shift;
  return (ramp - begin) * low + n * first + n * (n - 1) / 2 + (end - flat) * high;
}

// Pairs of the rows [from, to), which lie in document `doc`.
static int64_t doc_area(const struct mask *m, int32_t doc, int64_t from, int64_t to) {
  const int64_t begin = m->doc_begin[doc], end = m->doc_begin[doc + 1], length = end - begin;
  const int64_t causal = sum_clamped(from, to, 1 - begin, 0, length);
  switch (m->kind) {
  case MASK_FULL_DOCUMENT:
  case MASK_FULL_DOCUMENT_LONG:
    return (to - from) * length;
  case MASK_SHARE_QUESTION:
    return causal + (doc ? (to - from) * m->doc_begin[1] : 0);
  case MASK_CAUSAL_BLOCKWISE:
    return causal + (doc == m->docs - 1 ? (to - from) * begin : 0);
  case MASK_PREFIX_LM_DOCUMENT:
    return sum_clamped(from, to, 1 - begin, min64(m->prefix, length), length);
  case MASK_BLOCK_CAUSAL_DOCUMENT: {
    int64_t area = 0;
    for (int64_t q = from; q < to;) {
      const int64_t block_end = (q / m->block + 1) * m->block, next = min64(block_end, to);
      area += (next - q) * (min64(block_end, end) - begin);
      q = next;
    }
    return area;
  }
  default: // CAUSAL DOCUMENT
    return causal;
  }
}

static double block_sparse_area(const struct mask *m, int32_t from, int32_t to) {
  double area = 0;
  for (int32_t head = 0; head < m->heads; head++) {
    const int32_t *rows = m->row_begin + (int64_t)head * (m->blocks_q + 1);
    const int32_t *cols = m->col_begin + (int64_t)head * (m->blocks_k + 1);
    int64_t pairs = 0;
    for (int32_t r = mask_find(rows, m->blocks_q, from); r < m->blocks_q && rows[r] < to; r++) {
      const uint32_t *kept = m->kept + ((int64_t)head * m->blocks_q + r) * m->kept_words;
      int64_t width = 0;
      for (int32_t c = 0; c < m->blocks_k; c++)
        width += kept[c / 32] >> (c % 32) & 1 ? cols[c + 1] - cols[c] : 0;
      pairs += width * (min64(rows[r + 1], to) - max64(rows[r], from));
    }
    area += (double)pairs / m->heads;
  }
  return area;
}

double mask_area(const struct mask *m) { return mask_area_rows(m, 0, m->seqlen); }

double mask_area_rows(const struct mask *m, int32_t q_begin, int32_t q_end) {
  const int64_t size = m->seqlen, w = m->window, from = max64(q_begin, 0), to = min64(q_end, size);
  if (from >= to)
    return 0;
  switch (m->kind) {
  case MASK_FULL:
    return (double)((to - from) * size);
  case MASK_CAUSAL:
    return (double)sum_clamped(from, to, 1, 0, size);
  case MASK_SLIDING_WINDOW:
    return (double)(sum_clamped(from, to, w + 1, 0, size) - sum_clamped(from, to, -w, 0, size));
  case MASK_SLIDING_WINDOW_CAUSAL:
    return (double)(sum_clamped(from, to, 1, 0, size) - sum_clamped(from, to, -w, 0, size));
  case MASK_GLOBAL_SLIDING_WINDOW: {
    const int64_t global = clamp(w, from, to); // rows before it see all keys, the others the first w too
    return (double)((global - from) * size + (to - global) * w +
                    sum_clamped(global, to, w + 1, w, max64(w, size)) -
                    sum_clamped(global, to, -w, w, max64(w, size)));
  }
  case MASK_PREFIX_LM_CAUSAL:
    return (double)sum_clamped(from, to, 1, min64(m->prefix, size), size);
  case MASK_UNIFORM_BLOCK_SPARSE:
  case MASK_VARIABLE_BLOCK_SPARSE:
    return block_sparse_area(m, (int32_t)from, (int32_t)to);
  default:
    break;
  }
  int64_t area = 0;
  for (int32_t doc = m->doc_of[from]; doc < m->docs && m->doc_begin[doc] < to; doc++)
    area += doc_area(m, doc, max64(from, m->doc_begin[doc]), min64(to, m->doc_begin[doc + 1]));
  return (double)area;
}

// Adds `rows` rows that see the keys [begin, end) to a row of n picture cells.
static void paint(double *cells, int32_t n, int64_t seqlen, int64_t begin, int64_t end, double rows) {
  for (int64_t c = begin * n / seqlen; c < n && c * seqlen / n < end; c++)
    cells[c] += rows * (double)max64(0, min64(end, (c + 1) * seqlen / n) - max64(begin, c * seqlen / n));
}

void mask_picture(const struct mask *m, int32_t head, int32_t n, double *density) {
  const int64_t size = m->seqlen;
  memset(density, 0, sizeof *density * n * n);
  for (int32_t i = 0; i < n; i++) {
    double *cells = density + (int64_t)i * n;
    const int32_t from = (int32_t)(i * size / n), to = (int32_t)((i + 1) * size / n);
    for (int32_t q = from, next; q < to; q = next) {
      next = q + 1;
      if (mask_is_block_sparse(m->kind)) {
        const int32_t *rows = m->row_begin + (int64_t)head * (m->blocks_q + 1);
        const int32_t *cols = m->col_begin + (int64_t)head * (m->blocks_k + 1);
        const int32_t r = mask_find(rows, m->blocks_q, q);
        const uint32_t *kept = m->kept + ((int64_t)head * m->blocks_q + r) * m->kept_words;
        next = (int32_t)min64(rows[r + 1], to);
        for (int32_t c = 0; c < m->blocks_k; c++)
          if (kept[c / 32] >> (c % 32) & 1)
            paint(cells, n, size, cols[c], cols[c + 1], next - q);
      } else {
        struct mask_span spans[MASK_SPANS_MAX];
        const int count = mask_row_spans(m, q, spans);
        for (int s = 0; s < count; s++)
          paint(cells, n, size, spans[s].begin, spans[s].end, 1);
      }
    }
    for (int64_t c = 0; c < n; c++)
      cells[c] /= (double)(to - from) * (double)((c + 1) * size / n - c * size / n);
  }
}
