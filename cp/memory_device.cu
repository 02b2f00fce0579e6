// memory_device.cu -- device memory behind struct cp_memory. Everything but alloc, upload and download is
// enqueued on the stream that it is given.
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#ifdef __CUDACC__ // not where fakes stand for CUDA
#include "../kernels/ptx/math.cuh"
#endif
#include "cp.h"

namespace {

int check(cudaError_t status, const char *what) {
  if (status == cudaSuccess)
    return 0;
  cudaGetLastError();
  attn_error_set(status == cudaErrorMemoryAllocation, "%s: %s", what, cudaGetErrorString(status));
  return -1;
}

void *alloc(int64_t bytes) {
  void *data = nullptr;
  if (check(cudaMalloc(&data, (size_t)bytes), "device memory for a context-parallel plan"))
    return nullptr;
  // The host does not wait for a cudaMemset, nor do streams that do not block.
  if (check(cudaMemset(data, 0, (size_t)bytes), "cudaMemset") ||
      check(cudaStreamSynchronize(cudaStreamLegacy), "cudaMemset")) {
    cudaFree(data);
    return nullptr;
  }
  return data;
}

void release(void *data) { cudaFree(data); }

int zero(void *data, int64_t bytes, void *stream) {
  return check(cudaMemsetAsync(data, 0, (size_t)bytes, (cudaStream_t)stream), "cudaMemsetAsync");
}

int copy(void *to, int64_t to_pitch, const void *from, int64_t from_pitch, int64_t width, int64_t rows,
         void *stream) {
  if (to_pitch == width && from_pitch == width)
    return check(cudaMemcpyAsync(to, from, (size_t)(width * rows), cudaMemcpyDeviceToDevice, (cudaStream_t)stream),
                 "cudaMemcpyAsync");
  return check(cudaMemcpy2DAsync(to, (size_t)to_pitch, from, (size_t)from_pitch, (size_t)width, (size_t)rows,
                                 cudaMemcpyDeviceToDevice, (cudaStream_t)stream),
               "cudaMemcpy2DAsync");
}

// Four elements a thread: every buffer is a multiple of a head's 64 or 128 numbers.
__global__ void add_kernel(float4 *sum, const float4 *x, int64_t n) {
  for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < n; i += (int64_t)gridDim.x * blockDim.x) {
    float4 a = sum[i];
    const float4 b = x[i];
    a.x += b.x, a.y += b.y, a.z += b.z, a.w += b.w;
    sum[i] = a;
  }
}

__global__ void round_kernel(uint2 *to, const float4 *from, int64_t n) {
  for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < n; i += (int64_t)gridDim.x * blockDim.x) {
    const float4 x = from[i];
    union {
      __nv_bfloat162 pair[2];
      uint2 bits;
    } y;
    y.pair[0] = __floats2bfloat162_rn(x.x, x.y);
    y.pair[1] = __floats2bfloat162_rn(x.z, x.w);
    to[i] = y.bits;
  }
}

unsigned blocks(int64_t n) { return (unsigned)(n / 256 < 4096 ? (n + 255) / 256 : 4096); }

int odd(int64_t n) {
  if (n % 4 == 0)
    return 0;
  attn_error_set(false, "device buffers hold multiples of 4 numbers, not %lld", (long long)n);
  return -1;
}

int add(float *sum, const float *x, int64_t n, void *stream) {
  if (n == 0 || odd(n))
    return n ? -1 : 0;
  add_kernel<<<blocks(n / 4), 256, 0, (cudaStream_t)stream>>>((float4 *)sum, (const float4 *)x, n / 4);
  return check(cudaGetLastError(), "add_kernel");
}

int cast(void *to, enum attn_dtype dtype, const float *from, int64_t n, void *stream) {
  if (dtype == ATTN_FP32)
    return copy(to, 4 * n, from, 4 * n, 4 * n, 1, stream);
  if (n == 0 || odd(n))
    return n ? -1 : 0;
  round_kernel<<<blocks(n / 4), 256, 0, (cudaStream_t)stream>>>((uint2 *)to, (const float4 *)from, n / 4);
  return check(cudaGetLastError(), "round_kernel");
}

// One thread that does nothing for a while.
__global__ void pause_kernel(long long ns) {
#ifdef __CUDA_ARCH__
  const long long end = ptx::global_ns() + ns;
  while (ptx::global_ns() < end)
    __nanosleep(200);
#endif
}

int sync(void *stream) { return check(cudaStreamSynchronize((cudaStream_t)stream), "an earlier launch"); }

int move(void *to, const void *from, int64_t bytes, cudaMemcpyKind kind) {
  return check(cudaDeviceSynchronize(), "an earlier launch") ||
                 check(cudaMemcpy(to, from, (size_t)bytes, kind), "cudaMemcpy") ||
                 // From pageable memory it may return before the last bytes are there.
                 check(cudaStreamSynchronize(cudaStreamLegacy), "cudaMemcpy")
             ? -1
             : 0;
}

int upload(void *to, const void *host, int64_t bytes) { return move(to, host, bytes, cudaMemcpyHostToDevice); }
int download(void *host, const void *from, int64_t bytes) { return move(host, from, bytes, cudaMemcpyDeviceToHost); }

} // namespace

extern "C" {
int cp_device_pause(int64_t ns, void *stream) {
  pause_kernel<<<1, 1, 0, (cudaStream_t)stream>>>((long long)ns);
  return check(cudaGetLastError(), "pause_kernel");
}

extern const struct cp_memory cp_memory_device = {ATTN_DEVICE, alloc, release, zero,   copy,
                                                  add,         cast,  sync,    upload, download};
}
