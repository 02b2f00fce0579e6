// cmd_list.c -- `longca list`: kernels, masks, strategies, experiments, and who supports what.
//
// Everything is read where it is defined: the kernel registry, the mask table, experiments/*.exp.
#include <glob.h>
#include <ini.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../cp/cp.h"
#include "cmd.h"
#include "cmd_list.h"
#include "exp.h"

void list_title(const struct list_request *r, const char *title) {
  if (r->format != TABLE_CSV)
    printf("%s%s\n\n", r->format == TABLE_MD ? "## " : "", title);
}

const char *list_place(enum attn_place place) { return place == ATTN_HOST ? "host" : "device"; }

static int list_kernels(const struct list_request *r) {
  list_title(r, "Kernels");
  struct table t = table_new(5);
  table_add(&t, "kernel");
  table_add(&t, "place");
  table_add(&t, "rep");
  table_add(&t, "engine");
  table_add(&t, "summary");
  for (int i = 0; attn_kernels[i]; i++) {
    const struct attn_kernel *k = attn_kernels[i];
    table_add(&t, "%s", k->name);
    table_add(&t, "%s", list_place(k->place));
    table_add(&t, "%s", k->rep);
    table_add(&t, "%s", k->engine);
    table_add(&t, "%s", k->summary);
  }
  table_print(&t, r->format, stdout);
  table_free(&t);
  return 0;
}

static int list_masks(const struct list_request *r) {
  list_title(r, "Masks");
  struct table t = table_new(3);
  table_add(&t, "mask");
  table_add(&t, "abbreviation");
  table_add(&t, "definition");
  for (int kind = 0; kind < MASK_KINDS; kind++) {
    table_add(&t, "%s", mask_name((enum mask_kind)kind));
    table_add(&t, "%s", mask_abbreviation((enum mask_kind)kind));
    table_add(&t, "%s", mask_summary((enum mask_kind)kind));
  }
  table_print(&t, r->format, stdout);
  table_free(&t);
  return 0;
}

static int list_strategies(const struct list_request *r) {
  list_title(r, "Strategies");
  struct table t = table_new(2);
  table_add(&t, "strategy");
  table_add(&t, "summary");
  for (int i = 0; cp_schedules[i]; i++) {
    table_add(&t, "%s", cp_schedules[i]->name);
    table_add(&t, "%s", cp_schedules[i]->summary);
  }
  table_print(&t, r->format, stdout);
  table_free(&t);
  if (r->format == TABLE_CSV) // one table a file
    return 0;
  putchar('\n');
  list_title(r, "Transports");
  t = table_new(3);
  table_add(&t, "transport");
  table_add(&t, "memory");
  table_add(&t, "summary");
  for (int i = 0; cp_transports[i]; i++) {
    table_add(&t, "%s", cp_transports[i]->name);
    table_add(&t, "%s", list_place(cp_transports[i]->place));
    table_add(&t, "%s", cp_transports[i]->summary);
  }
  table_print(&t, r->format, stdout);
  table_free(&t);
  return 0;
}

struct exp_head {
  char title[256], figures[256];
};

static int keep_head(void *user, const char *section, const char *name, const char *value) {
  struct exp_head *head = user;
  if (!strcmp(name, "title"))
    snprintf(head->title, sizeof head->title, "%s", value);
  else if (!strcmp(name, "figures"))
    snprintf(head->figures, sizeof head->figures, "%s", value);
  return 1;
}

static int list_experiments(const struct list_request *r) {
  char pattern[PATH_MAX];
  glob_t found;
  snprintf(pattern, sizeof pattern, "%s/experiments/*.exp", exp_root());
  if (glob(pattern, 0, NULL, &found)) {
    fprintf(stderr, "longca list: there is no %s.\n", pattern);
    return 1;
  }
  list_title(r, "Experiments");
  struct table t = table_new(3);
  table_add(&t, "experiment");
  table_add(&t, "figures");
  table_add(&t, "title");
  for (size_t i = 0; i < found.gl_pathc; i++) {
    const char *name = strrchr(found.gl_pathv[i], '/') + 1;
    struct exp_head head = {"", ""};
    if (ini_parse(found.gl_pathv[i], keep_head, &head))
      snprintf(head.title, sizeof head.title, "(not in the form of an experiment)");
    table_add(&t, "%.*s", (int)(strlen(name) - strlen(".exp")), name);
    table_add(&t, "%s", head.figures);
    table_add(&t, "%s", head.title);
  }
  table_print(&t, r->format, stdout);
  table_free(&t);
  globfree(&found);
  return 0;
}

static const struct section {
  const char *name;
  int (*list)(const struct list_request *r);
} sections[] = {
    {"kernels", list_kernels},         {"masks", list_masks},     {"strategies", list_strategies},
    {"experiments", list_experiments}, {"support", list_support},
};
#define SECTION_NAMES "kernels, masks, strategies, experiments, support"
enum { SECTIONS = sizeof sections / sizeof *sections };

static void usage(FILE *out) {
  fputs("usage: longca list [kernels|masks|strategies|experiments|support] [OPTION...]\n\n"
        "Without an argument: all of them.\n\n"
        "  --csv          as CSV (one of them at a time)\n"
        "  --md           as Markdown\n"
        "  --heads Q:KV   query and KV heads that support is asked for (8:8)\n",
        out);
}

int cmd_list(int argc, char **argv) {
  static const struct option options[] = {
      {"csv", 0, 0, 'c'}, {"md", 0, 0, 'm'}, {"heads", 1, 0, 'q'}, {"help", 0, 0, 'h'}, {0}};
  struct list_request r = {.format = TABLE_TEXT, .heads_q = 8, .heads_kv = 8};
  optind = 0;
  for (int c; (c = cmd_option(argc, argv, options)) != -1;)
    switch (c) {
    case 'c':
      r.format = TABLE_CSV;
      break;
    case 'm':
      r.format = TABLE_MD;
      break;
    case 'q':
      if (!point_parse_heads(optarg, &r.heads_q, &r.heads_kv))
        return cmd_refuse("list", "--heads needs Q:KV, Q a multiple of KV, e.g. 64:8, not '%s'",
                          optarg);
      break;
    case 'h':
      usage(stdout);
      return 0;
    default:
      return 2;
    }
  const char *wanted = optind < argc ? argv[optind] : NULL;
  if (optind + 1 < argc || (!wanted && r.format == TABLE_CSV))
    return cmd_refuse("list", "name one of " SECTION_NAMES);
  int status = 0, met = 0;
  for (int i = 0; i < SECTIONS; i++)
    if (!wanted || !strcmp(wanted, sections[i].name)) {
      if (met++)
        putchar('\n');
      if (sections[i].list(&r))
        status = 1;
    }
  return met ? status : cmd_refuse("list", "unknown '%s'; there are " SECTION_NAMES, wanted);
}
