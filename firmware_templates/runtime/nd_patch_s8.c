/* SPDX-License-Identifier: Apache-2.0
 * nd_patch_s8.c - what a convolution's kernel sees at one output pixel: im2col.
 * pixel  number of the output pixel, row by row
 * in     int8[in_h][in_w][c_in]
 * patch  int8[kh][kw][c_in]; in_zp where the kernel lies outside the image
 */
#include "nd_patch_s8.h"

/* kw pixels of an image row from column x on; row may be null: all of them are outside. */
static void nd_patch_row(const nd_conv_shape *shape, const int8_t *row, int32_t x, int8_t *patch)
{
    const int32_t c_in = shape->c_in;
    if ((row != NULL) && (shape->dilation_w == 1)) {
        const int32_t left = nd_clamp(-x, 0, shape->kw);
        const int32_t inside = nd_clamp(shape->in_w - x, left, shape->kw) - left;
        memset(patch, shape->in_zp, (size_t)(left * c_in));
        patch += left * c_in;
        if (inside > 0) {
            memcpy(patch, row + (x + left) * c_in, (size_t)(inside * c_in));
            patch += inside * c_in;
        }
        memset(patch, shape->in_zp, (size_t)((shape->kw - left - inside) * c_in));
        return;
    }
    for (int32_t j = 0; j < shape->kw; ++j) {
        if ((row != NULL) && (x >= 0) && (x < shape->in_w)) {
            memcpy(patch, row + x * c_in, (size_t)c_in);
        } else {
            memset(patch, shape->in_zp, (size_t)c_in);
        }
        x += shape->dilation_w;
        patch += c_in;
    }
}

ND_HOT void nd_patch_s8(const nd_conv_shape *shape,
                        int32_t pixel,
                        const int8_t *ND_RESTRICT in,
                        int8_t *ND_RESTRICT patch)
{
    const int32_t row_bytes = shape->in_w * shape->c_in;
    int32_t y = pixel / shape->out_w * shape->stride_h - shape->pad_top;
    const int32_t x = pixel % shape->out_w * shape->stride_w - shape->pad_left;
    for (int32_t i = 0; i < shape->kh; ++i) {
        const int inside = (y >= 0) && (y < shape->in_h);
        nd_patch_row(shape, inside ? in + y * row_bytes : NULL, x, patch);
        y += shape->dilation_h;
        patch += shape->kw * shape->c_in;
    }
}
