// fault_test.c -- what goes wrong: ranks that stop, hang or disagree must end with a sentence that names
// them; and mistakes like those of published code must not pass the comparison of cp_test.c.
// clang-format off
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
// clang-format on
#include <unistd.h>

#include "../src/timer.h"
#include "cp_test_kernel.h"

// ---- faults ---------------------------------------------------------------------------------

static int sleeps(struct cp_comm *comm, void *context) {
  if (comm->rank == 2)
    usleep(600000);
  return comm->transport->barrier(comm);
}

static int stops(struct cp_comm *comm, void *context) {
  if (comm->rank != 1)
    return comm->transport->barrier(comm);
  attn_error_set(false, "no more ink");
  return -1;
}

static int ungrouped(struct cp_comm *comm, void *context) { // send, then receive: a cycle
  char byte = 0, in;
  return ungrouped_ring(comm, &byte, &in, 1);
}

static int absent(struct cp_comm *comm,
                  void *context) { // ring of receives in which rank 3 does not send
  char byte = 0, in;
  const struct cp_op ops[] = {{true, (comm->rank + 1) % comm->size, &byte, 1},
                              {false, (comm->rank + comm->size - 1) % comm->size, &in, 1}};
  if (comm->rank == 3)
    usleep(700000);
  return comm->transport->post(comm, CP_KV, ops, 2) || comm->transport->wait(comm, CP_KV) ? -1 : 0;
}

static int misfits(struct cp_comm *comm, void *context) {
  char bytes[8] = {0}, in[8];
  const struct cp_op ops[] = {{true, 1 - comm->rank, bytes, comm->rank ? 4 : 8},
                              {false, 1 - comm->rank, in, 8}};
  return comm->transport->post(comm, CP_KV, ops, 2) || comm->transport->wait(comm, CP_KV) ? -1 : 0;
}

static void assert_error(int ranks, int (*body)(struct cp_comm *, void *), const char *text) {
  const double begin_us = timer_now_us();
  assert_int_equal(-1, cp_loopback.run(ranks, 0.25, body, NULL));
  if (!strstr(attn_error(), text)) {
    print_message("expected '%s' in: %s\n", text, attn_error());
    fail();
  }
  assert_true(timer_now_us() - begin_us < 5e6);
}

static void test_faults_end_and_name_the_rank(void **state) {
  assert_error(4, sleeps, "rank 2 is stuck");
  assert_error(4, stops, "rank 1: no more ink");
  assert_error(3, ungrouped, "ranks wait for one another");
  assert_error(5, absent, "rank 3 is stuck");
  assert_error(2, misfits, "which sends 4");
}

// ---- mutations: what must not go unnoticed --------------------------------------------------

static int scratch_post(struct cp_comm *comm, enum cp_channel channel, const struct cp_op *ops,
                        int n) {
  static _Thread_local char scratch[1 << 20];
  static _Thread_local int hops, heads;
  static _Thread_local struct cp_op first_out[CP_GROUP_MAX];
  struct cp_op changed[CP_GROUP_MAX];
  memcpy(changed, ops, (size_t)n * sizeof *ops);
  hops += channel == CP_KV;
  for (int i = 0; i < n; i++) {
    const bool stale = mutation == STALE_KV && channel == CP_KV;
    const bool lost = mutation == WRONG_RETURN && channel == CP_KV && hops == 2 * comm->size;
    const bool old = mutation == STALE_GROUP && channel == CP_KV && hops == 2; // the second
    if (!ops[i].send && (stale || lost || old)) // arrives, but not where it is read
      changed[i].data = scratch;
  }
  // The first keys of a group of blocks in the place of the second.
  if (mutation == BLOCKS_SWAPPED && channel == CP_KV && n > 4) {
    changed[1].data = ops[5].data;
    changed[5].data = ops[1].data;
  }
  // Of two pieces: in 0, in 1, out 0, out 1.
  heads += channel == CP_HEADS;
  for (int i = 0; i < n && channel == CP_HEADS; i++) {
    if (mutation == STALE_PIECE && heads == 2 && !ops[i].send)
      changed[i].data = scratch;
    if (heads == 3)
      first_out[i] = ops[i];
    if (mutation == WRONG_PIECE && heads == 4 && ops[i].send)
      changed[i].data = first_out[i].data;
  }
  if (mutation == HOP_SKIPPED && channel == CP_KV) // the neighbour after the next
    for (int i = 0; i < n; i++)
      changed[i].peer = (ops[i].peer + (ops[i].send ? 1 : comm->size - 1)) % comm->size;
  return cp_loopback.post(comm, channel, changed, n);
}

static int add_nothing(float *sum, const float *x, int64_t n, void *stream) { return 0; }

// The second piece is packed where the first one is still being sent from.
static int move_over(const struct cp_move *moves, int n, void *stream) {
  static _Thread_local struct cp_move first[CP_MOVES_MAX];
  static _Thread_local int calls;
  struct cp_move changed[CP_MOVES_MAX];
  for (int i = 0; i < n; i++) {
    changed[i] = moves[i];
    if (calls == 0)
      first[i] = moves[i];
    if (calls == 1)
      changed[i].to = first[i].to;
  }
  calls++;
  return cp_memory_host.move(changed, n, stream);
}

static void mutate(struct cp_comm *comm, struct run *run) {
  static _Thread_local struct cp_transport transport;
  static _Thread_local struct cp_memory memory;
  transport = *comm->transport;
  transport.post = scratch_post;
  comm->transport = &transport;
  memory = *comm->memory;
  comm->memory = &memory;
  if (mutation == COPIES_NOT_SUMMED)
    memory.add = add_nothing;
  if (mutation == PACKED_OVER)
    memory.move = move_over;
}

static void test_mutations_are_caught(void **state) {
  static const struct {
    int mutation;
    const char *schedule;
    int ranks, heads_kv;
  } list[] = {{STALE_KV, "ring_p2p", 4, 2},
              {STALE_KV, "ring_p2p:1blocks", 4, 2},
              {WRONG_RETURN, "ring_p2p:1blocks", 4, 2},
              {HOP_SKIPPED, "ring_p2p:1blocks", 3, 2},
              {HOP_SKIPPED, "ring_p2p:2blocks", 8, 2},
              {BLOCKS_SWAPPED, "ring_p2p", 4, 2},
              {BLOCKS_SWAPPED, "loongtrain:1x8x2", 8, 2},
              {STALE_GROUP, "ring_p2p", 8, 2},
              {PAD_IS_REAL, "ring_p2p", 4, 2},
              {PAD_IS_REAL, "loongtrain:1x4x2", 4, 2},
              {PAD_IS_REAL, "ring_allgather", 4, 2},
              {COPIES_NOT_SUMMED, "ulysses", 4, 2},
              {STALE_KV, "loongtrain:2x4x2", 8, 2},
              {STALE_PIECE, "ulysses", 4, 8},
              {STALE_PIECE, "usp:4x2", 8, 8},
              {WRONG_PIECE, "ulysses", 4, 8},
              {WRONG_PIECE, "loongtrain:4x2", 8, 8},
              {PACKED_OVER, "ulysses", 4, 8},
              {PACKED_OVER, "usp:4x2", 8, 8}};
  for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
    struct whole w;
    assert_int_equal(0, whole_make(&w, MASK_CAUSAL_DOCUMENT_LONG, lengths_main, 6, 8,
                                   list[i].heads_kv, ATTN_FP32));
    struct run run = {
        .whole = &w, .kernel = &plain, .before = mutate, .mutation = list[i].mutation};
    run.schedule = cp_schedule_find(list[i].schedule, &run.wish);
    const char *tensor = "";
    mutation = NO_MUTATION;
    const double sound = run_case(&run, list[i].ranks, &tensor);
    mutation = list[i].mutation;
    const double error = run_case(&run, list[i].ranks, &tensor);
    mutation = NO_MUTATION;
    if (!(sound <= LIMIT) || error <= LIMIT) {
      print_message("mutation %d of %s: error %g, without it %g\n", list[i].mutation,
                    list[i].schedule, error, sound);
      fail();
    }
    whole_free(&w);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_faults_end_and_name_the_rank),
      cmocka_unit_test(test_mutations_are_caught),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
