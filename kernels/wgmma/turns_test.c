// turns_test.c -- how long CTAs of deterministic backward wait for their turns (backward.cuh), by a simulation of 132
// multiprocessors, for the loops and sections that balance.c chooses. A CTA waits for lower tickets only, so tickets
// are simulated one after the other: of each tile of dQ it is known when the one before was counted. Tiles go from the
// last to the first, the heads of a loop in turn (backward_load.cuh). Prints what the README shows.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "../../src/mask_draw.h"
#include "balance.h"

enum { SMS = 132, ITEMS_MAX = 128, TILES_MAX = 256, HEADS_MAX = 64 };

// us at dim 128 on an H200: a step of the key warpgroups, give or take 20 %; of dQ's; until the copy engine has read a
// half of dQ; until its sums are in memory; a look at a count, or counting. What was measured before sums had a thread
// of their own, 0.69 of FULL's steps a clock, is (0.92 * 2.2 + 1.2) / 2.2.
static const double STEP = 2.2, VARIES = 0.2, DQ = 0.92 * 2.2, READ = 0.25, ARRIVES = 1.2,
                    LOOK = 0.4;
static const double AROUND = 2 * 2.2, SUM = 3 * 2.2; // of an item; of adding its dK and dV

enum shape { FULL, CAUSAL, WINDOW, GLOBAL, DOCUMENTS, QUESTION, RANDOM, SHAPES };
static const char *const names[] = {
    "full",      "causal",         "window 1024",       "global window 1024",
    "documents", "share question", "random 64 x 64, .3"};

// Whether keys of block k of 64 are seen in query tile t.
static bool sees(enum shape shape, int k, int t, int tiles, struct mask_rng *rng) {
  const int document = tiles / 16, of_k = k / document, of_t = t / document;
  switch (shape) {
  case CAUSAL:
    return t >= k;
  case WINDOW:
    return t >= k && (t - k) * 64 - 63 < 1024;
  case GLOBAL:
    return t >= k && (k < 4 || (t - k) * 64 - 63 < 1024);
  case DOCUMENTS: // causal, of 1/16, 1/8, 3/16, 1/4, 3/8
    return t >= k && (of_k > 9) + (of_k > 5) + (of_k > 2) + (of_k > 0) ==
                         (of_t > 9) + (of_t > 5) + (of_t > 2) + (of_t > 0);
  case QUESTION:
    return t >= k && (of_k == of_t || of_k == 0);
  case RANDOM:
    return mask_rng_random(rng) < 0.3;
  default:
    return true;
  }
}

struct seen { // by an item: its tiles, the last first
  int16_t count, tile[TILES_MAX];
};
struct lists {
  struct balance_list list;
  struct seen *seen; // [count], the longest first
};

static struct lists make_lists(enum shape shape, int32_t seqlen, int32_t heads_q,
                               int32_t heads_kv) {
  const int count = seqlen / BALANCE_KEYS, tiles = seqlen / BALANCE_QUERIES;
  struct lists l = {.seen = calloc((size_t)count, sizeof *l.seen)};
  struct worklist_item *items = calloc((size_t)count, sizeof *items);
  struct mask_rng rng;
  mask_rng_seed(&rng, 1);
  assert_true(l.seen && items && count <= ITEMS_MAX && tiles <= TILES_MAX);
  // Longest first, and of a length in the order of keys, as the work list has them: sorted by insertion.
  for (int i = 0; i < count; i++) {
    struct seen s = {0};
    for (int t = tiles - 1; t >= 0; t--) {
      const bool first = sees(shape, 2 * i, t, tiles, &rng),
                 second = sees(shape, 2 * i + 1, t, tiles, &rng);
      if (first || second)
        s.tile[s.count++] = (int16_t)t;
    }
    int at = i;
    for (; at > 0 && l.seen[at - 1].count < s.count; at--)
      l.seen[at] = l.seen[at - 1];
    l.seen[at] = s;
  }
  for (int i = 0; i < count; i++)
    items[i].tiles = l.seen[i].count;
  l.list = (struct balance_list){.items = items,
                                 .count = count,
                                 .classes = 1,
                                 .heads_q = heads_q,
                                 .heads_kv = heads_kv,
                                 .dim = 128,
                                 .rows_k = seqlen,
                                 .query_tiles = tiles,
                                 .sms = SMS,
                                 .l2_bytes = 50 << 20,
                                 .deterministic = true};
  return l;
}

static double later(double a, double b) { return a > b ? a : b; }

struct machines {
  bool free_order; // nobody waits for a turn
  struct mask_rng rng;
  double free_at[SMS], last;
  double counted[HEADS_MAX][TILES_MAX]; // when the last of those so far that added to a tile was
  double summed[HEADS_MAX][ITEMS_MAX];  // of the last loop so far of a KV head, an item
};

// A CTA from `start` on: when its last sum is counted.
static double run_cta(struct machines *m, const struct seen *item, int head, int loop,
                      double start) {
  double keys = start, dq = start, dq_before = start,
         adder = start;            // when each is free; dQ a step before
  double read[2] = {start, start}; // halves of dQ
  double *owed = NULL, issued = start;
  for (int i = 0; i < item->count * loop; i++) {
    double *const count = &m->counted[head + i % loop][item->tile[i / loop]];
    const double turn = m->free_order ? 0 : *count + LOOK;
    keys = later(keys, dq_before) + STEP * (1 + VARIES * (2 * mask_rng_random(&m->rng) - 1));
    dq_before = dq; // dS has two stages
    if (turn > adder + LOOK && owed) {
      adder = later(adder, issued + ARRIVES) + LOOK;
      *owed = adder;
      owed = NULL;
    }
    adder = later(adder + LOOK, turn);
    dq = later(dq, keys);
    for (int half = 0; half < 2; half++) {
      dq = later(dq + DQ / 2, read[half]);
      issued = later(adder, dq);
      adder = read[half] = issued + READ;
    }
    if (owed) // issued a step ago
      *owed = adder = adder + LOOK;
    owed = count;
  }
  if (owed)
    *owed = adder = later(adder, issued + ARRIVES) + LOOK;
  return adder;
}

static double run_all(struct machines *m, const struct lists *l, int loop, int section) {
  const struct balance_list *list = &l->list;
  const int loops = list->heads_q / loop, group = list->heads_q / list->heads_kv;
  for (int first = 0; first < loops; first += section)
    for (int place = 0; place < list->count; place++)
      for (int i = first; i < first + section && i < loops; i++) {
        double *free_at = &m->free_at[0], *const sum = &m->summed[i * loop / group][place];
        for (int s = 1; s < SMS; s++)
          if (m->free_at[s] < *free_at)
            free_at = &m->free_at[s];
        double end = run_cta(m, &l->seen[place], i * loop, loop, *free_at + AROUND);
        if (loop < group)
          *sum = end = later(end, *sum) + SUM;
        *free_at = end;
        m->last = later(m->last, end);
      }
  return m->last;
}

// With turns over without.
static double simulate(enum shape shape, int32_t seqlen, int32_t heads_q, int32_t heads_kv) {
  struct lists l = make_lists(shape, seqlen, heads_q, heads_kv);
  struct machines *m[2]; // in any order, in turn
  double over[2];
  struct balance b;
  assert_int_equal(balance_make(&b, &l.list), 0);
  assert_true(b.count == 0 && b.slots == 0 && b.before == heads_q / b.loop);
  for (int turns = 0; turns < 2; turns++) {
    m[turns] = calloc(1, sizeof *m[0]);
    assert_non_null(m[turns]);
    m[turns]->free_order = !turns;
    mask_rng_seed(&m[turns]->rng, 2);
    over[turns] = run_all(m[turns], &l, b.loop, b.section) / (b.even * STEP);
    free(m[turns]);
  }
  print_message("  %-18s %2dK %2d:%-2d loop %d, %2d beside: %.3f, without waiting %.3f\n",
                names[shape], seqlen / 1024, heads_q, heads_kv, b.loop, b.section, over[1],
                over[0]);
  balance_free(&b);
  free((void *)l.list.items);
  free(l.seen);
  return over[1] / over[0];
}

// What waiting may add. One item after the other, which is what a window came to when an item's first tile was its
// neighbour's last, is 20 times an even share.
static void test_waits(void **state) {
  static const int32_t heads[][2] = {{64, 8}, {64, 64}};
  static const double most[SHAPES] = {1.02, 1.05, 1.01, 1.55, 1.05, 1.03, 1.25};
  (void)state;
  for (int h = 0; h < 2; h++)
    for (enum shape shape = FULL; shape < SHAPES; shape++)
      for (int k = 0; k < 2; k++) {
        const double ratio = simulate(shape, 8192 << k, heads[h][0], heads[h][1]);
        assert_true(ratio <= most[shape]);
      }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_waits)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
