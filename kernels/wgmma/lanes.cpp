// lanes.cpp -- visible.cuh and seen_by.cuh as they stand, compiled for the host: a warp is 32 calls, one
// lane after the other. Lanes exchange words by a table: a shuffle returns what the other lane sent in the
// pass before, and passes are repeated until nothing changes, which is what the warp computes.
#include "lanes.h"

#include <math.h>
#include <string.h>

#include <algorithm>

#define __device__
#define __forceinline__ inline
using std::max;
using std::min;

namespace {

struct {
  unsigned x;
} threadIdx;

enum { SHUFFLES = 64, PASSES = 4 };
uint32_t sent[SHUFFLES][32];
unsigned shuffles; // of the lane so far
bool changed;      // whether a lane sent something else than in the pass before

uint32_t __shfl_sync(unsigned, uint32_t value, int from) {
  uint32_t *at = sent[shuffles++ % SHUFFLES];
  changed |= at[threadIdx.x % 32] != value;
  at[threadIdx.x % 32] = value;
  return at[from % 32];
}

uint32_t __byte_perm(uint32_t x, uint32_t y, uint32_t selector) {
  const uint64_t bytes = static_cast<uint64_t>(y) << 32 | x;
  uint32_t out = 0;
  for (int i = 0; i < 4; i++)
    out |= static_cast<uint32_t>(bytes >> 8 * (selector >> 4 * i & 7) & 0xff) << 8 * i;
  return out;
}

// What code of every lane of warp `warp` gives once all have seen what the others send.
template <class F> bool run_warp(int warp, F lane_code) {
  memset(sent, 0x5a, sizeof sent);
  changed = true;
  for (int pass = 0; changed && pass < PASSES; pass++) {
    changed = false;
    unsigned first = 0;
    for (unsigned lane = 0; lane < 32; lane++) {
      threadIdx.x = static_cast<unsigned>(warp) * 32 + lane;
      shuffles = 0;
      lane_code(static_cast<int>(lane));
      if (lane == 0)
        first = shuffles;
      if (shuffles != first || shuffles > SHUFFLES)
        return false; // a warp would hang
    }
    changed &= first > 0;
  }
  return !changed;
}

} // namespace

#include "seen_by.cuh"

namespace {

using namespace wgmma;

template <class Rep>
bool forward(const Rep &x, int head, int q_pos, int rows, int first_row, int k_pos, int valid,
             bool hidden[16][128]) {
  return run_warp(first_row / 16, [&](int lane) {
    const int r = first_row + lane / 4, last = rows - 1;
    float scores[64] = {};
    hide<128>(scores, visible<128>(x, head, q_pos + min(r, last), q_pos + min(r + 8, last), k_pos, valid));
    for (int i = 0; i < 64; i++)
      hidden[lane / 4 + (i & 2 ? 8 : 0)][i / 4 * 8 + lane % 4 * 2 + (i & 1)] = scores[i] != 0;
  });
}

template <class Rep>
bool backward(const Rep &x, int head, int k_pos, int keys, int first_key, int q_pos, int valid,
              bool hidden[16][64]) {
  return run_warp(first_key / 16, [&](int lane) {
    float p[32];
    std::fill(p, p + 32, 1.0f);
    hide_unseen(p, seen_in_step(x, head, k_pos, first_key + lane / 4, keys, q_pos, valid));
    for (int i = 0; i < 32; i++)
      hidden[lane / 4 + (i & 2 ? 8 : 0)][i / 4 * 8 + lane % 4 * 2 + (i & 1)] = p[i] == 0;
  });
}

} // namespace

#define REPS(R) R(band) R(columns) R(blocklist) R(varblock) R(dense) R(spans)

bool lanes_forward(const char *name, const void *rep, int32_t head, int32_t q_pos, int32_t rows,
                   int32_t first_row, int32_t k_pos, int32_t valid, bool hidden[16][128]) {
#define FORWARD(X)                                                                                     \
  if (!strcmp(name, #X))                                                                               \
    return forward(*static_cast<const X *>(rep), head, q_pos, rows, first_row, k_pos, valid, hidden);
  REPS(FORWARD)
  return false;
}

bool lanes_backward(const char *name, const void *rep, int32_t head, int32_t k_pos, int32_t keys,
                    int32_t first_key, int32_t q_pos, int32_t valid, bool hidden[16][64]) {
#define BACKWARD(X)                                                                                    \
  if (!strcmp(name, #X))                                                                               \
    return backward(*static_cast<const X *>(rep), head, k_pos, keys, first_key, q_pos, valid, hidden);
  REPS(BACKWARD)
  return false;
}
