/* SPDX-License-Identifier: Apache-2.0
 * nd_slice_s8.c - STRIDED_SLICE.
 *   out[plane][row][i] = in[plane * plane_step + row * row_step + i * step]
 * in     int8, at the first byte taken
 * out    int8[planes][rows][n]; no overlap with in
 * Same bytes as TFLM's reference_ops::StridedSlice.
 */
#include "nd_slice_s8.h"

ND_HOT void
nd_slice_s8(const nd_slice_shape *shape, const int8_t *ND_RESTRICT in, int8_t *ND_RESTRICT out)
{
    for (int32_t plane = 0; plane < shape->planes; ++plane) {
        for (int32_t row = 0; row < shape->rows; ++row) {
            const int8_t *from = in + plane * shape->plane_step + row * shape->row_step;
            if (shape->step == 1) {
                memcpy(out, from, (size_t)shape->n);
            } else {
                for (int32_t i = 0; i < shape->n; ++i) {
                    out[i] = from[i * shape->step];
                }
            }
            out += shape->n;
        }
    }
}
