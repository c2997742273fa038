/* SPDX-License-Identifier: Apache-2.0
 * nd_softmax_s8.c - SOFTMAX of each row; output scale 1/256, zero point -128.
 *   out[i] = clamp(-128 + 256 * e[i] / sum of e),  e[i] = exp_table[largest of the row - in[i]]
 * in         int8[rows][n]
 * exp_table  int32[size], Q0.31: exp(-difference), with the input's scale and beta in it; a
 *            difference of `size` or more counts as 0
 * out        int8[rows][n]; may be in itself
 * Proved: exp_table[0] = 2^31 - 1, n <= 4095.
 * Same bytes as TFLM's reference_ops::Softmax. Where a row's sum of exp is 512 or more, TFLM's last
 * shift is 32 or more and undefined: here every share, which is below 1/512, is then 0.
 */
#include "nd_softmax_s8.h"
#include "nd_requant.h"

#define SUM_RIGHT 12 /* from Q0.31 to the sum's Q12.19 */

static int32_t largest_of(const int8_t *in, int32_t n)
{
    int32_t largest = in[0];
    for (int32_t i = 1; i < n; ++i) {
        if (in[i] > largest) {
            largest = in[i];
        }
    }
    return largest;
}

/* 1 / (1 + a), Q0.31, for a in [0, 1), Q0.31: gemmlowp's one_over_one_plus_x_for_x_in_0_1. */
static int32_t reciprocal_of_one_plus(int32_t a)
{
    const int32_t half = (int32_t)(((uint32_t)a + 0x80000000U) >> 1);
    int32_t x = 1515870810 + nd_high_mul(half, -1010580540); /* 48/17 - 32/17 * half, Q2.29 */
    for (int32_t step = 0; step < 3; ++step) {
        const int32_t rest = ((int32_t)1 << 29) - nd_high_mul(half, x); /* 1 - half * x */
        x += nd_high_mul(x, rest) * 4; /* no saturation: |rest| < 1/16 */
    }
    return (x >= ((int32_t)1 << 30)) ? INT32_MAX : (x * 2);
}

static void
softmax_row(const nd_softmax_shape *shape, const int8_t *in, const int32_t *exp_table, int8_t *out)
{
    const int32_t largest = largest_of(in, shape->n);
    uint32_t sum = 0; /* in [2^19, 2^31) */
    for (int32_t i = 0; i < shape->n; ++i) {
        const int32_t below = largest - in[i];
        if (below < shape->size) {
            sum += (uint32_t)nd_shift_right(exp_table[below], SUM_RIGHT);
        }
    }
    int32_t right = SUM_RIGHT + 31 - 8;
    while (sum < 0x80000000U) { /* sum = 2^k * (1 + fraction) */
        sum *= 2U;
        --right;
    }
    const int32_t reciprocal = reciprocal_of_one_plus((int32_t)(sum - 0x80000000U));
    for (int32_t i = 0; i < shape->n; ++i) {
        const int32_t below = largest - in[i];
        int32_t share = 0;
        if ((below < shape->size) && (right <= 31)) {
            share = nd_shift_right(nd_high_mul(reciprocal, exp_table[below]), right);
        }
        out[i] = (int8_t)nd_clamp(share - 128, -128, 127);
    }
}

ND_HOT void nd_softmax_s8(const nd_softmax_shape *shape,
                          const int8_t *in,
                          const int32_t *exp_table,
                          int8_t *out)
{
    for (int32_t row = 0; row < shape->rows; ++row) {
        softmax_row(shape, in, exp_table, out);
        in += shape->n;
        out += shape->n;
    }
}
