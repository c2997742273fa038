/* SPDX-License-Identifier: Apache-2.0
 * nd_mul_s8.c - MUL of two tensors, with broadcasting.
 *   out = clamp(out_zp + requant((a - a_zp) * (b - b_zp), mult, shift))
 * a, b   int8, walked through as nd_broadcast.h says
 * out    int8[rows][n] in [act_min, act_max]; may be a or b itself where that one is not repeated
 * mult   in [2^30, 2^31) or 0;  shift in [-31, 30]
 * Proved: no product leaves int32 when shifted to the left.
 * Same bytes as TFLM's reference_integer_ops::Mul with double rounding.
 */
#include "nd_mul_s8.h"
#include "nd_requant.h"

ND_HOT void nd_mul_s8(const nd_broadcast_shape *ND_RESTRICT shape,
                      const nd_mul_factors *ND_RESTRICT factors,
                      const int8_t *a,
                      const int8_t *b,
                      int8_t *out)
{
    nd_broadcast_place at = {0, 0, 0, 0};
    for (int32_t row = 0; row < shape->rows; ++row) {
        const int8_t *x = a + at.a;
        const int8_t *y = b + at.b;
        for (int32_t i = 0; i < shape->n; ++i) {
            const int32_t product = (*x - factors->a_zp) * (*y - factors->b_zp);
            const int32_t scaled = nd_requant(product, factors->mult, factors->shift);
            out[i] = (int8_t)nd_clamp(scaled + factors->out_zp, factors->act_min, factors->act_max);
            x += shape->a_step;
            y += shape->b_step;
        }
        out += shape->n;
        nd_broadcast_next(shape, &at);
    }
}
