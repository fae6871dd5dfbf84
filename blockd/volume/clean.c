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
 *  K4 Every move gains space: a place is moved only if its survivors need fewer allocation units. So
 *     cleaning without new writes comes to an end, also for those who wait for it (reclaim.c).
 */
#include <errno.h>
#include <string.h>

#include "blockd/disk/slab.h"
#include "blockd/volume/volume_impl.h"
#include "common/check.h"
#include "common/crc32c.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/planted.h"

#define GARBAGE_PERCENT 35     /* of what is stored: clean beyond this */
#define GARBAGE_PERCENT_FULL 5 /* when space is short */
#define PLACE_LIVE_PERCENT_MAX 75
#define PLACE_LIVE_PERCENT_FULL 92 /* somebody waits for space */
#define PLACES_PER_PASS 64
#define SMALL_UNITS (SLAB_UNITS / 2) /* of each shard: a place below this is small */
#define SMALL_MIN 4                  /* so many are worth being gathered */
#define GAIN_UNITS_MIN 2             /* of each shard: K4 */
#define NOMEM_NS 1000000             /* until parity buffers are back */

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
    bool cut_up;       /* no whole slab can be had: small places cannot be made into a large one */
    uint32_t live_max; /* more does not fit into any target that can be had now */
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
           !p->scratch_moved && p->row_count == p->rows_recorded && p->chunk_refs > 0;
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
    state_chunk(&v->state, index)->place->clean_target = true;
    c->place_chunk = state_chunk(&v->state, index)->place->chunk;
    c->linear_next = 0;
    c->cut_up =
        state_place(&v->state, c->place_chunk)->capacity_blocks < SMALL_UNITS * SLAB_UNIT_BLOCKS;
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
    int r;
    /* Large writes may have all parity buffers just now: they wait for the space made here. */
    while ((r = row_write(&v->row_io, &place, 0, c->blocks, c->gathered, true, NULL, NULL)) ==
               -ENOMEM &&
           !v->halted)
        env_sleep_ns(NOMEM_NS);
    p = state_place(&v->state, c->place_chunk);
    p->appending--;
    if (r < 0) {
        p->row_count = (uint8_t)row;
        if (r == -ESTALE)
            volume_deposed(v);
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
        live = live && !(PLANTED(cleaned_too_much) && s->count == 0);
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
    if (r == 0) {
        c->sources[c->source_count++] = source;
        state_place(&v->state, source)->scratch_moved = true;
    }
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
    *c = (struct cleaner){
        .volume = v, .row_max = (unsigned)v->pool.code.k * v->row_blocks, .live_max = UINT32_MAX};
    c->blocks = mem_alloc(c->row_max * sizeof(*c->blocks));
    c->buffers = mem_alloc_pages((size_t)c->row_max * BLOCK_BYTES);
    c->source = mem_alloc_pages((size_t)c->row_max * BLOCK_BYTES);
    uint32_t pos = 0;
    for (struct place *p; (p = idmap_next(&v->state.places, &pos));)
        p->scratch_moved = false;
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
static int clean_one(struct cleaner *c, uint64_t place_chunk, bool gather)
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
    if (r == 0 && gather && c->cut_up)
        return 0; /* the next look leaves it alone */
    if (r == 0 && target_room(c) < live) {
        /* Disks are so full or cut up that only small chunks can be had: what fits goes there. */
        c->live_max = target_room(c);
        return 0;
    }
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
    int r = p && cleanable(p) ? clean_one(&c, place_chunk, false) : -EAGAIN;
    if (r == 0 && c.source_count == 0)
        r = -ENOSPC;
    if (r == 0)
        r = commit_moves(&c);
    cleaner_fini(&c);
    return r;
}

/* --- Policy ------------------------------------------------------------------------------------ */

/* Its shards share slabs with others': what is left over of these can be used for little. */
static bool is_small(const struct place *p)
{
    return place_length_blocks(p, p->row_count) < SMALL_UNITS * SLAB_UNIT_BLOCKS;
}

static unsigned count_small(const struct volume *v)
{
    unsigned count = 0;
    uint32_t pos = 0;
    for (struct place *p; (p = idmap_next(&v->state.places, &pos));)
        count += cleanable(p) && is_small(p);
    return count;
}

/* K4. Several small places become one. */
static bool gains(const struct place *p, uint32_t end, bool gather)
{
    return (gather && is_small(p)) ||
           end >= p->scratch_live + GAIN_UNITS_MIN * SLAB_UNIT_BLOCKS * p->code.k;
}

/* The place with the smallest share of live blocks, below the limit, of those that a target can take. */
static struct place *emptiest(
    struct volume *v, unsigned live_percent_max, bool gather, uint32_t live_max)
{
    struct place *best = NULL;
    double best_share = live_percent_max / 100.0;
    uint32_t pos = 0;
    for (struct place *p; (p = idmap_next(&v->state.places, &pos));) {
        uint32_t end = place_linear_end(p, p->row_count);
        uint32_t room = gather && is_small(p) ? SLAB_UNITS * SLAB_UNIT_BLOCKS * p->code.k : end;
        double share = room > 0 ? (double)p->scratch_live / room : 0;
        if (cleanable(p) && share < best_share && gains(p, end, gather) &&
            p->scratch_live <= live_max) {
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

int clean_pass(struct volume *v, enum clean_urge urge)
{
    struct cleaner c;
    cleaner_init(&c, v);
    int r = 0;
    uint64_t freed = v->host->budget->places_freed;
    bool gather = false;
    for (unsigned n = 0; n < PLACES_PER_PASS && r == 0 && !v->halted; n++) {
        count_live(v);
        bool tidy = urge == CLEAN_TIDY || (urge == CLEAN_SHORT && !space_is_short(v));
        gather = urge == CLEAN_FULL && !c.cut_up && (gather || count_small(v) >= SMALL_MIN);
        if (garbage_percent(v) < (tidy ? GARBAGE_PERCENT : GARBAGE_PERCENT_FULL) && !gather)
            break;
        /* What gains little is moved only until something was gained. */
        bool full = urge == CLEAN_FULL && v->host->budget->places_freed == freed;
        struct place *p = emptiest(
            v, full ? PLACE_LIVE_PERCENT_FULL : PLACE_LIVE_PERCENT_MAX, gather, c.live_max);
        if (!p || v->stopping)
            break;
        r = clean_one(&c, p->chunk,
            gather && is_small(p) && !gains(p, place_linear_end(p, p->row_count), false));
    }
    if (r == 0)
        r = commit_moves(&c);
    cleaner_fini(&c);
    if (r == 0)
        r = clean_meta(v, urge != CLEAN_TIDY);
    if (r == 0)
        r = free_dead_chunks(v);
    return r;
}
