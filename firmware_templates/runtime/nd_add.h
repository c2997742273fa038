/* SPDX-License-Identifier: Apache-2.0
 * nd_add.h - the sum or difference of two int8 values of different scales: TFLM's ADD and SUB.
 *   a' = (a - a_zp) * 2^20 * a_mult * 2^(-31 - a_right), b' likewise, each rounded twice
 *   out = clamp(out_zp + (a' + b_sign * b') * out_mult * 2^(-31 - out_right))
 */
#ifndef ND_ADD_H
#define ND_ADD_H

#include "nd_requant.h"

/* mult: in [2^30, 2^31) or 0; right: in [0, 31]; zero points and limits: int8. */
typedef struct {
    int32_t a_zp;
    int32_t a_mult;
    int32_t a_right;
    int32_t b_zp;
    int32_t b_mult;
    int32_t b_right;
    int32_t b_sign; /* 1: a + b, -1: a - b */
    int32_t out_mult;
    int32_t out_right;
    int32_t out_zp;
    int32_t act_min;
    int32_t act_max;
} nd_add_factors;

/* x, at most 255 in magnitude, times 2^20 and the factor. */
static inline int32_t nd_add_term(int32_t x, int32_t mult, int32_t right)
{
    return nd_shift_right(nd_high_mul(x * ((int32_t)1 << 20), mult), right);
}

/* No factor is above 1, so that both terms are below 2^28 in magnitude, and their sum fits. */
static inline int8_t nd_add(const nd_add_factors *f, int32_t a, int32_t b)
{
    const int32_t a_term = nd_add_term(a - f->a_zp, f->a_mult, f->a_right);
    const int32_t b_term = nd_add_term(b - f->b_zp, f->b_mult, f->b_right);
    const int32_t sum = a_term + f->b_sign * b_term;
    const int32_t out = nd_shift_right(nd_high_mul(sum, f->out_mult), f->out_right);
    return (int8_t)nd_clamp(out + f->out_zp, f->act_min, f->act_max);
}

#endif
