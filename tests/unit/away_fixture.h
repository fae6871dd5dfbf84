/* SPDX-License-Identifier: Apache-2.0
 *
 * One node dies, another one opens its volume over disks in memory, which go away and come back: the world of test_away.c
 * and test_away_reads.c. TEST(name) makes a body that runs on a fiber of a simulated node a test.
 */
#pragma once

#include "sim_store_fixture.h"

#include "blockd/volume/log_record.h"
#include "blockd/volume/map.h"
#include "blockd/volume/volume.h"
#include "common/crc32c.h"
#include "common/log.h"
#include "tests/lib/fake_disk.h"

#define DISKS 5
#define WAIT_NS (600 * SEC)
#define MIB (1ull << 20)
#define LARGE_BLOCKS 64u

static struct fake_disk *disks[DISKS];
static struct disk_list present;
static uint64_t id;
static uint8_t *page;
static uint32_t forgotten; /* a disk's number */

static struct host {
    struct volume_host host;
    struct memory_budget budget;
} dead, heir;
static struct volume *old, *volume;

static bool disk_removed(void *ctx, uint32_t number)
{
    return number == forgotten;
}

static bool disk_expected(void *ctx, uint32_t number)
{
    return number != forgotten;
}

static void session_put(uint64_t session, bool there)
{
    char key[KEY_BYTES_MAX];
    struct store_op op = {there ? STORE_PUT : STORE_DELETE, key_session(session, key), "{}", 2};
    CHECK(store_txn(store, NULL, 0, &op, 1, NULL) == 0);
}

static void host_init(struct host *h, const char *name, uint64_t session)
{
    memory_budget_init(&h->budget, MEMORY_BLOCKS_MIN, MEMORY_IO_MIN);
    h->host = (struct volume_host){.store = store,
        .node_name = name,
        .session = session,
        .disks = &present,
        .budget = &h->budget,
        .repair_wait_ns = WAIT_NS,
        .start_ns = env_now_ns(),
        .map = {.disk_removed = disk_removed, .disk_expected = disk_expected},
        .bypass_bytes_min = 64 * 1024,
        .map_cache = map_cache_new(MIB)};
    session_put(session, true);
}

static void make_pool(struct shard_code code, unsigned copies_min)
{
    struct pool pool = {
        .name = "p", .code = code, .shards_min = code.k + 1u, .log_copies_min = copies_min};
    char key[KEY_BYTES_MAX];
    CLEANUP_FREE char *text = pool_encode(&pool, NULL), *error = NULL;
    struct store_op op = {STORE_PUT, key_pool("p", key), text, strlen(text), false};
    CHECK(store_txn(store, NULL, 0, &op, 1, NULL) == 0);
    static unsigned made;
    char name[16];
    sprintf(name, "v%u", ++made);
    CHECK(volume_create(&dead.host, name, 16 * MIB, "p", &id, &error) == 0);
    CHECK_MSG(volume_open(&dead.host, id, &old, &error) == 0, "%s", error);
}

static void set_up_disks(struct shard_code code, unsigned copies_min, unsigned count)
{
    forgotten = 0;
    disk_list_init(&present);
    for (unsigned i = 0; i < DISKS; i++) {
        disks[i] = fake_disk_new(i + 1, 64 * MIB / BLOCK_BYTES);
        if (i < count)
            disk_list_add(&present, &disks[i]->disk);
    }
    page = mem_alloc_pages(LARGE_BLOCKS * BLOCK_BYTES);
    host_init(&dead, "dead", 0xa);
    host_init(&heir, "heir", 0xb);
    make_pool(code, copies_min);
}

static void tear_down(void)
{
    volume_close(old);
    CHECK(!volume || volume_close(volume) == 0);
    struct host *hosts[] = {&dead, &heir};
    for (unsigned i = 0; i < 2; i++) {
        map_cache_free(hosts[i]->host.map_cache);
        memory_budget_fini(&hosts[i]->budget);
    }
    for (unsigned i = 0; i < DISKS; i++)
        fake_disk_free(disks[i]);
    mem_free_pages(page, LARGE_BLOCKS * BLOCK_BYTES);
}

static inline void write_old(unsigned blocks, uint8_t byte)
{
    memset(page, byte, blocks * BLOCK_BYTES);
    CHECK(volume_write(old, 0, blocks * BLOCK_BYTES, page, 0, (struct request_id){0}) == 0);
}

static inline int first_byte(void)
{
    memset(page, 0xee, BLOCK_BYTES);
    CHECK(volume_read(volume, 0, BLOCK_BYTES, page) == 0);
    return page[0];
}

/* How many disks hold something of the volume of that kind, of the owner that died; *ret_disks: which. */
static inline unsigned disks_with(enum shard_kind kind, unsigned ret_disks[DISKS])
{
    unsigned found = 0;
    for (unsigned i = 0; i < DISKS; i++) {
        struct shard_info *list;
        unsigned count;
        CHECK(shard_list(&disks[i]->disk, id, &list, &count) == 0);
        bool has = false;
        for (unsigned n = 0; n < count; n++)
            has = has || (list[n].kind == kind && list[n].length_blocks > 0);
        mem_free(list);
        if (has)
            ret_disks[found++] = i;
    }
    return found;
}

static inline void go_away(unsigned i)
{
    disks[i]->error = -EHOSTUNREACH;
    disks[i]->disk.state = DISK_MISSING;
    disks[i]->disk.missing_since_ns = env_now_ns();
}

static inline void come_back(unsigned i)
{
    disks[i]->error = 0;
    disks[i]->disk.state = DISK_IN;
    disks[i]->disk.missing_since_ns = 0;
}

static int inherit(void)
{
    CLEANUP_FREE char *error = NULL;
    session_put(0xa, false);
    int r = volume_open(&heir.host, id, &volume, &error);
    if (r < 0) {
        CHECK_MSG(r == -EHOSTUNREACH, "open: %s, %s", strerror(-r), error);
        CHECK_MSG(strstr(error, "waiting for it for") && strstr(error, "holdfast disk remove"),
            "%s", error);
    }
    return r;
}

static inline struct volume_info info(void)
{
    struct volume_info info;
    volume_get_info(volume, &info);
    return info;
}

static inline void forget(unsigned i)
{
    forgotten = disks[i]->disk.number;
    disk_list_remove(&present, &disks[i]->disk);
}

/* Each test sets up its own. */
static void setup(void)
{
}

static void teardown(void)
{
}
