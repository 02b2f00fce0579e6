// gather.h -- lists for the forward kernel's gathering variant (forward_gather.cuh): block-sparse masks
// in steps of 128 keys that are all seen, whatever the sides of the blocks are.
//
// A tile is two halves of up to 64 query rows, a consumer warpgroup each, and no half crosses a block
// row's end: two query heads of a group over the same rows, whose lists are one; or neighbouring rows,
// whose lists differ. The keys that a half sees are cut into pieces of up to 64 (or 32) from where they
// begin; a stage holds any two (or four). As attention does not depend on the order of keys, pieces that
// both halves see are put together, and so are those that one half sees alone:
//
//     half 0 sees  a b . d e f . h      for both: {b e} {f h}, f hidden from half 1
//     half 1 sees  . b c . e . g h      a round of a stage each: {a d} for half 0, {c g} for half 1
//
// A round is a step of both warpgroups: one stage, or a stage each. What one half sees more than the
// other, and odd pieces, come in stages for both.
#ifndef LONGCA_WGMMA_GATHER_H
#define LONGCA_WGMMA_GATHER_H

#include "../attn.h"

enum { GATHER_ROWS = 64, GATHER_KEYS = 128 }; // of a half; of a stage

struct gather_tile {
  int32_t row[2], rows[2]; // local query rows of the halves; rows 0: there is none
  int32_t begin, end;      // its stages
  int32_t pairs;           // rounds of a stage each: the last ones
  int32_t reserved;
};

// 16 or 32 bytes, for loads of 16.
template<int Pieces> struct alignas(16) gather_stage {
  int32_t row[Pieces];      // local key rows where the pieces begin
  uint8_t valid[2][Pieces]; // keys that each half sees of them
  int32_t flags;            // fwd_flags: whose it is, first or last round of the tile
};

struct gather_view {
  const gather_tile *tiles; // [classes, count]
  const void *stages;       // gather_stage<pieces>
  int32_t pieces;           // 2; or 4, where blocks begin and end anywhere
  int32_t count, classes;   // classes: 1, or one a KV head
  int32_t heads;            // query heads of a tile: 1 or 2
  int32_t *counter;         // [2] next work index, CTAs that are done: 0 between launches
};

struct gather {
  gather_view view; // device memory
  int64_t bytes;    // of that memory
  int64_t rounds;   // summed over the tiles of all classes
};

struct rep_device;

// For a blocklist or a varblock. 0, or -1 with attn_error() set. Blocks.
int gather_build(gather *list, const rep_device *rep, const attn_problem *problem);
void gather_free(gather *list);
int gather_forward(const gather *list, const attn_problem *problem, const attn_args *args);

#endif
