# cp.mk -- transports beside loopback: Open MPI when mpicc is found, NCCL when both it and CUDA are.
MPICC    := $(shell command -v mpicc 2>/dev/null)
WITH_MPI := $(if $(filter auto,$(MPI)),$(if $(MPICC),1,0),$(MPI))
ifeq ($(WITH_MPI)$(MPICC),1)
  $(error MPI=1, but there is no mpicc; ./setup.sh installs Open MPI)
endif

# The test runs itself under mpirun.
CP_OPTIONAL := cp/mpi.c cp/mpirun.c cp/nccl.c
CP_USED     :=
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
CP_USED += cp/nccl.c
endif
endif
endif
OBJECTS := $(filter-out $(filter-out $(CP_USED:%.c=$(B)/%.o),$(CP_OPTIONAL:%.c=$(B)/%.o)),$(OBJECTS))

ifeq ($(WITH_CUDA),1)
CP_CUDA := $(patsubst %.cu,$(B)/%.cu.o,$(wildcard cp/*.cu))
OBJECTS += $(CP_CUDA)
-include $(CP_CUDA:.o=.d)
endif
