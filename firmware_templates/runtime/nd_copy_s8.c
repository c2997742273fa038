/* SPDX-License-Identifier: Apache-2.0
 * nd_copy_s8.c - rows of bytes from place to place: one input of a CONCATENATION, one part of a
 * SPLIT.
 *   out[r][i] = in[r][i], i < n
 * in     int8[rows][in_step], n of each row are read
 * out    int8[rows][out_step], n of each row are written; no overlap with in
 */
#include "nd_copy_s8.h"

ND_HOT void
nd_copy_s8(const nd_copy_shape *shape, const int8_t *ND_RESTRICT in, int8_t *ND_RESTRICT out)
{
    for (int32_t row = 0; row < shape->rows; ++row) {
        memcpy(out, in, (size_t)shape->n);
        in += shape->in_step;
        out += shape->out_step;
    }
}
