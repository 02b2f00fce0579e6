// lanes.h -- the mask code of the wgmma engine run on the host, for its test (lanes.cpp).
#ifndef LONGCA_WGMMA_LANES_H
#define LONGCA_WGMMA_LANES_H

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// What a warp of forward hides of a partial tile: rows first_row + 0 .. 15 of a query tile of `rows` rows at
// mask positions q_pos, ..., by keys k_pos, ..., of which `valid` exist. False: no such representation, or
// the lanes disagree.
bool lanes_forward(const char *name, const void *rep, int32_t head, int32_t q_pos, int32_t rows,
                   int32_t first_row, int32_t k_pos, int32_t valid, bool hidden[16][128]);

// Of backward: keys first_key + 0 .. 15 of a tile of `keys` at k_pos, ..., by queries q_pos, ..., of which
// `valid` exist.
bool lanes_backward(const char *name, const void *rep, int32_t head, int32_t k_pos, int32_t keys,
                    int32_t first_key, int32_t q_pos, int32_t valid, bool hidden[16][64]);

#ifdef __cplusplus
}
#endif
#endif
