/* SPDX-License-Identifier: Apache-2.0
 * insncount.c - QEMU plugin: how often each instruction is executed between two addresses.
 *
 *   -plugin insncount.so,begin=HEX,end=HEX,skip=N,out=FILE
 *
 * Counting starts with the instruction at `begin` (which counts) and stops at `end` (which does
 * not), in one vCPU; the first `skip` times are not counted, the others add up. `out` gets a first
 * line `entries N`, then `ADDRESS COUNT` for each instruction that was executed, ascending.
 *
 * What it counts: instructions that the core issues. One that IT or MVE predication skips counts 1,
 * an MVE instruction counts 1 whatever its beats, LDM and STM count 1. Not for use with -icount.
 */
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "qemu_plugin_api.h"

#define MAX_ADDRESSES (1U << 18) /* distinct instructions of a firmware; a power of two */

typedef struct {
    uint64_t address;
    uint64_t count;
    bool used;
} instruction;

ND_EXPORT int qemu_plugin_version = ND_QEMU_PLUGIN_VERSION;

static instruction table[MAX_ADDRESSES]; /* by hash of the address, open addressing */
static uint64_t begin_address;
static uint64_t end_address;
static uint64_t skip;
static uint64_t seen; /* times that `begin` was reached */
static bool counting;
static char *out_path;

static instruction *find(uint64_t address)
{
    size_t i = (size_t)((address >> 1) * UINT64_C(0x9E3779B97F4A7C15) >> 40);
    for (size_t tries = 0; tries < MAX_ADDRESSES; ++tries, ++i) {
        instruction *entry = &table[i & (MAX_ADDRESSES - 1U)];
        if (!entry->used) {
            entry->used = true;
            entry->address = address;
        }
        if (entry->address == address) {
            return entry;
        }
    }
    fprintf(stderr, "insncount: more than %u instructions\n", MAX_ADDRESSES);
    exit(1);
}

static void on_begin(unsigned int cpu, void *userdata)
{
    (void)cpu;
    (void)userdata;
    counting = seen >= skip;
    ++seen;
}

static void on_end(unsigned int cpu, void *userdata)
{
    (void)cpu;
    (void)userdata;
    counting = false;
}

static void on_execute(unsigned int cpu, void *userdata)
{
    (void)cpu;
    if (counting) {
        ++((instruction *)userdata)->count;
    }
}

/* Callbacks of one instruction run in the order in which they were registered. */
static void on_translate(qemu_plugin_id_t id, struct qemu_plugin_tb *tb)
{
    (void)id;
    const size_t count = qemu_plugin_tb_n_insns(tb);
    for (size_t i = 0; i < count; ++i) {
        struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(tb, i);
        const uint64_t address = qemu_plugin_insn_vaddr(insn);
        if (address == begin_address) {
            qemu_plugin_register_vcpu_insn_exec_cb(insn, on_begin, QEMU_PLUGIN_CB_NO_REGS, NULL);
        }
        if (address == end_address) {
            qemu_plugin_register_vcpu_insn_exec_cb(insn, on_end, QEMU_PLUGIN_CB_NO_REGS, NULL);
        }
        qemu_plugin_register_vcpu_insn_exec_cb(insn, on_execute, QEMU_PLUGIN_CB_NO_REGS,
                                               find(address));
    }
}

static int by_address(const void *a, const void *b)
{
    const uint64_t x = ((const instruction *)a)->address;
    const uint64_t y = ((const instruction *)b)->address;
    return (x > y) - (x < y);
}

static void write_counts(qemu_plugin_id_t id, void *userdata)
{
    (void)id;
    (void)userdata;
    FILE *out = fopen(out_path, "w");
    if (out == NULL) {
        perror(out_path);
        return;
    }
    qsort(table, MAX_ADDRESSES, sizeof table[0], by_address);
    fprintf(out, "entries %" PRIu64 "\n", (seen > skip) ? seen - skip : 0);
    for (size_t i = 0; i < MAX_ADDRESSES; ++i) {
        if (table[i].count > 0) {
            fprintf(out, "%" PRIx64 " %" PRIu64 "\n", table[i].address, table[i].count);
        }
    }
    if (fclose(out) != 0) {
        perror(out_path);
    }
}

ND_EXPORT int
qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info, int argc, char **argv)
{
    (void)info;
    for (int i = 0; i < argc; ++i) {
        if (strncmp(argv[i], "begin=", 6) == 0) {
            begin_address = strtoull(argv[i] + 6, NULL, 16);
        } else if (strncmp(argv[i], "end=", 4) == 0) {
            end_address = strtoull(argv[i] + 4, NULL, 16);
        } else if (strncmp(argv[i], "skip=", 5) == 0) {
            skip = strtoull(argv[i] + 5, NULL, 10);
        } else if (strncmp(argv[i], "out=", 4) == 0) {
            out_path = strdup(argv[i] + 4);
        } else {
            fprintf(stderr, "insncount: unknown argument %s\n", argv[i]);
            return -1;
        }
    }
    if (out_path == NULL) {
        fprintf(stderr, "insncount: out=FILE is missing\n");
        return -1;
    }
    qemu_plugin_register_vcpu_tb_trans_cb(id, on_translate);
    qemu_plugin_register_atexit_cb(id, write_counts, NULL);
    return 0;
}
