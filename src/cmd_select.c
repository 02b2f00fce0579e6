// cmd_select.c -- `longca select`: rows to the block file that a figure is drawn from.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cmd.h"
#include "blocks.h"

static void usage(FILE *out) {
  fputs(
      "usage: longca select FILE... --series COLUMN --x COLUMN --y QUANTITY [--panel COLUMN,...]\n"
      "                     [--where FILTER]... [--at COLUMN=VALUE]...\n\n"
      "Writes the block file that a figure is drawn from: a block for each panel and series.\n"
      "  --where  rows to take: \"mask=full,causal pass=fwd seqlen>=4K\"; may be repeated\n"
      "  --at     rows with this value or, when there are none, with the value most rows have\n"
      "  --y      a column of numbers, or scaled: peak_mem_bytes/1e9\n"
      "Exit code 1 when nothing was measured that could be drawn.\n",
      out);
}

static int bad(const char *message) { return cmd_refuse("select", "%s", message); }

int cmd_select(int argc, char **argv) {
  static const struct option options[] = {
      {"where", required_argument, NULL, 'w'}, {"at", required_argument, NULL, 'a'},
      {"panel", required_argument, NULL, 'p'}, {"series", required_argument, NULL, 's'},
      {"x", required_argument, NULL, 'x'},     {"y", required_argument, NULL, 'y'},
      {"help", no_argument, NULL, 'h'},        {0}};
  char *wishes[8];
  int n_wishes = 0;
  struct filter where = {.n = 0};
  struct blocks r = {.series = "kernel", .x = "seqlen", .y = {"tflop_s", 1}};
  char err[1024];
  optind = 0;
  for (int c; (c = cmd_option(argc, argv, options)) != -1;) {
    if (c == 'h') {
      usage(stdout);
      return 0;
    }
    if (c == 'w' && filter_add(&where, optarg, err, sizeof err))
      return bad(err);
    if (c == 'a' && n_wishes == (int)(sizeof wishes / sizeof *wishes))
      return bad("too many --at");
    if (c == 'a')
      wishes[n_wishes++] = optarg;
    if (c == 'y' && quantity_parse(&r.y, optarg, err, sizeof err))
      return bad(err);
    if (c == 's')
      r.series = optarg;
    if (c == 'x')
      r.x = optarg;
    char *save = NULL;
    if (c == 'p')
      for (char *name = strtok_r(optarg, ",", &save); name; name = strtok_r(NULL, ",", &save)) {
        if (r.n_panel == BLOCKS_KEYS)
          return bad("--panel takes at most four columns");
        snprintf(r.panel[r.n_panel++], FILTER_TEXT, "%s", name);
      }
    if (c == '?')
      return 2;
  }
  for (int i = -2; i < r.n_panel; i++) {
    const char *name = i == -2 ? r.series : i == -1 ? r.x : r.panel[i];
    if (!filter_is_column(name)) {
      snprintf(err, sizeof err, "unknown column '%s'; `longca show --columns help` lists them",
               name);
      return bad(err);
    }
  }
  if (optind == argc)
    return bad("which file of rows? (data/fresh/MACHINE/PROFILE.csv)");
  struct row *rows = NULL;
  size_t n = 0;
  if (select_load(argv + optind, argc - optind, &where, wishes, n_wishes, &rows, &n, err,
                  sizeof err))
    return bad(err);
  const int status =
      select_is_emulated(rows, n, err, sizeof err) ? bad(err) : blocks_print(rows, n, &r);
  free(rows);
  return status;
}
