/* Attention pooling of many rows by a few queries, in one pass over the rows.
 *
 * For every query q and head h, over the rows i = 0 .. n_rows-1:
 *
 *     score[i]    = scale * dot(query[q,h], key[i,h]) + bias[i]
 *     weight[i]   = exp(score[i]) / sum_j exp(score[j])
 *     out[q,h]    = sum_i weight[i] * value[i,h]
 *     lse[q,h]    = log(sum_j exp(score[j]))
 *
 * The softmax is streamed (Milakov & Gimelshein, arXiv 1805.02867): each row is read once, a
 * running maximum keeps exp() in range, and the parts of a split range merge (Rabe & Staats,
 * arXiv 2112.05682). Accumulators are float32.
 *
 * Heads. Head h uses the h-th of n_heads equal slices of a row: [n, width] is read as
 * [n, n_heads, width / n_heads]. A query row is sliced in the same way, so each head has a query
 * of its own; so is a row of `out`.
 *
 * Bits. For one backend, the result is a pure function of the arguments' values: it depends on
 * neither n_threads nor the alignment or stride of any buffer.
 *
 * Threads. No function keeps state between calls (the choice of the default backend is made once,
 * atomically), so any number of threads may call at once.
 *
 * Errors. Every ppedge_status is listed below. On anything but PPEDGE_OK the contents of the
 * output buffers are unspecified.
 */
#ifndef PPEDGE_POOL_H
#define PPEDGE_POOL_H

#include <stddef.h>

#if defined(_WIN32) && defined(PPEDGE_SHARED)
#ifdef PPEDGE_BUILDING
#define PPEDGE_API __declspec(dllexport)
#else
#define PPEDGE_API __declspec(dllimport)
#endif
#elif defined(__GNUC__) && defined(PPEDGE_SHARED)
#define PPEDGE_API __attribute__((visibility("default")))
#else
#define PPEDGE_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Element type of rows. */
typedef enum ppedge_dtype {
    PPEDGE_F32 = 0,  /* IEEE 754 binary32 */
    PPEDGE_F16 = 1,  /* IEEE 754 binary16 */
    PPEDGE_BF16 = 2, /* the upper half of a binary32 */
    PPEDGE_I8 = 3    /* signed byte, times one float32 scale a row */
} ppedge_dtype;

/* Instruction set that does the work. */
typedef enum ppedge_backend {
    PPEDGE_AUTO = 0,   /* what PPEDGE_SIMD names, else the widest that this CPU has */
    PPEDGE_SCALAR = 1, /* portable C, the reference */
    PPEDGE_AVX2 = 2,   /* AVX2 + FMA + F16C */
    PPEDGE_AVX512 = 3, /* AVX-512 F + BW + DQ + VL */
    PPEDGE_NEON = 4    /* AArch64 Advanced SIMD */
} ppedge_backend;

/*  code                    | meaning                                      | fault names
 *  ------------------------|----------------------------------------------|-------------------
 *  PPEDGE_OK               | done                                         | nothing
 *  PPEDGE_NULL_POINTER     | a required pointer is NULL                   | field
 *  PPEDGE_NO_ROWS          | n_rows is 0                                  | field
 *  PPEDGE_BAD_SHAPE        | a count or width is 0, not a multiple of     | field
 *                          | n_heads, or too large to address             |
 *  PPEDGE_BAD_STRIDE       | a stride is shorter than its row             | field
 *  PPEDGE_BAD_DTYPE        | no such ppedge_dtype                         | field
 *  PPEDGE_BAD_SCALES       | int8 rows without scales, or scales on       | field
 *                          | rows of another dtype                        |
 *  PPEDGE_NOT_FINITE       | an input is NaN or infinite (a bias may be   | field, row, column
 *                          | -inf: that row is masked)                    |
 *  PPEDGE_OUT_OF_RANGE     | inputs are finite, but a score or a weighted | field, and the row
 *                          | sum of values exceeds float32                | of a score
 *  PPEDGE_ALL_MASKED       | every bias is -inf, nothing to pool          | field
 *  PPEDGE_BAD_BACKEND      | backend (or PPEDGE_SIMD) is unknown, not     | field
 *                          | built in, or not supported by this CPU       |
 *  PPEDGE_NO_MEMORY        | scratch memory could not be allocated        | nothing
 */
typedef enum ppedge_status {
    PPEDGE_OK = 0,
    PPEDGE_NULL_POINTER = 1,
    PPEDGE_NO_ROWS = 2,
    PPEDGE_BAD_SHAPE = 3,
    PPEDGE_BAD_STRIDE = 4,
    PPEDGE_BAD_DTYPE = 5,
    PPEDGE_BAD_SCALES = 6,
    PPEDGE_NOT_FINITE = 7,
    PPEDGE_OUT_OF_RANGE = 8,
    PPEDGE_ALL_MASKED = 9,
    PPEDGE_BAD_BACKEND = 10,
    PPEDGE_NO_MEMORY = 11
} ppedge_status;

#define PPEDGE_NOWHERE ((size_t)-1)

/* Where a call failed. Filled on every status but PPEDGE_OK. */
typedef struct ppedge_fault {
    const char *field; /* name of the argument, a static string; never NULL */
    size_t row;        /* PPEDGE_NOWHERE where no single row is to blame */
    size_t column;     /* likewise */
} ppedge_fault;

/* A matrix [n_rows, width]. Rows may overlap those of another matrix, or be the same. */
typedef struct ppedge_rows {
    const void *data;    /* first element of row 0; any alignment */
    size_t width;        /* elements in a row, all heads together */
    size_t stride;       /* bytes from a row to the next, at least one row; any alignment */
    ppedge_dtype dtype;
    const float *scales; /* [n_rows], int8 only: row i means scales[i] * data[i]; else NULL */
} ppedge_rows;

typedef struct ppedge_pool_args {
    size_t n_rows;
    size_t n_queries;
    size_t n_heads;
    ppedge_rows keys;       /* width d_k, a multiple of n_heads */
    ppedge_rows values;     /* width d_v, a multiple of n_heads */
    const float *queries;   /* [n_queries, d_k] */
    float scale;            /* finite; usually 1 / sqrt(d_k / n_heads) or 1 */
    const float *bias;      /* [n_rows], or NULL for none; -inf masks: that row is never read */
    float *out;             /* [n_queries, d_v] */
    float *weights;         /* [n_queries, n_heads, n_rows], or NULL */
    float *log_sum_exp;     /* [n_queries, n_heads], or NULL */
    int n_threads;          /* at most this many, 1 or less for one; small inputs use fewer */
    ppedge_backend backend; /* PPEDGE_AUTO unless one is wanted */
} ppedge_pool_args;

/* Pools. `fault` may be NULL. Allocates scratch of at most
 * (64 + min(n_threads, 64)) * (ppedge_partial_size() + 16) floats, and frees it again. */
PPEDGE_API ppedge_status ppedge_pool(const ppedge_pool_args *args, ppedge_fault *fault);

/* The pieces, for a caller that splits the rows by itself: one partial for each range of rows,
 * merged in any order, then finished. A partial is an array of floats: the accumulators
 * [n_queries, d_v], the maxima [n_queries, n_heads] and the sums [n_queries, n_heads]. Where it
 * starts on a cache line, pooling into it is faster.
 *
 * ppedge_partial_size: floats in a partial, or 0 where `args` would be refused.
 * ppedge_pool_partial: pools rows first .. last-1 into `partial` (overwritten). Where
 *     args->weights is not NULL it receives these rows' scores, which finish turns to weights.
 * ppedge_partial_merge: makes `into` the partial of both ranges.
 * ppedge_pool_finish: writes args->out, weights and log_sum_exp from the partial of all rows. */
PPEDGE_API size_t ppedge_partial_size(const ppedge_pool_args *args);
PPEDGE_API ppedge_status ppedge_pool_partial(const ppedge_pool_args *args, size_t first,
                                             size_t last, float *partial, ppedge_fault *fault);
PPEDGE_API void ppedge_partial_merge(const ppedge_pool_args *args, float *into,
                                     const float *from);
PPEDGE_API ppedge_status ppedge_pool_finish(const ppedge_pool_args *args, const float *partial,
                                            ppedge_fault *fault);

/* Bytes of one element; 0 for an unknown dtype. */
PPEDGE_API size_t ppedge_dtype_size(ppedge_dtype dtype);

/* Resolves PPEDGE_AUTO, by the environment variable PPEDGE_SIMD (scalar, avx2, avx512 or neon;
 * read at the first call) and then by asking the CPU, and checks that the result can run here:
 * PPEDGE_OK or PPEDGE_BAD_BACKEND. */
PPEDGE_API ppedge_status ppedge_backend_resolve(ppedge_backend wanted, ppedge_backend *resolved);

/* "auto", "scalar", "avx2", "avx512" or "neon"; NULL for an unknown backend. */
PPEDGE_API const char *ppedge_backend_name(ppedge_backend backend);

/* The backend of that name; 0 and `*backend` set, or -1 for an unknown name. */
PPEDGE_API int ppedge_backend_from_name(const char *name, ppedge_backend *backend);

/* Writes one line about a failed call into text[0 .. size-1], always terminated; returns text. */
PPEDGE_API const char *ppedge_describe(ppedge_status status, const ppedge_fault *fault, char *text,
                                       size_t size);

#ifdef __cplusplus
}
#endif

#endif
