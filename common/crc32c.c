/* SPDX-License-Identifier: Apache-2.0
 *
 * What 4096 further bytes do to a CRC, whatever they are, is a linear map of its 32 bits: a table for each of its
 * bytes. They are made with the CRC itself: appending zeros to something of CRC c gives map(c) ^ crc(zeros).
 */
#include "common/crc32c.h"

#include <pthread.h>

static uint32_t shifted[4][256];
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void make_tables(void)
{
    static const uint8_t zeros[CRC32C_BLOCK_BYTES];
    const uint32_t crc_of_zeros = crc32c(0, zeros, sizeof(zeros));
    for (unsigned byte = 0; byte < 4; byte++)
        for (uint32_t i = 0; i < 256; i++)
            shifted[byte][i] = crc32c(i << 8 * byte, zeros, sizeof(zeros)) ^ crc_of_zeros;
}

uint32_t crc32c_add_blocks(uint32_t crc, const uint32_t *block_crcs, size_t count, size_t stride)
{
    const uint8_t *at = (const uint8_t *)block_crcs;
    pthread_once(&once, make_tables);
    for (size_t i = 0; i < count; i++, at += stride)
        crc = shifted[0][crc & 255] ^ shifted[1][crc >> 8 & 255] ^ shifted[2][crc >> 16 & 255] ^
              shifted[3][crc >> 24] ^ *(const uint32_t *)at;
    return crc;
}
