// cmd_env.c -- `longca env`: this machine as JSON, its name, or what would disturb a measurement.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cmd.h"
#include "env.h"
#include "point.h"

static const char help[] =
    "usage: longca env [--machine | --check] [--place host|device]\n"
    "\n"
    "Prints this machine as JSON: processor, caches, memory, GPU, libraries, commit. The same "
    "record\n"
    "is kept beside every file of rows (data/fresh/MACHINE/PROFILE.env.json).\n"
    "\n"
    "  --machine   only its short name, the folder of its rows; LONGCA_MACHINE overrides it\n"
    "  --check     only what would disturb a measurement; exit code 1 if there is anything\n"
    "  --place P   name and describe it for kernels on the host or the device\n"
    "              (default: device when this build finds a GPU)\n";

int cmd_env(int argc, char **argv) {
  static const struct option options[] = {{"machine", 0, NULL, 'm'},
                                          {"check", 0, NULL, 'c'},
                                          {"place", 1, NULL, 'p'},
                                          {"help", 0, NULL, 'h'},
                                          {0}};
  bool machine = false, check = false;
  int place = -1;
  optind = 0;
  for (int c; (c = cmd_option(argc, argv, options)) != -1;)
    if (c == 'h')
      return fputs(help, stdout) < 0;
    else if (c == 'm')
      machine = true;
    else if (c == 'c')
      check = true;
    else if (c == '?')
      return 2;
    else if (!strcmp(optarg, point_place_name(ATTN_HOST)))
      place = ATTN_HOST;
    else if (!strcmp(optarg, point_place_name(ATTN_DEVICE)))
      place = ATTN_DEVICE;
    else
      return cmd_refuse("env", "--place is host or device, not '%s'", optarg);
  if (optind < argc)
    return cmd_refuse("env", "it takes options only, not '%s'", argv[optind]);
  if (machine && check)
    return cmd_refuse("env", "choose one of --machine and --check");
  if (check) {
    const int n = env_check(stdout);
    if (!n)
      puts("Nothing found that would disturb a measurement.");
    return n > 0;
  }
  if (place < 0)
    place = env_gpu_count() > 0 ? ATTN_DEVICE : ATTN_HOST;
  if (machine) {
    char name[96];
    puts(env_machine((enum attn_place)place, name, sizeof name));
    return 0;
  }
  char *json = env_json((enum attn_place)place);
  if (!json) {
    fputs("longca env: out of memory.\n", stderr);
    return 1;
  }
  puts(json);
  free(json);
  return 0;
}
