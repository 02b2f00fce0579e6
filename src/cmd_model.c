// cmd_model.c -- `longca model`: what context parallelism would take on ranks that are not here, how far
// that is from what was measured, and the measurement of a machine's rates and links.
#include <math.h>
#include <stdio.h>

#include "calibrate.h"
#include "cmd.h"
#include "filter.h"
#include "model_tables.h"
#include "point.h"

static const char help[] =
    "usage: longca model --machine FILE.ini [OPTION...]\n"
    "       longca model --machine FILE.ini --against ROWS.csv...\n"
    "       longca model --calibrate TRANSPORT [--kernel K] [--size RANKS]\n"
    "\n"
    "Time, exposed communication, bytes and memory of a rank for schedules of context "
    "parallelism.\n"
    "--against holds the model against rows that were measured (or data/published/cp.csv); "
    "--calibrate\n"
    "measures a machine file: with `loopback` in this process, with `mpi` and `nccl` under\n"
    "mpirun -n RANKS (near links; with hosts of one rank each, those far away).\n"
    "\n"
    "  --cp LIST       schedules (default: all); usp:8x12 and loongtrain:8x12x3 give a shape,\n"
    "                  ulysses:2pieces a number of pieces of heads, ring_p2p:1blocks one\n"
    "                  of blocks of keys in a call of forward\n"
    "  --ranks LIST    default 8,16,32,64,96\n"
    "  --mask LIST     default full,causal,full_document_long,causal_document_long\n"
    "  --pass LIST     default fwd,bwd\n"
    "  --heads Q:KV    default 64:8       --dim D       default 128\n"
    "  --tokens N      a rank's, default 8K\n"
    "  --draws N       masks with documents: the mean over so many draws, default 4\n"
    "  --node N        ranks of a node, instead of the machine file's\n"
    "  --size RANKS    of a calibration, default: the job's, in one process 2\n"
    "  --set KEY=X     another value for a setting of the machine file (repeatable)\n"
    "  --format F      text, md, csv, ...\n";

static int parse_count(const char *text, int32_t *to) {
  double x;
  if (filter_number(text, &x) && x >= 1 && x <= 1 << 30 && x == floor(x)) {
    *to = (int32_t)x;
    return 0;
  }
  return cmd_refuse("model", "'%s': expected a whole number of at least 1", text);
}

int cmd_model(int argc, char **argv) {
  enum { SETS_MAX = 32 };
  struct model_request r = {.cp = "ulysses,ring_p2p,ring_allgather,usp,loongtrain",
                            .ranks = "8,16,32,64,96",
                            .mask = "full,causal,full_document_long,causal_document_long",
                            .pass = "fwd,bwd",
                            .heads_q = 64,
                            .heads_kv = 8,
                            .dim = 128,
                            .tokens = 8192,
                            .draws = 4};
  const char *machine = NULL, *transport = NULL, *kernel = "fa2", *sets[SETS_MAX];
  int n_sets = 0, against = 0;
  int32_t node = 0, size = 0;
  enum { HEADS = 256, SET, FORMAT, TEXTS, COUNTS = TEXTS + 32 };
  const char **const texts[] = {&machine, &transport, &kernel, &r.cp, &r.ranks, &r.mask, &r.pass};
  int32_t *const counts[] = {&r.dim, &r.tokens, &r.draws, &node, &size};
  const struct option options[] = {
      {"machine", 1, NULL, TEXTS},     {"calibrate", 1, NULL, TEXTS + 1},
      {"kernel", 1, NULL, TEXTS + 2},  {"cp", 1, NULL, TEXTS + 3},
      {"ranks", 1, NULL, TEXTS + 4},   {"mask", 1, NULL, TEXTS + 5},
      {"pass", 1, NULL, TEXTS + 6},    {"dim", 1, NULL, COUNTS},
      {"tokens", 1, NULL, COUNTS + 1}, {"draws", 1, NULL, COUNTS + 2},
      {"node", 1, NULL, COUNTS + 3},   {"size", 1, NULL, COUNTS + 4},
      {"heads", 1, NULL, HEADS},       {"set", 1, NULL, SET},
      {"format", 1, NULL, FORMAT},     {"against", 0, &against, 1},
      {"help", 0, NULL, 'h'},          {0}};
  int status = 0;
  optind = 0;
  for (int c; !status && (c = cmd_option(argc, argv, options)) != -1;)
    if (c == 'h')
      return fputs(help, stdout) < 0;
    else if (c >= COUNTS)
      status = parse_count(optarg, counts[c - COUNTS]);
    else if (c >= TEXTS)
      *texts[c - TEXTS] = optarg;
    else if (c == HEADS && !point_parse_heads(optarg, &r.heads_q, &r.heads_kv))
      status = cmd_refuse("model", "'%s': expected query heads:KV heads such as 64:8", optarg);
    else if (c == FORMAT)
      status = cmd_format("model", optarg, &r.format);
    else if (c == SET && n_sets < SETS_MAX)
      sets[n_sets++] = optarg;
    else if (c == SET)
      status = cmd_refuse("model", "more than %d times --set", (int)SETS_MAX);
    else if (c == '?')
      status = 2; // cmd_option has said why
  if (status)
    return status;
  if (transport)
    return calibrate(&(struct calibrate_request){.transport = transport,
                                                 .kernel = kernel,
                                                 .ranks = size,
                                                 .heads_q = r.heads_q,
                                                 .heads_kv = r.heads_kv,
                                                 .dim = r.dim});
  if (!machine)
    return cmd_refuse("model",
                      "which machine? --machine FILE.ini (experiments/cluster/h100.ini, or one "
                      "made by --calibrate)");
  char err[1024];
  if (cp_machine_read(&r.machine, machine, err, sizeof err))
    return cmd_refuse("model", "%s", err);
  for (int i = 0; i < n_sets; i++)
    if (cp_machine_set(&r.machine, sets[i], err, sizeof err))
      return cmd_refuse("model", "%s", err);
  if (node)
    r.machine.node = node;
  if (against && optind == argc)
    return cmd_refuse("model", "which rows? --against FILE.csv (data/fresh/MACHINE/PROFILE.csv, "
                               "data/published/cp.csv)");
  if (!against && optind < argc)
    return cmd_refuse("model", "unexpected '%s'; rows are given after --against", argv[optind]);
  return against ? model_against(&r, argv + optind, argc - optind) : model_estimates(&r);
}
