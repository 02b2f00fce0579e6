// measure_cp_test_case.h -- a small point of context parallelism: measure_cp_test.c and measure_job_test.c. Header only.
#ifndef LONGCA_MEASURE_CP_TEST_CASE_H
#define LONGCA_MEASURE_CP_TEST_CASE_H

#include <stdio.h>

#include "point.h"

static inline struct point make_point(const char *cp, const char *transport, int32_t ranks) {
  struct point p = {.mask = MASK_CAUSAL_DOCUMENT_LONG,
                    .pass = ATTN_FWD,
                    .dtype = ATTN_FP32,
                    .place = ATTN_HOST,
                    .heads_q = 4,
                    .heads_kv = 2,
                    .dim = 64,
                    .seqlen = 301,
                    .ranks = ranks,
                    .seed = 42,
                    .warmup = 1,
                    .samples_min = 6,
                    .samples_max = 6,
                    .seconds = 1,
                    .limit_s = 60};
  snprintf(p.profile, sizeof p.profile, "cpu");
  snprintf(p.kernel, sizeof p.kernel, "fa2");
  snprintf(p.cp, sizeof p.cp, "%s", cp);
  snprintf(p.transport, sizeof p.transport, "%s", transport);
  point_normalise(&p);
  return p;
}

#endif
