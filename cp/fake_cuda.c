// fake_cuda.c -- the part of the CUDA runtime that cp/nccl.c and cp/memory_device.cu use, on host memory, for
// tests alone. Unlike the emulation of kernels/emu it is asynchronous, as a GPU is: a stream is a thread
// with a queue, started late on purpose, and only events and synchronisation order one after another. What
// is read too early is therefore stale here too. Memory is garbage until it is written.
#include <cuda_runtime_api.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "../src/timer.h"
#include "fake_cuda.h"

struct CUevent_st {
  uint64_t recorded, done; // how often; done is behind while the record stands in a queue
  double at_us;
};

enum kind { CALL, WAIT, RECORD };

struct task {
  struct task *next;
  enum kind kind;
  cudaHostFn_t call;
  void *data;
  cudaEvent_t event;
  uint64_t number; // of the record that is waited for, or made
};

struct CUstream_st {
  struct CUstream_st *next;
  pthread_t thread;
  struct task *first, **last;
  bool busy, leave;
  bool transfers; // made with a priority: has no kernels
  unsigned seed;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t change = PTHREAD_COND_INITIALIZER;
static struct CUstream_st *streams; // all there are; the first ever made is the default stream
static struct CUstream_st *legacy;

static void perform(struct CUstream_st *s, struct task *t) { // with the lock held
  switch (t->kind) {
  case WAIT:
    while (t->event->done < t->number)
      pthread_cond_wait(&change, &lock);
    break;
  case RECORD:
    t->event->at_us = timer_now_us();
    t->event->done = t->number > t->event->done ? t->number : t->event->done;
    break;
  case CALL:
    pthread_mutex_unlock(&lock);
    if (rand_r(&s->seed) % 4 == 0) // what follows on other streams is likely to overtake
      nanosleep(&(struct timespec){.tv_nsec = rand_r(&s->seed) % 200000}, NULL);
    t->call(t->data);
    pthread_mutex_lock(&lock);
  }
}

static void *stream_main(void *argument) {
  struct CUstream_st *s = argument;
  pthread_mutex_lock(&lock);
  while (s->first || !s->leave) {
    struct task *t = s->first;
    if (!t) {
      pthread_cond_wait(&change, &lock);
      continue;
    }
    s->busy = true;
    perform(s, t);
    s->first = t->next;
    if (!s->first)
      s->last = &s->first;
    s->busy = false;
    free(t);
    pthread_cond_broadcast(&change);
  }
  pthread_mutex_unlock(&lock);
  return NULL;
}

static struct CUstream_st *make_stream(void) {
  static unsigned made;
  struct CUstream_st *s = calloc(1, sizeof *s);
  s->last = &s->first;
  s->seed = ++made;
  s->next = streams;
  streams = s;
  pthread_create(&s->thread, NULL, stream_main, s);
  return s;
}

static struct CUstream_st *stream_of(cudaStream_t stream) {
  if (stream && stream != cudaStreamLegacy)
    return stream;
  if (!legacy)
    legacy = make_stream();
  return legacy;
}

static cudaError_t enqueue(cudaStream_t stream, struct task task) {
  struct task *t = malloc(sizeof *t);
  *t = task;
  t->next = NULL;
  pthread_mutex_lock(&lock);
  struct CUstream_st *s = stream_of(stream);
  if (t->kind == RECORD)
    t->number = ++t->event->recorded;
  if (t->kind == WAIT)
    t->number = t->event->recorded;
  *s->last = t;
  s->last = &t->next;
  pthread_cond_broadcast(&change);
  pthread_mutex_unlock(&lock);
  return cudaSuccess;
}

cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t call, void *data) {
  return enqueue(stream, (struct task){.kind = CALL, .call = call, .data = data});
}

// ---- streams and events ---------------------------------------------------------------------

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags) {
  pthread_mutex_lock(&lock);
  *stream = make_stream();
  pthread_mutex_unlock(&lock);
  return cudaSuccess;
}

cudaError_t cudaStreamCreateWithPriority(cudaStream_t *stream, unsigned flags, int priority) {
  cudaStreamCreateWithFlags(stream, flags);
  (*stream)->transfers = true;
  return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  pthread_mutex_lock(&lock);
  const struct CUstream_st *s = stream_of(stream);
  while (s->first || s->busy)
    pthread_cond_wait(&change, &lock);
  pthread_mutex_unlock(&lock);
  return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  pthread_mutex_lock(&lock);
  struct CUstream_st **at = &streams;
  while (*at && *at != stream)
    at = &(*at)->next;
  if (!*at) {
    pthread_mutex_unlock(&lock);
    fake_fault("cudaStreamDestroy: no such stream");
  }
  *at = stream->next;
  stream->leave = true;
  pthread_cond_broadcast(&change);
  pthread_mutex_unlock(&lock);
  pthread_join(stream->thread, NULL);
  free(stream);
  return cudaSuccess;
}

cudaError_t cudaDeviceSynchronize(void) {
  pthread_mutex_lock(&lock);
  for (const struct CUstream_st *s = streams; s; s = s->next)
    while (s->first || s->busy)
      pthread_cond_wait(&change, &lock);
  pthread_mutex_unlock(&lock);
  return cudaSuccess;
}

void fake_cuda_drain(void) {
  pthread_mutex_lock(&lock);
  for (const struct CUstream_st *s = streams; s; s = s->next)
    while (!s->transfers && (s->first || s->busy))
      pthread_cond_wait(&change, &lock);
  pthread_mutex_unlock(&lock);
}

cudaError_t cudaEventCreate(cudaEvent_t *event) {
  *event = calloc(1, sizeof **event);
  return *event ? cudaSuccess : cudaErrorMemoryAllocation;
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags) {
  return cudaEventCreate(event);
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  free(event);
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  return enqueue(stream, (struct task){.kind = RECORD, .event = event});
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags) {
  return enqueue(stream, (struct task){.kind = WAIT, .event = event});
}
cudaError_t cudaEventQuery(cudaEvent_t event) {
  pthread_mutex_lock(&lock);
  const bool done = event->done == event->recorded;
  pthread_mutex_unlock(&lock);
  return done ? cudaSuccess : cudaErrorNotReady;
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  pthread_mutex_lock(&lock);
  while (event->done < event->recorded)
    pthread_cond_wait(&change, &lock);
  pthread_mutex_unlock(&lock);
  return cudaSuccess;
}
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t begin, cudaEvent_t end) {
  if (cudaEventQuery(begin) != cudaSuccess || cudaEventQuery(end) != cudaSuccess)
    return cudaErrorNotReady;
  *ms = (float)(1e-3 * (end->at_us - begin->at_us));
  return cudaSuccess;
}

// ---- memory ---------------------------------------------------------------------------------

struct move {
  char *to;
  const char *from; // NULL: fill with byte
  size_t to_pitch, from_pitch, width, rows;
  int byte;
};

static void move(void *argument) {
  struct move *m = argument;
  for (size_t r = 0; r < m->rows; r++)
    if (m->from)
      memcpy(m->to + r * m->to_pitch, m->from + r * m->from_pitch, m->width);
    else
      memset(m->to + r * m->to_pitch, m->byte, m->width);
  free(m);
}

static cudaError_t enqueue_move(cudaStream_t stream, struct move what) {
  struct move *m = malloc(sizeof *m);
  *m = what;
  return cudaLaunchHostFunc(stream, move, m);
}

cudaError_t cudaMalloc(void **data, size_t bytes) {
  *data = aligned_alloc(FAKE_PAGE,
                        fake_ipc_size(bytes)); // pages of its own, which others may come to share
  if (*data) {
    memset(*data, 0xff, bytes); // NaN
    fake_ipc_allocated(*data, bytes);
  }
  return *data ? cudaSuccess : cudaErrorMemoryAllocation;
}
cudaError_t cudaFree(void *data) {
  cudaDeviceSynchronize();
  fake_ipc_freed(data);
  free(data);
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void *to, int byte, size_t bytes, cudaStream_t stream) {
  return enqueue_move(stream, (struct move){.to = to, .byte = byte, .width = bytes, .rows = 1});
}
// As on a GPU: the host does not wait for it, and streams that do not block do not either.
cudaError_t cudaMemset(void *to, int byte, size_t bytes) {
  return cudaMemsetAsync(to, byte, bytes, NULL);
}
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind,
                            cudaStream_t stream) {
  return enqueue_move(stream, (struct move){.to = to, .from = from, .width = bytes, .rows = 1});
}
cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch,
                              size_t width, size_t rows, enum cudaMemcpyKind kind,
                              cudaStream_t stream) {
  return enqueue_move(stream, (struct move){to, from, to_pitch, from_pitch, width, rows, 0});
}
cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind) {
  cudaMemcpyAsync(to, from, bytes, kind, NULL);
  return cudaStreamSynchronize(NULL);
}

// ---- device ---------------------------------------------------------------------------------

cudaError_t cudaGetDevice(int *device) {
  *device = 0;
  return cudaSuccess;
}
// Its GPU: that of the local rank, of FAKE_GPUS.
cudaError_t cudaDeviceGetPCIBusId(char *id, int size, int device) {
  const char *rank = getenv("OMPI_COMM_WORLD_LOCAL_RANK"), *gpus = getenv("FAKE_GPUS");
  snprintf(id, (size_t)size, "fake:%d", (rank ? atoi(rank) : 0) % (gpus ? atoi(gpus) : 64));
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) { return cudaSuccess; }
cudaError_t cudaDeviceGetStreamPriorityRange(int *low, int *high) {
  *low = *high = 0;
  return cudaSuccess;
}
cudaError_t cudaGetLastError(void) { return cudaSuccess; }
const char *cudaGetErrorString(cudaError_t status) {
  return status == cudaErrorNotReady ? "not ready" : "out of memory";
}
