// point.h -- one thing to measure: the independent variables of a row, as plain data.
#ifndef LONGCA_POINT_H
#define LONGCA_POINT_H

#include "../kernels/attn.h"
#include "mask_draw.h"
#include "row.h"

enum { POINT_NAME = 48, POINT_KEY = 320 };

struct point {
  char exp[POINT_NAME]; // the experiment that asks; not part of the identity
  char profile[POINT_NAME];
  char kernel[POINT_NAME];
  char histogram[POINT_NAME]; // document lengths; empty: by sequence length (study 2.3)
  enum mask_kind mask;
  enum attn_pass pass;
  bool deterministic; // backward with the same bits every time: pass bwd_det of a row
  enum attn_dtype dtype;
  enum attn_place place;
  char cp[POINT_NAME]; // schedule of context parallelism (cp/cp.h); "none" or empty: one rank alone
  char transport[POINT_NAME];
  int32_t ranks;
  int32_t heads_q, heads_kv, dim, seqlen;
  int32_t window; // of the sliding windows; 0 elsewhere
  int32_t block;  // of BLOCK CAUSAL DOCUMENT and the block-sparse masks; 0 elsewhere
  double ratio;   // of the block-sparse masks; 0 elsewhere
  uint64_t seed;
  int32_t draw;
  // How it is timed; not part of the identity.
  int32_t warmup, samples_min, samples_max;
  double seconds;            // timing stops after this many, once samples_min are there
  double limit_s;            // the worker is killed after this many
  char left_out[ROW_REASON]; // reason of the experiment's `except` line; empty: measured
};

// Clears what the mask does not have (the window of FULL, the ratio of CAUSAL, ...), so that equal
// points are equal.
void point_normalise(struct point *p);
bool point_is_cp(const struct point *p);
// The columns that are known beforehand; the rest empty or NaN.
void point_to_row(const struct point *p, struct row *row);
// Identity of the point that a row belongs to, as text: profile and independent variables.
const char *point_key(const struct row *row, char key[POINT_KEY]);
// "causal fwd 64:8 d128 S=8192 fa2 draw 0", for people; returns buf.
const char *point_describe(const struct point *p, char *buf, size_t size);

// What draws the point's mask. The histogram is the point's own string.
struct mask_recipe point_recipe(const struct point *p);
// What a kernel is asked: the whole sequence, on one GPU.
struct attn_problem point_problem(const struct point *p, const struct mask *mask);

// Heads as "64:8": query heads, a multiple of the KV heads, at most 1024. False when text is not that.
bool point_parse_heads(const char *text, int32_t *heads_q, int32_t *heads_kv);
const char *point_pass_name(enum attn_pass pass);    // "fwd" "bwd"
const char *point_pass_text(const struct point *p);  // "fwd" "bwd" "bwd_det"
const char *point_dtype_name(enum attn_dtype dtype); // "bf16" "fp32"
const char *point_place_name(enum attn_place place); // "host" "device"

#endif
