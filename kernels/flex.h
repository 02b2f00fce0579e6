// flex.h -- FlexAttention's two steps before it runs, for flex.cu and its test.
#ifndef LONGCA_FLEX_H
#define LONGCA_FLEX_H

#include "attn.h"
#include "jit.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { FLEX_PREDICATE = 1000 }; // characters that a text needs at most

// The source text of a mask's predicate (flex.cuh says what it defines).
void flex_predicate(char text[FLEX_PREDICATE], const struct mask *mask);
// The kernels that ask that predicate, for the bits of partial tiles of each pass (wgmma/tile_bits.h); backward NULL:
// not wanted. 0, or -1 with attn_error() set.
int flex_compile(struct jit_kernel **forward, struct jit_kernel **backward, const char *predicate);

#ifdef __cplusplus
}
#endif
#endif
