// capture.h -- for tests: runs a sub-command as the program does and keeps what it prints.
// Include after cmocka.h.
#ifndef LONGCA_CAPTURE_H
#define LONGCA_CAPTURE_H

#include <stdio.h>
#include <string.h>
#include <unistd.h>

static char capture_out[1 << 18], capture_err[1 << 12];

// The whole of a file, as text; closes it.
static inline void capture_read(FILE *file, char *text, size_t size) {
  rewind(file);
  const size_t n = fread(text, 1, size - 1, file);
  assert_true(feof(file)); // all of it fits
  text[n] = 0;
  fclose(file);
}

// `longca NAME ARGUMENTS`, the arguments separated by blanks; returns the exit status.
static inline int capture_run(int (*cmd)(int, char **), const char *name, const char *arguments) {
  char copy[256], first[32], *argv[32] = {first}, *rest = copy;
  int argc = 1;
  snprintf(first, sizeof first, "%s", name);
  snprintf(copy, sizeof copy, "%s", arguments);
  while ((argv[argc] = strtok_r(rest, " ", &rest)))
    argc++;
  FILE *files[2] = {tmpfile(), tmpfile()};
  assert_true(files[0] && files[1]);
  fflush(NULL);
  const int kept[2] = {dup(1), dup(2)};
  for (int i = 0; i < 2; i++)
    dup2(fileno(files[i]), i + 1);
  const int status = cmd(argc, argv);
  fflush(NULL);
  for (int i = 0; i < 2; i++) {
    dup2(kept[i], i + 1);
    close(kept[i]);
  }
  capture_read(files[0], capture_out, sizeof capture_out);
  capture_read(files[1], capture_err, sizeof capture_err);
  return status;
}

// Bad input: exit status 2, nothing on stdout, and on stderr one line that says `words`.
static inline void capture_refusal(int (*cmd)(int, char **), const char *name,
                                   const char *arguments, const char *words) {
  assert_int_equal(capture_run(cmd, name, arguments), 2);
  assert_string_equal(capture_out, "");
  if (!strstr(capture_err, words) ||
      strchr(capture_err, '\n') != capture_err + strlen(capture_err) - 1)
    fail_msg("'%s': '%s' does not say '%s' in one line", arguments, capture_err, words);
}

#endif
