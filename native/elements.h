/* Reading one element of any dtype, from any address. */
#ifndef PPEDGE_ELEMENTS_H
#define PPEDGE_ELEMENTS_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "ppedge/pool.h"

static inline float ppedge_float_of_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline float ppedge_read_f32(const char *at) {
    float value;
    memcpy(&value, at, sizeof value);
    return value;
}

static inline float ppedge_read_f16(const char *at) {
    uint16_t half;
    memcpy(&half, at, sizeof half);
    const uint32_t sign = (uint32_t)(half & 0x8000u) << 16;
    const uint32_t exponent = (half >> 10) & 0x1fu;
    const uint32_t mantissa = half & 0x3ffu;
    if (exponent == 0) {
        /* subnormal: built from normal floats, so that a flush-to-zero mode cannot lose it */
        const float magnitude = (float)mantissa * 0x1p-24f;
        return sign ? -magnitude : magnitude;
    }
    const uint32_t wide_exponent = exponent == 0x1f ? 0xffu : exponent + (127 - 15);
    return ppedge_float_of_bits(sign | wide_exponent << 23 | mantissa << 13);
}

static inline float ppedge_read_bf16(const char *at) {
    uint16_t upper;
    memcpy(&upper, at, sizeof upper);
    return ppedge_float_of_bits((uint32_t)upper << 16);
}

static inline float ppedge_read_i8(const char *at) {
    int8_t value;
    memcpy(&value, at, sizeof value);
    return (float)value;
}

static inline float ppedge_read(ppedge_dtype dtype, const char *at) {
    switch (dtype) {
    case PPEDGE_F32:
        return ppedge_read_f32(at);
    case PPEDGE_F16:
        return ppedge_read_f16(at);
    case PPEDGE_BF16:
        return ppedge_read_bf16(at);
    case PPEDGE_I8:
        return ppedge_read_i8(at);
    }
    return NAN;
}

#endif
