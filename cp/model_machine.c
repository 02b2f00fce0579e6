// model_machine.c -- machine files of the model (experiments/cluster/h100.ini): read, changed, printed.
#include <ini.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model.h"

static const struct {
  const char *name;
  double value;
  size_t offset;
  const char *what;
} settings[] = {
#define CP_ENTRY(name, value, what) {#name, value, offsetof(struct cp_machine, name), what},
    CP_MACHINE(CP_ENTRY)};
enum { SETTINGS = sizeof settings / sizeof *settings };

static double *setting(struct cp_machine *m, int i) {
  return (double *)((char *)m + settings[i].offset);
}

struct reader {
  struct cp_machine *machine;
  char *err;
  size_t err_size;
};

static int set_value(struct cp_machine *m, const char *key, const char *value, char *err,
                     size_t err_size) {
  for (int i = 0; i < SETTINGS; i++)
    if (!strcmp(key, settings[i].name)) {
      char *end;
      const double x = strtod(value, &end);
      if (end != value && !*end && x >= 0) {
        *setting(m, i) = x;
        return 0;
      }
      snprintf(err, err_size, "%s = '%s': expected a number of at least 0", key, value);
      return -1;
    }
  int at = snprintf(err, err_size, "unknown setting '%s'; the settings are", key);
  for (int i = 0; i < SETTINGS && at > 0 && (size_t)at < err_size; i++)
    at += snprintf(err + at, err_size - (size_t)at, " %s", settings[i].name);
  return -1;
}

static int on_entry(void *context, const char *section, const char *key, const char *value) {
  struct reader *r = context;
  return !set_value(r->machine, key, value, r->err, r->err_size);
}

int cp_machine_set(struct cp_machine *m, const char *text, char *err, size_t err_size) {
  char key[64];
  const size_t n = strcspn(text, "=");
  snprintf(key, sizeof key, "%.*s", (int)(n < 63 ? n : 63), text);
  if (text[n])
    return set_value(m, key, text + n + 1, err, err_size);
  snprintf(err, err_size, "'%s': expected KEY=NUMBER", text);
  return -1;
}

int cp_machine_read(struct cp_machine *m, const char *path, char *err, size_t err_size) {
  char fault[512] = "";
  struct reader r = {m, fault, sizeof fault};
  for (int i = 0; i < SETTINGS; i++)
    *setting(m, i) = settings[i].value;
  const int line = ini_parse(path, on_entry, &r);
  if (line < 0)
    snprintf(err, err_size, "cannot read %s", path);
  else if (line)
    snprintf(err, err_size, "%s, line %d: %s", path, line,
             *fault ? fault : "not a line of the form key = value");
  else if (!(m->fwd_flop_us > 0 && m->bwd_flop_us > 0 && m->near_bytes_us > 0 &&
             m->far_bytes_us > 0))
    snprintf(err, err_size, "%s must give fwd_flop_us, bwd_flop_us, near_bytes_us and far_bytes_us",
             path);
  else if (!(m->tile_q >= 1 && m->tile_k >= 1 && m->node >= 1 && m->copy_bytes_us > 0))
    snprintf(err, err_size, "%s: tile_q, tile_k and node are at least 1, copy_bytes_us above 0",
             path);
  else
    return 0;
  return -1;
}

void cp_machine_print(const struct cp_machine *m, const char *title) {
  struct cp_machine copy = *m;
  printf("; %s\n", title);
  for (int i = 0; i < SETTINGS; i++) {
    char text[48];
    snprintf(text, sizeof text, "%s = %.6g", settings[i].name, *setting(&copy, i));
    printf("%-28s ; %s\n", text, settings[i].what);
  }
}
