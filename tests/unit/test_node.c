/* SPDX-License-Identifier: Apache-2.0
 *
 * Whole nodes in the simulation: start, stop and start again over a store and disks that stay.
 */
#include "sim_fixture.h"

#include "blockd/node.h"
#include "blockd/pools.h"

#define DISK_BYTES (64ull << 20)
#define VOLUME_BYTES (8ull << 20)

static struct store_mem *mem;
static struct node_config config;

static struct node *start(void)
{
    struct node *node = NULL;
    CLEANUP_FREE char *error = NULL;
    struct node_options options = {.config = &config, .store = store_mem_open(mem)};
    CHECK_MSG(node_start(&options, &node, &error) == 0, "%s", error);
    return node;
}

static void make_disks(struct node *node)
{
    for (unsigned i = 0; i < 3; i++) {
        char path[16];
        struct uuid uuid;
        uint64_t size_bytes;
        struct disk_record record;
        CLEANUP_FREE char *error = NULL;
        snprintf(path, sizeof(path), "/disk%u", i);
        sim_disk_new(fiber_env(), path, DISK_BYTES);
        CHECK_MSG(
            disks_format(node->disks, path, 0, "ssd", false, &uuid, &size_bytes, &error) == 0 &&
                disks_add(node->disks, path, &record, &error) == 0,
            "%s", error);
    }
}

static void use_volume(struct node *node, bool first)
{
    struct volume *volume;
    CLEANUP_FREE char *error = NULL;
    uint8_t *page = mem_alloc_pages(PAGE);
    CHECK_MSG(volumes_get(node->volumes, "v", &volume, &error) == 0, "%s", error);
    memset(page, 7, PAGE);
    if (first)
        CHECK(volume_write(volume, PAGE, PAGE, page, 0, (struct request_id){0}) == 0);
    memset(page, 0, PAGE);
    CHECK(volume_read(volume, PAGE, PAGE, page) == 0 && page[0] == 7 && page[PAGE - 1] == 7);
    mem_free_pages(page, PAGE);
    volumes_put(node->volumes, volume);
}

static void live_twice(void *arg)
{
    CLEANUP_FREE char *error = NULL;
    CHECK(node_config_parse("[log]\nlevel = error\n", "n1", &config, &error) == 0);
    struct node *node = start();
    make_disks(node);
    struct pool pool = {.name = "p", .code = {1, 2}, .shards_min = 2, .log_copies_min = 2};
    CHECK(pools_create(node->store, node->disks, &pool, &error) == 0);
    uint64_t id;
    CHECK(volume_create(&node->host, "v", VOLUME_BYTES, "p", &id, &error) == 0);
    use_volume(node, true);
    node_stop(node);
    node = start();
    use_volume(node, false);
    node_want_stop(node);
    node_wait_stop(node);
    node_stop(node);
    node_config_fini(&config);
}

static void a_node_runs_in_the_simulation_over_a_store_it_is_given(void **state)
{
    struct sim *sim = sim_with(1);
    mem = store_mem_new();
    run_on(sim_node_new(sim, "n1"), live_twice, NULL);
    store_mem_free(mem);
    sim_free(sim);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_node_runs_in_the_simulation_over_a_store_it_is_given),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
