/* SPDX-License-Identifier: Apache-2.0
 * semihost.h - text, files and the exit code of the machine that runs QEMU (or a debugger).
 *
 * Arm's semihosting: a breakpoint that the host answers. Without a host it ends in a fault.
 */
#ifndef SEMIHOST_H
#define SEMIHOST_H

#include <stddef.h>
#include <stdint.h>

typedef enum { HOST_READ = 1, HOST_WRITE = 5 } host_mode; /* fopen's "rb" and "wb" */

void host_print(const char *text);
void host_print_number(uint32_t value);
void host_print_hex(uint32_t value);

/* Ends QEMU; its exit status is code modulo 256. */
__attribute__((noreturn)) void host_exit(int code);

/* A handle, or -1; path is relative to the folder QEMU was started in. */
int host_open(const char *path, host_mode mode);

/* Bytes read or written: fewer than asked at the end of the file and on an error. */
size_t host_read(int file, void *buffer, size_t bytes);
size_t host_write(int file, const void *buffer, size_t bytes);

/* 0, or -1 when what was written could not be kept. */
int host_close(int file);

#endif
