// work_items.cuh -- what the builders of lists of work share (worklist.cu, wgmma/gather.cu): rows as
// ranges that leave none out, and the order in which items are handed out, the longest first.
#ifndef LONGCA_WORK_ITEMS_CUH
#define LONGCA_WORK_ITEMS_CUH

#include <vector>

#include "attn.h"

// Segments, and between them as ranges at position -1 the rows in none, in the order of rows. No
// segments: the whole. None crosses a multiple of `owner_rows`, unless that is 0.
static inline std::vector<attn_segment> row_ranges(const attn_segment *segments, int32_t count,
                                                   int32_t rows, int32_t owner_rows = 0) {
  const attn_segment whole = {0, 0, rows};
  std::vector<attn_segment> ranges;
  int32_t done = 0;
  const auto add = [&](attn_segment s) {
    while (s.len) {
      const int32_t left = owner_rows ? owner_rows - s.row % owner_rows : s.len, len = left < s.len ? left : s.len;
      ranges.push_back({s.row, s.pos, len});
      s = {s.row + len, s.pos < 0 ? -1 : s.pos + len, s.len - len};
    }
  };
  const auto pad_to = [&](int32_t row) {
    if (done < row)
      add({done, -1, row - done});
  };
  for (int32_t i = 0; i < (segments ? count : 1); i++) {
    const attn_segment s = segments ? segments[i] : whole;
    pad_to(s.row);
    add(s);
    done = s.row + s.len;
  }
  pad_to(rows);
  return ranges;
}

// visit(j) for the items j of `count` that come before item i: those longer than it, and of its length
// those of a lower index. What they take up says where i begins. n^2 comparisons: thousands of items are
// tens of microseconds, and nothing waits for anything.
template<class Length, class Visit>
static __device__ __forceinline__ void each_before(int32_t i, int32_t count, Length length,
                                                   Visit visit) {
  const int32_t mine = length(i);
#pragma unroll 4
  for (int32_t j = 0; j < count; j++) {
    const int32_t other = length(j);
    if (other > mine || (other == mine && j < i))
      visit(j);
  }
}

#endif
