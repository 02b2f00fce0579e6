// cmd_test.c -- bad input of the sub-commands: exit code 2, nothing on stdout, one sentence on stderr.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "capture.h"
#include "cmd.h"

#define ROWS "data/recorded/amd-epyc-2c/cpu.csv"
#define MODEL "--machine experiments/cluster/h100.ini "

static const struct {
  int (*run)(int, char **);
  const char *name, *arguments, *words;
} refused[] = {
    {cmd_show, "show", "", "which file of rows?"},
    {cmd_show, "show", "--bogus",
     "unknown option '--bogus'; longca show --help lists the options."},
    {cmd_show, "show", "-xyz", "unknown option '-x'"},
    {cmd_show, "show", "--where", "--where needs a value."},
    {cmd_show, "show", "/nowhere.csv", "/nowhere.csv: No such file or directory."},
    {cmd_show, "show", "README.md", "README.md: line "},
    {cmd_show, "show", ROWS " --format pdf", "the formats are text, md, tex, html, csv."},
    {cmd_show, "show", ROWS " --where mask=nix", "unknown mask 'nix'"},
    {cmd_show, "show", ROWS " --columns nix", "unknown column 'nix'"},
    {cmd_run, "run", "", "which experiment?"},
    {cmd_run, "run", "nonsense", "no experiment 'nonsense'"},
    {cmd_run, "run", "fig3 --bogus", "unknown option '--bogus'"},
    {cmd_run, "run", "fig3 --profile nix", "unknown profile 'nix'"},
    {cmd_run, "run", "fig3 --minutes x", "--minutes needs a number above 0, not 'x'."},
    {cmd_run, "run", "fig3 --only kernel=nix", "unknown kernel 'nix'"},
    {cmd_run, "run", "fig3 --only seqlen=>4K", "is not column=value"},
    {cmd_run, "run", "fig3 --set foo=1", "unknown setting 'foo'"},
    {cmd_run, "run", "fig3 --set x", "--set needs KEY=VALUES"},
    {cmd_run, "run", "fig3 --data=", "--data needs a folder."},
    {cmd_run, "run", "fig3 --list", "--list goes with --dry-run."},
    {cmd_select, "select", "", "which file of rows?"},
    {cmd_select, "select", "--help=3", "unknown option '--help=3'"},
    {cmd_select, "select", ROWS " --y nix", "'nix' is not a quantity"},
    {cmd_compare, "compare", ROWS, "two files of rows are wanted, the base first."},
    {cmd_compare, "compare", ROWS " " ROWS " --tolerance x", "--tolerance is a percentage"},
    {cmd_claims, "claims", ROWS " --only C99", "unknown claim 'C99'"},
    {cmd_claims, "claims", ROWS " --claims /nowhere", "cannot read /nowhere."},
    {cmd_model, "model", "", "which machine?"},
    {cmd_model, "model", "--machine /nowhere.ini", "cannot read /nowhere.ini."},
    {cmd_model, "model", MODEL "--ranks 8x", "'8x' ranks: expected at least 1"},
    {cmd_model, "model", MODEL "--ranks 99999999999", "at most 2^30 tokens in all."},
    {cmd_model, "model", MODEL "--heads 12:5", "'12:5': expected query heads:KV heads"},
    {cmd_model, "model", MODEL "--draws 1.5", "'1.5': expected a whole number"},
    {cmd_model, "model", MODEL "--set foo=1", "unknown setting 'foo'"},
    {cmd_model, "model", MODEL "--cp nix", "unknown schedule 'nix'"},
    {cmd_model, "model", MODEL ROWS, "rows are given after --against."},
    {cmd_model, "model", MODEL "--against", "which rows?"},
    {cmd_model, "model", "--calibrate nix", "unknown transport 'nix'"},
    {cmd_model, "model", "--calibrate loopback --kernel nix", "there is no kernel 'nix'"},
    {cmd_model, "model", "--calibrate loopback --dim 96", "fa2: head dimensions 64 and 128"},
    {cmd_model, "model", "--calibrate loopback --size 5000", "5000 ranks are more than 1024."},
    {cmd_env, "env", "--place moon", "--place is host or device, not 'moon'."},
    {cmd_env, "env", "--machine --check", "choose one of --machine and --check."},
};

static void bad_input_is_refused_in_one_sentence(void **state) {
  for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
    capture_refusal(refused[i].run, refused[i].name, refused[i].arguments, refused[i].words);
}

static void help_is_no_error(void **state) {
  static int (*const commands[])(int, char **) = {cmd_show,  cmd_select, cmd_compare, cmd_claims,
                                                  cmd_model, cmd_env,    cmd_run};
  for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
    for (int brief = 0; brief < 2; brief++) {
      assert_int_equal(capture_run(commands[i], "command", brief ? "-h" : "--help"), 0);
      assert_memory_equal(capture_out, "usage: longca ", 14);
      assert_string_equal(capture_err, "");
    }
}

int main(void) {
  setenv("OMP_WAIT_POLICY", "passive", 0); // or `longca run` would start this program anew
  const struct CMUnitTest tests[] = {cmocka_unit_test(bad_input_is_refused_in_one_sentence),
                                     cmocka_unit_test(help_is_no_error)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
