/* SPDX-License-Identifier: Apache-2.0
 * nd_conv_s8.c - convolution of any kernel size, stride, dilation and padding.
 *   out[y][x][o] = clamp(out_zp + requant(bias[o] + sum_k w[o][k] * patch[k], mult[o], shift[o]))
 * in       int8[in_h][in_w][c_in]
 * w        int8[c_out][kh][kw][c_in];  bias, mult, shift: as nd_gemm_s8.c
 * scratch  2 * kh * kw * c_in bytes: the patches of two output pixels
 * out      int8[out_h][out_w][c_out] in [act_min, act_max]; may overlap in below it: the patches of
 *          two pixels are read before these are written, from the first pixel upwards, and ndtool
 *          proved for each pair that no byte is overwritten that a later pair reads
 * Same bytes as TFLM's reference_integer_ops::ConvPerChannel.
 */
#include "nd_conv_s8.h"
#include "nd_gemm_s8.h"

ND_HOT void nd_conv_s8(const nd_conv_shape *shape,
                       const int8_t *in,
                       const int8_t *ND_RESTRICT w,
                       const int32_t *ND_RESTRICT bias,
                       const int32_t *ND_RESTRICT mult,
                       const int8_t *ND_RESTRICT shift,
                       int8_t *ND_RESTRICT scratch,
                       int8_t *out)
{
    const int32_t k = shape->kh * shape->kw * shape->c_in;
    const nd_gemm_shape gemm = {k, shape->c_out, shape->out_zp, shape->act_min, shape->act_max};
    const int32_t pixels = shape->out_h * shape->out_w;
    for (int32_t i = 0; i < (pixels + 1) / 2; ++i) {
        const int32_t pixel = nd_gemm_pixel(pixels, shape->down, i);
        const int32_t rows = (pixel + 1 < pixels) ? 2 : 1;
        for (int32_t r = 0; r < rows; ++r) {
            nd_patch_s8(shape, pixel + r, in, scratch + r * k);
        }
        nd_gemm_s8(&gemm, rows, scratch, w, bias, mult, shift, out + pixel * shape->c_out);
    }
}
