# gpu.mk -- CUDA sources. By folder: kernels/wgmma, and files that include its headers, are sm_90a;
# everything else is sm_80 (whose PTX later chips take too) and sm_90. ptxas reports each kernel's
# registers, spills and shared memory beside its object; the build prints the worst, `make gpu-report`
# all. Fails where a main loop spills: `make gpu-spills`.
ifeq ($(WITH_CUDA),1)
GPU_DEPS   := $(wildcard $(CUDA_HOME)/include/cublas_v2.h)
CUDNN_H    := $(wildcard $(CUDA_HOME)/include/cudnn.h)
GPU_LIBDIR := $(firstword $(wildcard $(CUDA_HOME)/lib64 $(CUDA_HOME)/lib))

GPU_SOURCES := $(wildcard src/*.cu kernels/*.cu kernels/mma/*.cu kernels/wgmma/*.cu)
GPU_SM90A   := $(sort $(filter kernels/wgmma/%,$(GPU_SOURCES)) \
                 $(if $(GPU_SOURCES),$(shell grep -lE '\#include "(.*/)?wgmma/' $(GPU_SOURCES))))
GPU_OBJECTS := $(GPU_SOURCES:%.cu=$(B)/%.cu.o)

DEFS    += -DLONGCA_CUDA -isystem $(CUDA_HOME)/include $(if $(CUDNN_H),-DLONGCA_CUDNN)
OBJECTS := $(filter-out $(B)/src/device_none.o,$(OBJECTS)) $(GPU_OBJECTS) \
           $(if $(CUDNN_H),$(B)/kernels/cudnn.o)
LDLIBS  += -L$(GPU_LIBDIR) -Wl,-rpath,$(GPU_LIBDIR) $(if $(CUDNN_H),-lcudnn) -lcublas \
           -lcudart_static -lstdc++ -lrt -lpthread -ldl

NVCCFLAGS := -std=c++17 -O3 -lineinfo --expt-relaxed-constexpr -MMD -MP -Xptxas -v -Xfatbin -compress-all \
             -Xcompiler -Wall,-Wextra,-Wno-unused-parameter $(if $(CI),-Werror all-warnings)
ARCH_ANY   := -gencode arch=compute_80,code=[sm_80,compute_80] -gencode arch=compute_90,code=sm_90
ARCH_SM90A := -gencode arch=compute_90a,code=sm_90a

# One line a kernel: architecture, name, registers, stack and spills in bytes, static shared memory.
GPU_PTXAS := awk -f kernels/ptxas.awk

$(B)/%.cu.o: %.cu kernels/ptxas.awk
	$(call say,NVCC,$<)
	@mkdir -p $(@D)
	$(Q)$(NVCC) $(NVCCFLAGS) $(DEFS) $(if $(filter $<,$(GPU_SM90A)),$(ARCH_SM90A),$(ARCH_ANY)) \
	  -MF $(@:.o=.d) -MT $@ -c -o $@ $< 2>$(@:.o=.log) || { cat $(@:.o=.log) >&2; exit 1; }
	@grep -iE 'warning|C75[0-9][0-9]' $(@:.o=.log) >&2 || true
	@$(GPU_PTXAS) $(@:.o=.log) | c++filt -p >$(@:.o=.ptxas)
	@awk -v Q='$(<F)' 'NR > 1 {n++; if ($$2 > r) r = $$2; s += $$4} \
	  END {if (n) printf "           %d kernels, at most %d registers, %d bytes spilled\n", n, r, s}' \
	  $(@:.o=.ptxas)

##@ GPU
.PHONY: gpu-report
gpu-report: $(GPU_OBJECTS) ## registers, spills and shared memory of each GPU kernel
	@cat $(GPU_OBJECTS:.o=.ptxas) | sort -u

.PHONY: gpu-spills
gpu-spills: $(GPU_OBJECTS) ## fails, and says which, where a kernel spills registers
	@awk '$$1 ~ /^sm_/ && $$4 > 0 {print "spills: " $$0; bad = 1} END {exit bad}' $(GPU_OBJECTS:.o=.ptxas)

.PHONY: test-gpu
test-gpu: $(B)/kernels/gpu_test $(B)/kernels/prep_test ## every device kernel against the double reference, on this GPU
	$(Q)src/test.sh $^

-include $(GPU_OBJECTS:.o=.d)
endif
