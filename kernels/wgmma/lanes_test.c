// lanes_test.c -- the mask code of the wgmma engine's partial tiles (visible.cuh, seen_by.cuh), run on the
// host (lanes.h), against mask_allows: every representation, mask and accumulator element, both passes.
//
// Tiles begin where segments may (any position), and are cut short by the sequence or at odd lengths.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "../rep/cases.h"
#include "../rep/rep.h"
#include "lanes.h"

static const int32_t lengths[] = {1, 17, 127, 129, 300};

struct subject {
  const char *name;
  const struct mask *m;
  const void *rep;
  int32_t head;
  int64_t pairs;
};

static void fail_pair(const struct subject *s, const char *pass, int32_t q, int32_t k) {
  fail_msg("%s on %s, S %d, head %d, %s: pair (%d, %d)", s->name, mask_name(s->m->kind),
           s->m->seqlen, s->head, pass, q, k);
}

// One warp of each pass, of tiles at q_pos and k_pos.
static void check_tile(struct subject *s, int32_t q_pos, int32_t k_pos, int32_t cut, int32_t warp) {
  const int32_t q_left = s->m->seqlen - q_pos, k_left = s->m->seqlen - k_pos;
  const int32_t rows = q_left < 128 ? q_left : 128, valid = k_left < 128 - cut ? k_left : 128 - cut;
  const int32_t queries = q_left < 64 - cut ? q_left : 64 - cut, keys = k_left < 128 ? k_left : 128;
  bool hidden[16][128], unseen[16][64];
  assert_true(
      lanes_forward(s->name, s->rep, s->head, q_pos, rows, 16 * warp, k_pos, valid, hidden));
  for (int32_t i = 0; i < 16 && 16 * warp + i < rows; i++) // rows that do not exist are not stored
    for (int32_t j = 0; j < 128; j++, s->pairs++) {
      const int32_t q = q_pos + 16 * warp + i, k = k_pos + j;
      if (hidden[i][j] != (j >= valid || !mask_allows(s->m, s->head, q, k)))
        fail_pair(s, "forward", q, k);
    }
  assert_true(
      lanes_backward(s->name, s->rep, s->head, k_pos, keys, 16 * warp, q_pos, queries, unseen));
  for (int32_t i = 0; i < 16; i++)
    for (int32_t j = 0; j < 64; j++, s->pairs++) {
      const int32_t q = q_pos + j, k = k_pos + 16 * warp + i;
      const bool exists = 16 * warp + i < keys && j < queries;
      if (unseen[i][j] != (!exists || !mask_allows(s->m, s->head, q, k)))
        fail_pair(s, "backward", q, k);
    }
}

static void check_mask(const struct rep_ops *ops, const struct mask *m, int64_t *pairs) {
  void *rep = calloc(1, ops->size);
  assert_non_null(rep);
  assert_int_equal(ops->build(rep, m), 0);
  uint64_t state = (uint64_t)m->kind * 31 + (uint64_t)m->seqlen;
  for (int32_t head = 0; head < (m->heads > 0 ? m->heads : 1); head++) {
    struct subject s = {ops->name, m, rep, head, 0};
    for (int i = 0; i < 24; i++) {
      const bool whole = i % 2; // at tile boundaries, or anywhere
      const int32_t q = case_random(&state, m->seqlen), k = case_random(&state, m->seqlen);
      check_tile(&s, whole ? q / 128 * 128 : q, whole ? k / 128 * 128 : k,
                 whole ? 0 : case_random(&state, 64), case_random(&state, 8));
    }
    *pairs += s.pairs;
  }
  ops->release(rep);
  free(rep);
}

static void check_rep(void **state) {
  const struct rep_ops *ops = rep_find(*state);
  int64_t pairs = 0;
  for (int kind = 0; kind < MASK_KINDS; kind++)
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++)
      for (int variant = 0; variant < CASE_VARIANTS; variant++) {
        struct mask m = {0};
        assert_int_equal(case_mask(&m, (enum mask_kind)kind, lengths[i], variant), 0);
        if (!ops->supports(&m))
          check_mask(ops, &m, &pairs);
        mask_free(&m);
      }
  assert_true(pairs > 1000000);
}

#define TEST(X) \
  { #X, check_rep, NULL, NULL, #X }
int main(void) {
  const struct CMUnitTest tests[] = {TEST(band),     TEST(columns), TEST(blocklist),
                                     TEST(varblock), TEST(dense),   TEST(spans)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
