// sys.c -- see sys.h.
#include "sys.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

bool sys_line(const char *path, char *buf, size_t size) {
  FILE *f = fopen(path, "re");
  const bool got = f && fgets(buf, (int)size, f);
  if (f)
    fclose(f);
  if (got)
    buf[strcspn(buf, "\n")] = 0;
  else if (size)
    *buf = 0;
  return got;
}

void sys_field(const char *path, const char *key, char *buf, size_t size) {
  FILE *f = fopen(path, "re");
  char line[512];
  *buf = 0;
  while (f && fgets(line, sizeof line, f)) {
    char *colon = strchr(line, ':');
    if (strncmp(line, key, strlen(key)) != 0 || !colon)
      continue;
    colon += 1 + strspn(colon + 1, " \t");
    snprintf(buf, size, "%.*s", (int)strcspn(colon, "\n"), colon);
    break;
  }
  if (f)
    fclose(f);
}

double sys_field_bytes(const char *path, const char *key) {
  char value[64];
  double kb;
  sys_field(path, key, value, sizeof value);
  return sscanf(value, "%lf kB", &kb) == 1 ? kb * 1024 : NAN;
}

void sys_command(const char *command, char *buf, size_t size) {
  FILE *f = popen(command, "re");
  *buf = 0;
  if (f && fgets(buf, (int)size, f))
    buf[strcspn(buf, "\n")] = 0;
  if (f && pclose(f))
    *buf = 0;
}
