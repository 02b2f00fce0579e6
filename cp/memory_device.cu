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

enum { MOVE_THREADS = 256, MOVE_VECTORS = 8 }; // of 16 bytes, asked for together by a thread

struct moves {
  cp_move at[CP_MOVES_MAX];
  unsigned begin[CP_MOVES_MAX + 1]; // first block of each
};

// A thread's vectors of a move lie MOVE_THREADS apart, row after row: two divisions for all of them.
struct place {
  unsigned row, column; // in vectors
};

__global__ void move_kernel(moves list) {
  int m = 0;
  while (blockIdx.x >= list.begin[m + 1])
    m++;
  const char *const from = (const char *)list.at[m].from;
  char *const to = (char *)list.at[m].to;
  const int64_t from_pitch = list.at[m].from_pitch, to_pitch = list.at[m].to_pitch;
  const unsigned width = (unsigned)(list.at[m].width / 16), rows = (unsigned)list.at[m].rows;
  const unsigned begin = (blockIdx.x - list.begin[m]) * (MOVE_THREADS * MOVE_VECTORS) + threadIdx.x;
  const place first = {begin / width, begin % width}, stride = {MOVE_THREADS / width, MOVE_THREADS % width};
  const auto next = [=](place p) {
    p = {p.row + stride.row, p.column + stride.column};
    return p.column < width ? p : place{p.row + 1, p.column - width};
  };
  uint4 x[MOVE_VECTORS];
  place at = first;
#pragma unroll
  for (int j = 0; j < MOVE_VECTORS; j++, at = next(at))
    if (at.row < rows)
      x[j] = *(const uint4 *)(from + at.row * from_pitch + at.column * 16);
  at = first;
#pragma unroll
  for (int j = 0; j < MOVE_VECTORS; j++, at = next(at))
    if (at.row < rows)
      *(uint4 *)(to + at.row * to_pitch + at.column * 16) = x[j];
}

int move_all(const cp_move *moves_in, int n, void *stream) {
  moves list;
  list.begin[0] = 0;
  for (int m = 0; m < n; m++) {
    const cp_move &x = list.at[m] = moves_in[m];
    const int64_t vectors = x.width / 16 * x.rows;
    if (((uintptr_t)x.to | (uintptr_t)x.from | (uint64_t)(x.to_pitch | x.from_pitch | x.width)) % 16 ||
        vectors > INT32_MAX) {
      attn_error_set(false, "device memory is moved by 16 bytes, and less than 32 GiB at once");
      return -1;
    }
    const int64_t a_block = MOVE_THREADS * MOVE_VECTORS;
    list.begin[m + 1] = list.begin[m] + (unsigned)((vectors + a_block - 1) / a_block);
  }
  if (!list.begin[n])
    return 0;
  move_kernel<<<list.begin[n], MOVE_THREADS, 0, (cudaStream_t)stream>>>(list);
  return check(cudaGetLastError(), "move_kernel");
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
#if defined(__CUDA_ARCH__) || defined(LONGCA_FAKE_CUDA_H)
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

extern const struct cp_memory cp_memory_device = {ATTN_DEVICE, alloc, release, zero,   copy, move_all,
                                                  add,         cast,  sync,    upload, download};
}
