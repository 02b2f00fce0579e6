// forward_shared.cuh -- what producer and consumers of the forward kernel (forward.cuh) share: the tile
// shape, the parameters, the shared memory with its barriers, and the descriptions that pass by it.
#ifndef LONGCA_WGMMA_FORWARD_SHARED_CUH
#define LONGCA_WGMMA_FORWARD_SHARED_CUH

#include "../ptx/sync.cuh"
#include "../ptx/tma.cuh"
#include "../worklist.h"

namespace wgmma {

// Two consumer warpgroups of 64 query rows, and tiles of 128 keys. Item n of a stream (query tiles; steps)
// lies at stage n % FWD_STAGES, in phase n / FWD_STAGES of that stage's barriers.
constexpr int FWD_WARPGROUPS = 2, FWD_ROWS = 64 * FWD_WARPGROUPS, FWD_KEYS = 128, FWD_STAGES = 2;
constexpr int FWD_THREADS = 128 * (FWD_WARPGROUPS + 1), FWD_REGS_PRODUCER = 40, FWD_REGS_CONSUMER = 232;
// What the producer gives must cover what the consumers take, or setmaxnreg waits for ever: a launch
// holds 65536 / FWD_THREADS registers a thread, in steps of 8.
static_assert(FWD_REGS_PRODUCER + FWD_WARPGROUPS * FWD_REGS_CONSUMER <=
                  65536 / FWD_THREADS / 8 * 8 * (FWD_WARPGROUPS + 1),
              "registers that the launch does not have");

struct fwd_params {
  CUtensorMap q, k, v; // dims {64, rows, dim / 64, heads}
  worklist_view list;
  void *o;      // [rows, heads, dim] bf16
  float *o_acc; // the same shape in fp32, instead of o; or NULL
  float *lse;   // [heads, rows]
  int resume;   // merge with what o_acc and lse hold
  int rows, heads, group;
  int heads_section; // heads that run side by side, so that their K and V stay in L2
  float scale, scale_log2;
};

enum fwd_flags { STEP_FIRST = 1, STEP_LAST = 2, STEP_PARTIAL = 4, STEP_STOP = 8 }; // of a query tile

struct fwd_step {
  int32_t pos, valid, flags, pad; // of a K tile: position, columns that exist
};
struct fwd_tile {
  int32_t row, pos, rows, head; // of a query tile: local row, position, rows that exist
};

template <int Dim> struct fwd_smem {
  static_assert(Dim == 64 || Dim == 128, "head dimensions 64 and 128 are built");
  alignas(1024) uint16_t q[FWD_STAGES][Dim / 64][FWD_ROWS * 64]; // chunks of 64 columns
  alignas(1024) uint16_t k[FWD_STAGES][Dim / 64][FWD_KEYS * 64];
  alignas(1024) uint16_t v[FWD_STAGES][Dim / 64][FWD_KEYS * 64];
  alignas(16) fwd_step step[FWD_STAGES];
  alignas(16) fwd_tile tile[FWD_STAGES];
  uint64_t q_full[FWD_STAGES], q_empty[FWD_STAGES];
  uint64_t k_full[FWD_STAGES], k_empty[FWD_STAGES], v_full[FWD_STAGES], v_empty[FWD_STAGES];
};

// Parity that a wait for item n to be full needs; to be empty again for item n needs the other.
static __device__ __forceinline__ uint32_t parity(int n) { return n / FWD_STAGES & 1; }

} // namespace wgmma
#endif
