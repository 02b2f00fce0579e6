// isa.c -- which compiled copy of tile.c this processor runs.
#include <string.h>

#include "cpu.h"

extern const struct cpu_isa cpu_isa_base;
#ifdef __x86_64__
extern const struct cpu_isa cpu_isa_avx2, cpu_isa_avx512;
const struct cpu_isa *const cpu_isas[] = {&cpu_isa_avx512, &cpu_isa_avx2, &cpu_isa_base, NULL};
#else
const struct cpu_isa *const cpu_isas[] = {&cpu_isa_base, NULL};
#endif

static const struct cpu_isa *chosen;

const struct cpu_isa *cpu_isa(void) {
  if (chosen)
    return chosen;
  const struct cpu_isa *const *isa = cpu_isas;
  while (!(*isa)->usable())
    isa++; // the last one runs everywhere
  return *isa;
}

bool cpu_isa_use(const char *name) {
  for (int i = 0; cpu_isas[i]; i++)
    if (!strcmp(cpu_isas[i]->name, name) && cpu_isas[i]->usable()) {
      chosen = cpu_isas[i];
      return true;
    }
  return false;
}
