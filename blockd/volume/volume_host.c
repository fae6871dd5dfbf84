/* SPDX-License-Identifier: Apache-2.0 */
#include "blockd/disk/shard.h"
#include "blockd/volume/volume.h"

struct disk *volume_host_disk(const struct volume_host *host, uint32_t number)
{
    list_for_each (it, host->disks) {
        struct disk *disk = list_entry(it, struct disk, link);
        if (disk->number == number && number != 0)
            return disk;
    }
    return NULL;
}
