/* SPDX-License-Identifier: Apache-2.0
 *
 * What all files of a volume share: the budget, halting, the background fibers, information.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "blockd/volume/volume_impl.h"
#include "common/check.h"
#include "common/log.h"
#include "common/mem.h"

#define PRESSURE_NS 50000000ull
#define REPLAY_WAIT_NS 60000000000ull

void memory_budget_init(struct memory_budget *budget, uint64_t blocks_bytes, uint64_t io_bytes)
{
    budget->blocks = bufpool_new(blocks_bytes);
    budget->io = bufpool_new(io_bytes);
    budget->delta_bytes_max = 0;
    fiber_queue_init(&budget->waiters);
    list_init(&budget->volumes);
    open_memory_init(&budget->opens);
    fiber_mutex_init(&budget->cleaning);
    fiber_queue_init(&budget->reclaim_waiters);
}

void memory_budget_fini(struct memory_budget *budget)
{
    CHECK(list_empty(&budget->volumes) && budget->opens.blocks == 0 && budget->opens.readers == 0);
    bufpool_free(budget->blocks);
    bufpool_free(budget->io);
}

struct disk *volume_host_disk(const struct volume_host *host, uint32_t number)
{
    return disk_list_find(host->disks, number);
}

uint64_t volume_host_session(const struct volume_host *host)
{
    return host->lease.id ? host->lease.id(host->lease.ctx) : host->session;
}

bool volume_host_lease_valid(const struct volume_host *host)
{
    return !host->lease.id || env_boottime_ns() < host->lease.valid_until_ns(host->lease.ctx);
}

struct disk *volume_disk(const struct volume *volume, uint32_t number)
{
    return volume_host_disk(volume->host, number);
}

bool disk_usable(const struct disk *disk)
{
    return disk && (disk->state == DISK_IN || disk->state == DISK_OUT);
}

uint64_t volume_new_chunk_id(struct volume *volume)
{
    return (uint64_t)volume->root.epoch << 32 | ++volume->chunk_counter;
}

void volume_stop(struct volume *volume, int error)
{
    volume->halted = error;
    volume->closed_to_io = true;
    /* Everybody who waits looks at `halted`. */
    list_for_each (it, &volume->commit_queue) {
        struct commit *commit = list_entry(it, struct commit, link);
        if (commit->waiter)
            fiber_wake(commit->waiter);
    }
    struct fiber_queue *queues[] = {&volume->ack_waiters, &volume->committer_wake,
        &volume->syncer_wake, &volume->sync_waiters, &volume->provisioner_wake,
        &volume->space_waiters, &volume->destager_wake, &volume->destaged, &volume->checkpoint_wake,
        &volume->checkpoint_waiters, &volume->repair_wake, &volume->bypass_turn,
        &volume->host->budget->waiters, &volume->host->budget->reclaim_waiters};
    for (unsigned i = 0; i < ARRAY_SIZE(queues); i++)
        fiber_queue_wake_all(queues[i]);
}

void volume_halt(struct volume *volume, int error, const char *format, ...)
{
    if (volume->halted)
        return;
    va_list args;
    va_start(args, format);
    vsnprintf(volume->problem, sizeof(volume->problem), format, args);
    va_end(args);
    log_error("volume %s: halted: %s", volume->root.name, volume->problem);
    volume_stop(volume, error);
}

void volume_deposed(struct volume *volume)
{
    volume_halt(volume, -ESTALE, "another node has taken the volume over (epoch %u is over)",
        volume->root.epoch);
}

/* --- Buffers ----------------------------------------------------------------------------------- */

void volume_put_block(struct volume *volume, void *block)
{
    bufpool_put(volume->host->budget->blocks, block);
    fiber_queue_wake_one(&volume->host->budget->waiters);
}

void volume_put_blocks(struct volume *volume, void *const *blocks, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        bufpool_put(volume->host->budget->blocks, blocks[i]);
    fiber_queue_wake_all(&volume->host->budget->waiters);
}

/* Largest first: asks the volume that holds most to destage what it has. One that has been asked
 * and is
 * not done may be stuck (no disks to write to): the others are asked then. */
void budget_pressure(struct memory_budget *budget)
{
    struct volume *largest = NULL;
    list_for_each (it, &budget->volumes) {
        struct volume *v = list_entry(it, struct volume, budget_link);
        if (v->halted || !v->serving || v->destage_all || memtable_bytes(&v->memtable) == 0)
            continue;
        if (!largest || memtable_bytes(&v->memtable) > memtable_bytes(&largest->memtable))
            largest = v;
    }
    if (largest) {
        largest->destage_all = true;
        fiber_queue_wake_all(&largest->destager_wake);
    }
}

int volume_get_blocks(
    struct volume *volume, unsigned count, const bool *given_up, void **ret_blocks)
{
    struct memory_budget *budget = volume->host->budget;
    uint64_t until_ns = 0;
    for (;;) {
        unsigned n = 0;
        while (n < count && (ret_blocks[n] = bufpool_get(budget->blocks)))
            n++;
        if (n == count)
            return 0;
        while (n > 0)
            bufpool_put(budget->blocks, ret_blocks[--n]);
        if (volume->halted)
            return -ESHUTDOWN;
        if (given_up && *given_up)
            return -ECANCELED;
        if (until_ns == 0)
            until_ns = env_now_ns() + REPLAY_WAIT_NS;
        if (volume->replaying && env_now_ns() >= until_ns)
            return -EAGAIN;
        budget_pressure(budget);
        /* Again after a while: whoever was asked may not be able to. */
        fiber_queue_wait_until(&budget->waiters, env_now_ns() + PRESSURE_NS);
    }
}

/* --- Shard operations in groups ------------------------------------------------------------------ */

static void group_append_done(struct shard_append *append)
{
    fiber_group_done(container_of(append, struct group_append, append)->group, append->result);
}

void group_append_submit(struct group_append *append, struct fiber_group *group)
{
    append->group = group;
    append->append.done = group_append_done;
    fiber_group_add(group, 1);
    shard_append_submit(&append->append);
}

static void group_sync_done(struct shard_sync *sync)
{
    fiber_group_done(container_of(sync, struct group_sync, sync)->group, sync->result);
}

void group_sync_submit(struct group_sync *sync, struct fiber_group *group)
{
    sync->group = group;
    sync->sync.done = group_sync_done;
    fiber_group_add(group, 1);
    shard_sync_submit(&sync->sync);
}

/* --- Information ------------------------------------------------------------------------------- */

uint64_t volume_id(const struct volume *volume)
{
    return volume->root.id;
}

uint32_t volume_epoch(const struct volume *volume)
{
    return volume->root.epoch;
}

const char *volume_name(const struct volume *volume)
{
    return volume->root.name;
}

const char *volume_pool_name(const struct volume *volume)
{
    return volume->root.pool;
}

uint64_t volume_size_bytes(const struct volume *volume)
{
    return volume->state.size_bytes;
}

const struct volume_stats *volume_stats(const struct volume *volume)
{
    return &volume->stats;
}

static void count_place(
    const struct volume *volume, const struct place *place, struct volume_info *info)
{
    unsigned bad = 0, shards = place_shards(place);
    for (unsigned i = 0; i < shards; i++) {
        const struct chunk_shard *shard = &place->shards[i];
        if (shard->state != CHUNK_SHARD_OK || !disk_usable(volume_disk(volume, shard->place.disk)))
            bad++;
    }
    uint32_t blocks =
        place->sealed ? place_length_blocks(place, place->row_count) : place->capacity_blocks;
    info->stored_bytes += (uint64_t)blocks * BLOCK_BYTES * (shards - bad);
    info->chunks++;
    info->chunks_degraded += bad > 0;
    info->chunks_lost += bad > place->code.m;
    info->chunks_crowded += place_crowded(volume, place) != 0;
}

/* What log and manifest lack. */
struct copies_health {
    bool log_lacks, manifest_lacks;
    bool crowded; /* copies of one of them share a failure domain */
};

static void look_at_copies(
    const struct volume *volume, struct volume_info *info, struct copies_health *ret)
{
    unsigned wanted = volume->pool.code.m + 1u;
    list_for_each (it, &volume->state.wals) {
        const struct wal *wal = list_entry(it, struct wal, link);
        info->stored_bytes += (uint64_t)wal->capacity_blocks * BLOCK_BYTES * wal->copies;
        /* One with nothing but what is in rows already only waits to be freed. */
        if (wal != volume->wal_open && wal->last_seq <= volume->state.committed_seq)
            continue;
        ret->log_lacks = ret->log_lacks || wal->copies < wanted;
        for (unsigned i = 0; i < wal->copies; i++)
            ret->log_lacks = ret->log_lacks || wal->shards[i].state != CHUNK_SHARD_OK;
        ret->crowded = ret->crowded || wal_domains(volume, wal) < wal->copies;
    }
    for (unsigned i = 0; i < volume->manifest.chain_count; i++) {
        const struct copies_ref *ref = &volume->manifest.chain[i];
        ret->manifest_lacks = ret->manifest_lacks || ref->count < wanted;
        ret->crowded = ret->crowded || copies_domains(volume, ref) < ref->count;
    }
}

/* Whether a place that is crowded could be spread, so that repair does it. */
static bool will_spread(const struct volume *volume)
{
    unsigned domains_up = data_domains_up(volume);
    uint32_t pos = 0;
    for (const struct place *p; (p = idmap_next(&volume->state.places, &pos));) {
        if (place_crowded(volume, p) && place_can_spread(volume, p, domains_up))
            return true;
    }
    return false;
}

static void describe_degraded(
    const struct volume *volume, struct volume_info *info, const struct copies_health *copies)
{
    static const char *const domains[] = {
        [DOMAIN_DISK] = "disk", [DOMAIN_NODE] = "node", [DOMAIN_RACK] = "rack"};
    const char *domain = domains[volume->pool.domain];
    size_t room = sizeof(info->problem), used = 0;
    if (info->chunks_degraded > 0 || copies->log_lacks || copies->manifest_lacks)
        used = (size_t)snprintf(info->problem, room, "%llu of %llu chunks lack shards%s%s%s",
            (unsigned long long)info->chunks_degraded, (unsigned long long)info->chunks,
            copies->log_lacks ? "; the log lacks a copy" : "",
            copies->manifest_lacks ? "; the manifest lacks a copy" : "",
            volume->repair_result < 0 ? "; repair waits for a healthy disk to rebuild to" : "");
    bool spreads = info->chunks_crowded > 0 && will_spread(volume);
    info->repair_is_idle = used == 0 && !copies->crowded && !spreads;
    if (info->chunks_crowded > 0)
        snprintf(info->problem + used, room - used,
            "%s%llu of %llu chunks have shards that share a %s, whose loss costs them all: %s",
            used ? "; " : "", (unsigned long long)info->chunks_crowded,
            (unsigned long long)info->chunks, domain,
            !spreads                           ? "there is no other one to move them to, add one"
            : volume->repair_result == -ENOSPC ? "the others have no room for them, add disks"
                                               : "repair moves them");
    else if (copies->crowded)
        snprintf(info->problem + used, room - used, "%scopies of the log or manifest share a %s",
            used ? "; " : "", domain);
}

void volume_get_info(const struct volume *volume, struct volume_info *ret_info)
{
    struct volume_info info = {.id = volume->root.id,
        .size_bytes = volume->state.size_bytes,
        .epoch = volume->root.epoch,
        .log_bytes = log_bytes(volume),
        .loss_epoch = volume->root.loss_epoch,
        .loss_time_s = volume->root.loss_time_s,
        .memtable_bytes = memtable_bytes(&volume->memtable)};
    snprintf(info.name, sizeof(info.name), "%s", volume->root.name);
    snprintf(info.pool, sizeof(info.pool), "%s", volume->root.pool);
    uint32_t pos = 0;
    for (const struct place *p; (p = idmap_next(&volume->state.places, &pos));)
        count_place(volume, p, &info);
    pos = 0;
    for (const struct lchunk *c; (c = idmap_next(&volume->state.chunks, &pos));) {
        if (c->place->kind == SHARD_DATA)
            info.allocated_bytes += (uint64_t)c->live * BLOCK_BYTES;
    }
    /* What is not merged yet is not in the live counts; new blocks and overwrites look alike there.
     * */
    info.allocated_bytes +=
        memtable_bytes(&volume->memtable) + volume->unmerged_blocks * BLOCK_BYTES;
    info.allocated_bytes = MIN(info.allocated_bytes, info.size_bytes);
    struct copies_health copies = {0};
    look_at_copies(volume, &info, &copies);
    info.health = "ok";
    if (volume->halted) {
        info.health = "halted";
        snprintf(info.problem, sizeof(info.problem), "%s", volume->problem);
    } else if (info.chunks_lost > 0 || volume->damaged_ranges) {
        info.health = "damaged";
        snprintf(info.problem, sizeof(info.problem),
            "%llu chunks have lost more shards than their code can rebuild; reads of them fail "
            "until "
            "their disks come back",
            (unsigned long long)info.chunks_lost);
    } else if (!volume->serving) {
        info.health = "degraded";
        snprintf(info.problem, sizeof(info.problem), "%s", volume->problem);
    } else if (info.chunks_degraded > 0 || info.chunks_crowded > 0 || copies.log_lacks ||
               copies.manifest_lacks || copies.crowded) {
        info.health = "degraded";
        describe_degraded(volume, &info, &copies);
    } else if (volume->problem[0]) {
        snprintf(info.problem, sizeof(info.problem), "%s", volume->problem);
    }
    *ret_info = info;
}

bool volume_halted(const struct volume *volume)
{
    return volume->halted;
}

bool volume_takes_io(const struct volume *volume)
{
    return !volume->halted && !volume->closed_to_io;
}

void volume_renamed(struct volume *volume, const char *name)
{
    snprintf(volume->root.name, sizeof(volume->root.name), "%s", name);
}

/* --- Background fibers ------------------------------------------------------------------------- */

struct fiber_start {
    struct volume *volume;
    void (*run)(void *arg);
};

static void fiber_main(void *arg)
{
    struct fiber_start start = *(struct fiber_start *)arg;
    mem_free(arg);
    start.run(start.volume);
    start.volume->fibers--;
    fiber_queue_wake_all(&start.volume->idle_waiters);
}

void volume_spawn(struct volume *volume, const char *name, void (*run)(void *arg))
{
    struct fiber_start *start = NEW(struct fiber_start);
    *start = (struct fiber_start){.volume = volume, .run = run};
    volume->fibers++;
    fiber_spawn(name, fiber_main, start);
}

void volume_start_fibers(struct volume *volume)
{
    volume_spawn(volume, "committer", log_committer);
    volume_spawn(volume, "syncer", log_syncer);
    volume_spawn(volume, "provisioner", provisioner);
    volume_spawn(volume, "destager", destager);
    volume_spawn(volume, "checkpointer", checkpointer);
    volume_spawn(volume, "repairer", repairer);
}
