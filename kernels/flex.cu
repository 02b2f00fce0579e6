// flex.cu -- FlexAttention as studied (study 4, 5.1): a block map of full and partial blocks, and a
// predicate given as source text and compiled, on wgmma. flex runs the dense masks, flex_sparse the
// block-sparse ones, whose predicate asks for block ids. The predicate is asked in preparation, for what
// partial tiles show; the attention kernels are the engine's own.
//
// What decides which code runs is a constant of the text: the kind, the side of blocks. What is drawn
// with a mask (documents, windows, prefixes) stays an argument, as a constant would cost a compilation
// a draw and spare nothing: either is an operand of the same instruction.
#include "flex.h"

#include <stdio.h>
#include <stdlib.h>

#include <cuda_runtime.h>

#include "wgmma/engine.h"

extern "C" const char flex_source[]; // flex.cuh and all it includes (jit.mk)

#define INLINE "static __device__ __forceinline__ "
#define OF_POSITION "(const struct mask *m, int head, int at) {\n  return "

// The definition (mask.h), of which one case stays.
static int dense_predicate(char text[FLEX_PREDICATE], const struct mask *m) {
  return snprintf(
      text, FLEX_PREDICATE,
      "// %s\n" INLINE "bool visible_pair(const struct mask *given, int head, int q, int k) {\n"
      "  struct mask m = *given;\n"
      "  m.kind = (enum mask_kind)%d;\n"
      "  m.block = %d;\n"
      "  return mask_allows(&m, head, q, k);\n"
      "}\n",
      mask_name(m->kind), (int)m->kind, m->kind == MASK_BLOCK_CAUSAL_DOCUMENT ? m->block : 0);
}

// A bit by block row and block column. Uniform blocks need not be searched for.
static int sparse_predicate(char text[FLEX_PREDICATE], const struct mask *m) {
  char id[2][100];
  for (int columns = 0; columns < 2; columns++)
    if (m->kind == MASK_UNIFORM_BLOCK_SPARSE)
      snprintf(id[columns], sizeof id[columns], "(unsigned)at / %d", m->block);
    else
      snprintf(id[columns], sizeof id[columns],
               "mask_find(m->%s + (int64_t)head * (m->blocks_%c + 1), m->blocks_%c, at)",
               columns ? "col_begin" : "row_begin", columns ? 'k' : 'q', columns ? 'k' : 'q');
  return snprintf(
      text, FLEX_PREDICATE,
      "// %s\n#define BLOCK_IDS\n" INLINE "int query_id" OF_POSITION "%s;\n}\n" INLINE
      "int key_id" OF_POSITION "%s;\n}\n" INLINE
      "bool visible_pair(const struct mask *m, int head, int row, int column) {\n"
      "  const uint32_t *kept = m->kept + ((int64_t)head * m->blocks_q + row) * m->kept_words;\n"
      "  return kept[(unsigned)column / 32] >> (unsigned)column %% 32 & 1;\n"
      "}\n",
      mask_name(m->kind), id[0], id[1]);
}

void flex_predicate(char text[FLEX_PREDICATE], const struct mask *m) {
  if ((mask_is_block_sparse(m->kind) ? sparse_predicate : dense_predicate)(text, m) >=
      FLEX_PREDICATE)
    abort(); // the longest text is known, and tested
}

int flex_compile(struct jit_kernel **forward, struct jit_kernel **backward, const char *predicate) {
  *forward = jit_compile(flex_source, predicate, "wgmma::forward_bits<wgmma::flex>");
  if (!*forward || !backward)
    return *forward ? 0 : -1;
  *backward = jit_compile(flex_source, predicate, "wgmma::backward_bits<wgmma::flex>");
  return *backward ? 0 : -1;
}

static const char *supports_pass(const struct attn_problem *p) {
#if CUDART_VERSION < 12080
  return "kernels compiled at run time need a build with CUDA 12.8 or later";
#else
  return wgmma_supports("blockmap", p);
#endif
}

static const char *flex_supports(const struct attn_kernel *kernel, const struct attn_problem *p) {
  return mask_is_block_sparse(p->mask->kind)
             ? "block-sparse masks are run by flex_sparse, whose predicate asks for block ids"
             : supports_pass(p);
}

static const char *flex_sparse_supports(const struct attn_kernel *kernel,
                                        const struct attn_problem *p) {
  return mask_is_block_sparse(p->mask->kind)
             ? supports_pass(p)
             : "flex_sparse asks for block ids: block-sparse masks only";
}

static int flex_prepare(struct attn_plan *plan) {
  char predicate[FLEX_PREDICATE];
  struct jit_kernel *compiled[2] = {};
  const void *function[2] = {};
  const bool backward = plan->problem.backward;
  flex_predicate(predicate, plan->problem.mask);
  if (flex_compile(&compiled[0], backward ? &compiled[1] : NULL, predicate))
    return -1;
  for (int pass = 0; pass <= backward; pass++) {
    const bool first = !compiled[pass]->function && !compiled[pass]->from_file;
    function[pass] = jit_function(compiled[pass]);
    if (!function[pass])
      return -1;
    plan->compile_us += compiled[pass]->compile_us;
    plan->spared_us += first ? 0 : compiled[pass]->compile_us;
  }
  return wgmma_prepare(plan, "blockmap", function[0], function[1]);
}

extern "C" const struct attn_kernel attn_flex, attn_flex_sparse;
const struct attn_kernel attn_flex = {
    "flex",        "blockmap",
    "wgmma",       "FlexAttention: block map and compiled predicate",
    ATTN_DEVICE,   90,
    flex_supports, flex_prepare,
    wgmma_forward, wgmma_backward,
    wgmma_release,
};
const struct attn_kernel attn_flex_sparse = {
    "flex_sparse",
    "blockmap",
    "wgmma",
    "FlexAttention: block map and block-id predicate",
    ATTN_DEVICE,
    90,
    flex_sparse_supports,
    flex_prepare,
    wgmma_forward,
    wgmma_backward,
    wgmma_release,
};
