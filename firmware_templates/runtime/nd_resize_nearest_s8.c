/* SPDX-License-Identifier: Apache-2.0
 * nd_resize_nearest_s8.c - RESIZE_NEAREST_NEIGHBOR.
 *   out[y][x] = in[rows[y]][columns[x]], a pixel of `channels` bytes
 * in       int8[][in_row / channels][channels]
 * rows     uint16[out_h], columns uint16[out_w]: the nearest pixel, by the float32 arithmetic of
 *          TFLM's GetNearestNeighbor, done when the tables were made
 * out      int8[out_h][out_w][channels]; no overlap with in
 */
#include "nd_resize_nearest_s8.h"

ND_HOT void nd_resize_nearest_s8(const nd_resize_nearest_shape *shape,
                                 const int8_t *ND_RESTRICT in,
                                 const uint16_t *ND_RESTRICT rows,
                                 const uint16_t *ND_RESTRICT columns,
                                 int8_t *ND_RESTRICT out)
{
    for (int32_t y = 0; y < shape->out_h; ++y) {
        const int8_t *row = in + (int32_t)rows[y] * shape->in_row;
        for (int32_t x = 0; x < shape->out_w; ++x) {
            memcpy(out, row + (int32_t)columns[x] * shape->channels, (size_t)shape->channels);
            out += shape->channels;
        }
    }
}
