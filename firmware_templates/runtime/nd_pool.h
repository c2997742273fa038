/* SPDX-License-Identifier: Apache-2.0
 * nd_pool.h - the windows of the pooling kernels.
 */
#ifndef ND_POOL_H
#define ND_POOL_H

#include "nd_common.h"

typedef struct {
    int32_t in_h;
    int32_t in_w;
    int32_t channels;
    int32_t out_h;
    int32_t out_w;
    int32_t kh;
    int32_t kw;
    int32_t stride_h;
    int32_t stride_w;
    int32_t pad_top;
    int32_t pad_left;
    int32_t act_min; /* limits of the output, int8 */
    int32_t act_max;
} nd_pool_shape;

/* A window cut to the image, never empty: its first byte in the input, and its size in pixels. */
typedef struct {
    int32_t first;
    int32_t rows;
    int32_t columns;
} nd_pool_window;

static inline nd_pool_window nd_pool_at(const nd_pool_shape *shape, int32_t y, int32_t x)
{
    const int32_t top = y * shape->stride_h - shape->pad_top;
    const int32_t left = x * shape->stride_w - shape->pad_left;
    const int32_t bottom = nd_clamp(top + shape->kh, 0, shape->in_h);
    const int32_t right = nd_clamp(left + shape->kw, 0, shape->in_w);
    const int32_t row = nd_clamp(top, 0, shape->in_h);
    const int32_t column = nd_clamp(left, 0, shape->in_w);
    nd_pool_window window;
    window.first = (row * shape->in_w + column) * shape->channels;
    window.rows = bottom - row;
    window.columns = right - column;
    return window;
}

#endif
