/* SPDX-License-Identifier: Apache-2.0
 * nd_fully_connected_s8.c - a fully connected layer, or a 1x1 convolution of a single pixel.
 *   out[o] = clamp(out_zp + requant(bias[o] + sum_i w[o][i] * in[i], mult[o], shift[o]))
 * in     int8[c_in]
 * w      int8[c_out][c_in], any int8 value, -128 included
 * bias   int32[c_out], input zero point folded in: bias[o] - in_zp * sum_i w[o][i]
 * mult   int32[c_out] in [2^30, 2^31), or 0 for a dead channel;  shift int8[c_out] in [-31, 30]
 * out    int8[c_out] in [act_min, act_max]; overlaps nothing
 * Proved: no partial sum leaves int32 (nd_gemm_s8.c says why).
 * Same bytes as TFLM's reference_integer_ops::FullyConnected and FullyConnectedPerChannel.
 */
#include "nd_fully_connected_s8.h"
#include "nd_requant.h"

ND_HOT void nd_fully_connected_s8(const nd_fully_connected_shape *shape,
                                  const int8_t *ND_RESTRICT in,
                                  const int8_t *ND_RESTRICT w,
                                  const int32_t *ND_RESTRICT bias,
                                  const int32_t *ND_RESTRICT mult,
                                  const int8_t *ND_RESTRICT shift,
                                  int8_t *ND_RESTRICT out)
{
    for (int32_t o = 0; o < shape->c_out; ++o) {
        int32_t acc = bias[o];
        for (int32_t i = 0; i < shape->c_in; ++i) {
            acc += w[i] * in[i];
        }
        w += shape->c_in;
        const int32_t y = shape->out_zp + nd_requant(acc, mult[o], shift[o]);
        out[o] = (int8_t)nd_clamp(y, shape->act_min, shape->act_max);
    }
}
