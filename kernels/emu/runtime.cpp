// runtime.cpp -- the part of the CUDA runtime and of cuBLAS that this project uses, over the emulated GPU.
//
// Device memory is the host's. Everything happens in the order of the calls, so streams and events have
// nothing to wait for; an event holds the time at which it was recorded. The device calls itself emulated, and its
// times are those of an emulation: rows from it say so and are good for nothing but tests.
//
// What a program does when a GPU fails can be tested too: LONGCA_EMU_FAULT=illegal:N has the Nth
// cudaDeviceSynchronize of a process, and each call after it, report an illegal address, as a kernel's bad
// access does; hang:N never comes back from it.
#include <cublas_v2.h>
#include <cuda.h>
#include <cuda_runtime.h>
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "check.h"
#include "emu.h"
#include "tensor_map.h"

namespace {

constexpr size_t MEMORY = (size_t)16 << 30;
constexpr int SMS = 4;
constexpr int L2_BYTES = 64 << 10; // less than a head's tensors, as on a GPU where sequences are long

std::mutex lock;
std::map<void *, size_t> blocks;
size_t used;
cudaError_t last = cudaSuccess;

cudaError_t broken = cudaSuccess; // what no call clears

cudaError_t result(cudaError_t status) {
  if (broken != cudaSuccess)
    return broken;
  if (status != cudaSuccess)
    last = status;
  return status;
}

void meet_fault() {
  static const char *const text = getenv("LONGCA_EMU_FAULT");
  static long calls;
  const char *at = text ? strchr(text, ':') : nullptr;
  if (!at || ++calls != strtol(at + 1, nullptr, 10))
    return;
  if (!strncmp(text, "hang:", 5))
    for (;;)
      pause();
  broken = cudaErrorIllegalAddress;
}

cudaError_t take(void **ptr, size_t bytes) {
  std::lock_guard<std::mutex> hold(lock);
  *ptr = nullptr;
  if (broken != cudaSuccess)
    return broken;
  if (used + bytes > MEMORY || !(*ptr = aligned_alloc(512, (bytes + 511) / 512 * 512 + 512)))
    return result(cudaErrorMemoryAllocation);
  memset(*ptr, 0xff, bytes); // what nobody wrote is NaN
  blocks[*ptr] = bytes;
  emu::check::allocated(*ptr, bytes);
  used += bytes;
  return cudaSuccess;
}

} // namespace

struct CUevent_st {
  struct timespec at;
};

extern "C" {

cudaError_t cudaMalloc(void **ptr, size_t bytes) { return take(ptr, bytes); }
cudaError_t cudaHostAlloc(void **ptr, size_t bytes, unsigned) { return take(ptr, bytes); }
cudaError_t cudaHostGetDevicePointer(void **device, void *host, unsigned) {
  *device = host;
  return cudaSuccess;
}
cudaError_t cudaFree(void *ptr) {
  if (!ptr)
    return cudaSuccess;
  std::lock_guard<std::mutex> hold(lock);
  const auto found = blocks.find(ptr);
  if (found == blocks.end())
    return result(cudaErrorInvalidValue);
  emu::check::freed(ptr);
  used -= found->second;
  blocks.erase(found);
  free(ptr);
  return cudaSuccess;
}
cudaError_t cudaFreeHost(void *ptr) { return cudaFree(ptr); }
cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, cudaMemcpyKind) {
  if (broken == cudaSuccess)
    memcpy(to, from, bytes);
  return broken;
}
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind, cudaStream_t) {
  memcpy(to, from, bytes);
  return cudaSuccess;
}
cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch, size_t width,
                              size_t rows, cudaMemcpyKind, cudaStream_t) {
  for (size_t r = 0; r < rows; r++)
    memcpy((char *)to + r * to_pitch, (const char *)from + r * from_pitch, width);
  return cudaSuccess;
}
cudaError_t cudaMemset(void *to, int byte, size_t bytes) {
  memset(to, byte, bytes);
  return broken;
}
cudaError_t cudaMemsetAsync(void *to, int byte, size_t bytes, cudaStream_t) {
  return cudaMemset(to, byte, bytes);
}
cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes) {
  std::lock_guard<std::mutex> hold(lock);
  *total_bytes = MEMORY;
  *free_bytes = MEMORY - used;
  return broken;
}

cudaError_t cudaLaunchKernel(const void *kernel, dim3 grid, dim3 block, void **args, size_t shared,
                             cudaStream_t stream) {
  const auto entry = reinterpret_cast<emu::entry_fn>(const_cast<void *>(kernel));
  emu::launch(emu::config(grid, block, shared, stream), [=] { entry(args); });
  return cudaSuccess;
}
cudaError_t cudaFuncSetAttribute(const void *, cudaFuncAttribute, int value) {
  return value <= emu::SHARED_MAX ? cudaSuccess : result(cudaErrorInvalidValue);
}
cudaError_t cudaGetLastError(void) {
  const cudaError_t status = result(last);
  last = cudaSuccess;
  return status;
}
const char *cudaGetErrorString(cudaError_t status) {
  return status == cudaErrorMemoryAllocation ? "out of memory"
         : status == cudaErrorIllegalAddress ? "an illegal memory access was encountered"
                                             : "emulated GPU: invalid value";
}
cudaError_t cudaDeviceSynchronize(void) {
  meet_fault();
  return broken;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned) {
  *stream = reinterpret_cast<cudaStream_t>(malloc(1));
  return cudaSuccess;
}
cudaError_t cudaStreamCreateWithPriority(cudaStream_t *stream, unsigned flags, int) {
  return cudaStreamCreateWithFlags(stream, flags);
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  free(reinterpret_cast<void *>(stream));
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned) { return cudaSuccess; }
cudaError_t cudaDeviceGetStreamPriorityRange(int *low, int *high) {
  *low = *high = 0;
  return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t *event) {
  *event = new CUevent_st();
  return cudaSuccess;
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned) { return cudaEventCreate(event); }
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t) {
  clock_gettime(CLOCK_MONOTONIC, &event->at);
  return cudaSuccess;
}
cudaError_t cudaEventQuery(cudaEvent_t) { return cudaSuccess; }
cudaError_t cudaEventSynchronize(cudaEvent_t) { return cudaSuccess; }
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t begin, cudaEvent_t end) {
  *ms = (float)((double)(end->at.tv_sec - begin->at.tv_sec) * 1e3 +
                (double)(end->at.tv_nsec - begin->at.tv_nsec) * 1e-6);
  return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int *count) {
  *count = 1;
  return cudaSuccess;
}
cudaError_t cudaGetDevice(int *device) {
  *device = 0;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) { return device ? result(cudaErrorInvalidDevice) : cudaSuccess; }
cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int) {
  switch (attribute) {
  case cudaDevAttrMultiProcessorCount:
    *value = SMS;
    return cudaSuccess;
  case cudaDevAttrL2CacheSize:
    *value = L2_BYTES;
    return cudaSuccess;
  case cudaDevAttrComputeCapabilityMajor:
    *value = 9;
    return cudaSuccess;
  case cudaDevAttrClockRate:
    *value = 1000000;
    return cudaSuccess;
  default:
    emu::fault("cudaDeviceGetAttribute(%d) is not emulated", (int)attribute);
  }
}
cudaError_t cudaDeviceGetPCIBusId(char *id, int length, int) {
  strncpy(id, "none", (size_t)length);
  return cudaSuccess;
}
#undef cudaGetDeviceProperties
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int) {
  memset(p, 0, sizeof *p);
  strcpy(p->name, "emulated GPU");
  p->major = 9;
  p->multiProcessorCount = SMS;
  p->totalGlobalMem = MEMORY;
  p->l2CacheSize = L2_BYTES;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties_v2(cudaDeviceProp *p, int device) {
  return cudaGetDeviceProperties(p, device);
}
cudaError_t cudaDriverGetVersion(int *version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int *version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}

static CUresult encode(CUtensorMap *map, CUtensorMapDataType type, cuuint32_t rank, void *base,
                       const cuuint64_t *dims, const cuuint64_t *strides, const cuuint32_t *box,
                       const cuuint32_t *steps, CUtensorMapInterleave, CUtensorMapSwizzle swizzle,
                       CUtensorMapL2promotion, CUtensorMapFloatOOBfill) {
  emu::tensor_map t = {};
  t.base = base;
  t.element_bytes = type == CU_TENSOR_MAP_DATA_TYPE_FLOAT32 ? 4 : 2;
  t.rank = rank;
  t.swizzled = swizzle == CU_TENSOR_MAP_SWIZZLE_128B;
  bool good = (type == CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 || type == CU_TENSOR_MAP_DATA_TYPE_FLOAT32) && rank >= 1 &&
              rank <= 4 && (t.swizzled || swizzle == CU_TENSOR_MAP_SWIZZLE_NONE) && (uintptr_t)base % 16 == 0;
  for (cuuint32_t i = 0; i < 4; i++) {
    const bool there = i < rank;
    t.dim[i] = there ? dims[i] : 1;
    t.box[i] = there ? box[i] : 1;
    if (i > 0)
      t.stride[i - 1] = there ? strides[i - 1] : 0;
    good &= t.dim[i] > 0 && t.dim[i] <= 1ull << 32 && t.box[i] > 0 && t.box[i] <= 256 &&
            (!there || steps[i] == 1) && (i == 0 || t.stride[i - 1] % 16 == 0);
  }
  // Copies are of 16 bytes: the machine cuts a tensor's edge by elements, this by these.
  good &= t.box[0] * t.element_bytes % 16 == 0 && t.dim[0] * t.element_bytes % 16 == 0;
  memcpy(map, &t, sizeof t);
  return good ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

cudaError_t cudaGetDriverEntryPointByVersion(const char *name, void **found, unsigned, unsigned long long,
                                             cudaDriverEntryPointQueryResult *) {
  *found = reinterpret_cast<void *>(encode);
  if (strcmp(name, "cuTensorMapEncodeTiled")) // a test's fake may have it (cp/fake_ipc.c), in its second version
    *found = dlsym(RTLD_DEFAULT, (std::string(name) + "_v2").c_str());
  return cudaSuccess;
}

// Its memory is the heap's, which other processes do not reach.
cudaError_t cudaIpcGetMemHandle(cudaIpcMemHandle_t *, void *) { return result(cudaErrorNotSupported); }
cudaError_t cudaIpcOpenMemHandle(void **, cudaIpcMemHandle_t, unsigned) { return result(cudaErrorNotSupported); }
cudaError_t cudaIpcCloseMemHandle(void *) { return result(cudaErrorNotSupported); }

// Machine code cannot be emulated.
cudaError_t cudaLibraryLoadData(cudaLibrary_t *, const void *, cudaJitOption *, void **, unsigned,
                                cudaLibraryOption *, void **, unsigned) {
  return result(cudaErrorInvalidValue);
}
cudaError_t cudaLibraryEnumerateKernels(cudaKernel_t *, unsigned, cudaLibrary_t) {
  return result(cudaErrorInvalidValue);
}

// ---- cuBLAS: the batched product of the naive kernel

cublasStatus_t cublasCreate_v2(cublasHandle_t *handle) {
  *handle = reinterpret_cast<cublasHandle_t>(malloc(1));
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasDestroy_v2(cublasHandle_t handle) {
  free(handle);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasSetStream_v2(cublasHandle_t, cudaStream_t) { return CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasSetWorkspace_v2(cublasHandle_t, void *, size_t) { return CUBLAS_STATUS_SUCCESS; }
const char *cublasGetStatusString(cublasStatus_t) { return "emulated cuBLAS"; }

static float load(const void *p, cudaDataType type, int64_t i) {
  if (type == CUDA_R_32F)
    return static_cast<const float *>(p)[i];
  return __bfloat162float(static_cast<const __nv_bfloat16 *>(p)[i]);
}

// Columns first: C [m, n] = alpha op(A) op(B) + beta C.
cublasStatus_t cublasGemmStridedBatchedEx(cublasHandle_t, cublasOperation_t ta, cublasOperation_t tb, int m,
                                          int n, int k, const void *alpha, const void *a, cudaDataType ta_type,
                                          int lda, long long stride_a, const void *b, cudaDataType tb_type,
                                          int ldb, long long stride_b, const void *beta, void *c,
                                          cudaDataType tc_type, int ldc, long long stride_c, int batches,
                                          cublasComputeType_t, cublasGemmAlgo_t) {
  const float x = *static_cast<const float *>(alpha), y = *static_cast<const float *>(beta);
  const int64_t a_row = ta == CUBLAS_OP_N ? 1 : lda, a_column = ta == CUBLAS_OP_N ? lda : 1,
                b_row = tb == CUBLAS_OP_N ? 1 : ldb, b_column = tb == CUBLAS_OP_N ? ldb : 1;
#pragma omp parallel for
  for (int batch = 0; batch < batches; batch++) {
    std::vector<float> left((size_t)k * m), sum(m);
    for (int l = 0; l < k; l++)
      for (int i = 0; i < m; i++)
        left[(size_t)l * m + i] = load(a, ta_type, batch * stride_a + i * a_row + l * a_column);
    for (int j = 0; j < n; j++) {
      std::fill(sum.begin(), sum.end(), 0.0f);
      for (int l = 0; l < k; l++) {
        const float right = load(b, tb_type, batch * stride_b + l * b_row + j * b_column);
        for (int i = 0; i < m; i++)
          sum[i] += left[(size_t)l * m + i] * right;
      }
      for (int i = 0; i < m; i++) {
        const int64_t at = batch * stride_c + i + (int64_t)j * ldc;
        const float out = x * sum[i] + (y != 0 ? y * load(c, tc_type, at) : 0);
        if (tc_type == CUDA_R_32F)
          static_cast<float *>(c)[at] = out;
        else
          static_cast<__nv_bfloat16 *>(c)[at] = __float2bfloat16(out);
      }
    }
  }
  return CUBLAS_STATUS_SUCCESS;
}

} // extern "C"
