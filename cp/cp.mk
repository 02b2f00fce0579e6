# cp.mk -- transports beside loopback: Open MPI when mpicc is found, NCCL when both it and CUDA are.
MPICC    := $(shell command -v mpicc 2>/dev/null)
WITH_MPI := $(if $(filter auto,$(MPI)),$(if $(MPICC),1,0),$(MPI))
ifeq ($(WITH_MPI)$(MPICC),1)
  $(error MPI=1, but there is no mpicc; ./setup.sh installs Open MPI)
endif

CP_NCCL     := cp/nccl.c cp/nccl_connect.c cp/nccl_map.c cp/nccl_watch.c
CP_OPTIONAL := cp/loopback_gpu.c cp/mpi.c cp/mpirun.c $(CP_NCCL) $(wildcard cp/fake_*.c)
CP_USED     := $(if $(filter 1,$(WITH_CUDA)),cp/loopback_gpu.c)
ifeq ($(WITH_MPI),1)
# System headers, so that their warnings are not ours.
DEFS   += -DLONGCA_MPI $(patsubst -I%,-isystem %,$(shell $(MPICC) --showme:compile))
LDLIBS += $(shell $(MPICC) --showme:link)
CP_USED += cp/mpi.c cp/mpirun.c
ifeq ($(WITH_CUDA),1)
NCCL_H := $(wildcard $(CUDA_HOME)/include/nccl.h)
ifneq ($(NCCL_H),)
DEFS    += -DLONGCA_NCCL
LDLIBS  += -lnccl
CP_USED += $(CP_NCCL)
endif
endif
endif
OBJECTS := $(filter-out $(filter-out $(CP_USED:%.c=$(B)/%.o),$(CP_OPTIONAL:%.c=$(B)/%.o)),$(OBJECTS))

ifeq ($(WITH_CUDA),1)
CP_CUDA := $(patsubst %.cu,$(B)/%.cu.o,$(wildcard cp/*.cu))
OBJECTS += $(CP_CUDA)
-include $(CP_CUDA:.o=.d)
endif

# The NCCL transport without a GPU (nccl_test.c, nccl_fault_test.c): real sources on a CUDA and an NCCL that are fakes. The
# objects that name GPU kernels are compiled once more, without them.
ifneq ($(filter cp/nccl.c,$(CP_USED)),)
FAKES := $(addprefix $(B)/cp/fake/,kernels/registry.o cp/registry.o cp/memory_device.o \
           $(patsubst %.c,%.o,$(wildcard cp/fake_*.c)))

$(B)/cp/fake/%.o: %.c $(B)/compile.stamp
	$(call say,CC,$< for the fake GPU)
	@mkdir -p $(@D)
	$(Q)$(CC) $(ALL_CFLAGS) -ULONGCA_CUDA -c -o $@ $<

$(B)/cp/fake/cp/memory_device.o: cp/memory_device.cu cp/fake_cuda.h $(B)/compile.stamp
	$(call say,CXX,$< for the fake GPU)
	@mkdir -p $(@D)
	$(Q)sed -E 's/([a-z_]+)<<<(.*)>>>\(/fake_launch(\1, \2)(/' $< | \
	  $(CXX) -std=c++17 $(CFLAGS) -Wall $(EXTRA_CFLAGS) -isystem $(CUDA_HOME)/include -Icp \
	  -include cp/fake_cuda.h -Wno-unknown-pragmas -x c++ -c -o $@ -

$(B)/cp/nccl_test $(B)/cp/nccl_fault_test: %: %.o $(FAKES) $(B)/liblongca.a
	$(call say,LINK,$@)
	$(Q)$(CC) $(CFLAGS) -fopenmp $(EXTRA_CFLAGS) -o $@ $^ -lcmocka \
	  $(filter-out -lcudart_static -lnccl -lcublas -lcudnn,$(LDLIBS))

# The schedules with GPU kernels: the emulated GPU (kernels/emu) with the fakes before its own runtime.
EMU_LAUNCH := _ZN3emu6launchERKNS_6configERKSt8functionIFvvEE
CP_EMU     := $(B)/cp/gpu_test.o $(addprefix $(B)/cp/fake/,$(patsubst %.c,%.o,$(wildcard cp/fake_*.c)) cp/fake_emu.o)
$(B)/cp/fake/cp/fake_emu.o: cp/fake_emu.cpp kernels/emu/emu.h kernels/emu/emu_ptx.h
	@mkdir -p $(@D)
	$(Q)$(CXX) -std=c++17 $(CFLAGS) -isystem $(CUDA_HOME)/include -Ikernels/emu -c -o $@ $<

$(B)/emu/cp_gpu_test: $(CP_EMU) $(B)/emu/gpu_test
	$(call say,LINK,$@)
	$(Q)$(CXX) -fopenmp -rdynamic -Wl,-z,muldefs -Wl,--wrap=$(EMU_LAUNCH) -o $@ $(CP_EMU) \
	  $(filter-out $(B)/src/main.o,$(EMU_HOST) $(EMU_OBJECTS)) -lcmocka $(filter-out -lnccl,$(EMU_LIBS))

##@ Context parallelism
.PHONY: test-cp-emulated
test-cp-emulated: $(B)/emu/cp_gpu_test ## the schedules with GPU kernels, and over NCCL, on emulated GPUs
	$(Q)FAKE_GPUS=4 LONGCA_TEST_QUICK=1 TEST_LIMIT_S=2400 src/test.sh $<

-include $(FAKES:.o=.d)
endif
