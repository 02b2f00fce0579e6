// tma.cuh -- the bulk tensor copy engine: global memory to shared memory by a tensor map, and back.
//
// PTX ISA 8.0, sections 9.7.8.25 (cp.async.bulk.tensor) and 9.7.8.15 (prefetch). Coordinates run fastest dimension first, as in
// cuTensorMapEncodeTiled. Rows outside the tensor arrive as zeros and count as delivered bytes.
#ifndef LONGCA_PTX_TMA_CUH
#define LONGCA_PTX_TMA_CUH

#include <cuda.h>
#include <stdint.h>

#include "sync.cuh"

namespace ptx {

// Brings the tensor map itself to where the copy engine looks for it.
static __device__ __forceinline__ void tma_prefetch_map(const CUtensorMap *map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

// Brings the line of 128 bytes around p into L2.
static __device__ __forceinline__ void prefetch_line(const void *p) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(p));
}

static __device__ __forceinline__ void tma_load_1d(void *dst, const CUtensorMap *map, int c0, uint64_t *bar) {
  asm volatile("cp.async.bulk.tensor.1d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
               "[%0], [%1, {%2}], [%3];" ::"r"(smem_addr(dst)),
               "l"(map), "r"(c0), "r"(smem_addr(bar))
               : "memory");
}

static __device__ __forceinline__ void tma_load_4d(void *dst, const CUtensorMap *map, int c0,
                                                   int c1, int c2, int c3, uint64_t *bar) {
  asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
               "[%0], [%1, {%2, %3, %4, %5}], [%6];" ::"r"(smem_addr(dst)),
               "l"(map), "r"(c0), "r"(c1), "r"(c2), "r"(c3), "r"(smem_addr(bar))
               : "memory");
}

// Back, as part of this thread's bulk group (bulk.cuh).
static __device__ __forceinline__ void tma_store_4d(const CUtensorMap *map, const void *src, int c0, int c1,
                                                    int c2, int c3) {
  asm volatile("cp.async.bulk.tensor.4d.global.shared::cta.tile.bulk_group [%0, {%1, %2, %3, %4}], [%5];" ::"l"(
                   map),
               "r"(c0), "r"(c1), "r"(c2), "r"(c3), "r"(smem_addr(src))
               : "memory");
}

} // namespace ptx
#endif
