// kernels.c -- the published kernels on the CPU engine: one pairing with a representation each. On one
// engine they differ by their representation alone, so kernels that share it with another, or that are
// welded to a GPU, say so instead.
#include "cpu.h"

static const char *rep_supports(const struct attn_kernel *kernel, const struct attn_problem *p) {
  return rep_find(kernel->rep)->supports(p->mask);
}

static const char *sdpa_supports(const struct attn_kernel *kernel, const struct attn_problem *p) {
  return mask_is_block_sparse(p->mask->kind) ? "SDPA is studied on the dense masks"
                                             : rep_supports(kernel, p);
}

static const char *flex_supports(const struct attn_kernel *kernel, const struct attn_problem *p) {
  return mask_is_block_sparse(p->mask->kind)
             ? "block-sparse masks are run by flex_sparse, whose predicate asks for block ids"
             : rep_supports(kernel, p);
}

static const char *flex_sparse_supports(const struct attn_kernel *kernel,
                                        const struct attn_problem *p) {
  return mask_is_block_sparse(p->mask->kind)
             ? rep_supports(kernel, p)
             : "flex_sparse asks for block ids: block-sparse masks only";
}

static const char *vsa_supports(const struct attn_kernel *kernel, const struct attn_problem *p) {
  const char *why = rep_supports(kernel, p);
  return why ? why : p->mask->block == 64 ? NULL : "VSA takes blocks of 64 x 64";
}

static const char *fa2_sparse_supports(const struct attn_kernel *kernel,
                                       const struct attn_problem *p) {
  const char *why = rep_supports(kernel, p);
  return why ? why : p->mask->block == 128 ? NULL : "FA2 Sparse takes blocks of 128 x 128";
}

static const char *fa3_supports(const struct attn_kernel *kernel, const struct attn_problem *p) {
  return "on the CPU engine fa3 is the same pairing as fa2 (band): it differs by its engine alone";
}

static const char *flashmask_v3_supports(const struct attn_kernel *kernel,
                                         const struct attn_problem *p) {
  return "on the CPU engine flashmask_v3 is the same pairing as flashmask (columns): it differs by "
         "its engine alone";
}

static const char *cudnn_supports(const struct attn_kernel *kernel, const struct attn_problem *p) {
  return "cuDNN runs on NVIDIA GPUs only";
}

static const char *vsa_triton_supports(const struct attn_kernel *kernel,
                                       const struct attn_problem *p) {
  return "on the CPU engine vsa_triton is the same pairing as vsa (block list): it differs by its "
         "engine "
         "alone";
}

#define CPU_KERNEL(id, published, representation, why_not, what) \
  extern const struct attn_kernel id; \
  const struct attn_kernel id = { \
      .name = published, \
      .rep = representation, \
      .engine = "cpu", \
      .summary = what, \
      .place = ATTN_HOST, \
      .supports = why_not, \
      .prepare = cpu_prepare, \
      .forward = cpu_forward, \
      .backward = cpu_backward, \
      .release = cpu_release, \
  };

CPU_KERNEL(attn_sdpa_cpu, "sdpa", "dense", sdpa_supports, "dense S x S mask, fused, on the CPU")
CPU_KERNEL(attn_fa2_cpu, "fa2", "band", rep_supports, "causal flag, window, documents, on the CPU")
CPU_KERNEL(attn_fa3_cpu, "fa3", "band", fa3_supports, "as fa2 on the CPU")
CPU_KERNEL(attn_cudnn_cpu, "cudnn", "band", cudnn_supports, "NVIDIA GPUs only")
CPU_KERNEL(attn_flex_cpu, "flex", "blockmap", flex_supports, "block map and predicate, on the CPU")
CPU_KERNEL(attn_flashmask_cpu, "flashmask", "columns", rep_supports, "column intervals, on the CPU")
CPU_KERNEL(attn_flashmask_v3_cpu, "flashmask_v3", "columns", flashmask_v3_supports,
           "as flashmask on the CPU")
CPU_KERNEL(attn_spans_cpu, "spans", "spans", rep_supports,
           "ours: row intervals that move, on the CPU")
CPU_KERNEL(attn_vsa_cpu, "vsa", "blocklist", vsa_supports, "lists of 64 x 64 blocks, on the CPU")
CPU_KERNEL(attn_vsa_triton_cpu, "vsa_triton", "blocklist", vsa_triton_supports, "as vsa on the CPU")
CPU_KERNEL(attn_fa2_sparse_cpu, "fa2_sparse", "blocklist", fa2_sparse_supports,
           "lists of 128 x 128 blocks, on the CPU")
CPU_KERNEL(attn_flashinfer_cpu, "flashinfer", "varblock", rep_supports,
           "blocks of any size, a grid a KV head, on the CPU")
CPU_KERNEL(attn_flex_sparse_cpu, "flex_sparse", "blockmap", flex_sparse_supports,
           "block map and block-id predicate, on the CPU")
