# Makefile -- build, test, measure and draw. `make help` lists the targets and the settings.
MAKEFLAGS += --no-builtin-rules
SHELL := /bin/bash
.DELETE_ON_ERROR:
.SECONDARY:
.DEFAULT_GOAL := build
include config.mk

Q := $(if $(filter 1,$(V)),,@)
say = @printf '  %-8s %s\n' '$(1)' '$(2)'

# What is built goes to one folder; instrumented code to a folder beside it.
B := build$(if $(SANITIZE),-sanitize)

# A typo is said, not taken for a default.
GIVEN := $(foreach v,$(.VARIABLES),$(if $(filter command,$(firstword $(origin $v))),$v))
STRAY := $(filter-out $(shell sed -n 's/^\([A-Z_]*\) .*/\1/p' config.mk) \
           B CI TEST TERM ALL AR CXX NVCC EMU_CHECK EXTRA_CFLAGS MAKEFLAGS MAKEOVERRIDES -%,$(GIVEN))
$(if $(STRAY),$(warning $(STRAY): no such setting; make help lists them))
$(foreach s,CUDA MPI,$(if $(filter auto 0 1,$($s)),,$(error $s='$($s)' is none of auto, 0, 1)))

NVCC := $(and $(CUDA_HOME),$(wildcard $(CUDA_HOME)/bin/nvcc))
WITH_CUDA := $(if $(filter auto,$(CUDA)),$(if $(NVCC),1,0),$(CUDA))
ifeq ($(WITH_CUDA)$(NVCC),1)
  $(error CUDA=1, but there is no nvcc under CUDA_HOME='$(CUDA_HOME)'; ./setup.sh --cuda installs one)
endif

# Instrumented code makes gcc warn of what is not there, so warnings are errors in the plain build alone.
WARN := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith \
        -Wno-unused-parameter $(if $(CI),$(if $(SANITIZE),,-Werror))
EXTRA_CFLAGS += $(if $(SANITIZE),-fsanitize=$(SANITIZE) -fno-sanitize-recover=all -fno-omit-frame-pointer)
ALL_CFLAGS = -std=gnu11 $(CFLAGS) $(WARN) -fopenmp -MMD -MP $(DEFS) $(EXTRA_CFLAGS)
LDLIBS := -linih -lcjson -lcsv -lhwloc -lm

FOLDERS := src kernels kernels/rep kernels/cpu cp
SOURCES := $(filter-out %_test.c kernels/cudnn.c,$(wildcard $(FOLDERS:%=%/*.c)))
TESTS   := $(wildcard $(FOLDERS:%=%/*_test.c))
OBJECTS := $(SOURCES:%.c=$(B)/%.o)

# Fragments: one a folder that needs rules of its own.
include $(wildcard $(FOLDERS:%=%/*.mk) figures/figures.mk kernels/emu/emu.mk)

##@ Build
.PHONY: build
build: $(B)/longca ## compile the program build/longca

$(B)/longca: $(OBJECTS) $(B)/link.stamp
	$(call say,LINK,$@)
	$(Q)$(CC) $(CFLAGS) -fopenmp $(EXTRA_CFLAGS) -o $@ $(OBJECTS) $(LDLIBS)

$(B)/%.o: %.c $(B)/compile.stamp
	$(call say,CC,$<)
	@mkdir -p $(@D)
	$(Q)$(CC) $(ALL_CFLAGS) -c -o $@ $<

# Tests link the archive, so each pulls in only what it uses.
LIBRARY := $(filter-out $(B)/src/main.o,$(OBJECTS))
$(B)/liblongca.a: $(LIBRARY) $(B)/link.stamp
	$(Q)rm -f $@ && $(AR) rcs $@ $(LIBRARY)

$(B)/%_test: $(B)/%_test.o $(B)/liblongca.a
	$(call say,LINK,$@)
	$(Q)$(CC) $(CFLAGS) -fopenmp $(EXTRA_CFLAGS) -o $@ $(filter-out %.a,$^) $(filter %.a,$^) -lcmocka $(LDLIBS)

# A stamp changes only when its text does, so other settings (CUDA=0, CFLAGS=-O3), and a source that
# came or went, rebuild what depends on them, and nothing else does.
STAMP_compile := $(CC) $(ALL_CFLAGS)
STAMP_link    := $(CC) $(CFLAGS) $(EXTRA_CFLAGS) $(LDLIBS) $(OBJECTS)
$(B)/%.stamp: always
	@mkdir -p $(@D)
	@printf '%s\n' '$(subst ','\'',$(STAMP_$*))' | cmp -s - $@ || \
	  printf '%s\n' '$(subst ','\'',$(STAMP_$*))' >$@
.PHONY: always

##@ Check
# TEST=mask runs the tests whose path contains "mask".
WANTED := $(foreach t,$(TESTS:%.c=%),$(if $(or $(if $(TEST),,1),$(findstring $(TEST),$(t))),$(B)/$(t)))
# Whose a leak is shows in whole call stacks alone: Open MPI has some of its own.
SANITIZE_ENV := $(if $(SANITIZE),LSAN_OPTIONS=suppressions=$(CURDIR)/src/leaks.supp:print_suppressions=0 \
                ASAN_OPTIONS=fast_unwind_on_malloc=0 UBSAN_OPTIONS=print_stacktrace=1)
.PHONY: test
test: $(B)/longca $(WANTED) ## build and run every test, or TEST=word: those with the word in their path
	$(Q)$(SANITIZE_ENV) src/test.sh $(WANTED)

.PHONY: test-programs
test-programs: $(TESTS:%.c=$(B)/%) ## compile the tests alone

.PHONY: lint
lint: build ## static analysis and layout: clang-tidy, clang-format, shellcheck
	$(Q)src/lint.sh -- -std=gnu11 -fopenmp $(DEFS)

.PHONY: format
format: ## lay out all C by .clang-format (CUDA is by hand: inline PTX)
	$(Q)git ls-files '*.c' '*.h' | xargs clang-format -i

.PHONY: check-env
check-env: ## what is found, what is missing, what that disables, how to get it
	$(Q)CC='$(CC)' CUDA_HOME='$(CUDA_HOME)' src/setup/check_env.sh

ifneq ($(WITH_CUDA),1)
.PHONY: gpu-report gpu-spills test-gpu test-emulated test-sanitized test-cp-emulated
gpu-report gpu-spills test-gpu test-emulated test-sanitized test-cp-emulated:
	@echo 'make $@ needs a build with CUDA: ./setup.sh --cuda installs the toolkit' >&2; exit 2
endif

##@ House
.PHONY: clean
clean: ## remove what was built; measurements stay
	$(Q)rm -rf $(B) $(B)-sanitize

print-%: # the value of a variable: make print-NVCC
	@echo '$($*)'

.PHONY: help
help: ## this list
	@awk -F':.*## ' 'FNR == 1 { part = FILENAME } /^##@ / { part = substr($$0, 5) } \
	  /^[a-z0-9][a-z0-9 -]*:.*## / { if (part != "") print "\n" part; part = ""; \
	    printf "  make %-17s %s\n", $$1, $$2 }' $(filter-out %.d,$(MAKEFILE_LIST))
	@awk 'BEGIN { print "\nSettings (config.mk, or on the command line)" } /^# / { text = substr($$0, 3) } \
	  /^[A-Z]/ { printf "  %-22s %s\n", $$1, text; text = "" }' config.mk

-include $(OBJECTS:.o=.d) $(TESTS:%.c=$(B)/%.d)
