/* SPDX-License-Identifier: Apache-2.0
 *
 * A superblock: the first byte says whether the CRC is put right first (so that what lies behind it
 * is reached), then the block. What decodes is sane and decodes to the same when encoded again.
 */
#include "fuzz.h"

#include <errno.h>
#include <string.h>

#include "blockd/disk/slab.h"
#include "blockd/disk/superblock.h"
#include "blockd/disk/table.h"
#include "common/bytes.h"
#include "common/check.h"
#include "common/crc32c.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len_bytes)
{
    uint8_t block[SUPERBLOCK_BYTES] = {0};
    if (len_bytes == 0)
        return 0;
    memcpy(block, data + 1, len_bytes - 1 < sizeof(block) ? len_bytes - 1 : sizeof(block));
    if (data[0] & 1) {
        put_le32(block + 12, 0);
        put_le32(block + 12, crc32c(0, block, sizeof(block)));
    }
    uint64_t off = data[0] & 2 ? 1 << 20 : 0;
    struct superblock super, again;
    int r = superblock_decode(block, off, &super);
    CHECK(r == 0 || r == -ENOENT || r == -EBADMSG || r == -EOPNOTSUPP);
    if (r != 0)
        return 0;
    CHECK(super.table_off_bytes + (uint64_t)super.table_entry_count * TABLE_ENTRY_BYTES <=
          super.slab_off_bytes);
    CHECK(super.slab_off_bytes + (uint64_t)super.slab_count * SLAB_BYTES < super.size_bytes);
    superblock_encode(&super, off, block);
    CHECK(superblock_decode(block, off, &again) == 0);
    CHECK(memcmp(&super, &again, sizeof(super)) == 0);
    return 0;
}
