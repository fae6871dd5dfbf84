/* SPDX-License-Identifier: Apache-2.0
 *
 * A table entry: the first byte says whether the CRC is put right first, then the entry (of slot 3).
 * What decodes is sane and decodes to the same when encoded again.
 */
#include "fuzz.h"

#include <errno.h>
#include <string.h>

#include "blockd/disk/slab.h"
#include "blockd/disk/table.h"
#include "common/bytes.h"
#include "common/check.h"
#include "common/crc32c.h"

#define UNITS 4096

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len_bytes)
{
    /* No hash is needed: only the codec's fields are set. */
    struct table_slot slots[8] = {0};
    struct table table = {.slots = slots, .entry_count = 8, .crc_seed = 77};
    uint8_t entry[TABLE_ENTRY_BYTES] = {0}, boot[16], boot_again[16];
    if (len_bytes == 0)
        return 0;
    memcpy(entry, data + 1, len_bytes - 1 < sizeof(entry) ? len_bytes - 1 : sizeof(entry));
    if (data[0] & 1)
        put_le32(entry, crc32c(table.crc_seed, entry + 4, sizeof(entry) - 4));
    int r = table_entry_decode(&table, 3, entry, UNITS, &slots[3], boot);
    CHECK(r == 0 || r == -EBADMSG);
    if (r < 0 && table_entry_repair(&table, 3, entry, UNITS, &slots[3], boot) < 0)
        return 0;
    const struct table_slot *slot = &slots[3];
    CHECK(slot->state <= TABLE_LOST && (slot->flags & ~TABLE_FLAGS_ON_DISK) == 0);
    if (slot->state == TABLE_OPEN || slot->state == TABLE_SEALED) {
        CHECK(slot->first_unit + slot->unit_count <= UNITS && slot->unit_count > 0);
        CHECK(slot->length_blocks + shard_trailer_blocks(slot->kind, slot->length_blocks) <=
              slot->unit_count * SLAB_UNIT_BLOCKS);
    }
    struct table_slot again;
    table_entry_encode(&table, 3, boot, entry);
    CHECK(table_entry_decode(&table, 3, entry, UNITS, &again, boot_again) == 0);
    if (slot->state != TABLE_FREE && slot->state != TABLE_LOST)
        CHECK(memcmp(slot, &again, sizeof(again)) == 0 && memcmp(boot, boot_again, 16) == 0);
    return 0;
}
