// mask_rng.c -- CPython's random.Random: MT19937 after Matsumoto and Nishimura (1998), seeded and read
// as CPython does, so that a seed gives the study's masks (study 1.4).
#include "mask_draw.h"

enum { MT_N = 624, MT_M = 397 };

void mask_rng_seed(struct mask_rng *rng, uint64_t seed) {
  const uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
  const int words = key[1] ? 2 : 1; // CPython's key has no leading zero words
  uint32_t *mt = rng->state;
  mt[0] = 19650218;
  for (int i = 1; i < MT_N; i++)
    mt[i] = 1812433253u * (mt[i - 1] ^ (mt[i - 1] >> 30)) + (uint32_t)i;
  int i = 1;
  for (int k = 0; k < MT_N; k++) {
    const int j = k % words;
    mt[i] = (mt[i] ^ ((mt[i - 1] ^ (mt[i - 1] >> 30)) * 1664525u)) + key[j] + (uint32_t)j;
    if (++i == MT_N) {
      mt[0] = mt[MT_N - 1];
      i = 1;
    }
  }
  for (int k = 1; k < MT_N; k++) {
    mt[i] = (mt[i] ^ ((mt[i - 1] ^ (mt[i - 1] >> 30)) * 1566083941u)) - (uint32_t)i;
    if (++i == MT_N) {
      mt[0] = mt[MT_N - 1];
      i = 1;
    }
  }
  mt[0] = 0x80000000u;
  rng->next = MT_N;
}

uint32_t mask_rng_u32(struct mask_rng *rng) {
  uint32_t *mt = rng->state;
  if (rng->next == MT_N) {
    for (int i = 0; i < MT_N; i++) {
      const uint32_t y = (mt[i] & 0x80000000u) | (mt[(i + 1) % MT_N] & 0x7fffffffu);
      mt[i] = mt[(i + MT_M) % MT_N] ^ (y >> 1) ^ (y & 1 ? 0x9908b0dfu : 0);
    }
    rng->next = 0;
  }
  uint32_t y = mt[rng->next++];
  y ^= y >> 11;
  y ^= (y << 7) & 0x9d2c5680u;
  y ^= (y << 15) & 0xefc60000u;
  return y ^ (y >> 18);
}

double mask_rng_random(struct mask_rng *rng) {
  const uint32_t a = mask_rng_u32(rng) >> 5, b = mask_rng_u32(rng) >> 6;
  return (a * 67108864.0 + b) / 9007199254740992.0; // (a 2^26 + b) / 2^53
}

// The top bits of one output, again until they fit.
uint32_t mask_rng_below(struct mask_rng *rng, uint32_t n) {
  const int shift = __builtin_clz(n);
  uint32_t x;
  do
    x = mask_rng_u32(rng) >> shift;
  while (x >= n);
  return x;
}

int32_t mask_rng_randint(struct mask_rng *rng, int32_t low, int32_t high) {
  return low + (int32_t)mask_rng_below(rng, (uint32_t)high - (uint32_t)low + 1);
}
