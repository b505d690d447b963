/* AVX2 + FMA + F16C: 8 lanes. This file alone is built with those instructions. */
#include <immintrin.h>
#include <stdint.h>

#define LANES 8
#define KERNELS ppedge_kernels_avx2

typedef __m256 vec;

static inline vec vec_set1(float x) { return _mm256_set1_ps(x); }
static inline vec vec_load(const float *at) { return _mm256_loadu_ps(at); }
static inline void vec_store(float *at, vec x) { _mm256_storeu_ps(at, x); }
static inline vec vec_add(vec a, vec b) { return _mm256_add_ps(a, b); }
static inline vec vec_mul(vec a, vec b) { return _mm256_mul_ps(a, b); }
static inline vec vec_fma(vec a, vec b, vec c) { return _mm256_fmadd_ps(a, b, c); }
static inline vec vec_max(vec a, vec b) { return _mm256_max_ps(a, b); }

static inline float vec_sum(vec x) {
    __m128 half = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    half = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
}

static inline vec vec_round(vec x) {
    return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

static inline vec vec_pow2(vec k) {
    const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(k), _mm256_set1_epi32(127));
    return _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23));
}

static inline vec vec_zero_below(vec x, vec limit, vec value) {
    return _mm256_and_ps(value, _mm256_cmp_ps(x, limit, _CMP_GE_OQ));
}

static inline vec load_f32(const char *at) { return _mm256_loadu_ps((const float *)at); }

static inline vec load_f16(const char *at) {
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)at));
}

static inline vec load_bf16(const char *at) {
    const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)at));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}

static inline vec load_i8(const char *at) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)at)));
}

#define HAS_INTEGER_DOT

typedef __m256i ivec;

static inline ivec ivec_zero(void) { return _mm256_setzero_si256(); }

static inline ivec ivec_madd(ivec sum, const int16_t *query, const char *at) {
    const __m256i row = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)at));
    const __m256i products = _mm256_madd_epi16(_mm256_loadu_si256((const __m256i *)query), row);
    return _mm256_add_epi32(sum, products);
}

static inline int32_t ivec_sum(ivec a, ivec b) {
    const __m256i both = _mm256_add_epi32(a, b);
    __m128i half = _mm_add_epi32(_mm256_castsi256_si128(both), _mm256_extracti128_si256(both, 1));
    half = _mm_add_epi32(half, _mm_shuffle_epi32(half, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(half, _mm_shuffle_epi32(half, 0xb1)));
}

#include "kernels_simd.h"
