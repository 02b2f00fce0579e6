# jit.mk -- the engine's source as a string in the program, for the compiler at run time (jit.h). All
# that may be included is named, not just what is: that list comes out of the making.
ifeq ($(WITH_CUDA),1)
OBJECTS += $(B)/kernels/flex_source.o

$(B)/kernels/flex_source.c: kernels/embed.awk kernels/jit.mk src/mask.h \
    $(wildcard kernels/*.h kernels/*.cuh kernels/rep/*.h kernels/ptx/*.cuh kernels/wgmma/*.cuh)
	$(call say,GEN,$@)
	@mkdir -p $(@D)
	$(Q)awk -v name=flex_source -f kernels/embed.awk kernels/flex.cuh >$@

$(B)/kernels/flex_source.o: $(B)/kernels/flex_source.c $(B)/compile.stamp
	$(call say,CC,$<)
	$(Q)$(CC) $(ALL_CFLAGS) -c -o $@ $<
endif
