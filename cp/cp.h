// cp.h -- context parallelism: a sequence sharded over ranks (study 6, 9.3).
//
// A schedule (Ulysses, Ring P2P, ...) is written once against a transport (loopback, Open MPI, NCCL)
// and a memory (host, device), and calls any kernel through kernels/attn.h. Kernels read a rank's
// shard in place: they ask the mask by position, so no schedule knows what a causal step looks like.
//
// Ranks form a grid: `heads` ranks split the heads of a context rank's tokens (Ulysses), `context`
// ranks split the tokens (ring). A context ring may be cut into windows (LoongTrain).
// Functions return 0, or -1 with attn_error() set, unless said otherwise.
#ifndef LONGCA_CP_H
#define LONGCA_CP_H

#include "../kernels/attn.h"

#ifdef __cplusplus
extern "C" {
#endif

// ---- memory ---------------------------------------------------------------------------------

// `rows` rows of `width` bytes; a pitch is the bytes from one row to the next.
struct cp_move {
  void *to;
  const void *from;
  int64_t to_pitch, from_pitch, width, rows;
};
enum { CP_MOVES_MAX = 64 }; // of one launch: they travel with it

// Where buffers are, and the few operations on them. On a device they are enqueued on the stream.
struct cp_memory {
  enum attn_place place;
  void *(*alloc)(int64_t bytes); // zeroed; NULL with attn_error() set
  void (*release)(void *data);
  int (*zero)(void *data, int64_t bytes, void *stream);
  // `rows` rows of `width` bytes, `pitch` bytes from one to the next
  int (*copy)(void *to, int64_t to_pitch, const void *from, int64_t from_pitch, int64_t width,
              int64_t rows, void *stream);
  // The same for n <= CP_MOVES_MAX of them at once, in multiples of 16 bytes all through.
  int (*move)(const struct cp_move *moves, int n, void *stream);
  int (*add)(float *sum, const float *x, int64_t n, void *stream); // sum += x
  int (*cast)(void *to, enum attn_dtype dtype, const float *from, int64_t n,
              void *stream);                                // rounds
  int (*sync)(void *stream);                                // the host waits for what was enqueued
  int (*upload)(void *to, const void *host, int64_t bytes); // both after all that was enqueued
  int (*download)(void *host, const void *from, int64_t bytes);
};
extern const struct cp_memory cp_memory_host;
#ifdef LONGCA_CUDA
extern const struct cp_memory cp_memory_device;
// What is enqueued on the stream after this starts that much later than it could.
int cp_device_pause(int64_t ns, void *stream);
#endif

// ---- transport ------------------------------------------------------------------------------

// One a purpose, so that transfers of different purposes are in flight together.
enum cp_channel { CP_HEADS, CP_KV, CP_GRAD, CP_KV_FAR, CP_GRAD_FAR, CP_CHANNELS };

struct cp_op {
  bool send;
  int peer; // world rank; may be this rank
  void *data;
  int64_t bytes; // past 2^31 too
};

enum {
  CP_GROUP_MAX = 256,  // operations of one group
  CP_HEADS_MAX = 1024, // ranks that split the heads
  CP_BLOCKS_MAX = 16   // blocks of keys in one call of a ring's forward
};

// A rank's end of a transport.
struct cp_comm {
  const struct cp_transport *transport;
  const struct cp_memory *memory;
  int rank, size;
  void *stream; // kernels and memory operations go here
  // A transfer that takes longer is an error that names the peer. It counts from when the transfer could
  // start here: kernels before it do not count, but what keeps the peer does.
  double limit_s;
  int64_t bytes_sent, bytes_received; // to and from other ranks
  double wait_us; // time in which nothing was computed because a transfer was not done
  void *state;    // the transport's own
};

// Transfers are posted in groups and waited for by channel. A group starts once everything enqueued on
// the stream before has finished; what is enqueued after the wait starts once the group is done. Until
// then its buffers belong to it. At most one group a channel is in flight; a channel's groups are
// posted in the same order on every rank. There are no tags: the i-th send to a peer meets the peer's
// i-th receive from here, both of the same size. A send completes only when its receive was posted
// (rendezvous), so sends and receives that depend on one another belong in one group.
struct cp_transport {
  const char *name, *summary;
  enum attn_place place;
  bool job; // ranks are processes that mpirun started
  // Runs body on every rank and returns 0, or -1 with the first rank's error. loopback starts `ranks`
  // threads; the others are this process's rank of a job that mpirun started.
  int (*run)(int ranks, double limit_s, int (*body)(struct cp_comm *comm, void *context),
             void *context);
  int (*post)(struct cp_comm *comm, enum cp_channel channel, const struct cp_op *ops, int n);
  int (*wait)(struct cp_comm *comm, enum cp_channel channel);
  // Collectives over all ranks, posted like a group. recv [size][bytes], in rank order.
  int (*all_gather)(struct cp_comm *comm, enum cp_channel channel, const void *send, void *recv,
                    int64_t bytes);
  // recv [n] = sum over the ranks of their send [size][n] at this rank's place, in fp32.
  int (*reduce_scatter)(struct cp_comm *comm, enum cp_channel channel, const float *send,
                        float *recv, int64_t n);
  // The host waits for all ranks, and for what was enqueued on its own stream before.
  int (*barrier)(struct cp_comm *comm);
  // NULL where the host waits for transfers, so that its clock tells what a pass took. Else the time on the device of
  // what is enqueued between the two, which may start spin_us after begin; end waits for it.
  int (*begin_timing)(struct cp_comm *comm, double spin_us);
  int (*end_timing)(struct cp_comm *comm, double *time_us);
  // NULL, or on all ranks at once: where a kernel here reaches what is at `mine` on each of n ranks, the first
  // byte of that tensor there, this rank's too. 1, on all ranks alike, where some rank cannot. unmap, of a rank by
  // itself: NULL, or gives that back, which comes before its owner frees it.
  int (*map)(struct cp_comm *comm, const void *mine, const int *peers, int n, void **theirs);
  void (*unmap)(struct cp_comm *comm, void *const *theirs, int n);
  // Small host data: `bytes` of every rank to every rank, all [size][bytes]. A barrier too.
  int (*share)(struct cp_comm *comm, const void *mine, void *all, int64_t bytes);
};

extern const struct cp_transport *const cp_transports[]; // NULL-terminated; what this build has
extern const struct cp_transport cp_loopback;
const struct cp_transport *cp_transport_find(const char *name);
const char *cp_transport_names(void); // "loopback, mpi", for messages

// Blocks of that many bytes, one a rank: send [n][bytes], recv [n][bytes].
struct cp_blocks {
  const void *send;
  void *recv;
  int64_t bytes;
};
// all_to_all over `n` ranks, of several sets at once: block i of send goes to peers[i], block i of recv comes
// from there; a rank's own block is not touched. Made of groups; waits for the groups before its last, which is
// left to cp_transport.wait.
int cp_all_to_all(struct cp_comm *comm, enum cp_channel channel, const int *peers, int n,
                  const struct cp_blocks *sets, int n_sets);
// The collectives out of sends and receives, for transports without better ones. They finish.
int cp_all_gather_by_sends(struct cp_comm *comm, enum cp_channel channel, const void *send,
                           void *recv, int64_t bytes);
int cp_reduce_scatter_by_sends(struct cp_comm *comm, enum cp_channel channel, const float *send,
                               float *recv, int64_t n);

// ---- who holds what -------------------------------------------------------------------------

// Where the rows are cut before each piece is dealt out (cut.c). Whatever it is, results are the same.
enum cp_cut {
  CP_CUT_AUTO, // documents; slices if these do not balance; chunks if documents see one another
  CP_CUT_CONTIGUOUS, // one piece a rank
  CP_CUT_WHOLE,      // zigzag over the whole sequence
  CP_CUT_DOCUMENTS,  // zigzag in each document (the study)
  CP_CUT_SLICES,     // zigzag in each slice of rows whose cost is linear (mask_slices)
  CP_CUT_CHUNKS,     // chunks of 256 rows, dealt out by their cost
  CP_CUTS
};
extern const char *const cp_cut_names[CP_CUTS];

struct cp_grid {
  enum cp_cut cut;
  int heads, context, windows; // heads * context ranks; windows divides context
  int pieces; // in which a rank's heads are exchanged and computed, one under the other (heads.c)
  int blocks; // of keys that a call of a ring's forward takes, at most; each window's first takes one (ring.c)
  bool context_first; // neighbouring ranks share a ring (true) or the heads of one (false)
  bool direct; // forward reads Q and writes O of the ranks that split the heads in place (owners.c)
};
// Calls of a window's forward after its first.
static inline int cp_grid_groups(const struct cp_grid *g) {
  return (g->context / g->windows - 1 + g->blocks - 1) / g->blocks;
}
int cp_grid_rank(const struct cp_grid *g, int head, int context);
int cp_grid_head(const struct cp_grid *g, int rank);
int cp_grid_context(const struct cp_grid *g, int rank);

// Tokens by rank (study 6.2, "padded layout"). A stretch of rows, such as a document, is cut into 2 * context
// near-equal pieces and context rank r owns pieces r and its mirror: where a row's cost is linear in the
// row, every share is the same. Ownership moves on by one rank a stretch, or short ones would all fall
// on the first ranks. Each stretch has a slot of the same rows on every rank: its piece, the mirror, then
// padding. The context rank's rows are split evenly over its head ranks.
struct cp_shard {
  enum cp_cut cut;      // what was done; never CP_CUT_AUTO
  int32_t rows;         // of one rank: tensors are [rows, heads, dim]
  int32_t context_rows; // of one context rank: rows * heads ranks
  int contexts;
  struct attn_segment **seg; // [contexts][segs[r]] in rows of the context rank, sorted
  int32_t *segs;
  int32_t tokens_max; // most real tokens of a context rank; less padded rows than context_rows
};
int cp_shard_init(struct cp_shard *s, const struct mask *mask, const struct cp_grid *grid);
void cp_shard_free(struct cp_shard *s);
// Mask position of each of the context rank's rows, -1 for padding: pos [context_rows].
void cp_shard_positions(const struct cp_shard *s, int context, int32_t *pos);
// Visible pairs of all queries of that context rank; and most over mean of all context ranks.
double cp_shard_work(const struct cp_shard *s, const struct mask *mask, int context);
double cp_shard_balance(const struct cp_shard *s, const struct mask *mask);
// First of the segments, sorted by position, that ends after position pos; segs when none does.
int32_t cp_segment_ending_after(const struct attn_segment *seg, int32_t segs, int32_t pos);
// Visible pairs between queries and keys given as segments sorted by position.
double cp_pairs(const struct mask *mask, const struct attn_segment *q, int32_t q_segs,
                const struct attn_segment *k, int32_t k_segs);

// ---- schedules ------------------------------------------------------------------------------

// What may be asked of a schedule beside its name; 0: its default.
struct cp_wish {
  int heads, context, windows, pieces, blocks;
  enum cp_cut cut;
  bool
      exchange; // of Q and O too, even where their owners' memory is in reach; so do pieces that are asked for
  // Kernel plans beyond this are made when they are called; 0: 256 MiB, on a device 32 GiB.
  int64_t keep_bytes;
};

struct cp_kv {
  void *k, *v; // [context_rows, piece_kv, dim] of the plan
};

// A rank's prepared attention. With as many tokens a rank, what it holds does not grow with the number of
// ranks, but for a step's work lists and what the mask's documents take (and all-gather's keys).
struct cp_plan {
  const struct cp_schedule *schedule;
  const struct attn_kernel *kernel;
  struct cp_comm *comm;
  struct attn_problem problem; // of the whole: mask, dtype, heads, dim, backward
  struct cp_grid grid;
  struct cp_shard shard;
  int head, context; // this rank's place in the grid
  // What kernels see here: heads after the exchange; KV heads are copied when there are fewer than ranks.
  int32_t heads_q, heads_kv, copies;
  int32_t piece_q, piece_kv; // and of one call, which computes a piece of them
  // Own queries against a set of keys. A ring's: a block each, by windows, and then forward's groups of several.
  struct attn_problem *step_problems; // [n_steps]; heads_q 0: not called, or none seen
  struct attn_plan *steps; // [n_steps] prepared; no kernel: none of that, or made when called
  int n_steps;
  struct attn_plan *like; // the first of them: the others share what it has (attn.h)
  // Buffers. in: after the exchange of heads (NULL without one); dtype of the problem.
  void *stage, *stage_q;      // packed heads on their way: k and v; q, o, dO, dQ
  void *q_in, *o_in, *d_o_in; // [pieces][context_rows, piece_q, dim]
  struct cp_kv kv_in, dkv_in; // [heads_kv / piece_kv][context_rows, piece_kv, dim]
  void *dq_in;
  float *acc; // [context_rows, piece_q, dim] O, then dQ, in fp32; NULL when one step does it all
  // Keys and values on their way round the ring, grid.blocks blocks each or one; and between windows.
  struct cp_kv near[2], far[2];
  float *grad[5];   // [2, context_rows, piece_kv, dim] dK and dV in fp32, on their way
  bool fetched;     // the keys that backward's next piece begins with are here
  struct cp_kv all; // all-gather: [contexts * context_rows, heads_kv, dim]
  float *grad_all;
  struct attn_segment *k_seg;
  // Direct (owners.c): where the others have q and o, by head rank, of a caller whose own are these.
  struct attn_owners owners;
  const void *mapped_q; // NULL: none
  void *mapped_o;
  void *meet;
  void *buffers[32];
  int n_buffers;
  int64_t bytes;        // of the buffers
  int64_t kernel_bytes; // what the kernel plans hold, with the largest of those made late
  int64_t late_bytes;   // that one
  int64_t keep_bytes;
  int64_t prep_bytes; // of kernel_bytes, the representations
  double prep_us;
  bool transfers_only; // kernels are left out: what communication takes by itself
};

struct cp_schedule {
  const char *name, *summary;
  bool context_first;
  bool gathers; // holds all keys at once
  // Grid for that many ranks. NULL, or why not as a sentence.
  const char *(*arrange)(const struct attn_problem *p, int ranks, const struct cp_wish *wish,
                         struct cp_grid *grid);
  int (*plan)(struct cp_plan *plan); // kernel plans and buffers of its own
  int (*forward)(struct cp_plan *plan, const struct attn_args *args);
  int (*backward)(struct cp_plan *plan, const struct attn_args *args);
};

extern const struct cp_schedule *const cp_schedules[]; // NULL-terminated
// "usp", or with a shape: "usp:4x2" (heads x context), "loongtrain:2x4x2" (and windows); or with a cut:
// "usp:slices", "usp:4x2:whole"; or with a number of pieces: "ulysses:2pieces", or of blocks that a ring's forward
// computes at once: "ring_p2p:1blocks"; or "ulysses:exchange". NULL: unknown.
const struct cp_schedule *cp_schedule_find(const char *text, struct cp_wish *wish);
const char *cp_schedule_names(void);

// NULL and the grid, or why this schedule cannot do that with so many ranks.
const char *cp_why_not(const struct cp_schedule *schedule, const struct attn_kernel *kernel,
                       const struct attn_problem *problem, int ranks, const struct cp_wish *wish,
                       struct cp_grid *grid);
// This rank's plan. problem: the whole, as for one GPU (rows_q, rows_k and segments are ignored).
// Release it even after a failure.
int cp_plan_init(struct cp_plan *plan, const struct cp_schedule *schedule,
                 const struct cp_wish *wish, const struct attn_kernel *kernel,
                 const struct attn_problem *problem, struct cp_comm *comm);
void cp_plan_release(struct cp_plan *plan);
// The q and o of the forward passes to come, on all ranks at once: where the plan is direct (cp_grid), cp_forward with
// them exchanges neither. With others, it does, and so it does without this. They stay where they are until
// cp_unmap, on all ranks at once too, or the release of every rank's plan; the next cp_map has others.
int cp_map(struct cp_plan *plan, const void *q, void *o);
int cp_unmap(struct cp_plan *plan);
// args: the rank's shards in comm->memory. q, o, d_o, dq [shard.rows, heads_q, dim]; k, v, dk, dv
// [shard.rows, heads_kv, dim]; lse [plan.heads_q, shard.context_rows]: it stays with the heads that
// the rank computed. o_acc and accumulate are not for here. Backward follows a forward on the same
// inputs. Padded rows of inputs are finite, of outputs 0 or undefined.
int cp_forward(struct cp_plan *plan, const struct attn_args *args);
int cp_backward(struct cp_plan *plan, const struct attn_args *args);

// Bytes that one rank sends (and receives) in one pass: the formula, from the grid alone.
int64_t cp_volume(const struct cp_grid *grid, const struct attn_problem *problem,
                  int32_t context_rows, enum attn_pass pass);

// ---- inside schedules -----------------------------------------------------------------------

// Largest head split that P, the heads and the wish allow, for the hybrids.
const char *cp_arrange_hybrid(const struct attn_problem *p, int ranks, const struct cp_wish *wish,
                              struct cp_grid *grid);
// NULL, or why the heads cannot be split so.
const char *cp_heads_why_not(const struct attn_problem *p, int heads);
void *cp_buffer(struct cp_plan *plan, int64_t bytes); // zeroed, owned by the plan
// Kernel plan `step`, for the passes that call it: own queries against these key segments. A step that is not
// prepared does nothing.
int cp_prepare_step(struct cp_plan *plan, int step, const struct attn_segment *k_seg,
                    int32_t k_segs, int32_t rows_k);
int cp_call(struct cp_plan *plan, int step, enum attn_pass pass, const struct attn_args *args);
// Where a backward in parts sums dQ up: acc, zeroed here, and then to be rounded to the caller's; or NULL, where the
// kernel keeps it and writes the caller's itself. -1: error.
int cp_begin_dq(struct cp_plan *plan, float **sums);
int cp_end_dq(struct cp_plan *plan, const float *sums, void *dq);
// Which of a pass's calls that of this step is: not all steps are prepared.
enum attn_part cp_part(const struct cp_plan *plan, int step, enum attn_pass pass);
// Attention over a context ring (ring.c, ring_backward.c): args in the shape that kernels see. With one context rank a
// single call without transfers.
int cp_ring_plan(struct cp_plan *plan);
int cp_ring_forward(struct cp_plan *plan, const struct attn_args *args);
int cp_ring_backward(struct cp_plan *plan, const struct attn_args *args);
// Backward of one piece of the heads of several; `next`: the keys of the one after it, NULL after the last.
int cp_ring_backward_piece(struct cp_plan *plan, const struct attn_args *args,
                           const struct cp_kv *next);
// The same between the two exchanges of heads (heads.c).
int cp_heads_plan(struct cp_plan *plan);
int cp_heads_forward(struct cp_plan *plan, const struct attn_args *args);
int cp_heads_backward(struct cp_plan *plan, const struct attn_args *args);

// Forward without an exchange of Q and O (owners.c). Whether the transport can, into plan->grid.direct; whether these
// args are the mapped ones; and what is exchanged behind the kernel in place of O.
int cp_owners_plan(struct cp_plan *plan);
bool cp_owners_know(const struct cp_plan *plan, const struct attn_args *args);
struct cp_blocks cp_owners_meet(struct cp_plan *plan);
void cp_owners_release(struct cp_plan *plan);

static inline int64_t cp_elem_bytes(enum attn_dtype dtype) { return dtype == ATTN_BF16 ? 2 : 4; }

#ifdef __cplusplus
}
#endif

#endif
