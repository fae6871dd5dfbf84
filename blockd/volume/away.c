/* SPDX-License-Identifier: Apache-2.0
 *
 * How long recovery waits for disks that do not answer (docs/adr/0007-recovery-waits.md). It waits by
 * failing with -EHOSTUNREACH: who wants the volume tries again, here or on another node.
 *
 *  O5 A disk is waited for until it answers, is removed, has failed, or has been away for repair_wait_ns
 *     (Q5). Never longer where only writes that nobody flushed can be on it alone, and for ever
 *     where a flushed one may be.
 */
#include <errno.h>
#include <stdio.h>

#include "blockd/volume/volume_impl.h"
#include "common/check.h"
#include "common/env.h"

bool disk_may_come(const struct volume_host *host, uint32_t number)
{
    return volume_host_disk(host, number) ||
           (host->map.disk_expected && host->map.disk_expected(host->map.ctx, number));
}

static uint64_t away_since_ns(const struct volume_host *host, const struct disk *disk)
{
    if (!disk)
        return host->start_ns;
    return disk->state == DISK_MISSING ? disk->missing_since_ns : disk->unanswered_since_ns;
}

uint64_t disk_awaited_ns(const struct volume_host *host, uint32_t number)
{
    const struct disk *disk = volume_host_disk(host, number);
    if (disk ? disk->state == DISK_FAILED : !disk_may_come(host, number))
        return 0;
    uint64_t now_ns = env_now_ns(), since_ns = away_since_ns(host, disk);
    if (disk && since_ns == 0) /* just now */
        since_ns = now_ns;
    uint64_t away_ns = now_ns - MIN(now_ns, since_ns);
    return host->repair_wait_ns > away_ns ? host->repair_wait_ns - away_ns : 0;
}

/* Tries come every few seconds. After a longer pause nobody knows what was between. */
#define UNANSWERED_PAUSE_NS 60000000000ull

void disk_answered(struct disk *disk, int result)
{
    uint64_t now_ns = env_now_ns();
    if (result != -EHOSTUNREACH && result != -EIO)
        disk->unanswered_since_ns = 0;
    else if (disk->unanswered_since_ns == 0 ||
             now_ns - disk->unanswered_last_ns > UNANSWERED_PAUSE_NS)
        disk->unanswered_since_ns = now_ns;
    disk->unanswered_last_ns = now_ns;
}

void disk_describe(const struct volume_host *host, uint32_t number, char ret_text[DISK_TEXT_BYTES])
{
    const struct disk *disk = volume_host_disk(host, number);
    snprintf(ret_text, DISK_TEXT_BYTES, disk && disk->node[0] ? "disk %u of node '%s'" : "disk %u",
        number, disk ? disk->node : "");
}
