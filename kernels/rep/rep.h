// rep.h -- what every mask representation offers an engine.
//
// A representation X is one header kernels/rep/X.h, plain C for the C compiler and for nvcc alike:
//   struct X                    plain data; pointers may be moved to a device
//   X_supports(mask)            NULL, or why X cannot express the mask (host)
//   X_build(x, mask) / X_free   arrays on the host; 0 or -1
//   X_bytes(x)                  memory of the arrays: O(S) or O((S/B)^2), dense aside
//   X_arrays(x, list)           where the array pointers are, to copy them to a device (host)
//   X_class(x, head, q_begin, q_end, k_begin, k_end)   one tile: empty, partial or full
//   X_next_keys(x, head, view, from)     the walk of a query tile over its key tiles
//   X_next_queries(x, head, view, from)  the transposed walk, for backward
//   X_allows(x, head, q, k)     whether one pair is visible
//   X_row_bits(x, head, q, k, n, bits)   the same for a row of n <= 64 * words keys, for CPU engines
// Host engines reach them through struct rep_ops; device engines include the header and inline it.
//
// A walk returns runs in ascending order: the first run that begins at or after tile `from`, as long
// as its class lasts (a shorter run of the same class is allowed). Empty tiles are in no run. A tile
// in a full run is visible throughout (ragged last tiles: throughout their real rows and columns).
#ifndef LONGCA_REP_H
#define LONGCA_REP_H

#include "../../src/mask.h"

#define REP_HD MASK_HD

// Queries [q_begin, q_end) by keys [k_begin, k_end), in mask positions. next_keys cuts the keys into
// tiles of `tile`, counted from k_begin; next_queries cuts the queries, counted from q_begin.
struct tile_view {
  int32_t q_begin, q_end, k_begin, k_end, tile;
};

struct tile_run {
  int32_t begin, end; // tiles [begin, end); begin == end: no run is left
  bool full;          // no masking needed
};

enum tile_class { TILE_EMPTY, TILE_PARTIAL, TILE_FULL };

REP_HD struct tile_run tile_run_none(void) {
  struct tile_run r;
  r.begin = r.end = 0x7fffffff;
  r.full = false;
  return r;
}

#ifndef __CUDACC_RTC__
#ifdef __cplusplus
extern "C" {
#endif

// One array of a representation: its pointer stands at byte `offset` of the struct. To move a
// representation to a device: copy the struct, then copy each array and overwrite its pointer.
struct rep_array {
  size_t offset, bytes;
  bool owned; // freed by X_free; false: borrowed from the mask, which must outlive it
};
enum { REP_ARRAYS_MAX = 16 };

// One static table a representation, in kernels/rep/reps.c; `rep` is the struct named above.
struct rep_ops {
  const char *name; // "dense" "band" "columns" "blockmap" "blocklist" "varblock" "spans"
  size_t size;      // sizeof(struct X)
  const char *(*supports)(const struct mask *m);
  int (*build)(void *rep, const struct mask *m);
  void (*release)(void *rep);
  size_t (*bytes)(const void *rep);
  int (*arrays)(const void *rep, struct rep_array list[REP_ARRAYS_MAX]); // how many; none is NULL
  struct tile_run (*next_keys)(const void *rep, int32_t head, const struct tile_view *view,
                               int32_t from);
  struct tile_run (*next_queries)(const void *rep, int32_t head, const struct tile_view *view,
                                  int32_t from);
  enum tile_class (*classify)(const void *rep, int32_t head, int32_t q_begin, int32_t q_end,
                              int32_t k_begin, int32_t k_end); // X_class
  bool (*allows)(const void *rep, int32_t head, int32_t q, int32_t k);
  // bit i of bits[] (64 a word): whether q sees k + i, for i < n; the rest of the last word is 0
  void (*row_bits)(const void *rep, int32_t head, int32_t q, int32_t k, int32_t n, uint64_t *bits);
};

extern const struct rep_ops *const rep_table[]; // NULL-terminated
const struct rep_ops *rep_find(const char *name);

#ifdef __cplusplus
}
#endif
#endif
#endif
