/* SPDX-License-Identifier: Apache-2.0
 * nd_conv_add_s8.c - convolution, then ADD.
 *   out[y][x][o] = add(conv[y][x][o], other[y][x][o]), conv as nd_conv_s8.c, add as nd_add.h
 * scratch  2 * kh * kw * c_in + 2 * c_out bytes
 * other    int8[out_h][out_w][c_out]; may be out
 * out      int8[out_h][out_w][c_out]; may be other, may overlap in as nd_conv_s8.c's
 * sum      its a is the convolution, its b the other operand
 * Same bytes as TFLM's reference_integer_ops::ConvPerChannel, then Add: the convolution's result is
 * rounded and clamped to int8 before it is added.
 */
#include "nd_conv_add_s8.h"
#include "nd_gemm_s8.h"

ND_HOT void nd_conv_add_s8(const nd_conv_shape *shape,
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
    const int32_t k = shape->kh * shape->kw * shape->c_in;
    const nd_gemm_shape gemm = {k, shape->c_out, shape->out_zp, shape->act_min, shape->act_max};
    const int32_t pixels = shape->out_h * shape->out_w;
    int8_t *const conv = scratch + 2 * k;
    for (int32_t i = 0; i < (pixels + 1) / 2; ++i) {
        const int32_t pixel = nd_gemm_pixel(pixels, shape->down, i);
        const int32_t rows = (pixel + 1 < pixels) ? 2 : 1;
        const int32_t at = pixel * shape->c_out;
        for (int32_t r = 0; r < rows; ++r) {
            nd_patch_s8(shape, pixel + r, in, scratch + r * k);
        }
        nd_gemm_s8(&gemm, rows, scratch, w, bias, mult, shift, conv);
        for (int32_t o = 0; o < rows * shape->c_out; ++o) {
            out[at + o] = nd_add(sum, conv[o], other[at + o]);
        }
    }
}
