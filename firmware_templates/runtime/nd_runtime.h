/* SPDX-License-Identifier: Apache-2.0
 * nd_runtime.h - what every model's API uses; shared by all models of a firmware.
 */
#ifndef ND_RUNTIME_H
#define ND_RUNTIME_H

#define ND_RUNTIME_VERSION 0x000100 /* 0xMMmmpp */

#ifdef __cplusplus
extern "C" {
#endif

typedef enum {
    ND_OK = 0,
    ND_ERR_NULL = -1,        /* a null pointer */
    ND_ERR_ARENA_SIZE = -2,  /* the arena is smaller than <PREFIX>_ARENA_BYTES */
    ND_ERR_ARENA_ALIGN = -3, /* the arena is not aligned to <PREFIX>_ARENA_ALIGN */
    ND_ERR_INDEX = -4,       /* no input or output of that number */
    ND_ERR_SELFTEST = -5     /* a golden vector came out differently */
} nd_status;

/* A few English words; never null. */
const char *nd_status_str(nd_status status);

#ifdef __cplusplus
}
#endif

#endif
