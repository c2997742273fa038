/* SPDX-License-Identifier: Apache-2.0
 * nd_average_pool_s8.c - AVERAGE_POOL_2D.
 *   out = clamp(mean of in over the window), pixels outside the image not counted, half away from 0
 * in     int8[in_h][in_w][channels]
 * out    int8[out_h][out_w][channels] in [act_min, act_max]; may lie below or at in, as far as no
 *        byte is written that a later window reads
 * Proved: a window has less than 2^24 pixels.
 * Same bytes as TFLM's reference_integer_ops::AveragePool.
 */
#include "nd_average_pool_s8.h"

static int32_t mean_of(const nd_pool_shape *shape, nd_pool_window window, const int8_t *in)
{
    const int32_t row_step = (shape->in_w - window.columns) * shape->channels;
    const int32_t count = window.rows * window.columns;
    int32_t sum = 0;
    for (int32_t y = 0; y < window.rows; ++y) {
        for (int32_t x = 0; x < window.columns; ++x) {
            sum += *in;
            in += shape->channels;
        }
        in += row_step;
    }
    return (sum + ((sum > 0) ? (count / 2) : -(count / 2))) / count;
}

ND_HOT void nd_average_pool_s8(const nd_pool_shape *shape, const int8_t *in, int8_t *out)
{
    for (int32_t y = 0; y < shape->out_h; ++y) {
        for (int32_t x = 0; x < shape->out_w; ++x) {
            const nd_pool_window window = nd_pool_at(shape, y, x);
            for (int32_t c = 0; c < shape->channels; ++c) {
                const int32_t mean = mean_of(shape, window, in + window.first + c);
                *out++ = (int8_t)nd_clamp(mean, shape->act_min, shape->act_max);
            }
        }
    }
}
