// forward_shared.cuh -- what producer and consumers of the forward kernel (forward.cuh) share: the tile
// shape, the parameters, the shared memory with its barriers, and the descriptions that pass by it.
#ifndef LONGCA_WGMMA_FORWARD_SHARED_CUH
#define LONGCA_WGMMA_FORWARD_SHARED_CUH

#include "../ptx/sync.cuh"
#include "../ptx/tma.cuh"
#include "../worklist.h"

namespace wgmma {

enum fwd_flags {
  STEP_FIRST = 1,
  STEP_LAST = 2,
  STEP_PARTIAL = 4,
  STEP_STOP = 8
}; // of a query tile

// Tile shape. Wgs consumer warpgroups of 64 query rows, Keys keys a tile; Cluster CTAs work on as many
// query heads of one KV head and share its K and V tiles by multicast. Item n of a stream (query tiles;
// steps) lies at stage n % Stages, in phase n / Stages of that stage's barriers.
template<int Dim_, int Wgs_, int Keys_, int QStages_ = 2, int Stages_ = 2, int Cluster_ = 1>
struct fwd_config {
  static constexpr int Dim = Dim_, Wgs = Wgs_, Keys = Keys_, Cluster = Cluster_;
  static constexpr int QStages = QStages_, Stages = Stages_;
  static constexpr int Rows = 64 * Wgs, Threads = 128 * (Wgs + 1);
  static constexpr int RegsProducer = Wgs == 3 ? 32 : 40, RegsConsumer = Wgs == 3 ? 160 : 232;
  static_assert(Dim == 64 || Dim == 128, "head dimensions 64 and 128 are built");
  static_assert(Keys % 16 == 0 && Keys <= 256, "P V takes 16 keys a product, TMA 256 rows a box");
  static_assert(Cluster == 1 || Cluster == 2, "clusters of one or two");
  // What the producer gives must cover what the consumers take, or setmaxnreg waits for ever: a launch
  // holds 65536 / Threads registers a thread, in steps of 8.
  static_assert(RegsProducer + Wgs * RegsConsumer <= 65536 / Threads / 8 * 8 * (Wgs + 1),
                "registers that the launch does not have");
};

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

struct fwd_step {
  int32_t pos, valid, flags, pad;
};
struct fwd_tile {
  int32_t row, pos, rows, head;
};

template<class C> struct fwd_smem {
  static constexpr int ChunkQ = C::Rows * 64,
                       ChunkKV = C::Keys * 64; // elements of a 64-column chunk
  alignas(1024) uint16_t q[C::QStages][C::Dim / 64][ChunkQ];
  alignas(1024) uint16_t k[C::Stages][C::Dim / 64][ChunkKV];
  alignas(1024) uint16_t v[C::Stages][C::Dim / 64][ChunkKV];
  alignas(16) fwd_step step[C::Stages];
  alignas(16) fwd_tile tile[C::QStages];
  uint64_t q_full[C::QStages], q_empty[C::QStages];
  uint64_t k_full[C::Stages], k_empty[C::Stages], v_full[C::Stages], v_empty[C::Stages];
  uint64_t work_full[2], work_empty[2];
  int32_t work[2];
};

// Parity that a wait for item n to be full needs; to be empty again for item n needs the other.
template<int Stages> static __device__ __forceinline__ uint32_t parity(int n) {
  return n / Stages & 1;
}

} // namespace wgmma
#endif
