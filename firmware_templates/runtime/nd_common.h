/* SPDX-License-Identifier: Apache-2.0
 * nd_common.h - what all kernels share: C99, also valid C++11; no libc but memcpy and memset.
 *
 * Conventions of every kernel
 *   - images are NHWC with N = 1, bytes in rows from the top, channels innermost
 *   - sizes and indices are int32_t; a shape is one const struct of int32_t, the rest pointers
 *   - what a comment calls proved was proved by ndtool for its tables: kernels check nothing
 *   - pointers marked ND_RESTRICT never overlap; where others may, the comment says how
 */
#ifndef ND_COMMON_H
#define ND_COMMON_H

#include <limits.h>
#include <stdint.h>
/* A freestanding compiler may have no string.h. */
#if defined(__STDC_HOSTED__) && (__STDC_HOSTED__ == 0)
#include <stddef.h>
#ifdef __cplusplus
extern "C" {
#endif
void *memcpy(void *to, const void *from, size_t n);
void *memset(void *to, int value, size_t n);
#ifdef __cplusplus
}
#endif
#else
#include <string.h>
#endif

/* Placed before each kernel, such as __attribute__((section(".itcm"))); empty by default. */
#ifndef ND_HOT
#define ND_HOT
#endif

#if defined(__cplusplus)
#define ND_RESTRICT
#else
#define ND_RESTRICT restrict
#endif

#if defined(__cplusplus)
#define ND_ASSERT(name, condition) static_assert(condition, #name)
#elif defined(__STDC_VERSION__) && (__STDC_VERSION__ >= 201112L)
#define ND_ASSERT(name, condition) _Static_assert(condition, #name)
#else
#define ND_ASSERT(name, condition) typedef char nd_assert_##name[(condition) ? 1 : -1]
#endif

ND_ASSERT(a_byte_has_8_bits, CHAR_BIT == 8);
ND_ASSERT(an_int_has_32_bits, sizeof(int) >= 4);
ND_ASSERT(right_shift_is_arithmetic, (-1 >> 1) == -1);

static inline int32_t nd_clamp(int32_t value, int32_t low, int32_t high)
{
    if (value < low) {
        return low;
    }
    return (value > high) ? high : value;
}

#endif
