// forward.cuh -- the forward kernel of the wgmma engine (sm_90a), the same for all mask representations.
//
// One persistent CTA an SM: a producer warp walks the work list (worklist.h) and streams K and V tiles
// by TMA through two rings; consumer warpgroups own 64 query rows each. Everything is one flat stream
// of key tiles ("steps"): while a consumer's softmax of step n runs, its O += P V of step n - 1 is in
// the tensor core, and the other warpgroup's products fill the rest (ping-pong, as in FlashAttention 3). The
// stream does not stop at the end of a query tile: the first Q K^T of the next one is issued beside the
// last P V of this one, and O is placed while the next softmax's inputs wait in registers, so short
// rows (windows, documents) keep the tensor core busy too.
//
// Consumers know neither lists nor masks: each K stage carries its step {where its bits are, flags}. What a
// partial tile shows was made before (tile_bits.h). A row without visible keys ends with O = 0, LSE = -inf.
#ifndef LONGCA_WGMMA_FORWARD_CUH
#define LONGCA_WGMMA_FORWARD_CUH

#include "forward_gather_consumer.cuh"
#include "forward_producer.cuh"

namespace wgmma {

template <int Dim, class Mask>
__global__ void __launch_bounds__(FWD_THREADS, 1)
    fwd_kernel(const __grid_constant__ fwd_params p) {
  typedef fwd_smem<Dim, Mask> smem;
  extern __shared__ uint8_t fwd_raw[];
  smem &s = *reinterpret_cast<smem *>(fwd_raw + (-ptx::smem_addr(fwd_raw) & 1023));
  if (threadIdx.x == 0) {
    for (int i = 0; i < 2; i++) {
      ptx::mbarrier_init(&s.q_full[i], 1);
      ptx::mbarrier_init(&s.q_done[i], 128 * FWD_WARPGROUPS);
      ptx::mbarrier_init(&s.q_empty[i], fwd_shape<Mask>::Halves ? 128 : 1);
    }
    for (int i = 0; i < FWD_STAGES_K; i++) {
      ptx::mbarrier_init(&s.k_full[i], 1);
      ptx::mbarrier_init(&s.k_empty[i], 128 * FWD_WARPGROUPS + (fwd_shape<Mask>::Pieces ? 1 : 0));
      s.again[0][i] = s.again[1][i] = 0;
    }
    for (int i = 0; i < smem::StagesV; i++) {
      ptx::mbarrier_init(&s.v_full[i], 1);
      ptx::mbarrier_init(&s.v_empty[i], 4 * FWD_WARPGROUPS);
    }
    ptx::mbarrier_init_fence();
  }
  __syncthreads();
  const int role = __shfl_sync(~0u, threadIdx.x / 128, 0);
  if (role == 0) {
    ptx::registers_give<FWD_REGS_PRODUCER>();
    fwd_producer<Dim, Mask> producer{p, s};
    producer.run();
  } else {
    ptx::registers_take<FWD_REGS_CONSUMER>();
    fwd_consumer<Dim, Mask> consumer{p, s, role - 1};
    consumer.run();
  }
}

template <int Dim, class Mask> constexpr size_t fwd_smem_bytes() {
  static_assert(sizeof(fwd_smem<Dim, Mask>) + 1024 <= 227 << 10, "shared memory of a multiprocessor");
  return sizeof(fwd_smem<Dim, Mask>) + 1024;
}

} // namespace wgmma
#endif
