// cmd.c -- see cmd.h.
#include "cmd.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

int cmd_refuse(const char *command, const char *format, ...) {
  va_list arguments;
  fprintf(stderr, "longca %s: ", command);
  va_start(arguments, format);
  vfprintf(stderr, format, arguments);
  va_end(arguments);
  fputs(".\n", stderr);
  return 2;
}

int cmd_option(int argc, char **argv, const struct option *options) {
  opterr = 0;
  const int c = getopt_long(argc, argv, ":h", options, NULL);
  if (c != '?' && c != ':')
    return c;
  char text[3] = {'-', (char)optopt,
                  0}; // of a cluster such as -xyz argv holds no more than the whole
  const char *option =
      c == '?' && optopt && strncmp(argv[optind - 1], "--", 2) != 0 ? text : argv[optind - 1];
  if (c == ':')
    cmd_refuse(argv[0], "%s needs a value", option);
  else
    cmd_refuse(argv[0], "unknown option '%s'; longca %s --help lists the options", option, argv[0]);
  return '?';
}

int cmd_format(const char *command, const char *text, enum table_format *format) {
  const int found = table_format_parse(text);
  if (found < 0)
    return cmd_refuse(command, "unknown format '%s'; the formats are %s", text, table_formats());
  *format = (enum table_format)found;
  return 0;
}
