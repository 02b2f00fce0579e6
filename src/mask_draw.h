// mask_draw.h -- seeded masks, draw for draw those of the study (study 1.4, 2, 5.1, 5.2).
#ifndef LONGCA_MASK_DRAW_H
#define LONGCA_MASK_DRAW_H

#include "mask.h"

// CPython's random.Random(seed): MT19937 seeded by init_by_array. Continue one stream for the
// successive masks of one point, as the study does.
struct mask_rng {
  uint32_t state[624];
  int next;
};
void mask_rng_seed(struct mask_rng *rng, uint64_t seed);

struct mask_recipe {
  enum mask_kind kind;
  int32_t seqlen;
  const char *histogram; // NULL: by length, study 2.3 (pile, prolong64k, prolong512k)
  bool distributed;      // which side of 64K the histogram changes on (study 2.3)
  // Block-sparse masks only.
  int32_t heads_kv;  // patterns to draw
  int32_t block;     // side of a block, or the average of variable ones
  int32_t block_min; // smallest variable block; 0 means 128 or, if smaller, `block`
  double ratio;      // fraction of key blocks kept a query block
};

// The next mask of the stream. 0, or -1 with a sentence in err.
int mask_draw(struct mask *m, struct mask_rng *rng, const struct mask_recipe *recipe, char *err,
              size_t err_size);
// Mask number `draw` (from 0) of a fresh stream with this seed.
int mask_draw_nth(struct mask *m, uint64_t seed, int draw, const struct mask_recipe *recipe, char *err,
                  size_t err_size);
// Name of the histogram that a length takes (study 2.3).
const char *mask_histogram_for(int32_t seqlen, bool distributed);

#endif
