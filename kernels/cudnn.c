// cudnn.c -- cuDNN's fused attention through its graph API, from plain C (study 4).
//
// The engines are cuDNN's; this file binds memory to a graph of attention (cudnn_attention.h) and keeps
// the plans. Band masks only. Documents are a batch of ragged sequences that lie one after the
// other; their statistics too are ragged, so that LSE lands in the contract's [heads_q, rows]
// without a copy. Execution plans are kept by shape for the life of the process, since finding one takes
// up to a second; their scratch memory belongs to an attn_plan, or is that of the one it is like.
#include <cuda_runtime_api.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>

#include "cudnn_attention.h"
#include "rep/rep.h"

struct cached { // one execution plan; never released
  struct attention attention;
  desc plan;
  int64_t workspace_bytes;
  struct cached *next;
};

struct cudnn_state {
  const struct cached *forward, *backward;
  void *scratch;   // cuDNN's workspace of either pass; then, for backward, the next two
  float *delta;    // [heads_q, rows]
  float *dq_accum; // [rows, heads_q, dim]
  int64_t scratch_bytes;
  bool borrowed;    // the scratch is another plan's (attn_problem.like)
  int32_t *lengths; // [batch]; padded only
  int64_t *offsets; // [3, offsets_ld] of Q's, K's and rows' elements, [batch + 1] each; ragged only
  int64_t batch, offsets_ld;
};

// One handle a process, whose threads take turns (ranks of loopback_gpu are threads): a handle is for one
// thread at a time, and its stream is a setting.
static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;
static cudnnHandle_t handle;
static struct cached *cache;

static const char *supports(const struct attn_kernel *kernel, const struct attn_problem *p) {
  if (p->dtype != ATTN_BF16)
    return "device kernels take bf16";
  if (p->owner_rows)
    return "cuDNN has queries and outputs on this GPU alone";
  if (rep_find("band")->supports(p->mask))
    return "cuDNN's graphs express a causal flag, a window and documents, not this mask";
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

static int start(void) {
  const cudnnStatus_t status = handle ? CUDNN_STATUS_SUCCESS : cudnnCreate(&handle);
  if (status == CUDNN_STATUS_SUCCESS)
    return 0;
  char detail[160] = "";
  cudnnGetLastErrorString(detail, sizeof detail);
  attn_error_set(graph_is_oom(status), "cuDNN does not start: %s", detail);
  return -1;
}

// The execution plan of a case, from the cache or new; NULL with attn_error() set.
static const struct cached *plan_for(struct attention_case c) {
  for (struct cached *old = cache; old; old = old->next)
    if (!memcmp(&old->attention.c, &c, sizeof c))
      return old;
  struct cached *new = calloc(1, sizeof *new);
  if (!new) {
    attn_error_set(true, "out of host memory");
    return NULL;
  }
  attention_build(&new->attention, &c);
  if (graph_plan(&new->attention.graph, handle, NULL, &new->plan, &new->workspace_bytes)) {
    attn_error_set(graph_is_oom(new->attention.graph.status), "%s", new->attention.graph.error);
    graph_destroy(&new->attention.graph);
    free(new);
    return NULL;
  }
  new->next = cache;
  cache = new;
  return new;
}

static int64_t whole_lines(int64_t bytes) { return (bytes + 255) / 256 * 256; }

// The scratch of both passes in one block, which is the other plan's where that is large enough.
static int take_scratch(struct attn_plan *plan, struct cudnn_state *s) {
  const struct attn_problem *p = &plan->problem;
  const struct cudnn_state *like =
      p->like && p->like->kernel == plan->kernel ? p->like->state : NULL;
  const int64_t rows = (int64_t)p->rows_q * p->heads_q;
  int64_t workspace = s->forward->workspace_bytes;
  if (s->backward && s->backward->workspace_bytes > workspace)
    workspace = s->backward->workspace_bytes;
  workspace = whole_lines(workspace);
  const int64_t delta = p->backward ? whole_lines(rows * 4) : 0;
  s->scratch_bytes = workspace + delta + (p->backward ? rows * p->dim * 4 : 0);
  s->borrowed = like && like->scratch && like->scratch_bytes >= s->scratch_bytes;
  if (s->borrowed)
    s->scratch = like->scratch;
  else if (allocate(&s->scratch, s->scratch_bytes, &plan->workspace_bytes))
    return -1;
  s->delta = (float *)((char *)s->scratch + workspace);
  s->dq_accum = (float *)((char *)s->delta + delta);
  return 0;
}

// Lengths and offsets of the documents; of the one sequence where there are none.
static int upload_documents(struct attn_plan *plan, struct cudnn_state *s) {
  const struct attn_problem *p = &plan->problem;
  const struct mask *m = p->mask;
  const int64_t n = s->batch, ld = s->offsets_ld = (n + 2) / 2 * 2; // 16-byte rows, as tensors are
  int32_t *lengths = malloc((size_t)n * sizeof *lengths);
  int64_t *offsets = calloc((size_t)(3 * ld), sizeof *offsets);
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
    offsets[ld + i] = begin * p->heads_kv * p->dim;
    offsets[2 * ld + i] = begin;
  }
  if (allocate((void **)&s->lengths, n * 4, &plan->prep_bytes) ||
      allocate((void **)&s->offsets, 3 * ld * 8, &plan->prep_bytes) ||
      cuda_check(cudaMemcpy(s->lengths, lengths, (size_t)n * 4, cudaMemcpyHostToDevice),
                 "upload") ||
      cuda_check(cudaMemcpy(s->offsets, offsets, (size_t)(3 * ld) * 8, cudaMemcpyHostToDevice),
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
  const struct attention_case c = attention_case(p, false);
  s->batch = c.batch;
  pthread_mutex_lock(&turn);
  if (!start()) {
    s->forward = plan_for(c);
    s->backward = s->forward && p->backward ? plan_for(attention_case(p, true)) : NULL;
  }
  pthread_mutex_unlock(&turn);
  if (!s->forward || (p->backward && !s->backward))
    return -1;
  return take_scratch(plan, s) || (c.padded && upload_documents(plan, s)) ? -1 : 0;
}

static int execute(const struct attn_plan *plan, const struct cached *with,
                   const struct attn_args *a) {
  enum { BINDINGS = 24 };
  const struct attn_problem *p = &plan->problem;
  const struct cudnn_state *s = plan->state;
  const struct attention_case *c = &with->attention.c;
  float scale = a->scale != 0 ? a->scale : 1 / sqrtf((float)p->dim), minus_inf = -INFINITY, one = 1;
  float left = (float)(c->left + 1);
  int32_t right = (int32_t)c->right;
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
  if (c->padded || c->left >= 0 || c->right >= 0)
    BIND(UID_MINUS_INF, &minus_inf);
  if (c->left >= 0)
    BIND(UID_LEFT, &left);
  if (c->right > 0)
    BIND(UID_RIGHT, &right);
  if (c->padded)
    BIND(UID_LENGTHS, s->lengths);
  if (c->ragged) {
    BIND(UID_OFFSET_Q, s->offsets);
    BIND(UID_OFFSET_KV, s->offsets + s->offsets_ld);
    BIND(UID_OFFSET_ROW, s->offsets + 2 * s->offsets_ld);
  }
  if (c->backward) {
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
  graph_set(&g, pack, CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1, &s->scratch);
  graph_finish(&g, pack, "binding memory");
  pthread_mutex_lock(&turn);
  if (!g.status)
    graph_check(&g, cudnnSetStream(handle, (cudaStream_t)a->stream), "setting the stream");
  if (!g.status)
    graph_check(&g, cudnnBackendExecute(handle, with->plan, pack), "running");
  pthread_mutex_unlock(&turn);
  if (g.status)
    attn_error_set(graph_is_oom(g.status), "%s", g.error);
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
  if (!s->borrowed)
    cudaFree(s->scratch);
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
