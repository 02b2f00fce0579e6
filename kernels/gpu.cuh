// gpu.cuh -- what the device kernels share on the host side: checked calls, memory that is
// accounted and released with its plan, and a mask or a representation copied to the device.
#ifndef LONGCA_GPU_CUH
#define LONGCA_GPU_CUH

#include <cuda_bf16.h>
#include <cuda_runtime.h>
#include <stdint.h>

#include <utility>
#include <vector>

#include "attn.h"

typedef __nv_bfloat16 bf16;

// A kernel as cudaLaunchKernel takes it.
#ifdef LONGCA_EMULATED
#define GPU_ENTRY(...) emu::entry<__VA_ARGS__>()
#else
#define GPU_ENTRY(...) ((const void *)__VA_ARGS__)
#endif

// 0, or -1 with attn_error() set: "<what>: <what CUDA says>".
static inline int gpu_check(cudaError_t status, const char *what) {
  if (status == cudaSuccess)
    return 0;
  cudaGetLastError(); // clear it where it can be cleared
  attn_error_set(status == cudaErrorMemoryAllocation, "%s: %s", what, cudaGetErrorString(status));
  return -1;
}

#define GPU_TRY(call) \
  do { \
    if (gpu_check((call), #call)) \
      return -1; \
  } while (0)
#define GPU_LAUNCHED(what) \
  do { \
    if (gpu_check(cudaGetLastError(), what)) \
      return -1; \
  } while (0)

// What the calling thread's device is like. 0, or -1 with attn_error() set.
static inline int gpu_attribute(int *value, cudaDeviceAttr which) {
  int device;
  GPU_TRY(cudaGetDevice(&device));
  GPU_TRY(cudaDeviceGetAttribute(value, which, device));
  return 0;
}

// The state of the plan that this one may share with, or NULL.
template<class State> static inline const State *gpu_like(const attn_plan *plan) {
  const attn_plan *like = plan->problem.like;
  return like && like->kernel == plan->kernel && like->problem.mask == plan->problem.mask
             ? static_cast<const State *>(like->state)
             : nullptr;
}

// Device memory of one plan. The account is a counter of the plan: prep_bytes or workspace_bytes.
struct gpu_memory {
  std::vector<void *> blocks;
  // Scratch may be another plan's (attn_problem.like): what was asked for there in the same place, where it
  // is large enough.
  const gpu_memory *like = nullptr;
  std::vector<std::pair<void *, int64_t>> asked;
  ~gpu_memory() {
    for (void *block : blocks)
      cudaFree(block);
  }
  template<class T> int get(T **ptr, int64_t count, int64_t *account) {
    *ptr = nullptr;
    const int64_t bytes = count * (int64_t)sizeof(T);
    const size_t place = asked.size();
    void *block = nullptr;
    if (bytes && like && place < like->asked.size() && like->asked[place].second >= bytes) {
      *ptr = (T *)like->asked[place].first;
      asked.push_back(like->asked[place]);
      return 0;
    }
    if (bytes == 0) {
      asked.push_back({nullptr, 0});
      return 0;
    }
    const cudaError_t status = cudaMalloc(&block, bytes);
    if (status != cudaSuccess) {
      cudaGetLastError();
      attn_error_set(status == cudaErrorMemoryAllocation, "allocating %.1f MiB on the GPU: %s",
                     bytes / 1048576.0, cudaGetErrorString(status));
      return -1;
    }
    blocks.push_back(block);
    asked.push_back({block, bytes});
    *account += bytes;
    *ptr = (T *)block;
    return 0;
  }
  // A host array's copy.
  template<class T> int copy(T **ptr, const T *host, int64_t count, int64_t *account) {
    if (get(ptr, count, account))
      return -1;
    if (count)
      GPU_TRY(cudaMemcpy(*ptr, host, count * sizeof(T), cudaMemcpyHostToDevice));
    return 0;
  }
  // Moves one const array of a struct to the device.
  template<class T> int move(const T **array, int64_t count, int64_t *account) {
    if (!*array)
      return 0;
    T *device;
    if (copy(&device, *array, count, account))
      return -1;
    *array = device;
    return 0;
  }
  // A mask whose arrays lie on the device.
  int mask(struct mask *device, const struct mask *host, int64_t *account) {
    *device = *host;
    const int64_t heads = host->heads, rows = host->blocks_q, cols = host->blocks_k;
    return move(&device->doc_begin, (int64_t)host->docs + 1, account) ||
                   move(&device->doc_of, host->seqlen, account) ||
                   move(&device->row_begin, heads * (rows + 1), account) ||
                   move(&device->col_begin, heads * (cols + 1), account) ||
                   move(&device->kept, heads * rows * host->kept_words, account)
               ? -1
               : 0;
  }
};

// Mask positions of local rows, from segments (none: row r stands at position r); -1: padding.
static inline std::vector<int32_t> gpu_positions(const attn_segment *segment, int32_t segments,
                                                 int32_t rows) {
  std::vector<int32_t> pos(rows);
  for (int32_t r = 0; r < rows; r++)
    pos[r] = segment ? -1 : r;
  for (int32_t s = 0; segment && s < segments; s++)
    for (int32_t i = 0; i < segment[s].len; i++)
      pos[segment[s].row + i] = segment[s].pos + i;
  return pos;
}

#endif
