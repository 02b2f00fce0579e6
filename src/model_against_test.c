// model_against_test.c -- `longca model --against` on rows whose means are known.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "capture.h"
#include "cmd.h"

// The mean over the draws, of each draw the last row; without rows that are not ok or not of several ranks.
static void draws_count_once(void **state) {
  static const char rows[] =
      "machine,mask,kernel,pass,dtype,heads_q,heads_kv,dim,seqlen,draw,cp,transport,ranks,status,"
      "tflop_s\n"
      "m,full_document_long,fa3,fwd,bf16,8,8,128,4096,0,ring_p2p,nccl,4,ok,100\n"
      "m,full_document_long,fa3,fwd,bf16,8,8,128,4096,1,ring_p2p,nccl,4,ok,400\n"
      "m,full_document_long,fa3,fwd,bf16,8,8,128,4096,2,ring_p2p,nccl,4,oom,900\n"
      "m,full,fa3,bwd,bf16,8,8,128,4096,0,none,none,1,ok,800\n"
      "m,full,fa3,bwd,bf16,8,8,128,4096,0,ulysses,nccl,2,ok,700\n"
      "m,full_document_long,fa3,fwd,bf16,8,8,128,4096,0,ring_p2p,nccl,4,ok,200\n";
  char path[] = "/tmp/longca-against-XXXXXX", arguments[200];
  const int fd = mkstemp(path);
  assert_true(fd >= 0 && write(fd, rows, sizeof rows - 1) == sizeof rows - 1);
  close(fd);
  snprintf(arguments, sizeof arguments,
           "--machine experiments/cluster/h100.ini --format csv --against %s", path);
  const int status = capture_run(cmd_model, "model", arguments);
  unlink(path);
  assert_int_equal(status, 0);
  assert_non_null(strstr(capture_out, "full_document_long,fwd,ring_p2p,4,300,"));
  assert_non_null(strstr(capture_out, "full,bwd,ulysses,2,700,"));
  assert_non_null(strstr(capture_out, "\n2 points; "));
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(draws_count_once)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
