// cudnn_graph.h -- cuDNN's graph API in C: descriptors, tensors, the operations that attention is made of,
// and the plan for a finished graph. What attention is stands in cudnn_attention.h.
//
// The first failure sticks, with its sentence in graph.error; the calls after it do nothing and give
// NULL, so that only the end of a construction needs to be checked.
#ifndef LONGCA_CUDNN_GRAPH_H
#define LONGCA_CUDNN_GRAPH_H

#include <cudnn.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

typedef cudnnBackendDescriptor_t desc;

enum {
  GRAPH_DESCS = 512,
  GRAPH_OPS = 64,
  GRAPH_VIRTUAL = 100
}; // first name of intermediate results
struct graph {
  cudnnStatus_t status;
  char error[200];
  desc descs[GRAPH_DESCS], ops[GRAPH_OPS]; // all made; operations in order
  int desc_count, op_count, virtuals;
};

static bool graph_is_oom(cudnnStatus_t status) {
  return status == CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED ||
         status == CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED;
}

static bool graph_check(struct graph *g, cudnnStatus_t status, const char *what) {
  if (status == CUDNN_STATUS_SUCCESS)
    return true;
  g->status = status;
  char detail[120] = "";
  cudnnGetLastErrorString(detail, sizeof detail);
  snprintf(g->error, sizeof g->error, "cuDNN, %s: %s %s", what, cudnnGetErrorString(status),
           detail);
  return false;
}

// ---- descriptors

static desc graph_make(struct graph *g, cudnnBackendDescriptorType_t type) {
  desc d = NULL;
  if (!g->status && g->desc_count < GRAPH_DESCS &&
      graph_check(g, cudnnBackendCreateDescriptor(type, &d), "creating a descriptor"))
    g->descs[g->desc_count++] = d;
  return d;
}

static void graph_set(struct graph *g, desc d, cudnnBackendAttributeName_t name,
                      cudnnBackendAttributeType_t type, int64_t count, const void *value) {
  if (!g->status)
    graph_check(g, cudnnBackendSetAttribute(d, name, type, count, value), "setting an attribute");
}

// NULL: the attribute stays unset.
static void graph_set_desc(struct graph *g, desc d, cudnnBackendAttributeName_t name, desc value) {
  if (value)
    graph_set(g, d, name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &value);
}

static desc graph_finish(struct graph *g, desc d, const char *what) {
  if (!g->status)
    graph_check(g, cudnnBackendFinalize(d), what);
  return d;
}

static void graph_destroy(struct graph *g) {
  while (g->desc_count)
    cudnnBackendDestroyDescriptor(g->descs[--g->desc_count]);
}

// ---- tensors

// `uid` is what the caller binds memory to, 0: an intermediate result. By value: a scalar on the host.
// `ragged`: where each batch entry begins, in elements, or NULL.
static desc graph_tensor(struct graph *g, cudnnDataType_t type, const int64_t dims[4],
                         const int64_t strides[4], int64_t uid, bool by_value, desc ragged) {
  const desc t = graph_make(g, CUDNN_BACKEND_TENSOR_DESCRIPTOR);
  const int64_t align_bytes = 16, name = uid ? uid : GRAPH_VIRTUAL + g->virtuals++;
  const bool yes = true;
  graph_set(g, t, CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &type);
  graph_set(g, t, CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, 4, dims);
  graph_set(g, t, CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, 4, strides);
  graph_set(g, t, CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, 1, &name);
  graph_set(g, t, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, 1, &align_bytes);
  if (!uid)
    graph_set(g, t, CUDNN_ATTR_TENSOR_IS_VIRTUAL, CUDNN_TYPE_BOOLEAN, 1, &yes);
  if (by_value)
    graph_set(g, t, CUDNN_ATTR_TENSOR_IS_BY_VALUE, CUDNN_TYPE_BOOLEAN, 1, &yes);
  graph_set_desc(g, t, CUDNN_ATTR_TENSOR_RAGGED_OFFSET_DESC, ragged);
  return graph_finish(g, t, "describing a tensor");
}

// ---- operations

struct graph_link {
  cudnnBackendAttributeName_t name;
  desc to;
};

static void graph_add(struct graph *g, cudnnBackendDescriptorType_t type,
                      const struct graph_link *links, int count) {
  const desc op = graph_make(g, type);
  for (int i = 0; i < count; i++)
    graph_set_desc(g, op, links[i].name, links[i].to);
  graph_finish(g, op, "adding an operation");
  if (g->op_count < GRAPH_OPS)
    g->ops[g->op_count++] = op;
}
#define GRAPH_ADD(g, type, ...) \
  graph_add(g, CUDNN_BACKEND_OPERATION_##type##_DESCRIPTOR, (struct graph_link[]){__VA_ARGS__}, \
            sizeof((struct graph_link[]){__VA_ARGS__}) / sizeof(struct graph_link))

// out [.., M, N] = a [.., M, K] b [.., K, N] in fp32. m, n, k: lengths that each batch entry has of its
// own instead of an extent, or NULL.
static void graph_matmul(struct graph *g, desc a, desc b, desc out, desc m, desc n, desc k) {
  const cudnnDataType_t type = CUDNN_DATA_FLOAT;
  const desc how = graph_make(g, CUDNN_BACKEND_MATMUL_DESCRIPTOR);
  graph_set(g, how, CUDNN_ATTR_MATMUL_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &type);
  graph_finish(g, how, "describing a product");
  GRAPH_ADD(g, MATMUL, {CUDNN_ATTR_OPERATION_MATMUL_ADESC, a},
            {CUDNN_ATTR_OPERATION_MATMUL_BDESC, b}, {CUDNN_ATTR_OPERATION_MATMUL_CDESC, out},
            {CUDNN_ATTR_OPERATION_MATMUL_DESC, how},
            {CUDNN_ATTR_OPERATION_MATMUL_GEMM_M_OVERRIDE_DESC, m},
            {CUDNN_ATTR_OPERATION_MATMUL_GEMM_N_OVERRIDE_DESC, n},
            {CUDNN_ATTR_OPERATION_MATMUL_GEMM_K_OVERRIDE_DESC, k});
}

// y = mode(x, b) or, for BINARY_SELECT, t ? x : b. axis: of GEN_INDEX, else -1. Returns y.
static desc graph_pointwise(struct graph *g, cudnnPointwiseMode_t mode, cudnnDataType_t type,
                            desc x, desc b, desc t, int64_t axis, desc y) {
  const desc how = graph_make(g, CUDNN_BACKEND_POINTWISE_DESCRIPTOR);
  graph_set(g, how, CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, 1, &mode);
  graph_set(g, how, CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_TYPE_DATA_TYPE, 1, &type);
  if (axis >= 0)
    graph_set(g, how, CUDNN_ATTR_POINTWISE_AXIS, CUDNN_TYPE_INT64, 1, &axis);
  graph_finish(g, how, "describing a pointwise operation");
  GRAPH_ADD(g, POINTWISE, {CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, how},
            {CUDNN_ATTR_OPERATION_POINTWISE_XDESC, x}, {CUDNN_ATTR_OPERATION_POINTWISE_BDESC, b},
            {CUDNN_ATTR_OPERATION_POINTWISE_TDESC, t}, {CUDNN_ATTR_OPERATION_POINTWISE_YDESC, y});
  return y;
}

// y = x reduced, in fp32, over the axes on which y has extent 1. Returns y.
static desc graph_reduce(struct graph *g, cudnnReduceTensorOp_t mode, desc x, desc y) {
  const cudnnDataType_t type = CUDNN_DATA_FLOAT;
  const desc how = graph_make(g, CUDNN_BACKEND_REDUCTION_DESCRIPTOR);
  graph_set(g, how, CUDNN_ATTR_REDUCTION_OPERATOR, CUDNN_TYPE_REDUCTION_OPERATOR_TYPE, 1, &mode);
  graph_set(g, how, CUDNN_ATTR_REDUCTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &type);
  graph_finish(g, how, "describing a reduction");
  GRAPH_ADD(g, REDUCTION, {CUDNN_ATTR_OPERATION_REDUCTION_DESC, how},
            {CUDNN_ATTR_OPERATION_REDUCTION_XDESC, x}, {CUDNN_ATTR_OPERATION_REDUCTION_YDESC, y});
  return y;
}

// The same elements seen with y's extents and strides. Returns y.
static desc graph_reshape(struct graph *g, desc x, desc y) {
  GRAPH_ADD(g, RESHAPE, {CUDNN_ATTR_OPERATION_RESHAPE_XDESC, x},
            {CUDNN_ATTR_OPERATION_RESHAPE_YDESC, y});
  return y;
}

// ---- plans

// An execution plan for the operations: the first configuration that the heuristics offer and that can be
// finalised, and the bytes of memory that it wants. For the handle's GPU, or where that is NULL for
// `device`, a DEVICEPROP descriptor. 0, or -1 with g->error.
static int graph_plan(struct graph *g, cudnnHandle_t handle, desc device, desc *plan,
                      int64_t *workspace_bytes) {
  enum { CONFIGS = 8 };
  char detail[120] = "";
  const cudnnBackendHeurMode_t mode = CUDNN_HEUR_MODE_A;
  const desc graph = graph_make(g, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
  if (handle)
    graph_set(g, graph, CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, 1, &handle);
  graph_set(g, graph, CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR, g->op_count,
            g->ops);
  graph_finish(g, graph, "finishing the graph");
  const desc heuristics = graph_make(g, CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
  graph_set_desc(g, heuristics, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph);
  graph_set(g, heuristics, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, &mode);
  graph_set_desc(g, heuristics, CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, device);
  graph_finish(g, heuristics, "asking the heuristics");
  desc configs[CONFIGS];
  for (int i = 0; i < CONFIGS; i++)
    configs[i] = graph_make(g, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
  int64_t count = 0, one;
  if (g->status || !graph_check(g,
                                cudnnBackendGetAttribute(heuristics, CUDNN_ATTR_ENGINEHEUR_RESULTS,
                                                         CUDNN_TYPE_BACKEND_DESCRIPTOR, CONFIGS,
                                                         &count, configs),
                                "reading the heuristics"))
    return -1;
  for (int64_t i = 0; i < count && i < CONFIGS; i++) {
    *plan = graph_make(g, CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
    if (handle)
      graph_set(g, *plan, CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE, 1, &handle);
    graph_set_desc(g, *plan, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, configs[i]);
    graph_set_desc(g, *plan, CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP, device);
    if (g->status)
      return -1;
    const cudnnStatus_t status = cudnnBackendFinalize(*plan);
    if (graph_is_oom(status)) { // which must not make the choice
      graph_check(g, status, "finishing a plan");
      return -1;
    }
    if (status == CUDNN_STATUS_SUCCESS)
      return graph_check(g,
                         cudnnBackendGetAttribute(*plan, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE,
                                                  CUDNN_TYPE_INT64, 1, &one, workspace_bytes),
                         "reading the workspace's size")
                 ? 0
                 : -1;
    cudnnGetLastErrorString(detail, sizeof detail);
  }
  snprintf(g->error, sizeof g->error, "cuDNN has no engine for this graph (%d tried) %s",
           (int)count, detail);
  g->status = CUDNN_STATUS_NOT_SUPPORTED;
  return -1;
}

#endif
