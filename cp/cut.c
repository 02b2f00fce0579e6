// cut.c -- which rank holds which tokens (study 6.2): zigzag by document, one layout for all ranks. For masks
// that documents do not balance (the paper's open question B): zigzag by slice, or chunks by their cost.
//
// Zigzag: piece j of a stretch of L tokens is [L j / 2R, L (j + 1) / 2R), so pieces differ by one token at
// most. The study cuts pieces of ceil(L / 2R) instead, which leaves the last ones short.
//   R = 2, documents of 5 and 2 tokens:   0 1 2 3 4 | 5 6     pieces [0 1) [1 2) [2 3) [3 5) | 5 6
//     rank 0: 0 3 4 . | . .  (pieces 0, 3)     rank 1: 1 2 . . | 5 6 (document 1 starts with rank 1)
#include <stdlib.h>
#include <string.h>

#include "cp.h"

#define CP_BALANCED 1.02 // most over mean work of the ranks

// Appends, or lengthens the last segment when both its rows and its positions go on.
static void append(struct attn_segment *list, int32_t *n, int32_t row, int32_t pos, int32_t len) {
  struct attn_segment *last = *n ? &list[*n - 1] : NULL;
  if (!len)
    return;
  if (last && last->row + last->len == row && last->pos + last->len == pos)
    last->len += len;
  else
    list[(*n)++] = (struct attn_segment){row, pos, len};
}

static int out_of_memory(const char *what) {
  attn_error_set(true, "out of host memory for %s", what);
  return -1;
}

// Room for `most` segments a rank. 0, or -1 with attn_error() set.
static int make_room(struct cp_shard *s, int ring, int64_t most) {
  s->contexts = ring;
  s->seg = calloc((size_t)ring, sizeof *s->seg);
  s->segs = calloc((size_t)ring, sizeof *s->segs);
  bool room = s->seg && s->segs;
  for (int r = 0; r < ring && room; r++)
    room = (s->seg[r] = malloc((size_t)most * sizeof **s->seg)) != NULL;
  return room ? 0 : out_of_memory("the shards");
}

// Deals out the stretches between begin [n + 1]: piece and mirror, or one piece a rank.
static int zigzag(struct cp_shard *s, const struct cp_grid *grid, const int32_t *begin, int32_t n,
                  int64_t *rows) {
  const int ring = grid->context;
  const bool mirrors = ring > 1 && s->cut != CP_CUT_CONTIGUOUS; // alone, nothing is cut or padded
  const int64_t pieces = mirrors ? 2 * ring : ring;
  if (make_room(s, ring, 2 * (int64_t)n))
    return -1;
  for (int32_t d = 0; d < n; d++) {
    const int64_t length = begin[d + 1] - begin[d];
    const int64_t longest = (length + pieces - 1) / pieces;
    for (int r = 0; r < ring; r++) {
      const int64_t first = (r + d) % ring, mirror = pieces - 1 - first;
      const int64_t a = length * first / pieces, b = length * (first + 1) / pieces;
      append(s->seg[r], &s->segs[r], (int32_t)*rows, begin[d] + (int32_t)a, (int32_t)(b - a));
      if (!mirrors)
        continue;
      const int64_t c = length * mirror / pieces, e = length * (mirror + 1) / pieces;
      append(s->seg[r], &s->segs[r], (int32_t)(*rows + b - a), begin[d] + (int32_t)c,
             (int32_t)(e - c));
    }
    *rows += mirrors ? 2 * longest : longest;
  }
  return 0;
}

struct chunk {
  double pairs;
  int32_t index, rank;
};
struct load {
  double pairs;
  int32_t chunks;
};

static int by_pairs(const void *a, const void *b) { // most first
  const struct chunk *x = a, *y = b;
  return x->pairs != y->pairs ? (x->pairs < y->pairs) - (x->pairs > y->pairs) : x->index - y->index;
}
static int by_index(const void *a, const void *b) {
  return ((const struct chunk *)a)->index - ((const struct chunk *)b)->index;
}

// Equal chunks of 256 rows at most, as many a rank and 8 at least, the dearest first, each to the rank with the
// least work that has room for it. Every rank computes the same from the mask alone.
static int chunks(struct cp_shard *s, const struct cp_grid *grid, const struct mask *mask,
                  int64_t *rows) {
  const int ring = grid->context;
  const int64_t size = mask->seqlen, needed = (size + 256LL * ring - 1) / (256LL * ring);
  const int64_t each = needed > 8 ? needed : 8, n = each * ring;
  const int64_t slot = (size + n - 1) / n;
  struct chunk *chunk = malloc((size_t)n * sizeof *chunk);
  struct load *load = calloc((size_t)ring, sizeof *load);
  if (!chunk || !load || make_room(s, ring, each)) {
    free(chunk);
    free(load);
    return out_of_memory("the chunks");
  }
#define FROM(i) ((int32_t)(size * (i) / n))
  for (int32_t i = 0; i < n; i++)
    chunk[i] = (struct chunk){.pairs = mask_area_rows(mask, FROM(i), FROM(i + 1)), .index = i};
  qsort(chunk, (size_t)n, sizeof *chunk, by_pairs);
  for (int32_t i = 0; i < n; i++) {
    int least = -1;
    for (int r = 0; r < ring; r++)
      if (load[r].chunks < each && (least < 0 || load[r].pairs < load[least].pairs))
        least = r;
    load[least].pairs += chunk[i].pairs;
    load[least].chunks++;
    chunk[i].rank = least;
  }
  qsort(chunk, (size_t)n, sizeof *chunk, by_index);
  memset(load, 0, (size_t)ring * sizeof *load);
  for (int32_t i = 0; i < n; i++) {
    const int r = chunk[i].rank;
    append(s->seg[r], &s->segs[r], (int32_t)(load[r].chunks++ * slot), FROM(i),
           FROM(i + 1) - FROM(i));
  }
#undef FROM
  *rows = each * slot;
  free(chunk);
  free(load);
  return 0;
}

static int cut_by(enum cp_cut cut, struct cp_shard *s, const struct mask *mask,
                  const struct cp_grid *grid) {
  const int32_t whole[2] = {0, mask->seqlen};
  int64_t rows = 0;
  int32_t n, *slices = NULL;
  int status;
  memset(s, 0, sizeof *s);
  s->cut = cut;
  if (cut == CP_CUT_CHUNKS)
    status = chunks(s, grid, mask, &rows);
  else if (cut == CP_CUT_DOCUMENTS && mask->doc_begin)
    status = zigzag(s, grid, mask->doc_begin, mask->docs, &rows);
  else if (cut != CP_CUT_SLICES)
    status = zigzag(s, grid, whole, 1, &rows);
  else if ((slices = mask_slices(mask, &n)))
    status = zigzag(s, grid, slices, n, &rows);
  else
    status = out_of_memory("the slices of the mask");
  free(slices);
  if (status)
    return -1;
  s->rows = (int32_t)((rows + grid->heads - 1) / grid->heads);
  s->context_rows = s->rows * grid->heads;
  for (int r = 0; r < s->contexts; r++) {
    int32_t tokens = 0;
    for (int32_t i = 0; i < s->segs[r]; i++)
      tokens += s->seg[r][i].len;
    s->tokens_max = tokens > s->tokens_max ? tokens : s->tokens_max;
  }
  return 0;
}

// Whether queries see keys of another document: then the short pieces of documents meet all pieces of the
// others, and most of a tile is empty.
static bool crosses_documents(const struct mask *mask) {
  struct mask_span spans[MASK_SPANS_MAX];
  return mask->docs > 1 && mask_row_spans(mask, mask->seqlen - 1, spans) &&
         spans[0].begin < mask->doc_begin[mask->docs - 1];
}

int cp_shard_init(struct cp_shard *s, const struct mask *mask, const struct cp_grid *grid) {
  if (grid->cut != CP_CUT_AUTO)
    return cut_by(grid->cut, s, mask, grid);
  if (grid->context > 1 && crosses_documents(mask))
    return cut_by(CP_CUT_CHUNKS, s, mask, grid);
  const int status = cut_by(CP_CUT_DOCUMENTS, s, mask, grid);
  if (status || cp_shard_balance(s, mask) <= CP_BALANCED)
    return status;
  cp_shard_free(s);
  return cut_by(CP_CUT_SLICES, s, mask, grid);
}
