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
// Every communicator has a thread that moves its bytes. Wire: frames of a type and a size; DATA carries bytes.
#include <cuda_runtime_api.h>
#include <errno.h>
#include <fcntl.h>
#include <nccl.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "fake_cuda.h"

enum { OPS_MAX = 1024, RANKS_MAX = 16, FRAMES_MAX = 2 * OPS_MAX };
enum frame_type { HELLO, READY, DATA, BYE };

struct frame {
  uint64_t type, bytes;
};

struct op {
  bool send, announced, done;
  int peer;
  char *data;
  size_t bytes;
};

struct group {
  struct ncclComm *comm;
  cudaStream_t stream;
  struct op ops[OPS_MAX];
  int n;
  bool done;
  // reduce-scatter: sum += the parts
  float *sum, *parts;
  size_t count;
};

struct outgoing {
  struct frame frame;
  const char *data;
  size_t sent; // of frame and data
  struct op *op;
};

struct peer {
  int fd;
  bool hello_sent, hello, bye_sent, bye, gone;
  struct frame in; // being read
  size_t in_got;
  struct op *into;
  uint64_t ready[OPS_MAX]; // sizes of the receives that have begun there
  unsigned ready_first, ready_end;
  struct outgoing out[FRAMES_MAX];
  unsigned out_first, out_end;
};

struct ncclComm {
  int rank, size;
  char name[64];
  struct peer peers[RANKS_MAX];
  pthread_t thread;
  pthread_mutex_t lock;
  pthread_cond_t change;
  int wake[2];
  bool stop, finalize;
  struct group *launching, *running;
  int launched; // and not done
  ncclResult_t state;
  bool dead; // destroyed or aborted: kept, to tell who uses it
  atomic_flag entered;
};

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

// Its thread looks at what is new.
static void wake(struct ncclComm *c) {
  if (write(c->wake[1], "", 1) != 1)
    fake_fault("the communicator's thread cannot be woken");
}

// ---- the thread that moves bytes; with the lock held ------------------------------------------

static void push(struct peer *p, enum frame_type type, size_t bytes, struct op *op) {
  p->out[p->out_end++ % FRAMES_MAX] =
      (struct outgoing){.frame = {type, bytes}, .data = type == DATA ? op->data : NULL, .op = op};
}

static void lost(struct ncclComm *c, int rank) {
  struct peer *p = &c->peers[rank];
  if (p->gone)
    return;
  p->gone = true;
  close(p->fd);
  p->fd = -1;
  if (!p->bye && !getenv("FAKE_NCCL_SILENT"))
    c->state = ncclRemoteError;
}

static bool again(void) { return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR; }

static void write_out(struct ncclComm *c, int rank) {
  struct peer *p = &c->peers[rank];
  while (!p->gone && p->out_first != p->out_end) {
    struct outgoing *o = &p->out[p->out_first % FRAMES_MAX];
    const size_t head = sizeof o->frame, all = head + (o->data ? o->frame.bytes : 0);
    const char *from =
        o->sent < head ? (const char *)&o->frame + o->sent : o->data + (o->sent - head);
    const ssize_t n =
        send(p->fd, from, o->sent < head ? head - o->sent : all - o->sent, MSG_NOSIGNAL);
    if (n < 0 && again())
      return;
    if (n < 0) {
      lost(c, rank);
      return;
    }
    o->sent += (size_t)n;
    if (o->sent < all)
      continue;
    if (o->frame.type == DATA)
      o->op->done = true;
    p->out_first++;
  }
}

static struct op *next_op(struct group *g, int rank, bool send) {
  for (int i = 0; g && i < g->n; i++)
    if (g->ops[i].peer == rank && g->ops[i].send == send && !g->ops[i].done &&
        !(send && g->ops[i].announced))
      return &g->ops[i];
  return NULL;
}

static void read_in(struct ncclComm *c, int rank) {
  struct peer *p = &c->peers[rank];
  const size_t head = sizeof p->in;
  while (!p->gone) {
    const size_t all = head + (p->in_got >= head && p->in.type == DATA ? p->in.bytes : 0);
    if (p->in_got == all) { // a whole frame
      if (p->in.type == HELLO)
        p->hello = true;
      else if (p->in.type == READY)
        p->ready[p->ready_end++ % OPS_MAX] = p->in.bytes;
      else if (p->in.type == DATA)
        p->into->done = true;
      else
        p->bye = true;
      p->in_got = 0;
      continue;
    }
    char *to = p->in_got < head ? (char *)&p->in + p->in_got : p->into->data + (p->in_got - head);
    const ssize_t n = recv(p->fd, to, p->in_got < head ? head - p->in_got : all - p->in_got, 0);
    if (n < 0 && again())
      return;
    if (n <= 0) {
      lost(c, rank);
      return;
    }
    p->in_got += (size_t)n;
    if (p->in_got == head && p->in.type == DATA)
      p->into = next_op(c->running, rank, false); // there is one: it was announced
  }
}

static void copy_to_self(struct group *g) {
  const int me = g->comm->rank;
  struct op *from, *to;
  while ((from = next_op(g, me, true)) && (to = next_op(g, me, false))) {
    if (from->bytes != to->bytes)
      fake_fault("rank %d sends itself %zu bytes and expects %zu", me, from->bytes, to->bytes);
    memcpy(to->data, from->data, to->bytes);
    from->done = to->done = true;
  }
}

static void advance(struct ncclComm *c, struct group *g) {
  bool done = true;
  copy_to_self(g);
  for (int i = 0; i < g->n; i++) {
    struct op *op = &g->ops[i];
    struct peer *p = &c->peers[op->peer];
    done &= op->done;
    if (op->done || op->announced || op->peer == c->rank || p->gone)
      continue;
    if (!op->send) {
      push(p, READY, op->bytes, op);
      op->announced = true;
    } else if (p->ready_first != p->ready_end) {
      const uint64_t there = p->ready[p->ready_first++ % OPS_MAX];
      if (there != op->bytes)
        fake_fault("rank %d sends rank %d %zu bytes, which expects %llu", c->rank, op->peer,
                   op->bytes, (unsigned long long)there);
      push(p, DATA, op->bytes, op);
      op->announced = true;
    }
  }
  if (!done)
    return;
  for (int r = 0; g->parts && r < c->size - 1; r++)
    for (size_t i = 0; i < g->count; i++)
      g->sum[i] += g->parts[(size_t)r * g->count + i];
  g->done = true;
  pthread_cond_broadcast(&c->change);
}

static void run_on_stream(void *argument) {
  struct group *g = argument;
  struct ncclComm *c = g->comm;
  pthread_mutex_lock(&c->lock);
  c->running = g;
  wake(c);
  while (!g->done && !c->stop)
    pthread_cond_wait(&c->change, &c->lock);
  c->running = NULL;
  c->launched--;
  pthread_cond_broadcast(&c->change);
  pthread_mutex_unlock(&c->lock);
  free(g->parts);
  free(g);
}

// A group is launched once every peer of it has posted something with us.
static void launch(struct ncclComm *c) {
  struct group *g = c->launching;
  bool met = true;
  for (int i = 0; i < g->n; i++) {
    struct peer *p = &c->peers[g->ops[i].peer];
    if (g->ops[i].peer == c->rank)
      continue;
    if (!p->hello_sent)
      push(p, HELLO, 0, NULL);
    p->hello_sent = true;
    met &= p->hello;
  }
  if (!met)
    return;
  c->launching = NULL;
  c->launched++;
  cudaLaunchHostFunc(g->stream, run_on_stream, g);
  c->state = c->state == ncclInProgress ? ncclSuccess : c->state;
}

// Finalised once everybody is.
static void say_goodbye(struct ncclComm *c) {
  bool all = true;
  for (int r = 0; r < c->size; r++) {
    struct peer *p = &c->peers[r];
    if (r == c->rank)
      continue;
    if (!p->bye_sent)
      push(p, BYE, 0, NULL);
    p->bye_sent = true;
    all &= (p->bye && p->out_first == p->out_end) || p->gone;
  }
  if (all && c->state == ncclInProgress)
    c->state = ncclSuccess;
}

static struct sockaddr_un address(const struct ncclComm *c, int rank, socklen_t *size) {
  struct sockaddr_un a = {.sun_family = AF_UNIX}; // abstract: begins with 0, leaves no file
  const int n = snprintf(a.sun_path + 1, sizeof a.sun_path - 1, "%s.%d", c->name, rank);
  *size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)n);
  return a;
}

// Every rank calls those below it and is called by those above. false: aborted meanwhile.
static bool connect_peers(struct ncclComm *c) {
  socklen_t size;
  struct sockaddr_un a = address(c, c->rank, &size);
  const int door = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (bind(door, (struct sockaddr *)&a, size) || listen(door, RANKS_MAX))
    fake_fault("rank %d cannot listen: %s", c->rank, strerror(errno));
  for (int r = 0; r < c->rank; r++) {
    a = address(c, r, &size);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    while (connect(fd, (struct sockaddr *)&a, size)) {
      usleep(2000);
      pthread_mutex_lock(&c->lock);
      const bool stop = c->stop;
      pthread_mutex_unlock(&c->lock);
      if (stop)
        return close(fd), close(door), false;
    }
    if (write(fd, &c->rank, sizeof c->rank) != sizeof c->rank)
      fake_fault("rank %d cannot introduce itself", c->rank);
    c->peers[r].fd = fd;
  }
  for (int missing = c->size - 1 - c->rank; missing > 0;) {
    struct pollfd wait[2] = {{door, POLLIN, 0}, {c->wake[0], POLLIN, 0}};
    poll(wait, 2, -1);
    if (wait[1].revents)
      return close(door), false;
    int r = -1;
    const int fd = accept(door, NULL, NULL);
    if (fd < 0 || read(fd, &r, sizeof r) != sizeof r)
      fake_fault("rank %d cannot be reached", c->rank);
    c->peers[r].fd = fd;
    missing--;
  }
  close(door);
  return true;
}

static void *comm_main(void *argument) {
  struct ncclComm *c = argument;
  const bool connected = connect_peers(c);
  pthread_mutex_lock(&c->lock);
  for (int r = 0; connected && r < c->size; r++)
    if (r != c->rank)
      fcntl(c->peers[r].fd, F_SETFL, O_NONBLOCK);
  c->state = connected ? ncclSuccess : ncclInternalError;
  while (connected && !c->stop) {
    if (c->launching)
      launch(c);
    if (c->running && !c->running->done)
      advance(c, c->running);
    if (c->finalize)
      say_goodbye(c);
    struct pollfd wait[RANKS_MAX + 1];
    for (int r = 0; r < c->size; r++) {
      struct peer *p = &c->peers[r];
      if (r != c->rank)
        write_out(c, r);
      wait[r] = (struct pollfd){r == c->rank || p->gone ? -1 : p->fd, POLLIN, 0};
      if (p->out_first != p->out_end)
        wait[r].events |= POLLOUT;
    }
    wait[c->size] = (struct pollfd){c->wake[0], POLLIN, 0};
    pthread_mutex_unlock(&c->lock);
    poll(wait, (nfds_t)c->size + 1, 1); // what was just written may have ended an operation
    pthread_mutex_lock(&c->lock);
    char drain[64];
    if (wait[c->size].revents && read(c->wake[0], drain, sizeof drain) < 0)
      fake_fault("the communicator's thread cannot be woken");
    for (int r = 0; r < c->size; r++)
      if (r != c->rank)
        read_in(c, r);
  }
  for (int r = 0; r < c->size; r++)
    if (r != c->rank && c->peers[r].fd > 0)
      close(c->peers[r].fd);
  pthread_mutex_unlock(&c->lock);
  return NULL;
}

// ---- the interface --------------------------------------------------------------------------

ncclResult_t ncclGetUniqueId(ncclUniqueId *id) {
  static int made;
  memset(id, 0, sizeof *id);
  snprintf(id->internal, sizeof id->internal, "fake-nccl-%d-%d", (int)getpid(), made++);
  return ncclSuccess;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t *comm, int ranks, ncclUniqueId id, int rank,
                                    ncclConfig_t *config) {
  if (config->blocking != 0 || ranks > RANKS_MAX)
    fake_fault("communicators that block, or of %d ranks, are not built", ranks);
  struct ncclComm *c = *comm = calloc(1, sizeof *c);
  c->rank = rank;
  c->size = ranks;
  c->state = ncclInProgress;
  snprintf(c->name, sizeof c->name, "%.60s", id.internal);
  pthread_mutex_init(&c->lock, NULL);
  pthread_cond_init(&c->change, NULL);
  if (pipe(c->wake) || pthread_create(&c->thread, NULL, comm_main, c))
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
  wake(c);
  return leave(c, ncclInProgress);
}

static ncclResult_t end(struct ncclComm *c, const char *function, bool abort_it) {
  enter(c, function, !abort_it);
  c->stop = true;
  pthread_cond_broadcast(&c->change);
  wake(c);
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
  wake(c);
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
  if (g->n == OPS_MAX || peer < 0 || peer >= g->comm->size)
    fake_fault("operation %d of a group, with rank %d", g->n, peer);
  g->ops[g->n++] = (struct op){.send = send, .peer = peer, .data = (char *)data, .bytes = bytes};
}

static size_t bytes_of(size_t count, ncclDataType_t type) {
  if (type != ncclInt8 && type != ncclFloat32)
    fake_fault("data type %d is not built", (int)type);
  return type == ncclInt8 ? count : 4 * count;
}

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
