// env_json.c -- the environment record: processor, caches and memory through hwloc, compiler
// and libraries, GPU and driver, commit, container.
#include <cjson/cJSON.h>
#include <csv.h>
#include <gnu/libc-version.h>
#include <hwloc.h>
#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>

#include "../kernels/cpu/cpu.h"
#include "env.h"
#include "point.h"
#include "sys.h"
#include "timer.h"

static void add_field(cJSON *to, const char *name, const char *path, const char *key) {
  char buf[1024];
  sys_field(path, key, buf, sizeof buf);
  if (*buf)
    cJSON_AddStringToObject(to, name, buf);
}

static void add_line(cJSON *to, const char *name, const char *path) {
  char buf[256];
  if (sys_line(path, buf, sizeof buf))
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
  const struct device_info *gpu = env_gpu();
  cJSON_AddNumberToObject(root, "gpus", env_gpu_count());
  if (!gpu)
    return;
  cJSON *j = cJSON_AddObjectToObject(root, "gpu");
  cJSON_AddStringToObject(j, "name", gpu->name);
  cJSON_AddNumberToObject(j, "arch", gpu->arch);
  cJSON_AddNumberToObject(j, "sms", gpu->sms);
  cJSON_AddNumberToObject(j, "memory_bytes", (double)gpu->mem_bytes);
  cJSON_AddNumberToObject(j, "l2_bytes", (double)gpu->l2_bytes);
  cJSON_AddNumberToObject(j, "sm_mhz_max", gpu->sm_mhz_max);
  if (!isnan(gpu->peak_tflop_s_bf16))
    cJSON_AddNumberToObject(j, "peak_tflop_s_bf16", gpu->peak_tflop_s_bf16);
  cJSON_AddNumberToObject(j, "cuda_driver", gpu->driver);
  cJSON_AddNumberToObject(j, "cuda_runtime", gpu->runtime);
  add_line(j, "kernel_module", "/proc/driver/nvidia/version");
  char buf[256];
  sys_command(
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
  cJSON_AddStringToObject(cpu, "model", env_cpu_name(buf, sizeof buf));
  add_topology(cpu);
  const double memory_bytes = sys_field_bytes("/proc/meminfo", "MemTotal");
  if (!isnan(memory_bytes))
    cJSON_AddNumberToObject(root, "memory_bytes", memory_bytes);
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
  sys_command(". /etc/os-release 2>/dev/null && echo \"$PRETTY_NAME\"", buf, sizeof buf);
  cJSON_AddStringToObject(os, "distribution", buf);
  add_line(os, "transparent_hugepages", "/sys/kernel/mm/transparent_hugepage/enabled");
  add_gpu(root);
  add_build(root);
  char *text = cJSON_Print(root);
  cJSON_Delete(root);
  return text;
}
