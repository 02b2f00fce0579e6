// bench_cpu.c -- see bench_cpu.h. The peak is measured, not looked up: independent fused multiply-adds on
// every thread, in the widest vectors that the engine itself uses, against each thread's own CPU time, so
// that other work on the machine does not lower it. It is taken again before every round of kernels and
// the best counts. Kernels are timed by the wall clock; cpu_pct says what share of that time the threads
// really had a processor, and where others use the machine, `best` of all rounds says more than the median.
#include "bench_cpu.h"

#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "../kernels/cpu/cpu.h"
#include "check.h"
#include "flops.h"
#include "mask_draw.h"
#include "stats.h"
#include "tensor.h"
#include "timer.h"

enum { HEADS_Q = 8, HEADS_KV = 1, DIM = 128, SEED = 42 };

// Documents twice: as drawn, mostly shorter than a few tiles, and a few equal ones, where tiles fit.
enum { EQUAL_DOCS = 4 };
static const struct bench_mask {
  enum mask_kind kind;
  bool equal;
} cases[] = {{MASK_FULL, false},          {MASK_CAUSAL, false},
             {MASK_FULL_DOCUMENT, false}, {MASK_CAUSAL_DOCUMENT, false},
             {MASK_FULL_DOCUMENT, true},  {MASK_CAUSAL_DOCUMENT, true}};
enum { CASES = sizeof cases / sizeof *cases };

// One mask's plan and what was measured: [pass][round].
struct load {
  struct mask mask;
  struct attn_problem p;
  struct attn_plan plan;
  int32_t docs;
  double flop[2], gflop_s[2][BENCH_ROUNDS_MAX];
  double us[2], cpu_us[2]; // of all rounds: elapsed, and on a processor, all threads
};

struct session {
  struct bench_cpu_request r;
  const struct attn_kernel *kernel;
  struct attn_args a; // tensors, shared by the masks
  double peak_gflop_s;
  struct load load[CASES];
};

static double cpu_us(clockid_t clock) {
  struct timespec t;
  clock_gettime(clock, &t);
  return (double)t.tv_sec * 1e6 + (double)t.tv_nsec * 1e-3;
}

static double peak_gflop_s(void) {
  double sum = 0;
#pragma omp parallel reduction(+ : sum)
  {
    const double begin_us = cpu_us(CLOCK_THREAD_CPUTIME_ID);
    const double flop = cpu_isa()->peak(1 << 20);
    sum += flop / (cpu_us(CLOCK_THREAD_CPUTIME_ID) - begin_us) * 1e-3;
  }
  return sum;
}

static int run_pass(struct session *s, struct load *l, enum attn_pass pass) {
  return (pass == ATTN_FWD ? s->kernel->forward : s->kernel->backward)(&l->plan, &s->a);
}

// One timed call.
static int time_pass(struct session *s, struct load *l, enum attn_pass pass, int round) {
  const double begin_us = timer_now_us(), begin_cpu_us = cpu_us(CLOCK_PROCESS_CPUTIME_ID);
  if (run_pass(s, l, pass))
    return -1;
  const double us = timer_now_us() - begin_us;
  l->gflop_s[pass][round] = l->flop[pass] / us * 1e-3;
  l->us[pass] += us;
  l->cpu_us[pass] += cpu_us(CLOCK_PROCESS_CPUTIME_ID) - begin_cpu_us;
  return 0;
}

// Prepares a mask and checks both passes against the reference; nothing is timed before.
static int prepare(struct session *s, struct load *l, const struct bench_mask *c) {
  const struct mask_recipe recipe = {.kind = c->kind, .seqlen = s->r.seqlen};
  const int32_t docs = s->r.seqlen < EQUAL_DOCS ? s->r.seqlen : EQUAL_DOCS;
  int32_t lengths[EQUAL_DOCS];
  for (int32_t i = 0; i < docs; i++)
    lengths[i] = s->r.seqlen * (int64_t)(i + 1) / docs - s->r.seqlen * (int64_t)i / docs;
  struct verify_report report = {0};
  char err[160];
  if (c->equal ? mask_init(&l->mask, c->kind, s->r.seqlen, lengths, docs, 0, 0, 0, err, sizeof err)
               : mask_draw_nth(&l->mask, SEED, 0, &recipe, err, sizeof err)) {
    fprintf(stderr, "longca bench: %s.\n", err);
    return 1;
  }
  l->docs = l->mask.docs;
  l->p = (struct attn_problem){.mask = &l->mask,
                               .dtype = ATTN_BF16,
                               .heads_q = HEADS_Q,
                               .heads_kv = HEADS_KV,
                               .dim = DIM,
                               .rows_q = s->r.seqlen,
                               .rows_k = s->r.seqlen,
                               .backward = true};
  if (attn_prepare(&l->plan, s->kernel, &l->p)) {
    fprintf(stderr, "longca bench: %s.\n", attn_error());
    return 1;
  }
  for (enum attn_pass pass = ATTN_FWD; pass <= ATTN_BWD; pass++) {
    l->flop[pass] = flops_attention(mask_area(&l->mask), HEADS_Q, DIM, pass);
    if (run_pass(s, l, pass) || !check_outputs(&l->p, &s->a, pass, SEED, &report)) {
      fprintf(stderr, "longca bench: %s %s is wrong: error %.3g, %lld of %lld rows.\n",
              mask_name(c->kind), pass == ATTN_FWD ? "forward" : "backward", report.err_max,
              (long long)report.wrong, (long long)report.rows);
      return 1;
    }
  }
  return 0;
}

static double median(const struct session *s, int mask, int pass) {
  return stats_median(s->load[mask].gflop_s[pass], (size_t)s->r.rounds);
}

static double best(const struct session *s, int mask, int pass) {
  return stats_quantile(s->load[mask].gflop_s[pass], (size_t)s->r.rounds, 1);
}

// Measures the first `masks` masks with `threads` threads, peak and kernels in turn.
static int measure(struct session *s, int threads, int masks) {
  int status = 0;
  omp_set_num_threads(threads);
  memset(s->load, 0, sizeof s->load);
  s->peak_gflop_s = 0;
  for (int i = 0; i < masks && !status; i++)
    status = prepare(s, &s->load[i], &cases[i]);
  for (int round = 0; round < s->r.rounds && !status; round++) {
    s->peak_gflop_s = fmax(s->peak_gflop_s, peak_gflop_s());
    for (int i = 0; i < masks && !status; i++)
      // Forward leaves what backward reads.
      for (enum attn_pass pass = ATTN_FWD; pass <= ATTN_BWD; pass++)
        status |= time_pass(s, &s->load[i], pass, round) != 0;
  }
  for (int i = 0; i < masks; i++) {
    attn_release(&s->load[i].plan);
    mask_free(&s->load[i].mask);
    for (int pass = 0; pass < 2 && !status; pass++)
      if (best(s, i, pass) > 1.03 * s->peak_gflop_s) {
        fprintf(stderr,
                "longca bench: a kernel ran above the measured peak of %.0f GFLOP/s, so the peak "
                "is wrong; run it again.\n",
                s->peak_gflop_s);
        status = 1;
      }
  }
  return status;
}

static void add_masks(const struct session *s, struct table *t) {
  static const char *const passes[] = {"fwd", "bwd"};
  static const char *const header[] = {
      "mask",        "documents", "pass",          "gflop_s",          "low",    "high", "peak_pct",
      "of_full_pct", "best",      "best_peak_pct", "best_of_full_pct", "cpu_pct"};
  for (size_t i = 0; i < sizeof header / sizeof *header; i++)
    table_add(t, "%s", header[i]);
  for (int pass = 0; pass < 2; pass++)
    for (int i = 0; i < CASES; i++) {
      const double mid = median(s, i, pass), top = best(s, i, pass);
      double low = NAN, high = NAN;
      stats_median_interval(s->load[i].gflop_s[pass], (size_t)s->r.rounds, &low, &high);
      table_add(t, "%s", mask_name(cases[i].kind));
      if (mask_has_docs(cases[i].kind))
        table_add(t, "%d %s", s->load[i].docs, cases[i].equal ? "equal" : "drawn");
      else
        table_add(t, "%s", "none");
      table_add(t, "%s", passes[pass]);
      table_add(t, "%.1f", mid);
      table_add(t, "%.1f", low);
      table_add(t, "%.1f", high);
      table_add(t, "%.1f", 100 * mid / s->peak_gflop_s);
      table_add(t, "%.1f", 100 * mid / median(s, 0, pass));
      table_add(t, "%.1f", top);
      table_add(t, "%.1f", 100 * top / s->peak_gflop_s);
      table_add(t, "%.1f", 100 * top / best(s, 0, pass));
      table_add(t, "%.0f", 100 * s->load[i].cpu_us[pass] / (s->load[i].us[pass] * s->r.threads));
    }
}

// One line of the scaling table, from what was just measured.
static void add_scaling(const struct session *s, struct table *t, int threads, double single[2]) {
  if (threads == 1)
    for (int pass = 0; pass < 2; pass++)
      single[pass] = best(s, 0, pass);
  table_add(t, "%d", threads);
  table_add(t, "%.1f", s->peak_gflop_s);
  for (int pass = 0; pass < 2; pass++) {
    table_add(t, "%.1f", median(s, 0, pass));
    table_add(t, "%.1f", best(s, 0, pass));
    table_add(t, "%.1f", 100 * best(s, 0, pass) / s->peak_gflop_s);
    table_add(t, "%.2f", best(s, 0, pass) / single[pass]);
  }
}

static void report(const struct session *s, struct table *masks, struct table *scaling) {
  const bool text = s->r.format == TABLE_TEXT;
  if (text)
    printf("CPU engine (%s), seqlen %d, heads %d:%d, dim %d, bf16, %d threads, %d rounds\n"
           "fp32 FMA peak %.1f GFLOP/s; rates are medians with their 95 %% interval\n\n",
           cpu_isa()->name, s->r.seqlen, HEADS_Q, HEADS_KV, DIM, s->r.threads, s->r.rounds,
           s->peak_gflop_s);
  table_print(masks, s->r.format, stdout);
  printf(text ? "\nfull mask, 1 to %d threads\n\n" : "\n", s->r.threads);
  table_print(scaling, s->r.format, stdout);
}

// Tensors of both passes, shared by all masks. held [9] is for free(). -1: out of memory.
static int make_tensors(struct session *s, void *held[9]) {
  const int64_t n_q = (int64_t)s->r.seqlen * HEADS_Q * DIM,
                n_k = (int64_t)s->r.seqlen * HEADS_KV * DIM;
  const int64_t n[8] = {n_q, n_k, n_k, n_q, n_q, n_q, n_k, n_k}; // q, k, v, dO; O, dQ, dK, dV
  bool ok = true;
  for (int i = 0; i < 8; i++) {
    held[i] = tensor_alloc(ATTN_BF16, n[i]);
    ok = ok && held[i];
    if (ok && i < 4)
      tensor_fill_normal(held[i], ATTN_BF16, n[i], SEED, (uint64_t)i);
  }
  held[8] = tensor_alloc(ATTN_FP32, (int64_t)s->r.seqlen * HEADS_Q);
  s->a = (struct attn_args){.q = held[0],
                            .k = held[1],
                            .v = held[2],
                            .d_o = held[3],
                            .o = held[4],
                            .dq = held[5],
                            .dk = held[6],
                            .dv = held[7],
                            .lse = held[8]};
  return ok && held[8] ? 0 : -1;
}

// Peak and rates with 1, 2, 4, ... threads; all masks with the most.
static int measure_and_report(struct session *s) {
  static const char *const header[] = {
      "threads",          "peak_gflop_s", "fwd_gflop_s", "fwd_best",          "fwd_best_peak_pct",
      "fwd_best_speedup", "bwd_gflop_s",  "bwd_best",    "bwd_best_peak_pct", "bwd_best_speedup"};
  struct table masks = table_new(12), scaling = table_new(10);
  for (size_t i = 0; i < sizeof header / sizeof *header; i++)
    table_add(&scaling, "%s", header[i]);
  double single[2] = {NAN, NAN};
  int status = 0;
  for (int n = 1, last = 0; !status && !last; n = 2 * n < s->r.threads ? 2 * n : s->r.threads) {
    last = n == s->r.threads;
    status = measure(s, n, last ? CASES : 1);
    if (!status)
      add_scaling(s, &scaling, n, single);
  }
  if (!status) {
    add_masks(s, &masks);
    report(s, &masks, &scaling);
  }
  table_free(&masks);
  table_free(&scaling);
  return status;
}

int bench_cpu(const struct bench_cpu_request *request) {
  void *held[9] = {NULL};
  struct session *s = calloc(1, sizeof *s);
  int status = 1;
  if (s) {
    s->r = *request;
    s->kernel = attn_find("fa2", ATTN_HOST);
  }
  if (!s || make_tensors(s, held))
    fputs("longca bench: out of memory; try a smaller --seqlen.\n", stderr);
  else
    status = measure_and_report(s);
  for (int i = 0; i < 9; i++)
    free(held[i]);
  free(s);
  return status;
}
