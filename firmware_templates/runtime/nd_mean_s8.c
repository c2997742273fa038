/* SPDX-License-Identifier: Apache-2.0
 * nd_mean_s8.c - MEAN over any axes: two kept dimensions, two averaged ones, each with its step.
 *   out[o][i] = clamp(out_zp + requant(bias + sum of in over rows and columns, mult, shift))
 * in     int8
 * out    int8[outer][inner]; may lie at in or below it
 * mult   in [0, 2^31), with 1 / (rows * columns) in it;  shift in [-31, 30]
 * Proved: no sum leaves int32, nor when shifted to the left.
 * Same bytes as TFLM's reference_ops::QuantizedMeanOrSum with double rounding.
 */
#include "nd_mean_s8.h"
#include "nd_requant.h"

static int32_t sum_of(const nd_mean_shape *shape, const int8_t *in)
{
    int32_t sum = shape->bias;
    for (int32_t y = 0; y < shape->rows; ++y) {
        const int8_t *x = in;
        for (int32_t i = 0; i < shape->columns; ++i) {
            sum += *x;
            x += shape->column_step;
        }
        in += shape->row_step;
    }
    return sum;
}

ND_HOT void nd_mean_s8(const nd_mean_shape *shape, const int8_t *in, int8_t *out)
{
    for (int32_t o = 0; o < shape->outer; ++o) {
        for (int32_t i = 0; i < shape->inner; ++i) {
            const int32_t sum = sum_of(shape, in + i * shape->inner_step);
            const int32_t mean = nd_requant(sum, shape->mult, shape->shift) + shape->out_zp;
            *out++ = (int8_t)nd_clamp(mean, -128, 127);
        }
        in += shape->outer_step;
    }
}
