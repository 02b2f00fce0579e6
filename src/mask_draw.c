// mask_draw.c -- seeded masks: document lengths from a histogram, parameters, block-sparse patterns.
//
// Document lengths follow study 2.2: bins are picked by weight, the length is uniform in the bin with
// both ends included, and the last document is cut. The order of the draws is that of study 1.4.
#include "mask_draw.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { WINDOW = 1024, BCD_BLOCK = 1024, UNIFORM_BLOCK = 64, VARIABLE_BLOCK = 256 };
enum { LONG_LOW = 8192, LONG_HIGH = 30720 }; // the long documents of the _LONG masks (study 2.4)

static const struct bin {
  const char *histogram;
  int32_t low, high;
  double weight;
} bins[] = {
#include "histograms.inc"
};
enum { BINS = sizeof bins / sizeof *bins };

// Document lengths

const char *mask_histogram_for(int32_t seqlen, bool distributed) {
  if (seqlen <= 12 * 1024)
    return "pile";
  return seqlen < 64 * 1024 || (seqlen == 64 * 1024 && !distributed) ? "prolong64k" : "prolong512k";
}

const char *mask_histogram_names(void) {
  static _Thread_local char names[256];
  size_t used = 0;
  for (int i = 0; i < BINS && used < sizeof names; i++)
    if (!i || strcmp(bins[i].histogram, bins[i - 1].histogram))
      used +=
          (size_t)snprintf(names + used, sizeof names - used, i ? ", %s" : "%s", bins[i].histogram);
  return names;
}

// Bins of one histogram, adjacent in bins[]; n = 0 when there is none of that name.
static const struct bin *find_histogram(const char *name, int *n) {
  const struct bin *first = NULL;
  *n = 0;
  for (int i = 0; i < BINS; i++)
    if (!strcmp(bins[i].histogram, name)) {
      first = first ? first : &bins[i];
      ++*n;
    }
  return first;
}

// CPython's choices(): the first bin whose cumulative weight is above random() times the total.
static const struct bin *choose(struct mask_rng *rng, const struct bin *histogram, int n) {
  double sum = 0, total = 0, cumulative = 0;
  for (int i = 0; i < n; i++)
    sum += histogram[i].weight;
  for (int i = 0; i < n; i++)
    total += histogram[i].weight / sum;
  const double x = mask_rng_random(rng) * total;
  for (int i = 0; i < n - 1; i++) {
    cumulative += histogram[i].weight / sum;
    if (x < cumulative)
      return &histogram[i];
  }
  return &histogram[n - 1];
}

// Appends documents of `total` tokens to lengths[] and returns the new count.
static int32_t draw_lengths(struct mask_rng *rng, const struct bin *histogram, int n, int32_t total,
                            int32_t *lengths, int32_t docs) {
  while (total > 0) {
    const struct bin *bin = choose(rng, histogram, n);
    int32_t length = mask_rng_randint(rng, bin->low, bin->high);
    if (length > total)
      length = total;
    if (length < 1)
      length = 1;
    lengths[docs++] = length;
    total -= length;
  }
  return docs;
}

static int32_t draw_documents(struct mask_rng *rng, const struct mask_recipe *r, int32_t block,
                              const struct bin *histogram, int n, int32_t *lengths) {
  int32_t docs = 0;
  switch (r->kind) {
  case MASK_BLOCK_CAUSAL_DOCUMENT: // 1 to 8 blocks each; no histogram
    for (int32_t left = r->seqlen / block; left > 0;) {
      const int32_t blocks = mask_rng_randint(rng, 1, 8);
      lengths[docs] = (blocks < left ? blocks : left) * block;
      left -= lengths[docs++] / block;
    }
    return docs;
  case MASK_FULL_DOCUMENT_LONG:
  case MASK_CAUSAL_DOCUMENT_LONG: {
    static const struct bin long_bin = {"long", LONG_LOW, LONG_HIGH, 1};
    const int32_t short_tokens = (int32_t)(0.4 * r->seqlen);
    docs = draw_lengths(rng, histogram, n, short_tokens, lengths, 0);
    docs = draw_lengths(rng, &long_bin, 1, r->seqlen - short_tokens, lengths, docs);
    for (int32_t i = docs - 1; i > 0; i--) {
      const uint32_t j = mask_rng_below(rng, (uint32_t)i + 1);
      const int32_t length = lengths[i];
      lengths[i] = lengths[j];
      lengths[j] = length;
    }
    return docs;
  }
  default:
    return draw_lengths(rng, histogram, n, r->seqlen, lengths, 0);
  }
}

// Block-sparse patterns

static int ascending(const void *a, const void *b) {
  const int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
  return (x > y) - (x < y);
}

// begin[blocks + 1]: blocks of `smallest` tokens and the rest shared out by random cuts.
static void draw_sizes(struct mask_rng *rng, int32_t *begin, int32_t blocks, int32_t seqlen,
                       int32_t smallest) {
  begin[0] = 0;
  begin[blocks] = seqlen;
  for (int32_t i = 1; i < blocks; i++)
    begin[i] = mask_rng_randint(rng, 0, seqlen - blocks * smallest);
  if (blocks > 1)
    qsort(begin + 1, (size_t)blocks - 1, sizeof *begin, ascending);
  for (int32_t i = 1; i < blocks; i++)
    begin[i] += i * smallest;
}

// Sets k bits of each row: a partial Fisher-Yates shuffle of the block numbers.
static void draw_kept(struct mask_rng *rng, uint32_t *kept, int32_t words, int32_t rows,
                      int32_t blocks, int32_t k, int32_t *order) {
  for (int32_t r = 0; r < rows; r++, kept += words) {
    for (int32_t i = 0; i < blocks; i++)
      order[i] = i;
    for (int32_t i = 0; i < k; i++) {
      const uint32_t j = (uint32_t)i + mask_rng_below(rng, (uint32_t)(blocks - i));
      const int32_t c = order[j];
      order[j] = order[i];
      kept[c / 32] |= 1u << (c % 32);
    }
  }
}

static int draw_blocks(struct mask *m, struct mask_rng *rng, const struct mask_recipe *r,
                       int32_t block, char *err, size_t err_size) {
  const bool uniform = r->kind == MASK_UNIFORM_BLOCK_SPARSE;
  if (r->heads_kv < 1 || !(r->ratio > 0 && r->ratio <= 1) || r->block_min < 0) {
    snprintf(err, err_size,
             "%s: needs KV heads >= 1 (%d), 0 < ratio <= 1 (%g), smallest block >= 0 (%d)",
             mask_name(r->kind), r->heads_kv, r->ratio, r->block_min);
    return -1;
  }
  int32_t n = uniform ? (r->seqlen - 1) / block + 1 : r->seqlen / block, smallest = r->block_min;
  if (n < 1)
    n = 1;
  if (!smallest)
    smallest = block < 128 ? block : 128;
  if (!uniform && n > 1 && smallest > r->seqlen / n) {
    snprintf(err, err_size, "%s: the smallest block, %d, is above the average, %d",
             mask_name(r->kind), smallest, block);
    return -1;
  }
  if (mask_init(m, MASK_FULL, r->seqlen, NULL, 0, 0, 0, 0, err, err_size))
    return -1;
  const size_t heads = (size_t)r->heads_kv, words = ((size_t)n + 31) / 32;
  int32_t *rows = malloc(heads * ((size_t)n + 1) * sizeof *rows);
  int32_t *cols = malloc(heads * ((size_t)n + 1) * sizeof *cols);
  uint32_t *kept = calloc(heads * (size_t)n * words, sizeof *kept);
  int32_t *order = malloc((size_t)n * sizeof *order);
  m->kind = r->kind;
  m->block = block;
  m->ratio = r->ratio;
  m->heads = r->heads_kv;
  m->blocks_q = m->blocks_k = n;
  m->kept_words = (int32_t)words;
  m->row_begin = rows;
  m->col_begin = cols;
  m->kept = kept;
  if (!rows || !cols || !kept || !order) {
    free(order);
    mask_free(m);
    snprintf(err, err_size, "%s: out of memory for %d x %d blocks", mask_name(r->kind), n, n);
    return -1;
  }
  int32_t k = (int32_t)(r->ratio * n);
  k = k < 1 ? 1 : k;
  for (size_t head = 0; head < heads;
       head++, rows += n + 1, cols += n + 1, kept += (size_t)n * words) {
    if (uniform)
      for (int32_t i = 0; i <= n; i++)
        rows[i] = cols[i] = i < n ? i * block : r->seqlen;
    else {
      draw_sizes(rng, rows, n, r->seqlen, smallest);
      draw_sizes(rng, cols, n, r->seqlen, smallest);
    }
    draw_kept(rng, kept, (int32_t)words, n, n, k, order);
  }
  free(order);
  return 0;
}

// Masks

int mask_draw(struct mask *m, struct mask_rng *rng, const struct mask_recipe *r, char *err,
              size_t err_size) {
  char unused[1];
  if (!err) {
    err = unused;
    err_size = sizeof unused;
  }
  memset(m, 0, sizeof *m);
  if ((int)r->kind < 0 || r->kind >= MASK_KINDS || r->seqlen < 1 || r->block < 0 || r->window < 0) {
    snprintf(err, err_size,
             "a mask needs a known kind (%d), seqlen >= 1 (%d), block (%d) and window (%d) "
             "not negative",
             (int)r->kind, r->seqlen, r->block, r->window);
    return -1;
  }
  int32_t block = r->block, window = r->window ? r->window : WINDOW, prefix = 0;
  if (!block)
    block = r->kind == MASK_UNIFORM_BLOCK_SPARSE    ? UNIFORM_BLOCK
            : r->kind == MASK_VARIABLE_BLOCK_SPARSE ? VARIABLE_BLOCK
                                                    : BCD_BLOCK;
  if (mask_is_block_sparse(r->kind))
    return draw_blocks(m, rng, r, block, err, err_size);
  if (r->kind == MASK_BLOCK_CAUSAL_DOCUMENT && r->seqlen % block) {
    snprintf(err, err_size,
             "%s: length %d is not a multiple of its block, %d; choose another length or "
             "a smaller block",
             mask_name(r->kind), r->seqlen, block);
    return -1;
  }
  const char *name = r->histogram ? r->histogram : mask_histogram_for(r->seqlen, r->distributed);
  int n;
  const struct bin *histogram = find_histogram(name, &n);
  if (!histogram) {
    snprintf(err, err_size, "unknown histogram '%s'; the histograms are %s", name,
             mask_histogram_names());
    return -1;
  }
  int32_t docs = 0, *lengths = NULL;
  if (mask_has_docs(r->kind)) {
    lengths = malloc((size_t)r->seqlen * sizeof *lengths);
    if (!lengths) {
      snprintf(err, err_size, "%s: out of memory for %d tokens", mask_name(r->kind), r->seqlen);
      return -1;
    }
    docs = draw_documents(rng, r, block, histogram, n, lengths);
  }
  if (r->kind == MASK_PREFIX_LM_CAUSAL)
    prefix = mask_rng_randint(rng, 1, r->seqlen);
  else if (r->kind == MASK_PREFIX_LM_DOCUMENT && lengths)
    prefix = mask_rng_randint(rng, 1, lengths[0]);
  else if (r->kind ==
           MASK_GLOBAL_SLIDING_WINDOW) // below 6 tokens the study's range is empty: g = 1
    window = r->seqlen < 6 ? 1 : mask_rng_randint(rng, 1, r->seqlen / 3 - 1);
  const int status =
      mask_init(m, r->kind, r->seqlen, lengths, docs, window, prefix, block, err, err_size);
  free(lengths);
  return status;
}

int mask_draw_nth(struct mask *m, uint64_t seed, int draw, const struct mask_recipe *recipe,
                  char *err, size_t err_size) {
  struct mask_rng rng = {.next = 0};
  mask_rng_seed(&rng, seed);
  memset(m, 0, sizeof *m);
  for (int i = 0; i <= draw; i++) {
    mask_free(m);
    if (mask_draw(m, &rng, recipe, err, err_size))
      return -1;
  }
  return 0;
}
