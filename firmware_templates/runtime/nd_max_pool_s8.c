/* SPDX-License-Identifier: Apache-2.0
 * nd_max_pool_s8.c - MAX_POOL_2D.
 *   out = clamp(largest of in over the window inside the image)
 * in     int8[in_h][in_w][channels]
 * out    int8[out_h][out_w][channels] in [act_min, act_max]; may lie below or at in, as far as no
 *        byte is written that a later window reads
 * Same bytes as TFLM's reference_integer_ops::MaxPool.
 */
#include "nd_max_pool_s8.h"

static int32_t max_of(const nd_pool_shape *shape, nd_pool_window window, const int8_t *in)
{
    const int32_t row_step = (shape->in_w - window.columns) * shape->channels;
    int32_t largest = *in;
    for (int32_t y = 0; y < window.rows; ++y) {
        for (int32_t x = 0; x < window.columns; ++x) {
            if (*in > largest) {
                largest = *in;
            }
            in += shape->channels;
        }
        in += row_step;
    }
    return largest;
}

ND_HOT void nd_max_pool_s8(const nd_pool_shape *shape, const int8_t *in, int8_t *out)
{
    for (int32_t y = 0; y < shape->out_h; ++y) {
        for (int32_t x = 0; x < shape->out_w; ++x) {
            const nd_pool_window window = nd_pool_at(shape, y, x);
            for (int32_t c = 0; c < shape->channels; ++c) {
                const int32_t largest = max_of(shape, window, in + window.first + c);
                *out++ = (int8_t)nd_clamp(largest, shape->act_min, shape->act_max);
            }
        }
    }
}
