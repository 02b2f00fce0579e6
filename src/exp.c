// exp.c -- reads experiments/NAME.exp with inih and expands the axes into points.
#include "exp.h"

#include <dirent.h>
#include <ini.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const struct {
  const char *name, *value;
} settings[] = {
#define EXP_ENTRY(name, value, help) {#name, value},
    EXP_SETTINGS(EXP_ENTRY)};

const char *exp_root(void) {
  static char root[1024];
  if (*root)
    return root;
  const char *set = getenv("LONGCA_ROOT");
  if (set && *set) {
    snprintf(root, sizeof root, "%s", set);
    return root;
  }
  char probe[1100];
  const ssize_t size = readlink("/proc/self/exe", root, sizeof root - 1);
  root[size > 0 ? size : 0] = 0;
  for (char *slash; (slash = strrchr(root, '/')) && slash != root;) {
    *slash = 0;
    snprintf(probe, sizeof probe, "%s/experiments/profiles.ini", root);
    if (!access(probe, R_OK))
      return root;
  }
  snprintf(root, sizeof root, ".");
  return root;
}

// ---- reading --------------------------------------------------------------------------------

struct reader {
  struct experiment *e;
  const char *profile;
  bool defaults;             // reading profiles.ini
  bool found;                // a section of that profile
  char sections[EXP_VALUE];  // profile sections seen, for messages
  char last[2 * POINT_NAME]; // section/key of the line before: inih gives a continued value again
  char *err;
  size_t err_size;
};

static void append(char *to, size_t size, const char *text) {
  const size_t at = strlen(to);
  snprintf(to + at, size - at, "%s%s", at ? " " : "", text);
}

static int unknown_key(const char *key, char *err, size_t err_size) {
  int at = snprintf(err, err_size, "unknown setting '%s'; the settings are", key);
  for (int i = 0; i < EXP_SETTING_COUNT && at > 0 && (size_t)at < err_size; i++)
    at += snprintf(err + at, err_size - (size_t)at, " %s", settings[i].name);
  return -1;
}

static int find_setting(const char *key) {
  for (int i = 0; i < EXP_SETTING_COUNT; i++)
    if (!strcmp(settings[i].name, key))
      return i;
  return -1;
}

static int add_except(struct experiment *e, const char *text, char *err, size_t err_size) {
  const char *colon = strchr(text, ':');
  if (!colon || !colon[1 + strspn(colon + 1, " ")]) {
    snprintf(err, err_size,
             "'except = %.80s' lacks its reason: except = kernel=naive seqlen>16K : why", text);
    return -1;
  }
  if (e->excepts == EXP_EXCEPTS) {
    snprintf(err, err_size, "more than %d except lines", (int)EXP_EXCEPTS);
    return -1;
  }
  struct exp_except *x = &e->except[e->excepts++];
  char when[EXP_VALUE];
  snprintf(when, sizeof when, "%.*s", (int)(colon - text), text);
  snprintf(x->reason, sizeof x->reason, "%s", colon + 1 + strspn(colon + 1, " "));
  return filter_add(&x->when, when, err, err_size);
}

// inih's handler: 1 to go on, 0 for an error.
static int on_entry(void *context, const char *section, const char *key, const char *value) {
  struct reader *r = context;
  struct experiment *e = r->e;
  const bool own = !strcmp(section, r->profile), axes = !strcmp(section, "axes");
  char here[2 * POINT_NAME];
  snprintf(here, sizeof here, "%.40s/%.40s", section, key);
  const bool more = !strcmp(here, r->last);
  snprintf(r->last, sizeof r->last, "%s", here);
  if (!r->defaults && !strcmp(section, "experiment")) {
    char *const texts[] = {e->title, e->figures, e->claims, e->why};
    static const char *const names[] = {"title", "figures", "claims", "why"};
    for (int i = 0; i < 4; i++)
      if (!strcmp(key, names[i])) {
        append(texts[i], EXP_VALUE, value);
        return 1;
      }
    snprintf(r->err, r->err_size,
             "unknown key '%s' in [experiment]; the keys are title figures claims why", key);
    return 0;
  }
  if (r->defaults || !axes) {
    char name[POINT_NAME + 2];
    snprintf(name, sizeof name, "[%.40s]", section);
    if (!strstr(r->sections, name))
      append(r->sections, sizeof r->sections, name);
  }
  const int i = find_setting(key);
  if (i < 0 && strcmp(key, "except") != 0)
    return unknown_key(key, r->err, r->err_size) == 0;
  if (!own && !axes)
    return 1; // another profile's
  r->found = r->found || own;
  if (i < 0)
    return add_except(e, value, r->err, r->err_size) == 0;
  if (!more)
    *e->value[i] = 0;
  append(e->value[i], EXP_VALUE, value);
  return 1;
}

static int read_ini(struct reader *r, const char *path) {
  *r->err = *r->last = *r->sections = 0;
  r->found = false;
  const int line = ini_parse(path, on_entry, r);
  if (line == 0)
    return 0;
  char fault[1024];
  snprintf(fault, sizeof fault, "%s", *r->err ? r->err : "not a line of the form key = value");
  if (line < 0)
    snprintf(r->err, r->err_size, "cannot read %s", path);
  else
    snprintf(r->err, r->err_size, "%s, line %d: %s", path, line, fault);
  return -1;
}

static void list_experiments(const char *folder, char *err, size_t err_size) {
  struct dirent **entries = NULL;
  const int n = scandir(folder, &entries, NULL, alphasort);
  for (int i = 0; i < n; i++) {
    char *dot = strrchr(entries[i]->d_name, '.');
    if (dot && !strcmp(dot, ".exp")) {
      *dot = 0;
      append(err, err_size, entries[i]->d_name);
    }
    free(entries[i]);
  }
  free(entries);
}

int exp_load(struct experiment *e, const char *name, const char *profile, char *err,
             size_t err_size) {
  memset(e, 0, sizeof *e);
  for (int i = 0; i < EXP_SETTING_COUNT; i++)
    snprintf(e->value[i], EXP_VALUE, "%s", settings[i].value);
  snprintf(e->profile, sizeof e->profile, "%s", profile);
  struct reader r = {
      .e = e, .profile = profile, .err = err, .err_size = err_size, .defaults = true};
  char path[1200];
  snprintf(path, sizeof path, "%s/experiments/profiles.ini", exp_root());
  if (read_ini(&r, path))
    return -1;
  if (!r.found) {
    snprintf(err, err_size, "unknown profile '%s'; the profiles are %s", profile, r.sections);
    return -1;
  }
  const char *dot = strrchr(name, '.'), *slash = strrchr(name, '/');
  const bool is_path = slash || (dot && !strcmp(dot, ".exp"));
  if (is_path)
    snprintf(path, sizeof path, "%s", name);
  else
    snprintf(path, sizeof path, "%s/experiments/%s.exp", exp_root(), name);
  const char *base = slash ? slash + 1 : name;
  snprintf(e->name, sizeof e->name, "%.*s", (int)strcspn(base, "."), base);
  if (access(path, R_OK)) {
    snprintf(err, err_size, "no experiment '%s' (%s); the experiments are", name, path);
    snprintf(path, sizeof path, "%s/experiments", exp_root());
    list_experiments(path, err, err_size);
    return -1;
  }
  r.defaults = false;
  if (read_ini(&r, path))
    return -1;
  if (!r.found && strcmp(profile, "paper") != 0) {
    snprintf(err, err_size, "experiment '%s' has no section [%s]; it has [paper] %s", e->name,
             profile, r.sections);
    return -1;
  }
  return 0;
}

int exp_set(struct experiment *e, const char *key, const char *value, char *err, size_t err_size) {
  const int i = find_setting(key);
  if (i < 0)
    return unknown_key(key, err, err_size);
  snprintf(e->value[i], EXP_VALUE, "%s", value);
  for (char *c = e->value[i]; *c; c++)
    if (*c == ',')
      *c = ' ';
  return 0;
}
