/* SPDX-License-Identifier: Apache-2.0
 *
 * Format, open and probe, and disks that are not what they should be: each is refused with a
 * sentence that names the path and what is wrong, or repaired.
 */
#include "disk_fixture.h"

#include "blockd/disk/superblock.h"
#include "blockd/disk/table.h"
#include "common/bytes.h"
#include "common/rng.h"

#define MIB (1ull << 20)
#define LAST_COPY (64 * MIB - BLOCK_BYTES)

static const struct shard_key A = {.volume = 7, .chunk = (1ull << 32) | 1, .index = 2};
static const struct shard_key B = {.volume = 7, .chunk = (1ull << 32) | 2, .index = 3};

static void two_shards_closed(struct fixture *f)
{
    assert_int_equal(create_simple(f->disk, A, SHARD_DATA, 60), 0);
    assert_int_equal(append_blocks(f->disk, A, 1, 0, 5, 0, SHARD_APPEND_DSYNC), 0);
    assert_int_equal(create_simple(f->disk, B, SHARD_DATA, 60), 0);
    assert_int_equal(append_blocks(f->disk, B, 1, 0, 5, 0, SHARD_APPEND_DSYNC), 0);
    assert_int_equal(shard_seal(f->disk, B, 1, 6), 0);
    fixture_close(f);
}

static void on_closed_disk(void (*fn)(struct fixture *f))
{
    struct fixture f;
    fixture_init(&f, 1, 64 * MIB);
    assert_true(fixture_run(&f, two_shards_closed));
    assert_true(fixture_run(&f, fn));
    fixture_fini(&f);
}

static void expect_sentence(char *error, const char *part)
{
    assert_non_null(error);
    if (strstr(error, FIXTURE_PATH) == NULL || strstr(error, part) == NULL)
        fail_msg("'%s' does not say '%s'", error, part);
    mem_free(error);
}

static void expect_refused(struct fixture *f, int wanted, const char *part)
{
    char *error = NULL;
    assert_int_equal(fixture_open_status(f, &error), wanted);
    expect_sentence(error, part);
}

static void expect_sound(struct fixture *f)
{
    fixture_open(f);
    assert_int_equal(read_and_compare(f->disk, A, 0, 6, 0), 0);
    assert_int_equal(read_and_compare(f->disk, B, 0, 6, 0), 0);
    fixture_close(f);
}

/* --- Superblocks ------------------------------------------------------------------------------ */

static void any_two_copies_bad(struct fixture *f)
{
    static const uint64_t offs[] = {0, MIB, LAST_COPY};
    for (unsigned bad = 0; bad < 7; bad++) {
        for (unsigned i = 0; i < 3; i++) {
            if ((bad >> i & 1) != 0)
                sim_disk_flip(f->medium, offs[i] + 100 * i, 3);
        }
        expect_sound(f);
        for (unsigned i = 0; i < 3; i++) {
            struct superblock super;
            uint8_t block[SUPERBLOCK_BYTES];
            sim_disk_peek(f->medium, offs[i], block, sizeof(block));
            assert_int_equal(superblock_decode(block, offs[i], &super), 0);
            assert_int_equal(super.incarnation, 2 + bad);
        }
    }
}

static void test_any_good_superblock_copy_is_enough_and_repairs_the_others(void **state)
{
    on_closed_disk(any_two_copies_bad);
}

static void all_copies_bad(struct fixture *f)
{
    static const uint64_t offs[] = {0, MIB, LAST_COPY};
    for (unsigned i = 0; i < 3; i++)
        sim_disk_flip(f->medium, offs[i] + 200, 1);
    expect_refused(f, -EBADMSG, "no copy of the superblock is valid");
    static const uint8_t zeros[BLOCK_BYTES];
    for (unsigned i = 0; i < 3; i++)
        sim_disk_poke(f->medium, offs[i], zeros, sizeof(zeros));
    expect_refused(f, -EBADMSG, "not a Holdfast disk");
}

static void test_without_a_superblock_the_disk_is_refused(void **state)
{
    on_closed_disk(all_copies_bad);
}

static void newer(struct fixture *f)
{
    static const uint64_t offs[] = {0, MIB, LAST_COPY};
    for (unsigned i = 0; i < 3; i++) {
        uint8_t block[SUPERBLOCK_BYTES];
        sim_disk_peek(f->medium, offs[i], block, sizeof(block));
        put_le64(block + 16, 1ull << 40);
        put_le32(block + 12, 0);
        put_le32(block + 12, crc32c(0, block, sizeof(block)));
        sim_disk_poke(f->medium, offs[i], block, sizeof(block));
    }
    expect_refused(f, -EOPNOTSUPP, "newer version");
    struct local_disk_superblock super;
    char *error = NULL;
    assert_int_equal(local_disk_probe(FIXTURE_PATH, 0, &super, &error), -EOPNOTSUPP);
    expect_sentence(error, "newer version");
}

static void test_a_newer_disk_is_refused_untouched(void **state)
{
    on_closed_disk(newer);
}

static void another_cluster(struct fixture *f)
{
    f->cluster.bytes[3]++;
    expect_refused(f, -EPERM, "belongs to cluster c1c1c1c1-");
    f->cluster.bytes[3]--;
    expect_sound(f);
}

static void test_another_clusters_disk_is_refused(void **state)
{
    on_closed_disk(another_cluster);
}

static void cut_short(struct fixture *f)
{
    sim_disk_resize(f->medium, 32 * MIB);
    expect_refused(f, -EBADMSG, "67108864 bytes, the device has 33554432");
    sim_disk_resize(f->medium, 128 * MIB);
    expect_sound(f);
}

static void test_a_device_cut_short_is_refused_with_both_sizes(void **state)
{
    on_closed_disk(cut_short);
}

static void twice(struct fixture *f)
{
    struct disk *disk;
    char *error = NULL;
    struct local_disk_options options = {0};
    fixture_open(f);
    assert_int_equal(local_disk_open(FIXTURE_PATH, f->cluster, &options, &disk, &error), -EBUSY);
    expect_sentence(error, "in use");
    fixture_close(f);
    expect_sound(f);
    assert_int_equal(local_disk_open("/dev/none", f->cluster, &options, &disk, &error), -ENOENT);
    mem_free(error);
}

static void test_a_disk_in_use_and_a_missing_one_are_refused(void **state)
{
    on_closed_disk(twice);
}

static void probes(struct fixture *f)
{
    struct local_disk_superblock super;
    char *error = NULL;
    assert_int_equal(local_disk_probe(FIXTURE_PATH, 0, &super, &error), 0);
    assert_memory_equal(&super.cluster, &f->cluster, 16);
    assert_memory_equal(&super.node, &f->node_uuid, 16);
    assert_string_equal(super.class_name, "ssd");
    assert_int_equal(super.size_bytes, 64 * MIB);
    assert_int_equal(super.incarnation, 1);
    assert_int_equal(local_disk_probe("/dev/none", 0, &super, &error), -ENOENT);
    mem_free(error);
}

static void test_a_probe_changes_nothing_and_tells_who_the_disk_is(void **state)
{
    on_closed_disk(probes);
}

/* --- The table -------------------------------------------------------------------------------- */

static void lost_entries(struct fixture *f)
{
    /* Two bits: more than can be put right. Slot 0 is A's. */
    sim_disk_flip(f->medium, 2 * MIB + 20, 1);
    sim_disk_flip(f->medium, 2 * MIB + 90, 6);
    for (unsigned round = 0; round < 2; round++) {
        struct shard_info *list;
        unsigned count, damaged = 0;
        fixture_open(f);
        assert_int_equal(f->disk->damage_count, 1);
        assert_int_equal(read_and_compare(f->disk, A, 0, 6, 0), -EBADMSG);
        assert_int_equal(append_blocks(f->disk, A, 1, 6, 1, 0, 0), -EBADMSG);
        assert_int_equal(shard_seal(f->disk, A, 1, 6), -EBADMSG);
        assert_int_equal(read_and_compare(f->disk, B, 0, 6, 0), 0);
        assert_int_equal(shard_list(f->disk, 0, &list, &count), 0);
        for (unsigned i = 0; i < count; i++)
            damaged += list[i].damaged;
        assert_int_equal(damaged, 1);
        mem_free(list);
        /* A neighbour's change writes the block anew; what was lost stays lost. */
        assert_int_equal(create_simple(f->disk, key_of(1, 2 + round, 0), SHARD_DATA, 10), 0);
        fixture_close(f);
    }
    /* A fence of what may have been lost is kept, and not called absence. */
    fixture_open(f);
    assert_int_equal(shard_fence(f->disk, A, 3, NULL), -EBADMSG);
    assert_int_equal(create_simple(f->disk, A, SHARD_DATA, 10), -ESTALE);
    fixture_close(f);
}

static void test_a_lost_table_entry_makes_its_shard_damaged_not_absent(void **state)
{
    on_closed_disk(lost_entries);
}

static void unreadable_table(struct fixture *f)
{
    sim_disk_fault(f->medium, &(struct sim_fault){.ops = SIM_OP_READ,
                                  .kind = SIM_FAULT_ERROR,
                                  .off_bytes = 2 * MIB + 5 * BLOCK_BYTES,
                                  .len_bytes = 512});
    fixture_open(f);
    assert_int_equal(read_and_compare(f->disk, A, 0, 6, 0), 0);
    assert_int_equal(f->disk->damage_count, TABLE_BLOCK_ENTRIES);
    assert_int_equal(read_and_compare(f->disk, key_of(1, 1, 1), 0, 1, 0), -EBADMSG);
    fixture_close(f);
}

static void test_an_unreadable_table_block_loses_its_entries_only(void **state)
{
    on_closed_disk(unreadable_table);
}

static void wiped_table(struct fixture *f)
{
    static const uint8_t zeros[BLOCK_BYTES];
    for (unsigned i = 0; i < 1024 / TABLE_BLOCK_ENTRIES; i++)
        sim_disk_poke(f->medium, 2 * MIB + i * BLOCK_BYTES, zeros, sizeof(zeros));
    expect_refused(f, -EBADMSG, "more than half");
}

static void test_a_wiped_table_is_not_an_empty_one(void **state)
{
    on_closed_disk(wiped_table);
}

/* Gives slot `to` the entry of slot `from`, changed by `change`, as a valid entry. */
static void forge(struct fixture *f, unsigned from, unsigned to, void (*change)(uint8_t *entry))
{
    struct local_disk_superblock super;
    char *error = NULL;
    assert_int_equal(local_disk_probe(FIXTURE_PATH, 0, &super, &error), 0);
    uint8_t entry[TABLE_ENTRY_BYTES];
    sim_disk_peek(f->medium, 2 * MIB + from * TABLE_ENTRY_BYTES, entry, sizeof(entry));
    put_le32(entry + 4, to);
    change(entry);
    put_le32(entry, crc32c(crc32c(0, &super.disk, 16), entry + 4, TABLE_ENTRY_BYTES - 4));
    sim_disk_poke(f->medium, 2 * MIB + to * TABLE_ENTRY_BYTES, entry, sizeof(entry));
}

static void other_chunk(uint8_t *entry)
{
    put_le64(entry + 24, 12345);
}

static void later_epoch(uint8_t *entry)
{
    put_le32(entry + 48, 9);
}

static void no_change(uint8_t *entry)
{
}

static void overlap(struct fixture *f)
{
    forge(f, 0, 7, other_chunk);
    fixture_open(f);
    assert_int_equal(append_blocks(f->disk, A, 1, 6, 1, 0, 0), -EBADMSG);
    assert_int_equal(append_blocks(f->disk, key_of(7, 12345, 2), 1, 0, 1, 0, 0), -EBADMSG);
    assert_int_equal(read_and_compare(f->disk, A, 0, 6, 0), 0); /* it proves that it is A's */
    struct shard_info info;
    assert_int_equal(shard_stat(f->disk, key_of(7, 12345, 2), &info), 0);
    assert_true(info.damaged);
    /* Removing either frees nothing that is the other's. */
    uint64_t free_bytes = f->disk->free_bytes;
    assert_int_equal(shard_remove(f->disk, key_of(7, 12345, 2), 0, 1), 0);
    assert_int_equal(f->disk->free_bytes, free_bytes);
    fixture_close(f);
    expect_sound(f);
}

static void test_entries_that_claim_the_same_space_are_damaged(void **state)
{
    on_closed_disk(overlap);
}

static void duplicate(struct fixture *f)
{
    forge(f, 0, 7, later_epoch);
    struct shard_info info;
    fixture_open(f);
    assert_int_equal(shard_stat(f->disk, A, &info), 0);
    assert_int_equal(info.epoch, 9);
    assert_true(info.damaged);
    fixture_close(f);
}

static void test_of_two_entries_for_one_shard_the_later_epoch_stays(void **state)
{
    on_closed_disk(duplicate);
}

static void equal_duplicate(struct fixture *f)
{
    forge(f, 0, 7, no_change);
    struct shard_info info;
    fixture_open(f);
    assert_int_equal(shard_stat(f->disk, A, &info), 0);
    assert_true(info.damaged);
    fixture_close(f);
}

static void test_of_two_equal_entries_for_one_shard_the_first_stays(void **state)
{
    on_closed_disk(equal_duplicate);
}

/* --- Format ----------------------------------------------------------------------------------- */

static int format(struct fixture *f, const char *path, uint64_t size, bool force, char **ret_error)
{
    struct uuid disk;
    return local_disk_format(path, size, f->cluster, f->node_uuid, "hdd", force, &disk, ret_error);
}

static void formats(struct fixture *f)
{
    char *error = NULL;
    assert_int_equal(format(f, FIXTURE_PATH, 0, false, &error), -EEXIST);
    expect_sentence(error, "a Holdfast disk");
    /* Every single copy is enough to be recognised, a damaged one too. */
    static const uint64_t offs[] = {0, MIB, LAST_COPY};
    static const uint8_t zeros[BLOCK_BYTES];
    for (unsigned i = 0; i < 2; i++) {
        sim_disk_poke(f->medium, offs[i], zeros, sizeof(zeros));
        assert_int_equal(format(f, FIXTURE_PATH, 0, false, &error), -EEXIST);
        mem_free(error);
    }
    expect_sound(f);
    fixture_open(f);
    assert_int_equal(format(f, FIXTURE_PATH, 0, true, &error), -EBUSY);
    expect_sentence(error, "in use");
    fixture_close(f);
    assert_int_equal(format(f, FIXTURE_PATH, 128 * MIB, true, &error), -EINVAL);
    expect_sentence(error, "not the 134217728 asked for");
    assert_int_equal(format(f, FIXTURE_PATH, MIB, true, &error), -ERANGE);
    expect_sentence(error, "at least 64 MiB");
    expect_sound(f);
    assert_int_equal(format(f, FIXTURE_PATH, 0, true, &error), 0);
    fixture_open(f);
    assert_int_equal(read_and_compare(f->disk, A, 0, 6, 0), -ENOENT);
    assert_int_equal(f->disk->free_bytes, f->disk->size_bytes);
    assert_string_equal(f->disk->class_name, "hdd");
    fixture_close(f);
}

static void test_format_refuses_a_used_disk_unless_forced(void **state)
{
    on_closed_disk(formats);
}

static void signatures(struct fixture *f)
{
    static const struct {
        uint64_t off;
        const char *magic;
        const char *says;
    } used[] = {{0x438, "\x53\xef", "ext2/3/4"}, {0, "XFSB", "XFS"},
        {510, "\x55\xaa", "boot sector"}, {0x10040, "_BHRfS_M", "btrfs"},
        {0, "LUKS\xba\xbe", "LUKS"}, {512, "EFI PART", "GPT"}};
    static const uint8_t zeros[BLOCK_BYTES];
    for (unsigned i = 0; i < 3; i++)
        sim_disk_poke(f->medium, (uint64_t[]){0, MIB, LAST_COPY}[i], zeros, sizeof(zeros));
    for (unsigned i = 0; i < ARRAY_SIZE(used); i++) {
        char *error = NULL;
        sim_disk_poke(f->medium, used[i].off, used[i].magic, strlen(used[i].magic));
        assert_int_equal(format(f, FIXTURE_PATH, 0, false, &error), -EEXIST);
        expect_sentence(error, used[i].says);
        sim_disk_poke(f->medium, used[i].off, zeros, strlen(used[i].magic));
    }
    char *error = NULL;
    assert_int_equal(format(f, FIXTURE_PATH, 0, false, &error), 0);
}

static void test_format_knows_the_signatures_of_others(void **state)
{
    on_closed_disk(signatures);
}

static void format_files(struct fixture *f)
{
    char *error = NULL;
    assert_int_equal(format(f, "/new", 0, false, &error), -ENOENT);
    mem_free(error);
    assert_int_equal(format(f, "/new", MIB, false, &error), -ERANGE);
    mem_free(error);
    assert_int_equal(format(f, "/new", 65 * MIB + 123, false, &error), 0);
    struct local_disk_superblock super;
    assert_int_equal(local_disk_probe("/new", 0, &super, &error), 0);
    assert_int_equal(super.size_bytes, 65 * MIB);
    assert_int_equal(format(f, "/new", 0, false, &error), -EEXIST);
    mem_free(error);
}

static void test_format_makes_a_file_of_the_size_asked_for(void **state)
{
    on_closed_disk(format_files);
}

/* A format that stops anywhere leaves no disk, or the new one, never a mixture. */
static bool crashed;

static void crash_hook(void *ctx, struct sim_io_point *point)
{
    if (point->number != *(uint64_t *)ctx)
        return;
    point->when = SIM_POINT_HALF;
    point->scope = SIM_SCOPE_MACHINE;
    point->mode = SIM_CUT_RANDOM;
    crashed = true;
}

static void format_again(struct fixture *f)
{
    char *error = NULL;
    (void)format(f, FIXTURE_PATH, 0, true, &error);
    mem_free(error);
}

static void open_after(struct fixture *f)
{
    char *error = NULL;
    int r = fixture_open_status(f, &error);
    mem_free(error);
    if (r < 0) {
        assert_int_equal(r, -EBADMSG);
        return;
    }
    int old = read_and_compare(f->disk, A, 0, 6, 0);
    assert_true(f->disk->damage_count < SUPERBLOCK_COPIES); /* copies wiped already, no more */
    assert_true(old == 0 || (old == -ENOENT && f->disk->free_bytes == f->disk->size_bytes));
    fixture_close(f);
}

static void test_a_format_that_was_cut_off_leaves_no_mixture(void **state)
{
    log_set_output(fixture_quiet, NULL);
    struct fixture f;
    fixture_init(&f, 1, 64 * MIB);
    assert_true(fixture_run(&f, two_shards_closed));
    struct sim_image *before = sim_disk_snapshot(f.medium);
    uint64_t at;
    sim_set_io_hook(f.sim, crash_hook, &at);
    uint64_t step = 1;
    do {
        sim_disk_restore(f.medium, before);
        crashed = false;
        at = sim_io_count(f.sim) + step++;
        (void)fixture_run(&f, format_again);
        at = 0;
        assert_true(fixture_run(&f, open_after));
    } while (crashed);
    assert_true(step > 8);
    sim_image_free(before);
    fixture_fini(&f);
    log_set_output(NULL, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_any_good_superblock_copy_is_enough_and_repairs_the_others),
        cmocka_unit_test(test_without_a_superblock_the_disk_is_refused),
        cmocka_unit_test(test_a_newer_disk_is_refused_untouched),
        cmocka_unit_test(test_another_clusters_disk_is_refused),
        cmocka_unit_test(test_a_device_cut_short_is_refused_with_both_sizes),
        cmocka_unit_test(test_a_disk_in_use_and_a_missing_one_are_refused),
        cmocka_unit_test(test_a_probe_changes_nothing_and_tells_who_the_disk_is),
        cmocka_unit_test(test_a_lost_table_entry_makes_its_shard_damaged_not_absent),
        cmocka_unit_test(test_an_unreadable_table_block_loses_its_entries_only),
        cmocka_unit_test(test_a_wiped_table_is_not_an_empty_one),
        cmocka_unit_test(test_entries_that_claim_the_same_space_are_damaged),
        cmocka_unit_test(test_of_two_entries_for_one_shard_the_later_epoch_stays),
        cmocka_unit_test(test_of_two_equal_entries_for_one_shard_the_first_stays),
        cmocka_unit_test(test_format_refuses_a_used_disk_unless_forced),
        cmocka_unit_test(test_format_knows_the_signatures_of_others),
        cmocka_unit_test(test_format_makes_a_file_of_the_size_asked_for),
        cmocka_unit_test(test_a_format_that_was_cut_off_leaves_no_mixture),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
