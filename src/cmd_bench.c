// cmd_bench.c -- `longca bench`: what this machine's processor, or its GPU, gives at this moment.
#include <getopt.h>
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

static int refuse(const char *what, const char *text) {
  fprintf(stderr, "longca bench: %s, not '%s'.\n", what, text);
  return 2;
}

static int parse_count(const char *text, long low, long high) {
  char *end;
  const long x = strtol(text, &end, 10);
  return end == text || *end || x < low || x > high ? -1 : (int)x;
}

int cmd_bench(int argc, char **argv) {
  static const struct option options[] = {
      {"seqlen", 1, 0, 's'}, {"threads", 1, 0, 't'}, {"rounds", 1, 0, 'r'}, {"isa", 1, 0, 'i'},
      {"gemm", 1, 0, 'g'},   {"csv", 0, 0, 'c'},     {"help", 0, 0, 'h'},   {0}};
  struct bench_cpu_request r = {.seqlen = 4096, .threads = omp_get_max_threads(), .rounds = 9};
  int gemm = 0; // size of the product on the GPU; 0: the CPU engine
  int status = -1, c;
  opterr = 0;
  optind = 1;
  while (status < 0 && (c = getopt_long(argc, argv, "h", options, NULL)) != -1)
    if (c == 's' && (r.seqlen = parse_count(optarg, 1, 1 << 20)) < 0)
      status = refuse("--seqlen needs a whole number from 1 to 1048576", optarg);
    else if (c == 't' && (r.threads = parse_count(optarg, 1, 1024)) < 0)
      status = refuse("--threads needs a whole number from 1 to 1024", optarg);
    else if (c == 'r' && (r.rounds = parse_count(optarg, 1, BENCH_ROUNDS_MAX)) < 0)
      status = refuse("--rounds needs a whole number from 1 to 99", optarg);
    else if (c == 'g' && (gemm = parse_count(optarg, 8, 1 << 15)) < 0)
      status = refuse("--gemm needs a whole number from 8 to 32768", optarg);
    else if (c == 'i' && !cpu_isa_use(optarg))
      status = refuse("--isa needs avx512, avx2 or base, as far as this processor runs it", optarg);
    else if (c == 'c')
      r.format = TABLE_CSV;
    else if (c == 'h')
      usage(stdout), status = 0;
    else if (c == '?')
      status = refuse("the options are --seqlen, --threads, --rounds, --isa, --gemm, --csv",
                      argv[optind - 1]);
  if (status < 0 && optind < argc)
    status = refuse("it takes options only", argv[optind]);
  if (status < 0)
    status = gemm ? bench_gemm(gemm, r.rounds, r.format) : bench_cpu(&r);
  return status;
}
