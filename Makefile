# Makefile -- build, test, measure and draw. `make help` lists the targets.
MAKEFLAGS += --no-builtin-rules
.DELETE_ON_ERROR:
.SECONDARY:
.DEFAULT_GOAL := build
include config.mk

Q := $(if $(filter 1,$(V)),,@)
say = @printf '  %-8s %s\n' '$(1)' '$(2)'

B := build
NVCC := $(wildcard $(CUDA_HOME)/bin/nvcc)
WITH_CUDA := $(if $(filter auto,$(CUDA)),$(if $(NVCC),1,0),$(CUDA))

WARN   := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith \
          -Wno-unused-parameter $(if $(CI),-Werror)
ALL_CFLAGS = -std=gnu11 $(CFLAGS) $(WARN) -fopenmp -MMD -MP $(DEFS) $(EXTRA_CFLAGS)
LDLIBS := -linih -lcjson -lcsv -lhwloc -lm

SOURCES := $(filter-out %_test.c kernels/cudnn.c,$(wildcard src/*.c kernels/*.c kernels/rep/*.c kernels/cpu/*.c cp/*.c))
TESTS   := $(wildcard src/*_test.c kernels/*_test.c kernels/rep/*_test.c kernels/cpu/*_test.c cp/*_test.c)
OBJECTS := $(SOURCES:%.c=$(B)/%.o)

# Fragments: one a folder that needs rules of its own.
include $(wildcard kernels/cpu/cpu.mk kernels/gpu.mk cp/cp.mk figures/figures.mk)

LIBRARY := $(filter-out $(B)/src/main.o,$(OBJECTS))

.PHONY: build
build: $(B)/longca ## compile the program build/longca

$(B)/longca: $(OBJECTS)
	$(call say,LINK,$@)
	$(Q)$(CC) $(CFLAGS) -fopenmp $(EXTRA_CFLAGS) -o $@ $^ $(LDLIBS)

$(B)/%.o: %.c
	$(call say,CC,$<)
	@mkdir -p $(@D)
	$(Q)$(CC) $(ALL_CFLAGS) -c -o $@ $<

$(B)/%_test: $(B)/%_test.o $(LIBRARY)
	$(call say,LINK,$@)
	$(Q)$(CC) $(CFLAGS) -fopenmp $(EXTRA_CFLAGS) -o $@ $^ -lcmocka $(LDLIBS)

.PHONY: test
test: $(B)/longca $(TESTS:%.c=$(B)/%) ## build and run every test (10 minutes on 2 cores)
	$(Q)src/test.sh $(TESTS:%.c=$(B)/%)

.PHONY: clean
clean: ## remove what was built; measurements stay
	$(Q)rm -rf $(B)

.PHONY: help
help: ## this list
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

-include $(OBJECTS:.o=.d) $(TESTS:%.c=$(B)/%.d)
