/* SPDX-License-Identifier: Apache-2.0
 * nd_gemm_s8.c - the core of convolutions: one or two pixels times all output channels.
 *   out[r][o] = clamp(out_zp + requant(bias[o] + sum_k w[o][k] * in[r][k], mult[o], shift[o]))
 * rows   1 or 2
 * in     int8[rows][k]
 * w      int8[c_out][k], any int8 value, -128 included
 * bias   int32[c_out], input zero point folded in: bias[o] - in_zp * sum_k w[o][k]
 * mult   int32[c_out] in [2^30, 2^31), or 0 for a dead channel;  shift int8[c_out] in [-31, 30]
 * out    int8[rows][c_out] in [act_min, act_max]; overlaps nothing
 * Proved: no sum leaves int32, wherever it is cut short: what is added up to there is the whole sum
 * of an input that is 0 from there on.
 *
 * Two channels and two rows at a time: four loads serve four products. Where there is no second
 * row or channel, the first one is computed and stored twice.
 */
#include "nd_gemm_s8.h"
#include "nd_requant.h"

/* Outputs of one channel in both rows, `next_row` bytes apart. */
static void nd_gemm_put(const nd_gemm_shape *shape,
                        int32_t acc0,
                        int32_t acc1,
                        int32_t mult,
                        int32_t shift,
                        int8_t *out,
                        int32_t next_row)
{
    const int32_t y0 = nd_requant(acc0, mult, shift) + shape->out_zp;
    const int32_t y1 = nd_requant(acc1, mult, shift) + shape->out_zp;
    out[0] = (int8_t)nd_clamp(y0, shape->act_min, shape->act_max);
    out[next_row] = (int8_t)nd_clamp(y1, shape->act_min, shape->act_max);
}

ND_HOT void nd_gemm_s8(const nd_gemm_shape *shape,
                       int32_t rows,
                       const int8_t *ND_RESTRICT in,
                       const int8_t *ND_RESTRICT w,
                       const int32_t *ND_RESTRICT bias,
                       const int32_t *ND_RESTRICT mult,
                       const int8_t *ND_RESTRICT shift,
                       int8_t *ND_RESTRICT out)
{
    const int32_t k = shape->k;
    const int32_t next_in = (rows > 1) ? k : 0;
    const int32_t next_out = (rows > 1) ? shape->c_out : 0;
    for (int32_t o = 0; o < shape->c_out; o += 2) {
        const int32_t next = (o + 1 < shape->c_out) ? o + 1 : o;
        const int8_t *w0 = w + o * k;
        const int8_t *w1 = w + next * k;
        int32_t s00 = bias[o], s01 = bias[next], s10 = s00, s11 = s01;
        for (int32_t i = 0; i < k; ++i) {
            const int32_t x0 = in[i];
            const int32_t x1 = in[next_in + i];
            s00 += x0 * w0[i];
            s01 += x0 * w1[i];
            s10 += x1 * w0[i];
            s11 += x1 * w1[i];
        }
        nd_gemm_put(shape, s00, s10, mult[o], shift[o], out + o, next_out);
        nd_gemm_put(shape, s01, s11, mult[next], shift[next], out + next, next_out);
    }
}
