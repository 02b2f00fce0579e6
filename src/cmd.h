// cmd.h -- the sub-commands of `longca`, one file each (cmd_NAME.c). argv[0] is the command's name.
// They return the exit status: 0 done, 1 a check failed, 2 bad input (one sentence on stderr).
#ifndef LONGCA_CMD_H
#define LONGCA_CMD_H

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

#endif
