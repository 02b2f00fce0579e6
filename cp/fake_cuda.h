// fake_cuda.h -- what the fakes of CUDA and NCCL (fake_cuda.c, fake_nccl.c) share, and CUDA C++ for the host
// compiler as far as cp/memory_device.cu needs it: threads of a block run one after another, so kernels
// whose threads do not talk to one another. cp.mk includes this before that file and has sed write its
// launches as fake_launch(kernel, grid, block, shared, stream)(arguments).
#ifndef LONGCA_FAKE_CUDA_H
#define LONGCA_FAKE_CUDA_H

#include <stdio.h>
#include <stdlib.h>

// The program under test broke a rule of the interface.
#define fake_fault(...) (fprintf(stderr, "fake GPU: " __VA_ARGS__), fputc('\n', stderr), abort())

// The host waits for the streams that have kernels (fake_emu.cpp).
#ifndef __cplusplus
void fake_cuda_drain(void);

// fake_ipc.c: what an allocation takes, that it is made, and that it ends.
enum { FAKE_PAGE = 4096 };
size_t fake_ipc_size(size_t bytes);
void fake_ipc_allocated(void *data, size_t bytes);
void fake_ipc_freed(void *data);
#else
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <sched.h>
#include <time.h>

#include <functional>

#undef __global__
#define __global__

struct fake_place {
  unsigned x;
};
inline thread_local fake_place fake_thread, fake_block, fake_threads, fake_blocks;
#define threadIdx fake_thread
#define blockIdx fake_block
#define blockDim fake_threads
#define gridDim fake_blocks

namespace ptx {
inline long long global_ns() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000000000ll + t.tv_nsec;
}
} // namespace ptx
inline void __nanosleep(unsigned) { sched_yield(); } // a sleep takes far longer here

template<class... P>
auto fake_launch(void (*kernel)(P...), unsigned grid, unsigned block, size_t, cudaStream_t stream) {
  return [=](P... arguments) {
    auto *call = new std::function<void()>([=] {
      gridDim.x = grid;
      blockDim.x = block;
      for (blockIdx.x = 0; blockIdx.x < grid; blockIdx.x++)
        for (threadIdx.x = 0; threadIdx.x < block; threadIdx.x++)
          kernel(arguments...);
    });
    cudaLaunchHostFunc(
        stream,
        [](void *data) {
          auto *f = static_cast<std::function<void()> *>(data);
          (*f)();
          delete f;
        },
        call);
  };
}
#endif
#endif
