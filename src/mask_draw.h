// mask_draw.h -- seeded masks, draw for draw those of the study (study 1.4, 2, 5.1, 5.2).
//
// Block-sparse patterns came from torch.rand in the study, whose stream nobody else has; here they
// come from the same MT19937 stream as all else, by the study's rules, for each KV head in turn:
//   uniform   blocks of `block` along queries and keys; a length that is no multiple of it has a
//             short last block
//   variable  nb = max(1, seqlen / block) blocks a side: nb - 1 cuts are drawn in [0, rest], both ends
//             included, where rest = seqlen - nb * block_min; block i has block_min tokens and those
//             between the sorted cuts i - 1 and i. First the queries' sizes, then the keys'
//   kept      k = max(1, (int)(ratio * nk)) of the nk key blocks in every query block. The k highest of
//             nk independent uniform scores are k blocks drawn without replacement, and that is how
//             they are drawn
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
uint32_t mask_rng_u32(struct mask_rng *rng);
double mask_rng_random(struct mask_rng *rng);                              // [0, 1), 53 bits
uint32_t mask_rng_below(struct mask_rng *rng, uint32_t n);                 // [0, n), n >= 1
int32_t mask_rng_randint(struct mask_rng *rng, int32_t low, int32_t high); // [low, high]

struct mask_recipe {
  enum mask_kind kind;
  int32_t seqlen;
  const char *histogram; // NULL: by length, study 2.3 (pile, prolong64k, prolong512k)
  bool distributed;      // which side of 64K the histogram changes on (study 2.3)
  int32_t window;        // sliding windows; 0: 1024. GLOBAL SLIDING draws its own
  // BLOCK CAUSAL DOCUMENT: 0 means 1024; seqlen must be a multiple. Block-sparse masks: side of a block
  // (0: 64), or the average of variable ones (0: 256).
  int32_t block;
  // Block-sparse masks only.
  int32_t heads_kv;  // patterns to draw
  int32_t block_min; // smallest variable block; 0 means 128 or, if smaller, `block`
  double ratio;      // fraction of key blocks kept a query block
};

// The next mask of the stream. 0, or -1 with a sentence in err.
int mask_draw(struct mask *m, struct mask_rng *rng, const struct mask_recipe *recipe, char *err,
              size_t err_size);
// Mask number `draw` (from 0) of a fresh stream with this seed.
int mask_draw_nth(struct mask *m, uint64_t seed, int draw, const struct mask_recipe *recipe,
                  char *err, size_t err_size);
// Name of the histogram that a length takes (study 2.3); above 64K prolong512k.
const char *mask_histogram_for(int32_t seqlen, bool distributed);
// The histograms of data/distributions, which are built in: "pile, prolong512k, prolong64k".
const char *mask_histogram_names(void);

#endif
