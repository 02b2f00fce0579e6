// fake_ipc.c -- CUDA IPC for fake_cuda.c. An allocation is the heap's until a handle of it is asked for; then its
// pages are replaced, where they are, by pages of a file without a name, which other processes reach through
// /proc. As strict as CUDA may be: freed while someone has it open is a fault, told by a count in the file.
#define _GNU_SOURCE
#include <cuda.h>
#include <cuda_runtime_api.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fake_cuda.h"

struct block {
  struct block *next;
  char *data; // of this process, or of another, here
  size_t bytes;
  int file;  // -1: not shared
  int opens; // of another's
};

// What a handle holds.
struct told {
  int process, file;
  size_t bytes;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct block *blocks;

// Behind the allocation a page for the count of those that have it open.
size_t fake_ipc_size(size_t bytes) {
  return (bytes + FAKE_PAGE - 1) / FAKE_PAGE * FAKE_PAGE + FAKE_PAGE;
}

static atomic_int *users_of(const struct block *b) {
  return (atomic_int *)(b->data + fake_ipc_size(b->bytes) - FAKE_PAGE);
}

static void add_block(struct block what) {
  struct block *b = malloc(sizeof *b);
  *b = what;
  b->next = blocks;
  blocks = b;
}

static struct block **find(const void *inside) {
  struct block **at = &blocks;
  while (*at && ((const char *)inside < (*at)->data ||
                 (const char *)inside >= (*at)->data + (*at)->bytes + !(*at)->bytes))
    at = &(*at)->next;
  return at;
}

static void forget(struct block **at) {
  struct block *b = *at;
  *at = b->next;
  free(b);
}

void fake_ipc_allocated(void *data, size_t bytes) {
  pthread_mutex_lock(&lock);
  add_block((struct block){.data = data, .bytes = bytes, .file = -1});
  pthread_mutex_unlock(&lock);
}

// Its pages are the heap's again.
void fake_ipc_freed(void *data) {
  pthread_mutex_lock(&lock);
  struct block **at = find(data), *b = *at;
  if (b && b->file >= 0) {
    if (atomic_load(users_of(b)))
      fake_fault("cudaFree of memory that another process has open");
    if (mmap(b->data, fake_ipc_size(b->bytes), PROT_READ | PROT_WRITE,
             MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) != b->data)
      fake_fault("pages do not come back");
    close(b->file);
  }
  if (b)
    forget(at);
  pthread_mutex_unlock(&lock);
}

static bool share_pages(struct block *b) {
  const size_t size = fake_ipc_size(b->bytes);
  b->file = memfd_create("fake GPU", 0);
  if (b->file < 0 || ftruncate(b->file, (off_t)size) ||
      pwrite(b->file, b->data, b->bytes, 0) != (ssize_t)b->bytes)
    return false;
  return mmap(b->data, size, PROT_READ | PROT_WRITE, MAP_FIXED | MAP_SHARED, b->file, 0) == b->data;
}

// Like CUDA, of the base of an allocation alone. FAKE_NO_IPC: the rank of that number refuses.
cudaError_t cudaIpcGetMemHandle(cudaIpcMemHandle_t *handle, void *data) {
  const char *refuses = getenv("FAKE_NO_IPC"), *rank = getenv("OMPI_COMM_WORLD_RANK");
  if (refuses && rank && !strcmp(refuses, rank))
    return cudaErrorNotSupported;
  pthread_mutex_lock(&lock);
  struct block *b = *find(data);
  if (!b || b->data != data)
    fake_fault("cudaIpcGetMemHandle of what is not the base of an allocation");
  const bool shared = b->file >= 0 || share_pages(b);
  const struct told told = {(int)getpid(), b->file, b->bytes};
  memcpy(handle, &told, sizeof told);
  pthread_mutex_unlock(&lock);
  return shared ? cudaSuccess : cudaErrorMemoryAllocation;
}

cudaError_t cudaIpcOpenMemHandle(void **data, cudaIpcMemHandle_t handle, unsigned flags) {
  struct told told;
  char path[64];
  memcpy(&told, &handle, sizeof told);
  if (told.process == (int)getpid())
    fake_fault("cudaIpcOpenMemHandle in the process that has the memory");
  snprintf(path, sizeof path, "/proc/%d/fd/%d", told.process, told.file);
  const int file = open(path, O_RDWR | O_CLOEXEC);
  const size_t size = fake_ipc_size(told.bytes);
  *data = file < 0 ? MAP_FAILED : mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  if (file >= 0)
    close(file);
  if (*data == MAP_FAILED)
    return cudaErrorInvalidValue;
  pthread_mutex_lock(&lock);
  add_block((struct block){.data = *data, .bytes = told.bytes, .file = -1, .opens = 1});
  atomic_fetch_add(users_of(blocks), 1);
  pthread_mutex_unlock(&lock);
  return cudaSuccess;
}

cudaError_t cudaIpcCloseMemHandle(void *data) {
  cudaDeviceSynchronize();
  pthread_mutex_lock(&lock);
  struct block **at = find(data), *b = *at;
  if (!b || b->data != data || !b->opens)
    fake_fault("cudaIpcCloseMemHandle of what is not open");
  atomic_fetch_sub(users_of(b), 1);
  munmap(b->data, fake_ipc_size(b->bytes));
  forget(at);
  pthread_mutex_unlock(&lock);
  return cudaSuccess;
}

static CUresult range(CUdeviceptr *base, size_t *bytes, CUdeviceptr inside) {
  pthread_mutex_lock(&lock);
  const struct block *b =
      *find((const void *)inside); // NOLINT(performance-no-int-to-ptr): as given
  if (b && base)
    *base = (CUdeviceptr)b->data;
  if (b && bytes)
    *bytes = b->bytes;
  pthread_mutex_unlock(&lock);
  return b ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}
CUresult cuMemGetAddressRange(CUdeviceptr *base, size_t *bytes, CUdeviceptr inside) {
  return range(base, bytes, inside);
}

// With the emulated GPU, which has one of its own, that is taken.
__attribute__((weak)) cudaError_t
cudaGetDriverEntryPointByVersion(const char *name, void **found, unsigned version,
                                 unsigned long long flags,
                                 enum cudaDriverEntryPointQueryResult *how) {
  CUresult (*const function)(CUdeviceptr *, size_t *, CUdeviceptr) = range;
  if (strcmp(name, "cuMemGetAddressRange"))
    fake_fault("%s: no such function of the driver", name);
  memcpy(found, &function, sizeof *found);
  return cudaSuccess;
}
