// device.cu -- device.h over the CUDA runtime; power through NVML when the driver's library is
// there.
//
// A sample: a kernel spins on a host flag while the host enqueues event, call, event,
// so that the events bracket device work only. Before the first and after the second event one
// kernel stores each SM's clock64 and the global nanosecond timer; their quotient is the SM clock
// that the sample really had, which no query of the driver tells.
#include <cuda_runtime.h>
#include <dlfcn.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "../kernels/ptx/math.cuh"
#include "device.h"

namespace {

#ifdef LONGCA_EMULATED // no cache, and a launch there returns when it has ended: spinning would last for ever
constexpr size_t FLUSH_BYTES = 1 << 20;
constexpr long long SPIN_LIMIT_NS = 0;
#else
constexpr size_t FLUSH_BYTES = 256u << 20; // several times any L2 of today
constexpr long long SPIN_LIMIT_NS = 200 * 1000 * 1000;
#endif
constexpr int SMS_MAX = 512;
constexpr double THROTTLED = 0.75; // nvbench's limit, of the highest clock

struct stamp {
  long long cycles[SMS_MAX], ns[SMS_MAX];
};

struct {
  int index = -1, sms;
  double sm_mhz_max;
  void *flush;
  stamp *stamps;      // [2] device
  volatile int *flag; // mapped host memory: [0] release, [1] the limit ran out
  int *flag_device;
  cudaEvent_t begin, end;
  void *nvml; // handle of the library
  void *nvml_device;
  int (*nvml_power)(void *, unsigned *);
} dev;

thread_local char error_text[512] = "no error";
thread_local bool error_oom;

__attribute__((format(printf, 2, 3))) int fail(bool oom, const char *format, ...) {
  va_list ap;
  va_start(ap, format);
  vsnprintf(error_text, sizeof error_text, format, ap);
  va_end(ap);
  error_oom = oom;
  return -1;
}

int check(cudaError_t status, const char *what) {
  if (status == cudaSuccess)
    return 0;
  cudaGetLastError(); // clear it where it can be cleared
  return fail(status == cudaErrorMemoryAllocation, "%s: %s", what, cudaGetErrorString(status));
}

__global__ void spin(volatile int *flag, long long limit_ns) {
  const long long begin = ptx::global_ns();
  while (!flag[0])
    if (ptx::global_ns() - begin > limit_ns) {
      flag[1] = 1;
      return;
    }
}

__global__ void take_stamp(stamp *s) {
  const unsigned sm = ptx::sm_id();
  if (sm < SMS_MAX) {
    s->ns[sm] = ptx::global_ns();
    s->cycles[sm] = clock64();
  }
}

// bf16 FLOP a clock and SM (tensor cores, dense, fp32 accumulation), by compute capability.
double flop_per_clock(int arch) {
  switch (arch) {
  case 80:
    return 2048;
  case 86:
  case 87:
    return 512;
  case 89:
    return 1024;
  case 90:
    return 4096;
  case 100:
  case 103:
    return 8192;
  default:
    return NAN;
  }
}

void nvml_open(const char *pci) {
  dev.nvml = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
  if (!dev.nvml)
    return;
  int (*init)(void) = (int (*)(void))dlsym(dev.nvml, "nvmlInit_v2");
  int (*find)(const char *, void **) =
      (int (*)(const char *, void **))dlsym(dev.nvml, "nvmlDeviceGetHandleByPciBusId_v2");
  int (*power)(void *, unsigned *) =
      (int (*)(void *, unsigned *))dlsym(dev.nvml, "nvmlDeviceGetPowerUsage");
  if (init && find && power && !init() && !find(pci, &dev.nvml_device))
    dev.nvml_power = power;
}

} // namespace

const char *device_error(void) { return error_text; }
bool device_error_is_oom(void) { return error_oom; }

int device_count(void) {
  int n = 0;
  if (check(cudaGetDeviceCount(&n), "looking for GPUs"))
    return 0;
  return n;
}

int device_open(int index) {
  const int n = device_count();
  if (n == 0)
    return -1;
  if (index < 0 || index >= n)
    return fail(false, "there is no GPU %d: GPUs 0 to %d are here", index, n - 1);
  if (dev.index == index)
    return 0;
  if (dev.index >= 0)
    device_close();
  int khz = 0;
  char pci[32] = "";
  void *mapped = NULL;
  if (check(cudaSetDevice(index), "cudaSetDevice") || check(cudaFree(0), "making the context") ||
      check(cudaDeviceGetAttribute(&khz, cudaDevAttrClockRate, index), "reading the clock rate") ||
      check(cudaDeviceGetAttribute(&dev.sms, cudaDevAttrMultiProcessorCount, index),
            "counting SMs") ||
      check(cudaMalloc(&dev.flush, FLUSH_BYTES), "allocating the L2 flush buffer") ||
      check(cudaMalloc((void **)&dev.stamps, 2 * sizeof(stamp)), "allocating the clock stamps") ||
      check(cudaHostAlloc(&mapped, 2 * sizeof(int), cudaHostAllocMapped), "allocating the flag") ||
      check(cudaHostGetDevicePointer((void **)&dev.flag_device, mapped, 0), "mapping the flag") ||
      check(cudaEventCreate(&dev.begin), "cudaEventCreate") ||
      check(cudaEventCreate(&dev.end), "cudaEventCreate") ||
      check(cudaDeviceGetPCIBusId(pci, sizeof pci, index), "cudaDeviceGetPCIBusId"))
    return -1;
  dev.flag = (volatile int *)mapped;
  // A kernel is loaded when it is first launched, which waits for those that run: for the spin's limit.
  dev.flag[0] = 1;
  spin<<<1, 1>>>(dev.flag_device, SPIN_LIMIT_NS);
  take_stamp<<<1, 32>>>(dev.stamps);
  if (check(cudaDeviceSynchronize(), "a first launch") || check(cudaGetLastError(), "a first launch"))
    return -1;
  dev.sm_mhz_max = khz * 1e-3;
  dev.index = index;
  nvml_open(pci);
  return 0;
}

void device_close(void) {
  if (dev.index < 0)
    return;
  cudaFree(dev.flush);
  cudaFree(dev.stamps);
  cudaFreeHost((void *)dev.flag);
  cudaEventDestroy(dev.begin);
  cudaEventDestroy(dev.end);
  if (dev.nvml)
    dlclose(dev.nvml);
  memset((void *)&dev, 0, sizeof dev);
  dev.index = -1;
}

int device_info(struct device_info *info) {
  memset(info, 0, sizeof *info);
  cudaDeviceProp prop;
  if (check(cudaGetDeviceProperties(&prop, dev.index), "cudaGetDeviceProperties"))
    return -1;
  snprintf(info->name, sizeof info->name, "%.*s", (int)sizeof info->name - 1, prop.name);
  info->arch = prop.major * 10 + prop.minor;
  info->sms = prop.multiProcessorCount;
  info->mem_bytes = (int64_t)prop.totalGlobalMem;
  info->l2_bytes = prop.l2CacheSize;
  info->sm_mhz_max = dev.sm_mhz_max;
#ifdef LONGCA_EMULATED
  info->emulated = true;
#endif
  info->peak_tflop_s_bf16 = flop_per_clock(info->arch) * info->sms * dev.sm_mhz_max * 1e-6;
  return check(cudaDriverGetVersion(&info->driver), "cudaDriverGetVersion") ||
                 check(cudaRuntimeGetVersion(&info->runtime), "cudaRuntimeGetVersion")
             ? -1
             : 0;
}

int device_alloc(void **ptr, size_t bytes) {
  *ptr = NULL;
  if (!bytes)
    return 0;
  char what[64];
  snprintf(what, sizeof what, "allocating %.1f MiB on the GPU", (double)bytes / (1 << 20));
  return check(cudaMalloc(ptr, bytes), what);
}

void device_free(void *ptr) { cudaFree(ptr); }

int device_upload(void *device, const void *host, size_t bytes) {
  return bytes ? check(cudaMemcpy(device, host, bytes, cudaMemcpyHostToDevice), "upload") : 0;
}

int device_download(void *host, const void *device, size_t bytes) {
  return bytes ? check(cudaMemcpy(host, device, bytes, cudaMemcpyDeviceToHost), "download") : 0;
}

int device_fill(void *device, int byte, size_t bytes) {
  return bytes ? check(cudaMemset(device, byte, bytes), "fill") : 0;
}

int device_sync(void) { return check(cudaDeviceSynchronize(), "running on the GPU"); }

int64_t device_mem_used(void) {
  size_t free_bytes, total_bytes;
  if (check(cudaMemGetInfo(&free_bytes, &total_bytes), "cudaMemGetInfo"))
    return -1;
  return (int64_t)(total_bytes - free_bytes);
}

int device_sample(int (*call)(void *ctx), void *ctx, struct device_sample *sample) {
  sample->time_us = sample->sm_mhz = sample->power_w = NAN;
  sample->throttled = sample->exposed = false;
  if (dev.index < 0)
    return fail(false, "device_sample before device_open");
  // The flush buffer keeps its bytes dirty in L2 for the call to evict, as upstream's timing does.
  if (check(cudaMemsetAsync(dev.flush, 0, FLUSH_BYTES, 0), "flushing L2") ||
      check(cudaMemsetAsync(dev.stamps, 0, 2 * sizeof(stamp), 0), "clearing the stamps") ||
      check(cudaDeviceSynchronize(), "before the sample"))
    return -1;
  dev.flag[0] = dev.flag[1] = 0;
  spin<<<1, 1>>>(dev.flag_device, SPIN_LIMIT_NS);
  take_stamp<<<4 * dev.sms, 32>>>(&dev.stamps[0]);
  cudaEventRecord(dev.begin);
  const int status = call(ctx);
  cudaEventRecord(dev.end);
  take_stamp<<<4 * dev.sms, 32>>>(&dev.stamps[1]);
  dev.flag[0] = 1; // release, whatever the call said
  if (check(cudaDeviceSynchronize(), "during the sample") ||
      check(cudaGetLastError(), "launching the sample"))
    return -1;
  if (status)
    return -1;
  float ms;
  static stamp stamps[2];
  if (check(cudaEventElapsedTime(&ms, dev.begin, dev.end), "cudaEventElapsedTime") ||
      check(cudaMemcpy(stamps, dev.stamps, sizeof stamps, cudaMemcpyDeviceToHost), "stamps"))
    return -1;
  double cycles = 0, ns = 0;
  for (int i = 0; i < SMS_MAX; i++)
    if (stamps[0].ns[i] && stamps[1].ns[i]) {
      cycles += (double)(stamps[1].cycles[i] - stamps[0].cycles[i]);
      ns += (double)(stamps[1].ns[i] - stamps[0].ns[i]);
    }
  sample->time_us = ms * 1e3;
  sample->exposed = dev.flag[1];
  if (ms > 0.02 && ns > 0) // the global timer may tick as coarsely as a microsecond
    sample->sm_mhz = cycles / ns * 1e3;
  sample->throttled = sample->sm_mhz < THROTTLED * dev.sm_mhz_max;
  unsigned mw;
  if (dev.nvml_power && !dev.nvml_power(dev.nvml_device, &mw))
    sample->power_w = mw * 1e-3;
  return 0;
}
