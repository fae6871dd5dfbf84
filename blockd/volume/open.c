/* SPDX-License-Identifier: Apache-2.0
 *
 * Opening a volume, which is always a takeover, also after this daemon's own predecessor (S10):
 *
 *   epoch + 1 in the root -> fence and read the manifest -> fence the logs it names -> replay them
 *   ->
 *   seal what the earlier epoch left open -> a new log -> the manifest afresh, made current by one
 *   CAS
 *   -> serve.
 *
 * Invariants
 *  O1 Nothing is appended to a shard of an earlier epoch (S11).
 *  O2 Replay stops at the first gap in the sequence, which only a log that has lost its tail with the
 *     power explains: any other makes the open fail, and nothing is given up. Records up to committed_seq are not needed and
 *     not replayed.
 *  O3 Absent, damaged, unreachable are not the same: what cannot be read now but may be later makes
 *     the open fail,
 *     never the log shorter (S14), for as long as O5 (away.c) waits for it. Only suspect copies (the machine lost power) may have lost a
 *     tail that was not flushed.
 *  O6 Until its own manifest is current an open takes nothing away that another copy of the earlier one may
 *     name: a record that was on its way when the owner ended is on some copies alone, and an open that
 *     is itself cut short may have read another copy than the next one. Shards are sealed where they
 *     end, not where the manifest that was read says; they may be longer than their place.
 *  O4 Every log that stays is sealed, durably, at what was replayed, on every copy that has it and on
 *     at least the pool's minimum of them, before the record that says so; below that, writes wait.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "blockd/volume/fanout.h"
#include "blockd/volume/recovery.h"
#include "common/check.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/planted.h"

#define WAL_BLOCKS_FIRST 1024
#define WAIT_FOR_DISKS_NS 500000000ull
#define SECOND_LOOK_NS \
    60000000000ull /* longer than a create of an earlier owner can be under way */

/* --- Places left open -------------------------------------------------------------------------- */

/* The shards of a place, each fenced and then sealed where it ends (O6). */
struct closing {
    struct volume *volume;
    const struct chunk_place *place;
    struct shard_info infos[CODE_SHARDS_MAX];
    int results[CODE_SHARDS_MAX];
};

static void close_shard(void *ctx, unsigned i)
{
    struct closing *c = ctx;
    struct volume *v = c->volume;
    const struct chunk_shard *shard = &c->place->shards[i];
    struct shard_key key = chunk_shard_key(c->place, i);
    struct disk *disk = volume_disk(v, shard->place.disk);
    c->results[i] = -EHOSTUNREACH;
    if (shard->state == CHUNK_SHARD_LOST || !disk_usable(disk))
        return;
    c->results[i] = shard_fence(disk, key, v->root.epoch, &c->infos[i]);
    disk = volume_disk(v, shard->place.disk);
    if (c->results[i] < 0 || c->infos[i].sealed || !disk_usable(disk))
        return;
    c->results[i] = shard_seal(disk, key, v->root.epoch, c->infos[i].length_blocks);
}

/* After a power loss a shard may lack the last rows, which nobody flushed: those that it has are still of use,
 * and only the others count as damaged (S23). */
static void note_closed(struct closing *c, struct place *p, unsigned i)
{
    bool is_short = c->infos[i].length_blocks < c->place->length_blocks;
    if (p->shards[i].state == CHUNK_SHARD_LOST)
        return;
    if (c->results[i] == -ENOENT)
        p->shards[i].state = CHUNK_SHARD_LOST;
    else if (c->results[i] < 0)
        volume_trouble(c->volume, c->place, i, c->results[i], c->place->length_blocks);
    else if (is_short && !PLANTED(missed_row_not_recorded))
        p->shards[i].state = CHUNK_SHARD_DAMAGED;
}

/* Shards that may yet become durable: their disks did not answer, and may. */
static unsigned may_become_durable(const struct closing *c, const struct place *p)
{
    unsigned count = 0;
    for (unsigned i = 0; i < place_shards(p); i++)
        count += c->results[i] < 0 && c->results[i] != -ENOENT &&
                 p->shards[i].state != CHUNK_SHARD_LOST &&
                 disk_may_come(c->volume->host, p->shards[i].place.disk);
    return count;
}

static int close_place(struct recovery *rec, struct place *p)
{
    struct volume *v = rec->volume;
    struct chunk_place place;
    log_debug("volume %s: chunk %llx was left open with %u rows, %u of them recorded", v->root.name,
        (unsigned long long)p->chunk, p->row_count, p->rows_recorded);
    unsigned durable = 0;
    bool by_log = p->rows_recorded < p->row_count;
    p->rows_recorded = p->row_count; /* the log named them; the new manifest does */
    place_expand(&v->state, p, &place);
    struct closing closing = {.volume = v, .place = &place};
    fanout_run("close chunk", place_shards(p), place_shards(p), close_shard, &closing);
    for (unsigned i = 0; i < place_shards(p); i++) {
        if (closing.results[i] == -ESTALE)
            return -ESTALE;
        note_closed(&closing, p, i);
        durable += closing.results[i] == 0 && closing.infos[i].length_blocks >= place.length_blocks;
    }
    /* They may never have been synced (S4). Those that are lost for good keep nothing closed (promise (e)). */
    if (by_log && durable < p->code.k && durable + may_become_durable(&closing, p) >= p->code.k) {
        *rec->ret_error =
            mem_printf("large writes in chunk %llx need %u shards, and %u can be made "
                       "durable: bring back the disks that hold it",
                (unsigned long long)p->chunk, p->code.k, durable);
        return -EHOSTUNREACH;
    }
    p->sealed = true;
    return 0;
}

static void drop_place(struct recovery *rec, struct place *p)
{
    struct volume *v = rec->volume;
    struct records records = {0};
    uint32_t pos = 0;
    for (const struct lchunk *c; (c = idmap_next(&v->state.chunks, &pos));) {
        if (c->place == p)
            record_chunk_freed(&records, c->index);
    }
    record_place_freed(&records, p->chunk);
    char error[256];
    int r = state_apply(&v->state, records.bytes, records.len_bytes, error);
    CHECK_MSG(r == 0, "%s", error);
    records_fini(&records);
    /* Its shards have no row of ours: reconciliation removes them (they are of an earlier epoch).
     * */
}

/* A place without a row may still be where cleaning has put chunks without a survivor: what the map
 * holds of them is overwritten, but not merged yet, and counts until it is (C3). */
static bool unused(const struct volume *v, const struct place *p)
{
    uint32_t pos = 0;
    for (const struct lchunk *c; (c = idmap_next(&v->state.chunks, &pos));) {
        if (c->place == p && c->live > 0)
            return false;
    }
    return true;
}

static int close_places(struct recovery *rec)
{
    struct volume *v = rec->volume;
    for (;;) {
        struct place *open = NULL;
        uint32_t pos = 0;
        for (struct place *p; !open && (p = idmap_next(&v->state.places, &pos));)
            open = p->sealed ? NULL : p;
        if (!open)
            return 0;

        if (open->row_count == 0 && unused(v, open)) {
            drop_place(rec, open);
            continue;
        }
        int r = close_place(rec, open);
        if (r < 0)
            return r;
    }
}

/* --- Opening ----------------------------------------------------------------------------------- */

static struct volume *volume_new(
    struct volume_host *host, const struct volume_root *root, const struct pool *pool)
{
    struct volume *v = NEW(struct volume);
    v->host = host;
    v->root = *root;
    v->pool = *pool;
    state_init(&v->state, root->id);
    v->row_blocks = host->row_blocks_max ? (unsigned)host->row_blocks_max : APPEND_ENTRIES_MAX;
    v->gen_blocks = v->row_blocks * pool->code.k;
    uint64_t bypass = host->bypass_bytes_min ? host->bypass_bytes_min : 64 * 1024;
    v->bypass_blocks_min = bypass / BLOCK_BYTES * pool->code.k;
    memtable_init(&v->memtable, host->budget->blocks, v->gen_blocks);
    v->row_io = (struct row_io){.host = host,
        .buffers = host->budget->io,
        .codes = row_codes_new(),
        .trouble = volume_trouble,
        .ctx = v};
    v->wal_capacity_blocks = WAL_BLOCKS_FIRST;
    struct fiber_queue *queues[] = {&v->ack_waiters, &v->committer_wake, &v->syncer_wake,
        &v->sync_waiters, &v->provisioner_wake, &v->space_waiters, &v->destager_wake, &v->destaged,
        &v->checkpoint_wake, &v->checkpoint_waiters, &v->repair_wake, &v->repair_waiters,
        &v->idle_waiters, &v->reader_waiters, &v->bypass_turn};
    for (unsigned i = 0; i < ARRAY_SIZE(queues); i++)
        fiber_queue_init(queues[i]);
    struct list *lists[] = {
        &v->commit_queue, &v->bypass_queue, &v->partials, &v->budget_link, &v->meta_pending};
    for (unsigned i = 0; i < ARRAY_SIZE(lists); i++)
        list_init(lists[i]);
    fiber_mutex_init(&v->manifest.mutex);
    fiber_mutex_init(&v->bypass_mutex);
    fiber_mutex_init(&v->clean_mutex);
    fiber_mutex_init(&v->grow_mutex);
    fiber_mutex_init(&v->root_mutex);
    fiber_mutex_init(&v->hand_over_mutex);
    extmap_init(&v->delta);
    extmap_init(&v->delta_frozen);
    checkpoint_init_store(v);
    return v;
}

void volume_free(struct volume *v)
{
    list_remove(&v->budget_link);
    requests_fini(&v->requests);
    memtable_fini(&v->memtable);
    open_memory_release(v);
    fiber_queue_wake_all(&v->host->budget->waiters);
    extmap_fini(&v->delta);
    extmap_fini(&v->delta_frozen);
    if (v->map)
        map_free(v->map);
    state_fini(&v->state);
    mem_free(v->manifest.chain);
    mem_free(v->root_text);
    mem_free(v->replayed);
    mem_free(v->reconciled);
    mem_free(v->leftovers);
    row_codes_free(v->row_io.codes);
    mem_free(v);
}

static int first_wal(struct volume *v)
{
    struct wal *wal = NEW(struct wal);
    int r = wal_new(v, wal);
    if (r < 0) {
        mem_free(wal);
        return r;
    }
    list_push_back(&v->state.wals, &wal->link);
    v->wal_open = wal;
    v->wal_opened_ns = env_now_ns();
    return 0;
}

static void phase(struct recovery *rec, enum recovery_phase phase)
{
    rec->phase_ns[phase] = env_now_ns();
}

static double phase_ms(const struct recovery *rec, enum recovery_phase phase)
{
    return (double)(rec->phase_ns[phase + 1] - rec->phase_ns[phase]) / 1e6;
}

static void tell_time(const struct recovery *rec)
{
    const struct volume *v = rec->volume;
    log_info("volume %s: open at epoch %u in %.1f ms: root %.1f, manifest %.1f, logs %.1f, "
             "places %.1f, rows not in the map %.1f (%u), new log and manifest %.1f",
        v->root.name, v->root.epoch,
        (double)(rec->phase_ns[RECOVERY_PHASES] - rec->phase_ns[RECOVERY_ROOT]) / 1e6,
        phase_ms(rec, RECOVERY_ROOT), phase_ms(rec, RECOVERY_MANIFEST),
        phase_ms(rec, RECOVERY_LOGS), phase_ms(rec, RECOVERY_PLACES), phase_ms(rec, RECOVERY_DELTA),
        v->state.item_count, phase_ms(rec, RECOVERY_BEGIN));
}

static int recover(struct recovery *rec)
{
    struct volume *v = rec->volume;
    int r = 0;
    phase(rec, RECOVERY_MANIFEST);
    if (v->root.manifest.chunk != 0)
        r = manifest_load(v->host, &v->root, &v->state, &v->manifest.chain,
            &v->manifest.chain_count, rec->ret_error);
    else
        v->state.size_bytes = v->root.size_bytes;
    if (r < 0)
        return r;
    v->state.map_levels = MAX(v->state.map_levels,
        v->state.map_root == 0 ? map_levels_for(DIV_ROUND_UP(v->state.size_bytes, BLOCK_BYTES))
                               : 1);
    v->map = map_new(v->host->map_cache, &v->map_store, v->state.map_root, v->state.map_levels);
    requests_load(&v->requests, &v->state);
    phase(rec, RECOVERY_LOGS);
    r = recovery_logs(rec);
    phase(rec, RECOVERY_PLACES);
    if (r == 0)
        r = close_places(rec);
    phase(rec, RECOVERY_DELTA);
    if (r == 0)
        r = delta_rebuild(v, rec->ret_error);
    return r;
}

/* A log and a manifest of this epoch: from then on the volume takes writes. */
static int begin_epoch(struct volume *v)
{
    int r = recovery_copy_logs(v);
    if (r == 0 && !v->wal_open)
        r = first_wal(v);
    return r == 0 ? manifest_rewrite(v) : r;
}

static void start(struct volume *v)
{
    v->serving = true;
    open_memory_release(v);
    v->synced_seq = v->acked_seq; /* O4; flushes wait until here */
    fiber_queue_wake_all(&v->sync_waiters);
    volume_start_fibers(v);
    for (unsigned i = 0; i < v->replayed_count; i++)
        copies_remove(v, &v->replayed[i]);
    mem_free(v->replayed);
    v->replayed = NULL;
    v->replayed_count = 0;
    repair_kick(v);
}

static void tell_waiting(struct volume *v, const char *why)
{
    snprintf(v->problem, sizeof(v->problem),
        "no log can be allocated in pool '%s' (%s): %s; see 'holdfast disk list'", v->root.pool,
        why, v->tail_unsure ? "reads and writes wait" : "reads are served, writes wait");
    log_warn("volume %s: %s", v->root.name, v->problem);
}

/* Too few disks are up for a log or a manifest: what can be read is served, writes wait (S12). */
static void wait_for_disks(void *arg)
{
    struct volume *v = arg;
    while (!v->halted && !v->stopping) {
        bool unsure = v->tail_unsure;
        ownership_record_tail(v);
        if (unsure && !v->tail_unsure)
            tell_waiting(v, "too few disks are up");
        int r = begin_epoch(v);
        if (r == 0) {
            v->problem[0] = 0;
            log_info("volume %s: enough disks are up again: taking writes", v->root.name);
            start(v);
            return;
        }
        v->trouble_ns = env_now_ns();
        fiber_queue_wake_all(&v->sync_waiters); /* reads: there may be a lease again */
        fiber_queue_wait_until(&v->repair_wake, env_now_ns() + WAIT_FOR_DISKS_NS);
    }
}

static int serve(struct recovery *rec)
{
    struct volume *v = rec->volume;
    phase(rec, RECOVERY_BEGIN);
    int r = begin_epoch(v);
    rec->phase_ns[RECOVERY_PHASES] = env_now_ns();
    if (r == -ESHUTDOWN || r == -ESTALE)
        return r;
    list_push_back(&v->host->budget->volumes, &v->budget_link);
    if (r == 0) {
        tell_time(rec);
        start(v);
        return 0;
    }
    tell_waiting(v, r == -EHOSTUNREACH ? "too few disks are up" : strerror(-r));
    volume_spawn(v, "wait for disks", wait_for_disks);
    return 0;
}

static void recovery_fini(struct recovery *rec)
{
    uint32_t pos = 0;
    for (struct probe *probe; (probe = idmap_next(&rec->probes, &pos));)
        mem_free(probe);
    idmap_fini(&rec->probes);
}

int volume_open(struct volume_host *host, uint64_t id, struct volume **ret_volume, char **ret_error)
{
    return volume_acquire(host, id, VOLUME_ACQUIRE_FROM_SUCCESSOR, ret_volume, NULL, ret_error);
}

int volume_acquire(struct volume_host *host, uint64_t id, unsigned flags,
    struct volume **ret_volume, struct volume_owner *ret_owner, char **ret_error)
{
    struct volume_root root;
    struct pool pool;
    char *error = NULL;
    uint64_t start_ns = env_now_ns(), histories = store_histories(host->store);
    CLEANUP_FREE char *text = NULL;
    int r = volume_root_load_text(host->store, id, &root, &text);
    if (r < 0) {
        *ret_error = mem_printf(
            "the record of volume %016" PRIx64 " cannot be read: %s", id, store_strerror(r));
        return r == -EHOSTUNREACH ? -ETIMEDOUT : r; /* the store's fault, not its disks' */
    }
    r = pool_load(host->store, root.pool, &pool);
    if (r < 0) {
        *ret_error = mem_printf("volume '%s' is in pool '%s', which cannot be read: %s", root.name,
            root.pool, store_strerror(r));
        return r == -EHOSTUNREACH ? -ETIMEDOUT : r;
    }
    r = ownership_take(host, &root, &text, flags, ret_owner, ret_error);
    if (r < 0)
        return r;
    struct volume *v = volume_new(host, &root, &pool);
    if (root.manifest.chunk != 0)
        v->second_look_ns = env_now_ns() + SECOND_LOOK_NS;
    v->root_text = text;
    v->store_histories = histories;
    text = NULL;
    struct recovery rec = {.volume = v, .ret_error = &error, .phase_ns = {start_ns}};
    r = recover(&rec);
    if (r == 0)
        r = serve(&rec);
    recovery_fini(&rec);
    if (r == -ESTALE || (r == -ESHUTDOWN && v->halted == -ESTALE)) {
        mem_free(error);
        r = ownership_set_back(host, &root, &error);
    }
    if (r == -ENOENT)
        r = -EIO; /* the volume is there; something of it is not */
    if (r < 0) {
        *ret_error = mem_printf("volume '%s': %s", root.name, error ? error : strerror(-r));
        mem_free(error);
        if (r != -EUCLEAN)
            ownership_give_up(v); /* X6 */
        volume_free(v);
        return r;
    }
    mem_free(error);
    /* Had it changed, nobody would tell a volume that was not open yet. */
    for (uint64_t session; (session = volume_host_session(host)) != 0 && !v->halted &&
                           session != v->root.owner_session;)
        volume_session_renewed(v);
    if (ownership_store_was_set_back(v))
        volume_session_renewed(v);
    *ret_volume = v;
    return 0;
}
