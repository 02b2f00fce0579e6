// jit.cu -- see jit.h: keys, the compiler, the kernels in memory; their files are for jit_file.cuh. Host
// code only.
#include "jit.h"

#include <ctype.h>
#include <dlfcn.h>
#include <nvrtc.h>
#include <stdlib.h>

#include <chrono>
#include <map>
#include <mutex>
#include <string>

#include "gpu.cuh"
#include "jit_file.cuh"

using namespace jit;

namespace {

const char *const options[] = {"--gpu-architecture=sm_90a", "-std=c++17", "-default-device",
                               "--ptxas-options=-v"};
constexpr int OPTIONS = sizeof options / sizeof *options;

std::map<std::string, jit_kernel> cache;
std::mutex lock; // ranks of the loopback transport may be threads

#define DIGITS(x) #x
#define NUMBER(x) DIGITS(x)

std::string key_of(const char *source, const char *predicate, const char *kernel) {
  content_hash hash;
  hash.add("CUDA " NUMBER(CUDART_VERSION));
  for (const char *option : options)
    hash.add(option);
  hash.add(source);
  hash.add(predicate);
  hash.add(kernel);
  return hash.digits();
}

// ---- the compiler

// Sum of the numbers that stand before `words` in the log.
int numbers_before(const std::string &log, const char *words) {
  int sum = 0;
  for (size_t at = 0; (at = log.find(words, at)) != std::string::npos; at++) {
    size_t begin = at;
    while (begin > 0 && isdigit((unsigned char)log[begin - 1]))
      begin--;
    sum += atoi(log.c_str() + begin);
  }
  return sum;
}

// What ptxas says of the kernel.
void read_log(const std::string &log, jit_kernel *k) {
  k->registers = numbers_before(log, " registers");
  k->stack_bytes = numbers_before(log, " bytes stack frame");
  k->spill_bytes =
      numbers_before(log, " bytes spill stores") + numbers_before(log, " bytes spill loads");
  for (size_t at = 0; (at = log.find("(C75", at)) != std::string::npos; at++)
    k->warnings++;
}

// NVRTC is opened at the first use: the program runs without it where nothing is to be compiled.
#define CALLS(F) \
  F(CreateProgram) F(DestroyProgram) F(AddNameExpression) F(CompileProgram) F(GetProgramLogSize) \
  F(GetProgramLog) F(GetCUBINSize) F(GetCUBIN) F(GetErrorString)
struct {
#define FIELD(call) decltype(&nvrtc##call) call;
  CALLS(FIELD)
} nvrtc;

int open_nvrtc() {
  const std::string name = "libnvrtc.so." + std::to_string(CUDART_VERSION / 1000);
  if (nvrtc.GetErrorString)
    return 0;
  // NVRTC opens its builtins by name and by the system's folders alone; once they are loaded, from
  // wherever this program finds CUDA, it takes those.
  const std::string version =
      std::to_string(CUDART_VERSION / 1000) + "." + std::to_string(CUDART_VERSION % 1000 / 10);
  dlopen(("libnvrtc-builtins.so." + version).c_str(), RTLD_NOW | RTLD_GLOBAL);
  void *library = dlopen(name.c_str(), RTLD_NOW);
  bool good = library;
#define FIND(call) \
  good = good && (nvrtc.call = (decltype(&nvrtc##call))dlsym(library, "nvrtc" #call));
  CALLS(FIND)
  if (!good)
    attn_error_set(false, "compiling at run time needs NVRTC of CUDA %d: %s", CUDART_VERSION / 1000,
                   dlerror());
  return good ? 0 : -1;
}

// The line of the first error, else the first line.
std::string first_error(const std::string &log) {
  size_t at = log.find(" error:");
  at = at == std::string::npos ? 0 : log.rfind('\n', at) + 1;
  return log.substr(at, log.find('\n', at) - at);
}

struct program {
  nvrtcProgram handle = nullptr;
  ~program() { nvrtc.DestroyProgram(&handle); }
  std::string log() {
    size_t bytes = 0;
    nvrtc.GetProgramLogSize(handle, &bytes);
    std::string text(bytes ? bytes - 1 : 0, '\0');
    if (bytes > 1)
      nvrtc.GetProgramLog(handle, &text[0]);
    return text;
  }
};

int compile(jit_kernel *k, const char *source, const char *predicate, const char *kernel) {
  const char *const name = "predicate";
  if (open_nvrtc())
    return -1;
  const auto begin = std::chrono::steady_clock::now();
  program p;
  nvrtcResult status = nvrtc.CreateProgram(&p.handle, source, "jit", 1, &predicate, &name);
  if (!status)
    status = nvrtc.AddNameExpression(p.handle, kernel);
  if (!status)
    status = nvrtc.CompileProgram(p.handle, OPTIONS, options);
  const std::string log = p.log();
  if (!status)
    status = nvrtc.GetCUBINSize(p.handle, &k->bytes);
  if (!status && (k->cubin = malloc(k->bytes)))
    status = nvrtc.GetCUBIN(p.handle, (char *)k->cubin);
  if (status || !k->cubin) {
    free(k->cubin);
    attn_error_set(false, "compiling at run time: %s",
                   status == NVRTC_ERROR_COMPILATION ? first_error(log).c_str()
                                                     : nvrtc.GetErrorString(status));
    return -1;
  }
  const std::chrono::duration<double, std::micro> took = std::chrono::steady_clock::now() - begin;
  k->compile_us = took.count();
  read_log(log, k);
  return 0;
}

} // namespace

struct jit_kernel *jit_compile(const char *source, const char *predicate, const char *kernel) {
  const std::lock_guard<std::mutex> guard(lock);
  const std::string key = key_of(source, predicate, kernel);
  const auto known = cache.find(key);
  if (known != cache.end())
    return &known->second;
  const std::string folder = cache_folder(), path = folder + "/" + key + ".cubin";
  jit_kernel k = {};
  if (folder.empty() || !read_file(path, &k)) {
    if (compile(&k, source, predicate, kernel))
      return NULL;
    if (!folder.empty())
      write_file(path, &k);
  }
  return &cache.emplace(key, k).first->second;
}

const void *jit_function(struct jit_kernel *k) {
  const std::lock_guard<std::mutex> guard(lock);
  if (k->function)
    return k->function;
#if CUDART_VERSION >= 12080
  cudaLibrary_t library;
  cudaKernel_t kernel;
  if (gpu_check(cudaLibraryLoadData(&library, k->cubin, NULL, NULL, 0, NULL, NULL, 0),
                "loading a kernel compiled at run time") ||
      gpu_check(cudaLibraryEnumerateKernels(&kernel, 1, library),
                "finding the kernel compiled at run time"))
    return NULL;
  k->function = kernel;
#else
  attn_error_set(false, "kernels compiled at run time need CUDA 12.8 or later");
#endif
  return k->function;
}

void jit_forget(void) {
  const std::lock_guard<std::mutex> guard(lock);
  for (auto &entry : cache)
    free(entry.second.cubin);
  cache.clear();
}
