// cmd_show.c -- `longca show`: rows as a table, as they are or one quantity over two axes (spread.h).
#include <csv.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cmd.h"
#include "select.h"
#include "spread.h"
#include "table.h"

static void usage(FILE *out) {
  fprintf(
      out,
      "usage: longca show FILE... [--where FILTER]... [--at COLUMN=VALUE]... [--format F]\n"
      "                   [--columns COLUMN,...]\n"
      "       longca show FILE... --rows COLUMN,... --across COLUMN,... --value QUANTITY ...\n"
      "       longca show --table FILE.csv [--format F]\n\n"
      "  --columns  of the plain list; `--columns help` names them all\n"
      "  --rows, --across, --value   one quantity over two axes, the median over draws; a cell\n"
      "             without a value holds its status\n"
      "  --where    \"mask=full,causal pass=fwd seqlen>=4K\"; may be repeated. Rows of context "
      "parallelism\n"
      "             are shown where cp is named: \"cp!=none\"\n"
      "  --at       rows with this value or, when there are none, with the value most rows have\n"
      "  --format   %s\n"
      "  --caption  printed above the table\n",
      table_formats());
}

static int bad(const char *message) { return cmd_refuse("show", "%s", message); }

static void print_columns(void) {
  puts("mode\nplace\ntokens");
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
    if (!filter_is_column(name) || t.columns == 128) {
      fprintf(stderr, "longca show: unknown column '%s'; `longca show --columns help` lists them\n",
              name);
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
        table_add(&t, "%s", filter_text(&rows[i], names[c], value, sizeof value));
    }
  table_print(&t, format, stdout);
  table_free(&t);
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
  static const struct option options[] = {{"where", required_argument, NULL, 'w'},
                                          {"at", required_argument, NULL, 'a'},
                                          {"columns", required_argument, NULL, 'c'},
                                          {"rows", required_argument, NULL, 'r'},
                                          {"across", required_argument, NULL, 'x'},
                                          {"value", required_argument, NULL, 'v'},
                                          {"format", required_argument, NULL, 'f'},
                                          {"table", required_argument, NULL, 'T'},
                                          {"caption", required_argument, NULL, 't'},
                                          {"help", no_argument, NULL, 'h'},
                                          {0}};
  char columns[1024] =
      "mask,kernel,rep,engine,pass,mode,seqlen,block,ratio,draw,status,time_us,time_us_low,"
      "time_us_high,tflop_s,peak_pct,prep_us,peak_mem_bytes";
  char err[1024];
  char *wishes[8];
  const char *caption = NULL, *table = NULL;
  struct filter where = {.n = 0};
  struct spread_axis down = {.n = 0}, across = {.n = 0};
  struct quantity q = {"tflop_s", 1};
  enum table_format format = TABLE_TEXT;
  int n_wishes = 0;
  optind = 0;
  for (int c; (c = cmd_option(argc, argv, options)) != -1;) {
    if (c == 'h' || (c == 'c' && !strcmp(optarg, "help"))) {
      c == 'h' ? usage(stdout) : print_columns();
      return 0;
    }
    if (c == '?')
      return 2;
    if ((c == 'w' && filter_add(&where, optarg, err, sizeof err)) ||
        (c == 'r' && spread_parse_axis(&down, optarg, err, sizeof err)) ||
        (c == 'x' && spread_parse_axis(&across, optarg, err, sizeof err)) ||
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
    if (c == 'f' && cmd_format("show", optarg, &format))
      return 2;
  }
  if (table)
    return show_table(table, format, caption);
  if (!down.n != !across.n)
    return bad("--rows and --across go together");
  if (optind == argc)
    return bad("which file of rows? (data/fresh/MACHINE/PROFILE.csv)");
  struct row *rows = NULL;
  size_t n = 0;
  if (select_load(argv + optind, argc - optind, &where, wishes, n_wishes, &rows, &n, err,
                  sizeof err))
    return bad(err);
  int status = 0;
  if (!n) {
    fputs(
        "longca show: no row matches; `longca run` measures what is missing, and --where cp!=none "
        "takes rows of context parallelism\n",
        stderr);
    status = 1;
  }
  if (!status && down.n && select_is_emulated(rows, n, err, sizeof err))
    status = bad(err);
  if (!status)
    status = down.n ? spread_print(rows, n, &down, &across, &q, format, caption)
                    : show_list(rows, n, columns, format, caption);
  free(rows);
  return status;
}
