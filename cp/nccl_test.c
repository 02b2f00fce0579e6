// nccl_test.c -- cp/nccl.c and cp/memory_device.cu without a GPU: this program starts itself under mpirun, as
// ranks whose CUDA is fake_cuda.c (asynchronous streams on host memory) and whose NCCL is fake_nccl.c
// (strict, between processes). The kernel is a CPU kernel that is enqueued like a GPU's.
// clang-format off
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
// clang-format on
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../src/timer.h"

#ifdef LONGCA_NCCL
#include <cuda_runtime_api.h>
#include <nccl.h>

#include "cp_test_job.h"

extern const struct cp_transport cp_nccl;

// ---- a host kernel on a stream --------------------------------------------------------------

static const struct attn_kernel *inner(void) { return attn_find("fa2", ATTN_HOST); }
static _Atomic int kernel_us; // that each call takes at least

static void nap(void *us) { usleep((unsigned)*(int *)us); }

struct call {
  struct attn_plan *plan;
  struct attn_args args;
  enum attn_pass pass;
};

static void run_call(void *data) {
  struct call *c = data;
  usleep((unsigned)kernel_us);
  if (c->pass == ATTN_BWD ? inner()->backward(c->plan, &c->args)
                          : inner()->forward(c->plan, &c->args)) {
    fprintf(stderr, "%s\n", attn_error());
    abort();
  }
  free(c);
}

static int enqueue(struct attn_plan *plan, const struct attn_args *args, enum attn_pass pass) {
  struct call *c = malloc(sizeof *c);
  *c = (struct call){plan->state, *args, pass};
  return cudaLaunchHostFunc(args->stream, run_call, c) == cudaSuccess ? 0 : -1;
}
static int forward(struct attn_plan *plan, const struct attn_args *args) {
  return enqueue(plan, args, ATTN_FWD);
}
static int backward(struct attn_plan *plan, const struct attn_args *args) {
  return enqueue(plan, args, ATTN_BWD);
}
static int prepare(struct attn_plan *plan) {
  struct attn_plan *p = plan->state = calloc(1, sizeof *p);
  if (attn_prepare(p, inner(), &plan->problem))
    return -1;
  plan->prep_bytes = p->prep_bytes;
  plan->workspace_bytes = p->workspace_bytes;
  return 0;
}
static void release(struct attn_plan *plan) {
  cudaDeviceSynchronize();
  if (plan->state)
    attn_release(plan->state);
  free(plan->state);
}

static const struct attn_kernel enqueued = {.name = "enqueued",
                                            .rep = "band",
                                            .engine = "test",
                                            .place = ATTN_DEVICE,
                                            .prepare = prepare,
                                            .forward = forward,
                                            .backward = backward,
                                            .release = release};

// ---- one rank -----------------------------------------------------------------

// Numbers that tell where they come from; the same on every rank.
static float number(int64_t i, int from) { return (float)(from * 1000 + i % 997); }

static void fill(float *x, int64_t n, int from) {
  for (int64_t i = 0; i < n; i++)
    x[i] = number(i, from);
}

static int count_wrong(const float *got, const float *want, int64_t n) {
  int wrong = 0;
  for (int64_t i = 0; i < n; i++)
    wrong += !(got[i] == want[i]);
  return wrong;
}

// Of device memory: made of those numbers; how many differ.
static float *made(struct cp_comm *comm, int64_t n, int from) {
  float *host = malloc(4 * (size_t)n), *device = comm->memory->alloc(4 * n);
  fill(host, n, from);
  comm->memory->upload(device, host, 4 * n);
  free(host);
  return device;
}

static int differs(struct cp_comm *comm, const float *device, int64_t n, const float *want) {
  float *host = malloc(4 * (size_t)n);
  comm->memory->sync(comm->stream);
  comm->memory->download(host, device, 4 * n);
  const int wrong = count_wrong(host, want, n);
  free(host);
  return wrong;
}

// Each way to transfer n numbers, and how many came out wrong; -1: refused.
static int transfers(struct cp_comm *comm, int64_t n, float *want) {
  const struct cp_transport *net = comm->transport;
  const struct cp_memory *memory = comm->memory;
  const int size = comm->size, me = comm->rank;
  int wrong = 0, peers[16];
  float *mine = made(comm, n * size, me), *all = memory->alloc(4 * n * size);
  float *one = memory->alloc(4 * n), *other = memory->alloc(4 * n);
  // Round the ring, from hand to hand; each hop waits for the one before on the stream alone.
  memory->copy(one, 4 * n, mine, 4 * n, 4 * n, 1, comm->stream);
  for (int hop = 0; hop < size; hop++) {
    const struct cp_op ops[] = {{true, (me + 1) % size, one, 4 * n},
                                {false, (me + size - 1) % size, other, 4 * n}};
    if (net->post(comm, CP_KV, ops, 2) || net->wait(comm, CP_KV))
      return -1;
    float *t = one;
    one = other, other = t;
  }
  fill(want, n * size, me);
  wrong += differs(comm, one, n, want);

  if (net->all_gather(comm, CP_KV_FAR, mine, all, 4 * n) || net->wait(comm, CP_KV_FAR))
    return -1;
  for (int r = 0; r < size; r++)
    fill(want + r * n, n, r);
  wrong += differs(comm, all, n * size, want);

  if (net->reduce_scatter(comm, CP_GRAD, mine, one, n) || net->wait(comm, CP_GRAD))
    return -1;
  for (int64_t i = 0; i < n; i++)
    want[i] = 0;
  for (int r = 0; r < size; r++)
    for (int64_t i = 0; i < n; i++)
      want[i] += number(me * n + i, r);
  wrong += differs(comm, one, n, want);

  for (int r = 0; r < size; r++)
    peers[r] = (r + me) % size; // in an order of its own on each rank
  const struct cp_blocks set = {mine, all, 4 * n};
  int place = 0; // of this rank, whose own block does not move
  while (peers[place] != me)
    place++;
  memory->copy(all + place * n, 4 * n, mine + place * n, 4 * n, 4 * n, 1, comm->stream);
  if (cp_all_to_all(comm, CP_HEADS, peers, size, &set, 1) || net->wait(comm, CP_HEADS))
    return -1;
  for (int r = 0; r < size; r++) // from peers[r] came the block where its own list has this rank
    for (int64_t i = 0; i < n; i++)
      want[r * n + i] = number((me - peers[r] + size) % size * n + i, peers[r]);
  wrong += differs(comm, all, n * size, want);
  memory->release(mine), memory->release(all), memory->release(one), memory->release(other);
  return wrong;
}

static int transport_body(struct cp_comm *comm, void *context) {
  static const int64_t sizes[] = {1, 17, 129, 70001, 1 << 20};
  int ranks[16];
  for (int i = 0; i < 5; i++) {
    float *want = malloc(4 * (size_t)(sizes[i] * comm->size));
    const int wrong = transfers(comm, sizes[i], want);
    free(want);
    if (wrong == 0)
      continue;
    attn_error_set(false, "%d numbers of %lld are wrong", wrong, (long long)sizes[i]);
    return -1;
  }
  if (comm->transport->share(comm, &comm->rank, ranks, sizeof comm->rank))
    return -1;
  for (int r = 0; r < comm->size; r++)
    if (ranks[r] != r)
      return -1;
  return comm->bytes_sent > 0 && comm->bytes_sent == comm->bytes_received ? 0 : -1;
}

// Device memory against host memory, function by function.
static int memory_body(struct cp_comm *comm, void *context) {
  const struct cp_memory *host = &cp_memory_host, *device = comm->memory;
  const struct cp_memory *const both[] = {host, device};
  enum { ROWS = 17, WIDTH = 129 * 4, N = ROWS * WIDTH };
  static float in[2][N], out[2][3 * N];
  fill(in[0], N, 1);
  for (int i = 0; i < N; i++)
    in[1][i] = (float)i * 1.0009765f;
  for (int m = 0; m < 2; m++) {
    void *const stream = m ? comm->stream : NULL;
    float *a = both[m]->alloc(sizeof in[0]), *b = both[m]->alloc(sizeof in[1]);
    float *c = both[m]->alloc(sizeof in[0]), *d = both[m]->alloc(2L * N);
    if (both[m]->upload(a, in[0], sizeof in[0]) || both[m]->upload(b, in[1], sizeof in[1]) ||
        both[m]->add(a, b, N, stream) ||
        both[m]->copy(c, WIDTH * 4, a, WIDTH * 4, WIDTH * 2, ROWS, stream) || // left halves
        both[m]->move((struct cp_move[]){{a, b + WIDTH, WIDTH * 4, WIDTH * 4, 1024, 3},
                                         {a + 7 * WIDTH, b, WIDTH * 8, 16, 16, 5}},
                      2, stream) ||
        both[m]->zero(b, WIDTH * 4, stream) || both[m]->cast(d, ATTN_BF16, a, N, stream) ||
        both[m]->sync(stream) || both[m]->download(out[m], a, sizeof in[0]) ||
        both[m]->download(out[m] + N, c, sizeof in[0]) ||
        both[m]->download(out[m] + 2 * N, d, 2L * N))
      return -1;
    both[m]->release(a), both[m]->release(b), both[m]->release(c), both[m]->release(d);
  }
  if (!count_wrong(out[0], out[1], 2 * N + N / 2)) // two sums, and two bf16 in a float
    return 0;
  attn_error_set(false, "device memory and host memory differ");
  return -1;
}

// Each rank writes to a place of its own in everyone's memory, from within an allocation on.
static int map_body(struct cp_comm *comm, void *context) {
  enum { N = 3000, AT = 1041 };
  const struct cp_transport *net = comm->transport;
  const struct cp_memory *memory = comm->memory;
  int peers[16], wrong = 0;
  void *theirs[16];
  float want[N], *mine = made(comm, N, 7), *note = made(comm, 16, comm->rank);
  for (int r = 0; r < comm->size; r++)
    peers[r] = comm->size - 1 - r;
  if (net->map(comm, mine + AT, peers, comm->size, theirs))
    return -1;
  for (int r = 0; r < comm->size; r++)
    if (memory->copy((float *)theirs[r] + comm->rank, 4, note, 4, 4, 1, comm->stream))
      return -1;
  fill(want, N, 7);
  for (int r = 0; r < comm->size; r++)
    want[AT + r] = number(0, r);
  if (net->barrier(comm))
    return -1;
  wrong = differs(comm, mine, N, want);
  net->unmap(comm, theirs, comm->size);
  if (net->barrier(comm))
    return -1;
  memory->release(mine), memory->release(note);
  return wrong ? -1 : 0;
}

// What the host does while the device spins does not count, neither as time nor as a wait; what it does after
// does. Other programs on this machine may delay a thread: not each time.
static int timing_body(struct cp_comm *comm, void *context) {
  enum { HOST_US = 20000, KERNEL_US = 3000, N = 64 };
  static const double spins_us[] = {5 * HOST_US, 1};
  const struct cp_transport *net = comm->transport;
  float *mine = made(comm, N, comm->rank), *all = comm->memory->alloc(4L * N * comm->size);
  bool seen[2] = {false, false};
  for (int i = 0; i < 20; i++) {
    struct timing {
      double time_us, wait_us;
    } one, ranks[16];
    if (net->barrier(comm))
      return -1;
    one.wait_us = -comm->wait_us;
    if (net->begin_timing(comm, spins_us[i % 2]) || usleep(HOST_US) ||
        cudaLaunchHostFunc(comm->stream, nap, &(int){KERNEL_US}) != cudaSuccess ||
        net->all_gather(comm, CP_KV, mine, all, 4L * N) || net->wait(comm, CP_KV) ||
        net->end_timing(comm, &one.time_us) || net->barrier(comm))
      return -1;
    one.wait_us += comm->wait_us;
    if (net->share(comm, &one, ranks, sizeof one))
      return -1;
    bool right = true;
    for (int r = 0; r < comm->size; r++) {
      if (!(ranks[r].time_us >= KERNEL_US && ranks[r].wait_us <= ranks[r].time_us)) {
        attn_error_set(false, "a kernel of %d us took %g, %g of which waiting", KERNEL_US,
                       ranks[r].time_us, ranks[r].wait_us);
        return -1;
      }
      right = right && (i % 2 ? ranks[r].time_us >= HOST_US : ranks[r].time_us < HOST_US);
    }
    seen[i % 2] = seen[i % 2] || right;
  }
  comm->memory->release(mine), comm->memory->release(all);
  if (seen[0] && seen[1])
    return 0;
  attn_error_set(false, "the host's time was %s", seen[0] ? "never seen" : "never hidden");
  return -1;
}

static const int32_t lengths[] = {1, 2, 47, 1, 29, 3};

static int schedules_body(struct cp_comm *comm, void *context) {
  static const enum mask_kind kinds[] = {MASK_FULL, MASK_CAUSAL, MASK_FULL_DOCUMENT_LONG,
                                         MASK_CAUSAL_DOCUMENT_LONG};
  static const int32_t heads[][2] = {{8, 8}, {8, 2}, {8, 1}};
  static const char *const more[] = {"ring_p2p:1blocks", "ring_p2p:2blocks"}; // buffers take turns
  int ran = 0, wrong = 0, direct = 0, n = 0;
  while (cp_schedules[n])
    n++;
  for (int h = 0; h < 3; h++)
    for (int m = 0; m < 4; m++) {
      struct whole w;
      if (whole_make(&w, kinds[m], lengths, 6, heads[h][0], heads[h][1], ATTN_FP32))
        return -1;
      struct attn_problem p = whole_problem(&w);
      for (int i = 0; i < 2 * (n + 2); i++) {
        const char *const name = i / 2 < n ? cp_schedules[i / 2]->name : more[i / 2 - n];
        struct run run = {.whole = &w, .kernel = &enqueued, .forward_only = i % 2};
        run.schedule = cp_schedule_find(name, &run.wish);
        struct cp_grid grid;
        p.backward = !run.forward_only;
        if (cp_why_not(run.schedule, &enqueued, &p, comm->size, &run.wish, &grid))
          continue;
        outputs_make(&run.out, &w);
        if (run_body(comm, &run) || comm->transport->barrier(comm))
          return -1;
        const char *tensor = "";
        const double error = merged_error(&run, comm->rank, &tensor);
        if (!(error <= 1e-5)) {
          printf("%s, %s, heads %d:%d, %d ranks: %s is off by %g\n", name, mask_name(kinds[m]),
                 w.heads_q, w.heads_kv, comm->size, tensor, error);
          wrong++;
        }
        ran++;
        direct += run.direct;
        outputs_free(&run.out);
      }
      whole_free(&w);
    }
  if (!comm->rank)
    printf("%d cases on %d ranks, %d direct\n", ran, comm->size, direct);
  const bool refused = getenv("FAKE_NO_IPC") != NULL; // by one of the ranks
  return wrong || ran < 120 || (refused ? direct : direct < 12) ? -1 : 0;
}

static const struct {
  const char *name;
  int (*body)(struct cp_comm *, void *);
} bodies[] = {{"transport", transport_body},
              {"map", map_body},
              {"timing", timing_body},
              {"memory", memory_body},
              {"schedules", schedules_body}};

// Runs of a process share their connections: no more of them than channels, whose names are numbered.
static int runs_in_a_row(int ranks) {
  ncclUniqueId next;
  for (int i = 0; i < 3; i++)
    if (cp_nccl.run(ranks, 20 + i, transport_body, NULL))
      return 1;
  int rank, made = -1;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  ncclGetUniqueId(&next);
  sscanf(strrchr(next.internal, '-'), "-%d", &made);
  if (made == (rank ? 0 : CP_CHANNELS))
    return 0;
  printf("rank %d made %d connections\n", rank, made);
  return 1;
}

static int be_rank(const char *what, int ranks) {
  if (!strcmp(what, "runs"))
    return runs_in_a_row(ranks);
  for (size_t i = 0; i < sizeof bodies / sizeof *bodies; i++)
    if (!strcmp(bodies[i].name, what))
      return cp_nccl.run(ranks, 20, bodies[i].body, NULL) ? 1 : 0;
  return 2;
}

// ---- the test ---------------------------------------------------------------------------------

static const char *self;

static void works_with(const char *settings, const char *what, int ranks) {
  char text[8192];
  need_mpirun();
  const int code = run_as_job(self, settings, what, ranks, text, sizeof text);
  print_message("%s", text);
  assert_int_equal(0, code);
}

static void works(const char *what, int ranks) { works_with("mpirun", what, ranks); }

static void test_transport(void **state) { works("transport", 2), works("transport", 4); }
static void test_runs_in_a_row(void **state) { works("runs", 2); }
static void test_memory(void **state) { works("memory", 1); }
static void test_schedules_2(void **state) { works("schedules", 2); }
static void test_schedules_4(void **state) { works("schedules", 4); }
static void test_map(void **state) { works("map", 4); }
static void test_timing(void **state) { works("timing", 2); }
static void test_a_rank_that_maps_nothing(void **state) {
  works_with("FAKE_NO_IPC=1 mpirun", "schedules", 2);
}

#else

static const char *self;
static int be_rank(const char *what, int ranks) { return 2; }
static void not_built(void **state) {
  print_message("this build has no NCCL transport\n");
  skip();
}
#define test_transport not_built
#define test_runs_in_a_row not_built
#define test_memory not_built
#define test_schedules_2 not_built
#define test_schedules_4 not_built
#define test_map not_built
#define test_timing not_built
#define test_a_rank_that_maps_nothing not_built

#endif

int main(int argc, char **argv) {
  if (argc == 4 && !strcmp(argv[1], "rank"))
    return be_rank(argv[2], atoi(argv[3]));
  self = argv[0];
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_transport),   cmocka_unit_test(test_runs_in_a_row),
      cmocka_unit_test(test_memory),      cmocka_unit_test(test_schedules_2),
      cmocka_unit_test(test_schedules_4), cmocka_unit_test(test_map),
      cmocka_unit_test(test_timing),      cmocka_unit_test(test_a_rank_that_maps_nothing),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
