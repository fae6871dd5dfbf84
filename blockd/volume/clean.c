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
 *  K4 Every move gains space: a place is moved only if its survivors need fewer allocation units, or if it is small and
 *     joins others in one place. So cleaning without new writes comes to an end, also for those who wait for it
 *     (reclaim.c).
 *  K5 A target stays open from pass to pass until it is full: what it takes comes from many places. One that is closed
 *     half full would give back a part of a slab, not what it had cost.
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
#define LINEAR_NONE UINT32_MAX
#define NOMEM_NS 1000000 /* until parity buffers are back */

/* Survivors being gathered into rows of one new place. */
struct cleaner {
    struct volume *volume;
    uint64_t chunk_index, place_chunk; /* of the target's own (empty) logical chunk */
    struct row_block *blocks;
    uint8_t *buffers; /* a row's worth of blocks */
    uint8_t *source;  /* likewise: a row being read */
    unsigned gathered, row_max,
        row_limit;          /* row_limit: of the row being gathered, full or the target's last */
    uint32_t linear_next;   /* in the target */
    struct records records; /* rows and moved chunks, committed together */
    unsigned rows, chunks;
    uint64_t sources[PLACES_PER_PASS]; /* places whose chunks all moved */
    unsigned source_count;
    enum clean_urge urge;
    bool torn;         /* a row of the target failed: nothing can be appended to it any more */
    bool cut_up;       /* no whole slab can be had: small places cannot be made into a large one */
    uint32_t live_max; /* more does not fit into any target that can be had now */
};

/* One look over all chunks: live blocks by place, as place->scratch_live. */
static void count_live(struct volume *v)
{
    uint32_t pos = 0;
    for (struct place *p; (p = idmap_next(&v->state.places, &pos));) {
        p->scratch_live = p->scratch_largest = 0;
        p->scratch_busy = false;
    }
    pos = 0;
    for (const struct lchunk *c; (c = idmap_next(&v->state.chunks, &pos));) {
        c->place->scratch_live += c->live;
        c->place->scratch_largest = MAX(c->place->scratch_largest, c->live);
        if (c->unmerged_rows > 0 || c->memtable_rows > 0)
            c->place->scratch_busy = true;
    }
}

static bool cleanable(const struct place *p)
{
    return p->kind == SHARD_DATA && p->sealed && !p->freeing && !p->scratch_busy &&
           !p->scratch_moved && p->row_count == p->rows_recorded && p->chunk_refs > 0;
}

/* Not where more shards are gone than the code can make up for: it cannot be moved, and keeps nothing else from being. */
static bool recoverable(const struct volume *v, const struct place *p)
{
    unsigned there = 0;
    for (unsigned i = 0; i < place_shards(p); i++)
        there += p->shards[i].state != CHUNK_SHARD_LOST &&
                 disk_usable(volume_disk(v, p->shards[i].place.disk));
    return there >= p->code.k;
}

/* --- Target ------------------------------------------------------------------------------------ */

/* Blocks that the rows still to come can take, of each shard. */
static uint32_t target_room_blocks(const struct cleaner *c, const struct place *p)
{
    uint32_t used = place_length_blocks(p, p->row_count);
    uint32_t rest = p->capacity_blocks > used ? p->capacity_blocks - used : 0;
    uint32_t row = c->volume->row_blocks, rows_left = CHUNK_ROWS_MAX - p->row_count;
    uint32_t rows = rest / (row + 1), last = rest % (row + 1);
    if (rows >= rows_left)
        return rows_left * row;
    return rows * row + (last > 1 ? last - 1 : 0);
}

/* Where the next block goes: rows are full ones but the last before a commit and the last of the target. */
static void target_position(struct cleaner *c)
{
    const struct place *p = state_place(&c->volume->state, c->place_chunk);
    c->linear_next = place_linear_end(p, p->row_count);
    c->row_limit = MIN(c->row_max, target_room_blocks(c, p) * p->code.k);
}

static void target_use(struct cleaner *c, const struct lchunk *chunk)
{
    c->volume->clean_chunk.index = c->chunk_index = chunk->index;
    c->place_chunk = chunk->place->chunk;
    c->cut_up = chunk->place->capacity_blocks < SMALL_UNITS * SLAB_UNIT_BLOCKS;
    target_position(c);
}

/* A part of a slab is taken only when somebody waits for space. */
static int target_open(struct cleaner *c)
{
    struct volume *v = c->volume;
    uint64_t index;
    int r = chunk_new(v, SHARD_DATA, SHARD_PRIORITY_CLEAN, true, &index);
    if (r == -ENOSPC && c->urge == CLEAN_FULL)
        r = chunk_new(v, SHARD_DATA, SHARD_PRIORITY_CLEAN, false, &index);
    if (r < 0)
        return r;
    struct lchunk *chunk = state_chunk(&v->state, index);
    chunk->place->clean_target = true;
    target_use(c, chunk);
    return 0;
}

/* The one that an earlier pass left (K5). */
static void target_resume(struct cleaner *c)
{
    struct volume *v = c->volume;
    struct lchunk *chunk =
        v->clean_chunk.index ? state_chunk(&v->state, v->clean_chunk.index) : NULL;
    v->clean_chunk.index = 0;
    if (chunk && !chunk->place->retired && !chunk->place->sealed && !chunk->place->sealing)
        target_use(c, chunk);
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
        c->torn = true;
        if (r == -ESTALE)
            volume_deposed(v);
        return r;
    }
    record_row(&c->records, p->chunk, row, len);
    c->rows++;
    c->gathered = 0;
    target_position(c);
    return 0;
}

/* Blocks that the target can still take. */
static uint32_t target_room(const struct cleaner *c)
{
    if (!c->place_chunk)
        return 0;
    const struct place *p = state_place(&c->volume->state, c->place_chunk);
    uint32_t room = target_room_blocks(c, p) * p->code.k;
    return room > c->gathered ? room - c->gathered : 0;
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

/* A row of the place being cleaned. */
struct source_row {
    const struct row_directory *directory;
    uint32_t linear; /* of its first block, in the place */
};

/* Adds a survivor to the row being gathered. */
static int gather(struct cleaner *c, uint64_t chunk_index, uint32_t linear, uint64_t address,
    const uint8_t *content)
{
    struct volume *v = c->volume;
    if (c->gathered == c->row_limit) {
        int r = flush_row(c);
        if (r < 0)
            return r;
    }
    void *data = c->buffers + (size_t)c->gathered * BLOCK_BYTES;
    if (content) {
        memcpy(data, content, BLOCK_BYTES);
    } else {
        int r =
            read_mapped(v, map_entry(MAP_MAPPED, 0, chunk_index, linear), 1, address, data, false);
        if (r < 0)
            return r;
    }
    c->blocks[c->gathered++] =
        (struct row_block){.address = address, .data = data, .crc = crc32c(0, data, BLOCK_BYTES)};
    c->linear_next++;
    return 0;
}

/* Which blocks of the row are live and the chunk's: LINEAR_NONE for the others. */
static int find_live(struct cleaner *c, const struct lchunk *chunk, const struct source_row *row,
    struct survivors *s, uint32_t *ret_linear, unsigned *ret_count)
{
    *ret_count = 0;
    for (uint32_t i = 0; i < row->directory->count; i++) {
        uint64_t address = row->directory->entries[i].address;
        ret_linear[i] = LINEAR_NONE;
        uint32_t linear;
        if (address == ROW_PAD || chunk_untranslate(chunk, row->linear + i, &linear) < 0)
            continue;
        bool live;
        int r = is_live(c->volume, chunk, linear, address, &live);
        if (r < 0)
            return r;
        if (!live || (PLANTED(cleaned_too_much) && s->count == 0 && *ret_count == 0))
            continue;
        ret_linear[i] = linear;
        ++*ret_count;
    }
    return 0;
}

/* Goes through the blocks of one row of the chunk's place, in linear order. */
static int chunk_row(struct cleaner *c, struct lchunk *chunk, const struct chunk_place *place,
    const struct source_row *row, struct survivors *s)
{
    struct volume *v = c->volume;
    const struct row_directory *directory = row->directory;
    CLEANUP_FREE uint32_t *linear = mem_alloc((directory->count + 1) * sizeof(*linear));
    unsigned live;
    int r = find_live(c, chunk, row, s, linear, &live);
    if (r < 0 || live == 0)
        return r;
    /* Read whole when much of it survives, else block by block. */
    bool whole =
        live * 8 >= directory->count && directory->count <= c->row_max &&
        row_read(&v->row_io, place, row->linear, directory->count, ROW_PAD, c->source) == 0;
    for (uint32_t i = 0; i < directory->count; i++) {
        if (linear[i] == LINEAR_NONE)
            continue;
        r = gather(c, chunk->index, linear[i], directory->entries[i].address,
            whole ? c->source + (size_t)i * BLOCK_BYTES : NULL);
        if (r < 0)
            return r;
        s->bitmap[linear[i] / 64] |= 1ull << linear[i] % 64;
        s->words = MAX(s->words, linear[i] / 64 + 1);
        s->count++;
    }
    return 0;
}

/* All survivors of one logical chunk go to the target. */
static int move_chunk(struct cleaner *c, struct lchunk *chunk,
    struct row_directory *const *directories, const struct chunk_place *place)
{
    uint64_t bitmap[65536 / 64] = {0};
    struct survivors s = {.bitmap = bitmap};
    uint32_t base = c->linear_next;
    for (unsigned i = 0; i < place->row_count; i++) {
        struct source_row row = {
            .directory = directories[i], .linear = chunk_row_linear_start(place, i)};
        int r = chunk_row(c, chunk, place, &row, &s);
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
    c->cut_up = c->torn = false;
}

/* A target with room for so many blocks; -EFBIG: none can be had that takes them. */
static int target_for(struct cleaner *c, uint32_t blocks)
{
    int r = 0;
    if (c->place_chunk && target_room(c) < blocks) {
        r = commit_moves(c);
        target_close(c);
    }
    if (r == 0 && !c->place_chunk)
        r = target_open(c);
    if (r == 0 && target_room(c) < blocks) {
        /* Disks are so full or cut up that only small chunks can be had: what fits goes there. */
        c->live_max = target_room(c);
        r = -EFBIG;
    }
    return r;
}

/* Everything live in one place goes to targets, each logical chunk to one. */
static int move_place(struct cleaner *c, struct place *p)
{
    struct volume *v = c->volume;
    struct chunk_place place;
    uint64_t source = p->chunk;
    place_expand(&v->state, p, &place);
    struct row_directory *directories[CHUNK_ROWS_MAX] = {0};
    int r = read_directories(v, &place, directories);
    /* The set of chunks that live here cannot change: the mutex is held and the place is sealed. */
    unsigned count = 0;
    CLEANUP_FREE uint64_t *chunks = chunks_of(v, p, &count);
    for (unsigned i = 0; i < count && r == 0; i++) {
        struct lchunk *chunk = state_chunk(&v->state, chunks[i]);
        if (chunk->live == 0) { /* all of it is dead */
            record_chunk_freed(&c->records, chunk->index);
            c->chunks++;
            continue;
        }
        r = target_for(c, chunk->live);
        if (r == 0)
            r = move_chunk(c, state_chunk(&v->state, chunks[i]), directories, &place);
    }
    for (unsigned row = 0; row < place.row_count; row++)
        mem_free(directories[row]);
    if (r == 0) {
        c->sources[c->source_count++] = source;
        state_place(&v->state, source)->scratch_moved = true;
    }
    return r;
}

static void cleaner_init(struct cleaner *c, struct volume *v, enum clean_urge urge)
{
    *c = (struct cleaner){.volume = v,
        .urge = urge,
        .row_max = (unsigned)v->pool.code.k * v->row_blocks,
        .live_max = UINT32_MAX};
    c->blocks = mem_alloc(c->row_max * sizeof(*c->blocks));
    c->buffers = mem_alloc_pages((size_t)c->row_max * BLOCK_BYTES);
    c->source = mem_alloc_pages((size_t)c->row_max * BLOCK_BYTES);
    uint32_t pos = 0;
    for (struct place *p; (p = idmap_next(&v->state.places, &pos));)
        p->scratch_moved = false;
    target_resume(c);
}

/* K5 */
static bool target_stays(const struct cleaner *c)
{
    if (!c->place_chunk || c->torn || c->cut_up)
        return false;
    const struct place *p = state_place(&c->volume->state, c->place_chunk);
    return p->row_count > 0 && p->row_count == p->rows_recorded && !p->retired &&
           target_room(c) >= SLAB_UNIT_BLOCKS;
}

static void cleaner_fini(struct cleaner *c)
{
    if (!target_stays(c))
        target_close(c);
    records_fini(&c->records);
    mem_free(c->blocks);
    mem_free_pages(c->buffers, (size_t)c->row_max * BLOCK_BYTES);
    mem_free_pages(c->source, (size_t)c->row_max * BLOCK_BYTES);
}

/* Moves what is live in the place. `gather`: which gains nothing unless it joins others in a large place. */
static int clean_one(struct cleaner *c, uint64_t place_chunk, bool gather)
{
    struct place *p = state_place(&c->volume->state, place_chunk);
    if (!p)
        return 0;
    int r = c->source_count == PLACES_PER_PASS ? commit_moves(c) : 0;
    if (r == 0 && !c->place_chunk)
        r = target_open(c);
    if (r == 0 && gather && c->cut_up)
        return 0; /* the next look leaves it alone */
    if (r == 0)
        r = move_place(c, state_place(&c->volume->state, place_chunk));
    return r == -EFBIG ? 0 : r;
}

int clean_place(struct volume *v, uint64_t place_chunk)
{
    struct cleaner c;
    cleaner_init(&c, v, CLEAN_FULL);
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
        count += cleanable(p) && is_small(p) && recoverable(v, p);
    return count;
}

/* K4. Several small places become one. */
static bool gains(const struct place *p, uint32_t end, bool gather)
{
    return (gather && is_small(p)) ||
           end >= p->scratch_live + GAIN_UNITS_MIN * SLAB_UNIT_BLOCKS * p->code.k;
}

/* The place with the smallest share of live blocks, below the limit, of those whose largest chunk has at most live_max. */
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
            p->scratch_largest <= live_max && recoverable(v, p)) {
            best = p;
            best_share = share;
        }
    }
    return best;
}

/* What fits into the open target comes first, small places among it: so it gets full. */
static struct place *next_source(
    struct cleaner *c, unsigned live_percent_max, bool gather, bool *ret_gather)
{
    struct volume *v = c->volume;
    struct place *p = NULL;
    bool fill =
        c->place_chunk && !c->cut_up && state_place(&v->state, c->place_chunk)->row_count > 0;
    if (c->place_chunk && !c->cut_up)
        p = emptiest(v, live_percent_max, gather || fill, target_room(c));
    if (!p)
        p = emptiest(v, live_percent_max, gather, c->live_max);
    *ret_gather = p && !gains(p, place_linear_end(p, p->row_count), false);
    return p;
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
            c->live * 100 < end * limit && recoverable(v, c->place))
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

/* What is in the way of the next move; false = nothing is to be moved. */
static bool pass_goes_on(struct cleaner *c, bool *gather)
{
    struct volume *v = c->volume;
    count_live(v);
    bool tidy = c->urge == CLEAN_TIDY || (c->urge == CLEAN_SHORT && !space_is_short(v));
    *gather = c->urge == CLEAN_FULL && !c->cut_up && (*gather || count_small(v) >= SMALL_MIN);
    return *gather || garbage_percent(v) >= (tidy ? GARBAGE_PERCENT : GARBAGE_PERCENT_FULL);
}

int clean_pass(struct volume *v, enum clean_urge urge)
{
    struct cleaner c;
    cleaner_init(&c, v, urge);
    int r = 0;
    uint64_t freed = v->host->budget->places_freed;
    bool gather = false, gathers;
    for (unsigned n = 0; n < PLACES_PER_PASS && r == 0 && !v->halted && !v->stopping; n++) {
        if (!pass_goes_on(&c, &gather))
            break;
        /* What gains little is moved only until something was gained. */
        bool full = urge == CLEAN_FULL && v->host->budget->places_freed == freed;
        struct place *p = next_source(
            &c, full ? PLACE_LIVE_PERCENT_FULL : PLACE_LIVE_PERCENT_MAX, gather, &gathers);
        if (!p)
            break;
        r = clean_one(&c, p->chunk, gathers);
    }
    if (r == 0 || r == -ENOSPC) {
        int committed = commit_moves(&c);
        r = committed < 0 ? committed : r;
    }
    cleaner_fini(&c);
    if (r == 0)
        r = clean_meta(v, urge != CLEAN_TIDY);
    if (r == 0)
        r = free_dead_chunks(v);
    return r;
}
