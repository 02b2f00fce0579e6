# src.mk -- the histograms of data/distributions, built into the program as rows {name, low, high, weight}.
HISTOGRAMS := $(sort $(wildcard data/distributions/*.csv))
DEFS += -I$(B)/src
# What the environment record says of the compiler.
$(B)/src/env_json.o: private DEFS += -DLONGCA_CFLAGS='"$(CFLAGS)"'

$(B)/src/histograms.inc: $(HISTOGRAMS) src/src.mk
	$(call say,GEN,$@)
	@mkdir -p $(@D)
	$(Q)awk -F, '{ sub(/\r$$/, "") } \
	  FNR == 1 { name = FILENAME; sub(/.*\//, "", name); sub(/\.csv$$/, "", name); next } \
	  NF == 3 { printf "{\"%s\", %d, %d, %s},\n", name, $$1, $$2, $$3 }' $(HISTOGRAMS) > $@

$(B)/src/mask_draw.o: $(B)/src/histograms.inc
