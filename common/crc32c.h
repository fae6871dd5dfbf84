/* SPDX-License-Identifier: Apache-2.0
 *
 * CRC32C (Castagnoli; RFC 3720, appendix B.4): what blocks, headers and messages are checked with. By isa-l, 60 GB/s
 * a core here.
 */
#pragma once

#include <isa-l.h>
#include <stddef.h>
#include <stdint.h>

/* Continues `crc`, 0 to start: crc32c(crc32c(0, a), b) is the CRC of a followed by b. "123456789" gives 0xe3069283. */
static inline uint32_t crc32c(uint32_t crc, const void *data, size_t len_bytes)
{
    return ~crc32_iscsi((unsigned char *)data, (int)len_bytes, ~crc);
}

#define CRC32C_BLOCK_BYTES 4096u

/* Continues `crc` by `count` blocks of CRC32C_BLOCK_BYTES, of which only the CRCs are known: one lies every `stride` bytes
 * from `block_crcs` on. So what has been read for its blocks' CRCs need not be read again for its own. */
uint32_t crc32c_add_blocks(uint32_t crc, const uint32_t *block_crcs, size_t count, size_t stride);
