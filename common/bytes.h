/* SPDX-License-Identifier: Apache-2.0
 *
 * Accessors for integers in on-disk and wire formats: little-endian everywhere except NBD, which is
 * big-endian (be*). Unaligned addresses are fine.
 */
#pragma once

#include <endian.h>
#include <stdint.h>
#include <string.h>

#define BYTES_DEFINE(bits)                                     \
    static inline uint##bits##_t get_le##bits(const void *p)   \
    {                                                          \
        uint##bits##_t v;                                      \
        memcpy(&v, p, sizeof(v));                              \
        return le##bits##toh(v);                               \
    }                                                          \
    static inline void put_le##bits(void *p, uint##bits##_t v) \
    {                                                          \
        v = htole##bits(v);                                    \
        memcpy(p, &v, sizeof(v));                              \
    }                                                          \
    static inline uint##bits##_t get_be##bits(const void *p)   \
    {                                                          \
        uint##bits##_t v;                                      \
        memcpy(&v, p, sizeof(v));                              \
        return be##bits##toh(v);                               \
    }                                                          \
    static inline void put_be##bits(void *p, uint##bits##_t v) \
    {                                                          \
        v = htobe##bits(v);                                    \
        memcpy(p, &v, sizeof(v));                              \
    }
BYTES_DEFINE(16)
BYTES_DEFINE(32)
BYTES_DEFINE(64)
#undef BYTES_DEFINE
