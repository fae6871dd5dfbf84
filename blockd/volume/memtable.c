/* SPDX-License-Identifier: Apache-2.0 */
#include "blockd/volume/memtable.h"

#include <stdlib.h>

#include "common/check.h"
#include "common/mem.h"

/* A buffer that a newer write replaced before its own was acknowledged. */
struct parked {
    struct list link;
    void *data;
    uint64_t replaced_by_seq;
};

static unsigned slot_hash(uint64_t block)
{
    return (unsigned)((block * 0x9E3779B97F4A7C15ull) >> 40);
}

void memtable_init(struct memtable *table, struct bufpool *pool, unsigned block_count_max)
{
    *table = (struct memtable){.pool = pool, .block_count_max = block_count_max};
    list_init(&table->gens);
    list_init(&table->parked);
}

static void gen_free(struct memtable *table, struct memtable_gen *gen)
{
    for (unsigned i = 0; i <= gen->slot_mask; i++) {
        if (gen->slots[i].block != MEMTABLE_EMPTY)
            bufpool_put(table->pool, gen->slots[i].data);
    }
    table->block_total -= gen->block_count;
    extmap_fini(&gen->ranges);
    mem_free(gen->slots);
    mem_free(gen->rows);
    mem_free(gen);
}

void memtable_fini(struct memtable *table)
{
    while (!list_empty(&table->gens))
        memtable_drop(table, list_entry(table->gens.next, struct memtable_gen, link));
    memtable_acked(table, UINT64_MAX);
}

static struct memtable_gen *gen_new(unsigned block_count_max, uint64_t now_ns)
{
    struct memtable_gen *gen = NEW(struct memtable_gen);
    unsigned slots = 64;
    while (slots < block_count_max * 2)
        slots *= 2;
    gen->slots = mem_alloc(slots * sizeof(*gen->slots));
    for (unsigned i = 0; i < slots; i++)
        gen->slots[i].block = MEMTABLE_EMPTY;
    gen->slot_mask = slots - 1;
    gen->block_count_max = block_count_max;
    gen->created_ns = now_ns;
    extmap_init(&gen->ranges);
    return gen;
}

static struct memtable_gen *gen_last(const struct memtable *table)
{
    return list_empty(&table->gens) ? NULL
                                    : list_entry(table->gens.prev, struct memtable_gen, link);
}

/* Bounds on what is not data blocks, so that a generation stays small whatever it is made of. */
#define GEN_RANGES_MAX 4096
#define GEN_ROWS_MAX 4096

struct memtable_gen *memtable_active(
    struct memtable *table, unsigned blocks, uint64_t now_ns, bool *ret_froze)
{
    struct memtable_gen *gen = gen_last(table);
    if (gen && !gen->frozen &&
        (gen->block_count + blocks > gen->block_count_max ||
            extmap_count(&gen->ranges) >= GEN_RANGES_MAX || gen->row_count >= GEN_ROWS_MAX)) {
        gen->frozen = true;
        *ret_froze = true;
    }
    if (!gen || gen->frozen) {
        gen = gen_new(MAX(table->block_count_max, blocks), now_ns);
        list_push_back(&table->gens, &gen->link);
        table->gen_count++;
    }
    return gen;
}

bool memtable_freeze(struct memtable *table)
{
    struct memtable_gen *gen = gen_last(table);
    if (!gen || gen->frozen || gen->last_seq == 0)
        return false;
    gen->frozen = true;
    return true;
}

static void gen_note_seq(struct memtable_gen *gen, uint64_t seq)
{
    CHECK(!gen->frozen && seq >= gen->last_seq); /* T1 */
    if (gen->first_seq == 0)
        gen->first_seq = seq;
    gen->last_seq = seq;
}

static struct memtable_slot *gen_find(const struct memtable_gen *gen, uint64_t block)
{
    unsigned i = slot_hash(block) & gen->slot_mask;
    while (gen->slots[i].block != MEMTABLE_EMPTY && gen->slots[i].block != block)
        i = (i + 1) & gen->slot_mask;
    return &gen->slots[i];
}

static void park(struct memtable *table, void *data, uint64_t replaced_by_seq)
{
    struct parked *parked = NEW(struct parked);
    parked->data = data;
    parked->replaced_by_seq = replaced_by_seq;
    list_push_back(&table->parked, &parked->link);
    table->parked_total++;
}

void memtable_put(struct memtable *table, struct memtable_gen *gen, uint64_t block, void *data,
    uint32_t crc, uint64_t seq)
{
    gen_note_seq(gen, seq);
    struct memtable_slot *slot = gen_find(gen, block);
    if (slot->block == block) {
        park(table, slot->data, seq);
    } else {
        CHECK(gen->block_count < gen->block_count_max);
        gen->block_count++;
        table->block_total++;
    }
    *slot = (struct memtable_slot){.block = block, .seq = seq, .data = data, .crc = crc};
}

void memtable_put_trim(struct memtable_gen *gen, uint64_t block, uint64_t len, uint64_t seq)
{
    gen_note_seq(gen, seq);
    extmap_insert(&gen->ranges, block, len, EXTMAP_TRIMMED, 0, seq);
}

void memtable_put_mapped(
    struct memtable_gen *gen, uint64_t block, uint64_t len, uint64_t entry, uint64_t seq)
{
    gen_note_seq(gen, seq);
    extmap_insert(&gen->ranges, block, len, EXTMAP_MAPPED, entry, seq);
}

void memtable_put_row(struct memtable_gen *gen, const struct memtable_row *row)
{
    gen_note_seq(gen, row->seq);
    if (gen->row_count == gen->row_capacity) {
        gen->row_capacity = gen->row_capacity ? gen->row_capacity * 2 : 8;
        gen->rows = mem_realloc(gen->rows, gen->row_capacity * sizeof(*gen->rows));
    }
    gen->rows[gen->row_count++] = *row;
}

/* How far to look for the next block of the table: a long read then goes to the disk in runs of this, not block by
 * block, though the table is not empty; what is found may be of no use when another generation has a block nearer. */
#define LOOK_AHEAD_BLOCKS 64

/* From `block` to the next one in the table, `block` itself aside; at most `len_max`. */
static uint64_t gen_gap(const struct memtable_gen *gen, uint64_t block, uint64_t len_max)
{
    uint64_t len = 1, end = MIN(len_max, (uint64_t)LOOK_AHEAD_BLOCKS);
    while (len < end && gen_find(gen, block + len)->block != block + len)
        len++;
    return len;
}

/* What one generation says of `block`; MISS carries how far its ranges say nothing. */
static void gen_lookup(
    const struct memtable_gen *gen, uint64_t block, uint64_t len_max, struct memtable_hit *ret_hit)
{
    struct memtable_hit hit = {.kind = MEMTABLE_MISS, .len = len_max};
    if (extmap_count(&gen->ranges) > 0) {
        struct extmap_run run;
        extmap_lookup(&gen->ranges, block, len_max, &run);
        hit.len = run.len;
        if (run.kind != EXTMAP_GAP) {
            hit.kind = run.kind == EXTMAP_TRIMMED ? MEMTABLE_TRIMMED : MEMTABLE_MAPPED;
            hit.seq = run.seq;
            hit.entry = run.value;
        }
    }
    if (gen->block_count > 0) {
        const struct memtable_slot *slot = gen_find(gen, block);
        if (slot->block == block && slot->seq > hit.seq) /* T2 */
            hit = (struct memtable_hit){
                .kind = MEMTABLE_DATA, .seq = slot->seq, .data = slot->data, .len = 1};
        else
            hit.len = gen_gap(gen, block, hit.len);
    }
    *ret_hit = hit;
}

void memtable_lookup(
    const struct memtable *table, uint64_t block, uint64_t len_max, struct memtable_hit *ret_hit)
{
    uint64_t len = len_max;
    for (struct list *it = table->gens.prev; it != &table->gens; it = it->prev) {
        struct memtable_hit hit;
        gen_lookup(list_entry(it, struct memtable_gen, link), block, len, &hit);
        len = hit.len;
        if (hit.kind != MEMTABLE_MISS) {
            *ret_hit = hit;
            return;
        }
    }
    *ret_hit = (struct memtable_hit){.kind = MEMTABLE_MISS, .len = len};
}

unsigned memtable_acked(struct memtable *table, uint64_t acked_seq)
{
    unsigned freed = 0;
    while (!list_empty(&table->parked)) {
        struct parked *parked = list_entry(table->parked.next, struct parked, link);
        if (parked->replaced_by_seq > acked_seq)
            break; /* parked in the order of the replacing writes */
        list_remove(&parked->link);
        bufpool_put(table->pool, parked->data);
        mem_free(parked);
        table->parked_total--;
        freed++;
    }
    return freed;
}

struct memtable_gen *memtable_oldest_frozen(struct memtable *table)
{
    if (list_empty(&table->gens))
        return NULL;
    struct memtable_gen *gen = list_entry(table->gens.next, struct memtable_gen, link);
    return gen->frozen ? gen : NULL;
}

static int compare_slots(const void *a, const void *b)
{
    const struct memtable_slot *x = *(const struct memtable_slot *const *)a;
    const struct memtable_slot *y = *(const struct memtable_slot *const *)b;
    return x->block < y->block ? -1 : x->block > y->block;
}

unsigned memtable_sorted(const struct memtable_gen *gen, const struct memtable_slot **ret_slots)
{
    unsigned count = 0;
    for (unsigned i = 0; i <= gen->slot_mask; i++) {
        const struct memtable_slot *slot = &gen->slots[i];
        if (slot->block == MEMTABLE_EMPTY)
            continue;
        if (extmap_count(&gen->ranges) > 0) {
            struct extmap_run run;
            extmap_lookup(&gen->ranges, slot->block, 1, &run);
            if (run.kind != EXTMAP_GAP && run.seq > slot->seq)
                continue;
        }
        ret_slots[count++] = slot;
    }
    qsort(ret_slots, count, sizeof(*ret_slots), compare_slots);
    return count;
}

void memtable_drop(struct memtable *table, struct memtable_gen *gen)
{
    list_remove(&gen->link);
    table->gen_count--;
    gen_free(table, gen);
}

bool memtable_empty(const struct memtable *table)
{
    list_for_each (it, &table->gens) {
        if (list_entry(it, struct memtable_gen, link)->last_seq != 0)
            return false;
    }
    return true;
}

uint64_t memtable_bytes(const struct memtable *table)
{
    return (table->block_total + table->parked_total) * 4096;
}
