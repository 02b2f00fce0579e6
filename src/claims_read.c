// claims_read.c -- reads experiments/claims.tsv: fields separated by tabs, a relation a line.
#include "claims.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool claims_word_in(const char *word, const char *list) {
  const size_t n = strlen(word);
  for (const char *s = list; *s; s += strcspn(s, " "), s += *s == ' ')
    if (strcspn(s, " ") == n && !strncmp(s, word, n))
      return true;
  return false;
}

enum { FIELDS = 12 };

static int parse_bound(struct claim *c, const char *text) {
  const char *dots = strstr(text, "..");
  char low[32], *end;
  if (!dots || !strcmp(text, ".."))
    return -1;
  c->low = -INFINITY;
  c->high = INFINITY;
  snprintf(low, sizeof low, "%.*s", (int)(dots - text), text); // strtod would take "1." of "1..2"
  if (*low) {
    c->low = strtod(low, &end);
    if (*end)
      return -1;
  }
  if (dots[2]) {
    c->high = strtod(dots + 2, &end);
    if (*end)
      return -1;
  }
  return 0;
}

static int parse_claim(struct claim *c, char *field[FIELDS], char *err, size_t err_size) {
  memset(c, 0, sizeof *c);
  for (int i = 0; i < FIELDS; i++)
    if (!strcmp(field[i], "-"))
      field[i] = field[i] + 1;
  static const char *const tests = "ratio value spread vary slope reach share";
  if (!claims_word_in(field[1], "gpu gpus any") || !claims_word_in(field[3], tests) ||
      !claims_word_in(field[8], "min median max wins")) {
    snprintf(err, err_size,
             "needs is gpu, gpus or any; test is one of: %s; reduce is min, median, max or wins",
             tests);
    return -1;
  }
  snprintf(c->id, sizeof c->id, "%s", field[0]);
  snprintf(c->needs, sizeof c->needs, "%s", field[1]);
  snprintf(c->exp, sizeof c->exp, "%s", field[2]);
  snprintf(c->test, sizeof c->test, "%s", field[3]);
  snprintf(c->reduce, sizeof c->reduce, "%s", field[8]);
  snprintf(c->sentence, sizeof c->sentence, "%s", field[11]);
  const bool share = !strcmp(c->test, "share");
  if (share || !strcmp(c->test, "reach"))
    c->quantity = (struct quantity){"time_us", 1};
  else if (quantity_parse(&c->quantity, field[4], err, err_size))
    return -1;
  if (share)
    snprintf(c->share, sizeof c->share, "%s", field[4]);
  if (claims_word_in(c->test, "vary slope reach")) {
    if (!filter_is_column(field[6])) {
      snprintf(err, err_size, "'%s' (against) must name a column for the test %s", field[6],
               c->test);
      return -1;
    }
    snprintf(c->over, sizeof c->over, "%s", field[6]);
  } else if (filter_add(&c->against, field[6], err, err_size)) {
    return -1;
  }
  if (filter_add(&c->of, field[5], err, err_size) || filter_add(&c->where, field[7], err, err_size))
    return -1;
  if (!strcmp(c->test, "ratio") && !c->against.n) {
    snprintf(err, err_size, "the test ratio needs `against`");
    return -1;
  }
  char *end;
  c->least = (int)strtol(field[10], &end, 10);
  if (parse_bound(c, field[9]) || *end || c->least < 1) {
    snprintf(err, err_size, "bound is LOW..HIGH with either end open, least a number from 1");
    return -1;
  }
  snprintf(c->relation, sizeof c->relation, "%s of %s%s%s, %s%s%s%s%s%s in %s", c->reduce, c->test,
           *field[4] ? " " : "", field[4], field[5], *field[6] ? (*c->over ? " over " : " / ") : "",
           field[6], *field[7] ? " (" : "", field[7], *field[7] ? ")" : "", field[9]);
  return 0;
}

int claims_load(const char *path, struct claim **claims, size_t *n, char *err, size_t err_size) {
  FILE *f = fopen(path, "r");
  char line[2048];
  size_t number = 0;
  *claims = NULL;
  *n = 0;
  if (!f) {
    snprintf(err, err_size, "cannot read %s", path);
    return -1;
  }
  while (fgets(line, sizeof line, f)) {
    number++;
    line[strcspn(line, "\n")] = 0;
    if (!*line || *line == '#')
      continue;
    char *field[FIELDS] = {line}, *at = line;
    int fields = 0;
    for (; at && fields < FIELDS; fields++)
      field[fields] = strsep(&at, "\t");
    if (!strcmp(field[0], "id"))
      continue; // the header
    char why[1200] = "";
    struct claim *all = realloc(*claims, (*n + 1) * sizeof *all);
    if (all)
      *claims = all;
    if (!all)
      snprintf(why, sizeof why, "out of memory");
    else if (fields != FIELDS || at)
      snprintf(why, sizeof why, "%d fields separated by tabs are wanted", (int)FIELDS);
    else if (!parse_claim(&all[*n], field, why, sizeof why))
      (*n)++;
    if (*why) {
      snprintf(err, err_size, "%s, line %zu: %s", path, number, why);
      fclose(f);
      free(*claims);
      *claims = NULL;
      return -1;
    }
  }
  fclose(f);
  return 0;
}
