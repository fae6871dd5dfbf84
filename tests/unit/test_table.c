/* SPDX-License-Identifier: Apache-2.0 */
#include "fake_env.h"

#include <errno.h>
#include <string.h>

#include "blockd/disk/slab.h"
#include "blockd/disk/table.h"
#include "common/bytes.h"
#include "common/crc32c.h"
#include "common/mem.h"
#include "common/rng.h"

static struct fake_env fake;
static struct table table;
static const struct uuid disk = {.bytes = {1, 2, 3}};
static const uint8_t boot[16] = "boot-0123456789";

#define UNITS 10000

static int setup(void **state)
{
    fake_env_init(&fake);
    fiber_sched_init(1);
    fiber_set_default_env(&fake.env);
    table_init(&table, 1024, &disk);
    return 0;
}

static int teardown(void **state)
{
    table_fini(&table);
    assert_int_equal(mem_used_bytes(&fake.env), 0);
    fiber_sched_fini();
    env_fini(&fake.env);
    return 0;
}

static struct table_slot example(void)
{
    return (struct table_slot){
        .volume = 0x0102030405060708,
        .chunk = 0x1112131415161718,
        .instance = 5,
        .nonce = 6,
        .epoch = 7,
        .fence_epoch = 8,
        .first_unit = 640,
        .unit_count = 64,
        .length_blocks = 1019,
        .index = 5,
        .kind = SHARD_DATA,
        .k = 4,
        .m = 2,
        .state = TABLE_SEALED,
    };
}

static int decode(uint32_t slot_no, const void *entry, struct table_slot *ret_slot)
{
    uint8_t ret_boot[16];
    int r = table_entry_decode(&table, slot_no, entry, UNITS, ret_slot, ret_boot);
    if (r >= 0 && ret_slot->state != TABLE_FREE && ret_slot->state != TABLE_LOST)
        assert_memory_equal(ret_boot, boot, 16);
    return r;
}

static void test_what_is_encoded_decodes_to_the_same(void **state)
{
    uint8_t entry[TABLE_ENTRY_BYTES];
    struct table_slot out;
    table.slots[3] = example();
    table_entry_encode(&table, 3, boot, entry);
    assert_int_equal(decode(3, entry, &out), 0);
    assert_memory_equal(&out, &table.slots[3], sizeof(out));
    table.slots[3].state = TABLE_OPEN;
    table.slots[3].flags = TABLE_SUSPECT | TABLE_DAMAGED | TABLE_OLD_BOOT;
    table_entry_encode(&table, 3, boot, entry);
    assert_int_equal(decode(3, entry, &out), 0);
    assert_int_equal(out.flags, TABLE_SUSPECT);
    table_entry_encode(&table, 4, boot, entry);
    assert_int_equal(decode(4, entry, &out), 0);
    assert_int_equal(out.state, TABLE_FREE);
}

static void test_an_entry_under_removal_is_written_as_free(void **state)
{
    uint8_t entry[TABLE_ENTRY_BYTES], empty[TABLE_ENTRY_BYTES];
    table_entry_encode(&table, 3, boot, empty);
    table.slots[3] = example();
    table.slots[3].flags = TABLE_REMOVING;
    table_entry_encode(&table, 3, boot, entry);
    assert_memory_equal(entry, empty, sizeof(entry));
}

static void test_an_entry_of_another_slot_or_disk_is_damage(void **state)
{
    uint8_t entry[TABLE_ENTRY_BYTES];
    struct table_slot out;
    table.slots[3] = example();
    table_entry_encode(&table, 3, boot, entry);
    assert_int_equal(decode(100, entry, &out), -EBADMSG);
    struct table other;
    table_init(&other, 64, &(struct uuid){.bytes = {9}});
    uint8_t ret_boot[16];
    assert_int_equal(table_entry_decode(&other, 3, entry, UNITS, &out, ret_boot), -EBADMSG);
    table_fini(&other);
}

static void test_one_flipped_bit_is_put_right_two_are_damage(void **state)
{
    uint8_t entry[TABLE_ENTRY_BYTES];
    struct table_slot out;
    table.slots[3] = example();
    table_entry_encode(&table, 3, boot, entry);
    for (unsigned bit = 0; bit < TABLE_ENTRY_BYTES * 8; bit++) {
        entry[bit / 8] ^= (uint8_t)(1u << (bit % 8));
        assert_int_equal(decode(3, entry, &out), -EBADMSG);
        uint8_t ret_boot[16];
        assert_int_equal(table_entry_repair(&table, 3, entry, UNITS, &out, ret_boot), 0);
        assert_memory_equal(&out, &table.slots[3], sizeof(out));
        assert_memory_equal(ret_boot, boot, 16);
        unsigned other = (bit * 37 + 11) % (TABLE_ENTRY_BYTES * 8);
        if (other != bit) {
            entry[other / 8] ^= (uint8_t)(1u << (other % 8));
            assert_int_equal(table_entry_repair(&table, 3, entry, UNITS, &out, ret_boot), -EBADMSG);
            entry[other / 8] ^= (uint8_t)(1u << (other % 8));
        }
        entry[bit / 8] ^= (uint8_t)(1u << (bit % 8));
    }
}

static void test_zeros_are_damage_not_a_free_entry(void **state)
{
    static const uint8_t zeros[TABLE_ENTRY_BYTES];
    struct table_slot out;
    assert_int_equal(decode(0, zeros, &out), -EBADMSG);
    assert_int_equal(decode(1, zeros, &out), -EBADMSG);
}

static void test_impossible_entries_are_refused(void **state)
{
    uint8_t entry[TABLE_ENTRY_BYTES];
    struct table_slot out;
    struct {
        unsigned at, len;
        uint32_t value;
    } lies[] = {{9, 1, 5}, {8, 1, 2}, {11, 1, 0}, {11, 1, 5}, {12, 1, 0}, {12, 1, 17}, {13, 1, 5},
        {14, 1, 6}, {72, 4, UNITS}, {72, 4, UINT32_MAX}, {76, 4, 0}, {76, 4, 65},
        {76, 4, UINT32_MAX}, {80, 4, 1020}, {80, 4, UINT32_MAX}};
    table.slots[3] = example();
    for (unsigned i = 0; i < sizeof(lies) / sizeof(lies[0]); i++) {
        table_entry_encode(&table, 3, boot, entry);
        if (lies[i].len == 1)
            entry[lies[i].at] = (uint8_t)lies[i].value;
        else
            put_le32(entry + lies[i].at, lies[i].value);
        put_le32(entry, crc32c(table.crc_seed, entry + 4, TABLE_ENTRY_BYTES - 4));
        assert_int_equal(decode(3, entry, &out), -EBADMSG);
    }
}

static void test_keys_are_found_and_slots_reused(void **state)
{
    table_build_free_list(&table);
    assert_int_equal(table.free_count, 1024);
    for (uint32_t i = 0; i < 1024; i++) {
        uint32_t slot_no = table_alloc(&table);
        assert_int_equal(slot_no, i);
        table.slots[i] = example();
        table.slots[i].chunk = i / 4;
        table.slots[i].index = i % 4;
        table_link(&table, slot_no);
    }
    assert_int_equal(table_alloc(&table), TABLE_NONE);
    for (uint32_t i = 0; i < 1024; i++) {
        struct shard_key key = {.volume = example().volume, .chunk = i / 4, .index = i % 4};
        assert_int_equal(table_find(&table, key), i);
        if (i % 3 == 0) {
            table_unlink(&table, i);
            table_release(&table, i);
            assert_int_equal(table_find(&table, key), TABLE_NONE);
        }
        key.volume++;
        assert_int_equal(table_find(&table, key), TABLE_NONE);
    }
    assert_int_equal(table.free_count, 342);
}

/* --- Volumes (D18) ----------------------------------------------------------------------------- */

static void put(uint64_t volume, uint64_t chunk)
{
    uint32_t slot_no = table_alloc(&table);
    assert_int_not_equal(slot_no, TABLE_NONE);
    table.slots[slot_no] = example();
    table.slots[slot_no].volume = volume;
    table.slots[slot_no].chunk = chunk;
    table_link(&table, slot_no);
}

static void take(uint32_t slot_no)
{
    table_unlink(&table, slot_no);
    table_release(&table, slot_no);
}

static void check_list(uint64_t volume, uint32_t from)
{
    uint32_t found[1024], wanted = 0;
    uint32_t count = table_list_volume(&table, volume, from, found);
    assert_true(count <= table_group_entries(&table, volume));
    for (uint32_t i = from; i < 1024; i++) {
        if (table.slots[i].state == TABLE_FREE || table.slots[i].volume != volume)
            continue;
        assert_true(wanted < count);
        assert_int_equal(found[wanted++], i);
    }
    assert_int_equal(count, wanted);
}

/* From many small volumes to a few large ones and back, the table full and nearly empty. */
static void test_a_volume_s_slots_are_listed_in_order_whatever_came_and_went(void **state)
{
    struct rng rng;
    rng_init(&rng, 1);
    table_build_free_list(&table);
    for (uint64_t step = 0; step < 30000; step++) {
        uint64_t volumes = step / 1000 % 3 == 0 ? 500 : step / 1000 % 3 == 1 ? 3 : 40;
        uint32_t slot_no = (uint32_t)rng_below(&rng, 1024);
        bool fill = step / 3000 % 2 == 0;
        if (table.slots[slot_no].state != TABLE_FREE && (!fill || rng_below(&rng, 4) == 0))
            take(slot_no);
        else if (table.free_count > 0 && (fill || rng_below(&rng, 4) == 0))
            put(1 + rng_below(&rng, volumes), (rng_below(&rng, 9) << 32) + step);
        if (step % 10 == 0)
            table_check(&table);
        check_list(1 + rng_below(&rng, volumes), (uint32_t)rng_below(&rng, 3) * 300);
    }
    for (uint32_t i = 0; i < 1024; i++)
        if (table.slots[i].state != TABLE_FREE)
            take(i);
    table_check(&table);
    check_list(1, 0);
}

static void test_a_list_looks_at_few_slots_of_other_volumes(void **state)
{
    table_build_free_list(&table);
    uint64_t looked = 0;
    for (uint64_t i = 0; i < 1024; i++)
        put(i % 20, i);
    for (uint64_t volume = 0; volume < 20; volume++)
        looked += table_group_entries(&table, volume);
    assert_true(looked < 3 * 1024); /* 20 whole tables before */
}

/* --- Geometry ---------------------------------------------------------------------------------- */

static void test_capacity_and_trailer_always_fit_the_extent(void **state)
{
    for (uint32_t units = 1; units <= SLAB_UNITS; units++) {
        uint32_t blocks = units * SLAB_UNIT_BLOCKS;
        uint32_t capacity = shard_capacity_blocks(SHARD_DATA, units);
        assert_true(capacity + shard_trailer_blocks(SHARD_DATA, capacity) <= blocks);
        assert_true(capacity + 1 + shard_trailer_blocks(SHARD_DATA, capacity + 1) > blocks);
        assert_int_equal(shard_capacity_blocks(SHARD_LOG, units), blocks);
    }
    for (uint32_t capacity = 0; capacity <= 1019; capacity++) {
        uint32_t units = shard_units_for(SHARD_META, capacity);
        assert_true(shard_capacity_blocks(SHARD_META, units) >= capacity);
        assert_true(units == 1 || shard_capacity_blocks(SHARD_META, units - 1) < capacity);
    }
    assert_int_equal(shard_units_for(SHARD_DATA, 1020), 0);
    assert_int_equal(shard_units_for(SHARD_LOG, 16384), 1024);
    assert_int_equal(shard_units_for(SHARD_LOG, 16385), 0);
    assert_int_equal(shard_units_for(SHARD_LOG, UINT32_MAX), 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_what_is_encoded_decodes_to_the_same),
        TEST(test_an_entry_under_removal_is_written_as_free),
        TEST(test_an_entry_of_another_slot_or_disk_is_damage),
        TEST(test_one_flipped_bit_is_put_right_two_are_damage),
        TEST(test_zeros_are_damage_not_a_free_entry),
        TEST(test_impossible_entries_are_refused),
        TEST(test_keys_are_found_and_slots_reused),
        TEST(test_a_volume_s_slots_are_listed_in_order_whatever_came_and_went),
        TEST(test_a_list_looks_at_few_slots_of_other_volumes),
        TEST(test_capacity_and_trailer_always_fit_the_extent),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
