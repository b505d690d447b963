/* The reference: portable C, one element at a time. Built with -ffp-contract=off. */
#include "elements.h"
#include "kernels.h"

#ifdef _MSC_VER
#define ALWAYS_INLINE static __forceinline
#else
#define ALWAYS_INLINE static inline __attribute__((always_inline))
#endif

typedef float read_fn(const char *at);

ALWAYS_INLINE void dot_rows(read_fn *read, size_t size, const float *query, const char *rows,
                            size_t stride, size_t n, size_t width, float *out) {
    for (size_t i = 0; i < n; i++) {
        const char *row = rows + i * stride;
        float sum = 0.0f;
        for (size_t j = 0; j < width; j++) {
            sum += query[j] * read(row + j * size);
        }
        out[i] = sum;
    }
}

ALWAYS_INLINE void accumulate_rows(read_fn *read, size_t size, const float *weights,
                                   const char *rows, size_t stride, size_t n, size_t width,
                                   float *acc) {
    for (size_t i = 0; i < n; i++) {
        const char *row = rows + i * stride;
        for (size_t j = 0; j < width; j++) {
            acc[j] += weights[i] * read(row + j * size);
        }
    }
}

#define DEFINE_ROW_KERNELS(dtype, size)                                                          \
    static void dot_##dtype(const float *query, const char *rows, size_t stride, size_t n,       \
                            size_t width, float *out) {                                          \
        dot_rows(ppedge_read_##dtype, size, query, rows, stride, n, width, out);                 \
    }                                                                                            \
    static void accumulate_##dtype(const float *weights, const char *rows, size_t stride,        \
                                   size_t n, size_t width, float *acc) {                         \
        accumulate_rows(ppedge_read_##dtype, size, weights, rows, stride, n, width, acc);        \
    }

DEFINE_ROW_KERNELS(f32, 4)
DEFINE_ROW_KERNELS(f16, 2)
DEFINE_ROW_KERNELS(bf16, 2)
DEFINE_ROW_KERNELS(i8, 1)

static float exp_sum(float *x, size_t n, float max) {
    float sum = 0.0f;
    for (size_t i = 0; i < n; i++) {
        x[i] = expf(x[i] - max);
        sum += x[i];
    }
    return sum;
}

const ppedge_kernels ppedge_kernels_scalar = {
    .dot = {dot_f32, dot_f16, dot_bf16, dot_i8},
    .accumulate = {accumulate_f32, accumulate_f16, accumulate_bf16, accumulate_i8},
    .exp_sum = exp_sum,
};
