/* SPDX-License-Identifier: Apache-2.0
 *
 * The memtable against a plain model: an array of what is known of each block, by sequence.
 */
#include "fake_env.h"

#include <stdlib.h>
#include <string.h>

#include "blockd/volume/map.h"
#include "blockd/volume/memtable.h"
#include "common/mem.h"
#include "common/rng.h"

enum { SPAN = 256, GEN_BLOCKS = 24, GENS_MAX = 64, STEPS = 4000 };

/* What one generation says of a block; seq 0 = nothing. */
struct version {
    enum memtable_kind kind;
    uint64_t seq, entry;
};

static struct model {
    struct memtable table;
    struct bufpool *pool;
    struct rng rng;
    uint64_t next_seq, acked_seq;
    struct model_gen {
        struct memtable_gen *gen;
        struct version data[SPAN], range[SPAN];
    } gens[GENS_MAX]; /* oldest first */
    unsigned gen_count;
    unsigned parked;
} m;

static void model_init(uint64_t seed)
{
    memset(&m, 0, sizeof(m));
    rng_init(&m.rng, seed);
    m.pool = bufpool_new(64 << 20);
    m.next_seq = 1;
    memtable_init(&m.table, m.pool, GEN_BLOCKS);
}

static void model_fini(void)
{
    memtable_fini(&m.table);
    assert_int_equal(bufpool_used_bytes(m.pool), 0); /* T3: every buffer freed exactly once */
    bufpool_free(m.pool);
}

static struct model_gen *active(unsigned blocks)
{
    bool froze = false;
    struct memtable_gen *last = m.gen_count > 0 ? m.gens[m.gen_count - 1].gen : NULL;
    bool was_frozen = last && last->frozen;
    struct memtable_gen *gen = memtable_active(&m.table, blocks, m.next_seq, &froze);
    assert_false(gen->frozen);
    if (gen != last) {
        assert_true(!last || was_frozen || froze);
        assert_int_equal(gen->created_ns, m.next_seq);
        m.gens[m.gen_count++] = (struct model_gen){.gen = gen};
    } else {
        assert_false(froze);
    }
    return &m.gens[m.gen_count - 1];
}

static void put_blocks(void)
{
    unsigned count = 1 + (unsigned)rng_below(&m.rng, rng_one_in(&m.rng, 20) ? GEN_BLOCKS + 8 : 6);
    uint64_t first = rng_below(&m.rng, SPAN - count);
    struct model_gen *gen = active(count);
    uint64_t seq = m.next_seq++;
    for (uint64_t b = first; b < first + count; b++) {
        uint64_t *data = bufpool_get(m.pool);
        assert_non_null(data);
        data[0] = b;
        data[1] = seq;
        m.parked += gen->data[b].seq != 0;
        memtable_put(&m.table, gen->gen, b, data, (uint32_t)(seq ^ b), seq);
        gen->data[b] = (struct version){MEMTABLE_DATA, seq, 0};
    }
}

static void put_range(void)
{
    uint64_t len = 1 + rng_below(&m.rng, 40), first = rng_below(&m.rng, SPAN - len);
    struct model_gen *gen = active(0);
    uint64_t seq = m.next_seq++;
    bool trim = rng_one_in(&m.rng, 2);
    uint64_t entry = map_entry(MAP_MAPPED, 0, seq, 0);
    if (trim) {
        memtable_put_trim(gen->gen, first, len, seq);
    } else {
        memtable_put_mapped(gen->gen, first, len, entry, seq);
        memtable_put_row(gen->gen, &(struct memtable_row){.chunk_index = seq,
                                       .row = (uint16_t)(seq % 64),
                                       .len = (uint16_t)(1 + seq % 248),
                                       .seq = seq});
    }
    for (uint64_t b = first; b < first + len; b++)
        gen->range[b] = (struct version){
            trim ? MEMTABLE_TRIMMED : MEMTABLE_MAPPED, seq, trim ? 0 : entry + (b - first)};
}

static struct version newest_of(const struct model_gen *gen, uint64_t block)
{
    return gen->data[block].seq > gen->range[block].seq ? gen->data[block] : gen->range[block];
}

static struct version expected(uint64_t block)
{
    for (unsigned i = m.gen_count; i-- > 0;) {
        struct version v = newest_of(&m.gens[i], block);
        if (v.seq)
            return v;
    }
    return (struct version){.kind = MEMTABLE_MISS};
}

static void check_lookup(uint64_t block, uint64_t len_max)
{
    struct memtable_hit hit;
    memtable_lookup(&m.table, block, len_max, &hit);
    assert_true(hit.len >= 1 && hit.len <= len_max);
    for (uint64_t i = 0; i < hit.len; i++) { /* the answer holds for all that it says it does */
        struct version v = expected(block + i);
        assert_int_equal(hit.kind, v.kind);
        if (v.kind == MEMTABLE_MAPPED)
            assert_int_equal(hit.entry + i, v.entry);
    }
    struct version v = expected(block);
    if (v.kind == MEMTABLE_DATA) {
        assert_int_equal(hit.len, 1);
        assert_int_equal(hit.seq, v.seq);
        assert_int_equal(((const uint64_t *)hit.data)[0], block);
        assert_int_equal(((const uint64_t *)hit.data)[1], v.seq);
    }
}

static void drop_oldest(void)
{
    struct memtable_gen *gen = memtable_oldest_frozen(&m.table);
    if (!gen)
        return;
    struct model_gen *model = &m.gens[0];
    assert_ptr_equal(gen, model->gen);
    const struct memtable_slot **slots = malloc((gen->block_count + 1) * sizeof(*slots));
    unsigned count = memtable_sorted(gen, slots), n = 0;
    for (uint64_t b = 0; b < SPAN; b++) {
        if (!model->data[b].seq || model->range[b].seq > model->data[b].seq)
            continue;
        assert_true(n < count);
        assert_int_equal(slots[n]->block, b);
        assert_int_equal(slots[n]->seq, model->data[b].seq);
        assert_int_equal(slots[n]->crc, (uint32_t)(slots[n]->seq ^ b));
        n++;
    }
    assert_int_equal(n, count);
    free(slots);
    memtable_drop(&m.table, gen);
    memmove(m.gens, m.gens + 1, --m.gen_count * sizeof(m.gens[0]));
}

/* T1: intervals, in order, without a record in two of them. */
static void check_order(void)
{
    uint64_t last = 0;
    unsigned blocks = 0;
    list_for_each (it, &m.table.gens) {
        const struct memtable_gen *gen = list_entry(it, struct memtable_gen, link);
        assert_true(gen->frozen || it->next == &m.table.gens);
        blocks += gen->block_count;
        if (gen->last_seq == 0)
            continue;
        assert_true(gen->first_seq > last && gen->first_seq <= gen->last_seq);
        last = gen->last_seq;
    }
    assert_int_equal(blocks, m.table.block_total);
    assert_int_equal(memtable_bytes(&m.table), (m.table.block_total + m.table.parked_total) * 4096);
    assert_int_equal(
        bufpool_used_bytes(m.pool), (m.table.block_total + m.table.parked_total) * 4096);
    assert_int_equal(memtable_empty(&m.table), last == 0);
}

static void step(void)
{
    switch (rng_below(&m.rng, 10)) {
    case 0:
        memtable_freeze(&m.table);
        break;
    case 1:
        m.acked_seq = rng_between(&m.rng, m.acked_seq, m.next_seq - 1);
        memtable_acked(&m.table, m.acked_seq);
        break;
    case 2:
        if (m.gen_count > 8 || rng_one_in(&m.rng, 3))
            drop_oldest();
        break;
    case 3:
        put_range();
        break;
    default:
        put_blocks();
    }
    while (m.gen_count >= GENS_MAX - 1)
        drop_oldest();
    for (unsigned i = 0; i < 8; i++) {
        uint64_t block = rng_below(&m.rng, SPAN);
        check_lookup(block, 1 + rng_below(&m.rng, SPAN - block));
    }
}

static void it_answers_what_the_newest_record_said(void **state)
{
    for (uint64_t seed = 1; seed <= 6; seed++) {
        model_init(seed);
        for (unsigned i = 0; i < STEPS; i++) {
            step();
            check_order();
        }
        model_fini();
    }
}

static void *block_of(struct bufpool *pool, uint64_t tag)
{
    uint64_t *data = bufpool_get(pool);
    data[0] = tag;
    return data;
}

/* T3: the log append of the first write may still be reading the buffer that the second replaced. */
static void a_replaced_buffer_stays_until_its_replacement_is_acknowledged(void **state)
{
    struct bufpool *pool = bufpool_new(1 << 20);
    struct memtable table;
    bool froze = false;
    memtable_init(&table, pool, 8);
    struct memtable_gen *gen = memtable_active(&table, 1, 0, &froze);
    uint64_t *first = block_of(pool, 11), *second = block_of(pool, 22);
    memtable_put(&table, gen, 5, first, 0, 1);
    memtable_put(&table, gen, 5, second, 0, 2);
    memtable_acked(&table, 1);
    assert_int_equal(first[0], 11);
    assert_int_equal(table.parked_total, 1);
    assert_int_equal(bufpool_used_bytes(pool), 2 * 4096);
    memtable_acked(&table, 2);
    assert_int_equal(table.parked_total, 0);
    assert_int_equal(bufpool_used_bytes(pool), 4096);
    memtable_fini(&table);
    assert_int_equal(bufpool_used_bytes(pool), 0);
    bufpool_free(pool);
}

/* A generation is one row: what does not fit whole goes to the next (sim_replay shows what is lost
 * otherwise). */
static void a_record_is_never_split_over_generations(void **state)
{
    struct bufpool *pool = bufpool_new(1 << 20);
    struct memtable table;
    bool froze = false;
    memtable_init(&table, pool, 8);
    struct memtable_gen *first = memtable_active(&table, 7, 0, &froze);
    for (unsigned i = 0; i < 7; i++)
        memtable_put(&table, first, i, block_of(pool, i), 0, 1);
    assert_ptr_equal(memtable_active(&table, 1, 0, &froze), first);
    assert_false(froze);
    struct memtable_gen *second = memtable_active(&table, 2, 0, &froze);
    assert_true(froze && first->frozen && second != first);
    /* Larger than any generation: one of its own. */
    struct memtable_gen *large = memtable_active(&table, 20, 0, &froze);
    assert_true(large != second);
    for (unsigned i = 0; i < 20; i++)
        memtable_put(&table, large, 100 + i, block_of(pool, i), 0, 2);
    assert_int_equal(large->block_count, 20);
    memtable_fini(&table);
    assert_int_equal(bufpool_used_bytes(pool), 0);
    bufpool_free(pool);
}

/* Not only data blocks make a generation large. */
static void ranges_and_rows_freeze_a_generation_too(void **state)
{
    struct bufpool *pool = bufpool_new(1 << 20);
    struct memtable table;
    memtable_init(&table, pool, 8);
    bool froze = false;
    uint64_t seq = 1;
    unsigned puts = 0;
    for (; !froze && puts < 100000; puts++) {
        struct memtable_gen *gen = memtable_active(&table, 0, 0, &froze);
        memtable_put_trim(gen, seq * 2, 1, seq);
        seq++;
    }
    assert_true(froze && puts < 10000);
    froze = false;
    for (puts = 0; !froze && puts < 100000; puts++) {
        struct memtable_gen *gen = memtable_active(&table, 0, 0, &froze);
        memtable_put_row(gen, &(struct memtable_row){.chunk_index = 1, .len = 1, .seq = seq++});
    }
    assert_true(froze && puts < 10000);
    memtable_fini(&table);
    bufpool_free(pool);
}

/* A long read beside a few blocks in memory goes to the disk in long runs. */
static void a_miss_reaches_to_the_next_block_in_the_table(void **state)
{
    struct bufpool *pool = bufpool_new(1 << 20);
    struct memtable table;
    struct memtable_hit hit;
    bool froze = false;
    memtable_init(&table, pool, 8);
    struct memtable_gen *gen = memtable_active(&table, 1, 0, &froze);
    memtable_put(&table, gen, 100, block_of(pool, 1), 0, 1);
    memtable_lookup(&table, 0, 1000, &hit);
    assert_int_equal(hit.kind, MEMTABLE_MISS);
    assert_int_equal(hit.len, 64);
    memtable_lookup(&table, 64, 1000, &hit);
    assert_int_equal(hit.len, 36);
    memtable_lookup(&table, 64, 5, &hit);
    assert_int_equal(hit.len, 5);
    memtable_fini(&table);
    bufpool_free(pool);
}

static void freezing_nothing_changes_nothing(void **state)
{
    struct bufpool *pool = bufpool_new(1 << 20);
    struct memtable table;
    bool froze = false;
    memtable_init(&table, pool, 8);
    assert_false(memtable_freeze(&table));
    struct memtable_gen *gen = memtable_active(&table, 1, 0, &froze);
    assert_false(memtable_freeze(&table));
    assert_true(memtable_empty(&table));
    memtable_put_trim(gen, 1, 1, 1);
    assert_null(memtable_oldest_frozen(&table));
    assert_true(memtable_freeze(&table));
    assert_false(memtable_freeze(&table));
    assert_ptr_equal(memtable_oldest_frozen(&table), gen);
    memtable_fini(&table);
    bufpool_free(pool);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_answers_what_the_newest_record_said),
        cmocka_unit_test(a_replaced_buffer_stays_until_its_replacement_is_acknowledged),
        cmocka_unit_test(a_record_is_never_split_over_generations),
        cmocka_unit_test(ranges_and_rows_freeze_a_generation_too),
        cmocka_unit_test(a_miss_reaches_to_the_next_block_in_the_table),
        cmocka_unit_test(freezing_nothing_changes_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
