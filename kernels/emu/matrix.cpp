// matrix.cpp -- matrix instructions of a warp on the emulated GPU (PTX ISA 8.0, sections 9.7.13.4 and
// 9.7.13.5), and the atomic sum of global memory.
//
// With g = lane / 4 and t = lane % 4, a fragment of 8 x 8 holds row g, columns 2t and 2t + 1.
#include <string.h>
#include <time.h>

#include "block.h"
#include "check.h"

namespace emu {

static float bf16(uint32_t pair, int high) {
  const uint32_t x = high ? pair & 0xffff0000u : pair << 16;
  float y;
  memcpy(&y, &x, 4);
  return y;
}

void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  struct part {
    float *d;
    const uint32_t *a;
    uint32_t b[2];
  } mine = {d, a, {b0, b1}};
  meet(~0u, "mma.sync of warp", &mine, [](void **lanes, unsigned) {
    float a[16][16], b[16][8], sum[16][8];
    running->done.product_flop += 2 * 16 * 16 * 8;
    for (int lane = 0; lane < WARP; lane++) {
      const part &p = *static_cast<part *>(lanes[lane]);
      const int g = lane / 4, t = lane % 4;
      for (int h = 0; h < 2; h++) {
        for (int i = 0; i < 4; i++)
          a[g + 8 * (i % 2)][2 * t + h + 8 * (i / 2)] = bf16(p.a[i], h);
        for (int i = 0; i < 2; i++)
          b[2 * t + h + 8 * i][g] = bf16(p.b[i], h);
        for (int i = 0; i < 2; i++)
          sum[g + 8 * i][2 * t + h] = p.d[2 * i + h];
      }
    }
    for (int r = 0; r < 16; r++)
      for (int k = 0; k < 16; k++)
        for (int n = 0; n < 8; n++)
          sum[r][n] += a[r][k] * b[k][n];
    for (int lane = 0; lane < WARP; lane++)
      for (int i = 0; i < 4; i++)
        static_cast<part *>(lanes[lane])->d[i] = sum[lane / 4 + 8 * (i / 2)][2 * (lane % 4) + i % 2];
  });
}

namespace {
struct rows { // of four 8 x 8 matrices: lane 8i + j gives row j of matrix i
  uint16_t *row;
  uint32_t *d;
  bool transposed;
};
uint16_t *cell(void **lanes, int matrix, int row, int column) {
  return static_cast<rows *>(lanes[8 * matrix + row])->row + column;
}
} // namespace

void ldmatrix(uint32_t (&d)[4], uint32_t shared, bool transposed) {
  if (shared % 16)
    fault("ldmatrix at %u, not a multiple of 16", shared);
  rows mine = {static_cast<uint16_t *>(shared_pointer(shared)), d, transposed};
  check::touch(check::THREAD, 0, mine.row, 16, check::READ, EMU_CALLER);
  meet(~0u, "ldmatrix of warp", &mine, [](void **lanes, unsigned) {
    for (int lane = 0; lane < WARP; lane++) {
      const rows &r = *static_cast<rows *>(lanes[lane]);
      const int g = lane / 4, t = lane % 4;
      for (int m = 0; m < 4; m++) {
        const uint32_t low = r.transposed ? *cell(lanes, m, 2 * t, g) : *cell(lanes, m, g, 2 * t);
        const uint32_t high = r.transposed ? *cell(lanes, m, 2 * t + 1, g) : *cell(lanes, m, g, 2 * t + 1);
        r.d[m] = high << 16 | low;
      }
    }
  });
}

void stmatrix(void *row, const uint32_t (&d)[4], bool transposed) {
  if (shared_address(row) % 16)
    fault("stmatrix at %u, not a multiple of 16", shared_address(row));
  uint32_t copy[4];
  memcpy(copy, d, sizeof copy);
  rows mine = {static_cast<uint16_t *>(row), copy, transposed};
  check::touch(check::THREAD, 0, row, 16, check::WRITE, EMU_CALLER);
  meet(~0u, "stmatrix of warp", &mine, [](void **lanes, unsigned) {
    for (int lane = 0; lane < WARP; lane++) {
      const rows &r = *static_cast<rows *>(lanes[lane]);
      for (int m = 0; m < 4; m++)
        for (int h = 0; h < 2; h++) {
          const int along = lane / 4, pair = 2 * (lane % 4) + h;
          *(r.transposed ? cell(lanes, m, pair, along) : cell(lanes, m, along, pair)) = (uint16_t)(r.d[m] >> 16 * h);
        }
    }
  });
}

void add_global(float *dst, float x) {
  check::touch(check::THREAD, 0, dst, sizeof x, check::ATOMIC, EMU_CALLER);
  atomicAdd(dst, x);
}

// Real time, and a second more with every call: a kernel that waits for the host gives up at once, as
// nothing runs beside it.
long long global_ns() {
  static long long jumps;
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000000000ll + t.tv_nsec +
         1000000000ll * __atomic_add_fetch(&jumps, 1, __ATOMIC_RELAXED);
}

} // namespace emu

long long clock64() { return emu::global_ns(); }
