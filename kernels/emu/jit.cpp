// jit.cpp -- jit.h for the emulated GPU: a program given as source text is compiled by the host's compiler
// into a library of one kernel, in place of NVRTC. Kept in memory until exit.
//
// EMU_COMPILE and EMU_LINK are the commands of the other kernels (emu.mk), EMU_SED the script that makes C++ of CUDA.
#include "../jit.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <map>
#include <string>

#include "../attn.h"
extern "C" {
#include "../../src/timer.h"
}

static std::map<std::string, jit_kernel *> known;

static bool write_text(const std::string &path, const std::string &text) {
  FILE *f = fopen(path.c_str(), "w");
  const bool wrote = f && fputs(text.c_str(), f) >= 0;
  return f && fclose(f) == 0 && wrote;
}

extern "C" struct jit_kernel *jit_compile(const char *source, const char *predicate, const char *kernel) {
  const std::string key = std::string(source) + '\0' + predicate + '\0' + kernel;
  if (known.count(key))
    return known[key];
  const double begin_us = timer_now_us();
  char folder[] = "/tmp/longca-emu-XXXXXX";
  if (!mkdtemp(folder)) {
    attn_error_set(false, "no folder can be made in /tmp");
    return NULL;
  }
  const std::string in = std::string("cd ") + folder + " && ", path = folder;
  const std::string last = std::string("\nextern \"C\" const void *emulated();\n"
                                       "const void *emulated() { return emu::entry<") +
                           kernel + ">(); }\n";
  void *library = NULL;
  if (write_text(path + "/text.cu", source + last) && write_text(path + "/predicate", predicate) &&
      !system((in + "sed -E -f " EMU_SED " text.cu >program.cu && " EMU_COMPILE
                    " -w -fPIC -I. -c -o kernel.o -x c++ program.cu && " EMU_LINK " -shared -o kernel.so kernel.o")
                  .c_str()))
    library = dlopen((path + "/kernel.so").c_str(), RTLD_NOW | RTLD_LOCAL);
  const auto entry = library ? reinterpret_cast<const void *(*)()>(dlsym(library, "emulated")) : NULL;
  if (system((std::string("rm -r ") + folder).c_str()) || !entry) {
    attn_error_set(false, "%s cannot be compiled for the emulated GPU: %s", kernel,
                   library ? "it has no kernel" : dlerror());
    return NULL;
  }
  jit_kernel *k = new jit_kernel();
  k->function = entry();
  k->compile_us = timer_now_us() - begin_us;
  return known[key] = k;
}

extern "C" const void *jit_function(struct jit_kernel *k) { return k->function; }
extern "C" void jit_forget(void) { known.clear(); }
