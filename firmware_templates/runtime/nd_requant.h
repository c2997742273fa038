/* SPDX-License-Identifier: Apache-2.0
 * nd_requant.h - fixed-point arithmetic of TensorFlow Lite Micro, double rounding, byte for byte.
 *
 * A factor is mult * 2^(shift - 31): mult in [2^30, 2^31) or 0, shift in [-31, 30], left is
 * positive.
 */
#ifndef ND_REQUANT_H
#define ND_REQUANT_H

#include "nd_common.h"

/* (a * b + 2^30) >> 31, ties towards +infinity. gemmlowp's SaturatingRoundingDoublingHighMul for
 * every pair but a = b = -2^31, which cannot occur: see nd_requant's callers.
 */
static inline int32_t nd_high_mul(int32_t a, int32_t b)
{
    return (int32_t)(((int64_t)a * b + ((int64_t)1 << 30)) >> 31);
}

/* x / 2^right, ties away from zero, right in [0, 31], x > -2^31: gemmlowp's RoundingDivideByPOT.
 * floor((x + 2^(right - 1) - [x < 0]) / 2^right), in an order in which nothing leaves 32 bits.
 */
static inline int32_t nd_shift_right(int32_t x, int32_t right)
{
    if (right == 0) {
        return x;
    }
    return (((x + (x >> 31)) >> (right - 1)) + 1) >> 1;
}

/* acc times the factor: TFLM's MultiplyByQuantizedMultiplier. Proved: acc * 2^shift fits int32. */
static inline int32_t nd_requant(int32_t acc, int32_t mult, int32_t shift)
{
    if (shift < 0) {
        return nd_shift_right(nd_high_mul(acc, mult), -shift);
    }
    return nd_high_mul(acc * ((int32_t)1 << shift), mult);
}

#endif
