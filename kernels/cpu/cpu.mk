# cpu.mk -- tile.c is compiled once per instruction set; isa.c chooses among the copies at run time.
TILE_ISAS := base
ifneq ($(filter x86_64%,$(shell $(CC) -dumpmachine)),)
TILE_ISAS += avx2 avx512
endif
TILE_FLAGS_avx2   := -march=x86-64-v3
TILE_FLAGS_avx512 := -march=x86-64-v4 -mprefer-vector-width=512

TILES   := $(TILE_ISAS:%=$(B)/kernels/cpu/tile_%.o)
OBJECTS := $(filter-out $(B)/kernels/cpu/tile.o,$(OBJECTS)) $(TILES)

# -O3: the micro-kernel's loops must be unrolled completely for its tile to live in registers.
$(TILES): $(B)/kernels/cpu/tile_%.o: kernels/cpu/tile.c kernels/cpu/cpu.mk $(B)/compile.stamp
	$(call say,CC,$< for $*)
	@mkdir -p $(@D)
	$(Q)$(CC) $(ALL_CFLAGS) -O3 $(TILE_FLAGS_$*) -c -o $@ $<
