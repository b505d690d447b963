/* What a backend supplies. Everything else (masks, bias, scales, errors, merging) is in pool.c. */
#ifndef PPEDGE_KERNELS_H
#define PPEDGE_KERNELS_H

#include <stddef.h>

#include "ppedge/pool.h"

/* exp_sum takes counts that are a multiple of this, the widest vector of any backend. */
#define PPEDGE_LANES_MAX 16

enum { PPEDGE_DTYPES = 4 };

/* out[i] = dot(query, row i) for n rows of `width` elements. */
typedef void ppedge_dot_fn(const float *query, const char *rows, size_t stride, size_t n,
                           size_t width, float *out);

/* acc[j] += sum_i weights[i] * row i [j] for n rows of `width` elements. */
typedef void ppedge_accumulate_fn(const float *weights, const char *rows, size_t stride, size_t n,
                                  size_t width, float *acc);

/* x[i] = exp(x[i] - max), where x[i] <= max and max is finite; x[i] may be -inf. Weights below
 * the smallest normal float32 become 0. Returns the sum. */
typedef float ppedge_exp_sum_fn(float *x, size_t n, float max);

typedef struct ppedge_kernels {
    ppedge_dot_fn *dot[PPEDGE_DTYPES];               /* indexed by ppedge_dtype */
    ppedge_accumulate_fn *accumulate[PPEDGE_DTYPES]; /* likewise */
    ppedge_exp_sum_fn *exp_sum;
} ppedge_kernels;

extern const ppedge_kernels ppedge_kernels_scalar;
#ifdef PPEDGE_WITH_AVX2
extern const ppedge_kernels ppedge_kernels_avx2;
#endif
#ifdef PPEDGE_WITH_AVX512
extern const ppedge_kernels ppedge_kernels_avx512;
#endif
#ifdef PPEDGE_WITH_NEON
extern const ppedge_kernels ppedge_kernels_neon;
#endif

/* The kernels of a backend that ppedge_backend_resolve returned. */
const ppedge_kernels *ppedge_kernels_of(ppedge_backend resolved);

#endif
