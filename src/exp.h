// exp.h -- experiments as data: experiments/NAME.exp, read with inih, expanded into points.
//
// Settings are laid over one another: the profile's section in experiments/profiles.ini, then [axes]
// of the experiment (the study's own values), then its section named like the profile, then --set.
// experiments/README.md describes the format.
#ifndef LONGCA_EXP_H
#define LONGCA_EXP_H

#include "filter.h"
#include "point.h"

enum { EXP_VALUE = 512, EXP_EXCEPTS = 16 };

// Every setting, one line each: X(name, default, what it is).
#define EXP_SETTINGS(X) \
  X(mask, "", "masks by code id") \
  X(kernel, "", "kernels by published name") \
  X(pass, "fwd bwd", "fwd, bwd, bwd_det (the same bits every time)") \
  X(heads, "64:8", "query heads:KV heads") \
  X(dim, "128", "head dimension") \
  X(seqlen, "", "sequence length; 16K is 16384; 8K/rank is 8192 times the ranks") \
  X(dtype, "bf16", "bf16, fp32") \
  X(window, "1024", "window of the sliding-window masks") \
  X(block, "1024", "block of BLOCK CAUSAL DOCUMENT and of the block-sparse masks") \
  X(ratio, "0.5", "fraction of blocks kept by the block-sparse masks") \
  X(histogram, "by-length", "document lengths; by-length follows the study's rule") \
  X(seed, "42", "seed of masks and tensors") \
  X(draws, "1", "masks drawn a point") \
  X(draws_docs, "1", "the same for masks with documents") \
  X(place, "host", "host, device") \
  X(cp, "none", "schedules of context parallelism, usp or with a shape usp:2x4; none") \
  X(transport, "loopback", "what carries a schedule's transfers: loopback, mpi, nccl") \
  X(ranks, "1", "ranks of a schedule") \
  X(warmup, "5", "calls before timing") \
  X(samples_min, "6", "fewest timed calls") \
  X(samples_max, "20", "most timed calls") \
  X(seconds, "10", "timing stops after this many, once samples_min are there") \
  X(limit_s, "120", "a point that takes longer is recorded as timeout")

enum exp_setting {
#define EXP_ENUM(name, value, help) EXP_##name,
  EXP_SETTINGS(EXP_ENUM)
#undef EXP_ENUM
      EXP_SETTING_COUNT
};

struct experiment {
  char name[POINT_NAME], profile[POINT_NAME];
  char title[EXP_VALUE], figures[EXP_VALUE], claims[EXP_VALUE], why[EXP_VALUE];
  char value[EXP_SETTING_COUNT][EXP_VALUE];
  struct exp_except {
    struct filter when;
    char reason[ROW_REASON];
  } except[EXP_EXCEPTS];
  int excepts;
};

// The folder that holds experiments/ and data/: $LONGCA_ROOT, or the nearest one above the program
// that has experiments/profiles.ini, or the working directory.
const char *exp_root(void);

// Reads an experiment by name ("fig8") or by path ("mine.exp", with a slash or the ending).
// 0, or -1 with a sentence in err: no such experiment or profile (lists them), unknown key, ...
int exp_load(struct experiment *e, const char *name, const char *profile, char *err,
             size_t err_size);
// Overrides one setting: --set.
int exp_set(struct experiment *e, const char *key, const char *value, char *err, size_t err_size);
// Expands into points, for free(). Draws come outermost, so that an early stop leaves all points
// with fewer draws; the kernels of one mask, shape and pass are neighbours, in seeded random order.
int exp_points(const struct experiment *e, struct point **points, size_t *n, char *err,
               size_t err_size);

#endif
