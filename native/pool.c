/* The walk over the rows: validation, tiles, masks, scales, merging and threads. The arithmetic on
 * whole rows is in kernels_*.c.
 *
 * Rows are taken in tiles, tiles in blocks, blocks in chunks. A tile's scores turn to weights
 * together; a block bounds how many terms one float32 accumulator takes; a chunk is what a thread
 * takes at a time. All three depend on n_rows alone, and their results merge in row order: thus the
 * bits of the result do not depend on the number of threads.
 */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>

#include "elements.h"
#include "kernels.h"
#include "platform.h"

enum { TILE_ROWS = 64, BLOCK_ROWS = 1024, MAX_CHUNKS = 64, MAX_THREADS = MAX_CHUNKS };

_Static_assert(TILE_ROWS % PPEDGE_LANES_MAX == 0, "exp_sum takes whole vectors");

/* Below this many bytes of rows, starting a thread takes longer than it saves. */
static const size_t THREAD_BYTES = (size_t)1 << 20;

/* Accumulators that start on a cache line make every vector access of theirs a single one. */
enum { LINE_BYTES = 64, LINE_FLOATS = LINE_BYTES / sizeof(float) };

static ppedge_status fail(ppedge_fault *fault, ppedge_status status, const char *field, size_t row,
                          size_t column) {
    if (fault != NULL) {
        *fault = (ppedge_fault){field, row, column};
    }
    return status;
}

static ppedge_status fail_field(ppedge_fault *fault, ppedge_status status, const char *field) {
    return fail(fault, status, field, PPEDGE_NOWHERE, PPEDGE_NOWHERE);
}

/* --- validation ------------------------------------------------------------------------------ */

size_t ppedge_dtype_size(ppedge_dtype dtype) {
    static const size_t sizes[PPEDGE_DTYPES] = {4, 2, 2, 1};
    return (size_t)dtype < PPEDGE_DTYPES ? sizes[dtype] : 0;
}

/* Whether a * b * c * d bytes can be addressed; no factor is 0. */
static int product_fits(size_t a, size_t b, size_t c, size_t d) {
    return a <= PTRDIFF_MAX / b && a * b <= PTRDIFF_MAX / c && a * b * c <= PTRDIFF_MAX / d;
}

static ppedge_status check_rows(const ppedge_rows *rows, const char *field,
                                const char *scales_field, const ppedge_pool_args *args,
                                ppedge_fault *fault) {
    const size_t size = ppedge_dtype_size(rows->dtype);
    if (size == 0) {
        return fail_field(fault, PPEDGE_BAD_DTYPE, field);
    }
    if (rows->data == NULL) {
        return fail_field(fault, PPEDGE_NULL_POINTER, field);
    }
    if (rows->width == 0 || rows->width % args->n_heads != 0 ||
        !product_fits(rows->width, sizeof(float), 1, 1)) {
        return fail_field(fault, PPEDGE_BAD_SHAPE, field);
    }
    if (rows->stride < rows->width * size) {
        return fail_field(fault, PPEDGE_BAD_STRIDE, field);
    }
    if (!product_fits(args->n_rows, rows->stride, 1, 1)) {
        return fail_field(fault, PPEDGE_BAD_SHAPE, field);
    }
    if ((rows->dtype == PPEDGE_I8) != (rows->scales != NULL)) {
        return fail_field(fault, PPEDGE_BAD_SCALES, scales_field);
    }
    return PPEDGE_OK;
}

/* All that can be refused without reading a buffer. */
static ppedge_status check_args(const ppedge_pool_args *args, ppedge_fault *fault) {
    if (args->n_rows == 0) {
        return fail_field(fault, PPEDGE_NO_ROWS, "keys");
    }
    if (args->n_queries == 0) {
        return fail_field(fault, PPEDGE_BAD_SHAPE, "queries");
    }
    if (args->n_heads == 0) {
        return fail_field(fault, PPEDGE_BAD_SHAPE, "heads");
    }
    ppedge_status status = check_rows(&args->keys, "keys", "key_scales", args, fault);
    if (status == PPEDGE_OK) {
        status = check_rows(&args->values, "values", "value_scales", args, fault);
    }
    if (status != PPEDGE_OK) {
        return status;
    }
    if (args->queries == NULL) {
        return fail_field(fault, PPEDGE_NULL_POINTER, "queries");
    }
    if (args->out == NULL) {
        return fail_field(fault, PPEDGE_NULL_POINTER, "out");
    }
    if (!isfinite(args->scale)) {
        return fail_field(fault, PPEDGE_NOT_FINITE, "scale");
    }
    /* a head has at least one value column, so that its partial is at most 3 floats a column, and
     * rounding that up to whole lines at most LINE_FLOATS times as many */
    const size_t d_v = args->values.width;
    const size_t most_bytes = 3 * sizeof(float) * LINE_FLOATS;
    if (!product_fits(args->n_queries, args->keys.width, sizeof(float), 1) ||
        !product_fits(args->n_queries, d_v, most_bytes, MAX_CHUNKS + MAX_THREADS + 1) ||
        !product_fits(args->n_queries, args->n_heads, args->n_rows, sizeof(float))) {
        return fail_field(fault, PPEDGE_BAD_SHAPE, "queries");
    }
    return PPEDGE_OK;
}

static ppedge_status check_queries(const ppedge_pool_args *args, ppedge_fault *fault) {
    const size_t width = args->keys.width;
    for (size_t i = 0; i < args->n_queries * width; i++) {
        if (!isfinite(args->queries[i])) {
            return fail(fault, PPEDGE_NOT_FINITE, "queries", i / width, i % width);
        }
    }
    return PPEDGE_OK;
}

/* --- faults found by their effect ------------------------------------------------------------ */

static const char *row_at(const ppedge_rows *rows, size_t row) {
    return (const char *)rows->data + row * rows->stride;
}

static size_t first_not_finite(const ppedge_rows *rows, size_t row) {
    const size_t size = ppedge_dtype_size(rows->dtype);
    for (size_t j = 0; j < rows->width; j++) {
        if (!isfinite(ppedge_read(rows->dtype, row_at(rows, row) + j * size))) {
            return j;
        }
    }
    return PPEDGE_NOWHERE;
}

static int is_masked(const ppedge_pool_args *args, size_t row) {
    return args->bias != NULL && args->bias[row] == -INFINITY;
}

/* A score came out as NaN or infinite: which of its inputs is to blame? */
static ppedge_status blame_score(const ppedge_pool_args *args, size_t row, ppedge_fault *fault) {
    if (args->bias != NULL && !isfinite(args->bias[row])) {
        return fail(fault, PPEDGE_NOT_FINITE, "bias", row, PPEDGE_NOWHERE);
    }
    if (args->keys.scales != NULL && !isfinite(args->keys.scales[row])) {
        return fail(fault, PPEDGE_NOT_FINITE, "key_scales", row, PPEDGE_NOWHERE);
    }
    const size_t column = first_not_finite(&args->keys, row);
    if (column != PPEDGE_NOWHERE) {
        return fail(fault, PPEDGE_NOT_FINITE, "keys", row, column);
    }
    return fail(fault, PPEDGE_OUT_OF_RANGE, "keys", row, PPEDGE_NOWHERE);
}

/* A pooled value came out as NaN or infinite. Each is a sum with every unmasked row in it, so the
 * rows are asked in order. */
static ppedge_status blame_value(const ppedge_pool_args *args, ppedge_fault *fault) {
    const ppedge_rows *values = &args->values;
    for (size_t row = 0; row < args->n_rows; row++) {
        if (is_masked(args, row)) {
            continue;
        }
        if (values->scales != NULL && !isfinite(values->scales[row])) {
            return fail(fault, PPEDGE_NOT_FINITE, "value_scales", row, PPEDGE_NOWHERE);
        }
        const size_t column = first_not_finite(values, row);
        if (column != PPEDGE_NOWHERE) {
            return fail(fault, PPEDGE_NOT_FINITE, "values", row, column);
        }
    }
    return fail_field(fault, PPEDGE_OUT_OF_RANGE, "values");
}

/* --- partials -------------------------------------------------------------------------------- */

/* The parts of a partial; pool.h gives their order. */
typedef struct partial_view {
    float *accumulators; /* [n_queries, n_heads, d_v / n_heads] */
    float *maxima;       /* [n_queries, n_heads] */
    float *sums;         /* [n_queries, n_heads] */
} partial_view;

static size_t count_heads(const ppedge_pool_args *args) { return args->n_queries * args->n_heads; }

static partial_view view_of(const ppedge_pool_args *args, float *partial) {
    float *maxima = partial + args->n_queries * args->values.width;
    return (partial_view){partial, maxima, maxima + count_heads(args)};
}

static size_t partial_floats(const ppedge_pool_args *args) {
    return args->n_queries * args->values.width + 2 * count_heads(args);
}

size_t ppedge_partial_size(const ppedge_pool_args *args) {
    return check_args(args, NULL) == PPEDGE_OK ? partial_floats(args) : 0;
}

/* Scratch of `count` partials, each on lines of its own; free() what goes into *allocation. */
static float *allocate_partials(const ppedge_pool_args *args, size_t count, size_t *stride,
                                void **allocation) {
    *stride = (partial_floats(args) + LINE_FLOATS - 1) / LINE_FLOATS * LINE_FLOATS;
    *allocation = malloc(count * *stride * sizeof(float) + LINE_BYTES);
    if (*allocation == NULL) {
        return NULL;
    }
    const uintptr_t past_line = (uintptr_t)*allocation % LINE_BYTES;
    return (float *)((char *)*allocation + (past_line == 0 ? 0 : LINE_BYTES - past_line));
}

static void clear_partial(const ppedge_pool_args *args, float *partial) {
    memset(partial, 0, partial_floats(args) * sizeof *partial);
    const partial_view p = view_of(args, partial);
    for (size_t i = 0; i < count_heads(args); i++) {
        p.maxima[i] = -INFINITY;
    }
}

void ppedge_partial_merge(const ppedge_pool_args *args, float *into, const float *from) {
    const size_t width = args->values.width / args->n_heads;
    const partial_view to = view_of(args, into);
    const float *from_maxima = from + (to.maxima - into);
    const float *from_sums = from + (to.sums - into);
    for (size_t i = 0; i < count_heads(args); i++) {
        const float maximum = fmaxf(to.maxima[i], from_maxima[i]);
        if (maximum == -INFINITY) {
            continue; /* neither has seen a row */
        }
        const float keep = expf(to.maxima[i] - maximum);
        const float add = expf(from_maxima[i] - maximum);
        to.maxima[i] = maximum;
        to.sums[i] = to.sums[i] * keep + from_sums[i] * add;
        for (size_t j = i * width; j < (i + 1) * width; j++) {
            into[j] = into[j] * keep + from[j] * add;
        }
    }
}

/* --- the walk -------------------------------------------------------------------------------- */

/* Up to TILE_ROWS consecutive unmasked rows, for one query and head. */
typedef struct tile {
    size_t first, n;
    size_t query, head;
} tile;

static ppedge_status score_tile(const ppedge_pool_args *args, const ppedge_kernels *kernels,
                                const tile *t, float *scores, ppedge_fault *fault) {
    const ppedge_rows *keys = &args->keys;
    const size_t width = keys->width / args->n_heads;
    const float *query = args->queries + t->query * keys->width + t->head * width;
    const char *rows = row_at(keys, t->first) + t->head * width * ppedge_dtype_size(keys->dtype);
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
            return blame_score(args, t->first + i, fault);
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
    const char *rows = row_at(values, t->first) + t->head * width * ppedge_dtype_size(values->dtype);
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
    clear_partial(args, partial);
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
    clear_partial(args, partial);
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
    if (args == NULL) {
        return fail_field(fault, PPEDGE_NULL_POINTER, "args");
    }
    ppedge_status status = check_args(args, fault);
    if (status != PPEDGE_OK) {
        return status;
    }
    ppedge_backend backend;
    if (ppedge_backend_resolve(args->backend, &backend) != PPEDGE_OK) {
        const char *field = args->backend == PPEDGE_AUTO ? "PPEDGE_SIMD" : "backend";
        return fail_field(fault, PPEDGE_BAD_BACKEND, field);
    }
    *kernels = ppedge_kernels_of(backend);
    return check_queries(args, fault);
}

ppedge_status ppedge_pool_partial(const ppedge_pool_args *args, size_t first, size_t last,
                                  float *partial, ppedge_fault *fault) {
    const ppedge_kernels *kernels;
    ppedge_status status = start(args, &kernels, fault);
    if (status != PPEDGE_OK) {
        return status;
    }
    if (partial == NULL) {
        return fail_field(fault, PPEDGE_NULL_POINTER, "partial");
    }
    if (first > last || last > args->n_rows) {
        return fail_field(fault, PPEDGE_BAD_SHAPE, "last");
    }
    size_t stride;
    void *allocation;
    float *scratch = allocate_partials(args, 1, &stride, &allocation);
    if (scratch == NULL) {
        return fail_field(fault, PPEDGE_NO_MEMORY, "");
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
            return fail_field(fault, PPEDGE_ALL_MASKED, "bias");
        }
        for (size_t j = i * width; j < (i + 1) * width; j++) {
            args->out[j] = partial[j] / sums[i];
            if (!isfinite(args->out[j])) {
                return blame_value(args, fault);
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
    const ppedge_kernels *kernels;
    const ppedge_status status = start(args, &kernels, fault);
    if (status != PPEDGE_OK) {
        return status;
    }
    if (partial == NULL) {
        return fail_field(fault, PPEDGE_NULL_POINTER, "partial");
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
    j.partials = allocate_partials(args, (size_t)(j.n_chunks + n_threads), &j.stride, &allocation);
    if (j.partials == NULL) {
        return fail_field(fault, PPEDGE_NO_MEMORY, "");
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
