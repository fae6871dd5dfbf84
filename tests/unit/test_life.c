/* SPDX-License-Identifier: Apache-2.0
 *
 * Deleting a volume's shards, over disks in memory. The rest of a volume's life is in sim_volume.
 */
#include "fake_env.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "blockd/volumes_names.h"
#include "common/check.h"
#include "common/mem.h"
#include "tests/lib/manifest_image.h"

static struct fake_env fake;

/* So that what a function forgets to set is not zero by chance. */
static __attribute__((noinline)) void dirty_the_stack(void)
{
    volatile char junk[8192];
    for (unsigned i = 0; i < sizeof(junk); i++)
        junk[i] = 0x5a;
}

static void run_purge(void *arg)
{
    struct manifest_image image;
    manifest_image_init(&image);
    manifest_image_chunk(&image, 1);
    struct store_mem *store = store_mem_new();
    image.host.store = store_mem_open(store);
    /* A disk that cannot be asked: the purge says so, and goes on with the others. */
    image.fakes[0]->error = -EHOSTUNREACH;
    dirty_the_stack();
    assert_int_equal(volume_purge(&image.host, MANIFEST_IMAGE_VOLUME), -EHOSTUNREACH);
    assert_true(fake_disk_has(image.fakes[0], manifest_image_key(1, 0)));
    assert_false(fake_disk_has(image.fakes[1], manifest_image_key(1, 1)));
    /* Fences do not protect from it, nor do tombstones stay. */
    image.fakes[0]->error = 0;
    assert_int_equal(shard_fence(&image.fakes[0]->disk, manifest_image_key(1, 0), 1000, NULL), 0);
    /* Who has answered is not asked again (Z1). */
    image.fakes[1]->error = -EIO;
    dirty_the_stack();
    assert_int_equal(volume_purge(&image.host, MANIFEST_IMAGE_VOLUME), 0);
    assert_false(fake_disk_has(image.fakes[0], manifest_image_key(1, 0)));
    store_close(image.host.store);
    store_mem_free(store);
    manifest_image_fini(&image);
    *(bool *)arg = true;
}

static uint64_t make_named(struct volume_host *host, const char *name)
{
    char *error = NULL;
    uint64_t id;
    assert_int_equal(volume_create(host, name, 1 << 20, "p", &id, &error), 0);
    return id;
}

/* Between the look-up of a name and what is done to its volume there is the closing of that volume, and other
 * nodes are not asleep: what was meant is the volume that had the name then. */
static void run_name_made_anew(void *arg)
{
    struct store_mem *mem = store_mem_new();
    struct volume_host host = {.store = store_mem_open(mem)};
    struct pool pool = {.name = "p", .code = {1, 0}, .shards_min = 1, .log_copies_min = 1};
    char key[KEY_BYTES_MAX], *error = NULL;
    CLEANUP_FREE char *text = pool_encode(&pool, NULL);
    struct store_op op = {STORE_PUT, key_pool("p", key), text, strlen(text), false};
    assert_int_equal(store_txn(host.store, NULL, 0, &op, 1, NULL), 0);
    uint64_t first = make_named(&host, "a"), found;
    assert_int_equal(volume_delete(&host, first, "a", &error), 0);
    uint64_t second = make_named(&host, "a");
    assert_int_equal(volume_delete(&host, first, "a", &error), -ENOENT);
    mem_free(error);
    error = NULL;
    assert_int_equal(volumes_names_rename(host.store, 0, first, "a", "b", &error), -ENOENT);
    mem_free(error);
    assert_int_equal(volume_id_by_name(host.store, "a", &found), 0);
    assert_true(found == second);
    struct volume_root root;
    assert_int_equal(volume_root_load(host.store, second, &root), 0);
    assert_true(root.state == VOLUME_NEW && strcmp(root.name, "a") == 0);
    store_close(host.store);
    store_mem_free(mem);
    *(bool *)arg = true;
}

static void run(fiber_fn *fn)
{
    bool finished = false;
    fiber_sched_init(16);
    fake_env_init(&fake);
    fiber_set_default_env(&fake.env);
    fake_env_run(&fake, fn, &finished);
    assert_true(finished);
    assert_int_equal(mem_used_bytes(&fake.env), 0);
    env_fini(&fake.env);
    fiber_sched_fini();
}

static void a_purge_reaches_what_it_can_and_says_what_it_cannot(void **state)
{
    run(run_purge);
}

static void a_volume_of_the_same_name_made_anew_is_another_one(void **state)
{
    run(run_name_made_anew);
}

int main(void)
{
    setenv("CMOCKA_TEST_ABORT", "1", 1); /* no way back from a failed assertion inside a fiber */
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_purge_reaches_what_it_can_and_says_what_it_cannot),
        cmocka_unit_test(a_volume_of_the_same_name_made_anew_is_another_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
