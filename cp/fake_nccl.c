// fake_nccl.c -- the part of NCCL that cp/nccl.c uses, between processes of one host over sockets, for tests
// alone, on fake_cuda.c. It is as strict as NCCL may be at its worst:
//   - a send ends only once its receive has begun (no buffering), so what is not grouped hangs;
//   - groups of a communicator run one after another, on its stream, when the stream reaches them;
//   - communicators do not block: a group is launched later, by another thread, and a first transfer with a
//     peer not before that peer has posted one with us, as when NCCL connects on first use;
//   - calls on a communicator from two threads at once, while an earlier one is in progress, or after its
//     end stop the process with a sentence;
//   - a peer that is gone is an asynchronous error; with FAKE_NCCL_SILENT set nobody notices, as
//     between GPUs of one host.
// Here: the calls and the rules of use. fake_nccl_comm.c moves the bytes.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fake_nccl.h"

static _Thread_local char last_error[128];
static _Thread_local int depth;
static _Thread_local struct group *open_group;

// ---- the rules of use -----------------------------------------------------------------------

static void enter(struct ncclComm *c, const char *function, bool needs_rest) {
  if (!c || c->dead)
    fake_fault("%s on a communicator that is no more", function);
  if (atomic_flag_test_and_set(&c->entered))
    fake_fault("%s while another thread is inside a call on the same communicator", function);
  usleep(20); // so that two meet
  pthread_mutex_lock(&c->lock);
  if (needs_rest && c->state == ncclInProgress)
    fake_fault("%s while an earlier call on the communicator is in progress", function);
}

static ncclResult_t leave(struct ncclComm *c, ncclResult_t result) {
  pthread_mutex_unlock(&c->lock);
  atomic_flag_clear(&c->entered);
  return result;
}

// ---- communicators --------------------------------------------------------------------------

ncclResult_t ncclGetUniqueId(ncclUniqueId *id) {
  static int made;
  memset(id, 0, sizeof *id);
  snprintf(id->internal, sizeof id->internal, "fake-nccl-%d-%d", (int)getpid(), made++);
  return ncclSuccess;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t *comm, int ranks, ncclUniqueId id, int rank,
                                    ncclConfig_t *config) {
  if (config->blocking != 0 || ranks > FAKE_RANKS_MAX)
    fake_fault("communicators that block, or of %d ranks, are not built", ranks);
  struct ncclComm *c = *comm = calloc(1, sizeof *c);
  c->rank = rank;
  c->size = ranks;
  c->state = ncclInProgress;
  snprintf(c->name, sizeof c->name, "%.60s", id.internal);
  pthread_mutex_init(&c->lock, NULL);
  pthread_cond_init(&c->change, NULL);
  if (pipe(c->wake) || pthread_create(&c->thread, NULL, fake_comm_main, c))
    return ncclSystemError;
  return ncclInProgress;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t c, ncclResult_t *state) {
  enter(c, "ncclCommGetAsyncError", false);
  *state = c->state;
  return leave(c, ncclSuccess);
}

ncclResult_t ncclCommFinalize(ncclComm_t c) {
  enter(c, "ncclCommFinalize", true);
  while (c->launched) // what is under way ends first
    pthread_cond_wait(&c->change, &c->lock);
  c->state = ncclInProgress;
  c->finalize = true;
  fake_comm_wake(c);
  return leave(c, ncclInProgress);
}

static ncclResult_t end(struct ncclComm *c, const char *function, bool abort_it) {
  enter(c, function, !abort_it);
  c->stop = true;
  pthread_cond_broadcast(&c->change);
  fake_comm_wake(c);
  pthread_mutex_unlock(&c->lock);
  pthread_join(c->thread, NULL);
  pthread_mutex_lock(&c->lock);
  while (c->launched) // kernels of its own, even such as wait for others on the stream
    pthread_cond_wait(&c->change, &c->lock);
  c->dead = true;
  return leave(c, ncclSuccess);
}

ncclResult_t ncclCommDestroy(ncclComm_t c) { return end(c, "ncclCommDestroy", false); }
ncclResult_t ncclCommAbort(ncclComm_t c) { return end(c, "ncclCommAbort", true); }

// ---- groups ---------------------------------------------------------------------------------

ncclResult_t ncclGroupStart(void); // nccl.h leaves the void out
ncclResult_t ncclGroupEnd(void);

ncclResult_t ncclGroupStart(void) {
  depth++;
  return ncclSuccess;
}

static ncclResult_t submit(struct group *g) {
  struct ncclComm *c = g->comm;
  enter(c, "ncclGroupEnd", true);
  if (c->state != ncclSuccess) {
    free(g);
    snprintf(last_error, sizeof last_error, "a rank is gone");
    return leave(c, c->state);
  }
  c->state = ncclInProgress;
  c->launching = g;
  fake_comm_wake(c);
  return leave(c, ncclInProgress);
}

ncclResult_t ncclGroupEnd(void) {
  struct group *g = open_group;
  if (depth-- == 0)
    fake_fault("ncclGroupEnd without ncclGroupStart");
  if (depth || !g)
    return ncclSuccess;
  open_group = NULL;
  return submit(g);
}

static struct group *group_of(struct ncclComm *c, cudaStream_t stream) {
  struct group *g = open_group;
  if (!g) {
    g = open_group = calloc(1, sizeof *g);
    g->comm = c;
    g->stream = stream;
  }
  if (g->comm != c || g->stream != stream)
    fake_fault("a group over several communicators or streams is not built");
  return g;
}

static void add_op(struct group *g, bool send, int peer, const void *data, size_t bytes) {
  if (g->n == FAKE_OPS_MAX || peer < 0 || peer >= g->comm->size)
    fake_fault("operation %d of a group, with rank %d", g->n, peer);
  g->ops[g->n++] = (struct op){.send = send, .peer = peer, .data = (char *)data, .bytes = bytes};
}

static size_t bytes_of(size_t count, ncclDataType_t type) {
  if (type != ncclInt8 && type != ncclFloat32)
    fake_fault("data type %d is not built", (int)type);
  return type == ncclInt8 ? count : 4 * count;
}

// ---- transfers ------------------------------------------------------------------------------

ncclResult_t ncclSend(const void *data, size_t count, ncclDataType_t type, int peer, ncclComm_t c,
                      cudaStream_t stream) {
  ncclGroupStart();
  add_op(group_of(c, stream), true, peer, data, bytes_of(count, type));
  return ncclGroupEnd();
}

ncclResult_t ncclRecv(void *data, size_t count, ncclDataType_t type, int peer, ncclComm_t c,
                      cudaStream_t stream) {
  ncclGroupStart();
  add_op(group_of(c, stream), false, peer, data, bytes_of(count, type));
  return ncclGroupEnd();
}

ncclResult_t ncclAllGather(const void *send, void *recv, size_t count, ncclDataType_t type,
                           ncclComm_t c, cudaStream_t stream) {
  const size_t bytes = bytes_of(count, type);
  ncclGroupStart();
  for (int r = 0; r < c->size; r++) {
    add_op(group_of(c, stream), true, r, send, bytes);
    add_op(group_of(c, stream), false, r, (char *)recv + (size_t)r * bytes, bytes);
  }
  return ncclGroupEnd();
}

ncclResult_t ncclReduceScatter(const void *send, void *recv, size_t count, ncclDataType_t type,
                               ncclRedOp_t op, ncclComm_t c, cudaStream_t stream) {
  if (type != ncclFloat32 || op != ncclSum)
    fake_fault("a reduce-scatter other than a sum of floats is not built");
  ncclGroupStart();
  struct group *g = group_of(c, stream);
  g->sum = recv;
  g->count = count;
  g->parts = malloc(4 * count * (size_t)c->size);
  float *part = g->parts;
  for (int r = 0; r < c->size; r++) {
    add_op(g, true, r, (const float *)send + (size_t)r * count, 4 * count);
    add_op(g, false, r, r == c->rank ? recv : part, 4 * count);
    part += r == c->rank ? 0 : count;
  }
  return ncclGroupEnd();
}

const char *ncclGetErrorString(ncclResult_t result) {
  return result == ncclRemoteError ? "a remote process is gone" : "an error of the fake NCCL";
}
const char *ncclGetLastError(ncclComm_t comm) { return last_error; }
