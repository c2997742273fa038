/* SPDX-License-Identifier: Apache-2.0
 * nd_pointwise_s8.c - 1x1 convolution, stride 1, and fully connected layers of several rows.
 *   out[p][o] = clamp(out_zp + requant(bias[o] + sum_i w[o][i] * in[p][i], mult[o], shift[o]))
 * in       int8[pixels][c_in]
 * w        int8[c_out][c_in];  bias, mult, shift: as nd_gemm_s8.c
 * scratch  2 * c_in bytes
 * out      int8[pixels][c_out] in [act_min, act_max]; may overlap in, see below
 * Same bytes as TFLM's reference_integer_ops::ConvPerChannel.
 *
 * In place. Two pixels at a time go to scratch before their outputs are written. Upwards, after the
 * block that begins at pixel p, in is still read from (p + 2) * c_in on and out is written up to
 * out - in + (p + 2) * c_out: legal for out - in <= 2 * (c_in - c_out) if c_out <= c_in (first
 * block; every later one has more room). Downwards, in is still read up to p * c_in and out is
 * written from out - in + p * c_out on: legal for out - in >= 2 * (c_in - c_out) if c_out >= c_in,
 * since the last block with one before it begins at p = 2. Two pixels or fewer: no bound at all.
 */
#include "nd_pointwise_s8.h"
#include "nd_gemm_s8.h"

ND_HOT void nd_pointwise_s8(const nd_pointwise_shape *shape,
                            const int8_t *in,
                            const int8_t *ND_RESTRICT w,
                            const int32_t *ND_RESTRICT bias,
                            const int32_t *ND_RESTRICT mult,
                            const int8_t *ND_RESTRICT shift,
                            int8_t *ND_RESTRICT scratch,
                            int8_t *out)
{
    const nd_gemm_shape gemm = {shape->c_in, shape->c_out, shape->out_zp, shape->act_min,
                                shape->act_max};
    for (int32_t i = 0; i < (shape->pixels + 1) / 2; ++i) {
        const int32_t pixel = nd_gemm_pixel(shape->pixels, shape->down, i);
        const int32_t rows = (pixel + 1 < shape->pixels) ? 2 : 1;
        memcpy(scratch, in + pixel * shape->c_in, (size_t)(rows * shape->c_in));
        nd_gemm_s8(&gemm, rows, scratch, w, bias, mult, shift, out + pixel * shape->c_out);
    }
}
