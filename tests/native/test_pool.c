/* Tests of pool.h: every backend that runs here against a double precision reference, every status
 * of the return-code table, and many threads at once. Buffers are exact heap blocks, so that a
 * sanitizer sees any read past a row. */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ppedge/pool.h"

static int failures = 0;
static const char *test_name = "";

#define CHECK(condition)                                                                         \
    do {                                                                                         \
        if (!(condition)) {                                                                      \
            printf("%s:%d: %s: %s\n", __FILE__, __LINE__, test_name, #condition);                \
            failures++;                                                                          \
        }                                                                                        \
    } while (0)

/* --- data ------------------------------------------------------------------------------------ */

static uint64_t random_state = 1;

static uint32_t random_bits(void) {
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(random_state >> 32);
}

/* in -1 .. 1 */
static float random_float(void) { return (float)random_bits() * 0x1p-31f - 1.0f; }

/* Rounds down to float16; enough for test data, whose magnitude is in 2^-14 .. 2. */
static uint16_t to_f16(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    const int exponent = (int)(bits >> 23 & 0xff) - 127 + 15;
    const uint32_t sign = bits >> 16 & 0x8000u;
    if (exponent <= 0) {
        return (uint16_t)sign;
    }
    return (uint16_t)(sign | (uint32_t)exponent << 10 | (bits >> 13 & 0x3ff));
}

static double from_f16(uint16_t half) {
    const int exponent = half >> 10 & 0x1f;
    const double mantissa = half & 0x3ff;
    const double magnitude =
        exponent == 0 ? ldexp(mantissa, -24) : ldexp(mantissa + 1024, exponent - 25);
    return half & 0x8000 ? -magnitude : magnitude;
}

static void put(ppedge_dtype dtype, char *at, float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    const uint16_t f16 = to_f16(x), bf16 = (uint16_t)(bits >> 16);
    /* only where asked for: NaN has no int8 */
    const int8_t i8 = dtype == PPEDGE_I8 ? (int8_t)(x * 127.0f) : 0;
    const void *from[] = {&x, &f16, &bf16, &i8};
    memcpy(at, from[dtype], ppedge_dtype_size(dtype));
}

static double get(const ppedge_rows *rows, size_t row, size_t column) {
    const char *at = (const char *)rows->data + row * rows->stride +
                     column * ppedge_dtype_size(rows->dtype);
    float f32;
    uint16_t half;
    uint32_t wide;
    switch (rows->dtype) {
    case PPEDGE_F32:
        memcpy(&f32, at, sizeof f32);
        return (double)f32;
    case PPEDGE_F16:
        memcpy(&half, at, sizeof half);
        return from_f16(half);
    case PPEDGE_BF16:
        memcpy(&half, at, sizeof half);
        wide = (uint32_t)half << 16;
        memcpy(&f32, &wide, sizeof f32);
        return (double)f32;
    case PPEDGE_I8:
        return (double)(int8_t)*at * (double)rows->scales[row];
    }
    return NAN;
}

/* The arguments of one call, with all its buffers. */
typedef struct problem {
    ppedge_pool_args args;
    char *keys, *values; /* the allocations; rows start `offset` bytes into them */
    float *key_scales, *value_scales, *queries, *bias, *out, *weights, *log_sum_exp;
} problem;

static float *random_floats(size_t n) {
    float *x = malloc(n * sizeof *x);
    for (size_t i = 0; i < n; i++) {
        x[i] = random_float();
    }
    return x;
}

static char *random_rows(ppedge_rows *rows, size_t n, size_t width, ppedge_dtype dtype,
                         size_t offset, size_t gap) {
    const size_t size = ppedge_dtype_size(dtype);
    *rows = (ppedge_rows){.width = width, .stride = width * size + gap, .dtype = dtype};
    /* the gap after the last row is not part of the matrix */
    char *block = malloc(offset + n * rows->stride - gap);
    rows->data = block + offset;
    for (size_t i = 0; i < n; i++) {
        for (size_t j = 0; j < width; j++) {
            put(dtype, block + offset + i * rows->stride + j * size, random_float());
        }
    }
    return block;
}

static problem make_problem(size_t n, size_t d_k, size_t d_v, ppedge_dtype dtype, size_t offset,
                            size_t queries, size_t heads) {
    problem p = {.args = {.n_rows = n, .n_queries = queries, .n_heads = heads, .scale = 0.5f}};
    p.keys = random_rows(&p.args.keys, n, d_k, dtype, offset, offset);
    p.values = random_rows(&p.args.values, n, d_v, dtype, offset, 0);
    p.queries = random_floats(queries * d_k);
    p.bias = random_floats(n);
    p.key_scales = random_floats(n);
    p.value_scales = random_floats(n);
    p.out = random_floats(queries * d_v);
    p.weights = random_floats(queries * heads * n);
    p.log_sum_exp = random_floats(queries * heads);
    for (size_t i = 0; i < n; i++) {
        p.key_scales[i] /= 127.0f; /* int8 rows too are in -1 .. 1 */
        p.value_scales[i] /= 127.0f;
    }
    if (dtype == PPEDGE_I8) {
        p.args.keys.scales = p.key_scales;
        p.args.values.scales = p.value_scales;
    }
    p.args.queries = p.queries;
    p.args.bias = p.bias;
    p.args.out = p.out;
    p.args.weights = p.weights;
    p.args.log_sum_exp = p.log_sum_exp;
    return p;
}

static void free_problem(problem *p) {
    void *blocks[] = {p->keys, p->values, p->key_scales, p->value_scales, p->queries,
                      p->bias, p->out,    p->weights,    p->log_sum_exp};
    for (size_t i = 0; i < sizeof blocks / sizeof blocks[0]; i++) {
        free(blocks[i]);
    }
}

/* --- the reference --------------------------------------------------------------------------- */

static double score_of(const ppedge_pool_args *a, size_t query, size_t head, size_t row) {
    const size_t width = a->keys.width / a->n_heads;
    double dot = 0.0;
    for (size_t j = head * width; j < (head + 1) * width; j++) {
        dot += (double)a->queries[query * a->keys.width + j] * get(&a->keys, row, j);
    }
    return (double)a->scale * dot + (a->bias != NULL ? (double)a->bias[row] : 0.0);
}

/* The greatest difference of out, weights and log_sum_exp from the formula in double precision. */
static double error_of(const ppedge_pool_args *a) {
    const size_t width = a->values.width / a->n_heads;
    double *weights = malloc(a->n_rows * sizeof *weights);
    double worst = 0.0;
    for (size_t record = 0; record < a->n_queries * a->n_heads; record++) {
        const size_t query = record / a->n_heads, head = record % a->n_heads;
        double maximum = -INFINITY, sum = 0.0;
        for (size_t i = 0; i < a->n_rows; i++) {
            weights[i] = score_of(a, query, head, i);
            maximum = fmax(maximum, weights[i]);
        }
        for (size_t i = 0; i < a->n_rows; i++) {
            weights[i] = exp(weights[i] - maximum);
            sum += weights[i];
        }
        worst = fmax(worst, fabs(maximum + log(sum) - (double)a->log_sum_exp[record]));
        for (size_t i = 0; i < a->n_rows; i++) {
            weights[i] /= sum;
            worst = fmax(worst, fabs(weights[i] - (double)a->weights[record * a->n_rows + i]));
        }
        for (size_t j = 0; j < width; j++) {
            double pooled = 0.0;
            for (size_t i = 0; i < a->n_rows; i++) {
                if (weights[i] != 0.0) { /* a masked row may hold anything */
                    pooled += weights[i] * get(&a->values, i, head * width + j);
                }
            }
            worst = fmax(worst, fabs(pooled - (double)a->out[record * width + j]));
        }
    }
    free(weights);
    return worst;
}

/* --- tests ----------------------------------------------------------------------------------- */

static int runs_here(ppedge_backend backend) {
    ppedge_backend resolved;
    return ppedge_backend_resolve(backend, &resolved) == PPEDGE_OK;
}

#define FOR_EACH_BACKEND(name)                                                                   \
    for (ppedge_backend name = PPEDGE_SCALAR; name <= PPEDGE_NEON; name++)                       \
        if (runs_here(name))

/* Absolute, for values in -1 .. 1 and scores of up to some tens; int8 queries are rounded. */
static const double tolerance[] = {3e-5, 3e-5, 3e-5, 1e-3};

static void every_backend_agrees_with_the_formula(void) {
    static const size_t shapes[][3] = {
        /* n, d_k, d_v */
        {1, 1, 1},    {2, 3, 5},     {63, 7, 8},    {64, 16, 31},   {65, 33, 17},
        {200, 64, 9}, {70, 511, 12}, {40, 513, 24}, {33, 1025, 40}, {1500, 24, 48},
    };
    FOR_EACH_BACKEND(backend) {
        for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; s++) {
            for (int dtype = PPEDGE_F32; dtype <= PPEDGE_I8; dtype++) {
                for (size_t offset = 0; offset < 4; offset += 3) {
                    problem p = make_problem(shapes[s][0], shapes[s][1], shapes[s][2],
                                             (ppedge_dtype)dtype, offset, 1, 1);
                    p.args.backend = backend;
                    CHECK(ppedge_pool(&p.args, NULL) == PPEDGE_OK);
                    CHECK(error_of(&p.args) < tolerance[dtype]);
                    free_problem(&p);
                }
            }
        }
    }
}

static void heads_and_queries_take_their_own_slices(void) {
    FOR_EACH_BACKEND(backend) {
        for (int dtype = PPEDGE_F32; dtype <= PPEDGE_I8; dtype++) {
            problem p = make_problem(150, 3 * 20, 3 * 11, (ppedge_dtype)dtype, 1, 5, 3);
            p.args.backend = backend;
            CHECK(ppedge_pool(&p.args, NULL) == PPEDGE_OK);
            CHECK(error_of(&p.args) < tolerance[dtype]);
            free_problem(&p);
        }
    }
}

static void keys_and_values_may_be_the_same_rows(void) {
    problem p = make_problem(100, 24, 24, PPEDGE_F16, 0, 1, 1);
    p.args.values = p.args.keys;
    CHECK(ppedge_pool(&p.args, NULL) == PPEDGE_OK);
    CHECK(error_of(&p.args) < tolerance[PPEDGE_F16]);
    free_problem(&p);
}

/* float16 rows of 480 + 512 elements that take more than the 8 MiB from which threads are used */
enum { THREADED_ROWS = 4400 };

static void threads_do_not_change_the_bits(void) {
    problem p = make_problem(THREADED_ROWS, 480, 512, PPEDGE_F16, 0, 2, 2);
    float *single = malloc(2 * 512 * sizeof *single);
    p.args.n_threads = 1;
    CHECK(ppedge_pool(&p.args, NULL) == PPEDGE_OK);
    memcpy(single, p.out, 2 * 512 * sizeof *single);
    for (int n_threads = 2; n_threads <= 100; n_threads = n_threads * 2 + 1) {
        p.args.n_threads = n_threads;
        CHECK(ppedge_pool(&p.args, NULL) == PPEDGE_OK);
        CHECK(memcmp(single, p.out, 2 * 512 * sizeof *single) == 0);
    }
    CHECK(error_of(&p.args) < tolerance[PPEDGE_F16]);
    free(single);
    free_problem(&p);
}

static void a_masked_row_is_not_read(void) {
    problem p = make_problem(300, 20, 20, PPEDGE_F32, 0, 1, 1);
    const float not_a_number = NAN;
    for (size_t i = 0; i < 300; i++) {
        if (i % 3 != 1 || i > 200) {
            p.bias[i] = -INFINITY;
            memcpy(p.keys + i * p.args.keys.stride, &not_a_number, sizeof not_a_number);
            memcpy(p.values + i * p.args.values.stride, &not_a_number, sizeof not_a_number);
        }
    }
    CHECK(ppedge_pool(&p.args, NULL) == PPEDGE_OK);
    /* the reference does read them: give it numbers */
    for (size_t i = 0; i < 300; i++) {
        CHECK(p.bias[i] != -INFINITY || p.weights[i] == 0.0f);
        if (p.bias[i] == -INFINITY) {
            put(PPEDGE_F32, p.keys + i * p.args.keys.stride, 1.0f);
        }
    }
    CHECK(error_of(&p.args) < tolerance[PPEDGE_F32]);
    free_problem(&p);
}

static void partials_merge_to_the_whole(void) {
    problem p = make_problem(2500, 20, 30, PPEDGE_F32, 0, 2, 1);
    const size_t size = ppedge_partial_size(&p.args);
    CHECK(size == 2 * (30 + 2));
    float *whole = malloc(size * sizeof *whole), *part = malloc(size * sizeof *part);
    static const size_t bounds[] = {0, 1, 1, 1200, 2500}; /* one range is empty */
    CHECK(ppedge_pool_partial(&p.args, 0, 0, whole, NULL) == PPEDGE_OK);
    for (size_t i = 0; i + 1 < sizeof bounds / sizeof bounds[0]; i++) {
        CHECK(ppedge_pool_partial(&p.args, bounds[i], bounds[i + 1], part, NULL) == PPEDGE_OK);
        ppedge_partial_merge(&p.args, whole, part);
    }
    CHECK(ppedge_pool_finish(&p.args, whole, NULL) == PPEDGE_OK);
    CHECK(error_of(&p.args) < tolerance[PPEDGE_F32]);
    CHECK(ppedge_pool_partial(&p.args, 2, 1, part, NULL) == PPEDGE_BAD_SHAPE);
    CHECK(ppedge_pool_partial(&p.args, 0, 2501, part, NULL) == PPEDGE_BAD_SHAPE);
    CHECK(ppedge_pool_partial(&p.args, 0, 1, NULL, NULL) == PPEDGE_NULL_POINTER);
    CHECK(ppedge_pool_finish(&p.args, NULL, NULL) == PPEDGE_NULL_POINTER);
    free(whole);
    free(part);
    free_problem(&p);
}

static void extreme_scores_stay_finite(void) {
    FOR_EACH_BACKEND(backend) {
        problem p = make_problem(3000, 8, 8, PPEDGE_F32, 0, 1, 1);
        p.args.backend = backend;
        for (size_t i = 0; i < 3000; i++) {
            p.bias[i] = (float)i * 1e30f; /* each row outweighs all before it */
        }
        CHECK(ppedge_pool(&p.args, NULL) == PPEDGE_OK);
        for (size_t j = 0; j < 8; j++) {
            CHECK(p.out[j] == (float)get(&p.args.values, 2999, j));
        }
        CHECK(p.weights[2999] == 1.0f && p.weights[2998] == 0.0f);
        free_problem(&p);
    }
}

/* --- errors ---------------------------------------------------------------------------------- */

static void expect_fault(const problem *p, ppedge_status status, const char *field, size_t row,
                         size_t column) {
    ppedge_fault fault = {"", 0, 0};
    CHECK(ppedge_pool(&p->args, &fault) == status);
    CHECK(ppedge_pool(&p->args, NULL) == status);
    CHECK(strcmp(fault.field, field) == 0);
    CHECK(fault.row == row);
    CHECK(fault.column == column);
    char text[200];
    CHECK(strlen(ppedge_describe(status, &fault, text, sizeof text)) > 10);
}

#define EXPECT_FIELD_FAULT(change, status, field)                                                \
    do {                                                                                         \
        problem p = make_problem(2000, 6, 8, PPEDGE_F32, 0, 2, 2);                               \
        change;                                                                                  \
        expect_fault(&p, status, field, PPEDGE_NOWHERE, PPEDGE_NOWHERE);                         \
        CHECK(status == PPEDGE_ALL_MASKED || status == PPEDGE_OUT_OF_RANGE ||                    \
              ppedge_partial_size(&p.args) == 0 || p.args.backend != PPEDGE_AUTO);               \
        free_problem(&p);                                                                        \
    } while (0)

static void arguments_that_do_not_fit_are_refused(void) {
    EXPECT_FIELD_FAULT(p.args.n_rows = 0, PPEDGE_NO_ROWS, "keys");
    EXPECT_FIELD_FAULT(p.args.n_queries = 0, PPEDGE_BAD_SHAPE, "queries");
    EXPECT_FIELD_FAULT(p.args.n_heads = 0, PPEDGE_BAD_SHAPE, "heads");
    EXPECT_FIELD_FAULT(p.args.n_heads = 4, PPEDGE_BAD_SHAPE, "keys");
    EXPECT_FIELD_FAULT(p.args.n_heads = 3, PPEDGE_BAD_SHAPE, "values");
    EXPECT_FIELD_FAULT(p.args.keys.width = 0, PPEDGE_BAD_SHAPE, "keys");
    EXPECT_FIELD_FAULT(p.args.values.width = 0, PPEDGE_BAD_SHAPE, "values");
    EXPECT_FIELD_FAULT(p.args.keys.width = SIZE_MAX - 1, PPEDGE_BAD_SHAPE, "keys");
    EXPECT_FIELD_FAULT(p.args.n_rows = SIZE_MAX, PPEDGE_BAD_SHAPE, "keys");
    EXPECT_FIELD_FAULT(p.args.keys.stride = SIZE_MAX, PPEDGE_BAD_SHAPE, "keys");
    EXPECT_FIELD_FAULT(p.args.n_queries = SIZE_MAX, PPEDGE_BAD_SHAPE, "queries");
    EXPECT_FIELD_FAULT(p.args.n_queries = SIZE_MAX / 4096, PPEDGE_BAD_SHAPE, "queries");
    EXPECT_FIELD_FAULT(p.args.keys.stride = 23, PPEDGE_BAD_STRIDE, "keys");
    EXPECT_FIELD_FAULT(p.args.values.stride = 0, PPEDGE_BAD_STRIDE, "values");
    EXPECT_FIELD_FAULT(p.args.keys.dtype = (ppedge_dtype)4, PPEDGE_BAD_DTYPE, "keys");
    EXPECT_FIELD_FAULT(p.args.values.dtype = (ppedge_dtype)77, PPEDGE_BAD_DTYPE, "values");
    EXPECT_FIELD_FAULT(p.args.keys.scales = p.key_scales, PPEDGE_BAD_SCALES, "key_scales");
    EXPECT_FIELD_FAULT(p.args.values.dtype = PPEDGE_I8, PPEDGE_BAD_SCALES, "value_scales");
    EXPECT_FIELD_FAULT(p.args.keys.data = NULL, PPEDGE_NULL_POINTER, "keys");
    EXPECT_FIELD_FAULT(p.args.values.data = NULL, PPEDGE_NULL_POINTER, "values");
    EXPECT_FIELD_FAULT(p.args.queries = NULL, PPEDGE_NULL_POINTER, "queries");
    EXPECT_FIELD_FAULT(p.args.out = NULL, PPEDGE_NULL_POINTER, "out");
    EXPECT_FIELD_FAULT(p.args.backend = (ppedge_backend)99, PPEDGE_BAD_BACKEND, "backend");
    CHECK(ppedge_pool(NULL, NULL) == PPEDGE_NULL_POINTER);
    CHECK(ppedge_partial_size(NULL) == 0);
}

static void numbers_that_are_not_finite_are_found(void) {
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    for (size_t b = 0; b < 3; b++) {
        EXPECT_FIELD_FAULT(p.args.scale = bad[b], PPEDGE_NOT_FINITE, "scale");
        for (int dtype = PPEDGE_F32; dtype <= PPEDGE_BF16; dtype++) {
            for (int in_values = 0; in_values < 2; in_values++) {
                problem p = make_problem(2500, 6, 8, (ppedge_dtype)dtype, 0, 1, 1);
                ppedge_rows *rows = in_values ? &p.args.values : &p.args.keys;
                const size_t at = 2100 * rows->stride + 5 * ppedge_dtype_size(rows->dtype);
                put((ppedge_dtype)dtype, (in_values ? p.values : p.keys) + at, bad[b]);
                if (dtype == PPEDGE_F16) {
                    static const uint16_t bad_f16[] = {0x7e00, 0x7c00, 0xfc00};
                    memcpy((in_values ? p.values : p.keys) + at, &bad_f16[b], 2);
                }
                p.args.n_threads = 3;
                expect_fault(&p, PPEDGE_NOT_FINITE, in_values ? "values" : "keys", 2100, 5);
                free_problem(&p);
            }
        }
        problem p = make_problem(30, 6, 8, PPEDGE_I8, 0, 2, 2);
        p.queries[6 + 4] = bad[b];
        expect_fault(&p, PPEDGE_NOT_FINITE, "queries", 1, 4);
        p.queries[6 + 4] = 0.0f;
        p.value_scales[29] = bad[b];
        expect_fault(&p, PPEDGE_NOT_FINITE, "value_scales", 29, PPEDGE_NOWHERE);
        p.key_scales[3] = bad[b];
        expect_fault(&p, PPEDGE_NOT_FINITE, "key_scales", 3, PPEDGE_NOWHERE);
        if (bad[b] != -INFINITY) {
            p.bias[2] = bad[b];
            expect_fault(&p, PPEDGE_NOT_FINITE, "bias", 2, PPEDGE_NOWHERE);
        }
        free_problem(&p);
    }
}

static void results_beyond_float32_are_refused(void) {
    FOR_EACH_BACKEND(backend) {
        problem p = make_problem(30, 6, 8, PPEDGE_F32, 0, 1, 1);
        p.args.backend = backend;
        put(PPEDGE_F32, p.values + 8, 3e38f);
        put(PPEDGE_F32, p.values + 8 + p.args.values.stride, 3e38f);
        p.bias[0] = p.bias[1] = 50.0f;
        expect_fault(&p, PPEDGE_OUT_OF_RANGE, "values", PPEDGE_NOWHERE, PPEDGE_NOWHERE);
        put(PPEDGE_F32, p.keys + 7 * p.args.keys.stride, 3e38f);
        p.queries[0] = 1e10f;
        expect_fault(&p, PPEDGE_OUT_OF_RANGE, "keys", 7, PPEDGE_NOWHERE);
        free_problem(&p);
    }
}

static void a_pool_of_masked_rows_is_refused(void) {
    EXPECT_FIELD_FAULT(for (size_t i = 0; i < 2000; i++) p.bias[i] = -INFINITY, PPEDGE_ALL_MASKED,
                       "bias");
}

static void a_description_fits_any_buffer(void) {
    const ppedge_fault fault = {"keys", 12, 34};
    char text[128];
    ppedge_describe(PPEDGE_NOT_FINITE, &fault, text, sizeof text);
    CHECK(strncmp(text, "`keys`, row 12, column 34: is NaN", 33) == 0);
    ppedge_describe(PPEDGE_NOT_FINITE, &fault, text, 5);
    CHECK(strcmp(text, "`key") == 0);
    text[0] = '!';
    ppedge_describe(PPEDGE_NOT_FINITE, &fault, text, 0);
    CHECK(text[0] == '!');
    for (int status = PPEDGE_OK; status <= PPEDGE_NO_MEMORY + 1; status++) {
        CHECK(strlen(ppedge_describe((ppedge_status)status, NULL, text, sizeof text)) > 7);
    }
}

static void backends_have_names(void) {
    for (ppedge_backend b = PPEDGE_AUTO; b <= PPEDGE_NEON; b++) {
        ppedge_backend found;
        CHECK(ppedge_backend_from_name(ppedge_backend_name(b), &found) == 0 && found == b);
    }
    ppedge_backend found;
    CHECK(ppedge_backend_name((ppedge_backend)5) == NULL);
    CHECK(ppedge_backend_from_name("sse9", &found) == -1);
    CHECK(runs_here(PPEDGE_SCALAR) && !runs_here((ppedge_backend)5));
}

/* --- many callers at once -------------------------------------------------------------------- */

#ifndef _WIN32
#include <pthread.h>

typedef struct caller {
    const problem *shared; /* inputs of all callers */
    float out[512];
    ppedge_status status;
} caller;

static void *call_often(void *argument) {
    caller *c = argument;
    ppedge_pool_args args = c->shared->args;
    args.out = c->out;
    args.weights = NULL;
    args.log_sum_exp = NULL;
    for (int i = 0; i < 3 && (c->status = ppedge_pool(&args, NULL)) == PPEDGE_OK; i++) {
    }
    return NULL;
}

static void eight_callers_do_not_disturb_each_other(void) {
    enum { CALLERS = 8 };
    problem p = make_problem(THREADED_ROWS, 480, 512, PPEDGE_F16, 0, 1, 1);
    p.args.n_threads = 2;
    caller callers[CALLERS];
    pthread_t threads[CALLERS];
    for (int i = 0; i < CALLERS; i++) {
        callers[i].shared = &p;
        CHECK(pthread_create(&threads[i], NULL, call_often, &callers[i]) == 0);
    }
    for (int i = 0; i < CALLERS; i++) {
        pthread_join(threads[i], NULL);
        CHECK(callers[i].status == PPEDGE_OK);
        CHECK(memcmp(callers[0].out, callers[i].out, sizeof callers[0].out) == 0);
    }
    free_problem(&p);
}
#endif

/* --- the environment ------------------------------------------------------------------------- */

/* With PPEDGE_SIMD set to `name`: PPEDGE_AUTO obeys it, or is refused where it cannot. */
static void the_environment_forces_a_backend(const char *name) {
    problem p = make_problem(10, 6, 8, PPEDGE_F32, 0, 1, 1);
    ppedge_backend wanted, resolved;
    const int known = ppedge_backend_from_name(name, &wanted) == 0;
    if (known && wanted == PPEDGE_AUTO) {
        CHECK(ppedge_backend_resolve(PPEDGE_AUTO, &resolved) == PPEDGE_OK);
        CHECK(ppedge_pool(&p.args, NULL) == PPEDGE_OK);
    } else if (known && runs_here(wanted)) {
        CHECK(ppedge_backend_resolve(PPEDGE_AUTO, &resolved) == PPEDGE_OK && resolved == wanted);
        CHECK(ppedge_pool(&p.args, NULL) == PPEDGE_OK);
    } else {
        expect_fault(&p, PPEDGE_BAD_BACKEND, "PPEDGE_SIMD", PPEDGE_NOWHERE, PPEDGE_NOWHERE);
    }
    free_problem(&p);
}

#define RUN(test) (test_name = #test, test())

int main(int argc, char **argv) {
    if (argc == 3 && strcmp(argv[1], "--env") == 0) {
        test_name = "the_environment_forces_a_backend";
        the_environment_forces_a_backend(argv[2]);
        return failures != 0;
    }
    RUN(every_backend_agrees_with_the_formula);
    RUN(heads_and_queries_take_their_own_slices);
    RUN(keys_and_values_may_be_the_same_rows);
    RUN(threads_do_not_change_the_bits);
    RUN(a_masked_row_is_not_read);
    RUN(partials_merge_to_the_whole);
    RUN(extreme_scores_stay_finite);
    RUN(arguments_that_do_not_fit_are_refused);
    RUN(numbers_that_are_not_finite_are_found);
    RUN(results_beyond_float32_are_refused);
    RUN(a_pool_of_masked_rows_is_refused);
    RUN(a_description_fits_any_buffer);
    RUN(backends_have_names);
#ifndef _WIN32
    RUN(eight_callers_do_not_disturb_each_other);
#endif
    printf(failures == 0 ? "all passed\n" : "%d checks failed\n", failures);
    return failures != 0;
}
