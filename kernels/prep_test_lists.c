// prep_test_lists.c -- part of prep_test: a work list built on the device, run for run, against a plain
// walk over the representation's host functions.
#include "prep_test.h"
#include "worklist.h"

#ifdef LONGCA_CUDA

struct plain_list {
  struct worklist_item *items;
  struct worklist_run *runs;
  int32_t count, n_runs;
  int64_t tiles, partial;
  int32_t longest;
};

// What a list is, said as plainly as possible: the walk of one item over one segment.
struct plain_walk {
  const struct rep_ops *ops;
  const void *rep;
  int32_t head, outer, inner;
  bool keys, halves;
};

static int32_t plain_halves(const struct plain_walk *w, const struct worklist_item *item,
                            int32_t at, int32_t valid) {
  int32_t bits = 0;
  for (int h = 0; h < 2; h++) {
    const int32_t half = w->outer / 2, begin = item->pos + h * half;
    const int32_t end = item->pos + (h || item->rows < half ? item->rows : half);
    const enum tile_class seen =
        begin >= end ? TILE_EMPTY
        : w->keys    ? w->ops->classify(w->rep, w->head, begin, end, at, at + valid)
                     : w->ops->classify(w->rep, w->head, at, at + valid, begin, end);
    bits |= (seen != TILE_EMPTY ? WORKLIST_SEEN << h : 0) |
            (seen == TILE_FULL ? WORKLIST_WHOLE << h : 0);
  }
  return bits;
}

// One more tile of the item: joined to the last run or a run of its own.
static void plain_add(struct plain_list *list, struct worklist_item *item, int32_t inner,
                      int32_t row, int32_t pos, int32_t valid) {
  struct worklist_run *last = &list->runs[list->n_runs - 1];
  const int32_t goes_on = valid ? inner | (valid & ~0xffff) : 0;
  if (item->run_end > item->run_begin && last->row + last->tiles * inner == row &&
      last->pos + last->tiles * inner == pos && last->valid == goes_on) {
    last->tiles++;
    last->valid = valid;
  } else {
    list->runs[list->n_runs++] = (struct worklist_run){row, pos, 1, valid};
    item->run_end++;
  }
  item->tiles++;
  item->partial += valid != 0;
}

static void plain_walk(const struct plain_walk *w, const struct attn_segment *seg,
                       struct worklist_item *item, struct plain_list *list) {
  const int32_t end = seg->pos + seg->len, tail = item->pos + item->rows;
  const struct tile_view view = w->keys
                                    ? (struct tile_view){item->pos, tail, seg->pos, end, w->inner}
                                    : (struct tile_view){seg->pos, end, item->pos, tail, w->inner};
  struct tile_run run;
  for (int32_t from = 0; from < seg->len; from = run.end) {
    run = (w->keys ? w->ops->next_keys : w->ops->next_queries)(w->rep, w->head, &view, from);
    if (run.begin >= run.end)
      return;
    for (int32_t t = run.begin; t < run.end; t++) {
      const int32_t at = t * w->inner, rest = seg->len - at;
      const int32_t valid = rest < w->inner ? rest : w->inner;
      const bool whole = run.full && valid == w->inner;
      const int32_t halves = w->halves && !whole ? plain_halves(w, item, seg->pos + at, valid) : 0;
      if (whole || !w->halves || halves)
        plain_add(list, item, w->inner, seg->row + at, seg->pos + at, whole ? 0 : valid | halves);
    }
  }
}

static int longest_first(const void *a, const void *b) {
  const struct worklist_item *x = a, *y = b;
  return x->tiles != y->tiles ? (x->tiles < y->tiles) - (x->tiles > y->tiles)
                              : (x->row > y->row) - (x->row < y->row);
}

// Of a mask of 600: with gaps, and neighbouring rows far apart; and so that a run goes on in the next.
static const struct {
  const char *name;
  struct attn_segment outer[2], inner[2];
} layouts[] = {
    {.name = "whole"},
    {"apart", {{3, 50, 150}, {170, 450, 149}}, {{0, 300, 240}, {240, 0, 99}}},
    {"adjacent", {{0, 64, 256}, {256, 320, 63}}, {{0, 0, 384}, {384, 384, 216}}},
};

static struct {
  int layout;
  int32_t outer, inner;
  bool keys, halves;
} list_case;

// The list by hand: items of each class, sorted, with their runs moved to where they belong.
static void plain_build(struct plain_list *list, const struct rep_ops *ops, const void *rep,
                        const struct attn_problem *p) {
  const int32_t classes = p->mask->heads > 1 ? p->mask->heads : 1, outer = list_case.outer;
  const struct attn_segment all_q = {0, 0, p->rows_q}, all_k = {0, 0, p->rows_k};
  const struct attn_segment *q = p->q_seg ? p->q_seg : &all_q, *k = p->k_seg ? p->k_seg : &all_k;
  const struct attn_segment *outside = list_case.keys ? q : k, *inside = list_case.keys ? k : q;
  const int out = list_case.keys ? (p->q_seg ? p->q_segs : 1) : p->k_seg ? p->k_segs : 1;
  const int in = list_case.keys ? (p->k_seg ? p->k_segs : 1) : p->q_seg ? p->q_segs : 1;
  const int32_t rows = list_case.keys ? p->rows_q : p->rows_k;
  const size_t items_max = (size_t)classes * (size_t)(rows / outer + 8);
  const size_t tiles_max = items_max * (size_t)((p->rows_q + p->rows_k) / list_case.inner + 8);
  *list = (struct plain_list){.items = calloc(items_max, sizeof *list->items),
                              .runs = calloc(tiles_max, sizeof *list->runs)};
  struct worklist_run *sorted = calloc(tiles_max, sizeof *sorted);
  assert_true(list->items && list->runs && sorted);
  int32_t n = 0, moved = 0;
  for (int32_t c = 0; c < classes; c++) {
    const int32_t first = n;
    const struct plain_walk walk = {
        ops, rep, c, outer, list_case.inner, list_case.keys, list_case.halves};
    for (int32_t row = 0; row < rows;) {
      int32_t end = rows, pos = -1; // of the segment, or of the rows in none
      for (int s = out - 1; s >= 0; s--)
        if (row < outside[s].row)
          end = outside[s].row;
        else if (row < outside[s].row + outside[s].len)
          end = outside[s].row + outside[s].len, pos = outside[s].pos + row - outside[s].row, s = 0;
      struct worklist_item *item = &list->items[n++];
      *item = (struct worklist_item){.row = row,
                                     .pos = pos,
                                     .rows = end - row < outer ? end - row : outer,
                                     .run_begin = list->n_runs,
                                     .run_end = list->n_runs,
                                     .reserved = c};
      for (int s = 0; s < in && pos >= 0; s++)
        plain_walk(&walk, &inside[s], item, list);
      list->tiles += item->tiles;
      list->partial += item->partial;
      list->longest = item->tiles > list->longest ? item->tiles : list->longest;
      row += item->rows;
    }
    qsort(list->items + first, (size_t)(n - first), sizeof *list->items, longest_first);
  }
  for (int32_t i = 0; i < n; i++) {
    struct worklist_item *item = &list->items[i];
    const int32_t runs = item->run_end - item->run_begin;
    memcpy(sorted + moved, list->runs + item->run_begin, (size_t)runs * sizeof *sorted);
    item->run_begin = moved;
    item->run_end = moved += runs;
  }
  free(list->runs);
  list->runs = sorted;
  list->count = n / classes;
}

static void expect_same_list(const struct rep_ops *ops, const struct mask *m, int variant) {
  struct attn_problem p = {.mask = m, .rows_q = m->seqlen, .rows_k = m->seqlen};
  if (list_case.layout) {
    const struct attn_segment *outer = layouts[list_case.layout].outer,
                              *inner = layouts[list_case.layout].inner;
    p.q_seg = list_case.keys ? outer : inner;
    p.k_seg = list_case.keys ? inner : outer;
    p.q_segs = p.k_segs = 2;
  }
  struct rep_device rep;
  struct worklist list;
  struct plain_list want;
  void *host = calloc(1, ops->size);
  assert_non_null(host);
  assert_int_equal(ops->build(host, m), 0);
  plain_build(&want, ops, host, &p);
  if (rep_device_open(&rep, ops, m) ||
      worklist_build(&list, &rep, &p, list_case.keys ? WORKLIST_KEYS : WORKLIST_QUERIES,
                     list_case.outer, list_case.inner, list_case.halves))
    fail_msg("%s", attn_error());
  const int64_t items = (int64_t)want.count * (m->heads > 1 ? m->heads : 1);
  struct worklist_item *got = calloc((size_t)items + 1, sizeof *got);
  struct worklist_run *runs = calloc((size_t)want.n_runs + 1, sizeof *runs);
  int32_t counter[2] = {1, 1};
  assert_true(got && runs);
  assert_int_equal(list.view.count, want.count);
  assert_int_equal(list.tiles, want.tiles);
  assert_int_equal(list.partial, want.partial);
  assert_int_equal(list.longest, want.longest);
  assert_int_equal(list.bytes, items * 32 + (int64_t)want.n_runs * 16 + 8);
  assert_int_equal(device_download(got, list.view.items, (size_t)items * sizeof *got), 0);
  assert_int_equal(device_download(runs, list.view.runs, (size_t)want.n_runs * sizeof *runs), 0);
  assert_int_equal(device_download(counter, list.view.counter, sizeof counter), 0);
  assert_true(counter[0] == 0 && counter[1] == 0);
  if (memcmp(got, want.items, (size_t)items * sizeof *got) != 0 ||
      memcmp(runs, want.runs, (size_t)want.n_runs * sizeof *runs) != 0)
    fail_msg("%s on %s variant %d, length %d, %s, tiles of %d x %d, %s, halves %d: another list",
             ops->name, mask_name(m->kind), variant, m->seqlen, layouts[list_case.layout].name,
             list_case.outer, list_case.inner, list_case.keys ? "keys" : "queries",
             list_case.halves);
  free(got);
  free(runs);
  free(want.items);
  free(want.runs);
  worklist_free(&list);
  rep_device_close(&rep);
  ops->release(host);
  free(host);
}

// Sizes that the engines take, and inner tiles of 16, so that an item has more than 32 of them.
void test_lists(void **state) {
  static const int32_t tiles[][2] = {{128, 128}, {128, 64}, {64, 16}};
  static const int32_t lengths[] = {1, 129, 600};
  (void)state;
  need_device();
  for (int l = 0; l < 3; l++)
    for (int i = 0; i < 3; i++)
      for (int way = 0; way < 4; way++) {
        list_case.layout = lengths[l] == 600 ? (i + way) % 3 : 0;
        list_case.outer = tiles[i][0];
        list_case.inner = tiles[i][1];
        list_case.keys = way % 2;
        list_case.halves = way / 2;
        each_case(lengths[l], expect_same_list);
      }
}

#endif
