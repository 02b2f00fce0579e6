// env.c -- the machine's short name, the commit, and what would disturb a measurement.
#include "env.h"

#include <ctype.h>
#include <errno.h>
#include <hwloc.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include "exp.h"
#include "sys.h"

// ---- names ----------------------------------------------------------------------------------

const char *env_cpu_name(char *buf, size_t size) {
  sys_field("/proc/cpuinfo", "model name", buf, size);
  if (!*buf)
    sys_line("/proc/device-tree/model", buf, size);
  if (!*buf) {
    struct utsname u;
    snprintf(buf, size, "%s", uname(&u) ? "cpu" : u.machine);
  }
  return buf;
}

int env_cores(void) {
  hwloc_topology_t topology;
  int n = 0;
  if (!hwloc_topology_init(&topology)) {
    if (!hwloc_topology_load(topology))
      n = hwloc_get_nbobjs_by_type(topology, HWLOC_OBJ_CORE);
    hwloc_topology_destroy(topology);
  }
  return n > 0 ? n : (int)sysconf(_SC_NPROCESSORS_ONLN);
}

// "AMD EPYC 9575F 64-Core Processor @ 3.3GHz" -> "amd-epyc-9575f": words joined by -, without makers'
// marks and words that say nothing; letters, digits and - alone.
static void slug(const char *name, char *buf, size_t size) {
  static const char *const noise[] = {"cpu", "processor", "with", "intel", "nvidia", "gpu", NULL};
  size_t at = 0;
  for (const char *c = name; *c && *c != '@';) {
    char word[64];
    size_t n = 0;
    for (; *c && *c != '@' && !strchr(" \t_/", *c); c++)
      if (*c == '(') // (R), (TM)
        c += strcspn(c, ")") - (c[strcspn(c, ")")] == 0);
      else if ((isalnum((unsigned char)*c) || (*c == '-' && n)) && n + 1 < sizeof word)
        word[n++] = (char)tolower((unsigned char)*c);
    word[n] = 0;
    c += strspn(c, " \t_/");
    bool skip = !n || strstr(word, "-core");
    for (int i = 0; noise[i]; i++)
      skip = skip || !strcmp(word, noise[i]);
    if (!skip && at + n + 2 < size)
      at += (size_t)snprintf(buf + at, size - at, at ? "-%s" : "%s", word);
  }
  if (!at)
    snprintf(buf, size, "machine");
}

// ---- GPU: asked in a child ------------------------------------------------------------------

struct gpu {
  int count;
  struct device_info info;
};

static struct gpu ask_gpu(void) {
  struct gpu gpu = {0};
  int ends[2];
  if (pipe(ends))
    return gpu;
  fflush(NULL);
  const pid_t child = fork();
  if (child == 0) {
    close(ends[0]);
    gpu.count = device_count();
    if (gpu.count > 0 && (device_open(0) || device_info(&gpu.info)))
      gpu.count = 0;
    const ssize_t w = write(ends[1], &gpu, sizeof gpu);
    _exit(w == sizeof gpu ? 0 : 1);
  }
  close(ends[1]);
  struct gpu answer;
  const bool whole = child > 0 && read(ends[0], &answer, sizeof answer) == sizeof answer;
  close(ends[0]);
  while (child > 0 && waitpid(child, NULL, 0) < 0 && errno == EINTR)
    ;
  return whole ? answer : gpu;
}

static const struct gpu *gpu(void) {
  static struct gpu known;
  static bool asked;
  if (!asked)
    known = ask_gpu();
  asked = true;
  return &known;
}

int env_gpu_count(void) { return gpu()->count; }
const struct device_info *env_gpu(void) { return gpu()->count > 0 ? &gpu()->info : NULL; }

// ---- this machine, these sources ------------------------------------------------------------

const char *env_machine(enum attn_place place, char *buf, size_t size) {
  const char *set = getenv("LONGCA_MACHINE");
  char name[256];
  const struct device_info *device = place == ATTN_DEVICE ? env_gpu() : NULL;
  if (device && device->emulated) {
    // Whatever it is to be called, its rows are to be told from measurements: row_is_emulated().
    snprintf(name, sizeof name, "emulated-%.200s", set && *set ? set : "gpu");
    slug(name, buf, size);
    return buf;
  }
  if (set && *set) {
    slug(set, buf, size);
    return buf;
  }
  if (device) {
    slug(device->name, buf, size);
    return buf;
  }
  slug(env_cpu_name(name, sizeof name), buf, size);
  const size_t at = strlen(buf);
  snprintf(buf + at, size - at, "-%dc", env_cores());
  return buf;
}

const char *env_commit(void) {
  static char commit[64];
  if (*commit)
    return commit;
  const char *set = getenv("LONGCA_COMMIT"); // of sources that are not here
  if (set && *set) {
    snprintf(commit, sizeof commit, "%.40s", set);
    return commit;
  }
  char dirty[64];
  setenv("LONGCA_SOURCES", exp_root(), 1); // a path may hold what a shell would read
  sys_command("git -C \"$LONGCA_SOURCES\" rev-parse --short=12 HEAD 2>/dev/null", commit,
              sizeof commit - 8);
  if (!*commit) {
    snprintf(commit, sizeof commit, "unknown");
    return commit;
  }
  sys_command("git -C \"$LONGCA_SOURCES\" status --porcelain -uno 2>/dev/null", dirty,
              sizeof dirty);
  if (*dirty)
    strcat(commit, "-dirty");
  return commit;
}

// ---- what disturbs --------------------------------------------------------------------------

int env_check(FILE *f) {
  int n = 0;
  char buf[256];
  double load = 0;
  if (sys_line("/proc/loadavg", buf, sizeof buf) && sscanf(buf, "%lf", &load) == 1 && load > 0.5)
    n += fprintf(f, "The load average is %.1f: stop other programs, or times will spread.\n",
                 load) > 0;
  if (sys_line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", buf, sizeof buf) &&
      strcmp(buf, "performance") != 0)
    n += fprintf(f,
                 "The frequency governor is '%s': 'cpupower frequency-set -g performance' steadies "
                 "it.\n",
                 buf) > 0;
  if (omp_get_max_threads() > env_cores())
    n += fprintf(f, "OpenMP would start %d threads on %d cores: set OMP_NUM_THREADS=%d.\n",
                 omp_get_max_threads(), env_cores(), env_cores()) > 0;
#ifndef __OPTIMIZE__
  n += fprintf(f, "This build is not optimised: build with the default CFLAGS to measure.\n") > 0;
#endif
#ifdef __SANITIZE_ADDRESS__
  n += fprintf(f, "This build carries AddressSanitizer: do not measure with it.\n") > 0;
#endif
  if (env_gpu()) {
    sys_command("nvidia-smi --query-compute-apps=pid --format=csv,noheader -i 0 2>/dev/null", buf,
                sizeof buf);
    if (*buf)
      n += fprintf(f, "Process %s is using the GPU: its work and memory disturb ours.\n", buf) > 0;
  }
  if (strstr(env_commit(), "-dirty"))
    n += fprintf(f, "The sources differ from commit %.12s: commit before you record rows.\n",
                 env_commit()) > 0;
  return n;
}
