/* SPDX-License-Identifier: Apache-2.0
 *
 * The state of a volume and its records: random histories as the engine makes them, what the snapshot
 * brings back, and records that make no sense.
 */
#include "fake_env.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "blockd/volume/map.h"
#include "blockd/volume/state.h"
#include "common/bytes.h"
#include "common/check.h"
#include "common/mem.h"
#include "common/rng.h"

static struct rng rng;

/* --- Comparing ---------------------------------------------------------------------------------- */

static void check_shards(const struct chunk_shard *a, const struct chunk_shard *b, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        assert_int_equal(a[i].place.disk, b[i].place.disk);
        assert_int_equal(a[i].place.instance, b[i].place.instance);
        assert_int_equal(a[i].state, b[i].state);
    }
}

static void check_place(const struct place *a, const struct place *b)
{
    assert_int_equal(a->chunk, b->chunk);
    assert_int_equal(a->epoch, b->epoch);
    assert_int_equal(a->capacity_blocks, b->capacity_blocks);
    assert_int_equal(a->kind, b->kind);
    assert_int_equal(a->code.k, b->code.k);
    assert_int_equal(a->code.m, b->code.m);
    assert_int_equal(a->sealed, b->sealed);
    assert_int_equal(a->rows_recorded, b->rows_recorded);
    assert_int_equal(a->rows_recorded, b->row_count); /* not recorded rows are the log's */
    assert_int_equal(a->chunk_refs, b->chunk_refs);
    assert_memory_equal(a->row_len, b->row_len, a->rows_recorded * sizeof(uint16_t));
    check_shards(a->shards, b->shards, place_shards(a));
}

static void check_wals(const struct state *a, const struct state *b)
{
    const struct list *at = b->wals.next;
    list_for_each (it, &a->wals) {
        const struct wal *x = list_entry(it, struct wal, link);
        assert_ptr_not_equal(at, &b->wals);
        const struct wal *y = list_entry(at, struct wal, link);
        assert_int_equal(x->chunk, y->chunk);
        assert_int_equal(x->epoch, y->epoch);
        assert_int_equal(x->capacity_blocks, y->capacity_blocks);
        assert_int_equal(x->sealed, y->sealed);
        if (x->sealed) {
            assert_int_equal(x->length_blocks, y->length_blocks);
            assert_int_equal(x->last_seq, y->last_seq);
        }
        assert_int_equal(x->copies, y->copies);
        check_shards(x->shards, y->shards, x->copies);
        at = at->next;
    }
    assert_ptr_equal(at, &b->wals);
}

static void check_equal(const struct state *a, const struct state *b)
{
    assert_int_equal(a->size_bytes, b->size_bytes);
    assert_int_equal(a->chunk_index_next, b->chunk_index_next);
    assert_int_equal(a->committed_seq, b->committed_seq);
    assert_int_equal(a->map_root, b->map_root);
    assert_int_equal(a->map_levels, b->map_levels);
    assert_int_equal(a->places.count, b->places.count);
    assert_int_equal(a->chunks.count, b->chunks.count);
    uint32_t pos = 0;
    for (const struct place *p; (p = idmap_next(&a->places, &pos));) {
        assert_non_null(state_place(b, p->chunk));
        check_place(p, state_place(b, p->chunk));
    }
    pos = 0;
    for (const struct lchunk *c; (c = idmap_next(&a->chunks, &pos));) {
        const struct lchunk *d = state_chunk(b, c->index);
        assert_non_null(d);
        assert_int_equal(c->place->chunk, d->place->chunk);
        assert_int_equal(c->live, d->live);
        assert_int_equal(c->base, d->base);
        assert_int_equal(c->unmerged_rows, d->unmerged_rows);
        assert_int_equal(c->bitmap_words, d->bitmap_words);
        assert_memory_equal(c->bitmap, d->bitmap, c->bitmap_words * 8);
    }
    check_wals(a, b);
    assert_int_equal(a->item_first, b->item_first);
    assert_int_equal(a->item_count, b->item_count);
    for (uint32_t i = 0; i < a->item_count; i++) {
        const struct item *x = &a->items[i], *y = &b->items[i];
        assert_true(x->trim == y->trim && x->row == y->row && x->chunk_index == y->chunk_index &&
                    x->block == y->block && x->len == y->len && x->seq == y->seq &&
                    x->group == y->group && x->blocks_len_bytes == y->blocks_len_bytes);
        assert_true(!x->blocks == !y->blocks);
        if (x->blocks)
            assert_memory_equal(x->blocks, y->blocks, x->blocks_len_bytes);
    }
    assert_int_equal(a->item_blocks_bytes, b->item_blocks_bytes);
}

/* --- Random histories --------------------------------------------------------------------------- */

static void random_shards(struct chunk_shard *shards, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        shards[i] = (struct chunk_shard){
            .place = {.disk = (uint32_t)rng_u64(&rng), .instance = rng_u64(&rng)},
            .state = (enum chunk_shard_state)rng_below(&rng, 3)};
}

static struct place *any_place(const struct state *s)
{
    uint32_t pos = 0, skip = s->places.count ? (uint32_t)rng_below(&rng, s->places.count) : 0;
    struct place *p = idmap_next(&s->places, &pos);
    while (skip-- > 0)
        p = idmap_next(&s->places, &pos);
    return p;
}

static struct lchunk *any_chunk(const struct state *s)
{
    uint32_t pos = 0, skip = s->chunks.count ? (uint32_t)rng_below(&rng, s->chunks.count) : 0;
    struct lchunk *c = idmap_next(&s->chunks, &pos);
    while (skip-- > 0)
        c = idmap_next(&s->chunks, &pos);
    return c;
}

static void new_place(const struct state *s, struct records *records)
{
    struct chunk_place place = {.chunk = rng_u64(&rng) | 1,
        .kind = rng_one_in(&rng, 4) ? SHARD_META : SHARD_DATA,
        .epoch = (uint32_t)rng_u64(&rng),
        .capacity_blocks = (uint32_t)rng_between(&rng, 300, SHARD_EXTENT_BLOCKS_MAX)};
    place.code.k = place.kind == SHARD_META ? 1 : (uint8_t)rng_between(&rng, 1, CODE_K_MAX);
    place.code.m = (uint8_t)rng_below(&rng, CODE_M_MAX + 1);
    random_shards(place.shards, place.code.k + place.code.m);
    record_new_place(records, &place);
    record_chunk(records, s->chunk_index_next, place.chunk, 0, 0, NULL, 0);
}

static void random_blocks(struct records *records, unsigned count)
{
    struct block_run runs[64];
    unsigned n = 0;
    for (uint64_t end = 0; count > 0 && n < ARRAY_SIZE(runs); n++) {
        runs[n].block = end + rng_below(&rng, 1ull << rng_below(&rng, 46));
        runs[n].count = 1 + (uint32_t)rng_below(&rng, count);
        count -= runs[n].count;
        end = runs[n].block + runs[n].count;
    }
    record_item_blocks(records, runs, n);
}

static void new_row(const struct state *s, struct records *records)
{
    struct lchunk *c = any_chunk(s);
    struct place *p = c ? c->place : NULL;
    unsigned len = (unsigned)rng_between(&rng, 1, 40);
    if (!p || p->sealed || p->row_count == CHUNK_ROWS_MAX || c->bitmap_words > 0 ||
        place_length_blocks(p, p->row_count) + 1 + len > p->capacity_blocks)
        return;
    uint64_t seq = s->committed_seq + rng_between(&rng, 1, 50);
    struct item item = {.row = p->rows_recorded, .chunk_index = c->index, .seq = seq, .group = seq};
    if (rng_one_in(&rng, 2))
        item.seq = 0;
    record_row(records, p->chunk, p->rows_recorded, len);
    record_item(records, &item);
    if (!rng_one_in(&rng, 4)) /* an earlier version */
        random_blocks(records, p->code.k * len);
    record_committed(records, seq);
}

static void new_trim(const struct state *s, struct records *records)
{
    uint64_t seq = s->committed_seq + 1;
    struct item item = {.trim = true,
        .block = rng_below(&rng, 1ull << 40),
        .len = 1 + rng_below(&rng, 1ull << 40),
        .seq = seq,
        .group = seq};
    record_item(records, &item);
    record_committed(records, seq);
}

static void move_chunk(const struct state *s, struct records *records)
{
    struct lchunk *c = any_chunk(s);
    struct place *to = any_place(s);
    uint64_t bitmap[1024];
    if (!c || c->unmerged_rows > 0)
        return;
    unsigned words = (unsigned)rng_between(&rng, 1, rng_one_in(&rng, 8) ? 1024 : 8);
    for (unsigned i = 0; i < words; i++)
        bitmap[i] = rng_u64(&rng);
    record_chunk(records, c->index, to->chunk, (uint32_t)rng_below(&rng, 64 * words),
        (uint32_t)rng_below(&rng, 65536), bitmap, words);
}

static void new_wal(const struct state *s, struct records *records)
{
    struct wal wal = {.chunk = rng_u64(&rng) | 1,
        .epoch = (uint32_t)rng_u64(&rng),
        .capacity_blocks = (uint32_t)rng_between(&rng, 64, LOG_CAPACITY_BLOCKS_MAX),
        .copies = (uint8_t)rng_between(&rng, 1, CODE_M_MAX + 1)};
    random_shards(wal.shards, wal.copies);
    record_wal(records, &wal);
}

static void seal_wal(const struct state *s, struct records *records)
{
    if (list_empty(&s->wals))
        return;
    struct wal wal = *list_entry(s->wals.next, struct wal, link);
    wal.sealed = true;
    wal.length_blocks = (uint32_t)rng_below(&rng, wal.capacity_blocks + 1);
    wal.last_seq = rng_below(&rng, 1000);
    record_wal(records, &wal);
    if (rng_one_in(&rng, 2))
        record_wal_freed(records, wal.chunk);
}

static void free_chunk(const struct state *s, struct records *records)
{
    struct lchunk *c = any_chunk(s);
    if (!c || c->unmerged_rows > 0)
        return;
    record_chunk_freed(records, c->index);
    if (c->place->chunk_refs == 1)
        record_place_freed(records, c->place->chunk);
}

static void change_place(const struct state *s, struct records *records)
{
    struct place *p = any_place(s);
    if (!p)
        return;
    if (rng_one_in(&rng, 2) && p->row_count == p->rows_recorded) {
        record_sealed(records, p->chunk);
    } else {
        struct chunk_shard shard;
        random_shards(&shard, 1);
        record_shard(records, p->chunk, (unsigned)rng_below(&rng, place_shards(p)), &shard);
    }
}

static void random_step(const struct state *s, struct records *records)
{
    switch (rng_below(&rng, 11)) {
    case 0:
        new_place(s, records);
        break;
    case 1:
        move_chunk(s, records);
        break;
    case 2:
        new_wal(s, records);
        break;
    case 3:
        seal_wal(s, records);
        break;
    case 4:
        free_chunk(s, records);
        break;
    case 5:
        change_place(s, records);
        break;
    case 6:
        record_map(records, map_entry(MAP_PAGE, 0, rng_below(&rng, 1000), 3),
            (unsigned)rng_between(&rng, 1, 5), s->item_first + rng_below(&rng, s->item_count + 1));
        break;
    case 7:
        record_size(records, s->size_bytes + 512 * rng_below(&rng, 100) + 512);
        struct request_run runs[] = {{1, rng_below(&rng, 9), (uint32_t)rng_below(&rng, 3), 0}};
        runs[0].end_block = runs[0].count ? 0 : 7;
        record_requests(records, runs, (uint32_t)rng_below(&rng, 2));
        if (any_chunk(s))
            record_live(records, any_chunk(s)->index, (uint32_t)rng_u64(&rng));
        break;
    case 8:
        new_trim(s, records);
        break;
    default:
        new_row(s, records);
    }
}

static void apply_ok(struct state *s, const struct records *records)
{
    char error[256] = "";
    int r = state_apply(s, records->bytes, records->len_bytes, error);
    if (r < 0)
        fail_msg("%s", error);
}

static void random_history(struct state *s, unsigned steps)
{
    struct records records = {0};
    s->size_bytes = 1 << 20;
    for (unsigned i = 0; i < steps; i++) {
        records_clear(&records);
        if (i % 7 == 0)
            new_place(s, &records);
        else
            random_step(s, &records);
        if (records.len_bytes > 0)
            apply_ok(s, &records);
    }
    records_fini(&records);
}

static void a_snapshot_brings_the_state_back(void **state)
{
    for (uint64_t seed = 1; seed <= 30; seed++) {
        struct state a, b;
        struct records snapshot = {0}, again = {0};
        rng_init(&rng, seed);
        state_init(&a, 1);
        state_init(&b, 1);
        random_history(&a, 50 * (unsigned)seed);
        /* Rows whose places only the log knows are not part of it. */
        struct place *p = any_place(&a);
        if (p && !p->sealed && p->row_count < CHUNK_ROWS_MAX)
            (void)place_add_row(p, 1);
        state_snapshot(&a, &snapshot);
        apply_ok(&b, &snapshot);
        check_equal(&a, &b);
        state_snapshot(&b, &again);
        assert_int_equal(again.len_bytes, snapshot.len_bytes);
        records_fini(&snapshot);
        records_fini(&again);
        state_fini(&a);
        state_fini(&b);
    }
}

/* Every prefix and every flipped byte of a snapshot: an error with a sentence, or a state that a
 * snapshot brings back. */
static void damaged_records_are_refused_with_a_sentence(void **state)
{
    struct state a;
    struct records snapshot = {0};
    unsigned refused = 0;
    rng_init(&rng, 77);
    state_init(&a, 1);
    random_history(&a, 120);
    state_snapshot(&a, &snapshot);
    size_t len = snapshot.len_bytes;
    for (unsigned i = 0; i < 6000; i++) {
        struct state b;
        char error[256] = "";
        size_t cut = i % 2 ? len : rng_below(&rng, len);
        uint8_t *copy = malloc(cut + 1); /* a sanitizer sees one byte too far */
        memcpy(copy, snapshot.bytes, cut);
        for (unsigned n = (unsigned)rng_below(&rng, 4); n > 0 && cut > 0; n--)
            copy[rng_below(&rng, cut)] ^= (uint8_t)(1u << rng_below(&rng, 8));
        state_init(&b, 1);
        int r = state_apply(&b, copy, cut, error);
        assert_true(r == 0 || r == -EBADMSG);
        assert_true((r < 0) == (error[0] != 0));
        refused += r < 0;
        if (r == 0) {
            struct records again = {0};
            struct state c;
            state_init(&c, 1);
            state_snapshot(&b, &again);
            apply_ok(&c, &again);
            records_fini(&again);
            state_fini(&c);
        }
        state_fini(&b);
        free(copy);
    }
    assert_true(refused > 1000);
    records_fini(&snapshot);
    state_fini(&a);
}

/* --- Single records ----------------------------------------------------------------------------- */

/* A state with chunk 1 in place 10 (two rows of 4, one unmerged), chunk 2 in sealed place 20, log 30. */
static void small_state(struct state *s)
{
    struct records r = {0};
    struct chunk_place place = {
        .chunk = 10, .kind = SHARD_DATA, .code = {2, 1}, .epoch = 1, .capacity_blocks = 20};
    struct wal wal = {.chunk = 30, .epoch = 1, .capacity_blocks = 100, .copies = 2};
    struct item item = {.row = 1, .chunk_index = 1, .group = 5};
    state_init(s, 1);
    s->size_bytes = 1 << 20;
    record_new_place(&r, &place);
    record_chunk(&r, 1, 10, 0, 0, NULL, 0);
    record_row(&r, 10, 0, 4);
    record_row(&r, 10, 1, 4);
    record_item(&r, &item);
    record_committed(&r, 5);
    place.chunk = 20;
    record_new_place(&r, &place);
    record_chunk(&r, 2, 20, 0, 0, NULL, 0);
    record_sealed(&r, 20);
    record_wal(&r, &wal);
    apply_ok(s, &r);
    records_fini(&r);
}

static void expect_refusal(const struct records *records, const char *sentence)
{
    struct state s;
    char error[256] = "";
    small_state(&s);
    assert_int_equal(state_apply(&s, records->bytes, records->len_bytes, error), -EBADMSG);
    if (!strstr(error, sentence))
        fail_msg("'%s' is not in '%s'", sentence, error);
    state_fini(&s);
}

#define REFUSED(sentence, ...)        \
    do {                              \
        struct records r = {0};       \
        __VA_ARGS__;                  \
        expect_refusal(&r, sentence); \
        records_fini(&r);             \
    } while (0)

static void places_and_rows_that_make_no_sense_are_refused(void **state)
{
    struct chunk_place place = {.chunk = 11,
        .kind = SHARD_DATA,
        .code = {2, 1},
        .capacity_blocks = 20,
        .row_count = 1,
        .row_len = {19}};
    struct chunk_place p = place;
    REFUSED("recorded twice", p = place; p.chunk = 10; record_new_place(&r, &p));
    REFUSED("out of range", p = place; p.chunk = 0; record_new_place(&r, &p));
    REFUSED("out of range", p = place; p.kind = SHARD_LOG; record_new_place(&r, &p));
    REFUSED("out of range", p = place; p.code.k = 0; record_new_place(&r, &p));
    REFUSED("out of range", p = place; p.code.m = CODE_M_MAX + 1; record_new_place(&r, &p));
    REFUSED("out of range", p = place; p.capacity_blocks = 0; record_new_place(&r, &p));
    REFUSED("out of range", p = place; p.capacity_blocks = 1025; record_new_place(&r, &p));
    REFUSED("impossible length", p = place; p.row_len[0] = 0; record_new_place(&r, &p));
    REFUSED("impossible length", p = place; p.row_len[0] = 249; record_new_place(&r, &p));
    REFUSED("more rows than fit", p = place; p.row_len[0] = 20; record_new_place(&r, &p));
    REFUSED("cut short", p = place; p.shards[0].state = 3; record_new_place(&r, &p));

    REFUSED("not there", record_row(&r, 99, 0, 1));
    REFUSED("out of order", record_row(&r, 10, 3, 1));
    REFUSED("out of order", record_row(&r, 10, 1, 4));
    REFUSED("out of order", record_row(&r, 20, 0, 1)); /* sealed */
    REFUSED("out of range", record_row(&r, 10, 2, 0));
    REFUSED("beyond the place's capacity", record_row(&r, 10, 2, 10));

    struct chunk_shard shard = {0};
    REFUSED("not there", record_shard(&r, 10, 3, &shard));
    REFUSED("not there", record_shard(&r, 99, 0, &shard));
    REFUSED("not there", record_sealed(&r, 99));
    REFUSED("not there", record_place_freed(&r, 99));
    REFUSED("in use", record_place_freed(&r, 10));
}

static void chunks_and_items_that_make_no_sense_are_refused(void **state)
{
    uint64_t bits = 1;
    REFUSED("not there", record_chunk(&r, 3, 99, 0, 0, NULL, 0));
    REFUSED("out of range", record_chunk(&r, 0, 10, 0, 0, NULL, 0));
    REFUSED("out of range", record_chunk(&r, 1ull << 34, 10, 0, 0, NULL, 0));
    REFUSED("out of range", record_chunk(&r, 3, 10, 0, 65536, &bits, 1));
    REFUSED("not in the map yet", record_chunk(&r, 1, 20, 0, 0, &bits, 1));
    REFUSED("not in the map yet", record_chunk_freed(&r, 1));
    REFUSED("not there", record_chunk_freed(&r, 3));
    REFUSED("not there", record_live(&r, 3, 0));

    struct item item = {.row = 0, .chunk_index = 1, .group = 6}, i = item;
    REFUSED("not there", i = item; i.chunk_index = 3; record_item(&r, &i));
    REFUSED("not there", i = item; i.row = 2; record_item(&r, &i));
    REFUSED("out of order", i = item; i.group = 4; record_item(&r, &i));
    REFUSED("out of range", i = item; i.seq = 7; record_item(&r, &i));
    REFUSED("out of range", i = item; i.group = 1ull << 63; record_item(&r, &i));
    struct item trim = {.trim = true, .block = 1, .len = 1, .seq = 6, .group = 6};
    REFUSED("out of range", i = trim; i.len = 0; record_item(&r, &i));
    REFUSED("out of range", i = trim; i.len = 1ull << 52; record_item(&r, &i));
    REFUSED("out of range", i = trim; i.block = 1ull << 52; record_item(&r, &i));
}

static void blocks_of(struct records *r, const struct item *item, uint64_t block, uint32_t count)
{
    struct block_run run = {.block = block, .count = count};
    if (item)
        record_item(r, item);
    record_item_blocks(r, &run, 1);
}

/* A record of type 18 with these bytes. */
static void raw_blocks(struct records *r, const struct item *item, const char *bytes, unsigned len)
{
    struct block_run run = {.block = 5, .count = 1};
    record_item(r, item);
    record_item_blocks(r, &run, 1);
    r->len_bytes -= 6; /* the body and its length */
    r->bytes[r->len_bytes] = (uint8_t)len;
    r->len_bytes += 4;
    for (unsigned i = 0; i < len; i++)
        r->bytes[r->len_bytes++] = (uint8_t)bytes[i];
}

static void blocks_of_rows_that_make_no_sense_are_refused(void **state)
{
    const struct item item = {.row = 0, .chunk_index = 1, .group = 6};
    const struct item trim = {.trim = true, .block = 1, .len = 1, .seq = 6, .group = 6};
    REFUSED("follows no row", blocks_of(&r, &trim, 1, 1));
    REFUSED("follows no row", blocks_of(&r, &item, 1, 1); blocks_of(&r, NULL, 2, 1));
    REFUSED("out of range", record_item(&r, &item); record_item_blocks(&r, NULL, 0));
    REFUSED("out of range", blocks_of(&r, &item, 1ull << 52, 1));
    REFUSED("out of range", blocks_of(&r, &item, (1ull << 52) - 1, 2));
    REFUSED("out of range", blocks_of(&r, &item, 0, 1u << 20)); /* more than the row has room for */
    REFUSED("out of range", raw_blocks(&r, &item, "\x05", 1));
    REFUSED("out of range", raw_blocks(&r, &item, "\x05\x00", 2));
    REFUSED("out of range", raw_blocks(&r, &item, "\x05\x81", 2));
    REFUSED("out of range", raw_blocks(&r, &item, "\x80\x80\x80\x80\x80\x80\x80\x80\x01\x01", 10));
}

static void blocks_of_a_row_are_read_back(void **state)
{
    const struct block_run runs[] = {{0, 1}, {127, 3}, {130, 1}, {1ull << 51, 248}};
    struct records records = {0};
    record_item_blocks(&records, runs, ARRAY_SIZE(runs));
    struct item item = {
        .blocks = records.bytes + 8, .blocks_len_bytes = (uint32_t)records.len_bytes - 8};
    struct block_run run;
    uint32_t at_bytes = 0;
    for (unsigned i = 0; i < ARRAY_SIZE(runs); i++) {
        assert_true(item_next_run(&item, &at_bytes, &run));
        assert_true(run.block == runs[i].block && run.count == runs[i].count);
    }
    assert_false(item_next_run(&item, &at_bytes, &run));
    records_fini(&records);
}

static void logs_maps_and_numbers_that_make_no_sense_are_refused(void **state)
{
    struct wal wal = {.chunk = 31, .capacity_blocks = 100, .copies = 1}, w = wal;
    REFUSED("out of range", w = wal; w.chunk = 0; record_wal(&r, &w));
    REFUSED("out of range", w = wal; w.copies = 0; record_wal(&r, &w));
    REFUSED("out of range", w = wal; w.capacity_blocks = LOG_CAPACITY_BLOCKS_MAX + 1;
            record_wal(&r, &w));
    REFUSED("out of range", w = wal; w.sealed = true; w.length_blocks = 101; record_wal(&r, &w));
    REFUSED("contradicts", w = wal; w.chunk = 30; record_wal(&r, &w));
    REFUSED("not there", record_wal_freed(&r, 31));

    uint64_t page = map_entry(MAP_PAGE, 0, 1, 0);
    REFUSED("out of range", record_map(&r, page, 0, 0));
    REFUSED("out of range", record_map(&r, page, 6, 0));
    REFUSED("out of range", record_map(&r, page, 1, 2));
    REFUSED("out of range", record_map(&r, map_entry(MAP_MAPPED, 0, 1, 0), 1, 0));
    REFUSED("out of order", record_committed(&r, 4));
    REFUSED("out of order", record_committed(&r, UINT64_MAX));
    struct request_run runs[2] = {{1, 1, 1, 0}, {1, 9, 0, 3}}, q[2];
    REFUSED("out of range", memcpy(q, runs, sizeof(q)); q[0].end_block = 1;
            record_requests(&r, q, 2));
    REFUSED("out of range", memcpy(q, runs, sizeof(q)); q[1].end_block = 0;
            record_requests(&r, q, 2));
    REFUSED("out of range", memcpy(q, runs, sizeof(q)); q[0].count = UINT32_MAX;
            record_requests(&r, q, 2));
    REFUSED("out of range", memcpy(q, runs, sizeof(q)); q[0].number = UINT64_MAX;
            record_requests(&r, q, 2));
    REFUSED("out of range", record_size(&r, 0));
    REFUSED("out of range", record_size(&r, (1 << 20) + 1));
    REFUSED("out of range", record_size(&r, 512));
    REFUSED("out of range", record_size(&r, VOLUME_SIZE_BYTES_MAX + 512));
    struct state other;
    state_init(&other, 1);
    other.size_bytes = 512;
    REFUSED("not the first", record_volume(&r, &other));
    state_fini(&other);
    struct copies_ref ref = {.chunk = 5, .count = CODE_M_MAX + 1}, c = ref;
    REFUSED("out of range", c = ref; c.chunk = 0; record_continue(&r, &c));
    REFUSED("out of range", c = ref; c.count = 0; record_continue(&r, &c));
}

/* Envelopes: unknown types, lengths that lie. */
static void broken_envelopes_are_refused(void **state)
{
    uint8_t bytes[64] = {0};
    struct state s;
    char error[256];
    static const struct {
        uint16_t type;
        uint32_t body;
        size_t len;
    } cases[] = {{0, 0, 8}, {18, 0, 8}, {UINT16_MAX, 8, 16}, {12, 9, 24}, {12, 7, 15}, {12, 8, 15},
        {12, UINT32_MAX, 16}, {6, 0, 8}, {1, 0, 8}, {12, 8, 7}};
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        put_le16(bytes, cases[i].type);
        put_le32(bytes + 4, cases[i].body);
        state_init(&s, 1);
        error[0] = 0;
        assert_int_equal(state_apply(&s, bytes, cases[i].len, error), -EBADMSG);
        assert_true(error[0] != 0);
        state_fini(&s);
    }
}

/* On a fiber of an env that counts its memory. */
static void lie_about_counts(void *arg)
{
    uint8_t bytes[64] = {0};
    struct state s;
    char error[256];
    static const uint16_t types[] = {2, 3, 10, 16}; /* those that hold a count */
    uint64_t before = mem_used_bytes(arg);
    for (size_t i = 0; i < ARRAY_SIZE(types); i++) {
        for (unsigned off = 8; off < sizeof(bytes); off++) {
            memset(bytes, 1, sizeof(bytes));
            bytes[off] = 0xff;
            put_le16(bytes, types[i]);
            put_le16(bytes + 2, 0);
            put_le32(bytes + 4, sizeof(bytes) - 8);
            state_init(&s, 1);
            assert_int_equal(state_apply(&s, bytes, sizeof(bytes), error), -EBADMSG);
            assert_true(mem_used_bytes(arg) - before < 16 << 10);
            state_fini(&s);
        }
    }
    assert_int_equal(mem_used_bytes(arg), before);
}

/* The counts that a record claims never decide how much memory is taken. */
static void memory_follows_the_length_of_the_records(void **state)
{
    static struct fake_env fake;
    fiber_sched_init(4);
    fake_env_init(&fake);
    fake_env_run(&fake, lie_about_counts, &fake.env);
    fiber_sched_fini();
}

/* --- Translation -------------------------------------------------------------------------------- */

/* A chunk of which the bits of `bitmap` survive, standing at `base` in a place of `end` blocks. */
static void check_translation(struct lchunk *chunk, uint32_t end)
{
    uint32_t rank = 0, words = chunk->bitmap_words;
    for (uint32_t linear = 0; linear < words * 64 + 70; linear++) {
        bool survives = linear < words * 64 && (chunk->bitmap[linear / 64] >> linear % 64 & 1);
        uint32_t at = 0, run = 0, back = 0;
        int r = chunk_translate(chunk, linear, 100, &at, &run);
        if (!survives || chunk->base + rank >= end) {
            assert_int_equal(r, -ENOENT);
        } else {
            assert_int_equal(r, 0);
            assert_int_equal(at, chunk->base + rank);
            assert_int_equal(chunk_untranslate(chunk, at, &back), 0);
            assert_int_equal(back, linear);
            assert_true(run >= 1 && run <= 100 && at + run <= end);
            for (uint32_t i = 1; i < run; i++)
                assert_true(chunk->bitmap[(linear + i) / 64] >> (linear + i) % 64 & 1);
        }
        rank += survives;
    }
    uint32_t back;
    assert_int_equal(chunk_untranslate(chunk, chunk->base + rank, &back), -ENOENT);
    if (chunk->base > 0)
        assert_int_equal(chunk_untranslate(chunk, chunk->base - 1, &back), -ENOENT);
}

static void survivors_are_found_both_ways(void **state)
{
    uint16_t row_len[CHUNK_ROWS_MAX] = {0};
    struct place *place = mem_zalloc(1, sizeof(*place) + 6 * sizeof(struct chunk_shard));
    place->code = (struct shard_code){4, 2};
    place->row_len = row_len;
    for (uint64_t seed = 1; seed <= 40; seed++) {
        rng_init(&rng, seed);
        uint64_t bitmap[40];
        struct lchunk chunk = {.place = place, .bitmap = bitmap};
        chunk.bitmap_words = (uint16_t)rng_between(&rng, 1, 40);
        chunk.base = (uint32_t)rng_below(&rng, 500);
        for (unsigned i = 0; i < chunk.bitmap_words; i++) {
            bitmap[i] = rng_u64(&rng);
            for (unsigned n = (unsigned)(seed % 4); n > 0;
                 n--) /* sparse ones, full and empty words */
                bitmap[i] &= rng_u64(&rng);
            if (rng_one_in(&rng, 8))
                bitmap[i] = rng_one_in(&rng, 2) ? UINT64_MAX : 0;
        }
        place->row_count = (uint8_t)rng_between(&rng, 1, 8);
        for (unsigned i = 0; i < place->row_count; i++)
            row_len[i] = (uint16_t)rng_between(&rng, 1, 248);
        check_translation(&chunk, place_linear_end(place, place->row_count));
    }
    mem_free(place);
}

static void a_chunk_that_never_moved_is_its_place(void **state)
{
    uint16_t row_len[CHUNK_ROWS_MAX] = {10, 20};
    struct place *place = mem_zalloc(1, sizeof(*place) + 6 * sizeof(struct chunk_shard));
    place->code = (struct shard_code){4, 2};
    place->row_len = row_len;
    place->row_count = 2;
    struct lchunk chunk = {.place = place};
    uint32_t at, run, back;
    assert_int_equal(chunk_translate(&chunk, 0, 1000, &at, &run), 0);
    assert_true(at == 0 && run == 120);
    assert_int_equal(chunk_translate(&chunk, 119, 1000, &at, &run), 0);
    assert_true(at == 119 && run == 1);
    assert_int_equal(chunk_translate(&chunk, 120, 1, &at, &run), -ENOENT);
    assert_int_equal(chunk_untranslate(&chunk, 77, &back), 0);
    assert_int_equal(back, 77);
    mem_free(place);
}

int main(void)
{
    setenv("CMOCKA_TEST_ABORT", "1", 1); /* no way back from a failed assertion inside a fiber */
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_snapshot_brings_the_state_back),
        cmocka_unit_test(damaged_records_are_refused_with_a_sentence),
        cmocka_unit_test(places_and_rows_that_make_no_sense_are_refused),
        cmocka_unit_test(chunks_and_items_that_make_no_sense_are_refused),
        cmocka_unit_test(blocks_of_rows_that_make_no_sense_are_refused),
        cmocka_unit_test(blocks_of_a_row_are_read_back),
        cmocka_unit_test(logs_maps_and_numbers_that_make_no_sense_are_refused),
        cmocka_unit_test(broken_envelopes_are_refused),
        cmocka_unit_test(memory_follows_the_length_of_the_records),
        cmocka_unit_test(survivors_are_found_both_ways),
        cmocka_unit_test(a_chunk_that_never_moved_is_its_place),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
