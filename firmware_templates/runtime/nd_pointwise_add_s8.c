/* SPDX-License-Identifier: Apache-2.0
 * nd_pointwise_add_s8.c - 1x1 convolution, stride 1, then ADD.
 *   out[p][o] = add(conv[p][o], other[p][o]), conv as nd_pointwise_s8.c, add as nd_add.h
 * scratch  2 * c_in + 2 * c_out bytes
 * other    int8[pixels][c_out]; may be out, may be in
 * out      int8[pixels][c_out]; may be other, may overlap in as nd_pointwise_s8.c's
 * sum      its a is the convolution, its b the other operand
 * Same bytes as TFLM's reference_integer_ops::ConvPerChannel, then Add: the convolution's result is
 * rounded and clamped to int8 before it is added.
 */
#include "nd_pointwise_add_s8.h"
#include "nd_gemm_s8.h"

ND_HOT void nd_pointwise_add_s8(const nd_pointwise_shape *shape,
                                const nd_add_factors *sum,
                                const int8_t *in,
                                const int8_t *ND_RESTRICT w,
                                const int32_t *ND_RESTRICT bias,
                                const int32_t *ND_RESTRICT mult,
                                const int8_t *ND_RESTRICT shift,
                                const int8_t *other,
                                int8_t *ND_RESTRICT scratch,
                                int8_t *out)
{
    const nd_gemm_shape gemm = {shape->c_in, shape->c_out, shape->out_zp, shape->act_min,
                                shape->act_max};
    int8_t *const conv = scratch + 2 * shape->c_in;
    for (int32_t i = 0; i < (shape->pixels + 1) / 2; ++i) {
        const int32_t pixel = nd_gemm_pixel(shape->pixels, shape->down, i);
        const int32_t rows = (pixel + 1 < shape->pixels) ? 2 : 1;
        const int32_t at = pixel * shape->c_out;
        memcpy(scratch, in + pixel * shape->c_in, (size_t)(rows * shape->c_in));
        nd_gemm_s8(&gemm, rows, scratch, w, bias, mult, shift, conv);
        for (int32_t o = 0; o < rows * shape->c_out; ++o) {
            out[at + o] = nd_add(sum, conv[o], other[at + o]);
        }
    }
}
