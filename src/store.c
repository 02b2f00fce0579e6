// store.c -- rows in a CSV file: a row a tuple of independent variables.
//
// A row is one line written by one call, so whatever stops a run, only the last line can be torn, and a line
// is whole exactly when it ends in a newline. The lock is flock(2) on the file itself: it goes with the
// process that holds it, kill -9 included.
#include "store.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "row_csv.h"

// ---- reading --------------------------------------------------------------------------------

// All that is left to read, a pipe too, NUL-terminated, for free(); NULL with errno.
static char *slurp(int fd, size_t *size) {
  size_t capacity = 1 << 16;
  char *text = NULL, *more;
  *size = 0;
  while ((more = realloc(text, capacity))) {
    text = more;
    const ssize_t r = read(fd, text + *size, capacity - 1 - *size);
    if (r < 0 && errno != EINTR)
      break;
    *size += r > 0 ? (size_t)r : 0;
    text[*size] = 0;
    if (r == 0)
      return text;
    capacity *= *size == capacity - 1 ? 2 : 1;
  }
  free(text);
  return NULL;
}

static size_t whole_lines(const char *text, size_t size) {
  while (size && text[size - 1] != '\n')
    size--;
  return size;
}

int store_read(const char *path, struct row **rows, size_t *n, char *err, size_t err_size) {
  *rows = NULL;
  *n = 0;
  const int fd = open(path, O_RDONLY | O_CLOEXEC);
  size_t size = 0;
  char fault[200], *text = fd < 0 ? NULL : slurp(fd, &size);
  int status = -1;
  if (!text)
    snprintf(err, err_size, "%s: %s", path, strerror(errno));
  else if ((status = row_csv_parse(text, whole_lines(text, size), rows, n, fault, sizeof fault)))
    snprintf(err, err_size, "%s: %s", path, fault);
  free(text);
  if (fd >= 0)
    close(fd);
  return status;
}

// ---- writing --------------------------------------------------------------------------------

static int write_line(int fd, const struct row *row, bool flush) {
  char *line = malloc(ROW_CSV_LINE_BYTES);
  if (!line)
    return -1;
  const off_t before = lseek(fd, 0, SEEK_END);
  const size_t size = row_csv_line(row, line);
  size_t done = 0;
  while (before >= 0 && done < size) {
    const ssize_t w = write(fd, line + done, size - done);
    if (w < 0 && errno == EINTR)
      continue;
    if (w <= 0)
      break;
    done += (size_t)w;
  }
  free(line);
  // A full disk may show only when the data are flushed. EINVAL, EROFS: a special file, no flush.
  if (done == size && (!flush || !fdatasync(fd) || errno == EINVAL || errno == EROFS))
    return 0;
  const int cause = errno;
  if (before >= 0 && ftruncate(fd, before)) {
  } // what is left is then a torn line, repaired by the next store_open
  errno = cause;
  return -1;
}

static void make_folders(const char *path) {
  char folder[STORE_PATH];
  snprintf(folder, sizeof folder, "%s", path);
  for (char *slash = strchr(folder + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
    *slash = 0;
    mkdir(folder, 0777); // one that is there already, or cannot be made, shows when opening
    *slash = '/';
  }
}

// Opens and locks the file that bears the name, even when a store_replace() swaps it meanwhile.
static int open_locked(const char *path, char *err, size_t err_size) {
  // A run that was just killed leaves workers that hold its lock for another moment.
  for (int tries = 0;;) {
    struct stat by_fd, by_name;
    const int fd = open(path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (fd < 0) {
      snprintf(err, err_size, "%s: %s", path, strerror(errno));
      return -1;
    }
    if (flock(fd, LOCK_EX | LOCK_NB)) {
      if (++tries < 100) {
        close(fd);
        nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
        continue;
      }
      snprintf(err, err_size, "%s: another run is writing this file; wait for it or stop it", path);
      close(fd);
      return -1;
    }
    if (!fstat(fd, &by_fd) && !stat(path, &by_name) && by_fd.st_ino == by_name.st_ino)
      return fd;
    close(fd);
  }
}

// Makes the header ours: writes it into an empty file, and brings the rows of an older version along
// when they have no column that would be lost.
static int settle_header(struct store *s, const char *text, size_t size, char *err,
                         size_t err_size) {
  static char header[ROW_CSV_LINE_BYTES];
  const size_t header_size = row_csv_line(NULL, header);
  if (!size) {
    if (!write_line(s->fd, NULL, true))
      return 0;
    snprintf(err, err_size, "%s: %s", s->path, strerror(errno));
    return -1;
  }
  if (size >= header_size && !memcmp(text, header, header_size))
    return 0;
  snprintf(header, sizeof header, "%.*s", (int)strcspn(text, "\r\n"), text);
  for (char *name, *rest = header; (name = strsep(&rest, ","));)
    if (!row_find_column(name)) {
      snprintf(err, err_size,
               "%s: unknown column '%.40s', so another version wrote it; move it away", s->path,
               name);
      return -1;
    }
  struct row *rows;
  size_t n;
  if (store_read(s->path, &rows, &n, err, err_size))
    return -1;
  const int status = store_replace(s, rows, n, err, err_size);
  free(rows);
  return status;
}

int store_open(struct store *s, const char *path, char *err, size_t err_size) {
  s->fd = -1;
  if (strlen(path) >= sizeof s->path - 8) {
    snprintf(err, err_size, "%.80s...: the path is too long", path);
    return -1;
  }
  snprintf(s->path, sizeof s->path, "%s", path);
  make_folders(path);
  s->fd = open_locked(path, err, err_size);
  if (s->fd < 0)
    return -1;
  size_t size = 0;
  char *text = slurp(s->fd, &size);
  const size_t whole = text ? whole_lines(text, size) : 0;
  int status = -1;
  if (!text || (whole < size && ftruncate(s->fd, (off_t)whole)))
    snprintf(err, err_size, "%s: %s", path, strerror(errno));
  else
    status = settle_header(s, text, whole, err, err_size);
  free(text);
  if (status)
    store_close(s);
  return status;
}

int store_replace(struct store *s, const struct row *rows, size_t n, char *err, size_t err_size) {
  char path[STORE_PATH + 8];
  snprintf(path, sizeof path, "%s.new", s->path);
  const int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0666);
  bool ok = fd >= 0 && !flock(fd, LOCK_EX | LOCK_NB) && !write_line(fd, NULL, false);
  for (size_t i = 0; ok && i < n; i++)
    ok = !write_line(fd, &rows[i], false);
  ok = ok && !fdatasync(fd);
  if (!ok || rename(path, s->path)) {
    snprintf(err, err_size, "%s: %s", path, strerror(errno));
    if (fd >= 0) {
      unlink(path);
      close(fd);
    }
    return -1;
  }
  close(s->fd);
  s->fd = fd;
  return 0;
}

int store_append(struct store *s, const struct row *row, char *err, size_t err_size) {
  if (!write_line(s->fd, row, true))
    return 0;
  snprintf(err, err_size, "%s: %s", s->path, strerror(errno));
  return -1;
}

void store_close(struct store *s) {
  if (s->fd >= 0)
    close(s->fd);
  s->fd = -1;
}
