/* SPDX-License-Identifier: Apache-2.0
 *
 * Whole nodes in the simulation: start, stop and start again over a store and disks that stay.
 */
#include "sim_fixture.h"

#include "blockd/cluster/peers.h"
#include "blockd/node.h"
#include "blockd/pools.h"
#include "common/rpc_client_impl.h"

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

/* --- Three nodes --------------------------------------------------------------------------------- */

#define NODES 3
#define WAIT_NS (60 * SEC)

static uint64_t touched;

static struct {
    struct env *env;
    struct node_config config;
    struct node *node;
    bool stop;
} machines[NODES];

static uint64_t sim_clock(void)
{
    return sim_now_ns(sim_current());
}

static void machine_main(void *arg)
{
    unsigned i = (unsigned)(uintptr_t)arg;
    CLEANUP_FREE char *error = NULL;
    CLEANUP_FREE char *text =
        mem_printf("[node]\nmemory = 128MiB\n[log]\nlevel = error\n"
                   "[store]\ntype = etcd\nendpoints = http://unused:1\n"
                   "[cluster]\naddress = tcp:10.0.0.%u:7100\n[repair]\nwait = 60s\n",
            i + 1);
    char name[8];
    snprintf(name, sizeof(name), "n%u", i + 1);
    CHECK_MSG(node_config_parse(text, name, &machines[i].config, &error) == 0, "%s", error);
    struct node_options options = {
        .config = &machines[i].config, .store = store_mem_open(mem), .join = true};
    struct node *node;
    CHECK_MSG(node_start(&options, &node, &error) == 0, "%s", error);
    machines[i].node = node;
    while (!machines[i].stop)
        env_sleep_ns(10 * MS);
    node_stop(node);
    node_config_fini(&machines[i].config);
    machines[i].node = NULL;
}

static void machine_start(struct sim *sim, unsigned i)
{
    machines[i].stop = false;
    sim_node_start(machines[i].env, "node", machine_main, (void *)(uintptr_t)i);
    sim_run_for(sim, 5 * SEC);
    assert_non_null(machines[i].node);
}

static void machine_crash(unsigned i)
{
    sim_node_crash(machines[i].env);
    store_mem_env_crashed(mem, machines[i].env);
    machines[i].node = NULL;
}

static void add_two_disks(void *arg)
{
    struct node *node = arg;
    for (unsigned i = 0; i < 2; i++) {
        char path[16];
        struct uuid uuid;
        uint64_t size_bytes;
        struct disk_record record;
        CLEANUP_FREE char *error = NULL;
        snprintf(path, sizeof(path), "/disk%u", i);
        sim_disk_new(fiber_env(), path, DISK_BYTES);
        CHECK(disks_format(node->disks, path, 0, "", false, &uuid, &size_bytes, &error) == 0);
        CHECK(disks_add(node->disks, path, &record, &error) == 0);
    }
}

static void make_volumes(void *arg)
{
    struct node *node = arg;
    struct pool pool = {
        .name = "p", .code = {1, 1}, .shards_min = 1, .log_copies_min = 2, .domain = DOMAIN_NODE};
    CLEANUP_FREE char *error = NULL;
    CHECK_MSG(pools_create(node->store, node->disks, &pool, &error) == 0, "%s", error);
    uint64_t id;
    CHECK(volume_create(&node->host, "v", VOLUME_BYTES, "p", &id, &error) == 0);
    CHECK(volume_create(&node->host, "w", VOLUME_BYTES, "p", &id, &error) == 0);
}

static void write_and_close(void *arg)
{
    struct node *node = arg;
    struct volume *volume;
    CLEANUP_FREE char *error = NULL;
    use_volume(node, true);
    CHECK(volumes_get(node->volumes, "v", &volume, &error) == 0);
    CHECK(volume_destage(volume) == 0);
    volumes_put(node->volumes, volume);
    CHECK(volumes_close(node->volumes, "v", &error) == 0);
}

static void read_back(void *arg)
{
    use_volume(arg, false);
}

/* What the nodes do about volume v. */
struct seen {
    unsigned open;
    uint64_t repaired;
};

static void see_volume(void *ctx, struct volume *volume)
{
    struct seen *seen = ctx;
    if (strcmp(volume_name(volume), "v") != 0)
        return;
    seen->open++;
    seen->repaired += volume_stats(volume)->repaired_shards;
}

static struct seen see(void)
{
    struct seen seen = {0};
    for (unsigned i = 0; i < NODES; i++)
        if (machines[i].node)
            volumes_each_open(machines[i].node->volumes, see_volume, &seen);
    return seen;
}

/* Where the volume is open, else the first. */
static unsigned holder(void)
{
    for (unsigned i = 0; i < NODES; i++) {
        struct seen seen = {0};
        if (machines[i].node)
            volumes_each_open(machines[i].node->volumes, see_volume, &seen);
        if (seen.open > 0)
            return i;
    }
    return 0;
}

static struct sim *start_three(uint64_t seed)
{
    struct sim *sim = sim_with(seed);
    mem = store_mem_new();
    store_mem_set_clock(mem, sim_clock);
    memset(machines, 0, sizeof(machines));
    for (unsigned i = 0; i < NODES; i++) {
        char name[8];
        snprintf(name, sizeof(name), "n%u", i + 1);
        machines[i].env = sim_node_new(sim, name);
        machine_start(sim, i);
    }
    for (unsigned i = 0; i < NODES; i++)
        run_on(machines[i].env, add_two_disks, machines[i].node);
    sim_run_for(sim, 3 * SEC);
    run_on(machines[0].env, make_volumes, machines[0].node);
    run_on(machines[0].env, write_and_close, machines[0].node);
    return sim;
}

static void stop_three(struct sim *sim)
{
    for (unsigned i = 0; i < NODES; i++) {
        machines[i].stop = true;
        sim_run_for(sim, 20 * SEC);
        assert_null(machines[i].node);
    }
    store_mem_free(mem);
    sim_free(sim);
}

/* Q5, S24. A closed volume of code 1+1 over three nodes: one of them is down for less, then for more,
 * than the wait. */
static void a_node_that_stays_down_is_rebuilt_by_one_other_and_not_before(void **state)
{
    for (unsigned down = 1; down < NODES; down++) {
        struct sim *sim = start_three(down);
        machine_crash(down);
        sim_run_for(sim, WAIT_NS - 10 * SEC);
        assert_int_equal(see().open, 0);
        machine_start(sim, down);
        sim_run_for(sim, WAIT_NS);
        assert_int_equal(see().open, 0); /* it came back in time */

        machine_crash(down);
        uint64_t repaired = 0;
        unsigned open_max = 0;
        for (unsigned second = 0; second < 90; second++) {
            sim_run_for(sim, SEC);
            struct seen seen = see();
            open_max = MAX(open_max, seen.open);
            repaired = MAX(repaired, seen.repaired);
            if (second < 55)
                assert_int_equal(seen.open, 0);
        }
        assert_int_equal(open_max, 1);
        touched += repaired;
        run_on(machines[holder()].env, read_back, machines[holder()].node);
        machine_start(sim, down);
        stop_three(sim);
    }
    assert_true(touched > 0); /* the volume had shards on one of the two at least */
}

/* C5: what two other nodes may have under way at one with 128 MiB is 64 MiB; the first to start knew of nobody. */
static void what_all_other_nodes_may_have_under_way_is_bounded(void **state)
{
    struct sim *sim = start_three(1);
    static const uint64_t windows[NODES] = {64ull << 20, 64ull << 20, 32ull << 20};
    for (unsigned i = 0; i < NODES; i++) {
        unsigned seen = 0;
        for (unsigned from = 0; from < NODES; from++) {
            char name[8];
            snprintf(name, sizeof(name), "n%u", i + 1);
            const struct peer *peer = peers_find(machines[from].node->peers, name);
            if (!peer)
                continue;
            assert_int_equal(peer->client->peer.window_bytes, windows[i]);
            seen++;
        }
        assert_int_equal(seen, NODES - 1);
    }
    stop_three(sim);
}

static void hold_volume(void *arg)
{
    struct node *node = arg;
    struct volume *volume;
    CLEANUP_FREE char *error = NULL;
    CHECK(volumes_get(node->volumes, "v", &volume, &error) == 0);
}

static void put_volume(void *arg)
{
    struct node *node = arg;
    struct volume *volume;
    uint64_t id;
    CHECK(volume_id_by_name(node->store, "v", &id) == 0);
    volume = volumes_peek(node->volumes, id, NULL);
    volumes_put(node->volumes, volume);
}

/* One bit of each block of the volume's data that is on the machine's disks. */
static unsigned rot(unsigned i)
{
    unsigned flipped = 0;
    uint8_t page[PAGE];
    for (unsigned d = 0; d < 2; d++) {
        char path[16];
        snprintf(path, sizeof(path), "/disk%u", d);
        struct sim_disk *disk = sim_disk_find(machines[i].env, path);
        for (uint64_t off = 0; off < DISK_BYTES; off += PAGE) {
            sim_disk_peek(disk, off, page, PAGE);
            if (page[0] != 7 || memcmp(page, page + 1, PAGE - 1) != 0)
                continue;
            sim_disk_flip(disk, off + 100, 3);
            flipped++;
        }
    }
    return flipped;
}

/* A scrub finds it where it is; who repairs it is elsewhere, and has no reason to read it. */
static void damage_that_a_scrub_finds_is_told_to_the_volumes_owner(void **state)
{
    unsigned found = 0;
    struct sim *sim = start_three(4);
    run_on(machines[0].env, hold_volume, machines[0].node);
    for (unsigned i = 1; i < NODES; i++) {
        if (rot(i) == 0)
            continue;
        found++;
        scrub_now(machines[i].node->scrub);
        sim_run_for(sim, 60 * SEC);
        assert_int_equal(see().open, 1);
        assert_true(see().repaired > 0);
    }
    assert_true(found > 0);
    run_on(machines[0].env, read_back, machines[0].node);
    run_on(machines[0].env, put_volume, machines[0].node);
    stop_three(sim);
}

static int forwarded_result;

static void write_forwarded(void *arg)
{
    struct node *node = arg;
    struct attachment *attachment;
    CLEANUP_FREE char *error = NULL;
    uint8_t *page = mem_alloc_pages(PAGE);
    memset(page, 9, PAGE);
    CHECK(attach_get(node->attach, "v", NULL, NULL, &attachment, &error) == 0);
    CHECK(strcmp(attach_owner(attachment), "n1") == 0);
    forwarded_result = attach_write(attachment, 0, PAGE, page, 0, (struct request_id){5, 1, 1});
    attach_put(attachment);
    mem_free_pages(page, PAGE);
}

/* Another node's write waits for disks: a stop does not wait for it. */
static void a_stop_ends_what_waits_for_disks(void **state)
{
    struct sim *sim = start_three(5);
    run_on(machines[0].env, hold_volume, machines[0].node);
    for (unsigned i = 1; i < NODES; i++) {
        sim_disk_remove(sim_disk_find(machines[i].env, "/disk0"));
        sim_disk_remove(sim_disk_find(machines[i].env, "/disk1"));
    }
    forwarded_result = 1;
    sim_node_start(machines[1].env, "write", write_forwarded, machines[1].node);
    sim_run_for(sim, 20 * SEC);
    assert_int_equal(forwarded_result, 1);
    run_on(machines[0].env, put_volume, machines[0].node);
    machines[0].stop = true;
    sim_run_for(sim, 20 * SEC);
    assert_null(machines[0].node);
    assert_int_equal(forwarded_result, -ESHUTDOWN); /* its front end goes on elsewhere */
    sim_free(sim);
    store_mem_free(mem);
}

int main(void)
{
    log_set_level(LOG_LEVEL_ERROR);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_node_that_stays_down_is_rebuilt_by_one_other_and_not_before),
        cmocka_unit_test(damage_that_a_scrub_finds_is_told_to_the_volumes_owner),
        cmocka_unit_test(a_stop_ends_what_waits_for_disks),
        cmocka_unit_test(what_all_other_nodes_may_have_under_way_is_bounded),
        cmocka_unit_test(a_node_runs_in_the_simulation_over_a_store_it_is_given),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
