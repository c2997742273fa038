/* SPDX-License-Identifier: Apache-2.0
 * nd_add_s8.c - ADD and SUB of two tensors, with broadcasting.
 *   out = clamp(out_zp + requant(a' + b_sign * b'))    (nd_add.h)
 * a, b   int8, walked through as nd_broadcast.h says
 * out    int8[rows][n] in [act_min, act_max]; may be a or b itself where that one is not repeated
 * Same bytes as TFLM's reference_integer_ops::Add and reference_ops::Sub.
 */
#include "nd_add_s8.h"

ND_HOT void nd_add_s8(const nd_broadcast_shape *ND_RESTRICT shape,
                      const nd_add_factors *ND_RESTRICT factors,
                      const int8_t *a,
                      const int8_t *b,
                      int8_t *out)
{
    nd_broadcast_place at = {0, 0, 0, 0};
    for (int32_t row = 0; row < shape->rows; ++row) {
        const int8_t *x = a + at.a;
        const int8_t *y = b + at.b;
        for (int32_t i = 0; i < shape->n; ++i) {
            out[i] = nd_add(factors, *x, *y);
            x += shape->a_step;
            y += shape->b_step;
        }
        out += shape->n;
        nd_broadcast_next(shape, &at);
    }
}
