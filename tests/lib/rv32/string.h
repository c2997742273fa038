/* Debian's riscv64-unknown-elf-gcc has no libc; board/memory.c defines these. */
#include <stddef.h>
void *memcpy(void *restrict to, const void *restrict from, size_t bytes);
void *memset(void *to, int value, size_t bytes);
