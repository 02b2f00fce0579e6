// tile_bits_test.c -- the bits of partial tiles (tile_bits.h) as they lie on the device, word for word, against
// mask_allows: every representation and mask, both passes, whole sequences and segments. Runs on a GPU
// (`make test-gpu`) and on an emulated one (`make test-emulated`).
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "../rep/cases.h"
#include "../rep_device.h"
#include "../test_device.h"
#include "tile_bits.h"

#ifdef LONGCA_CUDA

enum { OUTER = 128, INNER_MAX = 128 };

// Rows of the outer side and of the inner side of a tile, by what they are.
struct tile {
  const struct mask *m;
  int32_t head, outer_pos, outer_rows, inner_pos, inner_rows;
  bool keys; // the inner side is keys
};

static bool sees(const struct tile *t, int32_t outer, int32_t inner) {
  const int32_t o = t->outer_pos + outer, i = t->inner_pos + inner;
  return inner < t->inner_rows && mask_allows(t->m, t->head, t->keys ? o : i, t->keys ? i : o);
}

// Of one row the bits that thread `lane` of its quad has.
static uint32_t row_word(const struct tile *t, int32_t outer, int32_t lane, int32_t columns) {
  uint32_t word = 0;
  for (int32_t bit = 0; bit < columns / 4; bit++)
    word |= (uint32_t)sees(t, outer, bit / 2 * 8 + lane * 2 + bit % 2) << bit;
  return word;
}

// Whether the tile's words are what the definition says. Queries past the end may have any (their rows are not
// stored), keys past it are not seen.
static bool right(const struct tile *t, const uint32_t *words) {
  for (int32_t thread = 0; thread < TILE_BITS_THREADS; thread++)
    for (int32_t half = 0; half < 2; half++) {
      const int32_t row = thread / 32 * 16 + thread % 32 / 4 + 8 * half, lane = thread % 4;
      const bool exists = row < t->outer_rows;
      const uint32_t want = exists ? row_word(t, row, lane, t->keys ? 128 : 64) : 0;
      const uint32_t got = t->keys ? words[2 * thread + half] : words[thread] >> 16 * half & 0xffff;
      if (got != want && (exists || !t->keys))
        return false;
    }
  return true;
}

// Whether a kernel that reads no bits would be wrong: a half of the outer side that is not there or seen as one.
static bool needs_bits(const struct tile *t, int32_t inner) {
  const int32_t half = t->keys ? OUTER : OUTER / 2;
  for (int32_t begin = 0; begin < OUTER; begin += half) {
    int32_t seen = 0;
    for (int32_t o = begin; o < begin + half; o++)
      for (int32_t i = 0; i < inner; i++)
        seen +=
            (t->keys || o < t->outer_rows) && sees(t, o < t->outer_rows ? o : t->outer_rows - 1, i);
    if (seen && seen < half * inner)
      return true;
  }
  return false;
}

static void *fetch(const void *device, int64_t bytes) {
  void *host = malloc((size_t)bytes + 1);
  assert_non_null(host);
  if (bytes)
    assert_int_equal(device_download(host, device, (size_t)bytes), 0);
  return host;
}

static int64_t checked;

static void check_list(const struct rep_device *rep, const struct attn_problem *p,
                       enum attn_pass pass) {
  const bool keys = pass == ATTN_FWD;
  const int32_t inner = keys ? 128 : 64;
  const int64_t words = TILE_BITS_THREADS * (keys ? 2 : 1);
  struct worklist list;
  struct tile_bits b;
  if (worklist_build(&list, rep, p, keys ? WORKLIST_KEYS : WORKLIST_QUERIES, OUTER, inner, !keys) ||
      tile_bits_build(&b, rep, &list, pass, NULL))
    fail_msg("%s", attn_error());
  const int64_t items = (int64_t)list.view.count * list.view.classes;
  struct worklist_item *item = fetch(list.view.items, items * (int64_t)sizeof *item);
  struct worklist_run *run = fetch(list.view.runs, list.runs * (int64_t)sizeof *run);
  int32_t *first = fetch(b.view.first, b.view.first ? list.runs * 4 : 0);
  uint32_t *bits = fetch(b.view.bits, b.tiles * words * 4);
  char *taken = calloc((size_t)b.tiles + 1, 1);
  assert_non_null(taken);
  assert_int_equal(b.bytes, b.view.first ? list.runs * 4 + b.tiles * words * 4 : 0);
  for (int64_t i = 0; i < items; i++)
    for (int32_t r = item[i].run_begin; r < item[i].run_end; r++)
      for (int32_t n = 0; n < run[r].tiles; n++) {
        const bool cut = run[r].valid && n == run[r].tiles - 1;
        const struct tile t = {
            p->mask,      (int32_t)(i / list.view.count), item[i].pos,
            item[i].rows, run[r].pos + n * inner,         cut ? run[r].valid & 0xffff : inner,
            keys};
        const int64_t place = b.view.first ? (int64_t)first[r] + n : -1;
        if (!b.view.first || first[r] < 0) {
          if (needs_bits(&t, inner))
            fail_msg("%s on %s: a tile at %d x %d has no bits", rep->ops->name,
                     mask_name(p->mask->kind), t.outer_pos, t.inner_pos);
          continue;
        }
        assert_true(place < b.tiles && !taken[place]);
        taken[place] = 1;
        if (!right(&t, bits + place * words))
          fail_msg("%s on %s, S %d, head %d, pass %d: other bits of the tile at %d x %d",
                   rep->ops->name, mask_name(p->mask->kind), p->mask->seqlen, t.head, pass,
                   t.outer_pos, t.inner_pos);
        checked++;
      }
  for (int64_t i = 0; i < b.tiles; i++)
    assert_true(taken[i]);
  free(item);
  free(run);
  free(first);
  free(bits);
  free(taken);
  worklist_free(&list);
  tile_bits_free(&b);
}

static void check_mask(const struct rep_ops *ops, const struct mask *m, bool in_segments) {
  static const struct attn_segment q[2] = {{3, 50, 150}, {170, 270, 77}},
                                   k[2] = {{0, 200, 120}, {120, 0, 99}};
  struct rep_device rep;
  struct attn_problem p = {.mask = m, .rows_q = m->seqlen, .rows_k = m->seqlen};
  if (in_segments) {
    p.q_seg = q;
    p.k_seg = k;
    p.q_segs = p.k_segs = 2;
  }
  if (rep_device_open(&rep, ops, m))
    fail_msg("%s", attn_error());
  for (int pass = ATTN_FWD; pass <= ATTN_BWD; pass++)
    check_list(&rep, &p, (enum attn_pass)pass);
  rep_device_close(&rep);
}

static void check_rep(void **state) {
  static const int32_t lengths[] = {1, 129, 347};
  const struct rep_ops *ops = rep_find(*state);
  need_device();
  checked = 0;
  for (int kind = 0; kind < MASK_KINDS; kind++)
    for (int i = 0; i < 3; i++)
      for (int variant = i; variant < CASE_VARIANTS; variant += i == 0 ? CASE_VARIANTS : 2) {
        struct mask m;
        assert_int_equal(case_mask(&m, (enum mask_kind)kind, lengths[i], variant), 0);
        if (!ops->supports(&m))
          check_mask(ops, &m, i == 2 && variant % 4 == 0);
        mask_free(&m);
      }
  assert_true(checked > 100);
}

// One item with more runs than a warp has lanes, and more tiles than blocks share.
static void test_long(void **state) {
  struct mask m;
  (void)state;
  need_device();
  assert_int_equal(case_mask(&m, MASK_UNIFORM_BLOCK_SPARSE, 7401, 6), 0); // blocks of 7
  static const struct attn_segment q = {0, 3000, 130}, k = {0, 0, 130};
  struct attn_problem p = {.mask = &m, .rows_q = 130, .rows_k = m.seqlen, .q_seg = &q, .q_segs = 1};
  struct rep_device rep;
  if (rep_device_open(&rep, rep_find("blocklist"), &m))
    fail_msg("%s", attn_error());
  checked = 0;
  check_list(&rep, &p, ATTN_FWD);
  p = (struct attn_problem){
      .mask = &m, .rows_q = m.seqlen, .rows_k = 130, .k_seg = &k, .k_segs = 1};
  check_list(&rep, &p, ATTN_BWD);
  assert_true(checked > 200);
  rep_device_close(&rep);
  mask_free(&m);
}

#define TEST(X) \
  { #X, check_rep, NULL, NULL, #X }
int main(void) {
  const struct CMUnitTest tests[] = {TEST(band),
                                     TEST(columns),
                                     TEST(spans),
                                     TEST(blocklist),
                                     TEST(varblock),
                                     TEST(dense),
                                     cmocka_unit_test(test_long)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}

#else

int main(void) { return skip_program(device_error()); }

#endif
