// check_report.cpp -- what the sanitizer of the emulated GPU says: each pair of places in the
// source once. A program with reports fails at its end.
#ifdef EMU_CHECK
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <mutex>
#include <set>

#include "block.h"
#include "check.h"

namespace emu {
namespace check {
namespace {

enum { SHOWN_MAX = 40 };
std::mutex lock;
std::set<std::pair<uint64_t, uint64_t>> said; // places in the source
std::string last;
int count;

// Function and line of a return address, and those that they are inlined into.
std::string source_of(uint64_t pc) {
  Dl_info where, program;
  if (!dladdr((void *)pc, &where) || !dladdr((void *)&source_of, &program))
    return "    ?\n";
  std::string text;
  if (where.dli_fbase == program.dli_fbase) { // not compiled at run time
    char command[120], line[2000];
    snprintf(command, sizeof command, "addr2line -Cfpise /proc/%d/exe %#llx", (int)getpid(),
             (unsigned long long)(pc - 1 - (uintptr_t)program.dli_fbase));
    if (FILE *f = popen(command, "r")) {
      while (fgets(line, sizeof line, f))
        text += std::string("    ") + line;
      pclose(f);
    }
  }
  return text.empty() ? std::string("    ") + (where.dli_sname ? where.dli_sname : "?") + "\n"
                      : text;
}

void fail_at_exit() {
  if (count) {
    fprintf(stderr, "emulated GPU: the sanitizer has %d reports\n", count);
    _exit(1);
  }
}

} // namespace

void say(uint64_t pc, const entry *before, const std::string &text) {
  static std::once_flag once;
  std::call_once(once, [] { atexit(fail_at_exit); });
  std::lock_guard<std::mutex> hold(lock);
  count++;
  if (!said.insert({pc, before ? before->pc : 0}).second || said.size() > SHOWN_MAX)
    return;
  const uint3 at = running->self->at.block;
  last = "emulated GPU: block (" + std::to_string(at.x) + ", " + std::to_string(at.y) +
         "): " + text + "\n" + source_of(pc);
  if (before)
    last += "  after " + name_of(*before) + "\n" + source_of(before->pc);
  fputs(last.c_str(), stderr);
}

void report(const char *what, const std::string &place, size_t bytes, access how, const entry &e,
            const entry *before) {
  static const char *const verbs[] = {"reads", "writes", "adds to"};
  say(e.pc, before,
      std::string(what) + ": " + name_of(e) + " " + verbs[how] + " " + std::to_string(bytes) +
          " bytes at " + place);
}

int reports() { return count; }
const char *last_report() { return last.c_str(); }
void forget_reports() {
  count = 0;
  said.clear();
}

} // namespace check
} // namespace emu
#endif
