/* The walk over the rows: tiles, masks, scales and threads. The arithmetic on
 * whole rows is in kernels_*.c.
 *
 * Rows are taken in tiles, tiles in blocks, blocks in chunks. A tile's scores turn to weights
 * together; a block bounds how many terms one float32 accumulator takes; a chunk is what a thread
 * takes at a time. All three depend on n_rows alone, and their results merge in row order: thus the
 * bits of the result do not depend on the number of threads.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"
#include "kernels.h"
#include "platform.h"

enum { TILE_ROWS = 64, BLOCK_ROWS = 1024 };

_Static_assert(TILE_ROWS % PPEDGE_LANES_MAX == 0, "exp_sum takes whole vectors");

/* Starting a second thread was measured to break even at 7 MiB of rows. */
static const size_t THREAD_BYTES = (size_t)8 << 20;

/* --- the walk -------------------------------------------------------------------------------- */

/* Up to TILE_ROWS consecutive unmasked rows, for one query and head. */
typedef struct tile {
    size_t first, n;
    size_t query, head;
} tile;

/* Where the slice of the tile's head begins in the tile's first row. */
static const char *slice_at(const ppedge_rows *rows, const tile *t, size_t width) {
    return row_at(rows, t->first) + t->head * width * ppedge_dtype_size(rows->dtype);
}

static ppedge_status score_tile(const ppedge_pool_args *args, const ppedge_kernels *kernels,
                                const tile *t, float *scores, ppedge_fault *fault) {
    const ppedge_rows *keys = &args->keys;
    const size_t width = keys->width / args->n_heads;
    const float *query = args->queries + t->query * keys->width + t->head * width;
    const char *rows = slice_at(keys, t, width);
    kernels->dot[keys->dtype](query, rows, keys->stride, t->n, width, scores);
    for (size_t i = 0; i < t->n; i++) {
        float score = scores[i] * args->scale;
        if (keys->scales != NULL) {
            score *= keys->scales[t->first + i];
        }
        if (args->bias != NULL) {
            score += args->bias[t->first + i];
        }
        if (!isfinite(score)) {
            return ppedge_blame_score(args, t->first + i, fault);
        }
        scores[i] = score;
    }
    return PPEDGE_OK;
}

static float *weights_of(const ppedge_pool_args *args, size_t query, size_t head) {
    return args->weights + (query * args->n_heads + head) * args->n_rows;
}

static float max_of(const float *scores, size_t n) {
    float maximum = scores[0];
    for (size_t i = 1; i < n; i++) {
        maximum = scores[i] > maximum ? scores[i] : maximum;
    }
    return maximum;
}

static ppedge_status pool_tile(const ppedge_pool_args *args, const ppedge_kernels *kernels,
                               const tile *t, const partial_view *p, ppedge_fault *fault) {
    float scores[TILE_ROWS];
    const ppedge_status status = score_tile(args, kernels, t, scores, fault);
    if (status != PPEDGE_OK) {
        return status;
    }
    if (args->weights != NULL) {
        memcpy(weights_of(args, t->query, t->head) + t->first, scores, t->n * sizeof *scores);
    }
    const ppedge_rows *values = &args->values;
    const size_t width = values->width / args->n_heads;
    const size_t record = t->query * args->n_heads + t->head;
    float *accumulator = p->accumulators + record * width;
    const float maximum = max_of(scores, t->n);
    if (maximum > p->maxima[record]) {
        const float keep = expf(p->maxima[record] - maximum);
        p->maxima[record] = maximum;
        p->sums[record] *= keep;
        for (size_t j = 0; j < width; j++) {
            accumulator[j] *= keep;
        }
    }
    for (size_t i = t->n; i < TILE_ROWS; i++) {
        scores[i] = -INFINITY; /* weighs nothing */
    }
    p->sums[record] += kernels->exp_sum(scores, TILE_ROWS, p->maxima[record]);
    for (size_t i = 0; values->scales != NULL && i < t->n; i++) {
        scores[i] *= values->scales[t->first + i];
    }
    const char *rows = slice_at(values, t, width);
    kernels->accumulate[values->dtype](scores, rows, values->stride, t->n, width, accumulator);
    return PPEDGE_OK;
}

static void mark_masked(const ppedge_pool_args *args, size_t row) {
    for (size_t i = 0; args->weights != NULL && i < count_heads(args); i++) {
        args->weights[i * args->n_rows + row] = -INFINITY;
    }
}

/* The run of unmasked rows at or after *first, at most TILE_ROWS long; 0 at the end. */
static size_t next_run(const ppedge_pool_args *args, size_t *first, size_t last) {
    while (*first < last && is_masked(args, *first)) {
        mark_masked(args, (*first)++);
    }
    size_t n = 0;
    while (n < TILE_ROWS && *first + n < last && !is_masked(args, *first + n)) {
        n++;
    }
    return n;
}

static ppedge_status pool_block(const ppedge_pool_args *args, const ppedge_kernels *kernels,
                                size_t first, size_t last, float *partial, ppedge_fault *fault) {
    ppedge_clear_partial(args, partial);
    const partial_view p = view_of(args, partial);
    tile t = {.first = first};
    for (; (t.n = next_run(args, &t.first, last)) != 0; t.first += t.n) {
        for (t.query = 0; t.query < args->n_queries; t.query++) {
            for (t.head = 0; t.head < args->n_heads; t.head++) {
                const ppedge_status status = pool_tile(args, kernels, &t, &p, fault);
                if (status != PPEDGE_OK) {
                    return status;
                }
            }
        }
    }
    return PPEDGE_OK;
}

/* `scratch` has room for a partial. */
static ppedge_status pool_range(const ppedge_pool_args *args, const ppedge_kernels *kernels,
                                size_t first, size_t last, float *partial, float *scratch,
                                ppedge_fault *fault) {
    if (last - first <= BLOCK_ROWS) {
        return pool_block(args, kernels, first, last, partial, fault);
    }
    ppedge_clear_partial(args, partial);
    while (first < last) {
        const size_t end = last - first < BLOCK_ROWS ? last : first + BLOCK_ROWS;
        const ppedge_status status = pool_block(args, kernels, first, end, scratch, fault);
        if (status != PPEDGE_OK) {
            return status;
        }
        ppedge_partial_merge(args, partial, scratch);
        first = end;
    }
    return PPEDGE_OK;
}

static ppedge_status start(const ppedge_pool_args *args, const ppedge_kernels **kernels,
                           ppedge_fault *fault) {
    ppedge_status status = ppedge_check_args(args, fault);
    if (status != PPEDGE_OK) {
        return status;
    }
    ppedge_backend backend;
    if (ppedge_backend_resolve(args->backend, &backend) != PPEDGE_OK) {
        const char *field = args->backend == PPEDGE_AUTO ? "PPEDGE_SIMD" : "backend";
        return ppedge_fail_field(fault, PPEDGE_BAD_BACKEND, field);
    }
    *kernels = ppedge_kernels_of(backend);
    return ppedge_check_queries(args, fault);
}

ppedge_status ppedge_pool_partial(const ppedge_pool_args *args, size_t first, size_t last,
                                  float *partial, ppedge_fault *fault) {
    const ppedge_kernels *kernels = NULL;
    ppedge_status status = start(args, &kernels, fault);
    if (status != PPEDGE_OK) {
        return status;
    }
    if (partial == NULL) {
        return ppedge_fail_field(fault, PPEDGE_NULL_POINTER, "partial");
    }
    if (first > last || last > args->n_rows) {
        return ppedge_fail_field(fault, PPEDGE_BAD_SHAPE, "last");
    }
    size_t stride;
    void *allocation;
    float *scratch = ppedge_allocate_partials(args, 1, &stride, &allocation);
    if (scratch == NULL) {
        return ppedge_fail_field(fault, PPEDGE_NO_MEMORY, "");
    }
    status = pool_range(args, kernels, first, last, partial, scratch, fault);
    free(allocation);
    return status;
}

/* --- finish ---------------------------------------------------------------------------------- */

static void scores_to_weights(float *scores, size_t n, float maximum, float sum,
                              const ppedge_kernels *kernels) {
    for (size_t first = 0; first < n; first += TILE_ROWS) {
        float padded[TILE_ROWS];
        const size_t count = n - first < TILE_ROWS ? n - first : TILE_ROWS;
        for (size_t i = 0; i < TILE_ROWS; i++) {
            padded[i] = i < count ? scores[first + i] : -INFINITY;
        }
        kernels->exp_sum(padded, TILE_ROWS, maximum);
        for (size_t i = 0; i < count; i++) {
            scores[first + i] = padded[i] / sum;
        }
    }
}

static ppedge_status finish(const ppedge_pool_args *args, const ppedge_kernels *kernels,
                            const float *partial, ppedge_fault *fault) {
    const size_t width = args->values.width / args->n_heads;
    const float *maxima = partial + args->n_queries * args->values.width;
    const float *sums = maxima + count_heads(args);
    for (size_t i = 0; i < count_heads(args); i++) {
        if (maxima[i] == -INFINITY) {
            return ppedge_fail_field(fault, PPEDGE_ALL_MASKED, "bias");
        }
        for (size_t j = i * width; j < (i + 1) * width; j++) {
            args->out[j] = partial[j] / sums[i];
            if (!isfinite(args->out[j])) {
                return ppedge_blame_value(args, fault);
            }
        }
        if (args->log_sum_exp != NULL) {
            args->log_sum_exp[i] = (float)((double)maxima[i] + log((double)sums[i]));
        }
        if (args->weights != NULL) {
            scores_to_weights(args->weights + i * args->n_rows, args->n_rows, maxima[i], sums[i],
                              kernels);
        }
    }
    return PPEDGE_OK;
}

ppedge_status ppedge_pool_finish(const ppedge_pool_args *args, const float *partial,
                                 ppedge_fault *fault) {
    const ppedge_kernels *kernels = NULL;
    const ppedge_status status = start(args, &kernels, fault);
    if (status != PPEDGE_OK) {
        return status;
    }
    if (partial == NULL) {
        return ppedge_fail_field(fault, PPEDGE_NULL_POINTER, "partial");
    }
    return finish(args, kernels, partial, fault);
}

/* --- threads --------------------------------------------------------------------------------- */

typedef struct chunk_result {
    ppedge_status status;
    ppedge_fault fault;
} chunk_result;

typedef struct job {
    const ppedge_pool_args *args;
    const ppedge_kernels *kernels;
    size_t chunk_rows;
    int n_chunks;
    ppedge_atomic_int next_chunk;
    ppedge_atomic_int next_scratch;
    size_t stride;   /* floats from one partial to the next */
    float *partials; /* one a chunk */
    float *scratch;  /* one a thread */
    chunk_result results[MAX_CHUNKS];
} job;

static void take_chunks(job *j) {
    const ppedge_pool_args *args = j->args;
    float *scratch = j->scratch + (size_t)ppedge_atomic_next(&j->next_scratch) * j->stride;
    for (int c; (c = ppedge_atomic_next(&j->next_chunk)) < j->n_chunks;) {
        const size_t first = (size_t)c * j->chunk_rows;
        const size_t left = args->n_rows - first;
        const size_t last = first + (left < j->chunk_rows ? left : j->chunk_rows);
        chunk_result *result = &j->results[c];
        result->status = pool_range(args, j->kernels, first, last,
                                    j->partials + (size_t)c * j->stride, scratch, &result->fault);
    }
}

PPEDGE_THREAD_BODY(chunk_thread, argument) {
    take_chunks(argument);
    PPEDGE_THREAD_END;
}

static void run_job(job *j, int n_threads) {
    ppedge_thread threads[MAX_THREADS];
    int started = 0;
    /* a thread that cannot be started is not missed: the others take its chunks */
    while (started < n_threads - 1 &&
           ppedge_thread_start(&threads[started], chunk_thread, j) == 0) {
        started++;
    }
    take_chunks(j);
    for (int i = 0; i < started; i++) {
        ppedge_thread_join(threads[i]);
    }
}

static int threads_for(const ppedge_pool_args *args, int n_chunks) {
    const size_t row_bytes = args->keys.width * ppedge_dtype_size(args->keys.dtype) +
                             args->values.width * ppedge_dtype_size(args->values.dtype);
    const int n = args->n_threads < n_chunks ? args->n_threads : n_chunks;
    return n < 1 || args->n_rows < THREAD_BYTES / row_bytes ? 1 : n;
}

static void split_rows(job *j, size_t n_rows) {
    const size_t even = n_rows / MAX_CHUNKS + (n_rows % MAX_CHUNKS != 0);
    j->chunk_rows = (even / BLOCK_ROWS + (even % BLOCK_ROWS != 0)) * BLOCK_ROWS;
    j->n_chunks = (int)(n_rows / j->chunk_rows + (n_rows % j->chunk_rows != 0));
}

ppedge_status ppedge_pool(const ppedge_pool_args *args, ppedge_fault *fault) {
    job j = {.args = args};
    ppedge_status status = start(args, &j.kernels, fault);
    if (status != PPEDGE_OK) {
        return status;
    }
    split_rows(&j, args->n_rows);
    const int n_threads = threads_for(args, j.n_chunks);
    void *allocation;
    const size_t count = (size_t)(j.n_chunks + n_threads);
    j.partials = ppedge_allocate_partials(args, count, &j.stride, &allocation);
    if (j.partials == NULL) {
        return ppedge_fail_field(fault, PPEDGE_NO_MEMORY, "");
    }
    j.scratch = j.partials + (size_t)j.n_chunks * j.stride;
    run_job(&j, n_threads);
    for (int c = 0; c < j.n_chunks && status == PPEDGE_OK; c++) {
        status = j.results[c].status;
        if (status != PPEDGE_OK && fault != NULL) {
            *fault = j.results[c].fault;
        }
        if (status == PPEDGE_OK && c > 0) {
            ppedge_partial_merge(args, j.partials, j.partials + (size_t)c * j.stride);
        }
    }
    if (status == PPEDGE_OK) {
        status = finish(args, j.kernels, j.partials, fault);
    }
    free(allocation);
    return status;
}
