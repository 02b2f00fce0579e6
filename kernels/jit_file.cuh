// jit_file.cuh -- cubins as files (jit.h): one line of text that says what compiling gave, and the
// cubin, whose hash the line has: a file cut short or altered is compiled anew. Included by jit.cu alone.
#ifndef LONGCA_JIT_FILE_CUH
#define LONGCA_JIT_FILE_CUH

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <string>

#include "jit.h"

namespace jit {

// FNV-1a, 128 bits, as hexadecimal digits. Each part is closed by its final 0.
struct content_hash {
  unsigned __int128 h = (unsigned __int128)0x6c62272e07bb0142 << 64 | 0x62b821756295c58d;
  void add(const char *data, size_t bytes) {
    const unsigned __int128 prime = (unsigned __int128)1 << 88 | 0x13b;
    for (size_t i = 0; i < bytes; i++)
      h = (h ^ (unsigned char)data[i]) * prime;
  }
  void add(const char *text) { add(text, strlen(text) + 1); }
  std::string digits() const {
    char text[33];
    snprintf(text, sizeof text, "%016llx%016llx", (unsigned long long)(h >> 64),
             (unsigned long long)h);
    return text;
  }
};

// Folder of the cache, made if need be; empty: there is none, and nothing is kept.
inline std::string cache_folder() {
  const char *xdg = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
  if (!(xdg && *xdg == '/') && !(home && *home == '/'))
    return "";
  std::string path = xdg && *xdg == '/' ? xdg : std::string(home) + "/.cache";
  for (const char *name : {"", "/longca"}) {
    path += name;
    if (mkdir(path.c_str(), 0777) && errno != EEXIST)
      return "";
  }
  return path;
}

// Read and written by one format but for the first and the last field.
#define JIT_HEADER(us, digits) \
  "longca cubin, compiled in " us " us, %d registers, %d bytes of stack, %d spilled, %d warnings, " \
  "%zu bytes, hash " digits

inline bool read_file(const std::string &path, jit_kernel *k) {
  FILE *f = fopen(path.c_str(), "rb");
  if (!f)
    return false;
  char line[300], digits[33] = "";
  bool good = fgets(line, sizeof line, f) &&
              sscanf(line, JIT_HEADER("%lf", "%32[0-9a-f]"), &k->compile_us, &k->registers,
                     &k->stack_bytes, &k->spill_bytes, &k->warnings, &k->bytes, digits) == 7 &&
              k->bytes < (size_t)1 << 30 && (k->cubin = malloc(k->bytes + 1)) &&
              fread(k->cubin, 1, k->bytes + 1, f) == k->bytes;
  fclose(f);
  if (good) {
    content_hash hash;
    hash.add((const char *)k->cubin, k->bytes);
    good = hash.digits() == digits;
  }
  if (!good) {
    free(k->cubin);
    *k = {};
  }
  k->from_file = good;
  return good;
}

// Under another name first, so that no reader sees half a file. A cache that cannot be written is none.
inline void write_file(const std::string &path, const jit_kernel *k) {
  const std::string part = path + "." + std::to_string(getpid());
  FILE *f = fopen(part.c_str(), "wb");
  if (!f)
    return;
  content_hash hash;
  hash.add((const char *)k->cubin, k->bytes);
  fprintf(f, JIT_HEADER("%.0f", "%s") "\n", k->compile_us, k->registers, k->stack_bytes,
          k->spill_bytes, k->warnings, k->bytes, hash.digits().c_str());
  const bool wrote = fwrite(k->cubin, 1, k->bytes, f) == k->bytes;
  if (fclose(f) || !wrote || rename(part.c_str(), path.c_str()))
    unlink(part.c_str());
}

} // namespace jit

#endif
