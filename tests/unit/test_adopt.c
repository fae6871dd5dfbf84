/* SPDX-License-Identifier: Apache-2.0
 *
 * Adoption, over a registry and volumes that only count (defined here in place of the real ones).
 */
#include "fake_fixture.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "blockd/adopt.h"
#include "common/check.h"
#include "common/env.h"
#include "common/mem.h"

#define SECOND_NS 1000000000ull
#define VOLUMES 4

/* --- The registry's and the engine's part ------------------------------------------------------ */

struct volume {
    uint64_t degraded; /* chunks; one is repaired a second while it is held, unless stuck */
    bool open, stuck, idle, fails, halted;
    enum volume_state state;
    unsigned users, gets, damage_reports;
    uint64_t held_at_ns, held_ns;
    char name[8];
};
static struct volume all[VOLUMES];
static unsigned lists;
static int list_error;
static struct adopt *adopt;
static unsigned opens_tried;

int volumes_get_by_id(
    struct volumes *volumes, uint64_t id, struct volume **ret_volume, char **ret_error)
{
    struct volume *volume = &all[id];
    env_sleep_ns(SECOND_NS / 10);
    opens_tried++;
    if (volume->fails) /* as an open does that reads what is damaged */
        adopt_damaged(adopt, (struct shard_key){.volume = id, .chunk = 8}, 3, 1);
    if (volume->fails || id >= VOLUMES) {
        *ret_error = mem_strdup("no");
        return volume->fails ? -EIO : -ENOENT;
    }
    volume->gets++;
    volume->users++;
    volume->held_at_ns = env_now_ns();
    *ret_volume = volume;
    return 0;
}

void volumes_put(struct volumes *volumes, struct volume *volume)
{
    volume->users--;
    volume->held_ns = env_now_ns() - volume->held_at_ns;
}

struct volume *volumes_peek(struct volumes *volumes, uint64_t id, unsigned *ret_connections)
{
    return all[id].open ? &all[id] : NULL;
}

/* One a page, and an empty one at the end. */
int volumes_list_page(struct volumes *volumes, struct volumes_cursor *cursor,
    struct volumes_name **ret_names, unsigned *ret_count)
{
    unsigned i = (unsigned)strlen(cursor->after);
    lists += i == 0;
    if (list_error)
        return list_error;
    *ret_names = mem_zalloc(1, sizeof(**ret_names));
    *ret_count = i < VOLUMES;
    if (i < VOLUMES)
        (*ret_names)[0] = (struct volumes_name){.id = i, .state = all[i].state};
    cursor->done = i == VOLUMES;
    cursor->after[i] = 'x';
    return 0;
}

const char *volume_name(const struct volume *volume)
{
    return volume->name;
}

bool volume_halted(const struct volume *volume)
{
    return volume->halted;
}

void volume_get_info(const struct volume *volume, struct volume_info *ret_info)
{
    uint64_t seconds = (env_now_ns() - volume->held_at_ns) / SECOND_NS;
    uint64_t left = volume->degraded;
    if (!volume->stuck)
        left -= MIN(left, seconds);
    *ret_info = (struct volume_info){.chunks_degraded = left,
        .health = left || volume->idle ? "degraded" : "ok",
        .repair_is_idle = volume->idle};
}

void volume_shard_damaged(
    struct volume *volume, struct shard_key key, uint32_t disk, uint32_t block)
{
    volume->damage_reports++;
}

/* --- World ----------------------------------------------------------------------------------- */

static uint64_t not_ours = UINT64_MAX; /* the volume that another node cares for */

static bool may(void *ctx, const struct volumes_name *volume)
{
    return volume->id != not_ours;
}

static unsigned not_now; /* so often nobody can be told */

static int may_damaged(void *ctx, struct shard_key key, uint32_t disk_number, uint32_t block)
{
    env_sleep_ns(1);
    if (not_now > 0 && not_now-- > 0)
        return -EAGAIN;
    return key.volume != not_ours;
}

static const struct adopt_options options = {.may = may, .may_damaged = may_damaged};

static void setup(void)
{
    memset(all, 0, sizeof(all));
    for (unsigned i = 0; i < VOLUMES; i++) {
        all[i].state = VOLUME_RELEASED;
        snprintf(all[i].name, sizeof(all[i].name), "v%u", i);
    }
    lists = 0;
    list_error = 0;
    not_ours = UINT64_MAX;
    adopt = adopt_start(NULL, &options);
}

static void teardown(void)
{
    adopt_stop(adopt);
    for (unsigned i = 0; i < VOLUMES; i++)
        assert_int_equal(all[i].users, 0);
}

static struct shard_key key_of(uint64_t volume, uint64_t chunk)
{
    return (struct shard_key){.volume = volume, .chunk = chunk};
}

BODY(closed_volumes_are_held_until_they_are_whole)
{
    all[0].degraded = 20;
    all[1].open = true;
    all[2].state = VOLUME_NEW;
    adopt_all(adopt, 10 * SECOND_NS);
    env_sleep_ns(9 * SECOND_NS);
    assert_int_equal(lists, 0);
    env_sleep_ns(3 * SECOND_NS);
    assert_int_equal(lists, 1);
    assert_string_equal(adopt_current(adopt), "v0");
    env_sleep_ns(60 * SECOND_NS);
    assert_null(adopt_current(adopt));
    assert_int_equal(all[0].gets, 1);
    assert_true(all[0].held_ns >= 20 * SECOND_NS && all[0].held_ns < 25 * SECOND_NS);
    assert_int_equal(all[1].gets, 0); /* it repairs itself */
    assert_int_equal(all[2].gets, 0); /* it has nothing */
    assert_int_equal(all[3].gets, 1);
    env_sleep_ns(10000 * SECOND_NS);
    assert_int_equal(lists, 1);
}

BODY(repair_that_gets_no_further_is_let_go)
{
    all[0].degraded = 5;
    all[0].stuck = true;
    adopt_all(adopt, 0);
    env_sleep_ns(100 * SECOND_NS);
    assert_int_equal(all[0].users, 0);
    assert_true(all[0].held_ns >= 60 * SECOND_NS);
    assert_int_equal(all[1].gets, 1);
}

/* Shards share a node, and there is no other one (Q7): those that lack some are not to wait for each such volume. */
BODY(where_repair_has_nothing_to_do_it_is_let_go)
{
    for (unsigned i = 0; i < 3; i++)
        all[i].idle = true;
    all[3].degraded = 5;
    adopt_all(adopt, 0);
    env_sleep_ns(15 * SECOND_NS);
    for (unsigned i = 0; i < VOLUMES; i++)
        assert_int_equal(all[i].gets - all[i].users, 1);
}

/* Whoever opens it anew waits for this (V3). */
BODY(halted_volume_is_let_go_at_once)
{
    all[0].degraded = 5;
    all[0].stuck = true;
    adopt_all(adopt, 0);
    env_sleep_ns(5 * SECOND_NS + SECOND_NS / 2);
    assert_int_equal(all[0].users, 1);
    all[0].halted = true;
    env_sleep_ns(SECOND_NS / 50);
    assert_int_equal(all[0].users, 0);
}

BODY(earlier_time_replaces_a_later_one)
{
    adopt_all(adopt, 600 * SECOND_NS);
    adopt_all(adopt, SECOND_NS);
    adopt_all(adopt, 300 * SECOND_NS);
    env_sleep_ns(10 * SECOND_NS);
    assert_int_equal(lists, 1);
    env_sleep_ns(1000 * SECOND_NS);
    assert_int_equal(lists, 1);
}

BODY(store_that_does_not_list_is_asked_again)
{
    list_error = -EHOSTUNREACH;
    adopt_all(adopt, 0);
    env_sleep_ns(10 * SECOND_NS);
    assert_int_equal(lists, 1);
    list_error = 0;
    env_sleep_ns(60 * SECOND_NS);
    assert_int_equal(lists, 2);
    assert_int_equal(all[3].gets, 1);
}

BODY(damage_is_told_to_its_volume_once_a_shard)
{
    all[1].open = true;
    adopt_damaged(adopt, key_of(1, 7), 3, 5);
    assert_int_equal(all[1].damage_reports, 1); /* open: at once */
    for (unsigned block = 0; block < 1000; block++)
        adopt_damaged(adopt, key_of(0, 7), 3, block);
    adopt_damaged(adopt, key_of(0, 8), 3, 1);
    adopt_damaged(adopt, key_of(3, 8), 3, 1);
    all[3].fails = true;
    env_sleep_ns(60 * SECOND_NS);
    assert_int_equal(all[0].damage_reports, 2);
    assert_int_equal(all[0].gets, 2);
    assert_int_equal(all[3].gets, 0);
    for (unsigned chunk = 0; chunk < 10000; chunk++) /* more than the queue holds */
        adopt_damaged(adopt, key_of(0, chunk), 3, 1);
    env_sleep_ns(10000 * SECOND_NS);
    assert_int_equal(all[0].damage_reports, 2 + 256);
    assert_int_equal(adopt_report_count(adopt), 0);
}

/* The owner has no session for a moment, the store does not answer. */
BODY(damage_that_cannot_be_told_now_is_told_later)
{
    not_now = 3;
    adopt_damaged(adopt, key_of(0, 7), 3, 5);
    adopt_damaged(adopt, key_of(2, 7), 3, 5);
    env_sleep_ns(SECOND_NS);
    assert_int_equal(all[0].damage_reports + all[2].damage_reports, 0);
    assert_int_equal(adopt_report_count(adopt), 2);
    env_sleep_ns(60 * SECOND_NS);
    assert_int_equal(all[0].damage_reports, 1);
    assert_int_equal(all[2].damage_reports, 1);
}

/* Each try finds the damage again, and takes an epoch. */
BODY(a_damaged_volume_that_cannot_be_opened_is_tried_now_and_then)
{
    all[3].fails = true;
    opens_tried = 0;
    adopt_damaged(adopt, key_of(3, 8), 3, 1);
    adopt_damaged(adopt, key_of(3, 9), 3, 1);
    env_sleep_ns(60 * SECOND_NS);
    assert_in_range(opens_tried, 2, 15);
}

BODY(what_others_own_or_care_for_is_left_alone)
{
    not_ours = 1;
    adopt_all(adopt, 0);
    adopt_damaged(adopt, key_of(1, 7), 3, 5);
    adopt_damaged(adopt, key_of(2, 7), 3, 5);
    env_sleep_ns(60 * SECOND_NS);
    assert_int_equal(all[1].gets, 0);
    assert_int_equal(all[0].gets, 1);
    assert_int_equal(all[2].damage_reports, 1);
}

BODY(stop_does_not_wait_for_a_long_repair)
{
    all[0].degraded = 100000;
    adopt_all(adopt, 0);
    env_sleep_ns(5 * SECOND_NS);
    uint64_t before_ns = env_now_ns();
    adopt_stop(adopt);
    assert_true(env_now_ns() - before_ns < 2 * SECOND_NS);
    assert_int_equal(all[0].users, 0);
    adopt = adopt_start(NULL, &options);
}

BODY(many_changes_at_once_make_few_looks)
{
    for (unsigned i = 0; i < VOLUMES; i++)
        all[i].state = VOLUME_NEW;
    for (unsigned i = 0; i < 24; i++) {
        adopt_all(adopt, 0);
        env_sleep_ns(SECOND_NS / 2);
    }
    env_sleep_ns(60 * SECOND_NS);
    assert_int_equal(lists, 4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(closed_volumes_are_held_until_they_are_whole),
        cmocka_unit_test(repair_that_gets_no_further_is_let_go),
        cmocka_unit_test(where_repair_has_nothing_to_do_it_is_let_go),
        cmocka_unit_test(halted_volume_is_let_go_at_once),
        cmocka_unit_test(earlier_time_replaces_a_later_one),
        cmocka_unit_test(store_that_does_not_list_is_asked_again),
        cmocka_unit_test(damage_is_told_to_its_volume_once_a_shard),
        cmocka_unit_test(damage_that_cannot_be_told_now_is_told_later),
        cmocka_unit_test(a_damaged_volume_that_cannot_be_opened_is_tried_now_and_then),
        cmocka_unit_test(what_others_own_or_care_for_is_left_alone),
        cmocka_unit_test(stop_does_not_wait_for_a_long_repair),
        cmocka_unit_test(many_changes_at_once_make_few_looks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
