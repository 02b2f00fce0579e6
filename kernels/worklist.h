// worklist.h -- which inner tiles each outer tile needs, made on the device as part of preparation.
//
// Forward: an outer tile is a query tile, its runs are runs of key tiles; backward: the transpose.
// The list is independent of the mask representation, so one engine walk serves all of them; the
// representation itself is asked again only inside tiles that are not full.
// Items of a head class stand longest first, so that a dynamic counter hands out the long ones first.
#ifndef LONGCA_WORKLIST_H
#define LONGCA_WORKLIST_H

#include <stdint.h>

#include "attn.h"

#ifdef __cplusplus
extern "C" {
#endif

struct worklist_item {        // 32 bytes: two 16-byte loads
  int32_t row, pos, rows;     // local rows [row, row + rows) at mask positions pos, ...
  int32_t run_begin, run_end; // its runs
  int32_t tiles;              // over all runs: the length that items are sorted by
  int32_t partial;            // of these, tiles that need masking
  int32_t reserved;
};

struct worklist_run { // 16 bytes: one load
  int32_t row, pos;   // local row and mask position of its first tile
  int32_t tiles;
  // Full runs: 0. Else bits 0 .. 15: the rows of the last tile that exist (the tiles before are
  // whole); and in a list of halves, of the outer tile's half h: bit 16 + h whether it sees a part of
  // each tile, bit 24 + h whether it sees all of it.
  int32_t valid;
};
enum { WORKLIST_SEEN = 1 << 16, WORKLIST_WHOLE = 1 << 24 }; // of half 0; half 1: shifted by one

// What a kernel reads. Plain data.
struct worklist_view {
  const struct worklist_item *items; // [classes, count]
  const struct worklist_run *runs;
  int32_t count;    // items of a class
  int32_t classes;  // 1, or one a KV head
  int32_t *counter; // [2] next work index, CTAs that are done: 0 between launches
};

struct worklist {
  struct worklist_view view; // device memory
  int64_t bytes, runs;       // of that memory; in view.runs
  int64_t tiles, partial;    // summed over the items of all classes
  int32_t longest;           // tiles of the longest item
  int32_t seen; // items of a class that have tiles, which stand first; with several classes all
};

enum worklist_side {
  WORKLIST_KEYS,
  WORKLIST_QUERIES
}; // forward: runs of keys; backward: of queries

struct rep_device;

// Outer tiles of `outer` rows, inner tiles of `inner` rows; `halves`: say of partial tiles what each
// half of the outer tile sees. 0, or -1 with attn_error() set. Blocks.
int worklist_build(struct worklist *list, const struct rep_device *rep,
                   const struct attn_problem *problem, enum worklist_side side, int32_t outer,
                   int32_t inner, bool halves);
void worklist_free(struct worklist *list);

#ifdef __cplusplus
}
#endif
#endif
