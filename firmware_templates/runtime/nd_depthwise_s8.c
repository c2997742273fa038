/* SPDX-License-Identifier: Apache-2.0
 * nd_depthwise_s8.c - depthwise convolution of any kernel size, stride, dilation and padding.
 *   out[y][x][c * multiplier + m] = clamp(out_zp + requant(bias + sum_ij w[i][j] * in[..][..][c]))
 * in       int8[in_h][in_w][c_in]
 * w        int8[c_out][kh][kw], c_out = c_in * multiplier: the file's with the channel in front
 * bias, mult, shift  of each output channel, as nd_gemm_s8.c
 * scratch  what `band` rows of output read of one channel, padded:
 *          ((band - 1) * stride_h + span_h) * ((out_w - 1) * stride_w + span_w) bytes,
 *          span = (kernel - 1) * dilation + 1
 * out      int8[out_h][out_w][c_out] in [act_min, act_max]
 * Same bytes as TFLM's reference_integer_ops::DepthwiseConvPerChannel.
 *
 * One channel at a time, a band of rows at a time: its image rows are gathered into scratch, padded
 * with in_zp, then the outputs are formed. With multiplier 1, out may be in: channel c writes
 * nothing but bytes of channel c, and ndtool proved that each band ends before the first image row
 * that a later band gathers.
 */
#include "nd_depthwise_s8.h"
#include "nd_requant.h"

/* One output channel. */
typedef struct {
    const int8_t *w;
    int32_t bias;
    int32_t mult;
    int32_t shift;
} nd_depthwise_channel;

static inline int8_t
nd_depthwise_out(const nd_depthwise_shape *shape, const nd_depthwise_channel *channel, int32_t acc)
{
    const int32_t out = shape->out_zp + nd_requant(acc, channel->mult, channel->shift);
    return (int8_t)nd_clamp(out, shape->act_min, shape->act_max);
}

/* Rows y .. y + rows - 1 of the channel that begins at in[0], padded: `width` columns from column
 * -pad_left on.
 */
static void nd_depthwise_gather(const nd_depthwise_shape *shape,
                                const int8_t *in,
                                int32_t y,
                                int32_t rows,
                                int32_t width,
                                int8_t *ND_RESTRICT scratch)
{
    const int32_t c_in = shape->c_in;
    const int32_t left = nd_clamp(shape->pad_left, 0, width);
    const int32_t end = nd_clamp(shape->pad_left + shape->in_w, 0, width);
    memset(scratch, shape->in_zp, (size_t)(rows * width));
    for (int32_t i = 0; i < rows; ++i) {
        if ((y + i >= 0) && (y + i < shape->in_h)) {
            const int8_t *const from = in + (y + i) * shape->in_w * c_in;
            int8_t *const to = scratch + i * width;
            for (int32_t x = left; x < end; ++x) {
                to[x] = from[(x - left) * c_in];
            }
        }
    }
}

/* `rows` rows of output with a 3x3 kernel without dilation. */
static void nd_depthwise_3x3(const nd_depthwise_shape *shape,
                             const nd_depthwise_channel *channel,
                             int32_t rows,
                             int32_t width,
                             const int8_t *ND_RESTRICT image,
                             int8_t *ND_RESTRICT out)
{
    /* copies: for all the compiler knows, a store to out changes what the pointers point to */
    const nd_depthwise_shape s = *shape;
    const nd_depthwise_channel k = *channel;
    const int32_t step = s.c_in * s.multiplier;
    const int32_t w00 = k.w[0], w01 = k.w[1], w02 = k.w[2];
    const int32_t w10 = k.w[3], w11 = k.w[4], w12 = k.w[5];
    const int32_t w20 = k.w[6], w21 = k.w[7], w22 = k.w[8];
    for (int32_t y = 0; y < rows; ++y) {
        const int8_t *const row = image + y * s.stride_h * width;
        for (int32_t x = 0; x < s.out_w; ++x) {
            const int8_t *const r0 = row + x * s.stride_w;
            const int8_t *const r1 = r0 + width;
            const int8_t *const r2 = r1 + width;
            int32_t acc = k.bias + w00 * r0[0];
            acc += w01 * r0[1];
            acc += w02 * r0[2];
            acc += w10 * r1[0];
            acc += w11 * r1[1];
            acc += w12 * r1[2];
            acc += w20 * r2[0];
            acc += w21 * r2[1];
            acc += w22 * r2[2];
            out[(y * s.out_w + x) * step] = nd_depthwise_out(&s, &k, acc);
        }
    }
}

/* `rows` rows of output with any kernel. */
static void nd_depthwise_any(const nd_depthwise_shape *shape,
                             const nd_depthwise_channel *channel,
                             int32_t rows,
                             int32_t width,
                             const int8_t *ND_RESTRICT image,
                             int8_t *ND_RESTRICT out)
{
    const nd_depthwise_channel k = *channel;
    const int32_t step = shape->c_in * shape->multiplier;
    const int32_t kw = shape->kw;
    const int32_t dilation = shape->dilation_w;
    for (int32_t y = 0; y < rows; ++y) {
        for (int32_t x = 0; x < shape->out_w; ++x) {
            const int8_t *w = k.w;
            int32_t acc = k.bias;
            for (int32_t i = 0; i < shape->kh; ++i) {
                const int32_t at =
                    (y * shape->stride_h + i * shape->dilation_h) * width + x * shape->stride_w;
                for (int32_t j = 0; j < kw; ++j) {
                    acc += w[j] * image[at + j * dilation];
                }
                w += kw;
            }
            out[(y * shape->out_w + x) * step] = nd_depthwise_out(shape, &k, acc);
        }
    }
}

ND_HOT void nd_depthwise_s8(const nd_depthwise_shape *shape,
                            const int8_t *in,
                            const int8_t *ND_RESTRICT w,
                            const int32_t *ND_RESTRICT bias,
                            const int32_t *ND_RESTRICT mult,
                            const int8_t *ND_RESTRICT shift,
                            int8_t *ND_RESTRICT scratch,
                            int8_t *out)
{
    const int32_t span_h = (shape->kh - 1) * shape->dilation_h + 1;
    const int32_t span_w = (shape->kw - 1) * shape->dilation_w + 1;
    const int32_t width = (shape->out_w - 1) * shape->stride_w + span_w;
    const int32_t row_bytes = shape->out_w * shape->c_in * shape->multiplier;
    const int is_3x3 = (shape->kh == 3) && (shape->kw == 3) && (span_h == 3) && (span_w == 3);
    const int32_t band_step = shape->band * shape->stride_h;
    for (int32_t c = 0; c < shape->c_in; ++c) {
        int32_t kept = 0; /* rows at the top of scratch that the band before had gathered */
        for (int32_t y = 0; y < shape->out_h; y += shape->band) {
            const int32_t rows = (shape->out_h - y < shape->band) ? shape->out_h - y : shape->band;
            const int32_t needed = (rows - 1) * shape->stride_h + span_h;
            const int32_t top = y * shape->stride_h - shape->pad_top + kept;
            nd_depthwise_gather(shape, in + c, top, needed - kept, width, scratch + kept * width);
            for (int32_t m = 0; m < shape->multiplier; ++m) {
                const int32_t o = c * shape->multiplier + m;
                const nd_depthwise_channel channel = {w + o * shape->kh * shape->kw, bias[o],
                                                      mult[o], shift[o]};
                if (is_3x3) {
                    nd_depthwise_3x3(shape, &channel, rows, width, scratch,
                                     out + y * row_bytes + o);
                } else {
                    nd_depthwise_any(shape, &channel, rows, width, scratch,
                                     out + y * row_bytes + o);
                }
            }
            kept = (needed > band_step) ? needed - band_step : 0;
            for (int32_t i = 0; i < kept; ++i) { /* row by row: both places may overlap */
                memcpy(scratch + i * width, scratch + (i + band_step) * width, (size_t)width);
            }
        }
    }
}
