// device_test.c -- `longca run` on a GPU, whole: worker processes, preparation, check, samples, memory,
// rows; and what a GPU that fails costs, one row. On an emulated GPU (`make test-emulated`) everything; on a
// real one what asks for no failure; without either it skips.
#define _GNU_SOURCE
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "../kernels/attn.h"
#include "capture.h"
#include "cmd.h"
#include "env.h"
#include "store.h"

static char folder[] = "/tmp/longca-XXXXXX", machine[96];
static struct row *rows;
static size_t n_rows;

static bool emulated(void) { return !strncmp(machine, "emulated-", 9); }

static int begin(void **state) {
  setenv("OMP_WAIT_POLICY", "passive", 0); // else `longca run` starts this program again
  env_machine(ATTN_DEVICE, machine, sizeof machine);
  return mkdtemp(folder) ? 0 : -1;
}

static int end(void **state) {
  char command[64];
  snprintf(command, sizeof command, "rm -rf %s", folder);
  free(rows);
  return system(command);
}

static void need_gpu(bool emulated_only) {
  if (env_gpu_count() > 0 && (emulated() || !emulated_only))
    return;
  print_message("%s\n", env_gpu_count() ? "real GPUs are not made to fail" : "no GPU");
  skip();
}

// `longca run smoke` with a few samples of short sequences, into a profile's file of its own; its rows.
static int run(const char *folder_name, const char *arguments) {
  char text[256], path[256], err[256];
  snprintf(text, sizeof text,
           "smoke --profile quick --quiet --data %s/%s --set warmup=0 --set samples_min=2 --set "
           "samples_max=2 %s",
           folder, folder_name, arguments);
  assert_true(strlen(text) + 1 < sizeof text);
  const int status = capture_run(cmd_run, "run", text);
  free(rows);
  rows = NULL;
  snprintf(path, sizeof path, "%s/%s/%s/quick.csv", folder, folder_name, machine);
  if (store_read(path, &rows, &n_rows, err, sizeof err))
    fail_msg("%s (%s)", err, capture_err);
  return status;
}

static int count(const char *status) {
  int n = 0;
  for (size_t i = 0; i < n_rows; i++)
    n += !strcmp(rows[i].status, status);
  return n;
}

static void expect_honest(const struct row *r) {
  if (!strcmp(r->status, "unsupported")) {
    assert_true(*r->reason && isnan(r->time_us) && isnan(r->peak_mem_bytes));
    return;
  }
  if (strcmp(r->status, "ok") != 0)
    fail_msg("%s %s %s: %s, %s", r->kernel, r->mask, r->pass, r->status, r->reason);
  const bool bwd = !strcmp(r->pass, "bwd");
  const double q = r->heads_q * r->seqlen * r->dim * 2, k = q / r->heads_q * r->heads_kv;
  assert_string_equal(r->machine, machine);
  assert_true(r->n == 2 && r->time_us > 0 && r->tflop_s > 0 && r->peak_pct > 0);
  assert_true(r->err_max > 0 && r->err_max < 0.05 && r->wrong == 0);
  const bool engine = !strcmp(r->engine, "mma") || !strcmp(r->engine, "wgmma");
  assert_true(engine ? r->tile_area >= r->area && r->tile_area <= 256 * 256 : isnan(r->tile_area));
  assert_true(r->prep_us > 0 && r->compile_us >= 0 && r->compile_us <= r->prep_us);
  assert_true((r->compile_us > 0) == (strncmp(r->kernel, "flex", 4) == 0));
  assert_true(r->cold == 1 && !isnan(r->throttled) && r->sm_mhz_median > 0);
  assert_true(r->input_bytes == (bwd ? 2 : 1) * q + 2 * k);
  assert_true(r->output_bytes == (bwd ? 2 * q + 2 * k : q) + 4 * r->heads_q * r->seqlen);
  assert_true(r->account_bytes ==
              r->input_bytes + r->output_bytes + r->prep_bytes + r->workspace_bytes);
  // The emulated driver rounds nothing: all that a point takes is in its account, whatever ran before.
  if (emulated() && r->peak_mem_bytes != r->account_bytes)
    fail_msg("%s %s %s: %.0f bytes at the peak, %.0f in the account", r->kernel, r->mask, r->pass,
             r->peak_mem_bytes, r->account_bytes);
  assert_true(r->peak_mem_bytes >= r->input_bytes);
}

static void every_kernel_gets_honest_rows(void **state) {
  need_gpu(false);
  // Two masks in one run, so that forward points come after backward ones and their tensors.
  static const char *const masks[] = {"causal_document,uniform_block_sparse --set block=64",
                                      "uniform_block_sparse --set block=128"};
  char arguments[160];
  for (int i = 0; i < 2; i++) {
    snprintf(arguments, sizeof arguments, "--set seqlen=129 --set heads=2:1 --only mask=%s%s",
             masks[i], emulated() ? " --only kernel!=cudnn" : "");
    assert_int_equal(run("all", arguments), 0);
  }
  for (size_t i = 0; i < n_rows; i++)
    expect_honest(&rows[i]);
  for (int k = 0; attn_kernels[k]; k++) {
    int ok = 0, asked = 0;
    for (size_t i = 0; i < n_rows; i++)
      if (attn_kernels[k]->place == ATTN_DEVICE && !strcmp(rows[i].kernel, attn_kernels[k]->name)) {
        asked++;
        ok += !strcmp(rows[i].status, "ok");
      }
    if (asked && !ok)
      fail_msg("no row of %s is ok", attn_kernels[k]->name);
  }
  const size_t before = n_rows;
  assert_int_equal(run("all", arguments), 0); // nothing is left to do
  assert_int_equal(n_rows, before);
}

// Whatever the machine is called, nothing is drawn or judged from an emulated GPU.
static void emulated_rows_are_no_measurements(void **state) {
  need_gpu(true);
  char path[160], name[96];
  snprintf(path, sizeof path, "%s/all/%s/quick.csv", folder, machine);
  char two[400], table[256];
  snprintf(two, sizeof two, "%s %s", path, path);
  snprintf(table, sizeof table, "%s --rows mask --across kernel --value tflop_s", path);
  const struct {
    int (*cmd)(int, char **);
    const char *name, *arguments;
  } refused[] = {{cmd_claims, "claims", path},
                 {cmd_select, "select", path},
                 {cmd_compare, "compare", two},
                 {cmd_show, "show", table}};
  for (int i = 0; i < 4; i++) {
    optind = 1; // getopt's, of the command before
    capture_refusal(refused[i].cmd, refused[i].name, refused[i].arguments, "no measurements");
  }
  optind = 1;
  assert_int_equal(capture_run(cmd_show, "show", path), 0); // the plain list
  setenv("LONGCA_MACHINE", "H200", 1);
  assert_string_equal(env_machine(ATTN_DEVICE, name, sizeof name), "emulated-h200");
  unsetenv("LONGCA_MACHINE");
}

static const char few[] = "--set seqlen=65 --set heads=1:1 --only kernel=fa2,fa3 --only mask=full";

// Each worker meets the fault at its ninth synchronisation, in its second point or so.
static void an_illegal_access_costs_its_row(void **state) {
  need_gpu(true);
  setenv("LONGCA_EMU_FAULT", "illegal:9", 1);
  assert_int_equal(run("illegal", few), 1);
  unsetenv("LONGCA_EMU_FAULT");
  assert_int_equal(n_rows, 4);
  const int crashed = count("crash");
  assert_in_range(crashed, 1, 3);
  assert_int_equal(crashed + count("ok"), 4);
  for (size_t i = 0; i < n_rows; i++)
    if (!strcmp(rows[i].status, "crash")) {
      assert_non_null(strstr(rows[i].reason, "illegal memory access"));
      assert_true(isnan(rows[i].time_us) && isnan(rows[i].err_max));
    }
  assert_int_equal(run("illegal", few), 0); // a crash is a row
  assert_int_equal(count("crash"), crashed);
  char again[160];
  snprintf(again, sizeof again, "%s --retry", few);
  assert_int_equal(run("illegal", again), 0);
  assert_int_equal(count("ok"), 4);
}

static void a_hang_costs_its_row(void **state) {
  need_gpu(true);
  setenv("LONGCA_EMU_FAULT", "hang:9", 1);
  char arguments[160];
  snprintf(arguments, sizeof arguments, "%s --limit-s 3", few);
  assert_int_equal(run("hang", arguments), 0);
  unsetenv("LONGCA_EMU_FAULT");
  assert_in_range(count("timeout"), 1, 3);
  assert_int_equal(count("timeout") + count("ok"), 4);
}

// 36 GiB of scores on a GPU of 16: the worker lives on, and what fits is measured after it.
static void lack_of_memory_is_a_row(void **state) {
  need_gpu(true);
  assert_int_equal(run("oom", "--set seqlen=12K --set heads=64:1 --only kernel=naive --only "
                              "mask=full --only pass=fwd"),
                   0);
  assert_int_equal(count("oom"), 1);
  assert_non_null(strstr(rows[0].reason, "out of memory"));
  assert_true(isnan(rows[0].time_us) && isnan(rows[0].peak_mem_bytes));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(every_kernel_gets_honest_rows),
      cmocka_unit_test(emulated_rows_are_no_measurements),
      cmocka_unit_test(an_illegal_access_costs_its_row),
      cmocka_unit_test(a_hang_costs_its_row),
      cmocka_unit_test(lack_of_memory_is_a_row),
  };
  return cmocka_run_group_tests_name("device", tests, begin, end);
}
