# cudnn.mk -- the test of cuDNN's graphs, which plans for a GPU that is not there: fake_driver.c stands in
# for the driver's library under its name, as cuDNN opens it, and before any other (DT_RPATH).
OBJECTS := $(filter-out $(B)/kernels/fake_driver.o,$(OBJECTS))

$(B)/kernels/libcuda.so.1: kernels/fake_driver.c $(B)/compile.stamp
	$(call say,LINK,$@)
	@mkdir -p $(@D)
	$(Q)$(CC) $(CFLAGS) $(WARN) -shared -fPIC -Wl,-soname,$(@F) -o $@ $<

$(B)/kernels/cudnn_test: $(B)/kernels/cudnn_test.o $(B)/liblongca.a $(B)/kernels/libcuda.so.1
	$(call say,LINK,$@)
	$(Q)$(CC) $(CFLAGS) -fopenmp $(EXTRA_CFLAGS) -o $@ \
	  -Wl,-rpath,'$$ORIGIN',--disable-new-dtags,--no-as-needed $^ -lcmocka $(LDLIBS)
