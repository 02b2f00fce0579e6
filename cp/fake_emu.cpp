// fake_emu.cpp -- kernels of the emulated GPU (kernels/emu) on the asynchronous streams of fake_cuda.c: a
// launch waits until the streams that have kernels are empty, and then runs at once. The linker puts
// this before the emulation's own launch (cp.mk).
#include "../kernels/emu/emu.h"

#define LAUNCH(prefix) prefix##_ZN3emu6launchERKNS_6configERKSt8functionIFvvEE

extern "C" {
void fake_cuda_drain(void);
void LAUNCH(__real_)(const emu::config &c, const std::function<void()> &body);
void LAUNCH(__wrap_)(const emu::config &c, const std::function<void()> &body);
}

void LAUNCH(__wrap_)(const emu::config &c, const std::function<void()> &body) {
  fake_cuda_drain();
  LAUNCH(__real_)(c, body);
}
