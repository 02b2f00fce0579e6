// bytes_test.c -- what the representations hold: the memory that each header states, its growth
// with the length, and that a copy of the struct with its arrays moved is the same representation.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "band.h"
#include "blockmap.h"
#include "cases.h"
#include "columns.h"
#include "spans.h"
#include "varblock.h"

// Bytes by the formula in the header of the representation.
static int64_t bytes_stated(const char *name, const struct mask *m, const void *rep) {
  const int64_t n = m->seqlen, heads = m->heads ? m->heads : 1;
  const int64_t predicate = mask_has_docs(m->kind) ? 4 * n + 4 * (m->docs + 1) : 0;
  if (!strcmp(name, "dense"))
    return heads * n * ((n + 63) / 64) * 8;
  if (!strcmp(name, "band"))
    return predicate;
  if (!strcmp(name, "columns")) {
    const struct columns *x = rep;
    const int vectors = 1 + (x->lte != NULL) + (x->uts != NULL) + (x->ute != NULL);
    return 4 * n * vectors + 32 * ((n + 63) / 64 + (n + 2047) / 2048);
  }
  if (!strcmp(name, "spans")) { // a run a document, two with a prefix; one a block row; or a few
    const struct spans *x = rep;
    const int64_t docs = m->docs * (m->kind == MASK_PREFIX_LM_DOCUMENT ? 2 : 1);
    const int64_t rows = m->kind == MASK_BLOCK_CAUSAL_DOCUMENT ? n / m->block + 1 : 0;
    assert_true(x->count <= (mask_has_docs(m->kind) ? docs + rows : 5));
    return 24 * (x->count + 1);
  }
  if (!strcmp(name, "blocklist")) {
    int64_t listed = 0;
    for (int64_t i = 0; i < heads * m->blocks_q * m->kept_words; i++)
      listed += __builtin_popcount(m->kept[i]);
    return 8 * listed + 16 * heads * m->blocks_q + 16;
  }
  if (!strcmp(name, "varblock")) {
    const struct varblock *x = rep;
    const int64_t rows = heads * m->blocks_q, cols = heads * m->blocks_k;
    return 8 * x->q2k.begin[rows] + 12 * (rows + cols) + 8 * heads + 16;
  }
  const struct blockmap *x = rep;
  const int64_t rows = heads * ((n + 127) / 128);
  const int64_t grid = m->heads ? 4 * heads * (m->blocks_q + m->blocks_k + 2) +
                                      4 * heads * m->blocks_q * m->kept_words
                                : 0;
  assert_true(x->q2k.begin[rows] <= rows * ((n + 127) / 128));
  return 8 * x->q2k.begin[rows] + 16 * rows + 16 + predicate + grid;
}

static int64_t bytes_of(const struct rep_ops *ops, enum mask_kind kind, int32_t seqlen,
                        int variant) {
  struct mask m;
  void *rep = malloc(ops->size);
  assert_non_null(rep);
  assert_int_equal(case_mask(&m, kind, seqlen, variant), 0);
  assert_int_equal(ops->build(rep, &m), 0);
  const int64_t bytes = (int64_t)ops->bytes(rep);
  assert_int_equal(bytes, bytes_stated(ops->name, &m, rep));
  ops->release(rep);
  free(rep);
  mask_free(&m);
  return bytes;
}

static void check_bytes(void **state) {
  (void)state;
  for (int i = 0; rep_table[i]; i++)
    for (int kind = 0; kind < MASK_KINDS; kind++) {
      const struct mask any = {.kind = (enum mask_kind)kind};
      if (!rep_table[i]->supports(&any))
        for (int variant = 0; variant < CASE_VARIANTS; variant++)
          for (int32_t n = 1; n < 1200; n = 3 * n + 5)
            bytes_of(rep_table[i], (enum mask_kind)kind, n, variant);
    }
}

// From S to 4 S: O(S) grows to at most 4 times and a constant, (S / B)^2 to 16 times.
static void check_growth(void **state) {
  (void)state;
  for (int i = 0; rep_table[i]; i++)
    for (int kind = 0; kind < MASK_KINDS; kind++) {
      const struct rep_ops *ops = rep_table[i];
      const struct mask any = {.kind = (enum mask_kind)kind};
      if (ops->supports(&any))
        continue;
      const bool linear = !strcmp(ops->name, "band") || !strcmp(ops->name, "columns");
      const double small = (double)bytes_of(ops, (enum mask_kind)kind, 4096, 0);
      const double large = (double)bytes_of(ops, (enum mask_kind)kind, 16384, 0);
      const double limit = linear ? 4.0 : 16.5; // 16.5: the blocks kept are drawn
      if (!(large <= limit * small + 64))
        fail_msg("%s on %s: %.0f bytes at 4096, %.0f at 16384", ops->name, mask_name(any.kind),
                 small, large);
      if (!linear && strcmp(ops->name, "dense") && !(large <= 16384.0 * 16384 / 64 * 3))
        fail_msg("%s on %s: %.0f bytes at 16384", ops->name, mask_name(any.kind), large);
    }
}

// Moves every array, spoils and frees the original, and asks the copy: what a device copy relies
// on.
static void check_move(void **state) {
  (void)state;
  for (int i = 0; rep_table[i]; i++)
    for (int kind = 0; kind < MASK_KINDS; kind++) {
      const struct rep_ops *ops = rep_table[i];
      struct mask m, same;
      struct rep_array list[REP_ARRAYS_MAX] = {{0, 0, false}};
      const int32_t n = 300;
      assert_int_equal(case_mask(&m, (enum mask_kind)kind, n, 0), 0);
      assert_int_equal(case_mask(&same, (enum mask_kind)kind, n, 0), 0);
      if (ops->supports(&m)) {
        mask_free(&m);
        mask_free(&same);
        continue;
      }
      char *rep = malloc(ops->size), *copy = malloc(ops->size);
      assert_non_null(rep);
      assert_non_null(copy);
      assert_int_equal(ops->build(rep, &m), 0);
      memcpy(copy, rep, ops->size);
      const int arrays = ops->arrays(rep, list);
      assert_in_range(arrays, 0, REP_ARRAYS_MAX);
      for (int a = 0; a < arrays; a++) {
        void *from, *to = malloc(list[a].bytes + 1);
        memcpy(&from, rep + list[a].offset, sizeof from);
        assert_non_null(from);
        assert_non_null(to);
        memcpy(to, from, list[a].bytes);
        if (list[a].owned) // the mask's own arrays are const
          memset(from, 0x7f, list[a].bytes);
        memcpy(copy + list[a].offset, &to, sizeof to);
      }
      ops->release(rep);
      mask_free(&m);
      for (int32_t head = 0; head < (same.heads ? same.heads : 1); head++)
        for (int32_t q = 0; q < n; q++) {
          const struct tile_view row = {q, q + 1, 0, n, 1}, col = {0, n, q, q + 1, 1};
          for (int32_t k = 0; k < n; k++) {
            const bool sees = mask_allows(&same, head, q, k);
            assert_int_equal(ops->allows(copy, head, q, k), sees);
            if (strcmp(ops->name, "blockmap")) { // walks whole blocks
              assert_int_equal(ops->next_keys(copy, head, &row, k).begin == k, sees);
              assert_int_equal(ops->next_queries(copy, head, &col, k).begin == k,
                               mask_allows(&same, head, k, q));
            }
          }
        }
      for (int a = 0; a < arrays; a++) {
        void *moved;
        memcpy(&moved, copy + list[a].offset, sizeof moved);
        free(moved);
      }
      free(rep);
      free(copy);
      mask_free(&same);
    }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(check_bytes),
      cmocka_unit_test(check_growth),
      cmocka_unit_test(check_move),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
