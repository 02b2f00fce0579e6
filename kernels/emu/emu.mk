# emu.mk -- the CUDA kernels' own source compiled for the host, on an emulated GPU (README.md): what
# `make test-gpu` checks on a GPU, `make test-emulated` checks without one.
ifeq ($(WITH_CUDA),1)
E := $(B)/emu$(if $(EMU_CHECK),-check)

# Sources and headers, with launches and dynamic shared memory rewritten (emu.sed).
EMU_TREE := $(wildcard $(foreach d,kernels kernels/rep kernels/ptx kernels/mma kernels/wgmma src cp, \
              $(d)/*.h $(d)/*.cuh $(d)/*.cu))
EMU_SOURCES := $(filter-out kernels/jit.cu,$(filter %.cu,$(EMU_TREE)))
EMU_OBJECTS := $(EMU_SOURCES:%.cu=$(E)/%.o) \
               $(patsubst %.cpp,$(E)/%.o,$(filter-out %_test.cpp,$(wildcard kernels/emu/*.cpp)))
EMU_FLAGS   := -std=c++17 -g -fopenmp -fno-strict-aliasing -Wall -Wno-unknown-pragmas \
               -Wno-sign-compare -Wno-psabi -MMD -MP $(DEFS) -Ikernels/emu $(if $(CI),-Werror)
# With the sanitizer: gcc calls a function of check.cpp for each access of the kernels' source. At -O1, a load
# is where the source has it.
EMU_SEEN    := $(if $(EMU_CHECK),-fsanitize=thread --param tsan-instrument-func-entry-exit=0 -DEMU_CHECK)
EMU_OPT     := $(if $(EMU_CHECK),-O1,-O2)
# What kernels compiled at run time are compiled with (jit.cpp).
EMU_JIT     := $(CXX) -std=c++17 -O1 $(EMU_SEEN) -Wno-psabi -fno-strict-aliasing -isystem $(CUDA_HOME)/include \
               -I$(CURDIR)/kernels/emu -include $(CURDIR)/kernels/emu/emu.h

$(E)/tree/%: % kernels/emu/emu.sed
	@mkdir -p $(@D)
	@sed -E -f kernels/emu/emu.sed $< >$@

$(EMU_SOURCES:%.cu=$(E)/%.o): $(E)/%.o: $(E)/tree/%.cu kernels/emu/emu.mk | $(EMU_TREE:%=$(E)/tree/%)
	$(call say,EMU,$*.cu)
	@mkdir -p $(@D)
	$(Q)$(CXX) $(EMU_FLAGS) $(EMU_OPT) $(EMU_SEEN) -include kernels/emu/emu.h -x c++ -c -o $@ $<

$(E)/kernels/emu/jit.o: EMU_FLAGS += -DEMU_COMPILE='"$(EMU_JIT)"' -DEMU_LINK='"$(CXX)"' -DEMU_SED='"$(CURDIR)/kernels/emu/emu.sed"'
$(E)/kernels/emu/%.o: kernels/emu/%.cpp kernels/emu/emu.mk
	$(call say,EMU,$<)
	@mkdir -p $(@D)
	$(Q)$(CXX) $(EMU_FLAGS) -O2 $(if $(EMU_CHECK),-DEMU_CHECK) -c -o $@ $<

$(E)/check_test.o: $(E)/tree/kernels/emu/check_test.cpp kernels/emu/emu.mk | $(EMU_TREE:%=$(E)/tree/%)
	$(call say,EMU,check_test.cpp)
	@mkdir -p $(@D)
	$(Q)$(CXX) $(EMU_FLAGS) $(EMU_OPT) $(EMU_SEEN) -include kernels/emu/emu.h -c -o $@ $<

EMU_HOST := $(filter-out $(GPU_OBJECTS) %/memory_device.o %.cu.o,$(OBJECTS))
EMU_LIBS := $(filter-out -lcublas -lcudart_static,$(LDLIBS))
EMU_LINK  = $(CXX) -fopenmp -rdynamic -o $@ $(filter-out $(B)/src/main.o,$^) -lcmocka $(EMU_LIBS)
$(E)/%_test: $(B)/kernels/%_test.o $(EMU_HOST) $(EMU_OBJECTS)
	$(call say,LINK,$@)
	$(Q)$(EMU_LINK)

$(E)/%_test: $(B)/src/%_test.o $(EMU_HOST) $(EMU_OBJECTS)
	$(call say,LINK,$@)
	$(Q)$(EMU_LINK)

$(E)/clean_test.o: kernels/emu/clean_test.c $(B)/compile.stamp
	$(call say,CC,$<)
	@mkdir -p $(@D)
	$(Q)$(CC) $(ALL_CFLAGS) -c -o $@ $<

$(E)/check_test $(E)/clean_test: $(E)/%: $(E)/%.o $(EMU_HOST) $(EMU_OBJECTS)
	$(call say,LINK,$@)
	$(Q)$(EMU_LINK)

# With their parts (tests.mk).
$(foreach t,gpu_test prep_test,$(eval $(E)/$t: $(filter $(B)/kernels/$t_%,$(TEST_PARTS))))

# The program itself: every sub-command, measuring on the emulated GPU.
$(E)/longca: $(EMU_HOST) $(EMU_OBJECTS)
	$(call say,LINK,$@)
	$(Q)$(CXX) -fopenmp -rdynamic -o $@ $^ $(EMU_LIBS)

.PHONY: test-emulated
test-emulated: $(E)/gpu_test $(E)/prep_test $(E)/device_test ## the GPU kernels, and longca run, on an emulated GPU (ALL=1: every case, for hours)
	$(Q)$(if $(ALL),,LONGCA_TEST_QUICK=1) TEST_LIMIT_S=1200 src/test.sh $(filter %_test,$^)

# Once more under the sanitizer, in a folder beside: what the compiler inserts is for it alone.
.PHONY: test-sanitized
test-sanitized: ## memcheck, racecheck and synccheck of the GPU kernels, on an emulated GPU
	$(Q)$(MAKE) --no-print-directory EMU_CHECK=1 check-and-clean
.PHONY: check-and-clean
check-and-clean: $(E)/check_test $(E)/clean_test
	$(Q)TEST_LIMIT_S=1200 src/test.sh $^

-include $(EMU_OBJECTS:.o=.d) $(E)/check_test.d $(E)/clean_test.d
endif
