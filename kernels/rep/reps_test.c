// reps_test.c -- every representation on every mask that it expresses, against mask_allows.
//
// The visible pairs of any rectangle come from a summed-area table of mask_allows. From it follows
// the class of every tile of a view; the walks must visit the tiles that are not empty, all of
// them, in order, and call full exactly those that are. blockmap knows whole blocks only: its tile
// is visited iff it meets a block that is not empty, and is full iff all blocks that it meets are.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "blockmap.h"
#include "cases.h"

static const int32_t lengths[] = {1, 17, 63, 64, 65, 127, 128, 129, 191, 1000};
static const int32_t tiles_tested[][2] = {{64, 64},  {128, 128}, {128, 64},  {64, 128},
                                          {16, 256}, {256, 16},  {192, 176}, {100, 37}};
enum {
  LENGTHS = sizeof lengths / sizeof *lengths,
  TILES = sizeof tiles_tested / sizeof *tiles_tested
};

struct subject {
  const struct mask *m;
  int32_t head;
  int32_t *sum; // [seqlen + 1, seqlen + 1] visible pairs of [0, q) by [0, k)
  const struct rep_ops *ops;
  void *rep;
  bool by_block;
  int variant;
};

static void sum_visible(struct subject *s) {
  const int64_t n = s->m->seqlen, w = n + 1;
  for (int32_t q = 0; q < n; q++)
    for (int32_t k = 0, row = 0; k < n; k++) {
      row += mask_allows(s->m, s->head, q, k);
      s->sum[(q + 1) * w + k + 1] = s->sum[q * w + k + 1] + row;
    }
}

static enum tile_class class_of(const struct subject *s, int32_t q0, int32_t q1, int32_t k0,
                                int32_t k1) {
  const int64_t w = s->m->seqlen + 1;
  const int32_t seen =
      s->sum[q1 * w + k1] - s->sum[q0 * w + k1] - s->sum[q1 * w + k0] + s->sum[q0 * w + k0];
  return !seen ? TILE_EMPTY : seen == (q1 - q0) * (k1 - k0) ? TILE_FULL : TILE_PARTIAL;
}

// Class that the walk owes for a tile.
static enum tile_class class_owed(const struct subject *s, int32_t q0, int32_t q1, int32_t k0,
                                  int32_t k1) {
  const int32_t b = BLOCKMAP_BLOCK, n = s->m->seqlen;
  bool any = false, all = true;
  if (!s->by_block)
    return class_of(s, q0, q1, k0, k1);
  for (int32_t q = q0 / b * b; q < q1; q += b)
    for (int32_t k = k0 / b * b; k < k1; k += b) {
      const enum tile_class c = class_of(s, q, rep_min(q + b, n), k, rep_min(k + b, n));
      any |= c != TILE_EMPTY;
      all &= c == TILE_FULL;
    }
  return !any ? TILE_EMPTY : all ? TILE_FULL : TILE_PARTIAL;
}

#define WHERE \
  "%s on %s variant %d, S %d, head %d, queries [%d, %d), keys [%d, %d), %s in tiles of %d: "
#define WHAT(s, v, along) \
  (s)->ops->name, mask_name((s)->m->kind), (s)->variant, (s)->m->seqlen, (s)->head, (v)->q_begin, \
      (v)->q_end, (v)->k_begin, (v)->k_end, along, (v)->tile

// One walk over a view, from every tile on.
static void check_walk(const struct subject *s, const struct tile_view *v, bool keys) {
  const char *along = keys ? "keys" : "queries";
  const int32_t begin = keys ? v->k_begin : v->q_begin, end = keys ? v->k_end : v->q_end;
  const int32_t tiles = rep_tiles(begin, end, v->tile);
  enum tile_class owed[1024] = {TILE_EMPTY};
  assert_true(tiles < 1024);
  for (int32_t t = 0; t < tiles; t++) {
    const int32_t b = begin + t * v->tile, e = rep_min(b + v->tile, end);
    owed[t] = keys ? class_owed(s, v->q_begin, v->q_end, b, e)
                   : class_owed(s, b, e, v->k_begin, v->k_end);
    const enum tile_class true_class =
        keys ? class_of(s, v->q_begin, v->q_end, b, e) : class_of(s, b, e, v->k_begin, v->k_end);
    assert_true(true_class == owed[t] || s->by_block); // and never too little:
    assert_false(owed[t] == TILE_EMPTY && true_class != TILE_EMPTY);
    assert_false(owed[t] == TILE_FULL && true_class != TILE_FULL);
    if (v->q_begin < v->q_end && v->k_begin < v->k_end) {
      const enum tile_class c = keys
                                    ? s->ops->classify(s->rep, s->head, v->q_begin, v->q_end, b, e)
                                    : s->ops->classify(s->rep, s->head, b, e, v->k_begin, v->k_end);
      if (c != owed[t])
        fail_msg(WHERE "tile %d is classified %d, not %d", WHAT(s, v, along), t, c, owed[t]);
    }
  }
  owed[tiles] = TILE_EMPTY;
  for (int32_t from = 0; from <= tiles; from++) {
    const struct tile_run run =
        (keys ? s->ops->next_keys : s->ops->next_queries)(s->rep, s->head, v, from);
    int32_t first = from;
    while (first < tiles && owed[first] == TILE_EMPTY)
      first++;
    if (first == tiles) {
      if (run.begin != run.end)
        fail_msg(WHERE "run [%d, %d) from %d on, where all is empty", WHAT(s, v, along), run.begin,
                 run.end, from);
      continue;
    }
    if (run.begin != first || run.end <= run.begin || run.end > tiles)
      fail_msg(WHERE "run [%d, %d) from %d on instead of one from %d", WHAT(s, v, along), run.begin,
               run.end, from, first);
    for (int32_t t = run.begin; t < run.end; t++)
      if (owed[t] != (run.full ? TILE_FULL : TILE_PARTIAL))
        fail_msg(WHERE "tile %d is called %s but is %s", WHAT(s, v, along), t,
                 run.full ? "full" : "partial",
                 owed[t] == TILE_EMPTY ? "empty" : "of the other class");
  }
}

// Views of one range of queries by one of keys, cut both ways.
static void check_views(const struct subject *s, int32_t q0, int32_t q1, int32_t k0, int32_t k1) {
  if (q0 >= q1 || k0 >= k1)
    return;
  for (int i = 0; i < TILES; i++) {
    const int32_t tile_q = tiles_tested[i][0], tile_k = tiles_tested[i][1];
    for (int32_t q = q0; q < q1; q += tile_q) {
      const struct tile_view v = {q, rep_min(q + tile_q, q1), k0, k1, tile_k};
      check_walk(s, &v, true);
    }
    for (int32_t k = k0; k < k1; k += tile_k) {
      const struct tile_view v = {q0, q1, k, rep_min(k + tile_k, k1), tile_q};
      check_walk(s, &v, false);
    }
  }
}

static void check_pairs(const struct subject *s) {
  const int32_t n = s->m->seqlen, step = n > 200 ? 29 : 1;
  static const int32_t widths[] = {1, 7, 63, 64, 65, 128, 250, 1000};
  for (int32_t q = 0; q < n; q += step) {
    for (int32_t k = 0; k < n; k++)
      assert_int_equal(s->ops->allows(s->rep, s->head, q, k), mask_allows(s->m, s->head, q, k));
    for (size_t i = 0; i < sizeof widths / sizeof *widths; i++)
      for (int32_t k = 0; k < n; k += 1 + n / 3) {
        const int32_t count = rep_min(widths[i], n - k), words = (count + 63) / 64;
        uint64_t bits[17];
        memset(bits, 0xa5, sizeof bits);
        s->ops->row_bits(s->rep, s->head, q, k, count, bits);
        for (int32_t j = 0; j < words * 64; j++)
          if ((int)(bits[j / 64] >> (j % 64) & 1) !=
              (j < count && mask_allows(s->m, s->head, q, k + j)))
            fail_msg("%s on %s variant %d, S %d, head %d: bit of (%d, %d) is wrong", s->ops->name,
                     mask_name(s->m->kind), s->variant, n, s->head, q, k + j);
        assert_true(bits[words] == UINT64_C(0xa5a5a5a5a5a5a5a5)); // nothing written behind
      }
  }
}

static void check_case(enum mask_kind kind, int32_t n, int variant, const char *rep_name) {
  struct mask m;
  assert_int_equal(case_mask(&m, kind, n, variant), 0);
  const struct rep_ops *ops = rep_find(rep_name);
  struct subject s = {
      .m = &m, .ops = ops, .variant = variant, .by_block = !strcmp(rep_name, "blockmap")};
  s.rep = malloc(ops->size);
  s.sum = calloc((size_t)(n + 1) * (size_t)(n + 1), sizeof *s.sum);
  assert_non_null(s.rep);
  assert_non_null(s.sum);
  assert_int_equal(ops->build(s.rep, &m), 0);
  for (s.head = 0; s.head < (m.heads ? m.heads : 1); s.head++) {
    sum_visible(&s);
    check_pairs(&s);
    check_views(&s, 0, n, 0, n);
    check_views(&s, n / 3, n, n / 5, n - n / 7);
    check_views(&s, n > 128 ? 128 : 0, n - n / 4, n > 64 ? 64 : 0, n);
    const struct tile_view nothing[] = {{n / 2, n / 2, 0, n, 64}, {0, n, n / 2, n / 2, 64}};
    for (int i = 0; i < 2; i++)
      check_walk(&s, &nothing[i], i == 1);
    assert_true(ops->next_keys(s.rep, s.head, &nothing[0], 0).begin ==
                ops->next_keys(s.rep, s.head, &nothing[0], 0).end);
    assert_true(ops->next_queries(s.rep, s.head, &nothing[1], 0).begin ==
                ops->next_queries(s.rep, s.head, &nothing[1], 0).end);
  }
  ops->release(s.rep);
  free(s.rep);
  free(s.sum);
  mask_free(&m);
}

// Every kind that the representation expresses; the longest length in fewer variants.
static void check_rep(void **state) {
  const char *name = *state;
  for (int kind = 0; kind < MASK_KINDS; kind++) {
    struct mask any = {.kind = (enum mask_kind)kind};
    if (rep_find(name)->supports(&any))
      continue;
    for (int i = 0; i < LENGTHS; i++)
      for (int variant = 0; variant < CASE_VARIANTS; variant++)
        if (lengths[i] < 1000 || variant % 3 == kind % 3)
          check_case((enum mask_kind)kind, lengths[i], variant, name);
  }
}

// Which masks each expresses (study 4 and 5); a refusal is a sentence that names it.
static void check_support(void **state) {
  static const struct {
    const char *name;
    uint32_t kinds;
  } expected[] = {{"dense", 0xffff},    {"band", 0x303f},      {"columns", 0x3fff},
                  {"blockmap", 0xffff}, {"blocklist", 0x4000}, {"varblock", 0xc000},
                  {"spans", 0x3fff}};
  (void)state;
  for (int i = 0; i < 7; i++) {
    assert_string_equal(rep_table[i]->name, expected[i].name);
    assert_ptr_equal(rep_find(expected[i].name), rep_table[i]);
    for (int kind = 0; kind < MASK_KINDS; kind++) {
      const struct mask m = {.kind = (enum mask_kind)kind};
      const char *why = rep_table[i]->supports(&m);
      assert_int_equal(!why, expected[i].kinds >> kind & 1);
      assert_true(!why || !strncmp(why, expected[i].name, strlen(expected[i].name)));
    }
  }
  assert_null(rep_table[7]);
  assert_null(rep_find("bands"));
}

#define REP_TEST(name) \
  { name, check_rep, NULL, NULL, name }

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(check_support),
      REP_TEST("dense"),
      REP_TEST("band"),
      REP_TEST("columns"),
      REP_TEST("blockmap"),
      REP_TEST("blocklist"),
      REP_TEST("varblock"),
      REP_TEST("spans"),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
