/* SPDX-License-Identifier: Apache-2.0
 *
 * Reading copies (copies.c) and manifests (manifest_load) of an earlier epoch, over disks in memory.
 * That a manifest is written so is what sim_volume shows.
 */
#include "fiber_test.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/check.h"
#include "common/mem.h"
#include "tests/lib/manifest_image.h"

static struct manifest_image im;

#define LAST 1
#define CONTINUE 2
static const struct chunk_shard copies[] = {{.place = {1, 100}}, {.place = {2, 101}}};

static struct records example(uint64_t size_bytes)
{
    struct records records = {0};
    struct state s;
    state_init(&s, MANIFEST_IMAGE_VOLUME);
    s.size_bytes = size_bytes;
    record_volume(&records, &s);
    state_fini(&s);
    return records;
}

static void append(uint16_t flags, const struct records *records)
{
    CHECK(manifest_image_append(
        &im, 1, flags, (uint32_t)records->len_bytes, records->bytes, records->len_bytes, false));
}

/* --- Copies ------------------------------------------------------------------------------------- */

static int fence(struct copies_set *set, uint32_t epoch)
{
    return copies_fence(set, &im.host, MANIFEST_IMAGE_VOLUME, 1, copies, 2, epoch);
}

static void begin(unsigned appends)
{
    manifest_image_init(&im);
    manifest_image_chunk(&im, 1);
    struct records r = example(1 << 20);
    for (unsigned i = 0; i < appends; i++)
        append(LAST, &r);
    records_fini(&r);
}

static void the_longest_copy_decides(void *arg)
{
    struct copies_set set;
    uint8_t *buf = mem_alloc_pages(4 * BLOCK_BYTES);
    uint32_t bad;
    begin(4);
    fake_disk_cut_shard(im.fakes[0], manifest_image_key(1, 0), 2);
    assert_int_equal(fence(&set, 4), 0);
    assert_int_equal(set.length_max, 4);
    assert_int_equal(set.usable, 2);
    assert_int_equal(copies_read(&set, 0, 4, buf, &bad), 0);
    assert_memory_equal(
        buf + 3 * BLOCK_BYTES, fake_disk_block(im.fakes[1], manifest_image_key(1, 1), 3), 4096);
    mem_free_pages(buf, 4 * BLOCK_BYTES);
    manifest_image_fini(&im);
}

/* Left behind by a roll: fenced, but neither longer nor complete (S2, S6). */
static void a_copy_recorded_lost_decides_nothing(void *arg)
{
    struct chunk_shard left_behind[2] = {copies[0], copies[1]};
    struct copies_set set;
    begin(4);
    left_behind[1].state = CHUNK_SHARD_LOST;
    fake_disk_cut_shard(im.fakes[0], manifest_image_key(1, 0), 2);
    assert_int_equal(copies_fence(&set, &im.host, MANIFEST_IMAGE_VOLUME, 1, left_behind, 2, 4), 0);
    assert_int_equal(set.length_max, 2);
    assert_int_equal(set.usable, 1);
    assert_null(set.disks[1]);
    assert_int_equal(im.fakes[1]->fences, 1);
    assert_false(copies_away(&set, &im.host, left_behind)); /* and nobody waits for it */
    /* Only when there is no other: what it holds, which proves nothing. */
    fake_disk_lose_shard(im.fakes[0], manifest_image_key(1, 0));
    assert_int_equal(copies_fence(&set, &im.host, MANIFEST_IMAGE_VOLUME, 1, left_behind, 2, 5), 0);
    assert_true(set.lost_only);
    assert_int_equal(set.suspect, set.usable);
    manifest_image_fini(&im);
}

static void damage_is_read_around_block_by_block(void *arg)
{
    struct copies_set set;
    uint8_t *buf = mem_alloc_pages(4 * BLOCK_BYTES);
    uint32_t bad = 99;
    begin(4);
    fake_disk_damage_block(im.fakes[0], manifest_image_key(1, 0), 1);
    fake_disk_damage_block(im.fakes[1], manifest_image_key(1, 1), 2);
    assert_int_equal(fence(&set, 4), 0);
    assert_int_equal(copies_read(&set, 0, 4, buf, &bad), 0); /* no copy has it all */
    assert_memory_equal(
        buf + BLOCK_BYTES, fake_disk_block(im.fakes[1], manifest_image_key(1, 1), 1), 4096);
    fake_disk_damage_block(im.fakes[1], manifest_image_key(1, 1), 1);
    assert_int_equal(copies_read(&set, 0, 4, buf, &bad), -EBADMSG);
    assert_int_equal(bad, 1);
    im.fakes[0]->error = -EHOSTUNREACH; /* S14: it may have what the other has not */
    assert_int_equal(copies_read(&set, 0, 4, buf, &bad), -EHOSTUNREACH);
    assert_int_equal(copies_read(&set, 3, 1, buf, &bad), 0);
    im.fakes[0]->error = 0;
    mem_free_pages(buf, 4 * BLOCK_BYTES);
    manifest_image_fini(&im);
}

static void gone_and_unreachable_are_not_the_same(void *arg)
{
    struct copies_set set;
    begin(2);
    im.fakes[0]->error = -EHOSTUNREACH;
    assert_int_equal(fence(&set, 4), 0); /* one copy is enough (S12) */
    assert_true(set.usable == 1 && set.disks[0] == NULL && set.errors[0] == -EHOSTUNREACH);
    fake_disk_lose_shard(im.fakes[1], manifest_image_key(1, 1));
    assert_int_equal(fence(&set, 4), -EHOSTUNREACH); /* the other may be back (S14) */
    im.fakes[0]->error = 0;
    fake_disk_lose_shard(im.fakes[0], manifest_image_key(1, 0));
    assert_int_equal(fence(&set, 4), -ENOENT);
    im.fakes[0]->disk.state = DISK_FAILED;
    assert_int_equal(fence(&set, 4), -EHOSTUNREACH);
    manifest_image_fini(&im);
}

static void another_instance_is_not_the_copy_that_was_named(void *arg)
{
    struct copies_set set;
    struct chunk_shard shards[] = {{.place = {1, 77}}, {.place = {2, 101}}};
    begin(2);
    assert_int_equal(copies_fence(&set, &im.host, MANIFEST_IMAGE_VOLUME, 1, shards, 2, 4), 0);
    assert_int_equal(set.errors[0], -ENOENT);
    assert_int_equal(set.usable, 1);
    manifest_image_fini(&im);
}

static void a_higher_fence_stops_everything(void *arg)
{
    struct copies_set set;
    begin(2);
    assert_int_equal(fence(&set, 9), 0);
    assert_int_equal(fence(&set, 8), -ESTALE);
    assert_int_equal(fence(&set, 9), 0);
    struct records r = example(512);
    struct shard_append late = {.disk = &im.fakes[0]->disk,
        .key = manifest_image_key(1, 0),
        .epoch = MANIFEST_IMAGE_EPOCH,
        .off_blocks = im.length_blocks};
    assert_int_equal(shard_append(&late), -ESTALE);
    records_fini(&r);
    manifest_image_fini(&im);
}

/* --- Manifests ---------------------------------------------------------------------------------- */

static struct state loaded;
static struct copies_ref *chain;
static unsigned chain_count;
static char *error;

static int load(void)
{
    state_init(&loaded, MANIFEST_IMAGE_VOLUME);
    chain = NULL;
    chain_count = 0;
    error = NULL;
    int r = manifest_load(&im.host, &im.root, &loaded, &chain, &chain_count, &error);
    assert_true((r < 0) == (error != NULL));
    return r;
}

static void unload(void)
{
    mem_free(error);
    mem_free(chain);
    state_fini(&loaded);
}

static void expect_refusal(int result, const char *sentence)
{
    assert_int_equal(load(), result);
    if (!strstr(error, sentence))
        fail_msg("'%s' is not in '%s'", sentence, error);
    unload();
    manifest_image_fini(&im);
}

static void a_group_counts_when_its_last_append_is_there(void *arg)
{
    begin(1);
    struct records size = {0};
    record_size(&size, 2 << 20);
    append(0, &size);
    assert_int_equal(load(), 0);
    assert_int_equal(loaded.size_bytes, 1 << 20); /* torn: never happened */
    unload();
    manifest_image_fini(&im);
    begin(1);
    append(0, &size);
    append(LAST, &size); /* one group of two records */
    assert_int_equal(load(), 0);
    assert_int_equal(loaded.size_bytes, 2 << 20);
    assert_int_equal(chain_count, 1);
    unload();
    records_fini(&size);
    manifest_image_fini(&im);
}

static void a_group_may_span_appends_payload_and_chunks(void *arg)
{
    struct records r = example(1 << 20), next = {0};
    struct wal wal = {.capacity_blocks = 100, .copies = 3};
    for (unsigned i = 1; i <= 3000; i++) {
        wal.chunk = i;
        record_wal(&r, &wal);
    }
    struct copies_ref ref = manifest_image_ref(2);
    record_continue(&next, &ref);
    manifest_image_init(&im);
    manifest_image_chunk(&im, 1);
    size_t first = 30 * BLOCK_BYTES + 1234, second = 3000;
    assert_true(manifest_image_append(&im, 1, 0, (uint32_t)first, r.bytes, first, false));
    assert_true(manifest_image_append(&im, 1, 0, (uint32_t)second, r.bytes + first, second, false));
    append(CONTINUE, &next);
    manifest_image_chunk(&im, 2);
    assert_true(manifest_image_append(&im, 1, LAST, (uint32_t)(r.len_bytes - first - second),
        r.bytes + first + second, r.len_bytes - first - second, true));
    fake_disk_damage_block(im.fakes[0], manifest_image_key(1, 0), 7);
    assert_int_equal(load(), 0);
    assert_int_equal(chain_count, 2);
    assert_int_equal(chain[0].chunk, 1);
    assert_int_equal(chain[1].chunk, 2);
    unsigned count = 0;
    list_for_each (it, &loaded.wals)
        count++;
    assert_int_equal(count, 3000);
    unload();
    records_fini(&r);
    records_fini(&next);
    manifest_image_fini(&im);
}

static void what_makes_no_sense_is_refused_with_a_sentence(void *arg)
{
    struct records r = example(1 << 20), next = {0};
    struct copies_ref ref = manifest_image_ref(1);

    begin(0);
    expect_refusal(-EBADMSG, "no volume record");
    begin(1);
    assert_true(manifest_image_append(&im, 2, LAST, 0, "", 0, false));
    expect_refusal(-EBADMSG, "version that this daemon does not know");
    begin(1);
    assert_true(manifest_image_append(&im, 1, LAST, 9, r.bytes, 8, false));
    expect_refusal(-EBADMSG, "longer than its blocks");
    begin(1);
    assert_true(manifest_image_append(&im, 1, LAST, 4097, r.bytes, 8, true));
    expect_refusal(-EBADMSG, "longer than its blocks");
    begin(1);
    assert_true(manifest_image_append(&im, 1, LAST, UINT32_MAX, r.bytes, 8, true));
    expect_refusal(-EBADMSG, "longer than its blocks");
    begin(1);
    assert_true(manifest_image_append(&im, 1, LAST, 8, "\xff\xff\0\0\0\0\0", 8, false));
    expect_refusal(-EBADMSG, "does not know");
    begin(1);
    record_continue(&next, &ref); /* itself */
    append(CONTINUE, &next);
    expect_refusal(-EBADMSG, "circle");
    begin(1);
    records_clear(&next);
    ref = manifest_image_ref(9); /* nowhere */
    record_continue(&next, &ref);
    append(CONTINUE, &next);
    expect_refusal(-ENOENT, "all are gone");
    begin(2);
    fake_disk_damage_block(im.fakes[0], manifest_image_key(1, 0), 1);
    fake_disk_damage_block(im.fakes[1], manifest_image_key(1, 1), 1);
    expect_refusal(-EBADMSG, "damaged in every copy");
    begin(1);
    im.root.epoch = 9;
    assert_int_equal(load(), 0);
    unload();
    im.root.epoch = 8;
    expect_refusal(-ESTALE, "restored from a backup");
    records_fini(&r);
    records_fini(&next);
}

int main(void)
{
    setenv("CMOCKA_TEST_ABORT", "1", 1); /* no way back from a failed assertion inside a fiber */
    const struct CMUnitTest tests[] = {
        FIBER_TEST(the_longest_copy_decides),
        FIBER_TEST(a_copy_recorded_lost_decides_nothing),
        FIBER_TEST(damage_is_read_around_block_by_block),
        FIBER_TEST(gone_and_unreachable_are_not_the_same),
        FIBER_TEST(another_instance_is_not_the_copy_that_was_named),
        FIBER_TEST(a_higher_fence_stops_everything),
        FIBER_TEST(a_group_counts_when_its_last_append_is_there),
        FIBER_TEST(a_group_may_span_appends_payload_and_chunks),
        FIBER_TEST(what_makes_no_sense_is_refused_with_a_sentence),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
