/* SPDX-License-Identifier: Apache-2.0
 * nd_table_s8.c - an operation of one int8 byte: HARD_SWISH, LOGISTIC, TANH, LEAKY_RELU, RELU,
 * RELU6, QUANTIZE.
 *   out[i] = table[in[i] + 128]
 * in     int8[n]
 * table  int8[256], the output for each input -128..127
 * out    int8[n]; may be in itself
 * Exact by construction: the table is made by the arithmetic of TFLM's reference kernels.
 */
#include "nd_table_s8.h"

ND_HOT void
nd_table_s8(const nd_table_shape *shape, const int8_t *in, const int8_t *table, int8_t *out)
{
    for (int32_t i = 0; i < shape->n; ++i) {
        out[i] = table[in[i] + 128];
    }
}
