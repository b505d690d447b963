/* What check.c, partial.c and pool.c share. */
#ifndef PPEDGE_INTERNAL_H
#define PPEDGE_INTERNAL_H

#include <math.h>
#include <stddef.h>

#include "ppedge/pool.h"

enum { MAX_CHUNKS = 64, MAX_THREADS = MAX_CHUNKS };

/* Accumulators that start on a cache line make every vector access of theirs a single one. */
enum { LINE_BYTES = 64, LINE_FLOATS = LINE_BYTES / sizeof(float) };

static inline const char *row_at(const ppedge_rows *rows, size_t row) {
    return (const char *)rows->data + row * rows->stride;
}

static inline int is_masked(const ppedge_pool_args *args, size_t row) {
    return args->bias != NULL && args->bias[row] == -INFINITY;
}

static inline size_t count_heads(const ppedge_pool_args *args) {
    return args->n_queries * args->n_heads;
}

/* --- check.c ---------------------------------------------------------------------------------- */

/* Fill `fault`, which may be NULL, and return `status`. */
ppedge_status ppedge_fail(ppedge_fault *fault, ppedge_status status, const char *field, size_t row,
                          size_t column);
ppedge_status ppedge_fail_field(ppedge_fault *fault, ppedge_status status, const char *field);

/* All that can be refused without reading a buffer; and the queries, which are read first. */
ppedge_status ppedge_check_args(const ppedge_pool_args *args, ppedge_fault *fault);
ppedge_status ppedge_check_queries(const ppedge_pool_args *args, ppedge_fault *fault);

/* The score of `row`, or a pooled value, came out as NaN or infinite: which input is to blame? */
ppedge_status ppedge_blame_score(const ppedge_pool_args *args, size_t row, ppedge_fault *fault);
ppedge_status ppedge_blame_value(const ppedge_pool_args *args, ppedge_fault *fault);

/* --- partial.c -------------------------------------------------------------------------------- */

/* The parts of a partial; pool.h gives their order. */
typedef struct partial_view {
    float *accumulators; /* [n_queries, n_heads, d_v / n_heads] */
    float *maxima;       /* [n_queries, n_heads] */
    float *sums;         /* [n_queries, n_heads] */
} partial_view;

static inline partial_view view_of(const ppedge_pool_args *args, float *partial) {
    float *maxima = partial + args->n_queries * args->values.width;
    return (partial_view){partial, maxima, maxima + count_heads(args)};
}

/* Scratch of `count` partials, each on lines of its own; free() what goes into *allocation. */
float *ppedge_allocate_partials(const ppedge_pool_args *args, size_t count, size_t *stride,
                                void **allocation);

/* Makes `partial` that of no rows. */
void ppedge_clear_partial(const ppedge_pool_args *args, float *partial);

#endif
