# tests.mk -- test programs of more than one file: NAME_test_*.c are parts of NAME_test, on a GPU and on an
# emulated one.
TEST_PARTS := $(patsubst %.c,$(B)/%.o,$(wildcard kernels/*_test_*.c))
OBJECTS    := $(filter-out $(TEST_PARTS),$(OBJECTS))

$(B)/kernels/gpu_test $(B)/emu/gpu_test: $(filter $(B)/kernels/gpu_test_%,$(TEST_PARTS))
$(B)/kernels/prep_test $(B)/emu/prep_test: $(filter $(B)/kernels/prep_test_%,$(TEST_PARTS))

-include $(TEST_PARTS:.o=.d)
