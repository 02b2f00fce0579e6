// fake_nccl_comm.c -- the thread that moves a communicator's bytes over sockets. Wire: frames of a type and a
// size. HELLO: a group with this peer is posted here; READY: a receive has begun; DATA carries its bytes,
// and is sent only then; BYE: finalised.
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "fake_nccl.h"

enum { FRAMES_MAX = 2 * FAKE_OPS_MAX };
enum frame_type { HELLO, READY, DATA, BYE };

struct frame {
  uint64_t type, bytes;
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
  uint64_t ready[FAKE_OPS_MAX]; // sizes of the receives that have begun there
  unsigned ready_first, ready_end;
  struct outgoing out[FRAMES_MAX];
  unsigned out_first, out_end;
};

void fake_comm_wake(struct ncclComm *c) {
  if (write(c->wake[1], "", 1) != 1)
    fake_fault("the communicator's thread cannot be woken");
}

// ---- frames; with the lock held -------------------------------------------------------------

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
        p->ready[p->ready_end++ % FAKE_OPS_MAX] = p->in.bytes;
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

// ---- groups; with the lock held -------------------------------------------------------------

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
      const uint64_t there = p->ready[p->ready_first++ % FAKE_OPS_MAX];
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
  fake_comm_wake(c);
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

// ---- the thread -----------------------------------------------------------------------------

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
  if (bind(door, (struct sockaddr *)&a, size) || listen(door, FAKE_RANKS_MAX))
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

void *fake_comm_main(void *comm) {
  struct ncclComm *c = comm;
  c->peers = calloc((size_t)c->size, sizeof *c->peers);
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
    struct pollfd wait[FAKE_RANKS_MAX + 1];
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
  free(c->peers);
  pthread_mutex_unlock(&c->lock);
  return NULL;
}
