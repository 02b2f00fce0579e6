// table.c -- the one printer of tables: what differs between formats is a few strings and the escapes.
#include "table.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

static void need(const void *p) {
  if (!p) {
    fputs("longca: out of memory\n", stderr);
    exit(1);
  }
}

struct table table_new(int columns) {
  return (struct table){.columns = columns};
}

void table_add(struct table *t, const char *format, ...) {
  if (t->cells == t->capacity) {
    t->capacity = t->capacity ? 2 * t->capacity : 64;
    t->cell = realloc(t->cell, t->capacity * sizeof *t->cell);
    need(t->cell);
  }
  va_list ap;
  va_start(ap, format);
  const int size = vsnprintf(NULL, 0, format, ap);
  va_end(ap);
  char *text = malloc((size_t)size + 1);
  need(text);
  va_start(ap, format);
  vsnprintf(text, (size_t)size + 1, format, ap);
  va_end(ap);
  t->cell[t->cells++] = text;
}

void table_free(struct table *t) {
  for (size_t i = 0; i < t->cells; i++)
    free(t->cell[i]);
  free(t->cell);
  *t = (struct table){0};
}

static const char *cell_at(const struct table *t, size_t row, int column) {
  const size_t i = row * (size_t)t->columns + (size_t)column;
  return i < t->cells ? t->cell[i] : "";
}

// Characters, not bytes: continuation bytes of UTF-8 take no room.
static int width_of(const char *s) {
  int w = 0, widest = 0;
  for (; *s; s++) {
    w = *s == '\n' ? 0 : w + ((*s & 0xc0) != 0x80);
    widest = w > widest ? w : widest;
  }
  return widest;
}

// Line `i` of a cell; the header alone has several.
static const char *line_of(const char *s, int i, char *buf, size_t size) {
  for (; i > 0 && *s; i--)
    s += strcspn(s, "\n") + (s[strcspn(s, "\n")] == '\n');
  snprintf(buf, size, "%.*s", (int)strcspn(s, "\n"), s);
  return buf;
}

static bool is_flush_right(const struct table *t, size_t rows, int column) {
  bool some = false;
  for (size_t r = 1; r < rows; r++) {
    const char *s = cell_at(t, r, column);
    char *end;
    strtod(s, &end);
    const bool number = end != s && (!*end || strchr("KMx%", *end));
    if (*s && !number && strcmp(s, "\u2013") != 0 && strcmp(s, "OOM") != 0)
      return false;
    some |= *s != 0;
  }
  return some;
}

static void put_escaped(const char *s, enum table_format format, FILE *out) {
  if (format == TABLE_CSV && strpbrk(s, ",\"")) {
    fputc('"', out);
    for (; *s; s++)
      fprintf(out, *s == '"' ? "\"\"" : "%c", *s);
    fputc('"', out);
    return;
  }
  for (; *s; s++) {
    if (*s == '\n')
      fputs(format == TABLE_CSV ? " " : format == TABLE_TEX ? "\\\\" : "<br>", out);
    else if (format == TABLE_MD && *s == '|')
      fputs("\\|", out);
    else if (format == TABLE_TEX && strchr("&%$#_{}", *s))
      fprintf(out, "\\%c", *s);
    else if (format == TABLE_TEX && strchr("~^\\", *s))
      fputs(*s == '\\' ? "\\textbackslash{}" : *s == '~' ? "\\textasciitilde{}" : "\\^{}", out);
    else if (format == TABLE_HTML && strchr("&<>", *s))
      fputs(*s == '&' ? "&amp;" : *s == '<' ? "&lt;" : "&gt;", out);
    else
      fputc(*s, out);
  }
}

// What stands before and after a table, a row and a cell.
static const struct style {
  const char *open, *close, *row_open, *row_close, *between;
} styles[] = {
    [TABLE_TEXT] = {"", "", "", "\n", "  "},
    [TABLE_MD] = {"", "", "| ", " |\n", " | "},
    [TABLE_TEX] = {"", "\\bottomrule\n\\end{tabular}\n", "", " \\\\\n", " & "},
    [TABLE_HTML] = {"<table>\n", "</tbody></table>\n", "<tr>", "</tr>\n", ""},
    [TABLE_CSV] = {"", "", "", "\n", ","},
};

static void print_rule(enum table_format format, int columns, const int *width, const bool *right,
                       FILE *out) {
  if (format == TABLE_TEX)
    fputs("\\midrule\n", out);
  if (format == TABLE_HTML)
    fputs("</thead><tbody>\n", out);
  if (format != TABLE_TEXT && format != TABLE_MD)
    return;
  for (int c = 0; c < columns; c++) {
    fputs(format == TABLE_MD ? c ? " | " : "| " : c ? "  " : "", out);
    for (int i = 0; i < width[c] - (format == TABLE_MD && right[c]); i++)
      fputs("-", out);
    if (format == TABLE_MD && right[c])
      fputc(':', out);
  }
  fputs(format == TABLE_MD ? " |\n" : "\n", out);
}

static int header_lines(const struct table *t) {
  int most = 1;
  for (int c = 0; c < t->columns; c++) {
    int lines = 1;
    for (const char *s = cell_at(t, 0, c); *s; s++)
      lines += *s == '\n';
    most = lines > most ? lines : most;
  }
  return most;
}

// One row; line >= 0: that line of its cells alone (text format, a header of several lines).
static void print_line(const struct table *t, size_t row, int line, enum table_format format,
                       const int *width, const bool *right, FILE *out) {
  const struct style *s = &styles[format];
  char part[256];
  fputs(s->row_open, out);
  for (int c = 0; c < t->columns; c++) {
    const char *text = cell_at(t, row, c), *tag = row ? "td" : "th";
    if (line >= 0)
      text = line_of(text, line, part, sizeof part);
    const bool aligned = format == TABLE_TEXT || format == TABLE_MD;
    const bool stack = format == TABLE_TEX && strchr(text, '\n');
    const int pad = aligned ? width[c] - width_of(text) : 0;
    fputs(c ? s->between : "", out);
    if (format == TABLE_HTML)
      fprintf(out, "<%s%s>", tag, right[c] ? " class=\"n\"" : "");
    fprintf(out, "%*s%s", right[c] ? pad : 0, "", stack ? "\\shortstack{" : "");
    put_escaped(text, format, out);
    fputs(stack ? "}" : "", out);
    if (!right[c] && (c + 1 < t->columns || format == TABLE_MD))
      fprintf(out, "%*s", pad, "");
    if (format == TABLE_HTML)
      fprintf(out, "</%s>", tag);
  }
  fputs(s->row_close, out);
}

void table_print(const struct table *t, enum table_format format, FILE *out) {
  const size_t rows = t->columns ? (t->cells + (size_t)t->columns - 1) / (size_t)t->columns : 0;
  const struct style *s = &styles[format];
  int *width = calloc((size_t)t->columns + 1, sizeof *width);
  bool *right = calloc((size_t)t->columns + 1, sizeof *right);
  need(width);
  need(right);
  for (int c = 0; c < t->columns; c++) {
    width[c] = format == TABLE_MD ? 3 : 1;
    for (size_t r = 0; r < rows; r++) {
      const int w = width_of(cell_at(t, r, c));
      width[c] = w > width[c] ? w : width[c];
    }
    right[c] = is_flush_right(t, rows, c);
  }
  const bool aligned = format == TABLE_TEXT || format == TABLE_MD;
  if (t->caption && aligned)
    fprintf(out, "%s\n\n", t->caption);
  if (t->caption && (format == TABLE_TEX || format == TABLE_CSV))
    fprintf(out, "%c %s\n", format == TABLE_TEX ? '%' : '#', t->caption);
  fputs(s->open, out);
  if (format == TABLE_TEX) {
    fputs("\\begin{tabular}{", out);
    for (int c = 0; c < t->columns; c++)
      fputc(right[c] ? 'r' : 'l', out);
    fputs("}\n\\toprule\n", out);
  }
  if (format == TABLE_HTML && t->caption) {
    fputs("<caption>", out);
    put_escaped(t->caption, format, out);
    fputs("</caption>\n", out);
  }
  if (format == TABLE_HTML)
    fputs("<thead>", out);
  for (size_t r = 0; r < rows; r++) {
    const int lines = format == TABLE_TEXT && !r ? header_lines(t) : 1;
    for (int i = 0; i < lines; i++)
      print_line(t, r, lines > 1 ? i : -1, format, width, right, out);
    if (!r)
      print_rule(format, t->columns, width, right, out);
  }
  fputs(s->close, out);
  free(width);
  free(right);
}

static const char *const names[] = {"text", "md", "tex", "html", "csv"};

int table_format_parse(const char *name) {
  for (int i = 0; i < (int)(sizeof names / sizeof *names); i++)
    if (!strcmp(names[i], name))
      return i;
  return -1;
}

const char *table_formats(void) { return "text, md, tex, html, csv"; }
