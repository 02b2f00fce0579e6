// calibrate.c -- measures what the model of context parallelism asks of a machine: rates of kernels, and
// latency and bandwidth of the links between ranks.
#include "calibrate.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "cmd.h"
#include "flops.h"
#include "measure_cp.h"
#include "place.h"
#include "stats.h"
#include "tensor.h"
#include "timer.h"

struct calibration {
  const struct calibrate_request *r;
  const struct cp_transport *transport;
  const struct attn_kernel *kernel;
  struct cp_machine machine;
};

static double median_of(double *x, int n) { return stats_median(x, (size_t)n); }

// Random bf16 numbers in the rank's memory.
static int fill(struct cp_comm *comm, void *to, int64_t n, uint64_t stream) {
  void *host = tensor_alloc(ATTN_BF16, n);
  if (!host) {
    attn_error_set(true, "out of host memory for the inputs of the calibration");
    return -1;
  }
  tensor_fill_normal(host, ATTN_BF16, n, 42, stream);
  const int status = comm->memory->upload(to, host, 2 * n);
  free(host);
  return status;
}

static struct attn_problem full_problem(const struct calibrate_request *r,
                                        const struct mask *mask) {
  return (struct attn_problem){.mask = mask,
                               .heads_q = r->heads_q,
                               .heads_kv = r->heads_kv,
                               .dim = r->dim,
                               .rows_q = mask->seqlen,
                               .rows_k = mask->seqlen,
                               .backward = true};
}

// Kernel time on the FULL mask of n tokens in this rank's memory.
static int time_kernel(struct calibration *c, struct cp_comm *comm, int32_t n, enum attn_pass pass,
                       double *us) {
  struct mask mask;
  if (mask_init(&mask, MASK_FULL, n, NULL, 0, 0, 0, 0, NULL, 0))
    return -1;
  struct attn_problem p = full_problem(c->r, &mask);
  p.backward = pass == ATTN_BWD;
  const int64_t q = (int64_t)n * p.heads_q * p.dim * 2, k = (int64_t)n * p.heads_kv * p.dim * 2;
  const int64_t sizes[] = {q, k, k, q, q, q, k, k, 4LL * n * p.heads_q};
  void *t[9] = {NULL};
  struct attn_plan plan = {0};
  int status = attn_prepare(&plan, c->kernel, &p);
  for (int i = 0; !status && i < 9; i++)
    status = (t[i] = comm->memory->alloc(sizes[i])) ? 0 : -1;
  for (int i = 0; !status && i < 5; i++) // a GPU draws less power on zeros, and is faster
    status = i == 3 ? 0 : fill(comm, t[i], sizes[i] / 2, (uint64_t)i);
  const struct attn_args a = {.q = t[0],
                              .k = t[1],
                              .v = t[2],
                              .o = t[3],
                              .d_o = t[4],
                              .dq = t[5],
                              .dk = t[6],
                              .dv = t[7],
                              .lse = t[8],
                              .stream = comm->stream};
  double samples[7];
  if (!status)
    status = c->kernel->forward(&plan, &a);
  for (int i = -1; !status && i < 7; i++) {
    status = comm->memory->sync(comm->stream);
    const double begin_us = timer_now_us();
    status = status ||
             (pass == ATTN_BWD ? c->kernel->backward(&plan, &a) : c->kernel->forward(&plan, &a)) ||
             comm->memory->sync(comm->stream);
    if (i >= 0)
      samples[i] = timer_now_us() - begin_us;
  }
  *us = status ? NAN : median_of(samples, 7);
  for (int i = 0; i < 9; i++)
    if (t[i])
      comm->memory->release(t[i]);
  attn_release(&plan);
  mask_free(&mask);
  return status ? -1 : 0;
}

// One message each way between neighbours, all at once: the ring's hop.
static int time_hop(struct cp_comm *comm, int64_t bytes, double *us) {
  void *out = comm->memory->alloc(bytes), *in = comm->memory->alloc(bytes);
  const int next = (comm->rank + 1) % comm->size,
            before = (comm->rank - 1 + comm->size) % comm->size;
  const struct cp_op ops[] = {{true, next, out, bytes}, {false, before, in, bytes}};
  double samples[9];
  int status = out && in ? 0 : -1;
  for (int i = -2; !status && i < 9; i++) {
    status = comm->transport->barrier(comm);
    const double begin_us = timer_now_us();
    status = status || comm->transport->post(comm, CP_KV, ops, 2) ||
             comm->transport->wait(comm, CP_KV) || comm->memory->sync(comm->stream);
    if (i >= 0)
      samples[i] = timer_now_us() - begin_us;
  }
  *us = status ? NAN : median_of(samples, 9);
  if (out)
    comm->memory->release(out);
  if (in)
    comm->memory->release(in);
  return status ? -1 : 0;
}

static int time_copy(struct cp_comm *comm, int64_t bytes, double *us) {
  char *x = comm->memory->alloc(2 * bytes);
  double samples[7];
  int status = x ? 0 : -1;
  for (int i = -1; !status && i < 7; i++) {
    const double begin_us = timer_now_us();
    status = comm->memory->copy(x, 4096, x + bytes, 4096, 2048, bytes / 4096, comm->stream) ||
             comm->memory->sync(comm->stream);
    if (i >= 0)
      samples[i] = timer_now_us() - begin_us;
  }
  *us = status ? NAN : median_of(samples, 7);
  if (x)
    comm->memory->release(x);
  return status ? -1 : 0;
}

// A rank alone on its hardware measures kernels; all of them measure links.
static int calibrate_rank(struct cp_comm *comm, void *context) {
  struct calibration *c = context;
  struct cp_machine m = c->machine;
  const bool device = comm->memory->place == ATTN_DEVICE;
  const int32_t small = device ? 1024 : 128, large = device ? 16384 : 1024;
  double us[2], flop[2];
  for (int pass = 0; pass < 2; pass++) {
    for (int i = 0; i < 2; i++) {
      const int32_t n = i ? large : small;
      if (time_kernel(c, comm, n, (enum attn_pass)pass, &us[i]))
        return -1;
      // As cp_model counts: tiles, and what a query tile costs by itself.
      const double tiles = ceil(n / m.tile_k) + m.tile_cost;
      flop[i] =
          flops_attention(tiles * m.tile_k * n, c->r->heads_q, c->r->dim, (enum attn_pass)pass);
    }
    const double rate = (flop[1] - flop[0]) / (us[1] - us[0]), rest = us[0] - flop[0] / rate;
    *(pass ? &m.bwd_flop_us : &m.fwd_flop_us) = rate;
    if (pass == 0)
      m.step_us = rest > 0 ? rest : 0;
  }
  const int64_t bytes[2] = {4096, device ? 256 << 20 : 16 << 20};
  double copy_us;
  if (time_hop(comm, bytes[0], &us[0]) || time_hop(comm, bytes[1], &us[1]) ||
      time_copy(comm, bytes[1], &copy_us))
    return -1;
  m.near_us = m.far_us = us[0];
  m.near_bytes_us = m.far_bytes_us = (double)(bytes[1] - bytes[0]) / (us[1] - us[0]);
  m.copy_bytes_us = (double)bytes[1] / copy_us;
  m.node = comm->size;
  if (comm->rank == 0)
    c->machine = m;
  return 0;
}

// Why not, as a sentence; NULL.
static const char *why_not(const struct calibration *c) {
  struct mask mask;
  if (mask_init(&mask, MASK_FULL, 128, NULL, 0, 0, 0, 0, NULL, 0))
    return "out of memory";
  const struct attn_problem p = full_problem(c->r, &mask);
  const char *why = attn_why_not(c->kernel, &p);
  mask_free(&mask);
  return why;
}

int calibrate(const struct calibrate_request *r) {
  enum { RANKS_MAX = 1024 };
  struct calibration c = {.r = r, .transport = cp_transport_find(r->transport)};
  const int in_job = measure_cp_job_size(), ranks = r->ranks ? r->ranks : in_job ? in_job : 2;
  if (!c.transport)
    return cmd_refuse("model", "unknown transport '%s'; this build has %s", r->transport,
                      cp_transport_names());
  c.kernel = attn_find(r->kernel, c.transport->place);
  if (!c.kernel)
    return cmd_refuse("model", "there is no kernel '%s' for that transport's memory", r->kernel);
  const char *why = why_not(&c);
  if (why)
    return cmd_refuse("model", "%s: %s", r->kernel, why);
  if (c.transport->job && (in_job ? ranks != in_job : !r->ranks))
    return cmd_refuse("model",
                      "%s wants a process a rank: mpirun -n %d longca model --calibrate %s",
                      r->transport, ranks, r->transport);
  if (ranks > RANKS_MAX)
    return cmd_refuse("model", "%d ranks are more than %d", ranks, (int)RANKS_MAX);
  c.machine = (struct cp_machine){.tile_q = 128, .tile_k = 128, .tile_cost = 2, .node = 8};
  if (c.transport->place == ATTN_DEVICE) {
    if (c.transport->job)
      measure_cp_local_gpu();
    if (place_of(ATTN_DEVICE)->open()) {
      fprintf(stderr, "longca model: %s.\n", place_of(ATTN_DEVICE)->error());
      return 1;
    }
  }
  if (c.transport->run(ranks, 60, calibrate_rank, &c)) {
    fprintf(stderr, "longca model: %s.\n", attn_error());
    return 1;
  }
  if (c.machine.fwd_flop_us > 0) { // rank 0's
    char title[160], utc[32];
    snprintf(title, sizeof title,
             "measured %s: kernel %s, transport %s, %d ranks, %d:%d heads, d %d; far links: as "
             "near ones",
             timer_utc(utc, sizeof utc), r->kernel, r->transport, ranks, r->heads_q, r->heads_kv,
             r->dim);
    cp_machine_print(&c.machine, title);
  }
  return 0;
}
