// main.c -- the program `longca`: finds the sub-command, hands over, and sees that what it printed arrived.
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cmd.h"

static const struct command {
  const char *name, *summary;
  int (*run)(int argc, char **argv);
} commands[] = {
    {"list", "kernels, masks, strategies, experiments, and who supports what", cmd_list},
    {"mask", "draw a mask in the terminal, or print seeded draws as CSV", cmd_mask},
    {"run", "measure the points of an experiment; resumes where it stopped", cmd_run},
    {"bench", "this machine's FMA peak and how near the CPU engine comes", cmd_bench},
    {"show", "rows as text, Markdown or LaTeX", cmd_show},
    {"select", "rows as the block file that a figure is drawn from", cmd_select},
    {"compare", "two sets of rows: FASTER, SLOWER, SAME or UNCLEAR", cmd_compare},
    {"claims", "verdict on each claim of the paper", cmd_claims},
    {"model", "what context parallelism takes on ranks that are not here", cmd_model},
    {"env", "this machine, as JSON", cmd_env},
};

// A descriptor from 0 to 2 that is closed would be given to the next file, and messages go into rows. What is
// opened here can only be read, so that output for which there is no place is still an error.
static void hold_standard_files(void) {
  int fd;
  while ((fd = open("/dev/null", O_RDONLY)) >= 0 && fd <= STDERR_FILENO)
    ;
  if (fd >= 0)
    close(fd);
}

static int run(const struct command *c, int argc, char **argv) {
  hold_standard_files();
  signal(SIGXFSZ, SIG_IGN); // a file that may not grow is then an error of write(), which is said
  const int status = c->run(argc, argv);
  if (status || (!fflush(stdout) && !ferror(stdout)))
    return status;
  fprintf(stderr, "longca %s: the output could not be written.\n", c->name);
  return 1;
}

static void usage(FILE *out) {
  fputs("usage: longca COMMAND [OPTION...]     (longca COMMAND --help says more)\n\n", out);
  for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
    fprintf(out, "  %-9s %s\n", commands[i].name, commands[i].summary);
}

int main(int argc, char **argv) {
  if (argc < 2) {
    usage(stderr);
    return 2;
  }
  if (!strcmp(argv[1], "help") || !strcmp(argv[1], "--help") || !strcmp(argv[1], "-h")) {
    usage(stdout);
    return 0;
  }
  if (!strcmp(argv[1], "rank"))
    return cmd_rank(argc - 1, argv + 1);
  for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
    if (!strcmp(argv[1], commands[i].name))
      return run(&commands[i], argc - 1, argv + 1);
  fprintf(stderr, "longca: unknown command '%s'; the commands are", argv[1]);
  for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
    fprintf(stderr, "%s %s", i ? "," : "", commands[i].name);
  fputs(".\n", stderr);
  return 2;
}
