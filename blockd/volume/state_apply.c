/* SPDX-License-Identifier: Apache-2.0
 *
 * Applying manifest records to the state. Input may be damaged or hostile: everything is checked
 * before it is used.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "blockd/volume/map.h"
#include "blockd/volume/state.h"
#include "blockd/volume/state_records.h"
#include "common/check.h"
#include "common/mem.h"

#define CHUNK_INDEX_END (1ull << 34) /* map entries hold 34 bits */
#define SEQ_END (1ull << 63)         /* so that sums of sequence numbers do not wrap */
#define WALS_MAX 65536               /* find_wal is linear */

struct reader {
    const uint8_t *at, *end;
    bool bad;
};

static uint64_t read_int(struct reader *r, unsigned bytes)
{
    if (r->bad || (size_t)(r->end - r->at) < bytes) {
        r->bad = true;
        return 0;
    }
    uint64_t v = 0;
    for (unsigned i = 0; i < bytes; i++)
        v |= (uint64_t)r->at[i] << 8 * i;
    r->at += bytes;
    return v;
}

static bool read_shards(struct reader *r, struct chunk_shard *shards, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        shards[i].place.disk = (uint32_t)read_int(r, 4);
        shards[i].place.instance = read_int(r, 8);
        uint64_t state = read_int(r, 1);
        if (state > CHUNK_SHARD_DAMAGED)
            r->bad = true;
        shards[i].state = (enum chunk_shard_state)state;
    }
    return !r->bad;
}

static bool is_map_root(uint64_t root)
{
    return root == 0 || map_entry_type(root) == MAP_PAGE;
}

static const char *apply_volume(struct state *s, struct reader *r)
{
    uint64_t size = read_int(r, 8), next = read_int(r, 8), committed = read_int(r, 8);
    uint64_t root = read_int(r, 8), levels = read_int(r, 1), item_first = read_int(r, 8);
    if (r->bad || size % 512 || size > VOLUME_SIZE_BYTES_MAX || next == 0 ||
        next > CHUNK_INDEX_END || committed >= SEQ_END || !is_map_root(root) || levels == 0 ||
        levels > MAP_LEVELS_MAX)
        return "volume record out of range";
    if (s->item_count > 0 || s->places.count > 0 || !list_empty(&s->wals))
        return "volume record is not the first";
    s->size_bytes = size;
    s->chunk_index_next = next;
    s->committed_seq = committed;
    s->map_root = root;
    s->map_levels = (unsigned)levels;
    s->item_first = item_first;
    return NULL;
}

static const char *apply_place(struct state *s, struct reader *r)
{
    uint64_t chunk = read_int(r, 8), kind = read_int(r, 1), k = read_int(r, 1), m = read_int(r, 1);
    uint64_t sealed = read_int(r, 1), epoch = read_int(r, 4), capacity = read_int(r, 4);
    uint64_t rows = read_int(r, 2);
    if (r->bad || chunk == 0 || (kind != SHARD_DATA && kind != SHARD_META) || k == 0 ||
        k > CODE_K_MAX || m > CODE_M_MAX || sealed > 1 || rows > CHUNK_ROWS_MAX || capacity == 0 ||
        capacity > SHARD_EXTENT_BLOCKS_MAX)
        return "place record out of range";
    if (state_place(s, chunk))
        return "place recorded twice";
    struct place *p = mem_zalloc(1, sizeof(*p) + (k + m) * sizeof(struct chunk_shard));
    p->row_len = mem_zalloc(sealed ? MAX(rows, 1u) : CHUNK_ROWS_MAX, sizeof(uint16_t));
    p->chunk = chunk;
    p->kind = (uint8_t)kind;
    p->code = (struct shard_code){.k = (uint8_t)k, .m = (uint8_t)m};
    p->sealed = sealed;
    p->epoch = (uint32_t)epoch;
    p->capacity_blocks = (uint32_t)capacity;
    p->row_count = p->rows_recorded = (uint8_t)rows;
    idmap_put(&s->places, chunk, p);
    for (unsigned i = 0; i < rows; i++) {
        p->row_len[i] = (uint16_t)read_int(r, 2);
        if (p->row_len[i] == 0 || p->row_len[i] > APPEND_ENTRIES_MAX)
            return "place record has a row of impossible length";
    }
    if (!read_shards(r, p->shards, (unsigned)(k + m)))
        return "place record cut short";
    if (place_length_blocks(p, (unsigned)rows) > capacity)
        return "place record has more rows than fit";
    return NULL;
}

static const char *apply_chunk(struct state *s, struct reader *r)
{
    uint64_t index = read_int(r, 8), place_chunk = read_int(r, 8), live = read_int(r, 4);
    uint64_t base = read_int(r, 4), words = read_int(r, 2);
    struct place *place = state_place(s, place_chunk);
    if (r->bad || index == 0 || index >= CHUNK_INDEX_END || base >= 65536 || words > 65536 / 64)
        return "chunk record out of range";
    if (!place)
        return "chunk record names a place that is not there";
    if (place->chunk_refs == UINT16_MAX)
        return "chunk record: too many chunks in one place";
    struct lchunk *chunk = state_chunk(s, index);
    if (chunk && chunk->place != place && chunk->unmerged_rows > 0)
        return "chunk record moves rows that are not in the map yet"; /* K3 */
    if (!chunk) {
        chunk = NEW(struct lchunk);
        chunk->index = index;
        idmap_put(&s->chunks, index, chunk);
    } else if (chunk->place) {
        chunk->place->chunk_refs--;
    }
    chunk->place = place;
    place->chunk_refs++;
    chunk->live = (uint32_t)live;
    chunk->base = (uint32_t)base;
    mem_free(chunk->bitmap);
    chunk->bitmap = NULL;
    chunk->bitmap_words = 0;
    if (words > 0) {
        chunk->bitmap = mem_zalloc(words, 8);
        chunk->bitmap_words = (uint16_t)words;
        for (unsigned i = 0; i < words; i++)
            chunk->bitmap[i] = read_int(r, 8);
    }
    if (r->bad)
        return "chunk record cut short";
    s->chunk_index_next = MAX(s->chunk_index_next, index + 1);
    return NULL;
}

static const char *apply_row(struct state *s, struct reader *r)
{
    struct place *p = state_place(s, read_int(r, 8));
    uint64_t row = read_int(r, 2), len = read_int(r, 2);
    if (r->bad || len == 0 || len > APPEND_ENTRIES_MAX)
        return "row record out of range";
    if (!p)
        return "row record names a place that is not there";
    if (p->sealed || row != p->rows_recorded || row >= CHUNK_ROWS_MAX)
        return "row record out of order";
    if (row < p->row_count) {
        if (p->row_len[row] != len)
            return "row record contradicts the row's length";
    } else {
        p->row_len[p->row_count++] = (uint16_t)len;
    }
    p->rows_recorded++;
    if (place_length_blocks(p, p->rows_recorded) > p->capacity_blocks)
        return "row record beyond the place's capacity";
    return NULL;
}

static const char *apply_item(struct state *s, struct reader *r)
{
    uint64_t trim = read_int(r, 1), row = read_int(r, 2), chunk_index = read_int(r, 8);
    uint64_t block = read_int(r, 8), len = read_int(r, 8), seq = read_int(r, 8);
    uint64_t group = read_int(r, 8);
    if (r->bad || trim > 1 || block >= 1ull << 52 || len > (1ull << 52) - block ||
        (trim && len == 0) || seq > group || group >= SEQ_END)
        return "item record out of range";
    if (s->item_count > 0 && group < s->items[s->item_count - 1].group)
        return "item record out of order";
    if (!trim) {
        struct lchunk *chunk = state_chunk(s, chunk_index);
        if (!chunk || row >= chunk->place->row_count)
            return "item record names a row that is not there";
        if (chunk->unmerged_rows == UINT16_MAX)
            return "item record: too many rows of one chunk";
        chunk->unmerged_rows++;
    }
    if (s->item_count == s->item_capacity) {
        s->item_capacity = s->item_capacity ? s->item_capacity * 2 : 64;
        s->items = mem_realloc(s->items, s->item_capacity * sizeof(*s->items));
    }
    s->items[s->item_count++] = (struct item){.trim = trim,
        .row = (uint16_t)row,
        .chunk_index = chunk_index,
        .block = block,
        .len = len,
        .seq = seq,
        .group = group};
    return NULL;
}

/* Blocks of the row of the item before: no more than the row can hold, in order. */
static bool blocks_make_sense(const struct state *s, const struct item *item, struct reader r)
{
    const struct place *p = state_chunk(s, item->chunk_index)->place;
    uint64_t end = 0, room = (uint64_t)p->code.k * p->row_len[item->row];
    while (r.at < r.end) {
        uint64_t gap, count;
        if (!read_varint(&r.at, r.end, &gap) || !read_varint(&r.at, r.end, &count) || count == 0 ||
            count > room || gap >= 1ull << 52 || end + gap + count > 1ull << 52)
            return false;
        room -= count;
        end += gap + count;
    }
    return true;
}

static const char *apply_item_blocks(struct state *s, struct reader *r)
{
    struct item *item = s->item_count > 0 ? &s->items[s->item_count - 1] : NULL;
    size_t len = (size_t)(r->end - r->at);
    if (!item || item->trim || item->blocks)
        return "blocks record that follows no row";
    if (len == 0 || len > UINT32_MAX || !blocks_make_sense(s, item, *r))
        return "blocks record out of range";
    item->blocks = mem_alloc(len);
    memcpy(item->blocks, r->at, len);
    item->blocks_len_bytes = (uint32_t)len;
    s->item_blocks_bytes += len;
    r->at = r->end;
    return NULL;
}

static const char *apply_sealed(struct state *s, struct reader *r)
{
    struct place *p = state_place(s, read_int(r, 8));
    if (r->bad || !p)
        return "seal record names a place that is not there";
    if (p->row_count != p->rows_recorded)
        return "seal record before the place's last row";
    p->sealed = true;
    p->row_len = mem_realloc(p->row_len, MAX(p->row_count, 1) * sizeof(uint16_t));
    return NULL;
}

static const char *apply_shard(struct state *s, struct reader *r)
{
    struct place *p = state_place(s, read_int(r, 8));
    uint64_t index = read_int(r, 1);
    struct chunk_shard shard;
    if (!read_shards(r, &shard, 1) || !p || index >= place_shards(p))
        return "shard record names a shard that is not there";
    p->shards[index] = shard;
    return NULL;
}

static const char *apply_place_freed(struct state *s, struct reader *r)
{
    uint64_t chunk = read_int(r, 8);
    struct place *p = state_place(s, chunk);
    if (r->bad || !p)
        return "freed record names a place that is not there";
    if (p->chunk_refs > 0)
        return "freed record names a place in use";
    state_place_free(idmap_remove(&s->places, chunk));
    return NULL;
}

static const char *apply_chunk_freed(struct state *s, struct reader *r)
{
    uint64_t index = read_int(r, 8);
    struct lchunk *chunk = state_chunk(s, index);
    if (r->bad || !chunk)
        return "freed record names a chunk that is not there";
    if (chunk->unmerged_rows > 0)
        return "freed record names a chunk with rows that are not in the map yet";
    chunk->place->chunk_refs--;
    state_chunk_free(idmap_remove(&s->chunks, index));
    return NULL;
}

static struct wal *find_wal(struct state *s, uint64_t chunk, unsigned *ret_passed)
{
    *ret_passed = 0;
    list_for_each (it, &s->wals) {
        struct wal *wal = list_entry(it, struct wal, link);
        (*ret_passed)++;
        if (wal->chunk == chunk)
            return wal;
    }
    return NULL;
}

static const char *apply_wal(struct state *s, struct reader *r)
{
    uint64_t chunk = read_int(r, 8), epoch = read_int(r, 4), capacity = read_int(r, 4);
    uint64_t length = read_int(r, 4), last_seq = read_int(r, 8), sealed = read_int(r, 1);
    uint64_t copies = read_int(r, 1);
    if (r->bad || chunk == 0 || capacity == 0 || capacity > LOG_CAPACITY_BLOCKS_MAX ||
        length > capacity || sealed > 1 || copies == 0 || copies > CODE_M_MAX + 1)
        return "log record out of range";
    unsigned count;
    struct wal *wal = find_wal(s, chunk, &count);
    if (!wal) {
        if (count == WALS_MAX)
            return "log record: more logs than a volume has";
        wal = NEW(struct wal);
        wal->chunk = chunk;
        list_push_back(&s->wals, &wal->link);
    } else if (wal->copies != copies || wal->capacity_blocks != capacity) {
        return "log record contradicts an earlier one";
    }
    wal->epoch = (uint32_t)epoch;
    wal->capacity_blocks = (uint32_t)capacity;
    wal->copies = (uint8_t)copies;
    if (sealed) {
        wal->length_blocks = (uint32_t)length;
        wal->last_seq = last_seq;
        wal->sealed = true;
    }
    return read_shards(r, wal->shards, (unsigned)copies) ? NULL : "log record cut short";
}

static const char *apply_wal_freed(struct state *s, struct reader *r)
{
    unsigned count;
    struct wal *wal = find_wal(s, read_int(r, 8), &count);
    if (r->bad || !wal)
        return "freed record names a log that is not there";
    list_remove(&wal->link);
    mem_free(wal);
    return NULL;
}

static const char *apply_map(struct state *s, struct reader *r)
{
    uint64_t root = read_int(r, 8), levels = read_int(r, 1), merged = read_int(r, 8);
    if (r->bad || !is_map_root(root) || levels == 0 || levels > MAP_LEVELS_MAX ||
        merged < s->item_first || merged - s->item_first > s->item_count)
        return "map record out of range";
    s->map_root = root;
    s->map_levels = (unsigned)levels;
    uint32_t n = (uint32_t)(merged - s->item_first);
    for (uint32_t i = 0; i < n; i++) {
        struct item *item = &s->items[i];
        if (item->trim)
            continue;
        struct lchunk *chunk = state_chunk(s, item->chunk_index);
        if (!chunk || chunk->unmerged_rows == 0)
            return "map record merges rows of a chunk that is not there";
        chunk->unmerged_rows--;
        s->item_blocks_bytes -= item->blocks_len_bytes;
        mem_free(item->blocks);
        item->blocks = NULL;
        item->blocks_len_bytes = 0;
    }
    if (n > 0)
        memmove(s->items, s->items + n, (s->item_count - n) * sizeof(*s->items));
    s->item_count -= n;
    s->item_first = merged;
    return NULL;
}

static const char *apply_live(struct state *s, struct reader *r)
{
    struct lchunk *chunk = state_chunk(s, read_int(r, 8));
    uint64_t live = read_int(r, 4);
    if (r->bad || !chunk)
        return "live count of a chunk that is not there";
    chunk->live = (uint32_t)live;
    return NULL;
}

static const char *apply_committed(struct state *s, struct reader *r)
{
    uint64_t seq = read_int(r, 8);
    if (r->bad || seq < s->committed_seq || seq >= SEQ_END)
        return "commit record out of order";
    s->committed_seq = seq;
    return NULL;
}

static const char *apply_size(struct state *s, struct reader *r)
{
    uint64_t size = read_int(r, 8);
    if (r->bad || size == 0 || size % 512 || size > VOLUME_SIZE_BYTES_MAX || size < s->size_bytes)
        return "size record out of range";
    s->size_bytes = size;
    return NULL;
}

static const char *apply_continue(struct state *s, struct reader *r)
{
    struct copies_ref ref = {.chunk = read_int(r, 8), .count = (uint8_t)read_int(r, 1)};
    if (r->bad || ref.chunk == 0 || ref.count == 0 || ref.count > CODE_M_MAX + 1)
        return "continuation record out of range";
    for (unsigned i = 0; i < ref.count; i++) {
        ref.places[i].disk = (uint32_t)read_int(r, 4);
        ref.places[i].instance = read_int(r, 8);
    }
    s->continued = ref;
    return r->bad ? "continuation record cut short" : NULL;
}

#define REQUEST_RUN_BYTES 28

static const char *apply_requests(struct state *s, struct reader *r)
{
    size_t count = (size_t)(r->end - r->at) / REQUEST_RUN_BYTES;
    if ((size_t)(r->end - r->at) != count * REQUEST_RUN_BYTES || count > REQUEST_RUNS_MAX)
        return "requests record cut short";
    mem_free(s->requests);
    s->requests = mem_zalloc(MAX(count, (size_t)1), sizeof(*s->requests));
    s->request_count = 0;
    uint64_t total = 0;
    for (size_t i = 0; i < count; i++) {
        struct request_run *run = &s->requests[i];
        run->session = read_int(r, 8);
        run->number = read_int(r, 8);
        run->count = (uint32_t)read_int(r, 4);
        run->end_block = read_int(r, 8);
        total += MAX(run->count, 1u);
        if (total > 2 * REQUEST_RUNS_MAX || run->end_block >= SEQ_END ||
            (run->count == 0) != (run->end_block > 0) || run->number > UINT64_MAX - run->count)
            return "requests record out of range";
    }
    s->request_count = (uint32_t)count;
    return NULL;
}

static const char *apply_one(struct state *s, unsigned type, struct reader *r)
{
    switch (type) {
    case REC_VOLUME:
        return apply_volume(s, r);
    case REC_PLACE:
        return apply_place(s, r);
    case REC_CHUNK:
        return apply_chunk(s, r);
    case REC_ROW:
        return apply_row(s, r);
    case REC_ITEM:
        return apply_item(s, r);
    case REC_SEALED:
        return apply_sealed(s, r);
    case REC_SHARD:
        return apply_shard(s, r);
    case REC_PLACE_FREED:
        return apply_place_freed(s, r);
    case REC_CHUNK_FREED:
        return apply_chunk_freed(s, r);
    case REC_WAL:
        return apply_wal(s, r);
    case REC_WAL_FREED:
        return apply_wal_freed(s, r);
    case REC_COMMITTED:
        return apply_committed(s, r);
    case REC_MAP:
        return apply_map(s, r);
    case REC_LIVE:
        return apply_live(s, r);
    case REC_SIZE:
        return apply_size(s, r);
    case REC_CONTINUE:
        return apply_continue(s, r);
    case REC_REQUESTS:
        return apply_requests(s, r);
    case REC_ITEM_BLOCKS:
        return apply_item_blocks(s, r);
    default:
        return "record of a type that this version does not know";
    }
}

int state_apply(struct state *state, const void *bytes, size_t len_bytes, char ret_error[256])
{
    struct reader all = {.at = bytes, .end = (const uint8_t *)bytes + len_bytes};
    while (all.at < all.end) {
        size_t at = (size_t)(all.at - (const uint8_t *)bytes);
        unsigned type = (unsigned)read_int(&all, 2);
        (void)read_int(&all, 2);
        size_t body = read_int(&all, 4);
        const char *problem = "record cut short";
        if (!all.bad && body <= (size_t)(all.end - all.at)) {
            struct reader r = {.at = all.at, .end = all.at + body};
            problem = apply_one(state, type, &r);
            if (!problem && r.at != r.end)
                problem = "record longer than its type";
            all.at += body;
        }
        if (problem) {
            snprintf(
                ret_error, 256, "manifest record of type %u at byte %zu: %s", type, at, problem);
            return -EBADMSG;
        }
    }
    return 0;
}
