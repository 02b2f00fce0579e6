// cudnn.c -- cuDNN's fused attention through its graph API, from plain C (study 4; kernels.md 4).
//
// The engines are cuDNN's; this file says which graph (cudnn_graph.h), binds memory to it and keeps
// the plans. Band masks only. Documents are a batch of ragged sequences that lie one after the
// other; their statistics too are ragged, so that LSE lands in the contract's [heads_q, rows]
// without a copy. Plans are kept by shape for the life of the process, since finding one takes up
// to a second.
#include <cuda_runtime_api.h>
#include <stdlib.h>

#include "attn.h"
#include "cudnn_graph.h"

struct cached { // one execution plan; never released
  struct graph_case c;
  desc plan;
  int64_t workspace_bytes;
  struct graph graph;
  struct cached *next;
};

struct cudnn_state {
  const struct cached *forward, *backward;
  void *workspace; // of either pass
  float *delta, *dq_accum;
  int32_t *lengths; // [batch]; padded only
  int64_t *offsets; // [3, batch + 1] of Q's, K's and rows' elements; ragged only
  int64_t batch;
};

static cudnnHandle_t handle; // one a process
static struct cached *cache;

static const char *supports(const struct attn_kernel *kernel, const struct attn_problem *p) {
  if (p->dtype != ATTN_BF16)
    return "device kernels take bf16";
  switch (p->mask->kind) {
  case MASK_FULL:
  case MASK_CAUSAL:
  case MASK_SLIDING_WINDOW:
  case MASK_SLIDING_WINDOW_CAUSAL:
  case MASK_FULL_DOCUMENT:
  case MASK_CAUSAL_DOCUMENT:
  case MASK_FULL_DOCUMENT_LONG:
  case MASK_CAUSAL_DOCUMENT_LONG:
    break;
  default:
    return "cuDNN's graphs express a causal flag, a window and documents, not this mask";
  }
  if (p->rows_q != p->mask->seqlen || p->rows_k != p->mask->seqlen || p->q_segs > 1 ||
      p->k_segs > 1)
    return "cuDNN takes whole sequences, not segments of them";
  if (p->backward && p->deterministic)
    return "cuDNN's deterministic backward would hold dP, S x S a head";
  return NULL;
}

static int cuda_check(cudaError_t status, const char *what) {
  if (status == cudaSuccess)
    return 0;
  cudaGetLastError();
  attn_error_set(status == cudaErrorMemoryAllocation, "%s: %s", what, cudaGetErrorString(status));
  return -1;
}

static int allocate(void **ptr, int64_t bytes, int64_t *account) {
  if (!bytes)
    return 0;
  *account += bytes;
  char what[64];
  snprintf(what, sizeof what, "allocating %.1f MiB on the GPU", (double)bytes / (1 << 20));
  return cuda_check(cudaMalloc(ptr, (size_t)bytes), what);
}

static struct graph_case case_of(const struct attn_problem *p, bool backward) {
  struct graph_case c;
  memset(&c, 0, sizeof c);
  const struct mask *m = p->mask;
  const bool window = m->kind == MASK_SLIDING_WINDOW || m->kind == MASK_SLIDING_WINDOW_CAUSAL;
  const bool causal = m->kind == MASK_CAUSAL || m->kind == MASK_SLIDING_WINDOW_CAUSAL ||
                      m->kind == MASK_CAUSAL_DOCUMENT || m->kind == MASK_CAUSAL_DOCUMENT_LONG;
  c.heads_q = p->heads_q;
  c.heads_kv = p->heads_kv;
  c.dim = p->dim;
  c.batch = 1;
  c.len = c.rows = m->seqlen;
  c.left = window && m->window < m->seqlen ? m->window : -1;
  c.right = causal ? 0 : c.left;
  c.ragged = mask_has_docs(m->kind) && m->docs > 1;
  c.padded = c.ragged || c.len % 128;
  c.backward = backward;
  if (c.ragged) {
    c.batch = m->docs;
    c.len = 0;
    for (int32_t i = 0; i < m->docs; i++)
      if (m->doc_begin[i + 1] - m->doc_begin[i] > c.len)
        c.len = m->doc_begin[i + 1] - m->doc_begin[i];
  }
  return c;
}

// The plan for a case, from the cache or new; NULL with attn_error() set.
static const struct cached *plan_for(struct graph_case c) {
  for (struct cached *old = cache; old; old = old->next)
    if (!memcmp(&old->c, &c, sizeof c))
      return old;
  struct cached *new = calloc(1, sizeof *new);
  if (!new) {
    attn_error_set(true, "out of host memory");
    return NULL;
  }
  desc graph;
  new->c = c;
  if (graph_build(&new->graph, &new->c, handle, &graph) ||
      graph_plan(&new->graph, graph, handle, NULL, &new->plan, &new->workspace_bytes)) {
    attn_error_set(false, "%s", new->graph.error);
    graph_destroy(&new->graph);
    free(new);
    return NULL;
  }
  new->next = cache;
  cache = new;
  return new;
}

// Lengths and offsets of the documents; of the one sequence where there are none.
static int upload_documents(struct attn_plan *plan, struct cudnn_state *s) {
  const struct attn_problem *p = &plan->problem;
  const struct mask *m = p->mask;
  const int64_t n = s->batch;
  int32_t *lengths = malloc((size_t)n * sizeof *lengths);
  int64_t *offsets = malloc((size_t)(3 * (n + 1)) * sizeof *offsets);
  int status = -1;
  if (!lengths || !offsets) {
    attn_error_set(true, "out of host memory");
    goto out;
  }
  for (int64_t i = 0; i <= n; i++) {
    const int64_t begin = n > 1 ? m->doc_begin[i] : i * m->seqlen;
    if (i < n)
      lengths[i] = n > 1 ? m->doc_begin[i + 1] - m->doc_begin[i] : m->seqlen;
    offsets[i] = begin * p->heads_q * p->dim;
    offsets[n + 1 + i] = begin * p->heads_kv * p->dim;
    offsets[2 * (n + 1) + i] = begin;
  }
  if (allocate((void **)&s->lengths, n * 4, &plan->prep_bytes) ||
      allocate((void **)&s->offsets, 3 * (n + 1) * 8, &plan->prep_bytes) ||
      cuda_check(cudaMemcpy(s->lengths, lengths, (size_t)n * 4, cudaMemcpyHostToDevice),
                 "upload") ||
      cuda_check(cudaMemcpy(s->offsets, offsets, (size_t)(3 * (n + 1)) * 8, cudaMemcpyHostToDevice),
                 "upload"))
    goto out;
  status = 0;
out:
  free(lengths);
  free(offsets);
  return status;
}

static int prepare(struct attn_plan *plan) {
  const struct attn_problem *p = &plan->problem;
  struct cudnn_state *s = plan->state = calloc(1, sizeof *s);
  if (!s) {
    attn_error_set(true, "out of host memory");
    return -1;
  }
  if (!handle && cudnnCreate(&handle) != CUDNN_STATUS_SUCCESS) {
    char detail[160] = "";
    cudnnGetLastErrorString(detail, sizeof detail);
    attn_error_set(false, "cuDNN does not start: %s", detail);
    return -1;
  }
  const struct graph_case c = case_of(p, false);
  s->batch = c.batch;
  s->forward = plan_for(c);
  if (!s->forward || (p->backward && !(s->backward = plan_for(case_of(p, true)))))
    return -1;
  int64_t bytes = s->forward->workspace_bytes;
  if (s->backward && s->backward->workspace_bytes > bytes)
    bytes = s->backward->workspace_bytes;
  const int64_t rows = (int64_t)p->rows_q * p->heads_q;
  if (allocate(&s->workspace, bytes, &plan->workspace_bytes) ||
      (c.padded && upload_documents(plan, s)))
    return -1;
  if (p->backward && (allocate((void **)&s->delta, rows * 4, &plan->workspace_bytes) ||
                      allocate((void **)&s->dq_accum, rows * p->dim * 4, &plan->workspace_bytes)))
    return -1;
  return 0;
}

static int execute(const struct attn_plan *plan, const struct cached *with,
                   const struct attn_args *a) {
  enum { BINDINGS = 24 };
  const struct attn_problem *p = &plan->problem;
  const struct cudnn_state *s = plan->state;
  float scale = a->scale != 0 ? a->scale : 1 / sqrtf((float)p->dim), minus_inf = -INFINITY, one = 1;
  float left = (float)(with->c.left + 1);
  int32_t right = (int32_t)with->c.right;
  int64_t ids[BINDINGS];
  void *pointers[BINDINGS];
  int n = 0;
#define BIND(uid, pointer) (ids[n] = uid, pointers[n++] = (void *)(pointer))
  BIND(UID_Q, a->q);
  BIND(UID_K, a->k);
  BIND(UID_V, a->v);
  BIND(UID_O, a->o);
  BIND(UID_STATS, a->lse);
  BIND(UID_SCALE, &scale);
  if (with->c.padded || with->c.left >= 0 || with->c.right >= 0)
    BIND(UID_MINUS_INF, &minus_inf);
  if (with->c.left >= 0)
    BIND(UID_LEFT, &left);
  if (with->c.right > 0)
    BIND(UID_RIGHT, &right);
  if (with->c.padded)
    BIND(UID_LENGTHS, s->lengths);
  if (with->c.ragged) {
    BIND(UID_OFFSET_Q, s->offsets);
    BIND(UID_OFFSET_KV, s->offsets + s->batch + 1);
    BIND(UID_OFFSET_ROW, s->offsets + 2 * (s->batch + 1));
  }
  if (with->c.backward) {
    BIND(UID_D_O, a->d_o);
    BIND(UID_DQ, a->dq);
    BIND(UID_DK, a->dk);
    BIND(UID_DV, a->dv);
    BIND(UID_DELTA, s->delta);
    BIND(UID_DQ_ACCUM, s->dq_accum);
    BIND(UID_ONE, &one);
  }
#undef BIND
  struct graph g; // only its error handling and its list of descriptors are used
  memset(&g, 0, sizeof g);
  const desc pack = graph_make(&g, CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR);
  graph_set(&g, pack, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, n, ids);
  graph_set(&g, pack, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, n, pointers);
  graph_set(&g, pack, CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1, &s->workspace);
  graph_finish(&g, pack, "binding memory");
  if (!g.status)
    graph_check(&g, cudnnSetStream(handle, (cudaStream_t)a->stream), "setting the stream");
  if (!g.status)
    graph_check(&g, cudnnBackendExecute(handle, with->plan, pack), "running");
  if (g.status)
    attn_error_set(false, "%s", g.error);
  graph_destroy(&g);
  return g.status ? -1 : 0;
}

static int forward(struct attn_plan *plan, const struct attn_args *a) {
  const struct cudnn_state *s = plan->state;
  if (a->o_acc) {
    attn_error_set(false, "cuDNN does not continue from a partial result");
    return -1;
  }
  return execute(plan, s->forward, a);
}

static int backward(struct attn_plan *plan, const struct attn_args *a) {
  const struct cudnn_state *s = plan->state;
  const struct attn_problem *p = &plan->problem;
  if (a->accumulate) {
    attn_error_set(false, "cuDNN does not add to given gradients");
    return -1;
  }
  // The engines add into dq_accum. Part of the call's cost, as it is part of every user's.
  const size_t bytes = (size_t)p->rows_q * p->heads_q * p->dim * 4;
  if (cuda_check(cudaMemsetAsync(s->dq_accum, 0, bytes, (cudaStream_t)a->stream), "clearing dQ"))
    return -1;
  return execute(plan, s->backward, a);
}

static void release(struct attn_plan *plan) {
  struct cudnn_state *s = plan->state;
  if (!s)
    return;
  cudaFree(s->workspace);
  cudaFree(s->delta);
  cudaFree(s->dq_accum);
  cudaFree(s->lengths);
  cudaFree(s->offsets);
  free(s);
}

const struct attn_kernel attn_cudnn = {
    .name = "cudnn",
    .rep = "none",
    .engine = "cudnn",
    .summary = "NVIDIA's fused attention, through its graph API",
    .place = ATTN_DEVICE,
    .min_arch = 80,
    .supports = supports,
    .prepare = prepare,
    .forward = forward,
    .backward = backward,
    .release = release,
};
