// cmd_env.c -- `longca env`: this machine as JSON, its name, or what would disturb a measurement.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cmd.h"
#include "env.h"

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
  bool machine = false, check = false;
  int place = -1;
  for (int i = 1; i < argc; i++) {
    if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) {
      fputs(help, stdout);
      return 0;
    } else if (!strcmp(argv[i], "--machine")) {
      machine = true;
    } else if (!strcmp(argv[i], "--check")) {
      check = true;
    } else if (!strcmp(argv[i], "--place") && i + 1 < argc && !strcmp(argv[i + 1], "host")) {
      place = ATTN_HOST;
      i++;
    } else if (!strcmp(argv[i], "--place") && i + 1 < argc && !strcmp(argv[i + 1], "device")) {
      place = ATTN_DEVICE;
      i++;
    } else {
      fprintf(stderr,
              "longca env: unknown option '%s'; the options are --machine, --check and --place "
              "host|device.\n",
              argv[i]);
      return 2;
    }
  }
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
