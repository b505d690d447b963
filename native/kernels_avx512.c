/* AVX-512 F + BW + DQ + VL: 16 lanes. This file alone is built with those instructions. */
#include <immintrin.h>
#include <stdint.h>

#define LANES 16
#define KERNELS ppedge_kernels_avx512

typedef __m512 vec;

static inline vec vec_set1(float x) { return _mm512_set1_ps(x); }
static inline vec vec_load(const float *at) { return _mm512_loadu_ps(at); }
static inline void vec_store(float *at, vec x) { _mm512_storeu_ps(at, x); }
static inline vec vec_add(vec a, vec b) { return _mm512_add_ps(a, b); }
static inline vec vec_mul(vec a, vec b) { return _mm512_mul_ps(a, b); }
static inline vec vec_fma(vec a, vec b, vec c) { return _mm512_fmadd_ps(a, b, c); }
static inline vec vec_max(vec a, vec b) { return _mm512_max_ps(a, b); }
static inline float vec_sum(vec x) { return _mm512_reduce_add_ps(x); }

static inline vec vec_round(vec x) {
    return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

static inline vec vec_pow2(vec k) { return _mm512_scalef_ps(_mm512_set1_ps(1.0f), k); }

static inline vec vec_zero_below(vec x, vec limit, vec value) {
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, limit, _CMP_GE_OQ), value);
}

static inline vec load_f32(const char *at) { return _mm512_loadu_ps(at); }

static inline vec load_f16(const char *at) {
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)at));
}

static inline vec load_bf16(const char *at) {
    const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)at));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}

static inline vec load_i8(const char *at) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)at)));
}

#define HAS_INTEGER_DOT

typedef __m512i ivec;

static inline ivec ivec_zero(void) { return _mm512_setzero_si512(); }

static inline ivec ivec_madd(ivec sum, const int16_t *query, const char *at) {
    const __m512i row = _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)at));
    return _mm512_add_epi32(sum, _mm512_madd_epi16(_mm512_loadu_si512(query), row));
}

static inline int32_t ivec_sum(ivec a, ivec b) {
    return _mm512_reduce_add_epi32(_mm512_add_epi32(a, b));
}

#include "kernels_simd.h"
