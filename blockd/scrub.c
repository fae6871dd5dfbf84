/* SPDX-License-Identifier: Apache-2.0
 *
 * One fiber: waits for the next pass, goes over the disks by number and over each one's shards, and
 * sleeps after each shard for as long as its bytes take at the set rate.
 */
#include "blockd/scrub.h"

#include <errno.h>
#include <string.h>

#include "common/check.h"
#include "common/env.h"
#include "common/log.h"
#include "common/mem.h"

#define SECOND_NS 1000000000ull
#define LOOK_NS (SECOND_NS / 10)
/* Where the rate is 0, a pass that was asked for is not paced by it. */
#define RATE_BYTES_DEFAULT (64ull << 20)

struct scrub {
    struct disks *disks;
    struct scrub_options options;
    struct scrub_status status;
    struct fiber_queue wake;
    bool wanted, stopping, ended;
};

/* A disk that is on its way out is let go of soon: its removal waits for us. */
static bool goes_on(const struct scrub *scrub, const struct disks_entry *entry)
{
    return !scrub->stopping && entry->state != DISK_FAILED && entry->state != DISK_MISSING &&
           !entry->leaving;
}

static void pause_ns(struct scrub *scrub, const struct disks_entry *entry, uint64_t duration_ns)
{
    uint64_t deadline_ns = env_now_ns() + duration_ns;
    while (goes_on(scrub, entry) && env_now_ns() < deadline_ns)
        (void)fiber_queue_wait_until(&scrub->wake, MIN(deadline_ns, env_now_ns() + LOOK_NS));
}

static void scrub_shard(
    struct scrub *scrub, const struct disks_entry *entry, const struct shard_info *shard)
{
    uint64_t bytes = 0;
    int r = local_disk_scrub_shard(entry->disk, shard->key, &bytes);
    if (r == -EBADMSG)
        scrub->status.damaged_shards++;
    scrub->status.shards++;
    scrub->status.bytes += bytes;
    uint64_t rate = scrub->options.rate_bytes ? scrub->options.rate_bytes : RATE_BYTES_DEFAULT;
    pause_ns(scrub, entry, (uint64_t)((unsigned __int128)bytes * SECOND_NS / rate));
}

static void scrub_disk(struct scrub *scrub, struct disks_entry *entry)
{
    struct shard_info *shards;
    unsigned count;
    if (!entry->disk || entry->state == DISK_FAILED || entry->state == DISK_MISSING ||
        shard_list(entry->disk, 0, &shards, &count) < 0)
        return;
    scrub->status.disk = entry->record.number;
    /* Shards made meanwhile are new, those deleted answer -ENOENT. */
    for (unsigned i = 0; i < count && goes_on(scrub, entry); i++)
        if (!shards[i].tombstone)
            scrub_shard(scrub, entry, &shards[i]);
    mem_free(shards);
}

static void pass(struct scrub *scrub)
{
    uint64_t passes = scrub->status.passes;
    scrub->status = (struct scrub_status){.running = true, .passes = passes};
    struct disks_entry *entry;
    for (uint32_t number = 0; (entry = disks_hold_next(scrub->disks, number));) {
        number = entry->record.number;
        scrub_disk(scrub, entry);
        disks_release(entry);
        if (scrub->stopping)
            break;
    }
    scrub->status.running = false;
    scrub->status.passes += !scrub->stopping;
    if (!scrub->stopping && scrub->status.damaged_shards > 0)
        log_warn("scrub: %llu of %llu shards are damaged; they are repaired from the code",
            (unsigned long long)scrub->status.damaged_shards,
            (unsigned long long)scrub->status.shards);
}

static void run(void *arg)
{
    struct scrub *scrub = arg;
    uint64_t next_ns = env_now_ns() + scrub->options.first_delay_ns;
    while (!scrub->stopping) {
        uint64_t deadline_ns = scrub->options.rate_bytes ? next_ns : UINT64_MAX;
        if (!scrub->wanted && fiber_queue_wait_until(&scrub->wake, deadline_ns) == 0)
            continue;
        scrub->wanted = false;
        next_ns = env_now_ns() + scrub->options.interval_ns;
        pass(scrub);
    }
    scrub->ended = true;
    fiber_queue_wake_all(&scrub->wake);
}

struct scrub *scrub_start(struct disks *disks, const struct scrub_options *options)
{
    struct scrub *scrub = NEW(struct scrub);
    scrub->disks = disks;
    scrub->options = *options;
    fiber_queue_init(&scrub->wake);
    fiber_spawn("scrub", run, scrub);
    return scrub;
}

void scrub_now(struct scrub *scrub)
{
    if (scrub->status.running)
        return;
    scrub->wanted = true;
    fiber_queue_wake_all(&scrub->wake);
}

void scrub_get_status(const struct scrub *scrub, struct scrub_status *ret_status)
{
    *ret_status = scrub->status;
}

void scrub_stop(struct scrub *scrub)
{
    scrub->stopping = true;
    fiber_queue_wake_all(&scrub->wake);
    while (!scrub->ended)
        fiber_queue_wait(&scrub->wake);
    mem_free(scrub);
}
