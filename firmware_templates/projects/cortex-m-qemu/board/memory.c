/* SPDX-License-Identifier: Apache-2.0
 * memory.c - the two functions of libc that the model needs, so that no libc is linked.
 *
 * By words where both sides are aligned alike. Built with -fno-builtin and without loop
 * recognition: the compiler would otherwise turn these loops into calls of themselves.
 */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* May stand for objects of any type, as char may. */
typedef uint32_t __attribute__((may_alias)) word;

void *memcpy(void *restrict to, const void *restrict from, size_t bytes)
{
    uint8_t *out = (uint8_t *)to;
    const uint8_t *in = (const uint8_t *)from;
    if ((((uintptr_t)out ^ (uintptr_t)in) & 3U) == 0U) {
        while (bytes > 0U && ((uintptr_t)out & 3U) != 0U) {
            *out++ = *in++;
            --bytes;
        }
        word *out_word = (word *)(void *)out;
        const word *in_word = (const word *)(const void *)in;
        for (; bytes >= 4U; bytes -= 4U) {
            *out_word++ = *in_word++;
        }
        out = (uint8_t *)out_word;
        in = (const uint8_t *)in_word;
    }
    while (bytes > 0U) {
        *out++ = *in++;
        --bytes;
    }
    return to;
}

void *memset(void *to, int value, size_t bytes)
{
    uint8_t *out = (uint8_t *)to;
    while (bytes > 0U && ((uintptr_t)out & 3U) != 0U) {
        *out++ = (uint8_t)value;
        --bytes;
    }
    const uint32_t all_four = (uint32_t)(uint8_t)value * 0x01010101U;
    word *out_word = (word *)(void *)out;
    for (; bytes >= 4U; bytes -= 4U) {
        *out_word++ = all_four;
    }
    out = (uint8_t *)out_word;
    while (bytes > 0U) {
        *out++ = (uint8_t)value;
        --bytes;
    }
    return to;
}
