/* SPDX-License-Identifier: Apache-2.0
 *
 * What a create without an answer may have left on a disk. Nothing names it, and reconciliation (Q4)
 * looks at earlier epochs only: until the next open it would take up a log's space for nothing.
 * A remove that names the instance (S9) is safe whenever it comes; one that finds nothing settles
 * it too: the connection that the create went over is over when a later one is answered.
 */
#include <errno.h>
#include <string.h>

#include "blockd/volume/volume_impl.h"

static bool unanswered(int r)
{
    return r == -EHOSTUNREACH || r == -EIO;
}

void leftover_note(
    struct volume *v, const struct disk *disk, struct shard_key key, uint64_t instance)
{
    if (!disk || disk->number == 0 || disk->state == DISK_FAILED)
        return;
    if (v->leftover_count == LEFTOVERS_MAX) /* reconciliation of the next epoch finds it */
        memmove(v->leftovers, v->leftovers + 1, --v->leftover_count * sizeof(v->leftovers[0]));
    v->leftovers[v->leftover_count++] =
        (struct leftover){.disk = disk->number, .key = key, .instance = instance};
    fiber_queue_wake_all(&v->repair_wake);
}

void leftover_remove(struct volume *v, struct disk *disk, struct shard_key key, uint64_t instance)
{
    int r = disk_usable(disk) ? shard_remove(disk, key, instance, v->root.epoch) : -EHOSTUNREACH;
    if (unanswered(r))
        leftover_note(v, disk, key, instance);
}

void leftovers_clear(struct volume *v)
{
    for (unsigned n = v->leftover_count; n > 0 && !v->halted && !v->stopping; n--) {
        if (v->leftover_count == 0)
            break;
        struct leftover it = v->leftovers[0];
        memmove(v->leftovers, v->leftovers + 1, --v->leftover_count * sizeof(v->leftovers[0]));
        struct disk *disk = volume_disk(v, it.disk);
        if (disk)
            leftover_remove(v, disk, it.key, it.instance);
    }
}
