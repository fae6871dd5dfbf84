/* SPDX-License-Identifier: Apache-2.0
 *
 * Repair: shards that are lost or damaged are rebuilt from the others onto another disk, those
 * nearest to loss first.
 *
 * Invariants
 *  Q1 Only sealed places are repaired; an open one is retired and sealed first (S23).
 *  Q2 The new shard is complete, sealed and durable before the record that names it; the old one is
 *     removed after that record.
 *  Q3 Where no other disk can take the shard, a damaged (not lost) one is repaired by moving what
 *     is live in the
 *     place elsewhere (clean_place): redundancy never falls on the way.
 *  Q5 A disk that is missing is waited for (volume_host.repair_wait_ns) before what is on it is rebuilt:
 *     a node that restarts costs no rebuild. Only logs leave it at once; they are short.
 *  Q7 (crowded.c) shards that share a failure domain are moved apart, after all that are lost.
 */
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "blockd/cluster/placement.h"
#include "blockd/volume/volume_impl.h"
#include "common/check.h"
#include "common/env.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/planted.h"

#define RETRY_NS 5000000000ull
#define CANDIDATES_A_TURN 1024

void repair_kick(struct volume *v)
{
    v->repair_generation++;
    fiber_queue_wake_all(&v->repair_wake);
}

void volume_disk_changed(struct volume *v)
{
    repair_kick(v);
    fiber_queue_wake_all(&v->committer_wake);
    fiber_queue_wake_all(&v->provisioner_wake);
}

/* Remembers what is wrong with the shard and wakes repair if that is news. A disk that is away or
 * has
 * failed says nothing about the shard; what becomes of it, volume_disk_changed tells. */
static void note_shard(struct volume *v, struct place *p, unsigned shard, int error)
{
    enum chunk_shard_state *state = &p->shards[shard].state, was = *state;
    if (error == -EBADMSG) {
        v->stats.damaged_blocks++;
        if (*state == CHUNK_SHARD_OK)
            *state = CHUNK_SHARD_DAMAGED;
    } else if (error == -ENOENT && !p->freeing) {
        *state = CHUNK_SHARD_LOST;
    }
    if (*state != was)
        repair_kick(v);
}

void volume_trouble(
    void *ctx, const struct chunk_place *place, unsigned shard, int error, uint32_t block)
{
    struct volume *v = ctx;
    struct place *p = state_place(&v->state, place->chunk);
    v->stats.degraded_reads++;
    log_debug("volume %s: chunk %llx shard %u on disk %u: block %u: %s", v->root.name,
        (unsigned long long)place->chunk, shard, place->shards[shard].place.disk, block,
        strerror(-error));
    if (!p || p->shards[shard].place.instance != place->shards[shard].place.instance)
        return; /* moved meanwhile */
    if (error == -EBADMSG)
        log_warn_limited("volume %s: chunk %llx shard %u on disk %u: block %u is damaged; reading "
                         "around it and repairing",
            v->root.name, (unsigned long long)place->chunk, shard, place->shards[shard].place.disk,
            block);
    note_shard(v, p, shard, error);
}

void volume_shard_damaged(struct volume *v, struct shard_key key, uint32_t disk, uint32_t block)
{
    struct place *p = state_place(&v->state, key.chunk);
    if (p && key.index < place_shards(p) && p->shards[key.index].place.disk == disk)
        note_shard(v, p, key.index, -EBADMSG);
    list_for_each (it, &v->state.wals) {
        struct wal *wal = list_entry(it, struct wal, link);
        if (wal->chunk == key.chunk && key.index < wal->copies)
            log_copy_failed(v, wal, key.index, -EBADMSG);
    }
    for (unsigned i = 0; i < v->manifest.chain_count; i++) {
        if (v->manifest.chain[i].chunk == key.chunk)
            v->manifest.broken = true;
    }
    repair_kick(v);
}

/* --- What is wrong ----------------------------------------------------------------------------- */

/* 0: it is not missing, or is just now becoming so. One of this node that could not be opened is not in the
 * list. */
static uint64_t missing_since_ns(const struct volume_host *host, uint32_t number)
{
    const struct disk *disk = volume_host_disk(host, number);
    if (disk)
        return disk->state == DISK_MISSING ? disk->missing_since_ns : 0;
    return number && host->map.disk_missing_since_ns
               ? host->map.disk_missing_since_ns(host->map.ctx, number)
               : 0;
}

/* For good, or for longer than is waited (Q5). */
static bool disk_lost(const struct volume *v, uint32_t number)
{
    const struct volume_host *host = v->host;
    const struct disk *disk = volume_disk(v, number);
    uint64_t since_ns = missing_since_ns(host, number);
    if (since_ns)
        return env_now_ns() - since_ns >= host->repair_wait_ns;
    if (!disk)
        return number == 0 || !host->map.disk_removed ||
               host->map.disk_removed(host->map.ctx, number);
    return disk->state == DISK_FAILED;
}

static bool disk_away(const struct volume *v, uint32_t number)
{
    const struct disk *disk = volume_disk(v, number);
    return disk_lost(v, number) || (disk && disk->state == DISK_MISSING) ||
           missing_since_ns(v->host, number);
}

static bool shard_bad(const struct volume *v, const struct chunk_shard *shard)
{
    return shard->state != CHUNK_SHARD_OK || disk_lost(v, shard->place.disk);
}

static unsigned bad_count(const struct volume *v, const struct place *p)
{
    unsigned bad = 0;
    for (unsigned i = 0; i < place_shards(p); i++)
        bad += shard_bad(v, &p->shards[i]);
    return bad;
}

/* A place that lacks shards, and how many more it may lose; those that only have crowded ones come after all of these. */
struct candidate {
    uint64_t chunk;
    int left;
};
#define CROWDED CODE_SHARDS_MAX /* from here on */
#define NOTHING_WRONG INT_MAX

static int left_of(const struct volume *v, const struct place *p, unsigned domains_up)
{
    unsigned bad = bad_count(v, p);
    uint32_t crowded = bad == 0 ? place_crowded(v, p) : 0;
    if (bad > 0)
        return (int)p->code.m - (int)bad;
    if (crowded && place_can_spread(v, p, domains_up))
        return CROWDED + CODE_SHARDS_MAX - __builtin_popcount(crowded);
    return NOTHING_WRONG;
}

static int nearest_to_loss(const void *a, const void *b)
{
    const struct candidate *one = a, *other = b;
    if (one->left != other->left)
        return one->left < other->left ? -1 : 1;
    return one->chunk < other->chunk ? -1 : one->chunk > other->chunk;
}

/* All of them, in the order of repair. mem_free. A large volume has a million places: I/O goes on meanwhile. */
static struct candidate *candidates(struct volume *v, unsigned *ret_count)
{
    unsigned all = v->state.places.count, n = 0, count = 0, domains_up = data_domains_up(v);
    struct candidate *list = mem_zalloc(all + 1u, sizeof(*list));
    uint32_t pos = 0;
    for (const struct place *p; (p = idmap_next(&v->state.places, &pos));)
        list[n++].chunk = p->chunk;
    CHECK(n == all);
    for (unsigned i = 0; i < n && !v->halted && !v->stopping; i++) {
        if (i % CANDIDATES_A_TURN == CANDIDATES_A_TURN - 1)
            fiber_yield();
        const struct place *p = state_place(&v->state, list[i].chunk);
        int left = p && !p->freeing ? left_of(v, p, domains_up) : NOTHING_WRONG;
        if (left != NOTHING_WRONG)
            list[count++] = (struct candidate){.chunk = p->chunk, .left = left};
    }
    qsort(list, count, sizeof(*list), nearest_to_loss);
    *ret_count = count;
    return list;
}

/* --- Rebuilding -------------------------------------------------------------------------------- */

static int choose_target(
    struct volume *v, const struct place *p, unsigned shard, struct disk **ret_disk)
{
    uint32_t exclude[CODE_SHARDS_MAX];
    unsigned n = 0;
    bool here = false; /* it is one of our own that could not be opened, and may come */
    for (unsigned i = 0; i < place_shards(p); i++) {
        uint32_t number = p->shards[i].place.disk;
        if (i == shard && p->shards[i].state != CHUNK_SHARD_DAMAGED)
            continue;
        exclude[n++] = number;
        here = here || (!volume_host_disk(v->host, number) && disk_may_come(v->host, number));
    }
    struct placement_request request = {.count = 1,
        .count_min = 1,
        .domain = v->pool.domain,
        .class_name = v->pool.data_class,
        .shard_bytes = (uint64_t)place_length_blocks(p, p->row_count) * BLOCK_BYTES,
        .reserve_percent = p->kind == SHARD_META ? 0 : 2,
        .exclude = exclude,
        .exclude_count = n,
        .exclude_here = here,
        .chance = env_random_u64(),
        .now_ns = env_now_ns()};
    int r = placement_choose(v->host->disks, &request, ret_disk);
    return r < 0 ? r : 0;
}

/* On the target stands what an attempt without an answer has left, or the lost shard itself on a disk that
 * has come back: nothing that counts, once the manifest says that it is lost. */
static int clear_target(
    struct volume *v, const struct chunk_place *place, unsigned shard, struct disk *target)
{
    struct shard_key key = chunk_shard_key(place, shard);
    struct chunk_shard lost = place->shards[shard];
    struct shard_info info;
    unsigned bad = 0;
    int r = 0;
    for (unsigned i = 0; i < place->code.k + place->code.m; i++)
        bad += shard_bad(v, &place->shards[i]);
    if (lost.place.disk == target->number && bad > place->code.m)
        return -EBUSY; /* Q3: nobody else may have what it has (row_recover.c reads it last) */
    lost.state = CHUNK_SHARD_LOST;
    if (lost.place.disk == target->number) {
        struct records records = {0};
        record_shard(&records, place->chunk, shard, &lost);
        r = manifest_commit(v, &records, NULL, NULL);
        records_fini(&records);
    }
    if (r == 0)
        r = shard_stat(target, key, &info);
    return r == 0 ? shard_remove(target, key, info.instance, v->root.epoch) : r;
}

static int build_shard(struct volume *v, struct place *p, unsigned shard, struct disk *target)
{
    uint64_t place_chunk = p->chunk;
    struct chunk_place place;
    place_expand(&v->state, p, &place);
    struct chunk_shard old = place.shards[shard];
    if (shard_bad(v, &old) && old.state == CHUNK_SHARD_OK)
        place.shards[shard].state = CHUNK_SHARD_LOST; /* its disk has failed */
    struct chunk_shard moved = {
        .place = {.disk = target->number, .instance = env_random_u64() | 1}};
    int r = row_rebuild_shard(&v->row_io, &place, shard, target, moved.place.instance,
        v->root.epoch, SHARD_PRIORITY_CLEAN);
    if (r == -EEXIST)
        r = clear_target(v, &place, shard, target) == 0 ? -EAGAIN : r; /* now there is room */
    if (r < 0) {
        if (r != -EEXIST) /* it may be there, and the next try is on another disk */
            leftover_note(
                v, moved.place.disk, chunk_shard_key(&place, shard), moved.place.instance);
        return r;
    }
    struct records records = {0};
    record_shard(&records, place_chunk, shard, &moved);
    r = manifest_commit(v, &records, NULL, NULL);
    records_fini(&records);
    if (r < 0)
        return r;
    v->stats.repaired_shards++;
    log_info("volume %s: chunk %llx shard %u rebuilt from disk %u to disk %u", v->root.name,
        (unsigned long long)place_chunk, shard, old.place.disk, target->number);
    if (old.place.disk != moved.place.disk)
        leftover_remove(v, old.place.disk, chunk_shard_key(&place, shard), old.place.instance);
    return 0;
}

static int rebuild_shard(struct volume *v, struct place *p, unsigned shard)
{
    struct disk *target;
    int r = choose_target(v, p, shard, &target);
    return r < 0 ? r : build_shard(v, p, shard, target);
}

/* Q7: one after the other of those that share a domain goes to one of its own, while there is one. When there is
 * none, health says so, and what comes wakes us. */
static int spread_sealed(struct volume *v, struct place *p)
{
    uint64_t place_chunk = p->chunk;
    int r = 0;
    for (unsigned i = 0; i < place_shards(p) && r == 0 && !v->halted && !v->stopping; i++) {
        struct disk *target;
        if (!(place_crowded(v, p) >> i & 1))
            continue;
        r = choose_target(v, p, i, &target);
        if (r == 0)
            r = build_shard(v, p, i, target);
        else if (r == -EHOSTUNREACH)
            r = 0;
        p = state_place(&v->state, place_chunk);
    }
    return r;
}

static bool can_spread(struct volume *v, const struct place *p)
{
    uint32_t crowded = place_crowded(v, p);
    struct disk *target;
    return crowded && place_can_spread(v, p, data_domains_up(v)) &&
           choose_target(v, p, (unsigned)__builtin_ctz(crowded), &target) != -EHOSTUNREACH;
}

/* Damage with nowhere else to go: the content moves as a whole (Q3). */
static int evacuate(struct volume *v, struct place *p)
{
    if (p->kind == SHARD_DATA)
        return clean_place(v, p->chunk);
    uint32_t pos = 0;
    for (const struct lchunk *c; (c = idmap_next(&v->state.chunks, &pos));) {
        if (c->place == p)
            return clean_meta_chunk(v, c->index);
    }
    return 0;
}

static int repair_sealed(struct volume *v, struct place *p)
{
    uint64_t place_chunk = p->chunk;
    int r = 0;
    for (unsigned i = 0; i < place_shards(p) && !v->halted && !v->stopping; i++) {
        int one = shard_bad(v, &p->shards[i]) ? rebuild_shard(v, p, i) : 0;
        r = r == 0 ? one : r; /* the next one may have a place to go to */
        p = state_place(&v->state, place_chunk);
    }
    if (r < 0 && !v->halted) {
        bool damaged = false;
        for (unsigned i = 0; i < place_shards(p); i++)
            damaged = damaged || p->shards[i].state == CHUNK_SHARD_DAMAGED;
        if (damaged)
            r = evacuate(v, p); /* -EAGAIN while rows of it are not merged */
    }
    return r;
}

/* The clean mutex is held: nobody frees it, or moves what is in it, meanwhile. */
static int repair_one(struct volume *v, struct place *p)
{
    bool bad = bad_count(v, p) > 0;
    if (!bad && !can_spread(v, p))
        return 0; /* there was, or seemed to be, something */
    if (!p->sealed) {
        place_retire(v, p);
        volume_forget_target(v, p);
        /* The provisioner seals it once its rows are recorded; come back then. */
        return -EAGAIN;
    }
    return bad ? repair_sealed(v, p) : spread_sealed(v, p);
}

/* In how many domains a new one would be; 0: none could be made. */
static unsigned copies_possible(struct volume *v, enum shard_kind kind)
{
    unsigned copies = copies_placeable(v, kind);
    return copies < MIN(v->pool.log_copies_min, v->pool.code.m + 1u) ? 0 : copies;
}

static int repair_logs(struct volume *v)
{
    list_for_each (it, &v->state.wals) {
        struct wal *wal = list_entry(it, struct wal, link);
        for (unsigned i = 0; i < wal->copies; i++) {
            uint32_t disk = wal->shards[i].place.disk;
            if (wal->shards[i].state == CHUNK_SHARD_OK && disk_away(v, disk))
                log_copy_failed(v, wal, i, disk_lost(v, disk) ? -EIO : -EHOSTUNREACH);
        }
    }
    bool bad = v->manifest.broken;
    unsigned could_be = copies_possible(v, SHARD_MANIFEST);
    for (unsigned c = 0; c < v->manifest.chain_count; c++) {
        for (unsigned i = 0; i < v->manifest.chain[c].count; i++) {
            bad = bad || disk_lost(v, v->manifest.chain[c].places[i].disk);
        }
        bad = bad || copies_domains(v, &v->manifest.chain[c]) < could_be;
    }
    int r = 0;
    if (bad) /* while the store is away it would keep every other record waiting, too (S18, N4) */
        r = v->manifest.broken || manifest_store_answers(v) ? manifest_rewrite(v) : -EHOSTUNREACH;
    return r == 0 ? log_fill_up(v, copies_possible(v, SHARD_LOG)) : r;
}

/* One round over everything that is wrong; the first error that is not just "later" is kept. 1: something
 * has changed since it began: what is nearest to loss now comes first. */
static int repair_round(struct volume *v)
{
    uint64_t generation = v->repair_generation;
    bool still_crowded = false; /* what has been rebuilt; that was not its turn yet */
    bool later = false;         /* some that lack shards have to be sealed or merged first */
    unsigned count;
    leftovers_clear(v);
    int result = repair_logs(v), reconciled = reconcile_disks(v);
    result = result < 0 ? result : reconciled;
    CLEANUP_FREE struct candidate *list = candidates(v, &count);
    for (unsigned i = 0; i < count && !v->halted && !v->stopping; i++) {
        bool lacks = list[i].left < CROWDED, last = i + 1 == count;
        if (later && !lacks) /* Q7 */
            return -EAGAIN;
        fiber_mutex_lock(&v->clean_mutex);
        struct place *p = state_place(&v->state, list[i].chunk);
        int r = p && !p->freeing ? repair_one(v, p) : 0;
        p = state_place(&v->state, list[i].chunk);
        later = later || (lacks && r == -EAGAIN);
        if (p && r == 0 && lacks && bad_count(v, p) == 0)
            still_crowded = still_crowded || place_crowded(v, p);
        fiber_mutex_unlock(&v->clean_mutex);
        if (v->leftovers_go_on)
            leftovers_clear(v);
        if (r < 0 && (result == 0 || result == -EAGAIN))
            result = r;
        if (((r == 0 && result == 0) || !lacks) && generation != v->repair_generation && !last)
            return 1;
    }
    return result == 0 && still_crowded ? 1 : result;
}

void repairer(void *arg)
{
    struct volume *v = arg;
    while (!v->halted && !v->stopping) {
        if (v->second_look_ns && env_now_ns() >= v->second_look_ns) {
            v->second_look_ns = 0;
            v->reconciled_count = 0;
            v->repair_generation++;
        }
        if (v->repair_done < v->repair_generation) {
            uint64_t generation = v->repair_generation;
            int r = repair_round(v);
            if (r == 1)
                continue;
            v->repair_result = r;
            if (r == -EAGAIN) {
                /* Something has to be destaged or sealed first. */
                v->destage_all = true;
                fiber_queue_wake_all(&v->destager_wake);
                fiber_queue_wake_all(&v->provisioner_wake);
                checkpoint_ask(v);
                fiber_queue_wait_until(&v->repair_wake, env_now_ns() + RETRY_NS / 50);
                continue;
            }
            v->repair_done = MAX(v->repair_done, generation);
            fiber_queue_wake_all(&v->repair_waiters);
        } else if (v->leftovers_go_on) {
            leftovers_clear(v);
        } else if (v->repair_result < 0 || v->leftover_count > 0) {
            if (fiber_queue_wait_until(&v->repair_wake, env_now_ns() + RETRY_NS) != -ETIMEDOUT)
                continue;
            v->repair_generation += v->repair_result < 0;
            leftovers_clear(v);
        } else {
            fiber_queue_wait_until(
                &v->repair_wake, v->second_look_ns ? v->second_look_ns : UINT64_MAX);
        }
    }
    fiber_queue_wake_all(&v->repair_waiters);
}

int volume_repair_wait(struct volume *v)
{
    uint64_t ticket = ++v->repair_generation;
    fiber_queue_wake_all(&v->repair_wake);
    while (v->repair_done < ticket && !v->halted && !v->stopping)
        fiber_queue_wait(&v->repair_waiters);
    return v->halted || v->stopping ? -ESHUTDOWN : v->repair_result;
}
