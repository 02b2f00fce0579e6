// gather.h -- lists for the forward kernel's gathering variant (forward_gather.cuh): block-sparse masks
// in steps of 128 keys that are all seen, whatever the sides of the blocks are.
//
// A tile is two halves of 64 rows, a consumer warpgroup each, and no half crosses a block row's end.
// Where the size of a group has a power of two P in it, a row is a query head at a position, 64 / P
// positions by P heads a half ("packed"): the heads share their list, so both halves do, and all tiles
// of a block row have one list. For P = 1 a half is 64 positions, and neighbours whose lists differ make
// a tile. The keys that a half sees are cut into pieces of up to 64 (or 32) from where they begin; a
// stage holds any two (or four). As attention does not depend on the order of keys, pieces that both
// halves see are put together, and so are those that one half sees alone:
//
//     half 0 sees  a b . d e f . h      for both: {b e} {f h}, f hidden from half 1
//     half 1 sees  . b c . e . g h      a round of a stage each: {a d} for half 0, {c g} for half 1
//
// A round is a step of both warpgroups: one stage, or a stage each. What one half sees more than the
// other, and odd pieces, come in stages for both.
//
// Ends of stretches, shorter than a piece, come first, side by side with what is missing to whole stages: a stage
// that is not seen whole is a step that costs more, so there should be few, and a tile's first step costs more anyway.
#ifndef LONGCA_WGMMA_GATHER_H
#define LONGCA_WGMMA_GATHER_H

#include "../attn.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { GATHER_ROWS = 64, GATHER_KEYS = 128 }; // of a half; of a stage

struct gather_tile {
  int32_t row[2], rows[2]; // local query rows (positions) of the halves; rows 0: there is none
  int32_t begin, end;      // its stages; other tiles may have the same. None: no tile
  int32_t pairs;           // rounds of a stage for each half, the last ones; the others are a stage
};

struct gather_view {
  const struct gather_tile *tiles; // [classes, count], the longest first; none at the end
  const void *stages;              // gather_stage<pieces>
  int32_t pieces;                  // 2; or 4, where blocks begin and end anywhere
  int32_t count, classes;          // classes: 1, or one a KV head
  int32_t heads;                   // P
  int32_t *counter;                // [2] next work index, CTAs that are done: 0 between launches
};

struct gather {
  struct gather_view view; // device memory
  int64_t bytes;           // of that memory
  int64_t rounds;          // summed over the tiles of all classes
};

struct rep_device;
struct split_view;

// For a blocklist or a varblock. 0, or -1 with attn_error() set. Blocks.
int gather_build(struct gather *list, const struct rep_device *rep,
                 const struct attn_problem *problem);
void gather_free(struct gather *list);
int gather_forward(const struct gather *list, const struct split_view *split,
                   const struct attn_problem *problem, const struct attn_args *args);

#ifdef __cplusplus
}

// 16 or 32 bytes, for loads of 16.
template<int Pieces> struct alignas(16) gather_stage {
  int32_t row[Pieces];      // local key rows where the pieces begin
  uint8_t valid[2][Pieces]; // keys that each half sees of them
  int32_t flags;            // fwd_flags: whose it is
};
#endif
#endif
