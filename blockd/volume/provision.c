/* SPDX-License-Identifier: Apache-2.0
 *
 * Chunks and logs are made, and recorded in the manifest, before they are needed: the write path
 * only ever takes what is ready. It also is what makes D7 true: a write is admitted when row space
 * already
 * allocated can take it (P1), so that destage never depends on a create.
 *
 *  P1 provisioned_blocks() >= blocks in memtables + blocks admitted + one row of slack (a
 *     generation that is
 *     not full wastes at most that).
 */
#include <errno.h>
#include <string.h>

#include "blockd/cluster/placement.h"
#include "blockd/volume/fanout.h"
#include "blockd/volume/log_impl.h"
#include "blockd/volume/volume_impl.h"
#include "common/check.h"
#include "common/log.h"
#include "common/mem.h"

#define CREATE_TRIES 4
#define WAL_BLOCKS_FULL 256u  /* a log when the disks are full */
#define META_BLOCKS_SHORT 240 /* a metadata chunk when space is short: a slab's fragment will do */
#define META_BLOCKS_FULL 15
#define RETRY_MIN_NS 5000000ull
#define RETRY_NS 200000000ull

static unsigned reserve_percent(enum shard_priority priority)
{
    return priority == SHARD_PRIORITY_USER ? 5 : priority == SHARD_PRIORITY_CLEAN ? 2 : 0;
}

/* --- Copies: logs, manifests ------------------------------------------------------------------- */

static int copies_place(struct volume *v, enum shard_kind kind, unsigned copies_max,
    unsigned copies_min, uint32_t capacity_blocks, enum shard_priority priority,
    const uint32_t *exclude, unsigned exclude_count, struct disk **ret_disks)
{
    struct placement_request request = {.count = copies_max,
        .count_min = copies_min,
        .domain = v->pool.domain,
        .class_name = v->pool.log_class,
        .local_first = true, /* one hop less for one copy, and recovery reads it here */
        .shard_bytes = (uint64_t)capacity_blocks * BLOCK_BYTES,
        .reserve_percent = reserve_percent(priority),
        .exclude = exclude,
        .exclude_count = exclude_count,
        .chance = env_random_u64(),
        .now_ns = env_now_ns()};
    return placement_choose(v->host->disks, &request, ret_disks);
}

unsigned copies_placeable(struct volume *v, enum shard_kind kind)
{
    struct disk *disks[CODE_M_MAX + 1];
    int placed =
        copies_place(v, kind, v->pool.code.m + 1u, 1, 256, SHARD_PRIORITY_SYSTEM, NULL, 0, disks);
    return placed > 0 ? (unsigned)placed : 0;
}

struct creation {
    struct disk **disks;
    struct shard_create creates[CODE_M_MAX + 1];
    struct shard_info infos[CODE_M_MAX + 1];
    int results[CODE_M_MAX + 1];
};

static void create_one(void *ctx, unsigned i)
{
    struct creation *creation = ctx;
    creation->results[i] =
        shard_create(creation->disks[i], &creation->creates[i], &creation->infos[i]);
}

/* Which of the copies failed (the first; -ESTALE before others), or count. */
static unsigned creation_failed(const struct creation *creation, unsigned count)
{
    unsigned failed = count;
    for (unsigned i = count; i-- > 0;) {
        if (creation->results[i] < 0 && (failed == count || creation->results[failed] != -ESTALE))
            failed = i;
    }
    return failed;
}

/* Also those of which nobody knows whether they are there: naming the instance makes that safe (S9). */
static void creation_undo(struct volume *v, const struct creation *creation,
    const struct chunk_shard *shards, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        const struct shard_create *create = &creation->creates[i];
        int r = creation->results[i];
        if (r == 0)
            leftover_remove(v, shards[i].place.disk, create->key, create->instance);
        else if (r == -EIO || r == -EHOSTUNREACH)
            leftover_note(v, shards[i].place.disk, create->key, create->instance);
    }
}

int copies_create(struct volume *v, enum shard_kind kind, unsigned copies_max, unsigned copies_min,
    uint32_t capacity_blocks, uint32_t capacity_blocks_min, enum shard_priority priority,
    uint64_t *ret_chunk, struct chunk_shard *ret_shards, unsigned *ret_copies,
    uint32_t *ret_capacity)
{
    uint32_t exclude[CREATE_TRIES];
    struct disk *disks[CODE_M_MAX + 1];
    int r = 0;
    for (unsigned tries = 0; tries < CREATE_TRIES; tries++) {
        int placed = copies_place(
            v, kind, copies_max, copies_min, capacity_blocks_min, priority, exclude, tries, disks);
        if (placed < 0)
            return r < 0 ? r : placed;
        unsigned count = (unsigned)placed;
        uint32_t capacity = capacity_blocks;
        struct creation creation = {.disks = disks};
        uint64_t chunk = volume_new_chunk_id(v); /* another one each time: see creation_undo() */
        for (unsigned i = 0; i < count; i++) {
            creation.creates[i] = (struct shard_create){
                .key = {.volume = v->root.id, .chunk = chunk, .index = (uint8_t)i},
                .kind = kind,
                .code = {.k = 1, .m = (uint8_t)(count - 1)},
                .instance = env_random_u64() | 1,
                .epoch = v->root.epoch,
                .capacity_blocks = capacity_blocks,
                .capacity_blocks_min = capacity_blocks_min,
                .priority = priority};
            ret_shards[i] = (struct chunk_shard){
                .place = {.disk = disks[i]->number, .instance = creation.creates[i].instance}};
        }
        fanout_run("create copies", count, count, create_one, &creation);
        unsigned failed = creation_failed(&creation, count);
        if (failed == count) {
            for (unsigned i = 0; i < count; i++)
                capacity = MIN(capacity, creation.infos[i].capacity_blocks);
            *ret_chunk = chunk;
            *ret_copies = count;
            *ret_capacity = capacity;
            return 0;
        }
        r = creation.results[failed];
        exclude[tries] = disks[failed]->number;
        creation_undo(v, &creation, ret_shards, count);
        if (r == -ESTALE) {
            volume_deposed(v);
            return r;
        }
    }
    return r;
}

int wal_new(struct volume *v, struct wal *ret_wal)
{
    struct wal wal = {.epoch = v->root.epoch};
    unsigned copies;
    unsigned copies_min = MIN(v->pool.log_copies_min, v->pool.code.m + 1u);
    uint32_t wanted = space_is_short(v) ? MIN(v->wal_capacity_blocks, (uint32_t)WAL_BLOCKS_MIN)
                                        : v->wal_capacity_blocks;
    int r = copies_create(v, SHARD_LOG, v->pool.code.m + 1u, copies_min, wanted,
        MIN(wanted, WAL_BLOCKS_FULL), SHARD_PRIORITY_USER, &wal.chunk, wal.shards, &copies,
        &wal.capacity_blocks);
    /* A log is needed to acknowledge anything, trims that free space included: a small one may use the reserve. */
    if (r == -ENOSPC)
        r = copies_create(v, SHARD_LOG, v->pool.code.m + 1u, copies_min,
            MIN(wanted, WAL_BLOCKS_FULL), MIN(wanted, WAL_BLOCKS_FULL), SHARD_PRIORITY_SYSTEM,
            &wal.chunk, wal.shards, &copies, &wal.capacity_blocks);
    if (r < 0)
        return r;
    wal.copies = (uint8_t)copies;
    *ret_wal = wal;
    return 0;
}

/* --- Chunks ------------------------------------------------------------------------------------ */

static int chunk_place_disks(struct volume *v, struct shard_code code, const char *class_name,
    enum shard_priority priority, uint32_t capacity_min, struct disk **ret_disks)
{
    unsigned count = code.k + code.m;
    unsigned count_min =
        code.k == v->pool.code.k ? v->pool.shards_min : MIN(v->pool.log_copies_min, count);
    struct placement_request request = {.count = count,
        .count_min = MAX(MIN(count_min, count), (unsigned)code.k),
        .domain = v->pool.domain,
        .class_name = class_name,
        .shard_bytes = (uint64_t)capacity_min * BLOCK_BYTES,
        .reserve_percent = reserve_percent(priority),
        .chance = env_random_u64(),
        .now_ns = env_now_ns()};
    int placed = placement_choose(v->host->disks, &request, ret_disks);
    if (placed < 0 || placed == (int)count)
        return placed;
    /* Degraded: which index stays empty is left to chance, so that parity is missing as often as
     * data. */
    uint64_t chance = env_random_u64();
    for (unsigned i = count - 1; i > 0; i--) {
        unsigned j = (unsigned)(chance % (i + 1));
        chance = chance * 6364136223846793005ull + 1442695040888963407ull;
        struct disk *swap = ret_disks[i];
        ret_disks[i] = ret_disks[j];
        ret_disks[j] = swap;
    }
    return placed;
}

static void note_shards(struct volume *v, const struct chunk_place *place, const uint32_t *disks,
    const uint64_t *instances)
{
    for (unsigned i = 0; i < place->code.k + place->code.m; i++)
        leftover_note(v, disks[i], chunk_shard_key(place, i), instances[i]);
}

int chunk_new(struct volume *v, enum shard_kind kind, enum shard_priority priority, bool whole,
    uint64_t *ret_index)
{
    struct shard_code code =
        kind == SHARD_META ? (struct shard_code){.k = 1, .m = v->pool.code.m} : v->pool.code;
    uint32_t capacity = 4 * (APPEND_ENTRIES_MAX + 1), capacity_min = v->row_blocks + 1;
    if (kind == SHARD_META) { /* without which nothing is freed */
        priority = SHARD_PRIORITY_SYSTEM;
        capacity_min = META_BLOCKS_FULL;
        if (space_is_short(v))
            capacity = META_BLOCKS_SHORT;
    } else if (whole || (priority == SHARD_PRIORITY_USER && !v->take_fragments)) {
        capacity_min = capacity; /* whole slabs, while cleaning can make some (E4) */
    }
    struct disk *disks[CODE_SHARDS_MAX];
    uint32_t numbers[CODE_SHARDS_MAX];
    uint64_t instances[CODE_SHARDS_MAX];
    struct chunk_place place = {0};
    int r = 0;
    for (unsigned tries = 0; tries < CREATE_TRIES; tries++) {
        int placed = chunk_place_disks(v, code, v->pool.data_class, priority, capacity_min, disks);
        if (placed < 0)
            return placed;
        for (unsigned i = 0; i < CODE_SHARDS_MAX; i++) {
            instances[i] = env_random_u64() | 1;
            numbers[i] = i < code.k + code.m && disks[i] ? disks[i]->number : 0;
        }
        place = (struct chunk_place){.volume = v->root.id,
            .chunk = volume_new_chunk_id(v),
            .kind = kind,
            .code = code,
            .epoch = v->root.epoch};
        r = chunk_create(&v->row_io, &place, disks, instances, capacity, capacity_min, priority);
        if (r == 0 || r == -ESTALE || v->halted || r == -ENOSPC)
            break;
        if (r == -EHOSTUNREACH) /* chunk_create() could not undo it there */
            note_shards(v, &place, numbers, instances);
    }
    if (r == -ESTALE)
        volume_deposed(v);
    if (r < 0)
        return r;
    if (kind == SHARD_DATA && place.capacity_blocks >= capacity)
        v->take_fragments = false;
    uint64_t index = v->chunk_index_claimed =
        MAX(v->chunk_index_claimed + 1, v->state.chunk_index_next);
    unsigned parts = kind == SHARD_DATA && priority == SHARD_PRIORITY_USER &&
                             place.capacity_blocks >= capacity && space_may_get_short(v)
                         ? PLACE_PARTS
                         : 1;
    v->chunk_index_claimed += parts - 1;
    struct records records = {0};
    record_new_place(&records, &place);
    for (unsigned part = 0; part < parts; part++)
        record_chunk(&records, index + part, place.chunk, 0, 0, NULL, 0);
    r = manifest_commit(v, &records, NULL, NULL);
    records_fini(&records);
    if (r == 0)
        *ret_index = index;
    else /* Q8 */
        note_shards(v, &place, numbers, instances);
    return r;
}

uint64_t row_chunk(const struct volume *v, uint64_t index, const struct place *p)
{
    uint64_t part =
        (uint64_t)place_length_blocks(p, p->row_count) * PLACE_PARTS / p->capacity_blocks;
    const struct lchunk *chunk = state_chunk(&v->state, index + MIN(part, PLACE_PARTS - 1));
    return chunk && chunk->place == p ? chunk->index : index;
}

/* --- Room -------------------------------------------------------------------------------------- */

uint64_t place_room_blocks(const struct volume *v, const struct place *p)
{
    if (p->sealed || p->retired)
        return 0;
    uint32_t used = place_length_blocks(p, p->row_count);
    uint32_t rest = p->capacity_blocks > used ? p->capacity_blocks - used : 0;
    /* Full rows only: a generation is written as one row, and does not fit into what is left over.
     * */
    uint32_t rows = MIN(rest / (v->row_blocks + 1), (uint32_t)CHUNK_ROWS_MAX - p->row_count);
    return (uint64_t)p->code.k * rows * v->row_blocks;
}

uint64_t provisioned_blocks(const struct volume *v)
{
    uint64_t blocks = 0;
    for (unsigned i = 0; i < v->destage_chunk_count; i++) {
        const struct lchunk *chunk = state_chunk(&v->state, v->destage_chunks[i].index);
        if (chunk)
            blocks += place_room_blocks(v, chunk->place);
    }
    return blocks;
}

static uint64_t needed_blocks(const struct volume *v)
{
    return v->memtable.block_total + v->reserved_blocks + 2ull * v->gen_blocks;
}

/* Until something has changed. -ECANCELED: the request was given up meanwhile (E4). */
static int wait_for_space(struct volume *v, const struct request *request)
{
    int r;
    do
        r = fiber_queue_wait_until(
            &v->space_waiters, request->given_up ? env_now_ns() + REQUEST_LOOK_NS : UINT64_MAX);
    while (r == -ETIMEDOUT && !request_given_up(request));
    return request_given_up(request) ? -ECANCELED : 0;
}

int space_reserve(struct volume *v, unsigned blocks, const struct request *request)
{
    int r = 0;
    while (r == 0) {
        if (v->halted || v->closed_to_io)
            return -ESHUTDOWN;
        if (log_is_full(v)) {
            r = wait_for_space(v, request);
            continue;
        }
        if (provisioned_blocks(v) >= needed_blocks(v) + blocks) {
            v->reserved_blocks += blocks;
            return 0;
        }
        v->space_wanted_blocks = MAX(v->space_wanted_blocks, blocks);
        v->space_error = 0;
        v->has_written = true; /* reclaiming may have let go of what was ready */
        fiber_queue_wake_all(&v->provisioner_wake);
        r = wait_for_space(v, request);
        if (r == 0 && v->space_error == -ENOSPC &&
            provisioned_blocks(v) < needed_blocks(v) + blocks)
            r = reclaim_wait(v);
    }
    return r;
}

void space_unreserve(struct volume *v, unsigned blocks)
{
    CHECK(v->reserved_blocks >= blocks);
    v->reserved_blocks -= blocks;
}

/* --- Retiring ---------------------------------------------------------------------------------- */

void place_retire(struct volume *v, struct place *p)
{
    p->retired = true;
    fiber_queue_wake_all(&v->provisioner_wake);
}

static bool names_place(
    const struct volume *v, const struct open_chunk *open, const struct place *p)
{
    const struct lchunk *chunk = open->index ? state_chunk(&v->state, open->index) : NULL;
    return chunk && chunk->place == p;
}

void volume_forget_target(struct volume *v, const struct place *p)
{
    struct open_chunk *single[] = {
        &v->bypass_chunk, &v->bypass_spare, &v->meta_chunk, &v->clean_chunk};
    for (unsigned i = 0; i < ARRAY_SIZE(single); i++) {
        if (names_place(v, single[i], p))
            single[i]->index = 0;
    }
    unsigned n = 0;
    for (unsigned i = 0; i < v->destage_chunk_count; i++) {
        if (!names_place(v, &v->destage_chunks[i], p))
            v->destage_chunks[n++] = v->destage_chunks[i];
    }
    v->destage_chunk_count = n;
}

static bool is_target(const struct volume *v, const struct place *p)
{
    bool target = names_place(v, &v->bypass_chunk, p) || names_place(v, &v->bypass_spare, p) ||
                  names_place(v, &v->meta_chunk, p) || names_place(v, &v->clean_chunk, p);
    for (unsigned i = 0; i < v->destage_chunk_count; i++)
        target = target || names_place(v, &v->destage_chunks[i], p);
    return target;
}

/* Rows that were recorded have been synced before (G2), so that none that a flush has to wait for is among them. */
static bool sealable(const struct volume *v, const struct place *p)
{
    return !p->sealed && p->retired && !p->sealing && !p->freeing && p->appending == 0 &&
           p->row_count == p->rows_recorded && !is_target(v, p);
}

/* Seals one retired place: on its disks first, then in the manifest. */
static int seal_one(struct volume *v, struct place *p)
{
    struct chunk_place full;
    uint64_t id = p->chunk;
    place_expand(&v->state, p, &full);
    p->sealing =
        true; /* the provisioner and volume_clean both come here; nobody frees it meanwhile */
    int r = chunk_seal(&v->row_io, &full, v->root.epoch);
    if (r == -ESTALE) {
        volume_deposed(v);
        return r;
    }
    /* A shard that could not be sealed is reported by row_io.trouble and rebuilt; the chunk itself
     * takes no more rows in any case. */
    struct records records = {0};
    record_sealed(&records, id);
    r = manifest_commit(v, &records, NULL, NULL);
    records_fini(&records);
    if (r == 0)
        state_place(&v->state, id)->sealing = false;
    return r;
}

int place_seal_retired(struct volume *v)
{
    for (;;) {
        struct place *found = NULL;
        uint32_t pos = 0;
        for (struct place *p; !found && (p = idmap_next(&v->state.places, &pos));)
            found = sealable(v, p) ? p : NULL;
        if (!found)
            return 0;
        int r = seal_one(v, found);
        if (r < 0)
            return r;
    }
}

void place_seal_retired_kick(struct volume *v)
{
    fiber_queue_wake_all(&v->provisioner_wake);
}

/* --- The fiber --------------------------------------------------------------------------------- */

static void wal_made(struct volume *v, struct wal *wal)
{
    struct records records = {0};
    record_wal(&records, wal);
    uint64_t chunk = wal->chunk;
    int r = manifest_commit(v, &records, NULL, NULL);
    records_fini(&records);
    for (unsigned i = 0; i < wal->copies && r < 0; i++) /* Q8 */
        leftover_note(
            v, wal->shards[i].place.disk, log_wal_key(v, wal, i), wal->shards[i].place.instance);
    if (r < 0)
        return;
    list_for_each (it, &v->state.wals) {
        struct wal *made = list_entry(it, struct wal, link);
        if (made->chunk == chunk)
            v->wal_next = made;
    }
}

static int provision_wal(struct volume *v)
{
    struct wal wal;
    int r = wal_new(v, &wal);
    if (r == 0)
        wal_made(v, &wal);
    return r;
}

static int provision_destage(struct volume *v)
{
    /* Drop targets that take nothing any more. */
    unsigned n = 0;
    for (unsigned i = 0; i < v->destage_chunk_count; i++) {
        struct lchunk *chunk = state_chunk(&v->state, v->destage_chunks[i].index);
        if (chunk && !chunk->place->retired && !chunk->place->sealed)
            v->destage_chunks[n++] = v->destage_chunks[i];
    }
    v->destage_chunk_count = n;
    if (n == SPARE_CHUNKS_MAX)
        return -ENOSPC;
    uint64_t index;
    int r = chunk_new(v, SHARD_DATA, SHARD_PRIORITY_USER, false, &index);
    if (r == -ENOSPC && provisioned_blocks(v) < v->memtable.block_total)
        r = chunk_new(
            v, SHARD_DATA, SHARD_PRIORITY_CLEAN, false, &index); /* what is acked must get home */
    if (r == 0)
        v->destage_chunks[v->destage_chunk_count++] = (struct open_chunk){.index = index};
    return r;
}

static bool want_destage(const struct volume *v)
{
    if (!v->has_written)
        return false;
    return provisioned_blocks(v) <
           needed_blocks(v) + MAX(v->space_wanted_blocks, 2 * v->gen_blocks);
}

static bool want_spare(const struct volume *v)
{
    return v->bypass_active && v->bypass_spare.index == 0;
}

/* One thing that is missing; 1 = made something, 0 = nothing is missing. */
static int provision_step(struct volume *v)
{
    int r;
    if (!v->wal_next) {
        r = provision_wal(v);
        return r < 0 ? r : 1;
    }
    if (want_destage(v)) {
        r = provision_destage(v);
        if (r == 0)
            v->space_wanted_blocks = 0;
        return r < 0 ? r : 1;
    }
    if (want_spare(v)) {
        uint64_t index;
        r = chunk_new(v, SHARD_DATA, SHARD_PRIORITY_USER, false, &index);
        if (r == 0)
            v->bypass_spare.index = index;
        return r < 0 ? r : 1;
    }
    return 0;
}

void provisioner(void *arg)
{
    struct volume *v = arg;
    uint64_t delay_ns = RETRY_MIN_NS;
    while (!v->halted && !v->stopping) {
        int r = place_seal_retired(v);
        if (r == 0)
            r = provision_step(v);
        if (r >= 0)
            delay_ns = RETRY_MIN_NS;
        if (r > 0) {
            v->space_error = 0;
            fiber_queue_wake_all(&v->space_waiters);
            continue;
        }
        if (r < 0) {
            v->space_error = r;
            v->trouble_ns = env_now_ns();
            if (r == -ENOSPC)
                v->bypass_active = false; /* the spare of large writes is a luxury */
            if (r == -ENOSPC && (!v->wal_next || v->destage_stuck))
                reclaim_kick(v); /* what is acknowledged must get home, and trims must get in */
            if (r != -ENOSPC && r != -ESHUTDOWN)
                log_warn_limited("volume %s: cannot allocate: %s", v->root.name, strerror(-r));
            fiber_queue_wake_all(&v->space_waiters);
            if (v->halted || v->stopping)
                break;
            /* Not to be woken early: those who wait for space wake us whenever we have failed. */
            uint64_t until_ns = env_now_ns() + delay_ns;
            while (env_now_ns() < until_ns && !v->halted && !v->stopping)
                fiber_queue_wait_until(&v->provisioner_wake, until_ns);
            delay_ns = MIN(2 * delay_ns, RETRY_NS);
            continue;
        }
        if (v->halted || v->stopping) /* it may have come while we were at work */
            break;
        if (!v->stopping && !v->halted) /* sealing above suspends: a stop may have come meanwhile */
            fiber_queue_wait(&v->provisioner_wake);
    }
    fiber_queue_wake_all(&v->space_waiters);
}
