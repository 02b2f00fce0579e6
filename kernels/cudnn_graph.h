// cudnn_graph.h -- attention as a cuDNN operation graph, spelt out in C (kernels.md 4): the
// matmuls, pointwise operations and reductions that cuDNN's engines recognise and fuse. Included by
// cudnn.c alone.
//
// Forward   S = scale Q K^T | padding | band | max, sub, exp, sum, log -> stats | P V = O
// Backward  D = rowsum(dO O) | P = exp(S - stats) | dV = P^T dO | dS = scale P (dO V^T - D)
//           dK = dS^T Q | dQ_accum = dS K -> dQ;  GQA sums dK and dV over the group's heads
//
// Masks are comparisons of row and column indices; documents are a batch of ragged sequences: batch
// entry i starts at an offset in elements and has its own length. Row i of S is query i of its
// document. A sequence that ends within a tile also says its length: without it cuDNN scores the
// missing keys 0 in backward, and rows of LSE below -88 overflow into NaN.
#ifndef LONGCA_CUDNN_GRAPH_H
#define LONGCA_CUDNN_GRAPH_H

#include <cudnn.h>
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

typedef cudnnBackendDescriptor_t desc;

// Names of the tensors that a caller binds to memory. From UID_SCALE to UID_ONE: scalars on the
// host.
enum uid {
  UID_NONE,
  UID_Q,
  UID_K,
  UID_V,
  UID_O,
  UID_STATS,
  UID_D_O,
  UID_DQ,
  UID_DK,
  UID_DV,
  UID_DELTA,    // [batch, heads_q, len] D
  UID_DQ_ACCUM, // [batch, heads_q, len, dim] fp32
  UID_LENGTHS,  // [batch] int32
  UID_OFFSET_Q, // [batch + 1] int32 or int64: first element of Q, O, dO, dQ and dQ_accum
  UID_OFFSET_KV,
  UID_OFFSET_ROW, // of stats and D
  UID_SCALE,
  UID_MINUS_INF,
  UID_LEFT, // window + 1
  UID_RIGHT,
  UID_ONE,
  UID_VIRTUAL = 100 // and up: intermediate results
};

struct graph_case { // compared as bytes: clear it before filling
  int64_t batch, heads_q, heads_kv, dim;
  int64_t len;         // of a sequence; ragged: of the longest
  int64_t rows;        // of all sequences together
  int64_t left, right; // keys seen before and after the query; -1: all
  int64_t padded;      // sequences have lengths of their own, or end within a tile of 128
  int64_t ragged;      // they lie one after the other at offsets; else there is one
  int64_t backward;
};

// A graph under construction. The first failure sticks; the calls after it do nothing.
enum { GRAPH_DESCS = 512, GRAPH_OPS = 64 };
struct graph {
  cudnnStatus_t status;
  char error[200];
  desc descs[GRAPH_DESCS], ops[GRAPH_OPS]; // all made; operations in order
  int desc_count, op_count;
  int64_t next_uid;
  const struct graph_case *c;
  int64_t s_dims[4], s_strides[4], row_dims[4],
      row_strides[4];                   // shapes of S, and of one number a row
  desc lengths;                         // padded only
  desc offset_q, offset_kv, offset_row; // ragged only
};

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

static desc tensor(struct graph *g, cudnnDataType_t type, const int64_t dims[4],
                   const int64_t strides[4], int64_t uid, desc ragged) {
  const desc t = graph_make(g, CUDNN_BACKEND_TENSOR_DESCRIPTOR);
  const int64_t align = 16;
  const bool yes = true, by_value = uid >= UID_SCALE && uid <= UID_ONE;
  if (uid == UID_NONE)
    uid = g->next_uid++;
  graph_set(g, t, CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &type);
  graph_set(g, t, CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, 4, dims);
  graph_set(g, t, CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, 4, strides);
  graph_set(g, t, CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, 1, &uid);
  graph_set(g, t, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, 1, &align);
  if (uid >= UID_VIRTUAL)
    graph_set(g, t, CUDNN_ATTR_TENSOR_IS_VIRTUAL, CUDNN_TYPE_BOOLEAN, 1, &yes);
  if (by_value)
    graph_set(g, t, CUDNN_ATTR_TENSOR_IS_BY_VALUE, CUDNN_TYPE_BOOLEAN, 1, &yes);
  graph_set_desc(g, t, CUDNN_ATTR_TENSOR_RAGGED_OFFSET_DESC, ragged);
  return graph_finish(g, t, "describing a tensor");
}

static desc scalar(struct graph *g, enum uid uid) {
  const int64_t one[4] = {1, 1, 1, 1};
  return tensor(g, uid == UID_RIGHT ? CUDNN_DATA_INT32 : CUDNN_DATA_FLOAT, one, one, uid, NULL);
}
// Intermediate results of the shapes of S and of one number a row.
static desc scores(struct graph *g, cudnnDataType_t type) {
  return tensor(g, type, g->s_dims, g->s_strides, UID_NONE, NULL);
}
static desc row(struct graph *g) {
  return tensor(g, CUDNN_DATA_FLOAT, g->row_dims, g->row_strides, UID_NONE, NULL);
}
static desc real_row(struct graph *g, enum uid uid) {
  return tensor(g, CUDNN_DATA_FLOAT, g->row_dims, g->row_strides, uid, g->offset_row);
}

// Memory [rows, heads, dim] seen as [batch, heads, len, dim], or transposed as [batch, heads, dim,
// len].
static desc heads(struct graph *g, cudnnDataType_t type, int64_t n, bool transposed, enum uid uid,
                  desc ragged) {
  const struct graph_case *c = g->c;
  const int64_t whole = c->len * n * c->dim, pitch = n * c->dim;
  const int64_t dims[4] = {c->batch, n, c->len, c->dim}, strides[4] = {whole, c->dim, pitch, 1};
  const int64_t dims_t[4] = {c->batch, n, c->dim, c->len}, strides_t[4] = {whole, c->dim, 1, pitch};
  return tensor(g, type, transposed ? dims_t : dims, transposed ? strides_t : strides, uid, ragged);
}

// ---- operations

static void add_op(struct graph *g, desc op) {
  graph_finish(g, op, "adding an operation");
  if (g->op_count < GRAPH_OPS)
    g->ops[g->op_count++] = op;
}

// m, n, k: which extents of the product are the sequences' own lengths (ragged).
static void matmul(struct graph *g, desc a, desc b, desc out, bool m, bool n, bool k) {
  const cudnnDataType_t type = CUDNN_DATA_FLOAT;
  const desc how = graph_make(g, CUDNN_BACKEND_MATMUL_DESCRIPTOR);
  graph_set(g, how, CUDNN_ATTR_MATMUL_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &type);
  graph_finish(g, how, "describing a product");
  const desc op = graph_make(g, CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR);
  graph_set_desc(g, op, CUDNN_ATTR_OPERATION_MATMUL_ADESC, a);
  graph_set_desc(g, op, CUDNN_ATTR_OPERATION_MATMUL_BDESC, b);
  graph_set_desc(g, op, CUDNN_ATTR_OPERATION_MATMUL_CDESC, out);
  graph_set_desc(g, op, CUDNN_ATTR_OPERATION_MATMUL_DESC, how);
  graph_set_desc(g, op, CUDNN_ATTR_OPERATION_MATMUL_GEMM_M_OVERRIDE_DESC, m ? g->lengths : NULL);
  graph_set_desc(g, op, CUDNN_ATTR_OPERATION_MATMUL_GEMM_N_OVERRIDE_DESC, n ? g->lengths : NULL);
  graph_set_desc(g, op, CUDNN_ATTR_OPERATION_MATMUL_GEMM_K_OVERRIDE_DESC, k ? g->lengths : NULL);
  add_op(g, op);
}

// y = mode(x, b) or, for BINARY_SELECT, t ? x : b. axis: of GEN_INDEX, else -1.
static desc pointwise(struct graph *g, cudnnPointwiseMode_t mode, cudnnDataType_t type, desc x,
                      desc b, desc t, int64_t axis, desc y) {
  const desc how = graph_make(g, CUDNN_BACKEND_POINTWISE_DESCRIPTOR);
  graph_set(g, how, CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, 1, &mode);
  graph_set(g, how, CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_TYPE_DATA_TYPE, 1, &type);
  if (axis >= 0)
    graph_set(g, how, CUDNN_ATTR_POINTWISE_AXIS, CUDNN_TYPE_INT64, 1, &axis);
  graph_finish(g, how, "describing a pointwise operation");
  const desc op = graph_make(g, CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
  graph_set_desc(g, op, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, how);
  graph_set_desc(g, op, CUDNN_ATTR_OPERATION_POINTWISE_XDESC, x);
  graph_set_desc(g, op, CUDNN_ATTR_OPERATION_POINTWISE_BDESC, b);
  graph_set_desc(g, op, CUDNN_ATTR_OPERATION_POINTWISE_TDESC, t);
  graph_set_desc(g, op, CUDNN_ATTR_OPERATION_POINTWISE_YDESC, y);
  add_op(g, op);
  return y;
}
#define POINTWISE(mode, x, b, y) \
  pointwise(g, CUDNN_POINTWISE_##mode, CUDNN_DATA_FLOAT, x, b, NULL, -1, y)

static desc reduce(struct graph *g, cudnnReduceTensorOp_t how, desc x, desc y) {
  const cudnnDataType_t type = CUDNN_DATA_FLOAT;
  const desc r = graph_make(g, CUDNN_BACKEND_REDUCTION_DESCRIPTOR);
  graph_set(g, r, CUDNN_ATTR_REDUCTION_OPERATOR, CUDNN_TYPE_REDUCTION_OPERATOR_TYPE, 1, &how);
  graph_set(g, r, CUDNN_ATTR_REDUCTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &type);
  graph_finish(g, r, "describing a reduction");
  const desc op = graph_make(g, CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR);
  graph_set_desc(g, op, CUDNN_ATTR_OPERATION_REDUCTION_DESC, r);
  graph_set_desc(g, op, CUDNN_ATTR_OPERATION_REDUCTION_XDESC, x);
  graph_set_desc(g, op, CUDNN_ATTR_OPERATION_REDUCTION_YDESC, y);
  add_op(g, op);
  return y;
}

static desc reshape(struct graph *g, desc x, desc y) {
  const desc op = graph_make(g, CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR);
  graph_set_desc(g, op, CUDNN_ATTR_OPERATION_RESHAPE_XDESC, x);
  graph_set_desc(g, op, CUDNN_ATTR_OPERATION_RESHAPE_YDESC, y);
  add_op(g, op);
  return y;
}

// ---- masks: s where visible, -inf elsewhere

static desc compare(struct graph *g, cudnnPointwiseMode_t mode, desc x, desc b) {
  return pointwise(g, mode, CUDNN_DATA_BOOLEAN, x, b, NULL, -1, scores(g, CUDNN_DATA_BOOLEAN));
}
static desc keep_where(struct graph *g, desc s, desc visible) {
  return pointwise(g, CUDNN_POINTWISE_BINARY_SELECT, CUDNN_DATA_FLOAT, s, scalar(g, UID_MINUS_INF),
                   visible, -1, scores(g, CUDNN_DATA_FLOAT));
}
// Index of each element of s along an axis: 2 the query, 3 the key.
static desc index_along(struct graph *g, desc s, int64_t axis, cudnnDataType_t type) {
  return pointwise(g, CUDNN_POINTWISE_GEN_INDEX, type, s, NULL, NULL, axis, scores(g, type));
}

static desc mask_padding(struct graph *g, desc s) {
  if (!g->c->padded)
    return s;
  const desc q = index_along(g, s, 2, CUDNN_DATA_INT32), k = index_along(g, s, 3, CUDNN_DATA_INT32);
  const desc q_in = compare(g, CUDNN_POINTWISE_CMP_LT, q, g->lengths);
  const desc k_in = compare(g, CUDNN_POINTWISE_CMP_LT, k, g->lengths);
  return keep_where(g, s, compare(g, CUDNN_POINTWISE_LOGICAL_AND, q_in, k_in));
}

static desc mask_band(struct graph *g, desc s) {
  if (g->c->right >= 0) { // q + right >= k; an engine that skips tiles wants the sum in integers
    const cudnnDataType_t type = g->c->right > 0 ? CUDNN_DATA_INT32 : CUDNN_DATA_FLOAT;
    desc q = index_along(g, s, 2, type);
    const desc k = index_along(g, s, 3, type);
    if (g->c->right > 0)
      q = pointwise(g, CUDNN_POINTWISE_ADD, type, q, scalar(g, UID_RIGHT), NULL, -1,
                    scores(g, type));
    s = keep_where(g, s, compare(g, CUDNN_POINTWISE_CMP_GE, q, k));
  }
  if (g->c->left >= 0) { // k + left + 1 > q
    const desc q = index_along(g, s, 2, CUDNN_DATA_FLOAT),
               k = index_along(g, s, 3, CUDNN_DATA_FLOAT);
    const desc reach = POINTWISE(ADD, k, scalar(g, UID_LEFT), scores(g, CUDNN_DATA_FLOAT));
    s = keep_where(g, s, compare(g, CUDNN_POINTWISE_CMP_GT, reach, q));
  }
  return s;
}

// ---- the graphs

static void forward_ops(struct graph *g) {
  const struct graph_case *c = g->c;
  const cudnnDataType_t bf16 = CUDNN_DATA_BFLOAT16, fp32 = CUDNN_DATA_FLOAT;
  const desc q = heads(g, bf16, c->heads_q, false, UID_Q, g->offset_q);
  const desc k_t = heads(g, bf16, c->heads_kv, true, UID_K, g->offset_kv);
  const desc v = heads(g, bf16, c->heads_kv, false, UID_V, g->offset_kv);
  const desc o = heads(g, bf16, c->heads_q, false, UID_O, g->offset_q);
  const desc product = scores(g, fp32);
  matmul(g, q, k_t, product, true, true, false);
  desc s = POINTWISE(MUL, product, scalar(g, UID_SCALE), scores(g, fp32));
  s = mask_band(g, mask_padding(g, s));
  const desc max = reduce(g, CUDNN_REDUCE_TENSOR_MAX, s, row(g));
  const desc e = POINTWISE(EXP, POINTWISE(SUB, s, max, scores(g, fp32)), NULL, scores(g, fp32));
  const desc sum = reduce(g, CUDNN_REDUCE_TENSOR_ADD, e, row(g));
  POINTWISE(ADD, max, POINTWISE(LOG, sum, NULL, row(g)), real_row(g, UID_STATS));
  matmul(g, POINTWISE(DIV, e, sum, scores(g, bf16)), v, o, true, false, true);
}

// out [heads_kv] = x y, where x and y have heads_q heads: by way of a result a query head under
// GQA.
static void matmul_group(struct graph *g, desc x, desc y, desc out) {
  const struct graph_case *c = g->c;
  if (c->heads_q == c->heads_kv) {
    matmul(g, x, y, out, true, false, true);
    return;
  }
  const int64_t dims[4] = {c->batch, c->heads_q, c->len, c->dim};
  const int64_t strides[4] = {c->heads_q * c->len * c->dim, c->len * c->dim, c->dim, 1};
  const desc each = tensor(g, CUDNN_DATA_BFLOAT16, dims, strides, UID_NONE, NULL);
  matmul(g, x, y, each, true, false, true);
  reduce(g, CUDNN_REDUCE_TENSOR_ADD, each, out);
}

static void backward_ops(struct graph *g) {
  const struct graph_case *c = g->c;
  const cudnnDataType_t bf16 = CUDNN_DATA_BFLOAT16, fp32 = CUDNN_DATA_FLOAT;
  const int64_t t_dims[4] = {c->batch, c->heads_q, c->len, c->len};
  const int64_t t_strides[4] = {c->heads_q * c->len * c->len, c->len * c->len, 1, c->len};
  const desc q = heads(g, bf16, c->heads_q, false, UID_Q, g->offset_q);
  const desc k_t = heads(g, bf16, c->heads_kv, true, UID_K, g->offset_kv);
  const desc v_t = heads(g, bf16, c->heads_kv, true, UID_V, g->offset_kv);
  const desc o = heads(g, bf16, c->heads_q, false, UID_O, g->offset_q);
  const desc d_o = heads(g, bf16, c->heads_q, false, UID_D_O, g->offset_q);
  const desc dq = heads(g, bf16, c->heads_q, false, UID_DQ, g->offset_q);
  const desc dk = heads(g, bf16, c->heads_kv, false, UID_DK, g->offset_kv);
  const desc dv = heads(g, bf16, c->heads_kv, false, UID_DV, g->offset_kv);
  const desc dq_accum = heads(g, fp32, c->heads_q, false, UID_DQ_ACCUM, g->offset_q);
  const desc scale = scalar(g, UID_SCALE);

  // D. The product by one is needed: without it no engine recognises the graph.
  const desc dot = POINTWISE(MUL, d_o, o, heads(g, fp32, c->heads_q, false, UID_NONE, NULL));
  const desc delta = POINTWISE(MUL, reduce(g, CUDNN_REDUCE_TENSOR_ADD, dot, row(g)),
                               scalar(g, UID_ONE), real_row(g, UID_DELTA));
  // P: padding is masked before the statistics come off, the band after.
  const desc product = scores(g, fp32);
  matmul(g, q, k_t, product, true, true, false);
  desc s = mask_padding(g, POINTWISE(MUL, product, scale, scores(g, fp32)));
  s = mask_band(g, POINTWISE(SUB, s, real_row(g, UID_STATS), scores(g, fp32)));
  const desc p = POINTWISE(EXP, s, NULL, scores(g, fp32));
  const desc p_t = reshape(g, p, tensor(g, bf16, t_dims, t_strides, UID_NONE, NULL));
  matmul_group(g, p_t, d_o, dv);
  // dS
  const desc dp = scores(g, fp32);
  matmul(g, d_o, v_t, dp, true, true, false);
  const desc inner = POINTWISE(MUL, POINTWISE(SUB, dp, delta, scores(g, fp32)), p, scores(g, fp32));
  const desc ds = POINTWISE(MUL, inner, scale, scores(g, fp32));
  const desc ds_t = reshape(g, ds, tensor(g, bf16, t_dims, t_strides, UID_NONE, NULL));
  matmul_group(g, ds_t, q, dk);
  const desc k = reshape(g, k_t, heads(g, fp32, c->heads_kv, false, UID_NONE, g->offset_kv));
  matmul(g, ds, k, dq_accum, true, false, true);
  POINTWISE(IDENTITY, dq_accum, NULL, dq);
}

// The finished graph; handle may be NULL. 0, or -1 with g->error.
static int graph_build(struct graph *g, const struct graph_case *c, cudnnHandle_t handle,
                       desc *out) {
  memset(g, 0, sizeof *g);
  g->c = c;
  g->next_uid = UID_VIRTUAL;
  const int64_t square = c->len * c->len;
  const int64_t s_dims[4] = {c->batch, c->heads_q, c->len, c->len};
  const int64_t s_strides[4] = {c->heads_q * square, square, c->len, 1};
  const int64_t row_dims[4] = {c->batch, c->heads_q, c->len, 1};
  const int64_t row_strides[4] = {c->heads_q * c->rows, c->rows, 1,
                                  1}; // the contract's [heads_q, rows]
  memcpy(g->s_dims, s_dims, sizeof s_dims);
  memcpy(g->s_strides, s_strides, sizeof s_strides);
  memcpy(g->row_dims, row_dims, sizeof row_dims);
  memcpy(g->row_strides, row_strides, sizeof row_strides);
  const int64_t one[4] = {1, 1, 1, 1}, lengths[4] = {c->batch, 1, 1, 1},
                ends[4] = {c->batch + 1, 1, 1, 1};
  if (c->padded)
    g->lengths = tensor(g, CUDNN_DATA_INT32, lengths, one, UID_LENGTHS, NULL);
  if (c->ragged) {
    g->offset_q = tensor(g, CUDNN_DATA_INT64, ends, one, UID_OFFSET_Q, NULL);
    g->offset_kv = tensor(g, CUDNN_DATA_INT64, ends, one, UID_OFFSET_KV, NULL);
    g->offset_row = tensor(g, CUDNN_DATA_INT64, ends, one, UID_OFFSET_ROW, NULL);
  }
  if (c->backward)
    backward_ops(g);
  else
    forward_ops(g);
  *out = graph_make(g, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
  if (handle)
    graph_set(g, *out, CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, 1, &handle);
  graph_set(g, *out, CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR, g->op_count,
            g->ops);
  graph_finish(g, *out, "finishing the graph");
  return g->status ? -1 : 0;
}

// An execution plan: the first configuration that the heuristics offer and that can be finalised.
// Without a handle, `device` (a DEVICEPROP descriptor) says for which GPU.
static int graph_plan(struct graph *g, desc graph, cudnnHandle_t handle, desc device, desc *plan,
                      int64_t *workspace_bytes) {
  enum { CONFIGS = 8 };
  char detail[120] = "";
  const cudnnBackendHeurMode_t mode = CUDNN_HEUR_MODE_A;
  const desc heuristics = graph_make(g, CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
  graph_set_desc(g, heuristics, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph);
  graph_set(g, heuristics, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, &mode);
  graph_set_desc(g, heuristics, CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, device);
  graph_finish(g, heuristics, "asking the heuristics");
  desc configs[CONFIGS];
  for (int i = 0; i < CONFIGS; i++)
    configs[i] = graph_make(g, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
  int64_t count = 0;
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
    if (cudnnBackendFinalize(*plan) != CUDNN_STATUS_SUCCESS) {
      cudnnGetLastErrorString(detail, sizeof detail);
      continue;
    }
    int64_t one;
    return graph_check(g,
                       cudnnBackendGetAttribute(*plan, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE,
                                                CUDNN_TYPE_INT64, 1, &one, workspace_bytes),
                       "reading the workspace's size")
               ? 0
               : -1;
  }
  snprintf(g->error, sizeof g->error, "cuDNN has no engine for this graph (%d tried) %s",
           (int)count, detail);
  g->status = CUDNN_STATUS_NOT_SUPPORTED;
  return -1;
}

#endif
