// split.h -- query tiles cut along their keys, so that all CTAs of the forward kernel end together.
//
// The forward kernel hands its items, (query tile, head), to one CTA a multiprocessor. Where their number is
// no multiple of the CTAs', or where few are long, the last of them leave multiprocessors idle. So near the
// end an item may be several: parts of its key tiles, each with an O and a sum of its own, which the part that
// ends last puts together (forward_parts.cuh). A part may take at most its share of the steps that are
// left, remaining / CTAs, or a little more: then it ends before all else could, whatever the CTAs do.
// Which items are cut follows from the lengths of the list alone; nothing is, where a simulation of
// the CTAs says that it does not pay. Items of a gather list are cut between its rounds.
#ifndef LONGCA_WGMMA_SPLIT_H
#define LONGCA_WGMMA_SPLIT_H

#include "../attn.h"
#include "../worklist.h"
#include "gather.h"

#ifdef __cplusplus
extern "C" {
#endif

struct split_part {             // 32 bytes: two 16-byte loads
  int32_t row, pos, rows, head; // a fwd_tile (forward_shared.cuh)
  int32_t run, skip, tiles; // its key tiles: from tile `skip` of this run of the list on, so many
  uint16_t first, parts; // of its item: place of the first part; how many, 1 of an item left whole
}; // of a gather list: row is the place of a gather_tile, and its stages, so many, begin at `run`

struct split_view {
  const struct split_part *parts; // [count], parts of an item side by side, in the order of keys
  int32_t count, begin, works;    // they stand for the works begin, ..., begin + works - 1
  float *left;                    // [count, dim / 8 + 1, 256 threads, 4]: O, then bases and sums
  int32_t *arrived;               // [count, 8 warps], at an item's first part; 0 between launches
};

struct split {
  struct split_view view;          // device memory; count 0: nothing is cut
  int64_t bytes, left_floats;      // parts and arrivals; left, which other plans may share
  int32_t rank[2], head[2];        // of the first and of the last work that parts stand for
  double whole_steps, split_steps; // when the last CTA ends by the simulation
};

// For a list of items of WGMMA_FWD_QUERIES queries, or a gather list, and so many CTAs. view.left is the
// caller's to set. 0, or -1 with attn_error() set. Blocks.
int split_build(struct split *split, const struct worklist *list,
                const struct attn_problem *problem, int ctas);
int split_gathered(struct split *split, const struct gather *list,
                   const struct attn_problem *problem, int ctas);
void split_free(struct split *split);
// Heads that run side by side in the forward pass: works are sections of heads, in them the items, the
// longest first, and in them the section's heads.
int split_section(const struct attn_problem *problem);
// The view where only the first `count` items of a class are handed out.
struct split_view split_of(const struct split *split, const struct attn_problem *problem,
                           int32_t count);

#ifdef __cplusplus
}
#endif
#endif
