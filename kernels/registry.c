// registry.c -- every attention kernel, once. Tests, benchmark, `longca list` and tables read this.
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "attn.h"

// clang-format off
#define CPU_KERNELS(K)                                                                                 \
  K(attn_naive_cpu) K(attn_sdpa_cpu) K(attn_fa2_cpu) K(attn_fa3_cpu) K(attn_cudnn_cpu)                 \
  K(attn_flex_cpu) K(attn_flashmask_cpu) K(attn_flashmask_v3_cpu) K(attn_spans_cpu) K(attn_vsa_cpu) K(attn_vsa_triton_cpu) \
  K(attn_fa2_sparse_cpu) K(attn_flashinfer_cpu) K(attn_flex_sparse_cpu)
#ifdef LONGCA_CUDNN
#define CUDNN_KERNELS(K) K(attn_cudnn)
#else
#define CUDNN_KERNELS(K)
#endif
#ifdef LONGCA_CUDA
#define CUDA_KERNELS(K)                                                                                \
  K(attn_naive) K(attn_sdpa) K(attn_fa2) K(attn_fa3) CUDNN_KERNELS(K) K(attn_flex)                     \
  K(attn_flashmask) K(attn_flashmask_v3) K(attn_spans) K(attn_vsa) K(attn_vsa_triton) K(attn_fa2_sparse)                  \
  K(attn_flashinfer) K(attn_flex_sparse)
#else
#define CUDA_KERNELS(K)
#endif
// clang-format on

#define DECLARE(name) extern const struct attn_kernel name;
CPU_KERNELS(DECLARE)
CUDA_KERNELS(DECLARE)

#define ENTRY(name) &name,
const struct attn_kernel *const attn_kernels[] = {CPU_KERNELS(ENTRY) CUDA_KERNELS(ENTRY) NULL};

static _Thread_local char error_text[256];
static _Thread_local bool error_oom;

void attn_error_set(bool oom, const char *format, ...) {
  va_list ap;
  va_start(ap, format);
  vsnprintf(error_text, sizeof error_text, format, ap);
  va_end(ap);
  error_oom = oom;
}

const char *attn_error(void) { return error_text; }
bool attn_error_is_oom(void) { return error_oom; }

const struct attn_kernel *attn_find(const char *name, enum attn_place place) {
  for (int i = 0; attn_kernels[i]; i++)
    if (attn_kernels[i]->place == place && !strcmp(attn_kernels[i]->name, name))
      return attn_kernels[i];
  return NULL;
}

const char *attn_why_not(const struct attn_kernel *kernel, const struct attn_problem *p) {
  if (p->heads_q < 1 || p->heads_kv < 1 || p->heads_q % p->heads_kv)
    return "the number of query heads must be a multiple of the number of KV heads";
  if (p->dim != 64 && p->dim != 128)
    return "head dimensions 64 and 128 are built";
  if (p->mask->heads && p->mask->heads != p->heads_kv)
    return "the mask has a pattern a KV head, for another number of KV heads";
  return kernel->supports ? kernel->supports(kernel, p) : NULL;
}

const char *attn_why_not_on(const struct attn_kernel *kernel, int arch) {
  static _Thread_local char sentence[96];
  const bool only = kernel->min_arch == 90; // sm_90a
  if (kernel->place != ATTN_DEVICE || arch == kernel->min_arch ||
      (!only && arch > kernel->min_arch))
    return NULL;
  snprintf(sentence, sizeof sentence,
           "needs a GPU of compute capability %d.%d%s, this one has %d.%d", kernel->min_arch / 10,
           kernel->min_arch % 10, only ? "" : " or later", arch / 10, arch % 10);
  return sentence;
}

int attn_prepare(struct attn_plan *plan, const struct attn_kernel *kernel,
                 const struct attn_problem *problem) {
  memset(plan, 0, sizeof *plan);
  plan->kernel = kernel;
  plan->problem = *problem;
  struct timespec begin, end;
  clock_gettime(CLOCK_MONOTONIC, &begin);
  const int status = kernel->prepare ? kernel->prepare(plan) : 0;
  clock_gettime(CLOCK_MONOTONIC, &end);
  plan->prep_us = (end.tv_sec - begin.tv_sec) * 1e6 + (end.tv_nsec - begin.tv_nsec) * 1e-3;
  plan->prep_us += plan->spared_us; // what a first use takes, whatever ran before
  return status;
}

void attn_release(struct attn_plan *plan) {
  if (plan->kernel && plan->kernel->release)
    plan->kernel->release(plan);
  memset(plan, 0, sizeof *plan);
}
