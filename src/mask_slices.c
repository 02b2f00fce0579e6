// mask_slices.c -- a mask's rows cut into slices in which the number of visible keys is linear in the row:
// a constant, or one key more (or fewer) each row.
//
// Zigzag sharding needs no more than that: of rows whose cost is a + b q, piece i and its mirror add up to
// the same for every i. It is the mask's own rows that are asked, so a further kind needs nothing here.
#include "mask.h"

#include <stdlib.h>

static int64_t visible(const struct mask *m, int32_t q) {
  struct mask_span spans[MASK_SPANS_MAX];
  const int n = mask_row_spans(m, q, spans);
  int64_t keys = 0;
  for (int i = 0; i < n; i++)
    keys += spans[i].end - spans[i].begin;
  return keys;
}

int32_t *mask_slices(const struct mask *m, int32_t *count) {
  int32_t *begin = NULL, n = 0, room = 0, from = 0;
  int64_t before = 0, slope = 0;
  for (int32_t q = 0; q <= m->seqlen; q++) {
    const int64_t here = q < m->seqlen ? visible(m, q) : 0;
    // Two rows are always a line; the third may be off it.
    const bool ends = q == 0 || q == m->seqlen || (q - from > 1 && here - before != slope);
    if (ends) {
      if (n == room) {
        room = room ? 2 * room : 64;
        int32_t *more = realloc(begin, (size_t)room * sizeof *begin);
        if (!more) {
          free(begin);
          return NULL;
        }
        begin = more;
      }
      begin[n++] = from = q;
    }
    slope = here - before;
    before = here;
  }
  *count = n - 1;
  return begin;
}
