/* SPDX-License-Identifier: Apache-2.0
 *
 * An append's header block: the first byte says whether the CRCs are put right first, then the block.
 * What parses stays inside the block and builds to a block that parses to the same.
 */
#include "fuzz.h"

#include <errno.h>
#include <string.h>

#include "blockd/disk/append_header.h"
#include "common/bytes.h"
#include "common/check.h"
#include "common/crc32c.h"

static void put_crcs_right(uint8_t *block)
{
    uint8_t marks[16];
    memcpy(marks, block + 112, 16);
    memset(block + 112, 0, 16);
    put_le32(block + 12, 0);
    uint32_t crc = crc32c(0, block, BLOCK_BYTES);
    memcpy(block + 112, marks, 12);
    put_le32(block + 12, crc);
    put_le32(block + 124, crc32c(crc, block + 112, 12));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len_bytes)
{
    uint8_t block[BLOCK_BYTES] = {0}, built[BLOCK_BYTES];
    if (len_bytes == 0)
        return 0;
    memcpy(block, data + 1, len_bytes - 1 < sizeof(block) ? len_bytes - 1 : sizeof(block));
    if (data[0] & 1)
        put_crcs_right(block);
    struct append_header header, again;
    int r = append_header_parse(block, &header);
    CHECK(r == 0 || r == -EBADMSG);
    if (r < 0)
        return 0;
    struct shard_entry entries[APPEND_ENTRIES_MAX];
    CHECK(header.entry_count <= APPEND_ENTRIES_MAX);
    for (unsigned i = 0; i < header.entry_count; i++)
        entries[i] = append_header_entry(block, i);
    const uint8_t *inline_bytes = append_header_inline(block, &header);
    CHECK(inline_bytes + header.inline_len_bytes <= block + BLOCK_BYTES);
    append_header_build(built, &header, entries, inline_bytes);
    CHECK(append_header_parse(built, &again) == 0);
    CHECK(again.nonce == header.nonce && again.entry_count == header.entry_count &&
          again.inline_len_bytes == header.inline_len_bytes && again.epoch == header.epoch &&
          again.completed_blocks == header.completed_blocks);
    return 0;
}
