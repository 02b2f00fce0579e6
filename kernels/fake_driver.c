// fake_driver.c -- as much of a CUDA driver as cuDNN wants for planning, and no GPU: it opens libcuda.so.1,
// looks all these functions up, and calls the first four to load the kernels of a plan. For cudnn_test.c.

enum { SUCCESS = 0, STUB_LIBRARY = 34 }; // CUresult

static int anything; // what handles point to

static int give_handle(void **handle) {
  *handle = &anything;
  return SUCCESS;
}
static int succeed(void) { return SUCCESS; }
static int refuse(void) { return STUB_LIBRARY; }

int cuLibraryLoadData(void **library) __attribute__((alias("give_handle")));
int cuLibraryGetKernel(void **kernel) __attribute__((alias("give_handle")));
int cuKernelSetAttribute(void) __attribute__((alias("succeed")));
int cuLibraryUnload(void) __attribute__((alias("succeed")));

#define REFUSE(call) int call(void) __attribute__((alias("refuse")))
REFUSE(cuCtxGetCurrent);
REFUSE(cuCtxGetLimit);
REFUSE(cuCtxPopCurrent);
REFUSE(cuCtxPushCurrent);
REFUSE(cuDeviceGet);
REFUSE(cuDeviceGetCount);
REFUSE(cuDriverGetVersion);
REFUSE(cuGetErrorName);
REFUSE(cuGetErrorString);
REFUSE(cuInit);
REFUSE(cuKernelGetAttribute);
REFUSE(cuLaunchCooperativeKernel);
REFUSE(cuLaunchKernel);
REFUSE(cuLaunchKernelEx);
REFUSE(cuLibraryLoadFromFile);
REFUSE(cuLinkAddData);
REFUSE(cuLinkComplete);
REFUSE(cuLinkCreate);
REFUSE(cuLinkDestroy);
REFUSE(cuOccupancyMaxPotentialClusterSize);
REFUSE(cuStreamGetCtx);
