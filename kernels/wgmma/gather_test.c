// gather_test.c -- gather lists (gather.h) as the forward kernel reads them, against the mask: every query
// row stands in one tile of its class, sees each of its keys once and no other key; both warpgroups take
// turns; the longest tiles come first; the tiles of a block row share one list; and the bytes are the
// same each time. Runs on a GPU (`make test-gpu`) and on an emulated one (`make test-emulated`).
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
#include "gather.h"

#ifdef LONGCA_CUDA

enum { ONLY = 16 }; // fwd_flags (forward_shared.cuh)
enum { ROWS_MAX = 640 };

// Of a mask of 600: with gaps, and neighbouring rows far apart; block rows that two segments share.
static const struct layout {
  const char *name;
  struct attn_segment q[2], k[2];
  int32_t rows_q, rows_k;
} layouts[] = {
    {.name = "whole"},
    {"apart", {{3, 450, 149}, {170, 50, 150}}, {{0, 300, 240}, {240, 0, 99}}, 319, 345},
    {"adjacent", {{0, 64, 250}, {250, 314, 69}}, {{0, 0, 384}, {384, 384, 216}}, 320, 600},
};

// A list on the host.
struct copy {
  struct gather list;
  struct gather_tile *tiles;
  int32_t *stages; // words of gather_stage: row [pieces], valid [2][pieces] bytes, flags
  int64_t stage_words;
};

static void copy_list(struct copy *c, const struct rep_device *rep, const struct attn_problem *p) {
  if (gather_build(&c->list, rep, p))
    fail_msg("%s", attn_error());
  const struct gather_view *v = &c->list.view;
  const size_t tiles = sizeof *c->tiles * (size_t)v->classes * (size_t)v->count;
  const size_t stages = (size_t)c->list.bytes - tiles - 8;
  int32_t counter[2] = {1, 1};
  c->stage_words = v->pieces == 2 ? 4 : 8;
  assert_int_equal(stages % (size_t)(4 * c->stage_words), 0);
  c->tiles = malloc(tiles + 1);
  c->stages = malloc(stages + 1);
  assert_true(c->tiles && c->stages);
  assert_int_equal(device_download(c->tiles, v->tiles, tiles), 0);
  assert_int_equal(device_download(c->stages, v->stages, stages), 0);
  assert_int_equal(device_download(counter, v->counter, sizeof counter), 0);
  assert_true(counter[0] == 0 && counter[1] == 0);
}
static void copy_free(struct copy *c) {
  gather_free(&c->list);
  free(c->tiles);
  free(c->stages);
}

// Position of each row, and which segment it is in; -1: none.
static void positions(const struct attn_segment *seg, int32_t segs, int32_t rows, int32_t *pos,
                      int32_t *of) {
  for (int32_t r = 0; r < rows; r++)
    pos[r] = of[r] = -1;
  for (int32_t s = 0; s < segs; s++)
    for (int32_t i = 0; i < seg[s].len; i++)
      pos[seg[s].row + i] = seg[s].pos + i, of[seg[s].row + i] = s;
}

// How often half h of a tile sees each key row; its steps. The order of steps is what turns need, and parts
// (split.h): stages for both, then a stage each in turn.
static int32_t half_sees(const struct copy *c, const struct gather_tile *t, int h, int32_t rows_k,
                         int32_t *times) {
  const int32_t pieces = c->list.view.pieces, side = GATHER_KEYS / pieces;
  int32_t steps = 0, ahead = 0; // steps of half 0 before half 1's
  for (int32_t s = t->begin; s < t->end; s++) {
    const int32_t *stage = c->stages + s * c->stage_words;
    const uint8_t *valid = (const uint8_t *)(stage + pieces) + h * pieces;
    const int32_t flags = stage[pieces + pieces / 2];
    ahead += (flags & ONLY) - (flags & ONLY << 1) / 2;
    assert_true(ahead == 0 || ahead == ONLY);
    assert_int_equal(flags != 0, s >= t->end - 2 * t->pairs);
    if (flags & (h ? ONLY : ONLY << 1))
      continue;
    steps++;
    for (int32_t i = 0; i < pieces; i++)
      for (int32_t k = 0; k < valid[i]; k++) {
        assert_true(k < side && stage[i] + k < rows_k);
        times[stage[i] + k]++;
      }
  }
  assert_int_equal(ahead, 0);
  return steps;
}

// Where both halves see the same, ends of stretches and what is missing to whole stages come in as few stages as
// can be, the first ones.
static void expect_few_partial(const struct copy *c, const struct gather_tile *t) {
  const int32_t pieces = c->list.view.pieces, side = GATHER_KEYS / pieces;
  int32_t hidden = 0, partial = 0;
  for (int32_t s = t->begin; s < t->end; s++) {
    const uint8_t *valid = (const uint8_t *)(c->stages + s * c->stage_words + pieces);
    const int32_t before = hidden;
    for (int32_t i = 0; i < pieces; i++)
      hidden += valid[i] < side;
    if (hidden > before)
      assert_int_equal(partial++, s - t->begin);
  }
  assert_int_equal(partial, (hidden + pieces - 1) / pieces);
}

static void expect_list(const struct copy *c, const struct attn_problem *p) {
  static int32_t q_pos[ROWS_MAX], k_pos[ROWS_MAX], q_of[ROWS_MAX], k_of[ROWS_MAX];
  const struct attn_segment q = {0, 0, p->rows_q}, k = {0, 0, p->rows_k};
  const struct gather_view *v = &c->list.view;
  const struct mask *m = p->mask;
  int64_t rounds = 0;
  int32_t stages = 0; // of the tiles so far: lists follow each other
  positions(p->q_seg ? p->q_seg : &q, p->q_seg ? p->q_segs : 1, p->rows_q, q_pos, q_of);
  positions(p->k_seg ? p->k_seg : &k, p->k_seg ? p->k_segs : 1, p->rows_k, k_pos, k_of);
  for (int32_t head = 0; head < v->classes; head++) {
    int32_t in_tiles[ROWS_MAX] = {0}, before = INT32_MAX, list_of[2][ROWS_MAX];
    memset(list_of, -1, sizeof list_of); // where the list of a segment's block row begins
    for (int32_t i = 0; i < v->count; i++) {
      const struct gather_tile *t = &c->tiles[head * v->count + i];
      int32_t steps[2] = {0, 0};
      if (t->begin == t->end) { // no tile: so are all after it
        before = 0;
        continue;
      }
      if (t->begin != stages) // the list of the tile before, or the next
        assert_true(i && !memcmp(&t->begin, &t[-1].begin, 8) && v->heads > 1);
      stages = t->end;
      if (v->heads > 1)
        expect_few_partial(c, t);
      for (int h = 0; h < 2; h++) {
        int32_t times[ROWS_MAX] = {0};
        steps[h] = half_sees(c, t, h, p->rows_k, times);
        assert_true(t->rows[h] >= 0 && t->rows[h] <= GATHER_ROWS / v->heads);
        for (int32_t r = t->row[h]; r < t->row[h] + t->rows[h]; r++) {
          in_tiles[r]++;
          for (int32_t key = 0; key < p->rows_k; key++) {
            const bool sees =
                q_pos[r] >= 0 && k_pos[key] >= 0 && mask_allows(m, head, q_pos[r], k_pos[key]);
            if (times[key] != sees)
              fail_msg("class %d, row %d, key %d: %d times for %d", head, r, key, times[key], sees);
          }
          if (v->heads > 1 && q_pos[r] >= 0) { // one list a block row
            const int32_t *rows = m->row_begin + (int64_t)head * (m->blocks_q + 1);
            int32_t *list = &list_of[q_of[r]][mask_find(rows, m->blocks_q, q_pos[r])];
            assert_true(*list < 0 || *list == t->begin);
            *list = t->begin;
          }
        }
      }
      assert_int_equal(steps[0], steps[1]);
      assert_true(steps[0] <= before);
      before = steps[0];
      rounds += steps[0];
    }
    for (int32_t r = 0; r < p->rows_q; r++)
      assert_int_equal(in_tiles[r], 1);
  }
  assert_int_equal(rounds, c->list.rounds);
  const int64_t tiles = (int64_t)v->classes * v->count;
  assert_int_equal(c->list.bytes, 4 * c->stage_words * stages + 28 * tiles + 8);
}

// Builds the list of one case twice. Returns its rounds.
static int64_t check_case(const char *rep_name, const struct mask *m, const struct layout *layout,
                          int32_t group, int32_t heads) {
  struct attn_problem p = {.mask = m,
                           .heads_q = m->heads * group,
                           .heads_kv = m->heads,
                           .rows_q = m->seqlen,
                           .rows_k = m->seqlen};
  struct rep_device rep;
  struct copy c, again;
  if (layout->rows_q) {
    p.rows_q = layout->rows_q, p.rows_k = layout->rows_k;
    p.q_seg = layout->q, p.k_seg = layout->k;
    p.q_segs = p.k_segs = 2;
  }
  assert_int_equal(rep_device_open(&rep, rep_find(rep_name), m), 0);
  copy_list(&c, &rep, &p);
  copy_list(&again, &rep, &p);
  const struct gather_view *v = &c.list.view;
  assert_int_equal(v->heads, heads);
  expect_list(&c, &p);
  const size_t tiles = sizeof *c.tiles * (size_t)v->classes * (size_t)v->count;
  assert_int_equal(c.list.bytes, again.list.bytes);
  assert_int_equal(c.list.rounds, again.list.rounds);
  assert_memory_equal(c.tiles, again.tiles, tiles);
  assert_memory_equal(c.stages, again.stages, (size_t)c.list.bytes - tiles - 8);
  const int64_t rounds = c.list.rounds;
  copy_free(&c);
  copy_free(&again);
  rep_device_close(&rep);
  return rounds;
}

// Every variant of a grid with every group; layouts and representations in turn, each with each.
static void test_lists(void **state) {
  static const int32_t lengths[] = {1, 17, 129, 600};
  static const struct {
    int32_t group, heads;
  } groups[] = {{1, 1}, {8, 8}, {3, 1}, {6, 2}, {64, 64}, {192, 64}};
  (void)state;
  need_device();
  for (int l = 0; l < 4; l++)
    for (int variant = 0; variant < CASE_VARIANTS; variant++)
      for (int i = 0; i < 6; i++) {
        const struct layout *layout = &layouts[lengths[l] == 600 ? (variant + i) % 3 : 0];
        const int rep = (variant + 2 * i) % 3;
        struct mask m;
        assert_int_equal(case_mask(&m, rep ? MASK_UNIFORM_BLOCK_SPARSE : MASK_VARIABLE_BLOCK_SPARSE,
                                   lengths[l], variant),
                         0);
        check_case(rep == 2 ? "blocklist" : "varblock", &m, layout, groups[i].group,
                   groups[i].heads);
        mask_free(&m);
      }
}

// What is computed beyond what is kept. Blocks of 64, packed: an odd piece of a list.
static void test_packed_loses_a_piece(void **state) {
  struct mask m;
  int64_t rounds = 0;
  (void)state;
  need_device();
  assert_int_equal(case_mask(&m, MASK_UNIFORM_BLOCK_SPARSE, 640, 0), 0);
  for (int32_t r = 0; r < m.heads * m.blocks_q; r++) {
    int32_t kept = 0;
    for (int32_t w = 0; w < m.kept_words; w++)
      kept += __builtin_popcount(m.kept[r * m.kept_words + w]);
    rounds += 4 * (kept > 1 ? (kept + 1) / 2 : 1); // tiles of 16 positions by 8 heads
  }
  assert_int_equal(check_case("blocklist", &m, &layouts[0], 8, 8), rounds);
  mask_free(&m);
}

// Neighbours that share no key, 4 blocks of 64 each: nothing, as every round is a stage each.
static void test_turns_lose_nothing(void **state) {
  struct mask m;
  (void)state;
  need_device();
  assert_int_equal(case_mask(&m, MASK_UNIFORM_BLOCK_SPARSE, 512, 4), 0);
  for (int32_t r = 0; r < m.heads * m.blocks_q; r++)
    ((uint32_t *)m.kept)[r] = r % 2 ? 0xaa : 0x55;
  assert_int_equal(check_case("blocklist", &m, &layouts[0], 1, 1), m.heads * 4 * 2);
  mask_free(&m);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_lists),
      cmocka_unit_test(test_packed_loses_a_piece),
      cmocka_unit_test(test_turns_lose_nothing),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}

#else

int main(void) { return skip_program(device_error()); }

#endif
