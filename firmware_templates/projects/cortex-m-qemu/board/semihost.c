/* SPDX-License-Identifier: Apache-2.0
 * semihost.c - see semihost.h; numbers and blocks: Arm, "Semihosting for AArch32 and AArch64".
 */
#include "semihost.h"

enum {
    SYS_OPEN = 0x01,
    SYS_CLOSE = 0x02,
    SYS_WRITE0 = 0x04,
    SYS_WRITE = 0x05,
    SYS_READ = 0x06,
    SYS_EXIT_EXTENDED = 0x20
};
#define APPLICATION_EXIT 0x20026U

__attribute__((noinline)) static intptr_t ask_host(intptr_t operation, const void *block)
{
    register intptr_t r0 __asm("r0") = operation;
    register const void *r1 __asm("r1") = block;
    __asm volatile("bkpt 0xAB" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}

void host_print(const char *text)
{
    (void)ask_host(SYS_WRITE0, text);
}

void host_print_number(uint32_t value)
{
    char text[11]; /* 4294967295 and the end */
    char *first = text + 10;
    *first = '\0';
    do {
        *--first = (char)('0' + (int)(value % 10U));
        value /= 10U;
    } while (value != 0U);
    host_print(first);
}

void host_print_hex(uint32_t value)
{
    char text[9];
    for (int i = 7; i >= 0; --i) {
        text[i] = "0123456789abcdef"[value & 15U];
        value >>= 4;
    }
    text[8] = '\0';
    host_print(text);
}

void host_exit(int code)
{
    /* SYS_EXIT cannot carry a code on a 32-bit core. */
    const uintptr_t block[2] = {APPLICATION_EXIT, (uintptr_t)code};
    (void)ask_host(SYS_EXIT_EXTENDED, block);
    for (;;) {
    }
}

int host_open(const char *path, host_mode mode)
{
    size_t length = 0;
    while (path[length] != '\0') {
        ++length;
    }
    const uintptr_t block[3] = {(uintptr_t)path, (uintptr_t)mode, length};
    return (int)ask_host(SYS_OPEN, block);
}

/* The host answers with the bytes that are left undone. */
static size_t done(intptr_t left, size_t bytes)
{
    return (left < 0 || (size_t)left > bytes) ? 0 : bytes - (size_t)left;
}

size_t host_read(int file, void *buffer, size_t bytes)
{
    const uintptr_t block[3] = {(uintptr_t)file, (uintptr_t)buffer, bytes};
    return done(ask_host(SYS_READ, block), bytes);
}

size_t host_write(int file, const void *buffer, size_t bytes)
{
    const uintptr_t block[3] = {(uintptr_t)file, (uintptr_t)buffer, bytes};
    return done(ask_host(SYS_WRITE, block), bytes);
}

int host_close(int file)
{
    const uintptr_t block[1] = {(uintptr_t)file};
    return (int)ask_host(SYS_CLOSE, block);
}
