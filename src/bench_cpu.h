// bench_cpu.h -- how near the CPU engine comes to this machine's own fp32 peak, and how it scales with threads.
// A rate counts visible pairs only (flops.h), so a kernel that computes hidden pairs pays for them here.
#ifndef LONGCA_BENCH_CPU_H
#define LONGCA_BENCH_CPU_H

#include <stdint.h>

#include "table.h"

enum { BENCH_ROUNDS_MAX = 99 };

struct bench_cpu_request {
  int32_t seqlen;      // tokens
  int threads, rounds; // most threads; timed calls of each pass, at most BENCH_ROUNDS_MAX
  enum table_format format;
};

// Measures and prints two tables: masks with all threads, and FULL over 1, 2, 4, ... threads. Exit status.
int bench_cpu(const struct bench_cpu_request *request);

#endif
