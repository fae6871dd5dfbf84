/* SPDX-License-Identifier: Apache-2.0
 *
 * Many volumes opened at once (Y1-Y3), over disks in memory: one whose disks hang holds up no other, and together they
 * stay within the memory that volumes may hold that cannot destage yet.
 */
#include "sim_store_fixture.h"

#include "blockd/volume/map.h"
#include "blockd/volume/volume_impl.h"
#include "common/bufpool.h"
#include "common/log.h"
#include "tests/lib/fake_disk.h"

#define GROUPS 2 /* of disks: a pool each */
#define DISKS 5  /* of a group */
#define VOLUMES 12
#define WRITE_BLOCKS 90 /* not whole appends, nor whole generations */
#define WRITES 10
#define MIB (1ull << 20)
#define HANGS_NS (3600 * SEC)

static struct fake_disk *disks[GROUPS][DISKS];
static struct disk_list present;
static uint8_t *page;

static struct host {
    struct volume_host host;
    struct memory_budget budget;
} dead, heir;
static uint64_t ids[VOLUMES];
static struct volume *old[VOLUMES], *volumes[VOLUMES];
static unsigned opened, count;

static void session_put(uint64_t session, bool there)
{
    char key[KEY_BYTES_MAX];
    struct store_op op = {there ? STORE_PUT : STORE_DELETE, key_session(session, key), "{}", 2};
    CHECK(store_txn(store, NULL, 0, &op, 1, NULL) == 0);
}

static void host_init(struct host *h, const char *name, uint64_t session, uint64_t blocks_bytes)
{
    memory_budget_init(&h->budget, blocks_bytes, MEMORY_IO_MIN);
    h->host = (struct volume_host){.store = store,
        .node_name = name,
        .session = session,
        .disks = &present,
        .budget = &h->budget,
        .bypass_bytes_min = 1 << 30,
        .flush_after_ns = HANGS_NS,
        .map_cache = map_cache_new(MIB)};
    session_put(session, true);
}

static void host_fini(struct host *h)
{
    map_cache_free(h->host.map_cache);
    memory_budget_fini(&h->budget);
}

static void make_pool(unsigned group)
{
    struct pool pool = {.code = {4, 1}, .shards_min = 5, .log_copies_min = 2};
    char key[KEY_BYTES_MAX];
    sprintf(pool.name, "p%u", group);
    sprintf(pool.data_class, "c%u", group);
    sprintf(pool.log_class, "c%u", group);
    CLEANUP_FREE char *text = pool_encode(&pool, NULL);
    struct store_op op = {STORE_PUT, key_pool(pool.name, key), text, strlen(text), false};
    CHECK(store_txn(store, NULL, 0, &op, 1, NULL) == 0);
}

/* Each has 3.5 MiB in its log alone, one generation that is not full. */
static void fill(unsigned n, unsigned group)
{
    char name[16], pool[8];
    CLEANUP_FREE char *error = NULL;
    sprintf(name, "v%u", n);
    sprintf(pool, "p%u", group);
    CHECK(volume_create(&dead.host, name, 16 * MIB, pool, &ids[n], &error) == 0);
    CHECK_MSG(volume_open(&dead.host, ids[n], &old[n], &error) == 0, "%s", error);
    memset(page, (int)n + 1, WRITE_BLOCKS * BLOCK_BYTES);
    for (unsigned i = 0; i < WRITES; i++)
        CHECK(volume_write(old[n], i * WRITE_BLOCKS * BLOCK_BYTES, WRITE_BLOCKS * BLOCK_BYTES, page,
                  0, (struct request_id){0}) == 0);
}

/* Volume 0 is on the disks of group 0 alone, the others on group 1. */
static void set_up(unsigned volume_count)
{
    opened = 0;
    count = volume_count;
    disk_list_init(&present);
    for (unsigned i = 0; i < GROUPS * DISKS; i++) {
        struct fake_disk *disk = fake_disk_new(i + 1, 256 * MIB / BLOCK_BYTES);
        sprintf(disk->disk.class_name, "c%u", i / DISKS);
        disks[i / DISKS][i % DISKS] = disk;
        disk_list_add(&present, &disk->disk);
    }
    page = mem_alloc_pages(WRITE_BLOCKS * BLOCK_BYTES);
    host_init(&dead, "dead", 0xa, 512 * MIB);
    host_init(&heir, "heir", 0xb, MEMORY_BLOCKS_MIN);
    make_pool(0);
    make_pool(1);
    for (unsigned n = 0; n < count; n++)
        fill(n, n > 0);
    session_put(0xa, false);
}

static void tear_down(void)
{
    for (unsigned n = 0; n < count; n++) {
        volume_close(old[n]);
        if (volumes[n])
            CHECK(volume_close(volumes[n]) == 0);
    }
    host_fini(&dead);
    host_fini(&heir);
    for (unsigned i = 0; i < GROUPS * DISKS; i++)
        fake_disk_free(disks[i / DISKS][i % DISKS]);
    mem_free_pages(page, WRITE_BLOCKS * BLOCK_BYTES);
}

static void opener(void *arg)
{
    unsigned n = (unsigned)(uintptr_t)arg;
    CLEANUP_FREE char *error = NULL;
    int r = volume_open(&heir.host, ids[n], &volumes[n], &error);
    CHECK_MSG(r == 0, "volume %u: %s", n, error);
    opened++;
}

static void hang(bool hangs)
{
    for (unsigned i = 0; i < DISKS; i++)
        disks[0][i]->latency_ns = hangs ? 50 * SEC : 0;
}

static void check_content(unsigned n)
{
    for (unsigned b = 0; b < WRITE_BLOCKS * WRITES; b += 7) {
        CHECK(volume_read(volumes[n], b * BLOCK_BYTES, BLOCK_BYTES, page) == 0);
        CHECK(page[0] == n + 1 && page[BLOCK_BYTES - 1] == n + 1);
    }
}

/* Volume 0 hangs once its disks have answered `reads` reads. */
static void one_hangs(uint64_t reads)
{
    set_up(2);
    uint64_t before = 0;
    for (unsigned i = 0; i < DISKS; i++) {
        before += disks[0][i]->reads;
        disks[0][i]->latency_ns = MS;
    }
    fiber_spawn("opener", opener, (void *)0);
    for (uint64_t now = before; now < before + reads;) {
        env_sleep_ns(MS / 10);
        now = 0;
        for (unsigned i = 0; i < DISKS; i++)
            now += disks[0][i]->reads;
    }
    hang(true);
    env_sleep_ns(10 * MS);
    CHECK(opened == 0);
    uint64_t start_ns = env_now_ns();
    opener((void *)1);
    CHECK_MSG(env_now_ns() - start_ns < SEC, "the other was held up for %llu ms",
        (unsigned long long)((env_now_ns() - start_ns) / MS));
    CHECK(opened == 1);
    check_content(1);
    env_sleep_ns(60 * SEC);
    hang(false);
    while (opened < 2)
        env_sleep_ns(SEC);
    check_content(0);
    tear_down();
}

static void an_open_that_hangs_in_its_fences_holds_up_no_other(void)
{
    one_hangs(0);
}

static void an_open_that_hangs_in_its_replay_holds_up_no_other(void)
{
    one_hangs(3);
}

/* 42 MiB of logs, 16 MiB for blocks. */
static void many_opens_stay_within_their_memory(void)
{
    set_up(VOLUMES);
    uint64_t cap = bufpool_cap_bytes(heir.budget.blocks), most = 0;
    CHECK(cap == 16 * MIB);
    for (uintptr_t n = 0; n < VOLUMES; n++)
        fiber_spawn("opener", opener, (void *)n);
    uint64_t start_ns = env_now_ns();
    unsigned at_once = 0;
    while (opened < VOLUMES) {
        const struct open_memory *opens = &heir.budget.opens;
        CHECK(opens->blocks * BLOCK_BYTES <= cap / 2 || opens->replaying == 1);
        CHECK(opens->readers <= 8);
        at_once = MAX(at_once, opens->replaying);
        most = MAX(most, bufpool_used_bytes(heir.budget.blocks));
        env_sleep_ns(MS / 100);
        CHECK(env_now_ns() - start_ns < 60 * SEC);
    }
    CHECK(at_once > 1 && most <= cap);
    for (unsigned n = 0; n < VOLUMES; n++)
        check_content(n);
    tear_down();
}

/* Y3: of two that replay more than they said one goes on, the other gives up; with what it had the first ends. */
static void two_that_need_more_do_not_wait_for_each_other(void)
{
    memory_budget_init(&heir.budget, MEMORY_BLOCKS_MIN, MEMORY_IO_MIN); /* 4096 blocks */
    heir.host = (struct volume_host){.budget = &heir.budget};
    struct volume a = {.host = &heir.host}, b = a, c = a;
    open_replay_begin(&a, 1500);
    open_replay_begin(&b, 500);
    CHECK(open_replay_more(&b, 48) == 0);
    CHECK(open_replay_more(&a, 100) == 0);
    CHECK(open_replay_more(&b, 1) == -EAGAIN);
    open_memory_release(&b);
    CHECK(open_replay_more(&a, 3000) == 0);
    open_replay_end(&a); /* it waits for disks */
    open_replay_begin(&c, 10);
    CHECK(open_replay_more(&c, 10) == 0);
    open_memory_release(&c);
    open_memory_release(&a);
    CHECK(heir.budget.opens.blocks == 0 && heir.budget.opens.replaying == 0);
    memory_budget_fini(&heir.budget);
}

/* Each test sets up its own. */
static void setup(void)
{
}

static void teardown(void)
{
}

TEST(an_open_that_hangs_in_its_fences_holds_up_no_other)
TEST(an_open_that_hangs_in_its_replay_holds_up_no_other)
TEST(many_opens_stay_within_their_memory)
TEST(two_that_need_more_do_not_wait_for_each_other)

int main(void)
{
    log_set_level(getenv("SIM_LOG") ? LOG_LEVEL_DEBUG : LOG_LEVEL_ERROR);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_open_that_hangs_in_its_fences_holds_up_no_other_),
        cmocka_unit_test(an_open_that_hangs_in_its_replay_holds_up_no_other_),
        cmocka_unit_test(many_opens_stay_within_their_memory_),
        cmocka_unit_test(two_that_need_more_do_not_wait_for_each_other_),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
