/* int8 keys against a query rounded to int16: widening bytes to int16 and multiplying pairs takes
 * half the instructions of widening them to float32. The query's rounding, 2^-16 of its largest
 * element, is 256 times finer than that of the keys. The integer sums are exact.
 *
 * Included by kernels_simd.h; besides its operations the backend defines the type `ivec`,
 * ivec_zero, ivec_sum (of two), and ivec_madd (sum + products of 2 * LANES int16 with as many
 * int8).
 */
enum {
    PAIRS = 2 * LANES, /* elements that ivec_madd takes */
    /* each 32-bit lane adds at most SEGMENT / LANES products below 2^22: no overflow */
    SEGMENT = 512
};

/* A stretch of the query, rounded: element j is unit * rounded[j]. */
typedef struct rounded_query {
    float unit;
    int16_t rounded[SEGMENT];
    int16_t tail[PAIRS]; /* the last PAIRS elements, 0 where whole vectors have counted them */
} rounded_query;

ALWAYS_INLINE float largest(const float *query, size_t n) {
    vec most = vec_set1(0.0f);
    size_t j = 0;
    for (; j + LANES <= n; j += LANES) {
        const vec x = vec_load(query + j);
        most = vec_max(most, vec_max(x, vec_mul(x, vec_set1(-1.0f))));
    }
    float lanes[LANES], result = 0.0f;
    vec_store(lanes, most);
    for (int i = 0; i < LANES; i++) {
        result = lanes[i] > result ? lanes[i] : result;
    }
    for (; j < n; j++) {
        result = fabsf(query[j]) > result ? fabsf(query[j]) : result;
    }
    return result;
}

static void round_query(const float *query, size_t n, rounded_query *q) {
    q->unit = largest(query, n) / 32767.0f;
    /* a subnormal unit has no finite inverse; such a query scores 0 to float32's precision */
    const float steps = q->unit >= 0x1p-126f ? 1.0f / q->unit : 0.0f;
    for (size_t j = 0; j < n; j++) {
        const float x = query[j] * steps;
        q->rounded[j] = (int16_t)(x + copysignf(0.5f, x));
    }
    memset(q->tail, 0, sizeof q->tail);
    const size_t remainder = n % PAIRS;
    if (n >= PAIRS) {
        memcpy(q->tail + PAIRS - remainder, q->rounded + n - remainder,
               remainder * sizeof *q->tail);
    } else {
        memcpy(q->tail, q->rounded, n * sizeof *q->tail);
    }
}

ALWAYS_INLINE float dot_segment(const rounded_query *q, const char *row, size_t n) {
    ivec sum0 = ivec_zero(), sum1 = ivec_zero();
    size_t j = 0;
    for (; j + 2 * PAIRS <= n; j += 2 * PAIRS) {
        prefetch(row + j, 2 * PAIRS);
        sum0 = ivec_madd(sum0, q->rounded + j, row + j);
        sum1 = ivec_madd(sum1, q->rounded + j + PAIRS, row + j + PAIRS);
    }
    if (j + PAIRS <= n) {
        sum0 = ivec_madd(sum0, q->rounded + j, row + j);
        j += PAIRS;
    }
    if (j < n && n >= PAIRS) {
        sum1 = ivec_madd(sum1, q->tail, row + n - PAIRS);
    } else if (j < n) {
        char padded[PAIRS] = {0};
        memcpy(padded, row, n);
        sum1 = ivec_madd(sum1, q->tail, padded);
    }
    return q->unit * (float)ivec_sum(sum0, sum1);
}

static void dot_i8(const float *query, const char *rows, size_t stride, size_t n, size_t width,
                   float *out) {
    memset(out, 0, n * sizeof *out);
    for (size_t start = 0; start < width; start += SEGMENT) {
        const size_t count = width - start < SEGMENT ? width - start : SEGMENT;
        rounded_query q;
        round_query(query + start, count, &q);
        for (size_t i = 0; i < n; i++) {
            out[i] += dot_segment(&q, rows + i * stride + start, count);
        }
    }
}
