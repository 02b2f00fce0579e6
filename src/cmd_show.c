// cmd_show.c -- `longca show`: rows as a table; as they are, or one quantity spread over two axes.
//
// Spread, the paper's printed numbers (data/published) are rows like any others, so they stand beside
// ours by naming both files: --rows seqlen,machine --across kernel,block,ratio --value tflop_s.
#include <csv.h>
#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cmd.h"
#include "select.h"
#include "table.h"

enum { KEYS = 6, LABEL = 200 };

struct axis {
  char column[KEYS][FILTER_TEXT];
  int n;
};

static void usage(FILE *out) {
  fprintf(out,
          "usage: longca show FILE... [--where FILTER]... [--at COLUMN=VALUE]... [--format F]\n"
          "                   [--columns COLUMN,...]\n"
          "       longca show FILE... --rows COLUMN,... --across COLUMN,... --value QUANTITY ...\n"
          "       longca show --table FILE.csv [--format F]\n\n"
          "  --columns  of the plain list; `--columns help` names them all\n"
          "  --rows, --across, --value   one quantity over two axes, the median over draws; a cell\n"
          "             without a value holds its status\n"
          "  --where    \"mask=full,causal pass=fwd seqlen>=4K\"; may be repeated\n"
          "  --at       rows with this value or, when there are none, with the value most rows have\n"
          "  --format   %s\n"
          "  --caption  printed above the table\n",
          table_formats());
}

static int bad(const char *message) {
  fprintf(stderr, "longca show: %s\n", message);
  return 2;
}

static int parse_axis(struct axis *a, char *text, char *err, size_t err_size) {
  char *save = NULL;
  for (char *name = strtok_r(text, ",", &save); name; name = strtok_r(NULL, ",", &save)) {
    if (a->n == KEYS || !select_is_column(name)) {
      snprintf(err, err_size, a->n == KEYS ? "'%s': an axis has at most six columns"
                                           : "unknown column '%s'; `longca show --columns help` lists them",
               name);
      return -1;
    }
    snprintf(a->column[a->n++], FILTER_TEXT, "%s", name);
  }
  return 0;
}

static void print_columns(void) {
  puts("mode\nplace");
  for (const struct row_column *c = row_columns; c->name; c++)
    puts(c->name);
}

static int show_list(const struct row *rows, size_t n, char *columns, enum table_format format,
                     const char *caption) {
  struct table t = table_new(0);
  t.caption = caption;
  char *save = NULL, value[ROW_REASON];
  const char *names[128];
  for (char *name = strtok_r(columns, ",", &save); name; name = strtok_r(NULL, ",", &save)) {
    if (!select_is_column(name) || t.columns == 128) {
      fprintf(stderr, "longca show: unknown column '%s'; `longca show --columns help` lists them\n", name);
      return 2;
    }
    names[t.columns++] = name;
  }
  for (int c = 0; c < t.columns; c++)
    table_add(&t, "%s", names[c]);
  for (size_t i = 0; i < n; i++)
    for (int c = 0; c < t.columns; c++) {
      const struct row_column *column = row_find_column(names[c]);
      const double x = column && !column->text ? row_number(&rows[i], names[c]) : NAN;
      if (!isnan(x) && x != floor(x) && format != TABLE_CSV)
        table_add(&t, "%.5g", x);
      else
        table_add(&t, "%s", select_text(&rows[i], names[c], value, sizeof value));
    }
  table_print(&t, format, stdout);
  table_free(&t);
  return 0;
}

// ---- one quantity over two axes -------------------------------------------------------------

static const struct axis *sort_axis; // qsort has no context

struct label {
  const struct row *row;
  char text[LABEL];
};

static int by_axis(const void *a, const void *b) {
  const struct label *x = a, *y = b;
  char p[ROW_REASON], q[ROW_REASON];
  for (int i = 0; i < sort_axis->n; i++) {
    const char *column = sort_axis->column[i];
    select_text(x->row, column, p, sizeof p);
    select_text(y->row, column, q, sizeof q);
    if (!strcmp(p, q))
      continue;
    if (!strcmp(column, "machine") || !strcmp(column, "profile"))
      return x->row < y->row ? -1 : 1;
    const int d = select_order(column, p, q);
    if (d)
      return d;
  }
  return 0;
}

static void label_point(struct label *l, const struct axis *a, const struct row *row) {
  char value[ROW_REASON];
  size_t at = 0;
  l->row = row;
  l->text[0] = 0;
  for (int i = 0; i < a->n; i++)
    at += (size_t)snprintf(l->text + at, sizeof l->text - at, "%s%.60s", i ? "\t" : "",
                           select_text(row, a->column[i], value, sizeof value));
}

// Distinct labels in order; returns how many.
static size_t distinct(struct label *l, size_t n, const struct axis *a) {
  sort_axis = a;
  qsort(l, n, sizeof *l, by_axis);
  size_t m = 0;
  for (size_t i = 0; i < n; i++) {
    size_t j = 0;
    while (j < m && strcmp(l[j].text, l[i].text) != 0)
      j++;
    if (j == m)
      l[m++] = l[i];
  }
  return m;
}

static void add_cell(struct table *t, const struct measured *p) {
  if (!p)
    table_add(t, "%s", "");
  else if (!isnan(p->y))
    table_add(t, fabs(p->y) < 1e5 ? "%.5g" : "%.0f", p->y);
  else if (!strcmp(p->row->status, "oom"))
    table_add(t, "OOM");
  else if (!strcmp(p->row->status, "unsupported"))
    table_add(t, "\u2013");
  else
    table_add(t, "%s", p->row->status);
}

static int show_spread(const struct row *rows, size_t n, const struct axis *down, const struct axis *across,
                       const struct quantity *q, enum table_format format, const char *caption) {
  const struct filter all = {.n = 0};
  struct measured *p = NULL;
  size_t m = 0;
  struct label *l = NULL, *head = NULL, *own = NULL;
  if (!select_points(rows, n, &all, q, &p, &m)) {
    l = calloc(m + 1, sizeof *l);
    head = calloc(m + 1, sizeof *head);
    own = calloc(2 * m + 1, sizeof *own);
  }
  if (!l || !head || !own) {
    fputs("longca show: out of memory\n", stderr);
    free(l);
    free(head);
    free(own);
    free(p);
    return 1;
  }
  for (size_t i = 0; i < m; i++) {
    label_point(&own[2 * i], down, p[i].row);
    label_point(&own[2 * i + 1], across, p[i].row);
    l[i] = own[2 * i];
    head[i] = own[2 * i + 1];
  }
  const size_t n_rows = distinct(l, m, down), n_columns = distinct(head, m, across);
  struct table t = table_new(down->n + (int)n_columns);
  t.caption = caption;
  for (int c = 0; c < down->n; c++)
    table_add(&t, "%s", down->column[c]);
  for (size_t c = 0; c < n_columns; c++) {
    char text[LABEL];
    snprintf(text, sizeof text, "%s", head[c].text);
    for (char *s = text; *s; s++)
      *s = *s == '\t' ? '\n' : *s;
    table_add(&t, "%s", text);
  }
  for (size_t r = 0; r < n_rows; r++) {
    char value[ROW_REASON];
    for (int c = 0; c < down->n; c++) {
      select_text(l[r].row, down->column[c], value, sizeof value);
      const double x = l[r].row->seqlen;
      if (!strcmp(down->column[c], "seqlen") && x >= 1024 && fmod(x, 1024) == 0)
        table_add(&t, "%.0fK", x / 1024);
      else
        table_add(&t, "%s", value);
    }
    for (size_t c = 0; c < n_columns; c++) {
      const struct measured *found = NULL;
      for (size_t i = 0; i < m; i++)
        if (!strcmp(own[2 * i].text, l[r].text) && !strcmp(own[2 * i + 1].text, head[c].text) &&
            (!found || isnan(found->y)))
          found = &p[i];
      add_cell(&t, found);
    }
  }
  table_print(&t, format, stdout);
  table_free(&t);
  free(l);
  free(head);
  free(own);
  free(p);
  return 0;
}

// ---- any CSV, printed as it is --------------------------------------------------------------

struct reading {
  struct table *table;
  int field;
};

static void on_field(void *text, size_t size, void *context) {
  struct reading *r = context;
  table_add(r->table, "%.*s", (int)size, text ? (const char *)text : "");
  r->field++;
}

static void on_line(int end, void *context) {
  struct reading *r = context;
  if (!r->table->columns)
    r->table->columns = r->field;
  while (r->table->cells % (size_t)r->table->columns) // a short line
    table_add(r->table, "%s", "");
}

static int show_table(const char *path, enum table_format format, const char *caption) {
  FILE *f = fopen(path, "r");
  if (!f) {
    fprintf(stderr, "longca show: cannot read %s\n", path);
    return 2;
  }
  struct table t = table_new(0);
  struct reading r = {&t, 0};
  struct csv_parser parser;
  char line[8192];
  t.caption = caption;
  csv_init(&parser, CSV_APPEND_NULL);
  while (fgets(line, sizeof line, f))
    if (*line != '#')
      csv_parse(&parser, line, strlen(line), on_field, on_line, &r);
  csv_fini(&parser, on_field, on_line, &r);
  csv_free(&parser);
  fclose(f);
  table_print(&t, format, stdout);
  table_free(&t);
  return 0;
}

int cmd_show(int argc, char **argv) {
  static const struct option options[] = {
      {"where", required_argument, NULL, 'w'}, {"at", required_argument, NULL, 'a'},
      {"columns", required_argument, NULL, 'c'}, {"rows", required_argument, NULL, 'r'},
      {"across", required_argument, NULL, 'x'}, {"value", required_argument, NULL, 'v'},
      {"format", required_argument, NULL, 'f'}, {"table", required_argument, NULL, 'T'},
      {"caption", required_argument, NULL, 't'},
      {"help", no_argument, NULL, 'h'},        {0}};
  char columns[1024] = "mask,kernel,rep,engine,pass,mode,seqlen,block,ratio,draw,status,time_us,time_us_low,"
                       "time_us_high,tflop_s,peak_pct,prep_us,peak_mem_bytes";
  char err[1024];
  const char *wishes[8], *caption = NULL, *table = NULL;
  struct filter where = {.n = 0};
  struct axis down = {.n = 0}, across = {.n = 0};
  struct quantity q = {"tflop_s", 1};
  int format = TABLE_TEXT, n_wishes = 0;
  for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
    if (c == 'h' || (c == 'c' && !strcmp(optarg, "help"))) {
      c == 'h' ? usage(stdout) : print_columns();
      return 0;
    }
    if (c == '?')
      return 2;
    if ((c == 'w' && filter_add(&where, optarg, err, sizeof err)) ||
        (c == 'r' && parse_axis(&down, optarg, err, sizeof err)) ||
        (c == 'x' && parse_axis(&across, optarg, err, sizeof err)) ||
        (c == 'v' && quantity_parse(&q, optarg, err, sizeof err)))
      return bad(err);
    if (c == 'a' && n_wishes == (int)(sizeof wishes / sizeof *wishes))
      return bad("too many --at");
    if (c == 'a')
      wishes[n_wishes++] = optarg;
    if (c == 'c')
      snprintf(columns, sizeof columns, "%s", optarg);
    if (c == 't')
      caption = optarg;
    if (c == 'T')
      table = optarg;
    if (c == 'f' && (format = table_format_parse(optarg)) < 0) {
      snprintf(err, sizeof err, "unknown format '%.40s'; the formats are %s", optarg, table_formats());
      return bad(err);
    }
  }
  if (table)
    return show_table(table, (enum table_format)format, caption);
  if (!down.n != !across.n)
    return bad("--rows and --across go together");
  if (optind == argc)
    return bad("which file of rows? (data/fresh/MACHINE/PROFILE.csv)");
  struct row *rows = NULL;
  size_t n = 0, kept = 0;
  if (select_read(argv + optind, argc - optind, &rows, &n, err, sizeof err))
    return bad(err);
  for (size_t i = 0; i < n; i++)
    if (filter_match(&where, &rows[i]))
      rows[kept++] = rows[i];
  n = kept;
  int status = 0;
  for (int i = 0; i < n_wishes && !status; i++)
    if (select_prefer(rows, &n, wishes[i], err, sizeof err))
      status = bad(err);
  if (!status && !n) {
    fputs("longca show: no row matches; `longca run` measures what is missing\n", stderr);
    status = 1;
  }
  if (!status)
    status = down.n ? show_spread(rows, n, &down, &across, &q, (enum table_format)format, caption)
                    : show_list(rows, n, columns, (enum table_format)format, caption);
  free(rows);
  return status;
}
