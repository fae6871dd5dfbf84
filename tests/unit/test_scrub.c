/* SPDX-License-Identifier: Apache-2.0
 *
 * The scrub, over disks that only count (defined here in place of the real ones).
 */
#include "fake_fixture.h"

#include <errno.h>
#include <string.h>

#include "blockd/scrub.h"
#include "common/env.h"
#include "common/mem.h"

#define SECOND_NS 1000000000ull
#define MIB (1ull << 20)
#define DISKS 3
#define SHARDS 10

/* --- The disks' part ------------------------------------------------------------------------- */

static struct disks_entry entries[DISKS];
static struct disk disks_[DISKS];
static unsigned scrubbed[DISKS], holds;
static int list_error;
static uint64_t damaged_chunk; /* 0 = none */

struct disks_entry *disks_hold_next(struct disks *disks, uint32_t number)
{
    if (number >= DISKS)
        return NULL;
    holds++;
    return &entries[number];
}

void disks_release(struct disks_entry *entry)
{
    holds--;
}

int shard_list(
    struct disk *disk, uint64_t volume, struct shard_info **ret_list, unsigned *ret_count)
{
    if (list_error)
        return list_error;
    struct shard_info *list = mem_zalloc(SHARDS + 1, sizeof(*list));
    for (unsigned i = 0; i < SHARDS; i++)
        list[i].key.chunk = i + 1;
    list[SHARDS].tombstone = true;
    *ret_list = list;
    *ret_count = SHARDS + 1;
    return 0;
}

/* Each shard has 1 MiB. */
int local_disk_scrub_shard(struct disk *disk, struct shard_key key, uint64_t *ret_bytes)
{
    env_sleep_ns(1000);
    scrubbed[disk - disks_]++;
    *ret_bytes = MIB;
    return key.chunk == damaged_chunk ? -EBADMSG : 0;
}

/* --- World ----------------------------------------------------------------------------------- */

static struct scrub *scrub;
static struct scrub_options options;

static void setup(void)
{
    options = (struct scrub_options){
        .rate_bytes = MIB, .interval_ns = 1000 * SECOND_NS, .first_delay_ns = 100 * SECOND_NS};
    memset(scrubbed, 0, sizeof(scrubbed));
    list_error = 0;
    damaged_chunk = 0;
    for (unsigned i = 0; i < DISKS; i++)
        entries[i] =
            (struct disks_entry){.record.number = i + 1, .disk = &disks_[i], .state = DISK_IN};
    scrub = scrub_start(NULL, &options);
}

static void teardown(void)
{
    scrub_stop(scrub);
    assert_int_equal(holds, 0);
}

static struct scrub_status status(void)
{
    struct scrub_status status;
    scrub_get_status(scrub, &status);
    return status;
}

BODY(passes_are_paced_and_begin_at_the_interval)
{
    env_sleep_ns(99 * SECOND_NS);
    assert_int_equal(scrubbed[0], 0);
    env_sleep_ns(6 * SECOND_NS);
    assert_true(status().running);
    assert_in_range(scrubbed[0], 4, 6); /* one a second */
    assert_int_equal(status().disk, 1);
    env_sleep_ns(30 * SECOND_NS);
    assert_false(status().running);
    assert_int_equal(status().passes, 1);
    assert_int_equal(status().bytes, 30 * MIB);
    assert_int_equal(status().shards, 30);
    env_sleep_ns(960 * SECOND_NS);
    assert_int_equal(status().passes, 1);
    env_sleep_ns(100 * SECOND_NS);
    assert_int_equal(status().passes, 2);
}

BODY(pass_can_be_asked_for_and_counts_damage)
{
    damaged_chunk = 4;
    scrub_now(scrub);
    env_sleep_ns(SECOND_NS);
    scrub_now(scrub); /* one is running */
    env_sleep_ns(35 * SECOND_NS);
    assert_int_equal(status().passes, 1);
    assert_int_equal(status().damaged_shards, 3);
}

BODY(missing_and_failed_disks_are_left_out)
{
    entries[0].disk = NULL;
    entries[0].state = DISK_MISSING;
    entries[2].state = DISK_FAILED;
    scrub_now(scrub);
    env_sleep_ns(5 * SECOND_NS);
    entries[1].state = DISK_FAILED; /* in the middle of it */
    env_sleep_ns(50 * SECOND_NS);
    assert_int_equal(scrubbed[0] + scrubbed[2], 0);
    assert_in_range(scrubbed[1], 4, 6);
    assert_int_equal(status().passes, 1);
}

BODY(a_disk_that_is_being_removed_is_let_go_of)
{
    scrub_stop(scrub);
    options.rate_bytes = MIB / 60; /* a shard a minute */
    scrub = scrub_start(NULL, &options);
    scrub_now(scrub);
    env_sleep_ns(61 * SECOND_NS);
    assert_int_equal(scrubbed[0], 2);
    entries[0].leaving = true; /* in state "in" to the end */
    env_sleep_ns(SECOND_NS);
    assert_int_equal(status().disk, 2);
    assert_int_equal(scrubbed[0], 2);
}

BODY(rate_0_scrubs_only_when_asked)
{
    scrub_stop(scrub);
    options.rate_bytes = 0;
    scrub = scrub_start(NULL, &options);
    env_sleep_ns(100000 * SECOND_NS);
    assert_int_equal(scrubbed[0], 0);
    scrub_now(scrub);
    env_sleep_ns(5 * SECOND_NS);
    assert_int_equal(status().passes, 1);
}

BODY(stop_does_not_wait_for_the_pass)
{
    scrub_now(scrub);
    env_sleep_ns(5 * SECOND_NS);
    uint64_t before_ns = env_now_ns();
    scrub_stop(scrub);
    assert_true(env_now_ns() - before_ns < SECOND_NS);
    scrub = scrub_start(NULL, &options);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(passes_are_paced_and_begin_at_the_interval),
        cmocka_unit_test(pass_can_be_asked_for_and_counts_damage),
        cmocka_unit_test(missing_and_failed_disks_are_left_out),
        cmocka_unit_test(a_disk_that_is_being_removed_is_let_go_of),
        cmocka_unit_test(rate_0_scrubs_only_when_asked),
        cmocka_unit_test(stop_does_not_wait_for_the_pass),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
