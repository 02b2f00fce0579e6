// tensor_map.cu -- tensor maps (CUDA driver API, cuTensorMapEncodeTiled).
#include "tensor_map.h"

#include <atomic>

#include "../gpu.cuh"

// Strides in bytes are of the dimensions but the first.
static int encode_map(CUtensorMap *map, CUtensorMapDataType type, int rank, const void *data, const cuuint64_t *dims,
                      const cuuint64_t *strides, const cuuint32_t *box, CUtensorMapSwizzle swizzle) {
  // The driver's function by way of the runtime, so that the program needs no libcuda to link.
  typedef decltype(&cuTensorMapEncodeTiled) encode_fn;
  static std::atomic<encode_fn> known;
  encode_fn encode = known;
  if (!encode) {
    void *found = nullptr;
    cudaDriverEntryPointQueryResult how;
#if CUDART_VERSION >= 12050
    GPU_TRY(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault, &how));
#else
    GPU_TRY(cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &found, cudaEnableDefault, &how));
#endif
    if (!found) {
      attn_error_set(false, "the driver has no tensor maps: it is older than CUDA 12");
      return -1;
    }
    known = encode = reinterpret_cast<encode_fn>(found);
  }
  const cuuint32_t steps[4] = {1, 1, 1, 1};
  const CUresult status =
      encode(map, type, rank, const_cast<void *>(data), dims, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
             swizzle, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (status != CUDA_SUCCESS) {
    attn_error_set(false, "tensor map of %d dimensions, the outermost of %lld, refused by the driver: error %d", rank,
                   (long long)dims[rank - 1], (int)status);
    return -1;
  }
  return 0;
}

static int encode_tiles(CUtensorMap *map, const void *data, const cuuint64_t (&dims)[4],
                        const cuuint64_t (&strides)[3], const cuuint32_t (&box)[4]) {
  return encode_map(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 4, data, dims, strides, box, CU_TENSOR_MAP_SWIZZLE_128B);
}

int tensor_map(CUtensorMap *map, const void *data, int rows, int heads, int dim, int box_rows, int all_heads) {
  const cuuint64_t r = rows, h = heads, chunks = dim / 64, head_bytes = 2 * dim, all = all_heads ? all_heads : heads;
  return encode_tiles(map, data, {64, r, chunks, h}, {all * head_bytes, 64 * 2, head_bytes},
                      {64, (cuuint32_t)box_rows, (cuuint32_t)chunks, 1});
}

int tensor_map_packed(CUtensorMap *map, const void *data, int rows, int heads, int dim, int box_rows,
                      int box_heads) {
  const cuuint64_t r = rows, h = heads, chunks = dim / 64, head_bytes = 2 * dim;
  return encode_tiles(map, data, {64, chunks, h, r}, {64 * 2, head_bytes, h * head_bytes},
                      {64, 1, (cuuint32_t)box_heads, (cuuint32_t)box_rows});
}

int tensor_map_line(CUtensorMap *map, const float *data, int64_t count, int box) {
  const cuuint64_t n = count, no_stride = 16; // one dimension has no stride
  const cuuint32_t b = box;
  return encode_map(map, CU_TENSOR_MAP_DATA_TYPE_FLOAT32, 1, data, &n, &no_stride, &b, CU_TENSOR_MAP_SWIZZLE_NONE);
}
