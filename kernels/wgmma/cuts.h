// cuts.h -- how split.cu (forward) and balance.c (backward) cut the last works of a grid into parts, and the
// machines on which they simulate that: works begin in their order, each where a machine is free first.
#ifndef LONGCA_WGMMA_CUTS_H
#define LONGCA_WGMMA_CUTS_H

#include <math.h>
#include <stdint.h>

// `share` is how much of a machine's share of the steps that are left a part may take: with 1 nothing can end
// late, more makes fewer parts. So does what a part may have in any case: 8 steps, and `roots` times the square
// root of its work's; with 2, putting parts together costs about what they save.
struct cut_rule {
  double share, roots;
};
static const struct cut_rule cut_rules[] = {{1, 2}, {1.5, 2}, {2.25, 2},
                                            {1, 4}, {1.5, 4}, {2.25, 4}};
enum { CUT_RULES = sizeof cut_rules / sizeof *cut_rules, CUT_SHORTEST = 8, CUT_MACHINES_MAX = 512 };

// Steps that a part of a work may have; `left`: those from this work on.
static inline double cut_longest(const struct cut_rule *by, double steps, int64_t left,
                                 int32_t machines) {
  return fmax(fmax(CUT_SHORTEST, by->roots * sqrt(steps)), by->share * (double)left / machines);
}

// Parts of a work of so many steps.
static inline int32_t cut_parts(const struct cut_rule *by, double steps, int64_t left,
                                int32_t machines) {
  const int32_t parts = (int32_t)ceil(steps / cut_longest(by, steps, left, machines) - 1e-9);
  return parts < 1 ? 1 : parts;
}

// Where a part of n units begins.
static inline int32_t cut_begin(int32_t n, int32_t part, int32_t parts) {
  return (int32_t)((int64_t)n * part / parts);
}

// When each machine is free: a heap, so at[0] is the first. n <= CUT_MACHINES_MAX.
struct cut_clocks {
  int32_t n;
  double last, at[CUT_MACHINES_MAX];
};

// A work of that time.
static inline void cut_take(struct cut_clocks *s, double time) {
  const double end = s->at[0] + time;
  int32_t i = 0;
  for (int32_t next; (next = 2 * i + 1) < s->n; i = next) {
    next += next + 1 < s->n && s->at[next + 1] < s->at[next];
    if (end <= s->at[next])
      break;
    s->at[i] = s->at[next];
  }
  s->at[i] = end;
  s->last = fmax(s->last, end);
}

#endif
