// cmd.h -- the sub-commands of `longca`, one file each (cmd_NAME.c). argv[0] is the command's name.
// They return the exit status: 0 done, 1 a check failed, 2 bad input (one sentence on stderr).
#ifndef LONGCA_CMD_H
#define LONGCA_CMD_H

#include <getopt.h>

#include "table.h"

int cmd_list(int argc, char **argv);
int cmd_mask(int argc, char **argv);
int cmd_run(int argc, char **argv);
int cmd_model(int argc, char **argv);
int cmd_rank(int argc, char **argv); // a process of a job (measure_job.c); not listed
int cmd_bench(int argc, char **argv);
int cmd_show(int argc, char **argv);
int cmd_select(int argc, char **argv);
int cmd_compare(int argc, char **argv);
int cmd_claims(int argc, char **argv);
int cmd_env(int argc, char **argv);

// What they share. Says "longca COMMAND: ..." and a full stop on stderr; returns 2.
int cmd_refuse(const char *command, const char *format, ...) __attribute__((format(printf, 2, 3)));
// getopt_long for long options and -h; of what it does not know, or lacks its value, it says so and gives '?'.
// optind is set to 0 before, since tests run more than one command.
int cmd_option(int argc, char **argv, const struct option *options);
// A --format. 0; 2 after a message.
int cmd_format(const char *command, const char *text, enum table_format *format);

#endif
