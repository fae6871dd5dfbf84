/* SPDX-License-Identifier: Apache-2.0
 *
 * Destage: frozen memtable generations become rows, oldest first.
 *
 * Invariants
 *  G1 Generations are committed in order: committed_seq never passes a record that is not in a row,
 *     an
 *     item or the map.
 *  G2 The row of a generation, and every large-write row it refers to, is durable before the
 *     manifest record
 *     that commits the generation (S1, S21).
 *  G3 The delta table has the generation's content, and the memtable drops it, in one step without
 *     a suspension
 *     (I1 of io.c).
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "blockd/volume/volume_impl.h"
#include "common/check.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/planted.h"

#define ROWS_PER_GEN 64      /* large-write rows that make a generation worth committing */
#define ITEMS_MAX 4096       /* recovery goes through as many rows */
#define ITEM_BLOCKS_SHARE 8  /* of the delta table's memory: what names the blocks of rows */
#define GARBAGE_BLOCKS 16384 /* 64 MiB unmerged */
#define RETRY_NS 50000000ull

struct destage {
    struct volume *volume;
    struct memtable_gen *gen;
    const struct memtable_slot **slots;
    unsigned count;
    uint64_t chunk_index, place_chunk;
    unsigned row;
    uint32_t linear;
};

static uint64_t delta_bytes_max(const struct volume *v)
{
    return v->host->delta_bytes_max ? v->host->delta_bytes_max : 16ull << 20;
}

/* A destage chunk with room for a row of len blocks; waits for one. */
static int claim_chunk(struct destage *d, unsigned len, struct place **ret_place)
{
    struct volume *v = d->volume;
    for (;;) {
        if (v->halted)
            return -ESHUTDOWN;
        if (v->destage_chunk_count > 0) {
            struct lchunk *chunk = state_chunk(&v->state, v->destage_chunks[0].index);
            struct place *p = chunk ? chunk->place : NULL;
            if (p && !p->sealed && !p->retired && p->row_count < CHUNK_ROWS_MAX &&
                place_length_blocks(p, p->row_count) + 1 + len <= p->capacity_blocks) {
                d->chunk_index = row_chunk(v, chunk->index, p);
                *ret_place = p;
                return 0;
            }
            if (p)
                place_retire(v, p);
            v->destage_chunk_count--;
            memmove(v->destage_chunks, v->destage_chunks + 1,
                v->destage_chunk_count * sizeof(v->destage_chunks[0]));
            continue;
        }
        v->has_written = true; /* also after a recovery */
        v->destage_stuck = v->space_error == -ENOSPC;
        fiber_queue_wake_all(&v->provisioner_wake);
        fiber_queue_wait_until(&v->space_waiters, env_now_ns() + RETRY_NS);
        v->destage_stuck = false;
    }
}

static int write_row_once(struct destage *d, const struct row_block *blocks)
{
    struct volume *v = d->volume;
    unsigned len = row_len_for(v->pool.code, d->count);
    struct place *p;
    int r = claim_chunk(d, len, &p);
    if (r < 0)
        return r;
    struct chunk_place place;
    place_expand(&v->state, p, &place);
    d->place_chunk = p->chunk;
    d->linear = place_linear_end(p, p->row_count);
    d->row = place_add_row(p, len);
    p->appending++;
    r = row_write(&v->row_io, &place, 0, blocks, d->count, true, NULL, NULL);
    p = state_place(&v->state, d->place_chunk);
    CHECK(p && p->appending > 0);
    p->appending--;
    if (r < 0) {
        p->row_count = (uint8_t)d->row;
        if (r != -ENOMEM)
            place_retire(v, p); /* the next attempt takes another chunk */
    }
    return r;
}

static int write_row(struct destage *d)
{
    struct volume *v = d->volume;
    CLEANUP_FREE struct row_block *blocks = mem_alloc(d->count * sizeof(*blocks));
    for (unsigned i = 0; i < d->count; i++)
        blocks[i] = (struct row_block){.address = d->slots[i]->block,
            .data = d->slots[i]->data,
            .crc = d->slots[i]->crc,
            .seq = d->slots[i]->seq};
    for (;;) {
        int r = write_row_once(d, blocks);
        if (r == 0 || r == -ESHUTDOWN)
            return r;
        if (r == -ESTALE) {
            volume_deposed(v);
            return r;
        }
        v->trouble_ns = env_now_ns();
        log_warn_limited("volume %s: a row could not be written (%s): writing it to another chunk",
            v->root.name, strerror(-r));
        env_sleep_ns(RETRY_NS / 10);
    }
}

/* A row that is lost before it is in the map keeps nothing else closed: the manifest says which blocks it had. */
static void record_blocks(
    const struct volume *v, struct records *records, const struct block_run *runs, unsigned count)
{
    if (!v->host->rows_unnamed)
        record_item_blocks(records, runs, count);
}

static void record_slots(struct destage *d, struct records *records)
{
    CLEANUP_FREE struct block_run *runs = mem_alloc(d->count * sizeof(*runs));
    unsigned n = 0;
    for (unsigned i = 0; i < d->count; i++) {
        uint64_t block = d->slots[i]->block;
        if (n > 0 && block == runs[n - 1].block + runs[n - 1].count)
            runs[n - 1].count++;
        else
            runs[n++] = (struct block_run){.block = block, .count = 1};
    }
    record_blocks(d->volume, records, runs, n);
}

static void record_gen(struct destage *d, struct records *records)
{
    struct volume *v = d->volume;
    struct memtable_gen *gen = d->gen;
    if (d->count > 0) {
        struct item item = {
            .row = (uint16_t)d->row, .chunk_index = d->chunk_index, .group = gen->last_seq};
        record_row(records, d->place_chunk, d->row, row_len_for(v->pool.code, d->count));
        record_item(records, &item);
        record_slots(d, records);
    }
    for (unsigned i = 0; i < gen->row_count; i++) {
        const struct memtable_row *row = &gen->rows[i];
        struct item item = {.row = row->row,
            .chunk_index = row->chunk_index,
            .seq = row->seq,
            .group = gen->last_seq};
        const struct place *p = state_chunk(&v->state, row->chunk_index)->place;
        if (row->row >= p->rows_recorded)
            record_row(records, p->chunk, row->row, row->len);
        record_item(records, &item);
        struct block_run run = {.block = row->block, .count = row->count};
        record_blocks(v, records, &run, 1);
    }
    struct extmap_iter iter;
    struct extmap_run run;
    extmap_iter_init(&iter, &gen->ranges, 0);
    while (extmap_iter_next(&iter, &run)) {
        struct item item = {.trim = true,
            .block = run.start,
            .len = run.len,
            .seq = run.seq,
            .group = gen->last_seq};
        if (run.kind == EXTMAP_TRIMMED)
            record_item(records, &item);
    }
    record_committed(records, gen->last_seq);
    requests_record(&v->requests, &v->state, gen->last_seq, records); /* E2 */
}

/* G3: runs right after the records were applied. */
static void committed(void *ctx)
{
    struct destage *d = ctx;
    struct volume *v = d->volume;
    struct memtable_gen *gen = d->gen;
    /* Everything still to come is newer: this generation's own order is resolved below (ranges
     * first, then the blocks that are newer than them), so neighbours may merge. */
    extmap_set_floor(&v->delta, gen->last_seq);
    struct extmap_iter iter;
    struct extmap_run run;
    extmap_iter_init(&iter, &gen->ranges, 0);
    while (extmap_iter_next(&iter, &run)) {
        extmap_insert(&v->delta, run.start, run.len, run.kind, run.value, run.seq);
        if (run.kind == EXTMAP_MAPPED)
            v->unmerged_blocks += run.len;
    }
    for (unsigned i = 0; i < d->count; i++)
        extmap_insert(&v->delta, d->slots[i]->block, 1, EXTMAP_MAPPED,
            map_entry(MAP_MAPPED, 0, d->chunk_index, d->linear + i), d->slots[i]->seq);
    v->unmerged_blocks += d->count;
    for (unsigned i = 0; i < gen->row_count; i++)
        state_chunk(&v->state, gen->rows[i].chunk_index)->memtable_rows--;
    memtable_drop(&v->memtable, gen);
    v->stats.rows++;
    fiber_queue_wake_all(&v->host->budget->waiters);
    fiber_queue_wake_all(&v->space_waiters);
    fiber_queue_wake_all(&v->destaged);
}

/* What a merge gives back, or the one that is under way. */
static uint64_t delta_bytes(const struct volume *v)
{
    return extmap_memory_bytes(&v->delta) + extmap_memory_bytes(&v->delta_frozen) +
           v->state.item_blocks_bytes;
}

/* All volumes of the node; *ret_count are open. */
static uint64_t deltas_bytes(const struct memory_budget *budget, unsigned *ret_count)
{
    uint64_t bytes = 0;
    *ret_count = 0;
    list_for_each (it, &budget->volumes) {
        bytes += delta_bytes(list_entry(it, struct volume, budget_link));
        ++*ret_count;
    }
    return bytes;
}

/* Over the node's cap: the volume with the largest delta is merged, also one that nobody writes to any more. */
static void delta_pressure(struct memory_budget *budget)
{
    unsigned count;
    if (budget->delta_bytes_max == 0 || deltas_bytes(budget, &count) <= budget->delta_bytes_max)
        return;
    struct volume *largest = NULL;
    list_for_each (it, &budget->volumes) {
        struct volume *v = list_entry(it, struct volume, budget_link);
        bool asked = v->checkpoint_done < v->checkpoint_wanted;
        if (!v->serving || v->halted || asked || extmap_memory_bytes(&v->delta) == 0)
            continue;
        if (!largest || delta_bytes(v) > delta_bytes(largest))
            largest = v;
    }
    if (largest)
        checkpoint_ask(largest);
}

/* At twice the cap who has at least its share waits, for its own merge only: others' may be stuck. */
static bool share_is_full(const struct volume *v)
{
    const struct memory_budget *budget = v->host->budget;
    unsigned count;
    return budget->delta_bytes_max > 0 && extmap_memory_bytes(&v->delta) > 0 &&
           deltas_bytes(budget, &count) > 2 * budget->delta_bytes_max &&
           delta_bytes(v) >= 2 * budget->delta_bytes_max / count;
}

/* What waits for the next merge takes more than `times` of its share. */
static bool unmerged_beyond(const struct volume *v, unsigned times)
{
    return extmap_memory_bytes(&v->delta) > times * delta_bytes_max(v) ||
           v->state.item_blocks_bytes > times * (delta_bytes_max(v) / ITEM_BLOCKS_SHARE) ||
           v->state.item_count >= times * ITEMS_MAX;
}

/* Bounded also when merging is slower than writing, or fails: then the log fills up and writers wait until the
 * checkpointer has succeeded, which tries again and again. */
static void wait_for_merge(struct volume *v)
{
    bool told = false;
    while ((unmerged_beyond(v, 2) || share_is_full(v)) && !v->halted && !v->stopping) {
        if (!v->delta_merging && v->checkpoint_done == v->checkpoint_wanted)
            checkpoint_ask(v);
        if (v->checkpoint_result < 0 && !v->problem[0]) {
            told = true;
            snprintf(v->problem, sizeof(v->problem),
                "writes wait: the map cannot be written (%s); see 'holdfast disk list' for disks "
                "that are missing or full",
                strerror(-v->checkpoint_result));
        }
        fiber_queue_wait(&v->checkpoint_waiters);
    }
    if (told && !v->halted)
        v->problem[0] = 0;
}

static void checkpoint_if_due(struct volume *v)
{
    bool full = unmerged_beyond(v, 1);
    /* Overwritten blocks are known as garbage only once they are merged. */
    bool garbage = v->unmerged_blocks > GARBAGE_BLOCKS && space_is_short(v);
    if (full || garbage)
        checkpoint_ask(v);
    delta_pressure(v->host->budget);
    wait_for_merge(v);
}

static int destage_gen(struct volume *v, struct memtable_gen *gen)
{
    struct destage d = {.volume = v, .gen = gen};
    int r = log_wait_acked(v, gen->last_seq);
    if (r < 0)
        return r;
    d.slots = mem_alloc((gen->block_count + 1) * sizeof(*d.slots));
    d.count = memtable_sorted(gen, d.slots);
    if (d.count > 0)
        r = write_row(&d);
    if (r == 0 && gen->row_count > 0 && !PLANTED(row_before_sync))
        r = log_sync_rows_to(v, gen->last_seq); /* G2 */
    if (r == 0) {
        struct records records = {0};
        struct list removed;
        uint64_t last_seq = gen->last_seq;
        list_init(&removed);
        record_gen(&d, &records);
        log_collect_freed(v, last_seq, &records, &removed);
        if (PLANTED(free_before_record))
            log_remove_freed(v, &removed);
        r = manifest_commit(v, &records, committed, &d);
        records_fini(&records);
        if (r == 0)
            log_committed(v, last_seq);
        log_remove_freed(v, &removed);
    }
    mem_free(d.slots);
    return r;
}

/* Freezes the active generation when there is a reason to. */
static bool freeze_if_due(struct volume *v)
{
    if (list_empty(&v->memtable.gens))
        return false;
    const struct memtable_gen *gen = list_entry(v->memtable.gens.prev, struct memtable_gen, link);
    if (gen->frozen || gen->last_seq == 0)
        return false;
    if (!v->destage_all && gen->row_count < ROWS_PER_GEN)
        return false;
    return memtable_freeze(&v->memtable);
}

/* Reads without a lease leave records that no generation has (S17): when nothing else is left, they
 * are committed by themselves, once there are enough of them or on request. */
static bool noops_due(const struct volume *v)
{
    return v->serving && !v->halted && memtable_empty(&v->memtable) &&
           v->acked_seq > v->state.committed_seq && (v->destage_all || log_is_long(v));
}

static int commit_noops(struct volume *v)
{
    struct records records = {0};
    struct list removed;
    uint64_t last_seq = v->acked_seq;
    list_init(&removed);
    record_committed(&records, last_seq);
    requests_record(&v->requests, &v->state, last_seq, &records);
    log_collect_freed(v, last_seq, &records, &removed);
    int r = manifest_commit(v, &records, NULL, NULL);
    records_fini(&records);
    if (r == 0)
        log_committed(v, last_seq);
    fiber_queue_wake_all(&v->space_waiters); /* writers that found the log full */
    log_remove_freed(v, &removed);
    return r;
}

void destager(void *arg)
{
    struct volume *v = arg;
    while (!v->halted) {
        struct memtable_gen *gen = memtable_oldest_frozen(&v->memtable);
        if (gen) {
            if (destage_gen(v, gen) < 0)
                break;
            slow_check(v);
            place_seal_retired_kick(v);
            checkpoint_if_due(v);
        } else if (noops_due(v)) {
            if (commit_noops(v) < 0)
                break;
        } else if (!freeze_if_due(v)) {
            v->destage_all = false;
            fiber_queue_wake_all(&v->destaged);
            if (v->stopping)
                break;
            fiber_queue_wait(&v->destager_wake);
        }
    }
    fiber_queue_wake_all(&v->destaged);
}

int destage_everything(struct volume *v)
{
    uint64_t target = v->next_seq - 1;
    while (v->state.committed_seq < target && !memtable_empty(&v->memtable)) {
        if (v->halted)
            return -ESHUTDOWN;
        v->destage_all = true;
        fiber_queue_wake_all(&v->destager_wake);
        fiber_queue_wait(&v->destaged);
    }
    return v->halted ? -ESHUTDOWN : 0;
}

int volume_destage(struct volume *v)
{
    return destage_everything(v);
}
