# wgmma.mk -- tests of the wgmma engine. That of its mask code runs it on the host: no CUDA is needed, but
# C++, as which lanes.cpp compiles that code. Those of gather lists and of parts need a GPU, which may be
# emulated.
TESTS += kernels/wgmma/lanes_test.c kernels/wgmma/gather_test.c kernels/wgmma/split_test.c
LANES_FLAGS = -std=c++17 $(CFLAGS) -Wall -Wextra -Wno-unused-parameter -Wno-unknown-pragmas \
              $(if $(CI),$(if $(SANITIZE),,-Werror)) -MMD -MP $(EXTRA_CFLAGS)

$(B)/kernels/wgmma/lanes.o: kernels/wgmma/lanes.cpp $(B)/compile.stamp
	$(call say,CXX,$<)
	@mkdir -p $(@D)
	$(Q)$(CXX) $(LANES_FLAGS) -c -o $@ $<

$(B)/kernels/wgmma/lanes_test: private LDLIBS += -lstdc++
$(B)/kernels/wgmma/lanes_test: $(B)/kernels/wgmma/lanes.o

-include $(B)/kernels/wgmma/lanes.d

ifeq ($(WITH_CUDA),1)
test-gpu: $(B)/kernels/wgmma/gather_test $(B)/kernels/wgmma/split_test
test-emulated: $(B)/emu/wgmma/gather_test $(B)/emu/wgmma/split_test
$(B)/emu/wgmma/gather_test $(B)/emu/wgmma/split_test: | $(B)/emu/wgmma
$(B)/emu/wgmma:
	@mkdir -p $@
endif
