// gemm.cu -- cuBLAS's bf16 product of two square matrices: what this GPU gives at the moment, at the power
// it is allowed, to the operation that tensor cores are made for. Attention is read against it.
#include <cublas_v2.h>

#include "device.h"

namespace {

struct product {
  cublasHandle_t blas;
  int n;
  void *a, *b, *c;
};

int multiply(void *context) { // columns first: C = A B
  const product *p = static_cast<const product *>(context);
  const float one = 1, zero = 0;
  return cublasGemmStridedBatchedEx(p->blas, CUBLAS_OP_N, CUBLAS_OP_N, p->n, p->n, p->n, &one, p->a,
                                    CUDA_R_16BF, p->n, 0, p->b, CUDA_R_16BF, p->n, 0, &zero, p->c,
                                    CUDA_R_16BF, p->n, 0, 1, CUBLAS_COMPUTE_32F,
                                    CUBLAS_GEMM_DEFAULT) == CUBLAS_STATUS_SUCCESS
             ? 0
             : -1;
}

} // namespace

int device_gemm(int n, const void *a, const void *b, void *c, struct device_sample *samples, int count) {
  enum { WARMUP = 5 };
  const size_t bytes = (size_t)n * n * 2;
  product p = {nullptr, n, nullptr, nullptr, nullptr};
  int status = cublasCreate(&p.blas) == CUBLAS_STATUS_SUCCESS ? 0 : -1;
  if (status || device_alloc(&p.a, bytes) || device_alloc(&p.b, bytes) || device_alloc(&p.c, bytes) ||
      device_upload(p.a, a, bytes) || device_upload(p.b, b, bytes) || device_fill(p.c, 0xff, bytes))
    status = -1;
  for (int i = -WARMUP; !status && i < count; i++)
    status = device_sample(multiply, &p, &samples[i < 0 ? 0 : i]);
  if (!status)
    status = device_download(c, p.c, bytes);
  device_free(p.a);
  device_free(p.b);
  device_free(p.c);
  if (p.blas)
    cublasDestroy(p.blas);
  return status;
}
