// tensor_map.h -- the tensor maps by which the copy engine reads q, k, v and rows' statistics, and writes o.
#ifndef LONGCA_WGMMA_TENSOR_MAP_H
#define LONGCA_WGMMA_TENSOR_MAP_H

#include <cuda.h>
#include <stdint.h>

// Of a dense bf16 tensor [rows, heads, dim] in device memory: boxes of `box_rows` rows of one head arrive
// in shared memory as [dim / 64][box_rows][64] with the 128-byte swizzle. Coordinates: {0, row, chunk of
// 64, head}. 0, or -1 with attn_error() set. all_heads: data are the first of `heads` of a row that has so many.
int tensor_map(CUtensorMap *map, const void *data, int rows, int heads, int dim, int box_rows,
               int all_heads = 0);
// Boxes of 64 columns of box_heads neighbouring heads of box_rows rows: [box_rows][box_heads][64].
// Coordinates: {0, chunk of 64, head, row}, whose strides are multiples of each other as the manual asks.
int tensor_map_packed(CUtensorMap *map, const void *data, int rows, int heads, int dim,
                      int box_rows, int box_heads);
// Of `count` floats; boxes of `box` neighbours arrive as they are. Coordinate: {float}.
int tensor_map_line(CUtensorMap *map, const float *data, int64_t count, int box);

#endif
