// model_tables.h -- what `longca model` prints: estimates of schedules on ranks that are not here (cp/model.h),
// and how far they are from rows that were measured. src/cmd_model.c reads the options.
#ifndef LONGCA_MODEL_TABLES_H
#define LONGCA_MODEL_TABLES_H

#include "../cp/model.h"
#include "table.h"

struct model_request {
  struct cp_machine machine;
  const char *cp, *ranks, *mask, *pass; // lists of words: "usp:8x12,ulysses", "8,16"
  int32_t heads_q, heads_kv, dim;
  int32_t tokens; // of a rank
  int32_t draws;  // of masks with documents
  enum table_format format;
};

// One attention over ranks, averaged over draws.
struct model_point {
  enum mask_kind mask;
  enum attn_pass pass;
  enum attn_dtype dtype;
  int32_t heads_q, heads_kv, dim, seqlen, ranks, draws;
  const char *cp; // schedule, perhaps with a shape
};

struct model_answer {
  struct cp_estimate mean; // over the draws
  double tflop_s;          // of a rank
  char refusal[256];       // empty: answered
};

// 0; 2 after a message, when there is no such schedule.
int model_ask(const struct cp_machine *machine, const struct model_point *point,
              struct model_answer *answer);

// Both print a table and return the exit status.
int model_estimates(const struct model_request *r);
int model_against(const struct model_request *r, char *const *paths, int n_paths);

#endif
