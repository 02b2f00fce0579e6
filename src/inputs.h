// inputs.h -- what a point is measured on: its mask and its tensors, on the host and in the place.
#ifndef LONGCA_INPUTS_H
#define LONGCA_INPUTS_H

#include "place.h"
#include "point.h"

// A tensor on the host and in the place; on the host they are the same memory.
struct buffer {
  void *host, *placed;
  int64_t n;
  enum attn_dtype dtype;
};
size_t buffer_bytes(const struct buffer *b);
// n elements, poisoned with NaN in the place. On a device the host's side is for download() alone: it may
// hold what an earlier tensor left. NULL, or the status "oom" or "crash" with a reason. Release it even
// then.
const char *buffer_make(struct buffer *b, const struct place *place, enum attn_dtype dtype,
                        int64_t n, char reason[ROW_REASON]);
void buffer_release(struct buffer *b, const struct place *place);

enum { INPUT_Q, INPUT_K, INPUT_V, INPUT_D_O, INPUTS };

// The point's mask; and its tensors, d_o only for backward: q, d_o [seqlen, heads_q, dim], k, v
// [seqlen, heads_kv, dim], N(0, 1) by seed and draw. Both stay for the next call, which often asks for
// the same: a device worker that goes on to the next kernel of a series finds them ready, and at 128K
// tokens making them takes far longer than the measurement.
// NULL, or the status "unsupported", "oom" or "crash" with a reason.
const char *inputs_mask(const struct point *p, const struct mask **mask, char reason[ROW_REASON]);
const char *inputs_tensors(const struct point *p, const struct place *place,
                           struct buffer tensor[INPUTS], char reason[ROW_REASON]);
// Bytes of the tensors kept now that inputs_tensors(p) would hand out again or release.
size_t inputs_held(const struct point *p);

#endif
