// forward_shared.cuh -- what producer and consumers of the forward kernel (forward.cuh) share: the tile
// shape, the parameters, the shared memory with its barriers, and the descriptions that pass by it.
#ifndef LONGCA_WGMMA_FORWARD_SHARED_CUH
#define LONGCA_WGMMA_FORWARD_SHARED_CUH

#include "../ptx/sync.cuh"
#include "../ptx/tma.cuh"
#include "../worklist.h"
#include "gather.h"
#include "split.h"
#include "tile_bits.h"

namespace wgmma {

// Two consumer warpgroups of 64 query rows, and tiles of 128 keys. Item n of a stream (query tiles; steps)
// lies at stage n % stages, and its barriers are in phase n / stages.
constexpr int FWD_WARPGROUPS = 2, FWD_ROWS = 64 * FWD_WARPGROUPS, FWD_KEYS = 128;
constexpr int FWD_THREADS = 128 * (FWD_WARPGROUPS + 1), FWD_REGS_PRODUCER = 40, FWD_REGS_CONSUMER = 232;
// What the producer gives must cover what the consumers take, or setmaxnreg waits for ever: a launch
// holds 65536 / FWD_THREADS registers a thread, in steps of 8.
static_assert(FWD_REGS_PRODUCER + FWD_WARPGROUPS * FWD_REGS_CONSUMER <=
                  65536 / FWD_THREADS / 8 * 8 * (FWD_WARPGROUPS + 1),
              "registers that the launch does not have");

// What stands for the mask, which the kernel does not know: whole tiles of a work list, and bits of the partial
// ones; or steps of a gather list, beside which stands what is seen of them, put together from so many pieces: of
// a packed one, where both warpgroups see the same and rows are heads at positions, or of one of two unlike halves.
struct whole_tiles {};
template <int Pieces> struct packed {};
template <int Pieces> struct halves {};

struct fwd_step { // of a K tile
  int32_t seen;   // partial: place of its bits, -1 if nothing is seen; of a gathered one, what a half sees of the pieces
  int32_t flags;
};
struct gathered_step { // 32 bytes
  int32_t seen, other; // gather_stage.valid; of unlike halves: of either
  int32_t flags, head; // KV head
  int32_t row[4];      // of the pieces
};

// gather_stage.valid of whole pieces.
static __device__ __forceinline__ constexpr int pieces_whole(int pieces) { return pieces == 2 ? 0x4040 : 0x20202020; }

// Stages of Q, K and V. K has three, as it is held until the step after (forward_consumer.cuh). Of unlike halves, a
// warpgroup may have stages of its own, so that a third one of V, too, is what can be on its way while both
// work; Q has one, each warpgroup's half with its own barriers.
constexpr int FWD_STAGES_K = 3;
template <class Mask> struct fwd_shape {
  static constexpr bool Halves = false;
  static constexpr int StagesQ = 2, StagesV = 2, Pieces = 0;
  typedef fwd_step step;
};
template <int N> struct fwd_shape<packed<N>> : fwd_shape<whole_tiles> {
  static constexpr int Pieces = N;
  typedef gathered_step step;
};
template <int N> struct fwd_shape<halves<N>> {
  static constexpr bool Halves = true;
  static constexpr int StagesQ = 1, StagesV = 3, Pieces = N;
  typedef gathered_step step;
};

struct fwd_params {
  // Dims {64, rows, dim / 64, heads}; gathering: {64, dim / 64, heads, rows}. q, o_tiles: of each owner of q and o
  // (attn.h), usually one; o_tiles where stored_whole() may hold.
  CUtensorMap q[ATTN_OWNERS_MAX], k, v, o_tiles[ATTN_OWNERS_MAX];
  worklist_view list;
  split_view split;
  tile_bits_view bits;
  void *o[ATTN_OWNERS_MAX]; // [owner_rows, owner_heads, dim] bf16, this call's heads first; NULL: o_acc is written
  float *o_acc;             // [rows, heads, dim] in fp32, or NULL
  float *lse;   // [heads, rows]
  int resume;   // merge with what o_acc and lse hold
  int rows, heads, group;
  int owner_rows, owner_heads;
  int heads_section; // heads that run side by side, so that their K and V stay in L2
  float scale, scale_log2;
  gather_view gather; // instead of list
  int tile_rows;      // positions of a whole tile: FWD_ROWS, or where it is packed FWD_ROWS / gather.heads
};

constexpr int TILE_ROWS_BITS = 8;

enum fwd_flags {
  STEP_FIRST = 1, // of a query tile
  STEP_LAST = 2,
  STEP_PARTIAL = 4,
  STEP_STOP = 8,
  STEP_ONLY = 16, // unlike halves: for warpgroup 0 only; shifted by one, for warpgroup 1
  STEP_UNSET = 64, // a consumer's own: a row of it has seen no key yet
};

// Of a query tile: local row, position, rows that exist, its (first) head. Above the rows stands 1 + the place
// of the part of the tile that it is (split.h); a field of its own would be a register of the main loop.
struct fwd_tile {
  int32_t row, pos, rows_and_part, head;
  __device__ __forceinline__ int rows() const { return rows_and_part & ((1 << TILE_ROWS_BITS) - 1); }
  __device__ __forceinline__ int part() const { return (rows_and_part >> TILE_ROWS_BITS) - 1; } // -1: none
};

// Whether O of a tile goes to memory whole, by the copy engine from where its Q was; or row by row from registers.
static __device__ __forceinline__ bool stored_whole(const fwd_params &p, const fwd_tile &tile) {
  return p.o[0] && !p.resume && tile.rows_and_part == p.tile_rows;
}

// Which owner has a row, and where. A loop: they are few, and a division would take more registers.
struct fwd_owner {
  int owner, row;
};
static __device__ __forceinline__ fwd_owner owner_of(const fwd_params &p, int row) {
  fwd_owner at = {0, row};
#pragma unroll 1
  for (; at.row >= p.owner_rows; at.row -= p.owner_rows)
    at.owner++;
  return at;
}

template <int Dim, class Mask> struct fwd_smem {
  static_assert(Dim == 64 || Dim == 128, "head dimensions 64 and 128 are built");
  static constexpr int StagesQ = fwd_shape<Mask>::StagesQ, StagesV = fwd_shape<Mask>::StagesV;
  alignas(1024) uint16_t q[StagesQ][Dim / 64][FWD_ROWS * 64]; // chunks of 64 columns
  alignas(1024) uint16_t k[FWD_STAGES_K][Dim / 64][FWD_KEYS * 64];
  alignas(1024) uint16_t v[StagesV][Dim / 64][FWD_KEYS * 64];
  alignas(16) typename fwd_shape<Mask>::step step[FWD_STAGES_K];
  alignas(16) fwd_tile tile[2]; // by stage of Q; unlike halves: by warpgroup, and so are Q's barriers
  int again[2][FWD_STAGES_K]; // by warpgroup and stage: a sum of that step exploded
  fwd_step held[2]; // unlike halves: that step, for warps that have given it up
  uint64_t q_full[2], q_empty[2];
  uint64_t q_done[2]; // a tile's consumers have done with its Q, and left O there (not unlike halves)
  uint64_t k_full[FWD_STAGES_K], k_empty[FWD_STAGES_K], v_full[StagesV], v_empty[StagesV];
};

// Where an item of three stages lies: stage + 4 parity, as a count's remainder by 3 costs more.
struct fwd_place {
  uint32_t n = 0;
  __device__ __forceinline__ uint32_t stage() const { return n & 3; }
  __device__ __forceinline__ uint32_t parity() const { return n >> 2 & 1; }
  __device__ __forceinline__ void next() { n = stage() < FWD_STAGES_K - 1 ? n + 1 : ~n & 4; }
};

// Work index -> the tile's rank, longest first, and its head (packed: its heads' number).
// All heads of a section take turns at one rank before the next.
struct fwd_work {
  int rank, head;
  __host__ __device__ __forceinline__ fwd_work(int work, int count, int heads, int heads_section) {
    const int section = work / (count * heads_section), at = work - section * count * heads_section;
    const int heads_here = min(heads_section, heads - section * heads_section);
    rank = at / heads_here;
    head = section * heads_section + at - rank * heads_here;
  }
  // And back.
  static __host__ __device__ __forceinline__ int index(int rank, int head, int count, int heads,
                                                       int heads_section) {
    const int before = head / heads_section * heads_section;
    return before * count + rank * min(heads_section, heads - before) + head - before;
  }
};

// The last CTA leaves the counter as it found it.
static __device__ __forceinline__ void work_done(int32_t *counter) {
  if (atomicAdd(counter + 1, 1) == gridDim.x - 1) {
    counter[0] = 0;
    counter[1] = 0;
  }
}

static_assert(sizeof(fwd_params) <= 4096, "parameters of a launch");

} // namespace wgmma
#endif
