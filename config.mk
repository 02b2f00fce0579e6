# config.mk -- what a user may set; every line can also be given on the command line (make CUDA=0).
CC      ?= cc
CFLAGS  ?= -O2 -g
# CUDA: auto uses the toolkit when nvcc is found; 0 builds the CPU engine alone; 1 insists.
CUDA    ?= auto
CUDA_HOME ?= $(firstword $(wildcard $(CURDIR)/.toolchain/cuda /usr/local/cuda))
# Open MPI: the same three values.
MPI     ?= auto
# Scale of the measurements: cpu, quick or paper. Empty: paper's quick subset with a GPU, cpu without.
PROFILE ?=
# Which rows are drawn: all (this machine's and the recorded ones) or recorded.
DATA    ?= all
V       ?= 0
