/* SPDX-License-Identifier: Apache-2.0
 *
 * Checkpoint: the delta table is merged into map pages, which go to metadata chunks as rows of
 * copies.
 *
 * Invariants
 *  C1 The new pages are durable before the manifest record that makes their root current, and that
 *     record also
 *     drops the items merged and sets the live counts: the map, its counts and what is not merged
 *     yet
 *     change together.
 *  C2 Live counts change only here; replay never recomputes them.
 *  C3 A chunk is freed when no merged block lives there, no unmerged row, no row that only the
 *     memtable names,
 *     and it takes no more rows; its shards are removed after the record, and after its last
 *     reader.
 */
#include <errno.h>
#include <string.h>

#include "blockd/volume/fanout.h"
#include "blockd/volume/volume_impl.h"
#include "common/check.h"
#include "common/crc32c.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/planted.h"

#define RETRY_NS 200000000ull

/* --- Pages on metadata chunks ------------------------------------------------------------------ */

/* A row of pages that the running merge has reserved. */
struct meta_row {
    struct list link;
    uint64_t chunk_index, place_chunk;
    unsigned row, count;
    bool written;
};

struct live_change {
    uint64_t index;
    int64_t change;
};

static void live_add(struct volume *v, uint64_t index, int64_t change)
{
    struct live_change *live = idmap_get(&v->live_changes, index);
    if (!live) {
        live = NEW(struct live_change);
        live->index = index;
        idmap_put(&v->live_changes, index, live);
    }
    live->change += change;
}

static void live_clear(struct volume *v)
{
    uint32_t pos = 0;
    for (struct live_change *live; (live = idmap_next(&v->live_changes, &pos));)
        mem_free(live);
    idmap_fini(&v->live_changes);
}

static int page_read(void *ctx, uint64_t pointer, uint64_t page_address, void *buf)
{
    struct volume *v = ctx;
    return read_mapped(v, pointer, 1, page_address, buf, false);
}

static int claim_meta(struct volume *v, struct place **ret_place)
{
    for (;;) {
        struct lchunk *chunk =
            v->meta_chunk.index ? state_chunk(&v->state, v->meta_chunk.index) : NULL;
        struct place *p = chunk ? chunk->place : NULL;
        if (p && !p->retired && !p->sealed && p->row_count < CHUNK_ROWS_MAX &&
            place_length_blocks(p, p->row_count) + 2 <= p->capacity_blocks) {
            *ret_place = p;
            return 0;
        }
        v->meta_chunk.index = 0;
        if (p)
            place_retire(v, p);
        uint64_t index;
        int r = chunk_new(v, SHARD_META, SHARD_PRIORITY_SYSTEM, false, &index);
        if (r < 0)
            return r;
        v->meta_chunk.index = index;
    }
}

static int pages_reserve(void *ctx, unsigned count, uint64_t *ret_pointers)
{
    struct volume *v = ctx;
    for (unsigned done = 0; done < count;) {
        struct place *p;
        int r = claim_meta(v, &p);
        if (r < 0)
            return r;
        uint32_t room = p->capacity_blocks - place_length_blocks(p, p->row_count) - 1;
        unsigned n = MIN(MIN(count - done, (unsigned)APPEND_ENTRIES_MAX), room);
        uint32_t linear = place_linear_end(p, p->row_count);
        struct meta_row *row = NEW(struct meta_row);
        row->chunk_index = v->meta_chunk.index;
        row->place_chunk = p->chunk;
        row->count = n;
        row->row = place_add_row(p, n);
        p->appending++;
        list_push_back(&v->meta_pending, &row->link);
        for (unsigned i = 0; i < n; i++)
            ret_pointers[done + i] = map_entry(MAP_PAGE, 0, row->chunk_index, linear + i);
        live_add(v, row->chunk_index, n);
        done += n;
    }
    return 0;
}

static int write_meta_row(
    struct volume *v, struct meta_row *row, const uint64_t *page_addresses, void *const *pages)
{
    struct place *p = state_place(&v->state, row->place_chunk);
    struct chunk_place place;
    place_expand(&v->state, p, &place);
    place.row_count = row->row;
    place.length_blocks = place_length_blocks(p, row->row);
    struct row_block blocks[APPEND_ENTRIES_MAX];
    for (unsigned i = 0; i < row->count; i++)
        blocks[i] = (struct row_block){.address = page_addresses[i],
            .data = pages[i],
            .crc = crc32c(0, pages[i], BLOCK_BYTES)};
    int r = row_write(&v->row_io, &place, 0, blocks, row->count, true, NULL, NULL);
    if (r == 0)
        row->written = true;
    if (r == -ESTALE)
        volume_deposed(v);
    return r;
}

static int pages_commit(
    void *ctx, unsigned count, const uint64_t *page_addresses, void *const *pages)
{
    struct volume *v = ctx;
    unsigned done = 0;
    list_for_each (it, &v->meta_pending) {
        struct meta_row *row = list_entry(it, struct meta_row, link);
        if (row->written)
            continue;
        CHECK(done + row->count <= count);
        int r = write_meta_row(v, row, page_addresses + done, pages + done);
        if (r < 0)
            return r;
        done += row->count;
    }
    CHECK(done == count);
    return 0;
}

void checkpoint_init_store(struct volume *v)
{
    v->map_store = (struct map_store){.page_read = page_read,
        .pages_reserve = pages_reserve,
        .pages_commit = pages_commit,
        .layer_count = 1, /* until there are clones: every entry is the volume's own */
        .ctx = v};
    list_init(&v->meta_pending);
}

/* --- Merging ----------------------------------------------------------------------------------- */

static void replaced(void *ctx, uint64_t old_entry, uint64_t len)
{
    live_add(ctx, map_entry_chunk(old_entry), -(int64_t)len);
}

static void mapped(void *ctx, uint64_t new_entry, uint64_t len)
{
    live_add(ctx, map_entry_chunk(new_entry), (int64_t)len);
}

static void page_freed(void *ctx, uint64_t pointer)
{
    live_add(ctx, map_entry_chunk(pointer), -1);
}

struct merge {
    struct volume *volume;
    uint64_t root;
    unsigned levels;
    uint64_t items_merged;
};

static void meta_pending_clear(struct volume *v, bool recorded)
{
    for (struct list *it; (it = list_pop_front(&v->meta_pending));) {
        struct meta_row *row = list_entry(it, struct meta_row, link);
        struct place *p = state_place(&v->state, row->place_chunk);
        CHECK(p && p->appending > 0);
        p->appending--;
        if (!recorded) {
            /* The rows stand on the disks but are not part of the volume: no more in this place. */
            p->row_count = p->rows_recorded;
            if (v->meta_chunk.index == row->chunk_index)
                v->meta_chunk.index = 0;
            place_retire(v, p);
        }
        mem_free(row);
    }
}

static void merge_applied(void *ctx)
{
    struct merge *m = ctx;
    struct volume *v = m->volume;
    map_switch(v->map, m->root, m->levels);
    extmap_fini(&v->delta_frozen);
    extmap_init(&v->delta_frozen);
    v->delta_merging = false;
    v->unmerged_blocks -= v->unmerged_blocks_frozen;
    v->unmerged_blocks_frozen = 0;
    meta_pending_clear(v, true);
}

static void merge_records(const struct merge *m, struct records *records)
{
    struct volume *v = m->volume;
    list_for_each (it, &v->meta_pending) {
        const struct meta_row *row = list_entry(it, struct meta_row, link);
        record_row(records, row->place_chunk, row->row, row->count);
    }
    record_map(records, m->root, m->levels, m->items_merged);
    uint32_t pos = 0;
    for (const struct live_change *live; (live = idmap_next(&v->live_changes, &pos));) {
        const struct lchunk *chunk = state_chunk(&v->state, live->index);
        CHECK_MSG(chunk && (int64_t)chunk->live + live->change >= 0,
            "chunk %llu (kind %d): %u live, changed by %lld", (unsigned long long)live->index,
            chunk ? chunk->place->kind : 0, chunk ? chunk->live : 0, (long long)live->change);
        if (live->change != 0)
            record_live(records, live->index, (uint32_t)((int64_t)chunk->live + live->change));
    }
}

/* The frozen table goes back under the active one. */
static void merge_undo(struct volume *v)
{
    struct extmap_iter iter;
    struct extmap_run run;
    uint64_t seq = v->state.committed_seq; /* not below anything in either */
    extmap_iter_init(&iter, &v->delta, 0);
    while (extmap_iter_next(&iter, &run))
        extmap_insert(&v->delta_frozen, run.start, run.len, run.kind, run.value, seq);
    extmap_fini(&v->delta);
    v->delta = v->delta_frozen;
    extmap_init(&v->delta_frozen);
    extmap_set_floor(&v->delta, seq);
    v->delta_merging = false;
    v->unmerged_blocks_frozen = 0;
    meta_pending_clear(v, false);
}

int checkpoint_now(struct volume *v)
{
    CHECK(!v->delta_merging);
    if (v->state.item_count == 0 && !v->meta_rewrites)
        return 0;
    struct merge m = {.volume = v, .items_merged = v->state.item_first + v->state.item_count};
    extmap_fini(&v->delta_frozen);
    v->delta_frozen = v->delta;
    extmap_init(&v->delta);
    v->delta_merging = true;
    v->unmerged_blocks_frozen = v->unmerged_blocks;
    v->meta_rewrites = false;
    unsigned levels = map_levels_for(DIV_ROUND_UP(v->state.size_bytes, BLOCK_BYTES));
    struct map_merge_callbacks callbacks = {
        .replaced = replaced, .mapped = mapped, .page_freed = page_freed, .ctx = v};
    int r = map_merge(v->map, &v->delta_frozen, levels, &callbacks, &m.root, &m.levels);
    if (r == 0) {
        struct records records = {0};
        merge_records(&m, &records);
        r = manifest_commit(v, &records, merge_applied, &m);
        records_fini(&records);
    }
    if (r < 0 && !v->halted)
        merge_undo(v);
    else if (r < 0)
        meta_pending_clear(v, false);
    live_clear(v);
    fiber_queue_wake_all(&v->checkpoint_waiters);
    return r;
}

/* --- Freeing ----------------------------------------------------------------------------------- */

static bool dead(const struct lchunk *chunk)
{
    const struct place *p = chunk->place;
    return chunk->live == 0 && chunk->unmerged_rows == 0 && chunk->memtable_rows == 0 &&
           p->sealed && p->row_count == p->rows_recorded && p->appending == 0;
}

/* Waits for the place's readers; new ones look up again. */
static int drain_readers(struct volume *v, uint64_t place_chunk)
{
    struct place *p = state_place(&v->state, place_chunk);
    p->freeing = true;
    while (p->readers > 0 && !v->halted) {
        fiber_queue_wait(&v->reader_waiters);
        p = state_place(&v->state, place_chunk);
    }
    return v->halted ? -ESHUTDOWN : 0;
}

/* `index`: its last logical chunk, which goes with it; 0 = none lives there any more. */
static int free_place_with(struct volume *v, uint64_t place_chunk, uint64_t index)
{
    int r = drain_readers(v, place_chunk);
    if (r < 0)
        return r;
    struct chunk_place place;
    const struct place *p = state_place(&v->state, place_chunk);
    bool gain = p->row_count > 0 || !p->clean_target; /* E2 */
    place_expand(&v->state, p, &place);
    struct records records = {0};
    if (index)
        record_chunk_freed(&records, index);
    record_place_freed(&records, place_chunk);
    r = manifest_commit(v, &records, NULL, NULL);
    records_fini(&records);
    if (r == 0) {
        leftover_remove_chunk(v, &place);
        v->host->budget->places_freed += gain;
        fiber_queue_wake_all(&v->host->budget->reclaim_waiters);
        fiber_queue_wake_all(&v->provisioner_wake);
    }
    return r;
}

int free_place(struct volume *v, uint64_t place_chunk)
{
    struct place *p = state_place(&v->state, place_chunk);
    return p && p->chunk_refs == 0 ? free_place_with(v, place_chunk, 0) : 0;
}

static int free_chunk(struct volume *v, struct lchunk *chunk)
{
    if (chunk->place->chunk_refs == 1)
        return free_place_with(v, chunk->place->chunk, chunk->index);
    struct records records = {0};
    record_chunk_freed(&records, chunk->index);
    int r = manifest_commit(v, &records, NULL, NULL);
    records_fini(&records);
    return r;
}

#define FREE_BATCH 64

/* Some of what can go: logical chunks, and places that a crash left without one. */
static unsigned find_dead(
    struct volume *v, uint64_t *ret_chunks, unsigned *ret_chunk_count, uint64_t *ret_places)
{
    unsigned chunks = 0, places = 0;
    uint32_t pos = 0;
    for (struct lchunk *c; chunks < FREE_BATCH && (c = idmap_next(&v->state.chunks, &pos));) {
        if (dead(c) && !c->place->freeing)
            ret_chunks[chunks++] = c->index;
    }
    pos = 0;
    for (struct place *p; places < FREE_BATCH && (p = idmap_next(&v->state.places, &pos));) {
        if (p->chunk_refs == 0 && p->sealed && !p->freeing)
            ret_places[places++] = p->chunk;
    }
    *ret_chunk_count = chunks;
    return places;
}

/* Dead parts of places that stay, in one commit; the last part goes with its place. */
static int free_parts(struct volume *v, const uint64_t *chunks, unsigned count)
{
    struct records records = {0};
    for (unsigned i = 0; i < count; i++)
        state_chunk(&v->state, chunks[i])->place->scratch_live = 0;
    for (unsigned i = 0; i < count; i++) {
        struct place *p = state_chunk(&v->state, chunks[i])->place;
        if (p->scratch_live + 1 < p->chunk_refs) {
            p->scratch_live++;
            record_chunk_freed(&records, chunks[i]);
        }
    }
    int r = records.len_bytes > 0 ? manifest_commit(v, &records, NULL, NULL) : 0;
    records_fini(&records);
    return r;
}

int free_dead_chunks(struct volume *v)
{
    for (;;) {
        uint64_t chunks[FREE_BATCH], places[FREE_BATCH];
        unsigned chunk_count, place_count = find_dead(v, chunks, &chunk_count, places);
        if (chunk_count + place_count == 0)
            return 0;
        int r = free_parts(v, chunks, chunk_count);
        for (unsigned i = 0; i < chunk_count && r == 0; i++) {
            struct lchunk *chunk = state_chunk(&v->state, chunks[i]);
            if (chunk && dead(chunk) && !chunk->place->freeing)
                r = free_chunk(v, chunk);
        }
        for (unsigned i = 0; i < place_count && r == 0; i++)
            r = free_place(v, places[i]);
        if (r < 0)
            return r;
    }
}

int checkpoint_and_free(struct volume *v)
{
    uint64_t wanted = v->checkpoint_wanted;
    fiber_mutex_lock(&v->clean_mutex);
    int r = checkpoint_now(v);
    if (r == 0)
        r = free_dead_chunks(v);
    fiber_mutex_unlock(&v->clean_mutex);
    v->checkpoint_result = r;
    v->checkpoint_done = wanted;
    if (r < 0)
        v->trouble_ns = env_now_ns();
    if (r < 0 && !v->halted)
        log_warn_limited(
            "volume %s: checkpoint failed (%s): trying again", v->root.name, strerror(-r));
    fiber_queue_wake_all(&v->checkpoint_waiters);
    fiber_queue_wake_all(&v->provisioner_wake);
    return r;
}

void checkpointer(void *arg)
{
    struct volume *v = arg;
    while (!v->halted) {
        if (reclaim_is_wanted(v) && !v->stopping) {
            reclaim_round(v);
        } else if (v->checkpoint_done < v->checkpoint_wanted) {
            int r = checkpoint_and_free(v);
            /* Not to be woken early: those who wait ask again at once. */
            uint64_t until_ns = env_now_ns() + RETRY_NS;
            while (r < 0 && !v->halted && !v->stopping && !reclaim_is_wanted(v) &&
                   env_now_ns() < until_ns)
                fiber_queue_wait_until(&v->checkpoint_wake, until_ns);
            if (r == 0 && !v->stopping && !v->halted)
                clean_if_due(v);
        } else if (v->stopping) {
            break;
        } else {
            fiber_queue_wait(&v->checkpoint_wake);
        }
    }
    reclaim_end(v);
    fiber_queue_wake_all(&v->checkpoint_waiters);
}

void checkpoint_ask(struct volume *v)
{
    v->checkpoint_wanted++;
    fiber_queue_wake_all(&v->checkpoint_wake);
}

int checkpoint_wait(struct volume *v)
{
    checkpoint_ask(v);
    uint64_t ticket = v->checkpoint_wanted;
    while (v->checkpoint_done < ticket && !v->halted)
        fiber_queue_wait(&v->checkpoint_waiters);
    return v->halted ? -ESHUTDOWN : v->checkpoint_result;
}

/* --- Recovery ---------------------------------------------------------------------------------- */

#define REBUILD_WINDOW 16 /* directories read at the same time */

/* The directory of one item's row, read ahead. */
struct rebuild_read {
    struct volume *volume;
    const struct item *item;
    struct row_directory *directory;
    int result;
};

static void rebuild_read(void *ctx, unsigned i)
{
    struct rebuild_read *read = (struct rebuild_read *)ctx + i;
    struct volume *v = read->volume;
    if (read->item->trim || read->item->blocks)
        return;
    const struct lchunk *chunk = state_chunk(&v->state, read->item->chunk_index);
    struct chunk_place place;
    place_expand(&v->state, chunk->place, &place);
    read->result = row_read_directory(&v->row_io, &place, read->item->row, &read->directory);
}

/* As the manifest says it: the row itself may be lost, or away. */
static int rebuild_named_row(struct volume *v, const struct item *item, struct extmap *group)
{
    const struct lchunk *chunk = state_chunk(&v->state, item->chunk_index);
    struct chunk_place place;
    place_expand(&v->state, chunk->place, &place);
    uint32_t linear = chunk_row_linear_start(&place, item->row), at_bytes = 0;
    uint64_t blocks = DIV_ROUND_UP(v->state.size_bytes, BLOCK_BYTES);
    uint64_t seq = PLANTED(stale_version_wins) ? 1 : item->seq ? item->seq : item->group;
    for (struct block_run run; item_next_run(item, &at_bytes, &run); linear += run.count) {
        if (run.block >= blocks || run.count > blocks - run.block)
            return -EBADMSG;
        extmap_insert(group, run.block, run.count, EXTMAP_MAPPED,
            map_entry(MAP_MAPPED, 0, chunk->index, linear), seq);
    }
    return 0;
}

static int rebuild_row(struct volume *v, const struct item *item, struct row_directory *directory,
    struct extmap *group)
{
    const struct lchunk *chunk = state_chunk(&v->state, item->chunk_index);
    struct chunk_place place;
    place_expand(&v->state, chunk->place, &place);
    uint32_t linear = chunk_row_linear_start(&place, item->row);
    uint64_t blocks = DIV_ROUND_UP(v->state.size_bytes, BLOCK_BYTES);
    for (uint32_t i = 0; i < directory->count; i++) {
        uint64_t address = directory->entries[i].address;
        if (address == ROW_PAD)
            continue;
        if (address >= blocks)
            return -EBADMSG;
        extmap_insert(group, address, 1, EXTMAP_MAPPED,
            map_entry(MAP_MAPPED, 0, chunk->index, linear + i),
            PLANTED(stale_version_wins) ? 1
            : item->seq                 ? item->seq
                                        : directory->entries[i].seq);
    }
    return 0;
}

static void rebuild_group(struct volume *v, struct extmap *group, uint64_t seq)
{
    struct extmap_iter iter;
    struct extmap_run run;
    extmap_set_floor(&v->delta, seq);
    extmap_iter_init(&iter, group, 0);
    while (extmap_iter_next(&iter, &run)) {
        extmap_insert(&v->delta, run.start, run.len, run.kind, run.value, seq);
        if (run.kind == EXTMAP_MAPPED)
            v->unmerged_blocks += run.len;
    }
    extmap_remove_all(group);
}

/* Directories of items [from, from + count), all at once. */
static void rebuild_read_ahead(
    struct volume *v, uint32_t from, unsigned count, struct rebuild_read *reads)
{
    for (unsigned i = 0; i < count; i++)
        reads[i] = (struct rebuild_read){.volume = v, .item = &v->state.items[from + i]};
    fanout_run("read directory", count, count, rebuild_read, reads);
}

static int rebuild_item(
    struct volume *v, struct rebuild_read *read, struct extmap *group, char **ret_error)
{
    const struct item *item = read->item;
    if (item->trim) {
        extmap_insert(group, item->block, item->len, EXTMAP_TRIMMED, 0, item->seq);
        return 0;
    }
    if (PLANTED(directory_forgotten) && item == &v->state.items[v->state.item_count - 1])
        return 0;
    int r = read->result;
    if (item->blocks)
        r = rebuild_named_row(v, item, group);
    else if (r == 0)
        r = rebuild_row(v, item, read->directory, group);
    if (r < 0)
        *ret_error = mem_printf("the directory of row %u of chunk %llu cannot be read (%s): bring "
                                "back the disks that hold it (see 'holdfast disk list')",
            item->row, (unsigned long long)item->chunk_index, strerror(-r));
    return r;
}

int delta_rebuild(struct volume *v, char **ret_error)
{
    struct rebuild_read reads[REBUILD_WINDOW];
    struct extmap group;
    extmap_init(&group);
    int r = 0;
    for (uint32_t from = 0; from < v->state.item_count && r == 0; from += REBUILD_WINDOW) {
        unsigned count = MIN((uint32_t)REBUILD_WINDOW, v->state.item_count - from);
        rebuild_read_ahead(v, from, count, reads);
        for (unsigned i = 0; i < count; i++) {
            uint32_t at = from + i;
            if (r == 0 && at > 0 && v->state.items[at - 1].group != v->state.items[at].group)
                rebuild_group(v, &group, v->state.items[at - 1].group);
            if (r == 0)
                r = rebuild_item(v, &reads[i], &group, ret_error);
            mem_free(reads[i].directory);
        }
    }
    if (r == 0 && v->state.item_count > 0)
        rebuild_group(v, &group, v->state.items[v->state.item_count - 1].group);
    extmap_fini(&group);
    return r;
}
