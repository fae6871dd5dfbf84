/* SPDX-License-Identifier: Apache-2.0
 *
 * Which deleted volumes are found and purged, also those of nodes of an earlier version, which make no key for them;
 * and what looking costs in memory where there are very many volumes.
 */
#include "volumes_fixture.h"

static bool has(const char *key)
{
    struct store_value value;
    int r = store_get(store, key, &value);
    if (r == 0)
        store_value_fini(&value);
    return r == 0;
}

static bool has_root(uint64_t id)
{
    char key[KEY_BYTES_MAX];
    return has(key_volume(id, key));
}

static bool has_key(uint64_t id)
{
    char key[KEY_BYTES_MAX];
    return has(key_deleted(id, key));
}

/* As a node of an earlier version leaves it. */
static void delete_as_of_old(uint64_t id)
{
    struct volume_root root = {.id = id, .size_bytes = 4096, .state = VOLUME_DELETING};
    strcpy(root.name, "old");
    strcpy(root.pool, "p");
    assert_int_equal(volume_root_save(store, &root), 0);
}

BODY(roots_without_a_key_are_found_at_the_start_and_tried_again)
{
    volumes_free(volumes);
    delete_as_of_old(7);
    delete_as_of_old(8);
    engine.purge_error = -EIO;
    volumes = volumes_new(&host, NULL);
    env_sleep_ns(10 * SECOND_NS);
    assert_int_equal(engine.purges, 2);
    assert_true(has_key(7) && has_key(8));
    engine.purge_error = 0;
    env_sleep_ns(70 * SECOND_NS);
    assert_int_equal(engine.purges, 4);
    assert_false(has_root(7) || has_root(8) || has_key(7) || has_key(8));
}

/* While nodes of both versions run. */
BODY(roots_without_a_key_are_found_within_an_hour_of_changes)
{
    env_sleep_ns(SECOND_NS);
    delete_as_of_old(7);
    for (unsigned i = 0; i < 70 && has_root(7); i++) {
        volumes_cluster_changed(volumes);
        env_sleep_ns(60 * SECOND_NS);
    }
    assert_false(has_root(7));
}

BODY(a_key_whose_root_is_gone_goes_without_a_purge)
{
    char key[KEY_BYTES_MAX];
    put_key(key_deleted(99, key), "gone");
    volumes_cluster_changed(volumes);
    env_sleep_ns(10 * SECOND_NS);
    assert_false(has_key(99));
    assert_int_equal(engine.purges, 0);
}

BODY(what_its_root_does_not_call_deleted_is_not_purged)
{
    char key[KEY_BYTES_MAX];
    put_key(key_deleted(1, key), "a");
    put_key(KEY_PREFIX_DELETED "nonsense", "");
    log_set_output(NULL, NULL);
    volumes_cluster_changed(volumes);
    env_sleep_ns(10 * SECOND_NS);
    assert_int_equal(engine.purges, 0);
    assert_true(has_root(1));
}

BODY(more_deleted_volumes_than_a_page_are_all_purged)
{
    for (uint64_t id = 1000; id < 1600; id++)
        make_volume(id, "x", VOLUME_DELETING);
    volumes_cluster_changed(volumes);
    env_sleep_ns(1000 * SECOND_NS);
    assert_int_equal(engine.purges, 600);
    struct store_value *values;
    unsigned count;
    assert_int_equal(store_list(store, KEY_PREFIX_DELETED, &values, &count), 0);
    assert_int_equal(count, 0);
    store_list_free(values, count);
}

/* --- Memory ------------------------------------------------------------------------------------ */

#define MANY 10000 /* with 100,000 it is the same: 71 KB, 92 KB, 245 bytes */
#define MEMORY_MAX (256u << 10)

static uint64_t most_bytes;
static bool sampling;

static void sample(void *arg)
{
    while (sampling) {
        most_bytes = MAX(most_bytes, mem_used_bytes(fiber_env()));
        env_sleep_ns(200000);
    }
    fiber_group_done(&group, 0);
}

/* What the store has answered is there while the second half of its time passes. */
static uint64_t memory_of(void (*fn)(void))
{
    uint64_t before = mem_used_bytes(fiber_env());
    store_mem_set_fault(mem, 0, 2000000);
    most_bytes = 0;
    sampling = true;
    fiber_group_init(&group);
    fiber_group_add(&group, 1);
    fiber_spawn("sample", sample, NULL);
    fn();
    sampling = false;
    fiber_group_wait(&group);
    store_mem_set_fault(mem, 0, 0);
    return most_bytes > before ? most_bytes - before : 0;
}

static void look_for_deleted(void)
{
    volumes_free(volumes);
    volumes = volumes_new(&host, NULL);
    env_sleep_ns(10 * SECOND_NS);
    assert_false(has_root(77777) || has_key(77777));
}

static void list_pages(void)
{
    struct volumes_cursor cursor = {0};
    unsigned total = 0;
    while (!cursor.done) {
        struct volumes_name *names;
        unsigned count;
        assert_int_equal(volumes_list_page(volumes, &cursor, &names, &count), 0);
        total += count;
        mem_free(names);
    }
    assert_int_equal(total, MANY + 2);
}

static void find_one(void)
{
    struct volumes_name name;
    assert_int_equal(volumes_find(volumes, "v009998", &name), 0);
    assert_int_equal(name.id, 100000 + 9998);
    assert_int_equal(volumes_find(volumes, "v", &name), -ENOENT);
    assert_int_equal(volumes_find_only(volumes, &name), -EEXIST);
}

static void list_whole(void)
{
    struct volumes_name *names;
    unsigned count;
    assert_int_equal(volumes_list(volumes, &names, &count), 0);
    assert_int_equal(count, MANY + 2);
    mem_free(names);
}

BODY(looking_at_very_many_volumes_takes_little_memory)
{
    struct volume_root root = {.size_bytes = 4096, .state = VOLUME_RELEASED};
    char key[KEY_BYTES_MAX], id[32];
    strcpy(root.pool, "p");
    for (unsigned i = 0; i < MANY; i++) {
        root.id = 100000 + i;
        snprintf(root.name, sizeof(root.name), "v%06u", i);
        snprintf(id, sizeof(id), "%016lx", root.id);
        CLEANUP_FREE char *text = volume_root_encode(&root, NULL);
        put_key(key_volume(root.id, key), text);
        put_key(key_name(root.name, key), id);
    }
    delete_as_of_old(77777);
    volumes_free(volumes);
    volumes = volumes_new(&host, NULL);
    uint64_t look_bytes = memory_of(look_for_deleted), pages_bytes = memory_of(list_pages);
    find_one(); /* what was seen has its array now */
    uint64_t find_bytes = memory_of(find_one);
    assert_true(look_bytes < MEMORY_MAX && pages_bytes < MEMORY_MAX && find_bytes < 16384);
    /* That this would have noticed. */
    assert_true(memory_of(list_whole) > 8 * MEMORY_MAX);
}

BODY(the_only_volume_is_found_without_its_name)
{
    struct volumes_name name;
    char *error = NULL;
    assert_int_equal(volumes_find_only(volumes, &name), -EEXIST);
    assert_int_equal(volumes_delete(volumes, "b", false, &error), 0);
    assert_int_equal(volumes_find_only(volumes, &name), 0);
    assert_string_equal(name.name, "a");
    assert_int_equal(name.size_bytes, 4096);
    assert_int_equal(volumes_find(volumes, "b", &name), -ENOENT);
    store_mem_set_fault(mem, -EHOSTUNREACH, 0);
    assert_int_equal(volumes_find_only(volumes, &name), -EHOSTUNREACH);
    assert_int_equal(volumes_find(volumes, "a", &name), 0); /* as it was last seen */
    assert_int_equal(volumes_find(volumes, "c", &name), -ENOENT);
    store_mem_set_fault(mem, 0, 0);
    assert_int_equal(volumes_delete(volumes, "a", false, &error), 0);
    assert_int_equal(volumes_find_only(volumes, &name), -ENOENT);
    env_sleep_ns(100 * SECOND_NS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(roots_without_a_key_are_found_at_the_start_and_tried_again),
        cmocka_unit_test(roots_without_a_key_are_found_within_an_hour_of_changes),
        cmocka_unit_test(a_key_whose_root_is_gone_goes_without_a_purge),
        cmocka_unit_test(what_its_root_does_not_call_deleted_is_not_purged),
        cmocka_unit_test(more_deleted_volumes_than_a_page_are_all_purged),
        cmocka_unit_test(looking_at_very_many_volumes_takes_little_memory),
        cmocka_unit_test(the_only_volume_is_found_without_its_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
