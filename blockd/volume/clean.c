/* SPDX-License-Identifier: Apache-2.0
 *
 * Cleaning: places that are mostly dead give their survivors to a new place. The map does not
 * change:
 * the logical chunk is pointed at {place, base, survivor bitmap} (chunk.h, state.h).
 *
 * Invariants
 *  K1 A block survives if the newest committed version of its address is this very block; what the
 *     memtable
 *     has over it only makes a survivor dead a little later. A block never becomes live again.
 *  K2 Survivors are verified (CRC, address) when read and durable in their new place before the
 *     record that moves the chunk. Readers of the old place finish before its shards go (C3).
 *  K3 Only sealed places without unmerged rows are cleaned, never at the same time as a merge
 *     (clean_mutex).
 */
#include <errno.h>
#include <string.h>

#include "blockd/volume/volume_impl.h"
#include "common/check.h"
#include "common/crc32c.h"
#include "common/log.h"
#include "common/mem.h"

#define GARBAGE_PERCENT 35     /* of what is stored: clean beyond this */
#define GARBAGE_PERCENT_FULL 5 /* when space is short */
#define PLACE_LIVE_PERCENT_MAX 75
#define PLACES_PER_PASS 64
#define SHORT_PERCENT 15 /* free space below which garbage is not left lying */

/* Survivors being gathered into rows of one new place. */
struct cleaner {
    struct volume *volume;
    uint64_t chunk_index, place_chunk; /* of the target's own (empty) logical chunk */
    struct row_block *blocks;
    uint8_t *buffers; /* a row's worth of blocks */
    uint8_t *source;  /* likewise: a row being read */
    unsigned gathered, row_max;
    uint32_t linear_next;   /* in the target */
    struct records records; /* rows and moved chunks, committed together */
    unsigned rows, chunks;
    uint64_t sources[PLACES_PER_PASS]; /* places whose chunks all moved */
    unsigned source_count;
};

static uint32_t place_live(const struct volume *v, const struct place *p)
{
    uint32_t live = 0, pos = 0;
    for (const struct lchunk *c; (c = idmap_next(&v->state.chunks, &pos));)
        live += c->place == p ? c->live : 0;
    return live;
}

/* One look over all chunks: live blocks by place, as place->scratch_live. */
static void count_live(struct volume *v)
{
    uint32_t pos = 0;
    for (struct place *p; (p = idmap_next(&v->state.places, &pos));) {
        p->scratch_live = 0;
        p->scratch_busy = false;
    }
    pos = 0;
    for (const struct lchunk *c; (c = idmap_next(&v->state.chunks, &pos));) {
        c->place->scratch_live += c->live;
        if (c->unmerged_rows > 0 || c->memtable_rows > 0)
            c->place->scratch_busy = true;
    }
}

static bool cleanable(const struct place *p)
{
    return p->kind == SHARD_DATA && p->sealed && !p->freeing && !p->repairing && !p->scratch_busy &&
           p->row_count == p->rows_recorded && p->chunk_refs > 0;
}

/* --- Target ------------------------------------------------------------------------------------ */

static int target_open(struct cleaner *c)
{
    struct volume *v = c->volume;
    uint64_t index;
    int r = chunk_new(v, SHARD_DATA, SHARD_PRIORITY_CLEAN, &index);
    if (r < 0)
        return r;
    v->clean_chunk.index = c->chunk_index = index;
    c->place_chunk = state_chunk(&v->state, index)->place->chunk;
    c->linear_next = 0;
    return 0;
}

/* Writes what is gathered as one row of the target. */
static int flush_row(struct cleaner *c)
{
    struct volume *v = c->volume;
    if (c->gathered == 0)
        return 0;
    struct place *p = state_place(&v->state, c->place_chunk);
    struct chunk_place place;
    place_expand(&v->state, p, &place);
    unsigned len = row_len_for(p->code, c->gathered);
    unsigned row = place_add_row(p, len);
    p->appending++;
    int r = row_write(&v->row_io, &place, 0, c->blocks, c->gathered, true, NULL, NULL);
    p = state_place(&v->state, c->place_chunk);
    p->appending--;
    if (r < 0) {
        p->row_count = (uint8_t)row;
        return r;
    }
    record_row(&c->records, p->chunk, row, len);
    c->rows++;
    c->gathered = 0;
    return 0;
}

/* Blocks that the target can still take. */
static uint32_t target_room(const struct cleaner *c)
{
    const struct volume *v = c->volume;
    const struct place *p = state_place(&v->state, c->place_chunk);
    uint64_t room = place_room_blocks(v, p);
    return room > c->gathered ? (uint32_t)room - c->gathered : 0;
}

/* --- Survivors --------------------------------------------------------------------------------- */

struct survivors {
    uint64_t *bitmap; /* by original linear index */
    unsigned words;
    unsigned count;
};

static int is_live(
    struct volume *v, const struct lchunk *chunk, uint32_t linear, uint64_t address, bool *ret_live)
{
    struct map_run run;
    int r = lookup_committed(v, address, 1, &run);
    if (r < 0)
        return r;
    *ret_live =
        run.type == MAP_MAPPED && run.entry == map_entry(MAP_MAPPED, 0, chunk->index, linear);
    return 0;
}

/* A row of the place being cleaned, read whole when much of it survives. */
struct source_row {
    const struct row_directory *directory;
    uint32_t linear;        /* of its first block, in the place */
    const uint8_t *content; /* NULL = survivors are read one by one */
};

/* Adds a survivor to the row being gathered. */
static int gather(struct cleaner *c, uint64_t chunk_index, uint32_t linear, uint64_t address,
    const uint8_t *content)
{
    struct volume *v = c->volume;
    if (c->gathered == c->row_max) {
        int r = flush_row(c);
        if (r < 0)
            return r;
    }
    void *data = c->buffers + (size_t)c->gathered * BLOCK_BYTES;
    if (content) {
        memcpy(data, content, BLOCK_BYTES);
    } else {
        int r = read_mapped(v, map_entry(MAP_MAPPED, 0, chunk_index, linear), 1, address, data);
        if (r < 0)
            return r;
    }
    c->blocks[c->gathered++] =
        (struct row_block){.address = address, .data = data, .crc = crc32c(0, data, BLOCK_BYTES)};
    c->linear_next++;
    return 0;
}

/* Goes through the blocks of one row of the chunk's place, in linear order. */
static int chunk_row(
    struct cleaner *c, struct lchunk *chunk, const struct source_row *row, struct survivors *s)
{
    struct volume *v = c->volume;
    for (uint32_t i = 0; i < row->directory->count; i++) {
        uint64_t address = row->directory->entries[i].address;
        uint32_t linear;
        if (address == ROW_PAD || chunk_untranslate(chunk, row->linear + i, &linear) < 0)
            continue;
        bool live;
        int r = is_live(v, chunk, linear, address, &live);
        if (r == 0 && live)
            r = gather(c, chunk->index, linear, address,
                row->content ? row->content + (size_t)i * BLOCK_BYTES : NULL);
        if (r < 0)
            return r;
        if (live) {
            s->bitmap[linear / 64] |= 1ull << linear % 64;
            s->words = MAX(s->words, linear / 64 + 1);
            s->count++;
        }
    }
    return 0;
}

/* All survivors of one logical chunk go to the target. */
static int move_chunk(struct cleaner *c, struct lchunk *chunk,
    struct row_directory *const *directories, const struct chunk_place *place, bool whole)
{
    uint64_t bitmap[65536 / 64] = {0};
    struct survivors s = {.bitmap = bitmap};
    uint32_t base = c->linear_next;
    for (unsigned i = 0; i < place->row_count; i++) {
        struct source_row row = {
            .directory = directories[i], .linear = chunk_row_linear_start(place, i)};
        if (whole && directories[i]->count <= c->row_max &&
            row_read(&c->volume->row_io, place, row.linear, directories[i]->count, ROW_PAD,
                c->source) == 0)
            row.content = c->source;
        int r = chunk_row(c, chunk, &row, &s);
        if (r < 0)
            return r;
    }
    if (s.words == 0)
        s.words = 1; /* nothing survived; an empty bitmap says so */
    record_chunk(&c->records, chunk->index, c->place_chunk, chunk->live, base, bitmap, s.words);
    c->chunks++;
    return 0;
}

static int read_directories(
    struct volume *v, const struct chunk_place *place, struct row_directory **directories)
{
    for (unsigned row = 0; row < place->row_count; row++) {
        int r = row_read_directory(&v->row_io, place, row, &directories[row]);
        if (r < 0)
            return r;
    }
    return 0;
}

/* The logical chunks that live in the place, by index: the table of them may change its layout
 * whenever a new one is made. */
static uint64_t *chunks_of(const struct volume *v, const struct place *p, unsigned *ret_count)
{
    uint64_t *chunks = mem_alloc(p->chunk_refs * sizeof(*chunks));
    unsigned count = 0;
    uint32_t pos = 0;
    for (const struct lchunk *c; (c = idmap_next(&v->state.chunks, &pos));) {
        if (c->place == p)
            chunks[count++] = c->index;
    }
    CHECK(count == p->chunk_refs);
    *ret_count = count;
    return chunks;
}

/* Everything live in one place goes to the target, which has room for it. */
static int move_place(struct cleaner *c, struct place *p)
{
    struct volume *v = c->volume;
    struct chunk_place place;
    uint64_t source = p->chunk;
    place_expand(&v->state, p, &place);
    bool whole = p->chunk_refs == 1 && place_live(v, p) * 8 >= chunk_linear_end(&place);
    struct row_directory *directories[CHUNK_ROWS_MAX] = {0};
    int r = read_directories(v, &place, directories);
    /* The set of chunks that live here cannot change: the mutex is held and the place is sealed. */
    unsigned count = 0;
    CLEANUP_FREE uint64_t *chunks = chunks_of(v, p, &count);
    for (unsigned i = 0; i < count && r == 0; i++)
        r = move_chunk(c, state_chunk(&v->state, chunks[i]), directories, &place, whole);
    for (unsigned row = 0; row < place.row_count; row++)
        mem_free(directories[row]);
    if (r == 0)
        c->sources[c->source_count++] = source;
    return r;
}

/* Makes the moves durable; the sources lose their last chunk and go. */
static int commit_moves(struct cleaner *c)
{
    struct volume *v = c->volume;
    int r = flush_row(c);
    if (r < 0 || c->chunks == 0)
        return r;
    r = manifest_commit(v, &c->records, NULL, NULL);
    records_clear(&c->records);
    if (r < 0)
        return r;
    v->stats.cleaned_chunks += c->chunks;
    for (unsigned i = 0; i < c->source_count && r == 0; i++)
        r = free_place(v, c->sources[i]);
    c->source_count = c->rows = c->chunks = 0;
    return r;
}

static void target_close(struct cleaner *c)
{
    struct volume *v = c->volume;
    struct place *p = c->place_chunk ? state_place(&v->state, c->place_chunk) : NULL;
    v->clean_chunk.index = 0;
    if (p) {
        p->row_count = p->rows_recorded; /* rows of a move that failed */
        place_retire(v, p);
    }
    c->place_chunk = 0;
}

static void cleaner_init(struct cleaner *c, struct volume *v)
{
    *c = (struct cleaner){.volume = v, .row_max = (unsigned)v->pool.code.k * v->row_blocks};
    c->blocks = mem_alloc(c->row_max * sizeof(*c->blocks));
    c->buffers = mem_alloc_pages((size_t)c->row_max * BLOCK_BYTES);
    c->source = mem_alloc_pages((size_t)c->row_max * BLOCK_BYTES);
}

static void cleaner_fini(struct cleaner *c)
{
    target_close(c);
    records_fini(&c->records);
    mem_free(c->blocks);
    mem_free_pages(c->buffers, (size_t)c->row_max * BLOCK_BYTES);
    mem_free_pages(c->source, (size_t)c->row_max * BLOCK_BYTES);
}

/* Moves `p` into the current target, or a new one when that has not enough room for sure. */
static int clean_one(struct cleaner *c, uint64_t place_chunk)
{
    struct volume *v = c->volume;
    struct place *p = state_place(&v->state, place_chunk);
    if (!p)
        return 0;
    uint32_t live = place_live(v, p);
    int r = 0;
    if (c->place_chunk && (target_room(c) < live || c->source_count == PLACES_PER_PASS)) {
        r = commit_moves(c);
        target_close(c);
    }
    if (r == 0 && !c->place_chunk)
        r = target_open(c);
    if (r == 0 && target_room(c) < live)
        r = -ENOSPC; /* disks are so full or cut up that only small chunks can be had */
    if (r == 0)
        r = move_place(c, state_place(&v->state, place_chunk));
    return r;
}

int clean_place(struct volume *v, uint64_t place_chunk)
{
    struct cleaner c;
    cleaner_init(&c, v);
    count_live(v);
    struct place *p = state_place(&v->state, place_chunk);
    int r = p && cleanable(p) ? clean_one(&c, place_chunk) : -EAGAIN;
    if (r == 0)
        r = commit_moves(&c);
    cleaner_fini(&c);
    return r;
}

/* --- Policy ------------------------------------------------------------------------------------ */

static struct place *emptiest(struct volume *v)
{
    struct place *best = NULL;
    double best_share = PLACE_LIVE_PERCENT_MAX / 100.0;
    uint32_t pos = 0;
    for (struct place *p; (p = idmap_next(&v->state.places, &pos));) {
        uint32_t end = place_linear_end(p, p->row_count);
        double share = end > 0 ? (double)p->scratch_live / end : 0;
        if (cleanable(p) && share < best_share) {
            best = p;
            best_share = share;
        }
    }
    return best;
}

static unsigned garbage_percent(struct volume *v)
{
    uint64_t total = 0, live = 0;
    uint32_t pos = 0;
    for (const struct place *p; (p = idmap_next(&v->state.places, &pos));) {
        if (p->kind != SHARD_DATA || !p->sealed || p->scratch_busy)
            continue;
        total += place_linear_end(p, p->row_count);
        live += p->scratch_live;
    }
    return total > 0 ? (unsigned)((total - MIN(live, total)) * 100 / total) : 0;
}

/* Pages of half-dead metadata chunks are marked; the next merge writes them elsewhere. */
static int mark_pages(struct volume *v, const struct lchunk *chunk)
{
    struct chunk_place place;
    uint64_t index = chunk->index;
    place_expand(&v->state, chunk->place, &place);
    for (unsigned row = 0; row < place.row_count; row++) {
        struct row_directory *directory;
        int r = row_read_directory(&v->row_io, &place, row, &directory);
        if (r < 0)
            return r;
        uint32_t linear = chunk_row_linear_start(&place, row);
        for (uint32_t i = 0; i < directory->count; i++) {
            if (directory->entries[i].address != ROW_PAD)
                map_rewrite_page(v->map, directory->entries[i].address,
                    map_entry(MAP_PAGE, 0, index, linear + i));
        }
        mem_free(directory);
        v->meta_rewrites = true;
    }
    return 0;
}

int clean_meta_chunk(struct volume *v, uint64_t index)
{
    const struct lchunk *chunk = state_chunk(&v->state, index);
    int r = chunk ? mark_pages(v, chunk) : 0;
    if (r == 0)
        r = checkpoint_now(v);
    return r == 0 ? free_dead_chunks(v) : r;
}

static int clean_meta(struct volume *v, bool aggressive)
{
    unsigned limit = aggressive ? 75 : 40;
    uint32_t pos = 0;
    uint64_t marked[16];
    unsigned count = 0;
    for (const struct lchunk *c; count < 16 && (c = idmap_next(&v->state.chunks, &pos));) {
        uint32_t end = place_linear_end(c->place, c->place->row_count);
        if (c->place->kind == SHARD_META && c->place->sealed && c->live > 0 &&
            c->live * 100 < end * limit)
            marked[count++] = c->index;
    }
    for (unsigned i = 0; i < count; i++) {
        const struct lchunk *chunk = state_chunk(&v->state, marked[i]);
        int r = chunk ? mark_pages(v, chunk) : 0;
        if (r < 0)
            return r;
    }
    return count > 0 ? checkpoint_now(v) : 0;
}

int clean_pass(struct volume *v, bool aggressive)
{
    struct cleaner c;
    cleaner_init(&c, v);
    int r = 0;
    for (unsigned n = 0; n < PLACES_PER_PASS && r == 0 && !v->halted; n++) {
        count_live(v);
        if (garbage_percent(v) < (aggressive ? GARBAGE_PERCENT_FULL : GARBAGE_PERCENT))
            break;
        struct place *p = emptiest(v);
        /* What the cleaner has gathered from is still there until its moves are committed. */
        bool again = false;
        for (unsigned i = 0; p && i < c.source_count; i++)
            again = again || c.sources[i] == p->chunk;
        if (!p)
            break;
        if (again) {
            r = commit_moves(&c);
            target_close(&c);
        } else {
            r = clean_one(&c, p->chunk);
        }
        if (v->stopping)
            break;
    }
    if (r == 0)
        r = commit_moves(&c);
    cleaner_fini(&c);
    if (r == 0)
        r = clean_meta(v, aggressive);
    if (r == 0)
        r = free_dead_chunks(v);
    return r;
}

/* Space that the pool's disks have left, in percent. */
static unsigned free_percent(const struct volume *v)
{
    uint64_t size = 0, left = 0;
    list_for_each (it, v->host->disks) {
        const struct disk *disk = list_entry(it, struct disk, link);
        if (disk->state != DISK_IN)
            continue;
        size += disk->size_bytes;
        left += disk->free_bytes;
    }
    return size > 0 ? (unsigned)(left * 100 / size) : 100;
}

bool space_is_short(const struct volume *v)
{
    return free_percent(v) < SHORT_PERCENT;
}

/* Cleans when there is enough garbage, or when somebody waits for space (reclaim_wait). The
 * budget's
 * mutex: one volume of the node at a time, for its buffers and its disk bandwidth. */
void clean_if_due(struct volume *v)
{
    bool aggressive = v->clean_wanted || space_is_short(v);
    v->clean_wanted = false;
    fiber_mutex_lock(&v->host->budget->cleaning);
    fiber_mutex_lock(&v->clean_mutex);
    int r = v->halted || v->stopping ? 0 : clean_pass(v, aggressive);
    fiber_mutex_unlock(&v->clean_mutex);
    fiber_mutex_unlock(&v->host->budget->cleaning);
    if (r < 0 && r != -ENOSPC && !v->halted)
        log_warn_limited("volume %s: cleaning: %s", v->root.name, strerror(-r));
    fiber_queue_wake_all(&v->provisioner_wake);
    fiber_queue_wake_all(&v->space_waiters);
}

void reclaim_over(struct volume *v)
{
    v->reclaiming = false;
    fiber_queue_wake_all(&v->host->budget->reclaim_waiters);
}

static void reclaim_ask(struct volume *v)
{
    if (v->reclaiming || v->halted || v->stopping || !v->serving)
        return;
    v->reclaiming = v->clean_wanted = v->destage_all = true;
    v->checkpoint_wanted++;
    fiber_queue_wake_all(&v->destager_wake);
    fiber_queue_wake_all(&v->checkpoint_wake);
}

static bool somebody_reclaims(const struct memory_budget *budget)
{
    list_for_each (it, &budget->volumes) {
        if (list_entry(it, struct volume, budget_link)->reclaiming)
            return true;
    }
    return false;
}

/* What was overwritten or trimmed becomes free space, in all volumes of the node: destage, merge,
 * clean. -ENOSPC when that freed nothing anywhere. */
int reclaim_wait(struct volume *v)
{
    struct memory_budget *budget = v->host->budget;
    uint64_t freed = budget->places_freed;
    list_for_each (it, &budget->volumes)
        reclaim_ask(list_entry(it, struct volume, budget_link));
    while (budget->places_freed == freed && somebody_reclaims(budget) && !v->halted && !v->stopping)
        fiber_queue_wait(&budget->reclaim_waiters);
    if (v->halted || v->stopping)
        return -ESHUTDOWN;
    return budget->places_freed == freed ? -ENOSPC : 0;
}

int volume_clean(struct volume *v)
{
    int r = destage_everything(v);
    if (r == 0)
        r = checkpoint_wait(v);
    if (r < 0)
        return r;
    fiber_mutex_lock(&v->clean_mutex);
    r = place_seal_retired(v);
    if (r == 0)
        r = clean_pass(v, true);
    fiber_mutex_unlock(&v->clean_mutex);
    return r;
}
