/* SPDX-License-Identifier: Apache-2.0
 * nd_pad_s8.c - PAD with one value.
 *   out[first + block * block_step + plane * plane_step + row * row_step + i] = in's next byte,
 *   i < n, row after row; every other byte of out is fill
 *
 * in     int8[blocks][planes][rows][n]
 * out    int8[bytes]; no overlap with in
 * Same bytes as TFLM's reference_ops::Pad.
 */
#include "nd_pad_s8.h"

ND_HOT void
nd_pad_s8(const nd_pad_shape *shape, const int8_t *ND_RESTRICT in, int8_t *ND_RESTRICT out)
{
    memset(out, shape->fill, (size_t)shape->bytes);
    for (int32_t block = 0; block < shape->blocks; ++block) {
        for (int32_t plane = 0; plane < shape->planes; ++plane) {
            int8_t *to = out + shape->first + block * shape->block_step + plane * shape->plane_step;
            for (int32_t row = 0; row < shape->rows; ++row) {
                memcpy(to, in, (size_t)shape->n);
                in += shape->n;
                to += shape->row_step;
            }
        }
    }
}
