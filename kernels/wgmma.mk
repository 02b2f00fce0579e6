# wgmma.mk -- the engine's plain C, and its tests. That of its mask code runs it on the host: no CUDA is needed,
# but C++, as which lanes.cpp compiles that code. Those of gather lists, of parts and of tiles' bits need a GPU,
# which may be emulated.
OBJECTS += $(B)/kernels/wgmma/balance.o
TESTS += kernels/wgmma/balance_test.c kernels/wgmma/lanes_test.c kernels/wgmma/gather_test.c \
         kernels/wgmma/split_test.c kernels/wgmma/tile_bits_test.c kernels/wgmma/turns_test.c
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
WGMMA_DEVICE_TESTS := gather_test split_test tile_bits_test
test-gpu: $(WGMMA_DEVICE_TESTS:%=$(B)/kernels/wgmma/%)
test-emulated: $(WGMMA_DEVICE_TESTS:%=$(B)/emu/wgmma/%)
$(WGMMA_DEVICE_TESTS:%=$(B)/emu/wgmma/%): | $(B)/emu/wgmma
$(B)/emu/wgmma:
	@mkdir -p $@
endif
