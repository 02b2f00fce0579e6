// env.c -- the environment record (style B.5: factors and set-up documented): processor, caches and
// memory through hwloc, compiler and libraries, GPU and driver, commit, container.
#include "env.h"

#include <cjson/cJSON.h>
#include <csv.h>
#include <ctype.h>
#include <errno.h>
#include <gnu/libc-version.h>
#include <hwloc.h>
#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../kernels/cpu/cpu.h"
#include "device.h"
#include "exp.h"
#include "timer.h"

// First line of a file without the newline; false when there is none.
static bool read_line(const char *path, char *buf, size_t size) {
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

// Value of the first line "key : value" of a file such as /proc/cpuinfo; empty when there is none.
static void read_field(const char *path, const char *key, char *buf, size_t size) {
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

// First line that a command prints; empty when it fails.
static void read_command(const char *command, char *buf, size_t size) {
  FILE *f = popen(command, "re");
  *buf = 0;
  if (f && fgets(buf, (int)size, f))
    buf[strcspn(buf, "\n")] = 0;
  if (f && pclose(f))
    *buf = 0;
}

static void cpu_name(char *buf, size_t size) {
  read_field("/proc/cpuinfo", "model name", buf, size);
  if (!*buf)
    read_line("/proc/device-tree/model", buf, size);
  if (!*buf) {
    struct utsname u;
    snprintf(buf, size, "%s", uname(&u) ? "cpu" : u.machine);
  }
}

static int cores(void) {
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

const char *env_machine(enum attn_place place, char *buf, size_t size) {
  const char *set = getenv("LONGCA_MACHINE");
  char name[256];
  if (place == ATTN_DEVICE && gpu()->count > 0 && gpu()->info.emulated) {
    // Whatever it is to be called, its rows are to be told from measurements: row_is_emulated().
    snprintf(name, sizeof name, "emulated-%.200s", set && *set ? set : "gpu");
    slug(name, buf, size);
    return buf;
  }
  if (set && *set) {
    slug(set, buf, size);
    return buf;
  }
  if (place == ATTN_DEVICE && gpu()->count > 0) {
    slug(gpu()->info.name, buf, size);
    return buf;
  }
  cpu_name(name, sizeof name);
  slug(name, buf, size);
  const size_t at = strlen(buf);
  snprintf(buf + at, size - at, "-%dc", cores());
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
  char command[1200], dirty[64];
  snprintf(command, sizeof command, "git -C '%s' rev-parse --short=12 HEAD 2>/dev/null",
           exp_root());
  read_command(command, commit, sizeof commit - 8);
  if (!*commit) {
    snprintf(commit, sizeof commit, "unknown");
    return commit;
  }
  snprintf(command, sizeof command, "git -C '%s' status --porcelain -uno 2>/dev/null", exp_root());
  read_command(command, dirty, sizeof dirty);
  if (*dirty)
    strcat(commit, "-dirty");
  return commit;
}

// ---- JSON -----------------------------------------------------------------------------------

static void add_field(cJSON *to, const char *name, const char *path, const char *key) {
  char buf[1024];
  read_field(path, key, buf, sizeof buf);
  if (*buf)
    cJSON_AddStringToObject(to, name, buf);
}

static void add_line(cJSON *to, const char *name, const char *path) {
  char buf[256];
  if (read_line(path, buf, sizeof buf))
    cJSON_AddStringToObject(to, name, buf);
}

static void add_topology(cJSON *cpu) {
  hwloc_topology_t topology;
  if (hwloc_topology_init(&topology))
    return;
  if (!hwloc_topology_load(topology)) {
    cJSON_AddNumberToObject(cpu, "packages", hwloc_get_nbobjs_by_type(topology, HWLOC_OBJ_PACKAGE));
    cJSON_AddNumberToObject(cpu, "cores", hwloc_get_nbobjs_by_type(topology, HWLOC_OBJ_CORE));
    cJSON_AddNumberToObject(cpu, "threads", hwloc_get_nbobjs_by_type(topology, HWLOC_OBJ_PU));
    cJSON_AddNumberToObject(cpu, "numa_nodes",
                            hwloc_get_nbobjs_by_type(topology, HWLOC_OBJ_NUMANODE));
    static const struct {
      const char *name;
      hwloc_obj_type_t type;
    } caches[] = {{"l1d_bytes", HWLOC_OBJ_L1CACHE},
                  {"l2_bytes", HWLOC_OBJ_L2CACHE},
                  {"l3_bytes", HWLOC_OBJ_L3CACHE}};
    for (size_t i = 0; i < sizeof caches / sizeof *caches; i++) {
      const hwloc_obj_t cache = hwloc_get_obj_by_type(topology, caches[i].type, 0);
      if (cache)
        cJSON_AddNumberToObject(cpu, caches[i].name, (double)cache->attr->cache.size);
    }
  }
  hwloc_topology_destroy(topology);
}

static void add_gpu(cJSON *root) {
  const struct gpu *g = gpu();
  cJSON_AddNumberToObject(root, "gpus", g->count);
  if (g->count < 1)
    return;
  cJSON *j = cJSON_AddObjectToObject(root, "gpu");
  cJSON_AddStringToObject(j, "name", g->info.name);
  cJSON_AddNumberToObject(j, "arch", g->info.arch);
  cJSON_AddNumberToObject(j, "sms", g->info.sms);
  cJSON_AddNumberToObject(j, "memory_bytes", (double)g->info.mem_bytes);
  cJSON_AddNumberToObject(j, "l2_bytes", (double)g->info.l2_bytes);
  cJSON_AddNumberToObject(j, "sm_mhz_max", g->info.sm_mhz_max);
  if (!isnan(g->info.peak_tflop_s_bf16))
    cJSON_AddNumberToObject(j, "peak_tflop_s_bf16", g->info.peak_tflop_s_bf16);
  cJSON_AddNumberToObject(j, "cuda_driver", g->info.driver);
  cJSON_AddNumberToObject(j, "cuda_runtime", g->info.runtime);
  add_line(j, "kernel_module", "/proc/driver/nvidia/version");
  char buf[256];
  read_command(
      "nvidia-smi --query-gpu=driver_version,power.limit,clocks.max.sm,clocks.applications.gr,"
      "ecc.mode.current --format=csv,noheader -i 0 2>/dev/null",
      buf, sizeof buf);
  if (*buf)
    cJSON_AddStringToObject(j, "driver,power_limit,sm_max,sm_set,ecc", buf);
}

static void add_build(cJSON *root) {
  cJSON *j = cJSON_AddObjectToObject(root, "build");
  cJSON_AddStringToObject(j, "compiler", "cc " __VERSION__);
#ifdef LONGCA_CFLAGS
  cJSON_AddStringToObject(j, "cflags", LONGCA_CFLAGS);
#endif
#ifdef LONGCA_CUDA
  cJSON_AddTrueToObject(j, "cuda");
#else
  cJSON_AddFalseToObject(j, "cuda");
#endif
#ifdef __OPTIMIZE__
  cJSON_AddTrueToObject(j, "optimised");
#else
  cJSON_AddFalseToObject(j, "optimised");
#endif
#ifdef __SANITIZE_ADDRESS__
  cJSON_AddTrueToObject(j, "address_sanitizer");
#endif
  cJSON_AddStringToObject(j, "libc", gnu_get_libc_version());
  cJSON_AddStringToObject(j, "cjson", cJSON_Version());
  char buf[64];
  const unsigned hwloc = hwloc_get_api_version();
  snprintf(buf, sizeof buf, "%u.%u.%u", hwloc >> 16, hwloc >> 8 & 255, hwloc & 255);
  cJSON_AddStringToObject(j, "hwloc", buf);
  snprintf(buf, sizeof buf, "%d.%d.%d", CSV_MAJOR, CSV_MINOR, CSV_RELEASE);
  cJSON_AddStringToObject(j, "libcsv", buf);
  cJSON_AddNumberToObject(j, "openmp", _OPENMP);
  cJSON_AddNumberToObject(j, "schema", ROW_SCHEMA);
}

char *env_json(enum attn_place place) {
  char buf[512];
  cJSON *root = cJSON_CreateObject();
  cJSON_AddStringToObject(root, "machine", env_machine(place, buf, sizeof buf));
  cJSON_AddStringToObject(root, "place", point_place_name(place));
  cJSON_AddStringToObject(root, "utc", timer_utc(buf, sizeof buf));
  cJSON_AddStringToObject(root, "commit", env_commit());
  cJSON_AddBoolToObject(root, "dirty", strstr(env_commit(), "-dirty") != NULL);
  const char *image = getenv("LONGCA_IMAGE_DIGEST"); // set by the Dockerfile's user, empty outside
  if (image && *image)
    cJSON_AddStringToObject(root, "container", image);
  cJSON *cpu = cJSON_AddObjectToObject(root, "cpu");
  cpu_name(buf, sizeof buf);
  cJSON_AddStringToObject(cpu, "model", buf);
  add_topology(cpu);
  double kb = 0;
  read_field("/proc/meminfo", "MemTotal", buf, sizeof buf);
  if (sscanf(buf, "%lf", &kb) == 1)
    cJSON_AddNumberToObject(root, "memory_bytes", kb * 1024);
  cJSON_AddNumberToObject(cpu, "openmp_threads", omp_get_max_threads());
  const char *waiting = getenv("OMP_WAIT_POLICY");
  cJSON_AddStringToObject(cpu, "openmp_wait_policy", waiting ? waiting : "default");
  cJSON_AddStringToObject(cpu, "vectors", cpu_isa()->name);
  add_field(cpu, "mhz", "/proc/cpuinfo", "cpu MHz");
  add_field(cpu, "microcode", "/proc/cpuinfo", "microcode");
  add_line(cpu, "governor", "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor");
  add_line(cpu, "smt", "/sys/devices/system/cpu/smt/control");
  add_line(cpu, "load", "/proc/loadavg");
  cJSON *os = cJSON_AddObjectToObject(root, "os");
  struct utsname u;
  if (!uname(&u)) {
    cJSON_AddStringToObject(os, "kernel", u.release);
    cJSON_AddStringToObject(os, "arch", u.machine);
  }
  read_command(". /etc/os-release 2>/dev/null && echo \"$PRETTY_NAME\"", buf, sizeof buf);
  cJSON_AddStringToObject(os, "distribution", buf);
  add_line(os, "transparent_hugepages", "/sys/kernel/mm/transparent_hugepage/enabled");
  add_gpu(root);
  add_build(root);
  char *text = cJSON_Print(root);
  cJSON_Delete(root);
  return text;
}

int env_check(FILE *f) {
  int n = 0;
  char buf[256];
  double load = 0;
  if (read_line("/proc/loadavg", buf, sizeof buf) && sscanf(buf, "%lf", &load) == 1 && load > 0.5)
    n += fprintf(f, "The load average is %.1f: stop other programs, or times will spread.\n",
                 load) > 0;
  if (read_line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", buf, sizeof buf) &&
      strcmp(buf, "performance") != 0)
    n += fprintf(f,
                 "The frequency governor is '%s': 'cpupower frequency-set -g performance' steadies "
                 "it.\n",
                 buf) > 0;
  if (omp_get_max_threads() > cores())
    n += fprintf(f, "OpenMP would start %d threads on %d cores: set OMP_NUM_THREADS=%d.\n",
                 omp_get_max_threads(), cores(), cores()) > 0;
#ifndef __OPTIMIZE__
  n += fprintf(f, "This build is not optimised: build with the default CFLAGS to measure.\n") > 0;
#endif
#ifdef __SANITIZE_ADDRESS__
  n += fprintf(f, "This build carries AddressSanitizer: do not measure with it.\n") > 0;
#endif
  if (gpu()->count > 0) {
    read_command("nvidia-smi --query-compute-apps=pid --format=csv,noheader -i 0 2>/dev/null", buf,
                 sizeof buf);
    if (*buf)
      n += fprintf(f, "Process %s is using the GPU: its work and memory disturb ours.\n", buf) > 0;
  }
  if (strstr(env_commit(), "-dirty"))
    n += fprintf(f, "The sources differ from commit %.12s: commit before you record rows.\n",
                 env_commit()) > 0;
  return n;
}
