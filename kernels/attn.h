// attn.h -- the contract of every attention kernel: one struct of arguments, one table of functions.
//
//   O = softmax(scale * Q K^T, over the visible keys) V,   LSE = ln sum exp(scale * Q K^T)
// A row that sees no key has O = 0 and LSE = -inf. Query head h reads KV head h / (heads_q / heads_kv).
//
// Kernels know positions: queries and keys come as segments of local rows with the mask position each
// begins at, so that a context-parallel rank's chunks are read in place. One GPU is the case of a
// single segment {0, 0, seqlen}. Segments are sorted by row and do not overlap; positions may come in
// any order. Rows in no segment are padding: they see nothing and nothing sees them, but what they hold is
// finite, since a device kernel multiplies it by 0.
#ifndef LONGCA_ATTN_H
#define LONGCA_ATTN_H

#include "../src/mask.h"

#ifdef __cplusplus
extern "C" {
#endif

enum attn_pass { ATTN_FWD, ATTN_BWD };
enum attn_dtype { ATTN_BF16, ATTN_FP32 };
enum attn_place { ATTN_HOST, ATTN_DEVICE };
enum attn_part { ATTN_ALONE, ATTN_FIRST, ATTN_NEXT, ATTN_LAST }; // of a pass in several calls

enum { ATTN_OWNERS_MAX = 8 };

struct attn_segment {
  int32_t row, pos, len; // local rows [row, row + len) stand at mask positions [pos, pos + len)
};

// What a kernel is asked to do, without the data: supports() and prepare() see this.
struct attn_problem {
  const struct mask *mask; // host memory
  enum attn_dtype dtype;
  int32_t heads_q, heads_kv, dim;
  int32_t rows_q, rows_k;           // local rows; the mask's seqlen on one GPU
  const struct attn_segment *q_seg; // [q_segs]; NULL: one segment, the whole
  const struct attn_segment *k_seg; // [k_segs]
  int32_t q_segs, k_segs;
  bool backward;      // prepare for backward too
  bool deterministic; // backward: same bits every time
  bool merges;        // calls may continue from partial results: attn_args.o_acc, accumulate
  // Forward: 0, or calls may have attn_args.owners, each of which has so many of the rows; rows_q / owner_rows
  // of them, ATTN_OWNERS_MAX at most.
  int32_t owner_rows;
  // A plan of the same kernel and mask, or NULL. As the two never run at once, this one may share its
  // representation and workspace, and then accounts for what it adds. It must outlive this one.
  struct attn_plan *like;
};

// Where rows of q and o lie instead, with several owners, such as GPUs whose memory this one can read and write:
// local row r at row r % owner_rows of the tensors of owner r / owner_rows. Tensors [owner_rows, heads, dim], of
// which a call has the heads from `head` on. Everything else, lse and o_acc too, lies here.
struct attn_owners {
  const void *q[ATTN_OWNERS_MAX];
  void *o[ATTN_OWNERS_MAX];
  int32_t heads, head;
};

// All tensors are dense with dim fastest; bf16 as uint16_t or fp32, by dtype.
struct attn_args {
  const void *q, *k, *v; // q [rows_q, heads_q, dim]; k, v [rows_k, heads_kv, dim]
  void *o;               // [rows_q, heads_q, dim]
  float *lse;            // [heads_q, rows_q], natural log
  float scale;           // 0: 1 / sqrt(dim)
  // Forward, continuing: o_acc and lse hold a partial result over other keys, normalised; this call
  // merges its keys in. o_acc [rows_q, heads_q, dim] fp32 is read and written instead of o. The call that
  // is ATTN_LAST only reads it, and writes o: all rows of segments, those that see no key here too.
  float *o_acc;
  bool resume; // false with o_acc: start afresh, but write fp32
  // Backward. o and lse are the finished forward's. With accumulate, the fp32 buffers dq_acc, dk_acc,
  // dv_acc (shapes of q, k, v) are added to, and dq, dk, dv stay untouched.
  const void *d_o; // [rows_q, heads_q, dim]
  void *dq, *dk, *dv;
  float *dq_acc, *dk_acc, *dv_acc;
  bool accumulate;
  // Which of several calls this is. Backward: with accumulate, of the same queries, o, lse and d_o against
  // other keys, one after the other on a stream, by plans that are like the first one's
  // (attn_problem.like): from ATTN_FIRST to ATTN_LAST a kernel may keep what it has of dQ and of these in
  // its workspace, and dq_acc is complete after the last. One that does (attn_plan.keeps_dq) takes a dq_acc of
  // NULL: the last call writes dq then, all rows of segments.
  enum attn_part part;
  const struct attn_owners
      *owners;  // forward: NULL, or where q and o lie, which are not looked at then
  void *stream; // cudaStream_t; unused on the host
};

// Whether forward writes o, or o_acc.
static inline bool attn_writes_o(const struct attn_args *a) {
  return !a->o_acc || a->part == ATTN_LAST;
}

// A prepared kernel: its mask representation and workspaces, for any number of calls.
struct attn_plan {
  const struct attn_kernel *kernel;
  struct attn_problem problem; // copied; the mask and the segments must outlive the plan
  void *state;                 // the kernel's own
  double prep_us;              // building the representation, planning, JIT: set by attn_prepare
  double compile_us;           // of prep_us: compiling at run time (set by the kernel)
  double spared_us;   // of compile_us: what a cache spared this time; prep_us has it all the same
  int64_t prep_bytes; // memory of the representation (set by the kernel)
  int64_t workspace_bytes; // other memory that the plan holds (set by the kernel)
  // By pass: pairs a query head in the tiles that are computed, visible or not; 0: not known.
  double tile_area[2];
  bool keeps_dq; // between the parts of a backward (set by the kernel)
};

struct attn_kernel {
  const char *name;    // as published: "naive" "sdpa" "fa2" ... (study 4, 5)
  const char *rep;     // "band", ...; "none" for naive and cuDNN
  const char *engine;  // "cpu" "mma" "wgmma" "cublas" "cudnn"
  const char *summary; // a line for `longca list`
  enum attn_place place;
  int min_arch; // compute capability * 10 of a device kernel: 80 and later, or 90 alone
  // NULL, or one sentence why not ("head dimension 96: this kernel is built for 64 and 128").
  const char *(*supports)(const struct attn_kernel *kernel, const struct attn_problem *problem);
  int (*prepare)(struct attn_plan *plan); // 0, or -1 with attn_error() set
  int (*forward)(struct attn_plan *plan, const struct attn_args *args);
  int (*backward)(struct attn_plan *plan, const struct attn_args *args);
  void (*release)(struct attn_plan *plan);
};

// The registry: the only place where kernels are listed (kernels/registry.c). NULL-terminated.
extern const struct attn_kernel *const attn_kernels[];
// Kernel of that published name for that place, or NULL.
const struct attn_kernel *attn_find(const char *name, enum attn_place place);
// First unmet condition as a sentence, or NULL. Checks what holds for all kernels, then supports().
const char *attn_why_not(const struct attn_kernel *kernel, const struct attn_problem *problem);
// NULL, or why a device kernel does not run on a GPU of that compute capability * 10, as a sentence of this
// thread. What is built for sm_90a runs on 9.0 alone.
const char *attn_why_not_on(const struct attn_kernel *kernel, int arch);
// Timed prepare. 0, or -1 with attn_error() set. Release the plan even after a failure.
int attn_prepare(struct attn_plan *plan, const struct attn_kernel *kernel,
                 const struct attn_problem *problem);
void attn_release(struct attn_plan *plan);
// Last error of this thread as a sentence; the text "out of memory" is said by attn_error_is_oom().
void attn_error_set(bool oom, const char *format, ...) __attribute__((format(printf, 2, 3)));
const char *attn_error(void);
bool attn_error_is_oom(void);

#ifdef __cplusplus
}
#endif
#endif
