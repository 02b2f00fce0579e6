// cudnn_attention.h -- attention as a cuDNN operation graph, spelt out in C (study 4): the products,
// pointwise operations and reductions that cuDNN's engines recognise and fuse. Included by cudnn.c and its
// test alone.
//
// Forward   S = scale Q K^T | padding | band | max, sub, exp, sum, log -> stats | P V = O
// Backward  D = rowsum(dO O) | P = exp(S - stats) | dV = P^T dO | dS = scale P (dO V^T - D)
//           dK = dS^T Q | dQ_accum = dS K -> dQ;  GQA sums dK and dV over the group's heads
//
// Masks are comparisons of row and column indices; documents are a batch of ragged sequences: batch
// entry i starts at an offset in elements and has its own length. Row i of S is query i of its
// document. A sequence that ends within a tile also says its length: without it cuDNN scores the
// missing keys 0 in backward, and rows of LSE below -88 overflow into NaN.
#ifndef LONGCA_CUDNN_ATTENTION_H
#define LONGCA_CUDNN_ATTENTION_H

#include "attn.h"
#include "cudnn_graph.h"

// Names of the tensors that a caller binds to memory.
enum uid {
  UID_VIRTUAL, // none: an intermediate result
  UID_Q,
  UID_K,
  UID_V,
  UID_O,
  UID_STATS, // [batch, heads_q, len] LSE
  UID_D_O,
  UID_DQ,
  UID_DK,
  UID_DV,
  UID_DELTA,    // [batch, heads_q, len] D
  UID_DQ_ACCUM, // [batch, heads_q, len, dim] fp32
  UID_LENGTHS,  // [batch] int32
  UID_OFFSET_Q, // [batch + 1] int64: first element of Q, O, dO, dQ and dQ_accum
  UID_OFFSET_KV,
  UID_OFFSET_ROW, // of stats and D
  UID_SCALE,      // from here on scalars on the host
  UID_MINUS_INF,
  UID_LEFT,  // window + 1, float
  UID_RIGHT, // int32
  UID_ONE,
};

struct attention_case { // compared as bytes: clear it before filling
  int64_t batch, heads_q, heads_kv, dim;
  int64_t len;         // of a sequence; ragged: of the longest
  int64_t rows;        // of all sequences together
  int64_t left, right; // keys seen before and after the query; -1: all
  int64_t padded;      // sequences have lengths of their own, or end within a tile of 128
  int64_t ragged;      // they lie one after the other at offsets; else there is one
  int64_t backward;
};

// The case of a problem with a band mask.
static struct attention_case attention_case(const struct attn_problem *p, bool backward) {
  struct attention_case c;
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

struct attention {
  struct graph graph;
  struct attention_case c;
  desc lengths;                         // padded only
  desc offset_q, offset_kv, offset_row; // ragged only
};

static const cudnnDataType_t FP32 = CUDNN_DATA_FLOAT, BF16 = CUDNN_DATA_BFLOAT16,
                             INT32 = CUDNN_DATA_INT32, BOOL = CUDNN_DATA_BOOLEAN;

// ---- tensors

static desc scalar(struct attention *t, enum uid uid) {
  const int64_t one[4] = {1, 1, 1, 1};
  return graph_tensor(&t->graph, uid == UID_RIGHT ? INT32 : FP32, one, one, uid, true, NULL);
}

// [count] numbers of memory.
static desc vector(struct attention *t, cudnnDataType_t type, int64_t count, enum uid uid) {
  const int64_t dims[4] = {count, 1, 1, 1}, one[4] = {1, 1, 1, 1};
  return graph_tensor(&t->graph, type, dims, one, uid, false, NULL);
}

// An intermediate result of the shape of S, [batch, heads_q, query, key], or of S^T.
static desc scores(struct attention *t, cudnnDataType_t type) {
  const struct attention_case *c = &t->c;
  const int64_t dims[4] = {c->batch, c->heads_q, c->len, c->len};
  const int64_t strides[4] = {c->heads_q * c->len * c->len, c->len * c->len, c->len, 1};
  return graph_tensor(&t->graph, type, dims, strides, UID_VIRTUAL, false, NULL);
}
static desc transposed(struct attention *t, desc s) {
  const struct attention_case *c = &t->c;
  const int64_t dims[4] = {c->batch, c->heads_q, c->len, c->len};
  const int64_t strides[4] = {c->heads_q * c->len * c->len, c->len * c->len, 1, c->len};
  return graph_reshape(&t->graph, s,
                       graph_tensor(&t->graph, BF16, dims, strides, UID_VIRTUAL, false, NULL));
}

// One number a row, [batch, heads_q, query]: in memory the contract's [heads_q, rows].
static desc row(struct attention *t, enum uid uid) {
  const struct attention_case *c = &t->c;
  const int64_t dims[4] = {c->batch, c->heads_q, c->len, 1};
  const int64_t strides[4] = {c->heads_q * c->rows, c->rows, 1, 1};
  return graph_tensor(&t->graph, FP32, dims, strides, uid, false,
                      uid == UID_VIRTUAL ? NULL : t->offset_row);
}

// Memory [rows, n heads, dim] seen as [batch, n, len, dim], or with `turned` as [batch, n, dim, len].
static desc heads(struct attention *t, cudnnDataType_t type, int64_t n, bool turned, enum uid uid,
                  desc ragged) {
  const struct attention_case *c = &t->c;
  const int64_t whole = c->len * n * c->dim, pitch = n * c->dim;
  const int64_t dims[4] = {c->batch, n, c->len, c->dim}, strides[4] = {whole, c->dim, pitch, 1};
  const int64_t dims_t[4] = {c->batch, n, c->dim, c->len}, strides_t[4] = {whole, c->dim, 1, pitch};
  return graph_tensor(&t->graph, type, turned ? dims_t : dims, turned ? strides_t : strides, uid,
                      false, ragged);
}
static desc queries(struct attention *t, enum uid uid) {
  return heads(t, BF16, t->c.heads_q, false, uid, t->offset_q);
}
static desc keys(struct attention *t, bool turned, enum uid uid) {
  return heads(t, BF16, t->c.heads_kv, turned, uid, t->offset_kv);
}

#define POINTWISE(mode, x, b, y) \
  graph_pointwise(&t->graph, CUDNN_POINTWISE_##mode, FP32, x, b, NULL, -1, y)

// ---- masks: s where visible, -inf elsewhere

static desc compare(struct attention *t, cudnnPointwiseMode_t mode, desc x, desc b) {
  return graph_pointwise(&t->graph, mode, BOOL, x, b, NULL, -1, scores(t, BOOL));
}
static desc keep_where(struct attention *t, desc s, desc visible) {
  return graph_pointwise(&t->graph, CUDNN_POINTWISE_BINARY_SELECT, FP32, s,
                         scalar(t, UID_MINUS_INF), visible, -1, scores(t, FP32));
}
// Index of each element of s along an axis: 2 the query, 3 the key.
static desc index_along(struct attention *t, desc s, int64_t axis, cudnnDataType_t type) {
  return graph_pointwise(&t->graph, CUDNN_POINTWISE_GEN_INDEX, type, s, NULL, NULL, axis,
                         scores(t, type));
}

static desc mask_padding(struct attention *t, desc s) {
  if (!t->c.padded)
    return s;
  const desc q = index_along(t, s, 2, INT32), k = index_along(t, s, 3, INT32);
  const desc q_in = compare(t, CUDNN_POINTWISE_CMP_LT, q, t->lengths);
  const desc k_in = compare(t, CUDNN_POINTWISE_CMP_LT, k, t->lengths);
  return keep_where(t, s, compare(t, CUDNN_POINTWISE_LOGICAL_AND, q_in, k_in));
}

static desc mask_band(struct attention *t, desc s) {
  if (t->c.right >= 0) { // q + right >= k; an engine that skips tiles wants the sum in integers
    const cudnnDataType_t type = t->c.right > 0 ? INT32 : FP32;
    desc q = index_along(t, s, 2, type);
    const desc k = index_along(t, s, 3, type);
    if (t->c.right > 0)
      q = graph_pointwise(&t->graph, CUDNN_POINTWISE_ADD, type, q, scalar(t, UID_RIGHT), NULL, -1,
                          scores(t, type));
    s = keep_where(t, s, compare(t, CUDNN_POINTWISE_CMP_GE, q, k));
  }
  if (t->c.left >= 0) { // k + left + 1 > q
    const desc q = index_along(t, s, 2, FP32), k = index_along(t, s, 3, FP32);
    const desc reach = POINTWISE(ADD, k, scalar(t, UID_LEFT), scores(t, FP32));
    s = keep_where(t, s, compare(t, CUDNN_POINTWISE_CMP_GT, reach, q));
  }
  return s;
}

// ---- the graphs

// Products that sum over the head dimension, give a row each, or sum over the rows: which of M, N and K
// are the sequences' own lengths.
static desc matmul_scores(struct attention *t, desc a, desc b) {
  const desc out = scores(t, FP32);
  graph_matmul(&t->graph, a, b, out, t->lengths, t->lengths, NULL);
  return out;
}
static void matmul_rows(struct attention *t, desc a, desc b, desc out) {
  graph_matmul(&t->graph, a, b, out, t->lengths, NULL, t->lengths);
}

static void forward_ops(struct attention *t) {
  const desc q = queries(t, UID_Q), k_t = keys(t, true, UID_K), v = keys(t, false, UID_V);
  const desc o = queries(t, UID_O);
  desc s = POINTWISE(MUL, matmul_scores(t, q, k_t), scalar(t, UID_SCALE), scores(t, FP32));
  s = mask_band(t, mask_padding(t, s));
  const desc max = graph_reduce(&t->graph, CUDNN_REDUCE_TENSOR_MAX, s, row(t, UID_VIRTUAL));
  const desc e = POINTWISE(EXP, POINTWISE(SUB, s, max, scores(t, FP32)), NULL, scores(t, FP32));
  const desc sum = graph_reduce(&t->graph, CUDNN_REDUCE_TENSOR_ADD, e, row(t, UID_VIRTUAL));
  POINTWISE(ADD, max, POINTWISE(LOG, sum, NULL, row(t, UID_VIRTUAL)), row(t, UID_STATS));
  matmul_rows(t, POINTWISE(DIV, e, sum, scores(t, BF16)), v, o);
}

// out [heads_kv] = x y, where x and y have heads_q heads: under GQA by way of a result a query head.
static void matmul_group(struct attention *t, desc x, desc y, desc out) {
  const struct attention_case *c = &t->c;
  if (c->heads_q == c->heads_kv) {
    matmul_rows(t, x, y, out);
    return;
  }
  const int64_t dims[4] = {c->batch, c->heads_q, c->len, c->dim};
  const int64_t strides[4] = {c->heads_q * c->len * c->dim, c->len * c->dim, c->dim, 1};
  const desc each = graph_tensor(&t->graph, BF16, dims, strides, UID_VIRTUAL, false, NULL);
  matmul_rows(t, x, y, each);
  graph_reduce(&t->graph, CUDNN_REDUCE_TENSOR_ADD, each, out);
}

static void backward_ops(struct attention *t) {
  struct graph *g = &t->graph;
  const int64_t n = t->c.heads_q;
  const desc q = queries(t, UID_Q), o = queries(t, UID_O), d_o = queries(t, UID_D_O);
  const desc k_t = keys(t, true, UID_K), v_t = keys(t, true, UID_V);
  const desc dq_accum = heads(t, FP32, n, false, UID_DQ_ACCUM, t->offset_q);
  const desc scale = scalar(t, UID_SCALE);

  // D. The product by one is needed: without it what cuDNN plans takes memory beyond O(S).
  const desc dot = POINTWISE(MUL, d_o, o, heads(t, FP32, n, false, UID_VIRTUAL, NULL));
  const desc sum = graph_reduce(g, CUDNN_REDUCE_TENSOR_ADD, dot, row(t, UID_VIRTUAL));
  const desc delta = POINTWISE(MUL, sum, scalar(t, UID_ONE), row(t, UID_DELTA));
  // P: padding is masked before the statistics come off, the band after.
  desc s = POINTWISE(MUL, matmul_scores(t, q, k_t), scale, scores(t, FP32));
  s = POINTWISE(SUB, mask_padding(t, s), row(t, UID_STATS), scores(t, FP32));
  const desc p = POINTWISE(EXP, mask_band(t, s), NULL, scores(t, FP32));
  matmul_group(t, transposed(t, p), d_o, keys(t, false, UID_DV));
  // dS
  const desc dp = matmul_scores(t, d_o, v_t);
  const desc inner = POINTWISE(MUL, POINTWISE(SUB, dp, delta, scores(t, FP32)), p, scores(t, FP32));
  const desc ds = POINTWISE(MUL, inner, scale, scores(t, FP32));
  matmul_group(t, transposed(t, ds), q, keys(t, false, UID_DK));
  const desc k = heads(t, FP32, t->c.heads_kv, false, UID_VIRTUAL, t->offset_kv);
  matmul_rows(t, ds, graph_reshape(g, k_t, k), dq_accum);
  POINTWISE(IDENTITY, dq_accum, NULL, queries(t, UID_DQ));
}

// All operations of a case. Whether that went well is in t->graph.status.
static void attention_build(struct attention *t, const struct attention_case *c) {
  memset(t, 0, sizeof *t);
  t->c = *c;
  if (c->padded)
    t->lengths = vector(t, INT32, c->batch, UID_LENGTHS);
  if (c->ragged) {
    t->offset_q = vector(t, CUDNN_DATA_INT64, c->batch + 1, UID_OFFSET_Q);
    t->offset_kv = vector(t, CUDNN_DATA_INT64, c->batch + 1, UID_OFFSET_KV);
    t->offset_row = vector(t, CUDNN_DATA_INT64, c->batch + 1, UID_OFFSET_ROW);
  }
  if (c->backward)
    backward_ops(t);
  else
    forward_ops(t);
}

#endif
