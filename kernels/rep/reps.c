// reps.c -- the table of mask representations, for host engines and tests (rep.h).
#include <string.h>

#include "band.h"
#include "blocklist.h"
#include "blockmap.h"
#include "columns.h"
#include "dense.h"
#include "spans.h"
#include "varblock.h"

// The typed functions of X behind void pointers, and its row of the table.
#define REP_TABLE(X) \
  static int X##_build_any(void *x, const struct mask *m) { return X##_build((struct X *)x, m); } \
  static void X##_free_any(void *x) { X##_free((struct X *)x); } \
  static size_t X##_bytes_any(const void *x) { return X##_bytes((const struct X *)x); } \
  static int X##_arrays_any(const void *x, struct rep_array list[REP_ARRAYS_MAX]) { \
    return X##_arrays((const struct X *)x, list); \
  } \
  static struct tile_run X##_keys_any(const void *x, int32_t head, const struct tile_view *view, \
                                      int32_t from) { \
    return X##_next_keys((const struct X *)x, head, view, from); \
  } \
  static struct tile_run X##_queries_any(const void *x, int32_t head, \
                                         const struct tile_view *view, int32_t from) { \
    return X##_next_queries((const struct X *)x, head, view, from); \
  } \
  static enum tile_class X##_class_any(const void *x, int32_t head, int32_t q_begin, \
                                       int32_t q_end, int32_t k_begin, int32_t k_end) { \
    return X##_class((const struct X *)x, head, q_begin, q_end, k_begin, k_end); \
  } \
  static bool X##_allows_any(const void *x, int32_t head, int32_t q, int32_t k) { \
    return X##_allows((const struct X *)x, head, q, k); \
  } \
  static void X##_row_bits_any(const void *x, int32_t head, int32_t q, int32_t k, int32_t n, \
                               uint64_t *bits) { \
    X##_row_bits((const struct X *)x, head, q, k, n, bits); \
  } \
  static const struct rep_ops X##_ops = { \
      .name = #X, \
      .size = sizeof(struct X), \
      .supports = X##_supports, \
      .build = X##_build_any, \
      .release = X##_free_any, \
      .bytes = X##_bytes_any, \
      .arrays = X##_arrays_any, \
      .next_keys = X##_keys_any, \
      .next_queries = X##_queries_any, \
      .classify = X##_class_any, \
      .allows = X##_allows_any, \
      .row_bits = X##_row_bits_any, \
  };

REP_TABLE(dense)
REP_TABLE(band)
REP_TABLE(columns)
REP_TABLE(blockmap)
REP_TABLE(blocklist)
REP_TABLE(varblock)
REP_TABLE(spans)

const struct rep_ops *const rep_table[] = {
    &dense_ops,     &band_ops,     &columns_ops, &blockmap_ops,
    &blocklist_ops, &varblock_ops, &spans_ops,   NULL,
};

const struct rep_ops *rep_find(const char *name) {
  for (int i = 0; rep_table[i]; i++)
    if (!strcmp(rep_table[i]->name, name))
      return rep_table[i];
  return NULL;
}
