// cmd_bench.c -- `longca bench`: what this machine's processor, or its GPU, gives at this moment.
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>

#include "../kernels/cpu/cpu.h"
#include "bench_cpu.h"
#include "bench_gemm.h"
#include "cmd.h"

static void usage(FILE *out) {
  fputs(
      "usage: longca bench [OPTION...]\n\n"
      "Measures this machine's fp32 peak and how near the CPU engine comes to it: heads 8:1,\n"
      "dimension 128, bf16; FULL, CAUSAL and documents; 1 to all threads. About half a minute.\n\n"
      "  --seqlen N    tokens (4096)\n"
      "  --threads N   most threads (all that OpenMP would use)\n"
      "  --rounds N    timed calls of each (9)\n"
      "  --isa NAME    compiled copy of the engine: avx512, avx2, base (the widest that runs)\n"
      "  --gemm N      instead: the GPU's rate on a bf16 product of N x N matrices, --rounds "
      "times\n"
      "  --csv         two CSV tables, a blank line between them\n",
      out);
}

static int parse_count(const char *option, int low, int high, int *value) {
  char *end;
  const long x = strtol(optarg, &end, 10);
  if (end == optarg || *end || x < low || x > high)
    return cmd_refuse("bench", "%s needs a whole number from %d to %d, not '%s'", option, low, high,
                      optarg);
  *value = (int)x;
  return 0;
}

int cmd_bench(int argc, char **argv) {
  static const struct option options[] = {
      {"seqlen", 1, 0, 's'}, {"threads", 1, 0, 't'}, {"rounds", 1, 0, 'r'}, {"isa", 1, 0, 'i'},
      {"gemm", 1, 0, 'g'},   {"csv", 0, 0, 'c'},     {"help", 0, 0, 'h'},   {0}};
  struct bench_cpu_request r = {.seqlen = 4096, .threads = omp_get_max_threads(), .rounds = 9};
  int gemm = 0; // size of the product on the GPU; 0: the CPU engine
  int status = 0;
  optind = 0;
  for (int c; !status && (c = cmd_option(argc, argv, options)) != -1;)
    switch (c) {
    case 's':
      status = parse_count("--seqlen", 1, 1 << 20, &r.seqlen);
      break;
    case 't':
      status = parse_count("--threads", 1, 1024, &r.threads);
      break;
    case 'r':
      status = parse_count("--rounds", 1, BENCH_ROUNDS_MAX, &r.rounds);
      break;
    case 'g':
      status = parse_count("--gemm", 8, 1 << 15, &gemm);
      break;
    case 'i':
      if (!cpu_isa_use(optarg))
        status = cmd_refuse("bench",
                            "--isa needs avx512, avx2 or base, as far as this processor runs it, "
                            "not '%s'",
                            optarg);
      break;
    case 'c':
      r.format = TABLE_CSV;
      break;
    case 'h':
      usage(stdout);
      return 0;
    default:
      status = 2;
    }
  if (!status && optind < argc)
    status = cmd_refuse("bench", "it takes options only, not '%s'", argv[optind]);
  if (status)
    return status;
  return gemm ? bench_gemm(gemm, r.rounds, r.format) : bench_cpu(&r);
}
