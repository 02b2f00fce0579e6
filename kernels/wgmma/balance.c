// balance.c -- loops and parts of the wgmma engine's backward (balance.h): each choice is simulated with its
// costs, the cheapest is taken.
#include "balance.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cuts.h"

// Costs in steps, 64 queries by 128 keys of a head, which take 2.3 us at dim 128. An item beyond its steps: K and V,
// the first S, the last dQ. Adding dK and dV in fp32, 128 KB. Passes that set sums to 0 and round them: two or
// three launches, and 20 bytes an element of dK at 4 TB/s. CAUSAL at 16K in loops of 1 and 2 says 4 to 6 for
// ITEM + SUM, FULL 1 to 4; documents at 8K, whose items are short, that sums cost more than 2 (README.md).
static const double ITEM = 2, SUM = 3, LAUNCHES = 2.5, STEP_BYTES_A_DIM = 9.4e6 / 128;
// Neighbours of unlike length drift apart in L2, head by head: CAUSAL 16K lost 5 % in loops of 4 heads, 15 % in loops
// of 8, CAUSAL DOCUMENT 5 to 7 % and 25 to 32 %, FULL DOCUMENT nothing.
static const double DRIFT = 0.03;
static const double WORTH = 0.0025; // of an even share: a gain below is none
enum { LONG_ITEM = 64, ROUNDS = 64, TOGETHER = 16 };

struct choice {
  const struct balance_list *list;
  int32_t loop, loops, section, group;
  bool sums;   // every work adds its dK and dV
  double pace; // of a step
};

struct work {
  int32_t place, head, tiles;
};

static struct work work_at(const struct choice *c, int64_t work) {
  const struct balance_list *l = c->list;
  const int32_t first = (int32_t)(work / ((int64_t)c->section * l->count)) * c->section;
  const int32_t beside = c->section < c->loops - first ? c->section : c->loops - first;
  const int32_t at = (int32_t)(work - (int64_t)first * l->count);
  const int32_t place = at / beside, head = (first + at % beside) * c->loop;
  const int64_t class = l->classes == 1 ? 0 : head / c->group;
  return (struct work){place, head, l->items[class * l->count + place].tiles};
}

static int32_t parts_of(const struct choice *c, int32_t tiles, int64_t left,
                        const struct cut_rule *by) {
  const int32_t parts = cut_parts(by, (double)tiles * c->loop, left, c->list->sms);
  return parts > tiles && tiles > 0 ? tiles : parts;
}

// Works [begin, end) with `left` steps, on from `s`. NULL: all are whole.
struct trial {
  double end;
  int64_t parts, slots;    // parts; works that are cut
  int64_t first_cut, left; // the first of them; steps from it on
};

static struct trial try_rule(const struct choice *c, int64_t begin, int64_t end, int64_t left,
                             const struct cut_rule *by, struct cut_clocks s) {
  struct trial t = {.first_cut = end};
  for (int64_t i = begin; i < end; i++) {
    const int32_t tiles = work_at(c, i).tiles, parts = by ? parts_of(c, tiles, left, by) : 1;
    const double extra = ITEM + (c->sums || parts > 1 ? SUM : 0);
    for (int32_t k = 0; k < parts; k++) {
      const int32_t own = cut_begin(tiles, k + 1, parts) - cut_begin(tiles, k, parts);
      cut_take(&s, (double)own * c->loop * c->pace + extra);
    }
    if (parts > 1) {
      if (!t.slots++)
        t.first_cut = i, t.left = left;
      t.parts += parts;
    }
    left -= (int64_t)tiles * c->loop;
  }
  t.end = s.last;
  return t;
}

static double passes(const struct balance_list *l, int64_t rows) {
  return rows ? LAUNCHES + 20.0 * (double)rows / STEP_BYTES_A_DIM / l->sms : 0;
}

struct best {
  struct choice choice;
  const struct cut_rule *rule; // NULL: no parts
  struct trial trial;
  double steps;
};

// Whole items, and the best rule, at one choice of loops. `total` in steps, `longest` in tiles.
static void simulate(const struct choice *c, int64_t total, int32_t longest, double even,
                     struct best *best) {
  const struct balance_list *l = c->list;
  const int64_t works = (int64_t)l->count * c->loops;
  const double item = ITEM + (c->sums ? SUM : 0);
  const double all_rows = passes(l, c->sums ? (int64_t)l->rows_k * l->heads_kv : 0);
  if ((double)total * c->pace / l->sms + (double)works * item / l->sms + all_rows >= best->steps)
    return;
  int64_t begin = works, rest = 0, left = 0; // the first work that the first rule would cut
  for (int64_t i = works; i > 0 && left < (int64_t)longest * c->loop * l->sms;) {
    const int32_t tiles = work_at(c, --i).tiles;
    left += (int64_t)tiles * c->loop;
    if (parts_of(c, tiles, left, &cut_rules[0]) > 1)
      begin = i, rest = left;
  }
  // A few rounds before, where all are taken as free at once.
  const int64_t from = begin / l->sms > ROUNDS ? (begin / l->sms - ROUNDS) * l->sms : 0;
  struct cut_clocks before = {.n = l->sms < CUT_MACHINES_MAX ? l->sms : CUT_MACHINES_MAX};
  int64_t steps = total - rest;
  for (int64_t i = from; i < begin; i++)
    steps -= (int64_t)work_at(c, i).tiles * c->loop;
  for (int32_t i = 0; i < before.n; i++)
    before.at[i] = ((double)steps * c->pace + (double)from * item) / l->sms;
  before.last = before.at[0];
  for (int64_t i = from; i < begin; i++)
    cut_take(&before, (double)work_at(c, i).tiles * c->loop * c->pace + item);
  const double whole = try_rule(c, begin, works, rest, NULL, before).end + all_rows;
  if (whole < best->steps - WORTH * even)
    *best = (struct best){.choice = *c, .steps = whole};
  struct best cut = {.steps = INFINITY};
  for (int32_t r = 0; r < CUT_RULES && begin < works && !l->deterministic; r++) {
    const struct trial t = try_rule(c, begin, works, rest, &cut_rules[r], before);
    const double with = t.end + (c->sums ? all_rows : passes(l, t.slots * BALANCE_KEYS));
    if (t.slots && t.slots <= 2 * l->sms && t.parts <= 4 * l->sms && with < cut.steps)
      cut = (struct best){*c, &cut_rules[r], t, with};
  }
  if (cut.steps < best->steps - WORTH * even)
    *best = cut;
}

// The works from the first loop of a section in which one is cut, as the rule says.
static int list_parts(struct balance *b, const struct best *best) {
  const struct choice *c = &best->choice;
  const struct balance_list *l = c->list;
  const int64_t works = (int64_t)l->count * c->loops, per = (int64_t)c->section * l->count;
  const struct trial *t = &best->trial;
  b->before = (int32_t)(t->first_cut / per) * c->section;
  b->slots = (int32_t)t->slots;
  b->parts = malloc(sizeof *b->parts * (size_t)(works - (int64_t)b->before * l->count + t->parts));
  if (!b->parts)
    return -1;
  for (int none = 0; none < 2; none++) { // works with tiles, then those without
    int64_t left = t->left;
    int32_t slot = 0;
    for (int64_t i = (int64_t)b->before * l->count; i < works; i++) {
      const struct work w = work_at(c, i);
      const int32_t parts = i < t->first_cut ? 1 : parts_of(c, w.tiles, left, best->rule);
      left -= i < t->first_cut ? 0 : (int64_t)w.tiles * c->loop;
      for (int32_t k = 0; k < parts && (w.tiles == 0) == none; k++) {
        const int32_t from = cut_begin(w.tiles, k, parts);
        b->parts[b->count++] = (struct balance_part){
            w.place, w.head, from, cut_begin(w.tiles, k + 1, parts) - from, parts > 1 ? slot : -1};
      }
      slot += parts > 1;
    }
  }
  return 0;
}

static int by_row(const void *a, const void *b) {
  const struct worklist_item *x = a, *y = b;
  return (x->row > y->row) - (x->row < y->row);
}

// Share of the tiles that are of items both of whose neighbours have another number of them, so not the borders of
// documents; -1: out of memory. A class stands for all.
static double unlike_share(const struct balance_list *l) {
  struct worklist_item *items = malloc(sizeof *items * (size_t)(l->count + 1));
  int64_t all = 0, unlike = 0;
  if (!items)
    return -1;
  memcpy(items, l->items, sizeof *items * (size_t)l->count);
  qsort(items, (size_t)l->count, sizeof *items, by_row);
  for (int32_t i = 0; i < l->count; i++) {
    const int32_t own = items[i].tiles;
    const bool like =
        (i > 0 && items[i - 1].tiles == own) || (i + 1 < l->count && items[i + 1].tiles == own);
    all += own;
    unlike += like ? 0 : own;
  }
  free(items);
  return all ? (double)unlike / (double)all : 0;
}

int balance_make(struct balance *b, const struct balance_list *l) {
  memset(b, 0, sizeof *b);
  const int32_t group = l->heads_q / l->heads_kv;
  const int64_t items = (int64_t)l->count * l->classes;
  int64_t tiles = 0;
  int32_t longest = 0;
  for (int64_t i = 0; i < items; i++) {
    const int32_t own = l->items[i].tiles;
    tiles += own;
    longest = own > longest ? own : longest;
  }
  const bool alike = (double)longest * (double)items <= 1.1 * (double)tiles;
  // Items that are nearly alike (random lists) drift apart all the same, by a part of their length: short ones then,
  // and each begins where others are.
  const int64_t head_bytes = (int64_t)l->query_tiles * BALANCE_QUERIES * l->dim * 8;
  b->together = alike && !l->deterministic && longest > LONG_ITEM && longest * items > tiles &&
                4 * head_bytes > 3 * l->l2_bytes;
  const int64_t total = tiles * (l->classes == 1 ? l->heads_q : group);
  b->even = (double)total / l->sms;
  struct best best = {.steps = INFINITY};
  const double unlike = alike ? 0 : unlike_share(l);
  if (unlike < 0)
    return -1;
  for (int32_t loop = group; loop > 0; loop--) {
    if (group % loop || (b->together && loop > 1))
      continue;
    struct choice c = {l, loop, l->heads_q / loop, 1, group, loop < group, 1};
    if (loop > 2 && !l->deterministic) // whose heads go together
      c.pace += DRIFT * unlike * (loop - 2);
    // As many loops side by side as fill the GPU, so that the others' Q, dO and dQ do not compete for L2.
    // Deterministic, the CTAs of a loop follow each other through its tiles: TOGETHER of them share what they read, and
    // the fewer follow the fewer wait, so all loops where items are short.
    int32_t beside = (l->sms + l->count - 1) / (l->count > 0 ? l->count : 1);
    if (l->deterministic && beside < l->sms / TOGETHER)
      beside = l->sms / TOGETHER;
    const bool brief = l->deterministic && (longest <= LONG_ITEM || 2 * tiles <= LONG_ITEM * items);
    c.section = brief || beside > c.loops ? c.loops : beside;
    if (!tiles || b->together)
      best = (struct best){.choice = c, .steps = b->even};
    else
      simulate(&c, total, longest, b->even, &best);
    if (!tiles)
      break;
  }
  b->loop = best.choice.loop;
  b->section = best.choice.section;
  b->before = best.choice.loops;
  b->steps = best.steps;
  return best.rule ? list_parts(b, &best) : 0;
}

void balance_free(struct balance *b) {
  free(b->parts);
  memset(b, 0, sizeof *b);
}
