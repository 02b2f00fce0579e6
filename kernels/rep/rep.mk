# rep.mk -- -O3: the bit rows are plain loops that -O2 does not vectorise (0.15 against 1.5 ns a pair).
# Private: the stamp that reps.o waits for is made with everybody's flags.
$(B)/kernels/rep/reps.o: private ALL_CFLAGS += -O3

# Every representation compiles for the device, whichever the kernels of the day use.
ifeq ($(WITH_CUDA),1)
test-programs: $(B)/kernels/rep/reps_cuda_check.cu.o
endif
