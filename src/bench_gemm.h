// bench_gemm.h -- the rate of a bf16 matrix product on this machine's GPU.
#ifndef LONGCA_BENCH_GEMM_H
#define LONGCA_BENCH_GEMM_H

#include "table.h"

// Prints the rate of `count` (at most 99) cold products of n x n matrices. Exit status.
int bench_gemm(int n, int count, enum table_format format);

#endif
