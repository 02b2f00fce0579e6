# config.mk: what a user may set, here or on the command line (make CUDA=0).

# the C compiler
CC        ?= cc
# its flags: speed, debugging
CFLAGS    ?= -O2 -g
# instrument, in a build folder of its own: address,undefined
SANITIZE  ?=
# auto: kernels for GPUs when nvcc is found; 0: never; 1: insist
CUDA      ?= auto
# context parallelism over MPI, auto: when mpicc is found; 0: never; 1: insist
MPI       ?= auto
# where the CUDA toolkit is: ./setup.sh --cuda puts one into .toolchain
CUDA_HOME ?= $(firstword $(wildcard $(CURDIR)/.toolchain/cuda /usr/local/cuda))
# scale of the measurements: cpu, quick, paper; by itself quick with a GPU, cpu without
PROFILE   ?= $(if $(and $(filter 1,$(WITH_CUDA)),$(wildcard /dev/nvidiactl)),quick,cpu)
# which rows are drawn: all (this machine's and the recorded ones) or recorded
DATA      ?= all
# 1: show whole commands
V         ?= 0
