// model.h -- what a schedule takes on ranks that are not here: time, exposed communication, bytes, memory.
//
// Kernels: every step's own segments cut into tiles, at the rate measured for tiles. Transfers: latency
// and bandwidth of the links that a step really uses, within a node or between nodes. Steps: a ring's
// step lasts as long as its kernel or its hop, whichever is longer; of the exchanges of heads the first
// piece's way in and the last one's way out hide under nothing.
#ifndef LONGCA_CP_MODEL_H
#define LONGCA_CP_MODEL_H

#include "cp.h"

// Settings of a machine file; X(name, default, what it is). Times in microseconds; rates a microsecond.
#define CP_MACHINE(X) \
  X(fwd_flop_us, 0, "FLOP a microsecond of forward tiles") \
  X(bwd_flop_us, 0, "the same backward") \
  X(tile_q, 128, "rows of a query tile, GQA heads packed") \
  X(tile_k, 128, "keys of a key tile") \
  X(tile_cost, 2, "what a query tile costs by itself, in key tiles") \
  X(step_us, 0, "what a kernel call costs by itself") \
  X(copy_bytes_us, 1e6, "bytes a microsecond of packing and adding") \
  X(gathers, 0, \
    "1: a step gathers its rows and scatters its results, and heads go at once, as in the " \
    "study's code") \
  X(near_us, 0, "latency within a node") \
  X(near_bytes_us, 0, "bytes a microsecond and rank within a node") \
  X(far_us, 0, "latency between nodes") \
  X(far_bytes_us, 0, "bytes a microsecond and rank between nodes") \
  X(node, 8, "ranks of a node")

struct cp_machine {
#define CP_FIELD(name, value, what) double name;
  CP_MACHINE(CP_FIELD)
#undef CP_FIELD
};

// Reads an ini file of these settings. 0, or -1 with a sentence in err.
int cp_machine_read(struct cp_machine *m, const char *path, char *err, size_t err_size);
// One setting: "node=4".
int cp_machine_set(struct cp_machine *m, const char *text, char *err, size_t err_size);
void cp_machine_print(const struct cp_machine *m, const char *title);

struct cp_estimate {
  double time_us, kernel_us; // a pass of the slowest rank; of that its kernels
  double exposed_us;         // and what communication adds to them
  double balance;            // most over mean work
  int64_t sent_bytes;        // a rank and pass
  int64_t mem_bytes;         // tensors and buffers of a rank, kernels' own aside
  struct cp_grid grid;
};

// problem: the whole. NULL, or why not as a sentence.
const char *cp_model(const struct cp_machine *m, const struct cp_schedule *schedule,
                     const struct cp_wish *wish, const struct attn_problem *problem, int ranks,
                     enum attn_pass pass, struct cp_estimate *out);
// Tensors (q, k, v, o, lse; backward also dO, dQ, dK, dV) and plan buffers of one rank.
int64_t cp_memory_bytes(const struct cp_schedule *schedule, const struct cp_grid *grid,
                        const struct attn_problem *problem, int32_t context_rows);
// The buffers alone, as cp_plan.bytes counts them.
int64_t cp_buffer_bytes(const struct cp_schedule *schedule, const struct cp_grid *grid,
                        const struct attn_problem *problem, int32_t context_rows);
// Tiles of queries by keys that are not empty, a KV head; *q_tiles: tiles of queries.
double cp_tiles(const struct mask *mask, const struct attn_segment *q, int32_t q_segs,
                const struct attn_segment *k, int32_t k_segs, int32_t queries, int32_t keys,
                double *q_tiles);

#endif
