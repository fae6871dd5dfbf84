/* SPDX-License-Identifier: Apache-2.0
 *
 * A trailer block: the first byte says whether the CRC is put right first, then the block. What
 * parses stays inside the block and builds to a block that parses to the same.
 */
#include "fuzz.h"

#include <errno.h>
#include <string.h>

#include "blockd/disk/trailer.h"
#include "common/bytes.h"
#include "common/check.h"
#include "common/crc32c.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len_bytes)
{
    uint8_t block[BLOCK_BYTES] = {0}, built[BLOCK_BYTES];
    if (len_bytes == 0)
        return 0;
    memcpy(block, data + 1, len_bytes - 1 < sizeof(block) ? len_bytes - 1 : sizeof(block));
    if (data[0] & 1) {
        put_le32(block + 12, 0);
        put_le32(block + 12, crc32c(0, block, sizeof(block)));
    }
    struct trailer trailer, again;
    int r = trailer_parse(block, &trailer);
    CHECK(r == 0 || r == -EBADMSG);
    if (r < 0)
        return 0;
    struct shard_entry entries[TRAILER_ENTRIES];
    CHECK(trailer.entry_count > 0 && trailer.entry_count <= TRAILER_ENTRIES);
    for (unsigned i = 0; i < trailer.entry_count; i++)
        entries[i] = trailer_entry(block, i);
    trailer_build(built, &trailer, entries);
    CHECK(trailer_parse(built, &again) == 0 && trailer_matches(&again, &trailer));
    return 0;
}
