/* The SIMD kernels, written once over the vector operations of an instruction set.
 *
 * The including file defines the type `vec` of LANES floats, and as static inline functions
 * vec_set1, vec_load, vec_store, vec_add, vec_mul, vec_fma (a * b + c), vec_max, vec_sum,
 * vec_round, vec_pow2 (2 to an integer in -126 .. 0), vec_zero_below (value where x >= limit, else
 * 0) and the widening loads load_f32, load_f16, load_bf16, load_i8 of LANES elements at any
 * address. KERNELS names the table.
 *
 * Rows are walked one at a time, values too: the hardware prefetcher follows one forward stream
 * well and many interleaved ones badly, and the accumulator stays in the first-level cache.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "kernels.h"

#define ALWAYS_INLINE static inline __attribute__((always_inline))

typedef vec load_fn(const char *at);

/* Rows mostly follow one another, and the hardware prefetcher stops at each page's end: asking this
 * far ahead hides that. Reaching past the last row is harmless, a prefetch never faults. */
enum { PREFETCH_BYTES = 2048, LINE_BYTES = 64 };

ALWAYS_INLINE void prefetch(const char *at, size_t bytes) {
    for (size_t line = 0; line < bytes; line += LINE_BYTES) {
        __builtin_prefetch((const void *)((uintptr_t)at + line + PREFETCH_BYTES));
    }
}

/* tail_mask + r is a vector whose last r lanes are 1 and whose other lanes are 0. */
static const float tail_ones[2 * LANES] = {
    [LANES] = 1, 1, 1, 1,
#if LANES > 4
    1, 1, 1, 1,
#endif
#if LANES > 8
    1, 1, 1, 1, 1, 1, 1, 1,
#endif
};

ALWAYS_INLINE vec tail_mask(size_t remainder) { return vec_load(tail_ones + remainder); }

/* Loads `count` < LANES elements and zeros, without touching what lies behind them. */
ALWAYS_INLINE vec load_narrow(load_fn *load, size_t size, const char *at, size_t count) {
    char padded[LANES * sizeof(float)] = {0};
    memcpy(padded, at, count * size);
    return load(padded);
}

ALWAYS_INLINE float dot_row(load_fn *load, size_t size, const float *query, vec query_tail,
                            const char *row, size_t width) {
    vec sum0 = vec_set1(0.0f), sum1 = sum0, sum2 = sum0, sum3 = sum0;
    size_t j = 0;
    for (; j + 4 * LANES <= width; j += 4 * LANES) {
        const char *at = row + j * size;
        prefetch(at, 4 * LANES * size);
        sum0 = vec_fma(vec_load(query + j), load(at), sum0);
        sum1 = vec_fma(vec_load(query + j + LANES), load(at + LANES * size), sum1);
        sum2 = vec_fma(vec_load(query + j + 2 * LANES), load(at + 2 * LANES * size), sum2);
        sum3 = vec_fma(vec_load(query + j + 3 * LANES), load(at + 3 * LANES * size), sum3);
    }
    for (; j + LANES <= width; j += LANES) {
        sum0 = vec_fma(vec_load(query + j), load(row + j * size), sum0);
    }
    if (j < width) {
        /* the last LANES elements again; query_tail is 0 where they were already counted */
        sum1 = vec_fma(query_tail, load(row + (width - LANES) * size), sum1);
    }
    return vec_sum(vec_add(vec_add(sum0, sum1), vec_add(sum2, sum3)));
}

ALWAYS_INLINE void dot_rows(load_fn *load, size_t size, const float *query, const char *rows,
                            size_t stride, size_t n, size_t width, float *out) {
    if (width < LANES) {
        float padded[LANES] = {0};
        memcpy(padded, query, width * sizeof *query);
        for (size_t i = 0; i < n; i++) {
            const vec row = load_narrow(load, size, rows + i * stride, width);
            out[i] = vec_sum(vec_mul(vec_load(padded), row));
        }
        return;
    }
    const vec query_tail = vec_mul(tail_mask(width % LANES), vec_load(query + width - LANES));
    for (size_t i = 0; i < n; i++) {
        out[i] = dot_row(load, size, query, query_tail, rows + i * stride, width);
    }
}

ALWAYS_INLINE void add_scaled(load_fn *load, vec weight, const char *at, float *acc) {
    vec_store(acc, vec_fma(weight, load(at), vec_load(acc)));
}

ALWAYS_INLINE void accumulate_row(load_fn *load, size_t size, vec weight, vec weight_tail,
                                  const char *row, size_t width, float *acc) {
    size_t j = 0;
    for (; j + 4 * LANES <= width; j += 4 * LANES) {
        const char *at = row + j * size;
        prefetch(at, 4 * LANES * size);
        add_scaled(load, weight, at, acc + j);
        add_scaled(load, weight, at + LANES * size, acc + j + LANES);
        add_scaled(load, weight, at + 2 * LANES * size, acc + j + 2 * LANES);
        add_scaled(load, weight, at + 3 * LANES * size, acc + j + 3 * LANES);
    }
    for (; j + LANES <= width; j += LANES) {
        add_scaled(load, weight, row + j * size, acc + j);
    }
    if (j < width) {
        /* the last LANES elements again; weight_tail is 0 where they were already added */
        add_scaled(load, weight_tail, row + (width - LANES) * size, acc + width - LANES);
    }
}

ALWAYS_INLINE void accumulate_rows(load_fn *load, size_t size, const float *weights,
                                   const char *rows, size_t stride, size_t n, size_t width,
                                   float *acc) {
    if (width < LANES) {
        float padded[LANES] = {0};
        memcpy(padded, acc, width * sizeof *acc);
        vec sum = vec_load(padded);
        for (size_t i = 0; i < n; i++) {
            const vec row = load_narrow(load, size, rows + i * stride, width);
            sum = vec_fma(vec_set1(weights[i]), row, sum);
        }
        vec_store(padded, sum);
        memcpy(acc, padded, width * sizeof *acc);
        return;
    }
    const vec mask = tail_mask(width % LANES);
    for (size_t i = 0; i < n; i++) {
        const vec weight = vec_set1(weights[i]);
        accumulate_row(load, size, weight, vec_mul(weight, mask), rows + i * stride, width, acc);
    }
}

#define DEFINE_DOT(dtype, size)                                                                  \
    static void dot_##dtype(const float *query, const char *rows, size_t stride, size_t n,       \
                            size_t width, float *out) {                                          \
        dot_rows(load_##dtype, size, query, rows, stride, n, width, out);                        \
    }

#define DEFINE_ACCUMULATE(dtype, size)                                                           \
    static void accumulate_##dtype(const float *weights, const char *rows, size_t stride,        \
                                   size_t n, size_t width, float *acc) {                         \
        accumulate_rows(load_##dtype, size, weights, rows, stride, n, width, acc);               \
    }

DEFINE_DOT(f32, 4)
DEFINE_DOT(f16, 2)
DEFINE_DOT(bf16, 2)
#ifdef HAS_INTEGER_DOT
#include "kernels_integer_dot.h"
#else
DEFINE_DOT(i8, 1)
#endif

DEFINE_ACCUMULATE(f32, 4)
DEFINE_ACCUMULATE(f16, 2)
DEFINE_ACCUMULATE(bf16, 2)
DEFINE_ACCUMULATE(i8, 1)

/* exp(x) for x <= 0: 2^k * e^r with k = round(x / ln 2), |r| <= ln 2 / 2. The polynomial is the
 * Taylor series of e^r to the 7th power, whose next term is below 6e-9 there. */
ALWAYS_INLINE vec vec_exp(vec x) {
    /* below this, 2^k would be subnormal */
    const vec lowest = vec_set1(-87.0f);
    const vec clamped = vec_max(x, lowest);
    const vec k = vec_round(vec_mul(clamped, vec_set1(0x1.715476p+0f)));
    /* ln 2 in two parts; k times the first one is exact */
    vec r = vec_fma(k, vec_set1(-0x1.62ep-1f), clamped);
    r = vec_fma(k, vec_set1(-0x1.0bfbe8p-15f), r);
    vec series = vec_set1(1.0f / 5040.0f);
    series = vec_fma(series, r, vec_set1(1.0f / 720.0f));
    series = vec_fma(series, r, vec_set1(1.0f / 120.0f));
    series = vec_fma(series, r, vec_set1(1.0f / 24.0f));
    series = vec_fma(series, r, vec_set1(1.0f / 6.0f));
    series = vec_fma(series, r, vec_set1(0.5f));
    series = vec_fma(series, r, vec_set1(1.0f));
    series = vec_fma(series, r, vec_set1(1.0f));
    return vec_zero_below(x, lowest, vec_mul(series, vec_pow2(k)));
}

static float exp_sum(float *x, size_t n, float max) {
    const vec shift = vec_set1(-max);
    vec sum = vec_set1(0.0f);
    for (size_t i = 0; i < n; i += LANES) {
        const vec weight = vec_exp(vec_add(vec_load(x + i), shift));
        vec_store(x + i, weight);
        sum = vec_add(sum, weight);
    }
    return vec_sum(sum);
}

const ppedge_kernels KERNELS = {
    .dot = {dot_f32, dot_f16, dot_bf16, dot_i8},
    .accumulate = {accumulate_f32, accumulate_f16, accumulate_bf16, accumulate_i8},
    .exp_sum = exp_sum,
};
