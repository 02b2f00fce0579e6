// split_test.c -- which items of the forward kernel are cut (split.h), for 132 multiprocessors: parts stand
// for the works that they say, each key tile of an item in one part, in the order of keys, and each round of
// a gathered one; no more of them than two a CTA; and what is known to gain or to lose by it is cut or is not.
// Runs on a GPU (`make test-gpu`) and on an emulated one (`make test-emulated`), where it prints what the
// README shows.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "../rep/cases.h"
#include "../../src/mask_draw.h"
#include "../rep_device.h"
#include "../test_device.h"
#include "gather.h"
#include "split.h"

#ifdef LONGCA_CUDA

enum { CTAS = 132, TILE = 128, ROWS_BITS = 8 }; // as in forward_shared.cuh

// A list and its parts on the host.
struct copy {
  struct worklist list;
  struct split split;
  struct worklist_item *items;
  struct worklist_run *runs;
  struct split_part *parts;
};

static void *fetch(const void *device, size_t bytes) {
  void *host = malloc(bytes + 1);
  assert_non_null(host);
  assert_int_equal(device_download(host, device, bytes), 0);
  return host;
}

static void make_copy(struct copy *c, const char *rep_name, const struct attn_problem *p) {
  struct rep_device rep;
  if (rep_device_open(&rep, rep_find(rep_name), p->mask) ||
      worklist_build(&c->list, &rep, p, WORKLIST_KEYS, TILE, TILE, false) ||
      split_build(&c->split, &c->list, p, CTAS))
    fail_msg("%s", attn_error());
  const size_t items = (size_t)c->list.view.classes * (size_t)c->list.view.count * sizeof *c->items;
  c->items = fetch(c->list.view.items, items);
  c->runs = fetch(c->list.view.runs, (size_t)c->list.bytes - items - 8);
  c->parts = fetch(c->split.view.parts, (size_t)c->split.view.count * sizeof *c->parts);
  rep_device_close(&rep);
}
static void free_copy(struct copy *c) {
  worklist_free(&c->list);
  split_free(&c->split);
  free(c->items);
  free(c->runs);
  free(c->parts);
}

// The work of an item and head where so many items of a class are handed out: sections of heads, in them
// items, the longest first, in them heads.
static int32_t work_of(const struct attn_problem *p, int32_t count, int32_t rank, int32_t head) {
  const int32_t section = split_section(p), before = head / section * section;
  const int32_t beside = p->heads_q - before < section ? p->heads_q - before : section;
  return before * count + rank * beside + head - before;
}

static void expect_parts(const struct copy *c, const struct attn_problem *p) {
  const struct worklist_view *list = &c->list.view;
  const struct split_view *v = &c->split.view;
  int32_t at = 0, works = 0, last = -1;
  assert_true(v->count <= 2 * CTAS);
  int32_t *arrived = fetch(v->arrived, (size_t)v->count * 8 * sizeof *arrived);
  for (int32_t i = 0; i < 8 * v->count; i++)
    assert_int_equal(arrived[i], 0);
  free(arrived);
  // Every work in turn; those that parts stand for follow each other.
  for (int32_t head0 = 0; v->count && head0 < p->heads_q; head0 += split_section(p))
    for (int32_t rank = 0; rank < list->count; rank++)
      for (int32_t head = head0; head < head0 + split_section(p) && head < p->heads_q; head++) {
        const int32_t work = work_of(p, list->count, rank, head);
        assert_int_equal(work, last + 1);
        last = work;
        if (work < v->begin || work >= v->begin + v->works)
          continue;
        const int32_t cls = list->classes == 1 ? 0 : head / (p->heads_q / p->heads_kv);
        const struct worklist_item *item = &c->items[cls * list->count + rank];
        const int32_t first = at, parts = c->parts[at].parts;
        int32_t run = item->run_begin, skip = 0;
        for (; at < first + parts; at++) {
          const struct split_part *part = &c->parts[at];
          assert_true(at < v->count && part->first == first && part->parts == parts);
          assert_true(part->row == item->row && part->pos == item->pos && part->head == head);
          assert_int_equal(part->rows & ((1 << ROWS_BITS) - 1), item->rows);
          assert_int_equal(part->rows >> ROWS_BITS, parts > 1 ? at + 1 : 0);
          assert_true(parts == 1 || part->tiles >= 4);
          if (part->tiles)
            assert_true(part->run == run && part->skip == skip);
          for (int32_t t = 0; t < part->tiles; t++)
            if (++skip == c->runs[run].tiles)
              run++, skip = 0;
        }
        assert_true(run == item->run_end && skip == 0);
        if (works == 0 || works == v->works - 1)
          assert_true(parts > 1);
        works++;
      }
  assert_true(at == v->count && works == v->works);
  const struct split_view seen = split_of(&c->split, p, c->list.seen);
  if (v->count) { // the same works where those without keys are not counted
    assert_int_equal(seen.begin, work_of(p, c->list.seen, c->split.rank[0], c->split.head[0]));
    assert_int_equal(seen.begin + seen.works - 1,
                     work_of(p, c->list.seen, c->split.rank[1], c->split.head[1]));
  }
}

static int64_t steps_of(const struct copy *c, const struct attn_problem *p) {
  return c->list.tiles * (c->list.view.classes == 1 ? p->heads_q : p->heads_q / p->heads_kv);
}

// How much sooner the last CTA ends, in percent of what each has to do; -1: nothing is cut.
static double check_case(const struct mask *m, const char *rep, int32_t heads_q, int32_t heads_kv,
                         const struct attn_segment *q, int32_t segs, int32_t rows) {
  const struct attn_problem p = {.mask = m,
                                 .heads_q = heads_q,
                                 .heads_kv = heads_kv,
                                 .dim = 128,
                                 .rows_q = rows,
                                 .rows_k = m->seqlen,
                                 .q_seg = q,
                                 .q_segs = segs};
  struct copy c;
  make_copy(&c, rep, &p);
  expect_parts(&c, &p);
  const double gain = c.split.whole_steps - c.split.split_steps;
  const double percent = c.split.view.count ? 100 * gain * CTAS / (double)steps_of(&c, &p) : -1;
  if (percent > 0)
    print_message(
        "  %s of %dK, heads %d:%d: %.1f steps a CTA, %d items in %d parts, %.2f %% sooner\n",
        mask_name(m->kind), m->seqlen / 1024, heads_q, heads_kv, (double)steps_of(&c, &p) / CTAS,
        c.split.view.works, c.split.view.count, percent);
  free_copy(&c);
  return percent;
}

static double check_mask(enum mask_kind kind, int32_t length, int32_t heads_q, int32_t heads_kv) {
  const int32_t documents[3] = {length / 2, length / 8, length - length / 2 - length / 8};
  struct mask m;
  char err[200];
  if (mask_init(&m, kind, length, documents, 3, 1024, length / 8, 0, err, sizeof err))
    fail_msg("%s", err);
  const double gain = check_case(&m, kind == MASK_GLOBAL_SLIDING_WINDOW ? "columns" : "band",
                                 heads_q, heads_kv, NULL, 0, length);
  mask_free(&m);
  return gain;
}

// The study's lengths. What is cut should gain, and most in FULL.
static void test_lengths(void **state) {
  static const int32_t thousands[] = {1, 2, 4, 8, 16, 32, 48};
  static const enum mask_kind kinds[] = {MASK_FULL, MASK_CAUSAL, MASK_SLIDING_WINDOW_CAUSAL,
                                         MASK_FULL_DOCUMENT, MASK_GLOBAL_SLIDING_WINDOW};
  (void)state;
  need_device();
  for (int h = 0; h < 2; h++)
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++)
      for (int l = 0; l < 7; l++) {
        const double gain = check_mask(kinds[k], 1024 * thousands[l], h ? 8 : 64, h ? 1 : 8);
        if (!h && kinds[k] == MASK_FULL && thousands[l] == 8)
          assert_true(gain > 1.5 && gain < 3.1); // 4096 items: 31 rounds and 4 items
        if (!h && (kinds[k] == MASK_SLIDING_WINDOW_CAUSAL || kinds[k] == MASK_CAUSAL))
          assert_true(gain < 0); // short items; short ones at the end
      }
}

// Fewer items than CTAs are all cut, as many of them as there are.
static void test_few(void **state) {
  static const struct attn_segment q = {0, 4000, 129};
  struct mask m;
  (void)state;
  need_device();
  assert_int_equal(case_mask(&m, MASK_FULL, 16 * 1024 + 1, 0), 0);
  for (int32_t heads = 1; heads <= 17; heads += 8)
    assert_true(check_case(&m, "band", heads, 1, &q, 1, 129) > 50 * (heads < 17));
  mask_free(&m);
}

// Segments with rows in none, which see nothing, between them; and lists a KV head.
static void test_layouts(void **state) {
  static const struct attn_segment q[2] = {{130, 2000, 1000}, {1500, 100, 257}};
  struct mask m;
  (void)state;
  need_device();
  assert_int_equal(case_mask(&m, MASK_FULL_DOCUMENT, 8191, 4), 0);
  assert_true(check_case(&m, "band", 5, 1, q, 2, 2000) > 0);
  mask_free(&m);
  assert_int_equal(case_mask(&m, MASK_UNIFORM_BLOCK_SPARSE, 8191, 5),
                   0); // three heads, sides of 200
  assert_true(check_case(&m, "varblock", 3, 3, q, 2, 2000) > 0);
  assert_true(check_case(&m, "blocklist", 6, 3, q, 2, 2000) > 0);
  mask_free(&m);
}

// Works are heads side by side; gathering, P query heads of a group are one.
static void expect_gathered(const struct gather *list, const struct split_view *v,
                            const struct attn_problem *p) {
  const struct gather_view *g = &list->view;
  const int32_t units = p->heads_q / g->heads, group = units / p->heads_kv;
  const struct attn_problem packed = {
      .heads_q = units, .heads_kv = p->heads_kv, .dim = p->dim, .rows_k = p->rows_k};
  const size_t count = (size_t)g->classes * (size_t)g->count;
  struct gather_tile *tiles = fetch(g->tiles, count * sizeof *tiles);
  struct split_part *parts = fetch(v->parts, (size_t)v->count * sizeof *parts);
  assert_int_equal(split_section(&packed), split_section(p) / g->heads);
  assert_true(v->count <= 2 * CTAS);
  int32_t at = 0, works = 0;
  for (int32_t head = 0; head < units; head++)
    for (int32_t rank = 0; rank < g->count; rank++)
      works += (uint32_t)(work_of(&packed, g->count, rank, head) - v->begin) < (uint32_t)v->works;
  assert_int_equal(works, v->works);
  for (int32_t work = v->begin; work < v->begin + v->works; work++) {
    const int32_t tile = parts[at].row, first = at, n = parts[at].parts, head = parts[at].head;
    const struct gather_tile *t = &tiles[tile];
    const int32_t cls = g->classes == 1 ? 0 : head / group, rank = tile - cls * g->count;
    const int32_t for_both = t->end - t->begin - 2 * t->pairs;
    assert_int_equal(work_of(&packed, g->count, rank, head), work);
    if (work == v->begin || work == v->begin + v->works - 1)
      assert_true(n > 1);
    for (int32_t stage = t->begin; at < first + n; at++) {
      const struct split_part *part = &parts[at];
      assert_true(at < v->count && part->row == tile && part->head == head && part->first == first);
      assert_true(part->parts == n && part->run == stage && part->skip == 0);
      assert_int_equal(part->rows, n > 1 ? (at + 1) << ROWS_BITS : 0);
      stage += part->tiles;
      const int32_t behind = stage - t->begin - for_both; // not between the two stages of a round
      assert_true(behind <= 0 || behind % 2 == 0);
      assert_true(n == 1 || part->tiles >= 4);
      if (at == first + n - 1)
        assert_int_equal(stage, t->end);
    }
  }
  assert_int_equal(at, v->count);
  free(tiles);
  free(parts);
}

// How much sooner the last CTA ends, in percent of what each has to do; prints that, and what is kept of what is
// computed.
static double check_gathered(enum mask_kind kind, int32_t length, int32_t block, double ratio,
                             int32_t heads_q, int32_t heads_kv) {
  const struct mask_recipe recipe = {
      .kind = kind, .seqlen = length, .block = block, .heads_kv = heads_kv, .ratio = ratio};
  struct mask m;
  struct rep_device rep;
  struct gather list;
  struct split split;
  char err[200];
  if (mask_draw_nth(&m, 1, 0, &recipe, err, sizeof err))
    fail_msg("%s", err);
  const struct attn_problem p = {.mask = &m,
                                 .heads_q = heads_q,
                                 .heads_kv = heads_kv,
                                 .dim = 128,
                                 .rows_q = length,
                                 .rows_k = length};
  if (rep_device_open(&rep, rep_find(kind == MASK_UNIFORM_BLOCK_SPARSE ? "blocklist" : "varblock"),
                      &m) ||
      gather_build(&list, &rep, &p) || split_gathered(&split, &list, &p, CTAS))
    fail_msg("%s", attn_error());
  expect_gathered(&list, &split.view, &p);
  const double steps = (double)list.rounds * heads_q / list.view.heads / list.view.classes;
  const double gain = split.whole_steps - split.split_steps;
  const double percent = split.view.count ? 100 * gain * CTAS / steps : -1;
  print_message("  %s of %dK, %d, kept %.1f, heads %d:%d: %.3f of what is computed; %.1f steps a "
                "CTA, %d of %d "
                "items in %d parts, %.2f %% sooner\n",
                mask_name(kind), length / 1024, block, ratio, heads_q, heads_kv,
                mask_area(&m) * heads_q / (steps * TILE * TILE), steps / CTAS, split.view.works,
                list.view.count * heads_q / list.view.heads, split.view.count, percent);
  split_free(&split);
  gather_free(&list);
  rep_device_close(&rep);
  mask_free(&m);
  return percent;
}

// The lists that a gathered forward is measured on.
static void test_gathered(void **state) {
  static const int32_t sides[] = {256, 512, 1024};
  static const double ratios[] = {0.2, 0.5, 0.8};
  (void)state;
  need_device();
  for (int s = 0; s < 3; s++)
    for (int r = 0; r < 3; r++) {
      const double gain =
          check_gathered(MASK_VARIABLE_BLOCK_SPARSE, 16384, sides[s], ratios[r], 4, 4);
      assert_true(gain > 2 && gain < 20); // four rounds of items, and a few more
      check_gathered(MASK_VARIABLE_BLOCK_SPARSE, 16384, sides[s], ratios[r], 64, 8);
    }
  for (int r = 0; r < 3; r++) {
    check_gathered(MASK_UNIFORM_BLOCK_SPARSE, 16384, 64, ratios[r], 4, 4);
    check_gathered(MASK_UNIFORM_BLOCK_SPARSE, 16384, 64, ratios[r], 64, 8);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_gathered),
      cmocka_unit_test(test_lengths),
      cmocka_unit_test(test_few),
      cmocka_unit_test(test_layouts),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}

#else

int main(void) { return skip_program(device_error()); }

#endif
