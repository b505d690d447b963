/* AArch64 Advanced SIMD: 4 lanes. Part of the base instruction set, float16 conversion included. */
#include <arm_neon.h>
#include <stdint.h>

#define LANES 4
#define KERNELS ppedge_kernels_neon

typedef float32x4_t vec;

static inline vec vec_set1(float x) { return vdupq_n_f32(x); }
static inline vec vec_load(const float *at) { return vld1q_f32(at); }
static inline void vec_store(float *at, vec x) { vst1q_f32(at, x); }
static inline vec vec_add(vec a, vec b) { return vaddq_f32(a, b); }
static inline vec vec_mul(vec a, vec b) { return vmulq_f32(a, b); }
static inline vec vec_fma(vec a, vec b, vec c) { return vfmaq_f32(c, a, b); }
static inline vec vec_max(vec a, vec b) { return vmaxq_f32(a, b); }
static inline float vec_sum(vec x) { return vaddvq_f32(x); }
static inline vec vec_round(vec x) { return vrndnq_f32(x); }

static inline vec vec_pow2(vec k) {
    return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(vcvtq_s32_f32(k), vdupq_n_s32(127)), 23));
}

static inline vec vec_zero_below(vec x, vec limit, vec value) {
    return vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(value), vcgeq_f32(x, limit)));
}

/* byte loads: a wider element type would promise an alignment that rows need not have */
static inline vec load_f32(const char *at) {
    return vreinterpretq_f32_u8(vld1q_u8((const uint8_t *)at));
}

static inline vec load_f16(const char *at) {
    return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8((const uint8_t *)at)));
}

static inline vec load_bf16(const char *at) {
    const uint16x4_t upper = vreinterpret_u16_u8(vld1_u8((const uint8_t *)at));
    return vreinterpretq_f32_u32(vshll_n_u16(upper, 16));
}

static inline vec load_i8(const char *at) {
    uint32_t four;
    __builtin_memcpy(&four, at, sizeof four);
    const int8x8_t bytes = vreinterpret_s8_u32(vdup_n_u32(four));
    return vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(bytes))));
}

#include "kernels_simd.h"
