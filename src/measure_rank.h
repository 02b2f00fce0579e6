// measure_rank.h -- one rank's side of a point of context parallelism: its tensors, a pass, its check.
#ifndef LONGCA_MEASURE_RANK_H
#define LONGCA_MEASURE_RANK_H

#include "../cp/cp.h"
#include "point.h"

enum { Q, K, V, D_O, O, LSE, DQ, DK, DV, RANK_TENSORS };
enum { RANKS_MAX = 4096 };

struct rank_shared { // by the ranks of one process; rank 0 writes the row
  const struct point *p;
  struct row *row;
  const struct cp_schedule *schedule;
  struct cp_wish wish;
  const struct attn_kernel *kernel;
};

struct rank {
  struct rank_shared *s;
  struct cp_comm *comm;
  struct mask mask;
  struct attn_problem problem; // the whole
  struct cp_plan plan;
  int32_t *pos;          // [context_rows]
  void *t[RANK_TENSORS]; // in the transport's memory
  int64_t bytes[RANK_TENSORS];
  void *whole[RANK_TENSORS]; // on rank 0 between the checks: gathered, in host memory
  bool gathered[RANK_TENSORS];
  double enqueue_us; // of the last timed pass, on the rank whose host took longest
};

// All return 0, or -1 with attn_error() set.
int rank_draw(const struct point *p, struct mask *mask);
// Mask, plan and filled tensors. rank_release() even after a failure.
int rank_make(struct rank *r);
void rank_release(struct rank *r);
int rank_pass(struct rank *r, enum attn_pass pass);
// Runs one pass; rank 0 gathers and checks it whole against the double reference, and notes the errors, or
// status `wrong`, in the row. *right is the same on all ranks.
int rank_check(struct rank *r, enum attn_pass pass, bool *right);

#endif
