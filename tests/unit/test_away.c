/* SPDX-License-Identifier: Apache-2.0
 *
 * What a takeover waits for and for how long (O5, S14, S6): one node dies, another one opens the volume over
 * disks in memory, one of which has lost its power and one of which is away.
 */
#include "sim_fixture.h"

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
static struct list present;
static struct store_mem *mem;
static struct store *store;
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
    memory_budget_init(&h->budget, 64 * MIB);
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
    list_init(&present);
    for (unsigned i = 0; i < DISKS; i++) {
        disks[i] = fake_disk_new(i + 1, 64 * MIB / BLOCK_BYTES);
        if (i < count)
            list_push_back(&present, &disks[i]->disk.link);
    }
    page = mem_alloc_pages(LARGE_BLOCKS * BLOCK_BYTES);
    host_init(&dead, "dead", 0xa);
    host_init(&heir, "heir", 0xb);
    make_pool(code, copies_min);
}

static void set_up(struct shard_code code)
{
    set_up_disks(code, 1, DISKS);
}

static void tear_down(void)
{
    volume_close(old);
    CHECK(volume_close(volume) == 0);
    struct host *hosts[] = {&dead, &heir};
    for (unsigned i = 0; i < 2; i++) {
        map_cache_free(hosts[i]->host.map_cache);
        memory_budget_fini(&hosts[i]->budget);
    }
    for (unsigned i = 0; i < DISKS; i++)
        fake_disk_free(disks[i]);
    mem_free_pages(page, LARGE_BLOCKS * BLOCK_BYTES);
}

static void write_old(unsigned blocks, uint8_t byte)
{
    memset(page, byte, blocks * BLOCK_BYTES);
    CHECK(volume_write(old, 0, blocks * BLOCK_BYTES, page, 0, (struct request_id){0}) == 0);
}

static int first_byte(void)
{
    memset(page, 0xee, BLOCK_BYTES);
    CHECK(volume_read(volume, 0, BLOCK_BYTES, page) == 0);
    return page[0];
}

/* How many disks hold something of the volume of that kind, of the owner that died; *ret_disks: which. */
static unsigned disks_with(enum shard_kind kind, unsigned ret_disks[DISKS])
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

static void go_away(unsigned i)
{
    disks[i]->error = -EHOSTUNREACH;
    disks[i]->disk.state = DISK_MISSING;
    disks[i]->disk.missing_since_ns = env_now_ns();
}

static void come_back(unsigned i)
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

static struct volume_info info(void)
{
    struct volume_info info;
    volume_get_info(volume, &info);
    return info;
}

/* A write that was flushed, and one that was acknowledged: it is whole on the copy that is away alone. */
static unsigned lose_a_log(void)
{
    unsigned logs[DISKS];
    write_old(1, 1);
    CHECK(volume_flush(old) == 0);
    write_old(1, 2);
    CHECK(disks_with(SHARD_LOG, logs) == 2);
    fake_disk_lose_power(disks[logs[0]]);
    go_away(logs[1]);
    return logs[1];
}

static void a_log_on_suspect_copies_alone_waits_for_the_one_that_is_away(void)
{
    set_up((struct shard_code){1, 1});
    unsigned away = lose_a_log();
    CHECK(inherit() == -EHOSTUNREACH);
    env_sleep_ns(WAIT_NS / 2);
    CHECK(inherit() == -EHOSTUNREACH);
    come_back(away);
    CHECK(inherit() == 0);
    assert_int_equal(first_byte(), 2);
    assert_int_equal(info().loss_epoch, 0);
    tear_down();
}

static void the_wait_ends_with_the_repair_wait(void)
{
    set_up((struct shard_code){1, 1});
    (void)lose_a_log();
    CHECK(inherit() == -EHOSTUNREACH);
    env_sleep_ns(WAIT_NS);
    CHECK(inherit() == 0);
    assert_int_equal(
        first_byte(), 1); /* what was flushed is there, and that it may not be all is on record */
    assert_int_equal(info().loss_epoch, info().epoch);
    struct volume_root root;
    CHECK(volume_root_load(store, id, &root) == 0);
    assert_int_equal(root.loss_epoch, info().epoch);
    assert_int_equal(root.loss_time_s, env_realtime_ns() / SEC);
    tear_down();
}

static void the_wait_ends_when_the_disk_is_forgotten(void)
{
    set_up((struct shard_code){1, 1});
    unsigned away = lose_a_log();
    CHECK(inherit() == -EHOSTUNREACH);
    forgotten = disks[away]->disk.number;
    list_remove(&disks[away]->disk.link);
    CHECK(inherit() == 0);
    assert_int_equal(first_byte(), 1);
    assert_int_equal(info().loss_epoch, info().epoch);
    tear_down();
}

static void a_disk_that_hangs_is_not_waited_for_for_ever(void)
{
    set_up((struct shard_code){1, 1});
    unsigned away = lose_a_log();
    disks[away]->disk.state = DISK_IN; /* its node is up, and says nothing of it */
    uint64_t start_ns = env_now_ns();
    while (inherit() < 0)
        env_sleep_ns(5 * SEC);
    assert_in_range(env_now_ns() - start_ns, WAIT_NS, WAIT_NS + 10 * SEC);
    assert_int_equal(first_byte(), 1);
    come_back(away);
    tear_down();
}

static void a_disk_that_is_not_there_at_start_is_waited_for(void)
{
    set_up((struct shard_code){1, 1});
    unsigned away = lose_a_log();
    list_remove(&disks[away]->disk.link); /* on record */
    CHECK(inherit() == -EHOSTUNREACH);
    env_sleep_ns(WAIT_NS);
    CHECK(inherit() == 0);
    assert_int_equal(first_byte(), 1);
    tear_down();
}

/* A row that was acknowledged: on one shard whose disk is up, on one whose disk is away, and gone with the power
 * from the third. */
static unsigned lose_a_row(void)
{
    unsigned logs[DISKS], rows[DISKS];
    write_old(LARGE_BLOCKS, 3);
    CHECK(disks_with(SHARD_LOG, logs) == 2);
    CHECK(disks_with(SHARD_DATA, rows) == 3);
    unsigned dark = rows[0] == logs[0] || rows[0] == logs[1] ? 1 : 0; /* a log is left */
    unsigned away = rows[dark + 1] == logs[0] || rows[dark + 1] == logs[1] ? dark + 1 : 2;
    fake_disk_lose_power(disks[rows[dark]]);
    go_away(rows[away]);
    return rows[away];
}

static void a_row_that_suspect_shards_lack_waits_for_the_shard_that_is_away(void)
{
    set_up((struct shard_code){2, 1});
    unsigned away = lose_a_row();
    CHECK(inherit() == -EHOSTUNREACH);
    come_back(away);
    CHECK(inherit() == 0);
    assert_int_equal(first_byte(), 3);
    assert_int_equal(info().loss_epoch, 0);
    tear_down();
}

static void a_row_is_given_up_after_the_repair_wait(void)
{
    set_up((struct shard_code){2, 1});
    (void)lose_a_row();
    CHECK(inherit() == -EHOSTUNREACH);
    env_sleep_ns(WAIT_NS);
    CHECK(inherit() == 0);
    assert_int_equal(first_byte(), 0); /* never flushed */
    assert_int_equal(info().loss_epoch, info().epoch);
    tear_down();
}

static void forget(unsigned i)
{
    forgotten = disks[i]->disk.number;
    list_remove(&disks[i]->disk.link);
}

/* Opens while the disk does not answer from its operation `at` on, for some; false: it was done before. */
static bool inherit_over_outage(unsigned i, uint64_t at, uint64_t count)
{
    int r = -1;
    disks[i]->fail_op_at = disks[i]->ops + at;
    disks[i]->fail_ops_more = count - 1;
    disks[i]->fail_op_error = -EHOSTUNREACH;
    session_put(0xa, false);
    for (unsigned tries = 0; r < 0; tries++) {
        CLEANUP_FREE char *error = NULL;
        r = volume_open(&heir.host, id, &volume, &error);
        CHECK_MSG(
            r == 0 || (r == -EHOSTUNREACH && tries < 20), "open: %s, %s", strerror(-r), error);
    }
    bool hit = disks[i]->ops >= disks[i]->fail_op_at;
    disks[i]->fail_op_at = 0;
    return hit;
}

/* S14: of a log that was flushed only suspect copies are left, and the disk goes away while it is read. */
static void a_disk_that_goes_away_during_replay_cuts_no_log(void)
{
    bool hit = true;
    for (uint64_t at = 1; hit; at++) {
        unsigned logs[DISKS];
        set_up((struct shard_code){1, 1});
        write_old(1, 1);
        write_old(1, 2);
        CHECK(volume_flush(old) == 0);
        CHECK(disks_with(SHARD_LOG, logs) == 2);
        fake_disk_lose_power(disks[logs[0]]);
        forget(logs[1]);
        hit = inherit_over_outage(logs[0], at, 4);
        assert_int_equal(first_byte(), 2);
        tear_down();
    }
}

/* The same of a row: all of it is there, on suspect shards, just enough of them. */
static void a_disk_that_goes_away_during_replay_cuts_no_row(void)
{
    bool hit = true;
    for (uint64_t at = 1; hit; at++) {
        unsigned rows[DISKS];
        set_up((struct shard_code){2, 1});
        write_old(LARGE_BLOCKS, 3);
        CHECK(volume_flush(old) == 0);
        CHECK(disks_with(SHARD_DATA, rows) == 3);
        fake_disk_lose_power(disks[rows[0]]);
        fake_disk_lose_power(disks[rows[1]]);
        forget(rows[2]);
        hit = inherit_over_outage(rows[0], at, 4);
        assert_int_equal(first_byte(), 3);
        tear_down();
    }
}

/* Q6, S23: the disk was away at the takeover, and comes back without the row's end. Nobody asks it while the
 * others answer. */
static void a_shard_that_comes_back_short_is_rebuilt(void)
{
    unsigned rows[DISKS];
    set_up((struct shard_code){2, 1});
    write_old(LARGE_BLOCKS, 3);
    CHECK(disks_with(SHARD_DATA, rows) == 3);
    fake_disk_lose_power(disks[rows[2]]);
    go_away(rows[2]);
    CHECK(inherit() == 0);
    assert_int_equal(first_byte(), 3);
    CHECK(volume_flush(volume) == 0);
    env_sleep_ns(10 * SEC);
    assert_int_equal(volume_stats(volume)->repaired_shards, 0);
    come_back(rows[2]);
    volume_disk_changed(volume);
    env_sleep_ns(10 * SEC);
    assert_int_equal(volume_stats(volume)->repaired_shards, 1);
    assert_string_equal(info().health, "ok");
    go_away(rows[0]);
    for (unsigned b = 0; b < LARGE_BLOCKS; b++) {
        CHECK(volume_read(volume, b * BLOCK_BYTES, BLOCK_BYTES, page) == 0);
        CHECK(page[0] == 3 && page[BLOCK_BYTES - 1] == 3);
    }
    come_back(rows[0]);
    tear_down();
}

/* One that has all of it costs no rebuild, only the seal that it missed. */
static void a_shard_that_comes_back_whole_is_not(void)
{
    unsigned rows[DISKS];
    set_up((struct shard_code){2, 1});
    write_old(LARGE_BLOCKS, 3);
    CHECK(disks_with(SHARD_DATA, rows) == 3);
    go_away(rows[2]);
    CHECK(inherit() == 0);
    uint64_t seals = disks[rows[2]]->seals;
    come_back(rows[2]);
    volume_disk_changed(volume);
    env_sleep_ns(10 * SEC);
    assert_int_equal(volume_stats(volume)->repaired_shards, 0);
    assert_true(disks[rows[2]]->seals > seals);
    assert_string_equal(info().health, "ok");
    uint64_t ops = disks[rows[2]]->ops;
    volume_disk_changed(volume); /* once */
    env_sleep_ns(10 * SEC);
    assert_int_equal(disks[rows[2]]->ops, ops);
    go_away(rows[0]);
    assert_int_equal(first_byte(), 3);
    come_back(rows[0]);
    tear_down();
}

/* --- Rows on disks that failed ------------------------------------------------------------------------- */

/* Two of its three disks fail before it is flushed, which is on record, and come back. */
static void fail_under_a_row(bool power)
{
    unsigned rows[DISKS], logs[DISKS];
    set_up((struct shard_code){2, 1});
    write_old(LARGE_BLOCKS, 3);
    CHECK(disks_with(SHARD_DATA, rows) == 3 && disks_with(SHARD_LOG, logs) == 2);
    unsigned keep = 0; /* a disk with a copy of the log, if there is one */
    for (unsigned i = 0; i < 3; i++)
        keep = rows[i] == logs[0] ? i : keep;
    for (unsigned i = 0; i < 3; i++)
        disks[rows[i]]->error = i == keep ? 0 : -EIO;
    CHECK(volume_flush(old) < 0);
    for (unsigned i = 0; i < 3; i++) {
        disks[rows[i]]->error = 0;
        if (power && i != keep)
            fake_disk_lose_power(disks[rows[i]]);
    }
    while (inherit() < 0)
        env_sleep_ns(SEC);
}

static void a_row_is_had_from_disks_that_failed_and_are_back(void)
{
    fail_under_a_row(false);
    assert_int_equal(first_byte(), 3);
    tear_down();
}

static void a_row_that_failed_disks_lost_with_the_power_is_given_up(void)
{
    fail_under_a_row(true);
    assert_int_equal(first_byte(), 0);
    tear_down();
}

/* --- A record on one copy of the manifest ------------------------------------------------------------- */

static struct shard_info manifest_on(unsigned i)
{
    struct shard_info *list, info = {.epoch = 0};
    unsigned count;
    CHECK(shard_list(&disks[i]->disk, id, &list, &count) == 0);
    for (unsigned n = 0; n < count; n++)
        if (list[n].kind == SHARD_MANIFEST)
            info = list[n];
    mem_free(list);
    return info;
}

/* O6: the owner ended when one copy had the record of its second row. An open reads the other one, and ends before
 * it has a manifest of its own. */
static void an_open_that_ends_early_takes_no_rows_away(void)
{
    unsigned manifests[DISKS];
    set_up_disks(
        (struct shard_code){2, 1}, 2, DISKS); /* too few shards are on the disk that is away */
    write_old(1, 1);
    CHECK(volume_destage(old) == 0 && disks_with(SHARD_MANIFEST, manifests) == 2);
    struct shard_info before = manifest_on(manifests[0]);
    write_old(2, 2);
    CHECK(volume_destage(old) == 0);
    CHECK(manifest_on(manifests[0]).length_blocks > before.length_blocks);
    fake_disk_cut_shard(disks[manifests[0]], before.key, before.length_blocks);
    for (unsigned i = 0; i < DISKS; i++)
        disks[i]->disk.state = DISK_OUT; /* no new manifest */
    go_away(manifests[1]);
    CHECK(inherit() == 0);
    CHECK_MSG(strstr(info().problem, "no log can be allocated"), "%s", info().problem);
    CHECK(volume_close(volume) < 0);
    for (unsigned i = 0; i < DISKS; i++)
        come_back(i);
    CHECK(inherit() == 0);
    assert_int_equal(first_byte(), 2);
    tear_down();
}

/* --- Reads while no log can be made ---------------------------------------------------------------- */

static int read_result;
static bool read_done;

/* A write that reached this copy of the log alone, and that nobody was told of. */
static void append_unacknowledged(unsigned i)
{
    struct shard_info *list, info = {.epoch = 0};
    unsigned count;
    uint8_t body[LOG_RECORD_BYTES_MAX];
    struct log_record record = {.type = LOG_WRITE, .count = 1};
    memset(page, 5, BLOCK_BYTES);
    struct shard_entry entry = {.crc = crc32c(0, page, BLOCK_BYTES)};
    struct iovec payload = {page, BLOCK_BYTES};
    CHECK(shard_list(&disks[i]->disk, id, &list, &count) == 0);
    for (unsigned n = 0; n < count; n++)
        if (list[n].kind == SHARD_LOG && list[n].length_blocks > 0)
            info = list[n];
    mem_free(list);
    struct shard_append append = {.disk = &disks[i]->disk,
        .key = info.key,
        .epoch = info.epoch,
        .off_blocks = info.length_blocks,
        .base_seq = 2,
        .entries = &entry,
        .entry_count = 1,
        .inline_bytes = body,
        .inline_len_bytes = (unsigned)log_record_encode(&record, body),
        .payload = &payload,
        .payload_count = 1};
    CHECK(shard_append(&append) == 0);
}

static void reader(void *arg)
{
    uint8_t *buf = mem_alloc_pages(BLOCK_BYTES);
    read_result = volume_read(volume, 0, BLOCK_BYTES, buf);
    if (read_result == 0)
        read_result = buf[0];
    read_done = true;
    mem_free_pages(buf, BLOCK_BYTES);
}

/* A write that reached one copy of the log and was not acknowledged; that copy alone is there at the takeover.
 * Returns its disk, *ret_other that of the copy that has what was acknowledged. */
static unsigned leave_one_copy(unsigned *ret_other)
{
    unsigned logs[DISKS], manifests[DISKS];
    set_up_disks((struct shard_code){1, 1}, 2, 3);
    write_old(1, 1);
    CHECK(disks_with(SHARD_LOG, logs) == 2 && disks_with(SHARD_MANIFEST, manifests) == 2);
    unsigned keep = logs[0] == manifests[0] || logs[0] == manifests[1] ? logs[0] : logs[1];
    *ret_other = logs[0] + logs[1] - keep;
    append_unacknowledged(keep);
    for (unsigned i = 0; i < 3; i++)
        if (i != keep)
            go_away(i);
    return keep;
}

static void start_reader(void)
{
    read_done = false;
    fiber_spawn("reader", reader, NULL);
    env_sleep_ns(10 * SEC);
}

/* X7: not read while the store does not take the log's end. */
static void open_without_store(void)
{
    unsigned other;
    (void)leave_one_copy(&other);
    CHECK(inherit() == 0);
    store_mem_set_fault(mem, -EHOSTUNREACH, 0);
    CHECK_MSG(strstr(info().problem, "reads and writes wait"), "%s", info().problem);
    start_reader();
    CHECK_MSG(!read_done, "a read was answered with %d", read_result);
}

static void what_is_on_one_copy_alone_is_not_read_before_its_end_is_on_record(void)
{
    open_without_store();
    store_mem_set_fault(mem, 0, 0);
    env_sleep_ns(10 * SEC);
    CHECK(read_done);
    assert_int_equal(read_result, 5);
    CHECK_MSG(strstr(info().problem, "reads are served"), "%s", info().problem);
    for (unsigned i = 0; i < 3; i++)
        come_back(i);
    env_sleep_ns(SEC);
    assert_string_equal(info().health, "ok");
    struct volume_root root;
    CHECK(volume_root_load(store, id, &root) == 0);
    assert_int_equal(root.tail_log, 0); /* its manifest has it now */
    tear_down();
}

static void a_close_does_not_wait_for_reads_that_wait_for_disks(void)
{
    open_without_store();
    uint64_t start_ns = env_now_ns();
    CHECK(volume_close(volume) < 0);
    CHECK(read_done);
    assert_int_equal(read_result, -ESHUTDOWN);
    assert_in_range(env_now_ns() - start_ns, 0, 20 * SEC);
    store_mem_set_fault(mem, 0, 0);
    for (unsigned i = 0; i < 3; i++)
        come_back(i);
    session_put(0xb, false);
    heir.host.session = 0xc;
    session_put(0xc, true);
    CHECK(inherit() == 0);
    assert_int_equal(first_byte(), 5);
    tear_down();
}

/* X9: what was read once is waited for by whoever opens the volume next. */
static unsigned read_on_one_copy(unsigned *ret_other)
{
    unsigned keep = leave_one_copy(ret_other);
    CHECK(inherit() == 0);
    start_reader();
    CHECK(read_done && read_result == 5);
    volume_close(volume);
    go_away(keep);
    for (unsigned i = 0; i < 3; i++)
        if (i != keep)
            come_back(i);
    return keep;
}

static void what_was_read_on_one_copy_alone_is_waited_for(void)
{
    unsigned other, keep = read_on_one_copy(&other);
    char *error = NULL;
    CHECK(volume_open(&heir.host, id, &volume, &error) == -EHOSTUNREACH);
    CHECK_MSG(strstr(error, "shorter than recorded"), "%s", error);
    mem_free(error);
    come_back(keep);
    CHECK(inherit() == 0);
    assert_int_equal(first_byte(), 5);
    assert_int_equal(info().loss_epoch, 0);
    tear_down();
}

/* More than m disks were lost: what was acknowledged is there. */
static void what_was_read_on_one_copy_alone_is_lost_with_its_disk(void)
{
    unsigned other, keep = read_on_one_copy(&other);
    forgotten = disks[keep]->disk.number;
    list_remove(&disks[keep]->disk.link);
    CHECK(inherit() == 0);
    assert_int_equal(first_byte(), 1);
    assert_int_equal(info().loss_epoch, info().epoch);
    tear_down();
}

/* The one copy that is there says nothing that is not in rows, but another one has more: it never was. */
static void what_was_not_found_while_a_copy_was_away_does_not_come_back(void)
{
    unsigned logs[DISKS], manifests[DISKS];
    set_up_disks((struct shard_code){1, 1}, 2, 3);
    write_old(1, 1);
    CHECK(volume_destage(old) == 0);
    CHECK(disks_with(SHARD_LOG, logs) == 2 && disks_with(SHARD_MANIFEST, manifests) == 2);
    unsigned keep = logs[0] == manifests[0] || logs[0] == manifests[1] ? logs[0] : logs[1];
    append_unacknowledged(logs[0] + logs[1] - keep);
    for (unsigned i = 0; i < 3; i++)
        if (i != keep)
            go_away(i);
    CHECK(inherit() == 0);
    start_reader();
    CHECK(read_done);
    bool served = read_result == 1; /* the row may be on a disk that is away */
    volume_close(volume);
    for (unsigned i = 0; i < 3; i++)
        come_back(i);
    CHECK(inherit() == 0);
    CHECK(served || read_result == -EIO);
    assert_int_equal(first_byte(), 1);
    volume_close(volume);
    CHECK(inherit() == 0);
    assert_int_equal(first_byte(), 1);
    tear_down();
}

/* The other copy is gone for good: nobody will find less. */
static void what_is_on_the_only_copy_that_is_left_is_read(void)
{
    unsigned logs[DISKS], manifests[DISKS];
    set_up_disks((struct shard_code){1, 1}, 2, 3);
    write_old(1, 1);
    CHECK(disks_with(SHARD_LOG, logs) == 2 && disks_with(SHARD_MANIFEST, manifests) == 2);
    unsigned keep = logs[0] == manifests[0] || logs[0] == manifests[1] ? logs[0] : logs[1];
    unsigned gone = logs[0] + logs[1] - keep, third = 3 - logs[0] - logs[1];
    forget(gone);
    go_away(third);
    CHECK(inherit() == 0);
    CHECK_MSG(strstr(info().problem, "reads are served"), "%s", info().problem);
    assert_int_equal(first_byte(), 1);
    come_back(third);
    env_sleep_ns(SEC);
    tear_down();
}

/* What all copies have is found by whoever opens it. */
static void what_is_on_all_copies_is_read_while_no_log_can_be_made(void)
{
    unsigned logs[DISKS];
    set_up_disks((struct shard_code){1, 1}, 2, 3);
    write_old(1, 1);
    CHECK(disks_with(SHARD_LOG, logs) == 2);
    for (unsigned i = 0; i < 3; i++)
        disks[i]->disk.state = DISK_OUT; /* to be read, and nothing new on it */
    CHECK(inherit() == 0);
    CHECK_MSG(strstr(info().problem, "reads are served"), "%s", info().problem);
    assert_int_equal(first_byte(), 1);
    for (unsigned i = 0; i < 3; i++)
        come_back(i);
    env_sleep_ns(SEC);
    assert_string_equal(info().health, "ok");
    tear_down();
}

/* --- Harness ------------------------------------------------------------------------------------- */

static void run_body(void *arg)
{
    mem = store_mem_new();
    store = store_mem_open(mem);
    (*(void (**)(void))arg)();
    store_close(store);
    store_mem_free(mem);
}

static void run(void (*body)(void))
{
    struct sim *sim = sim_with(1);
    run_on(sim_node_new(sim, "n1"), run_body, &body);
    sim_free(sim);
}

#define TEST(name)                    \
    static void name##_(void **state) \
    {                                 \
        run(name);                    \
    }
TEST(a_log_on_suspect_copies_alone_waits_for_the_one_that_is_away)
TEST(the_wait_ends_with_the_repair_wait)
TEST(the_wait_ends_when_the_disk_is_forgotten)
TEST(a_disk_that_hangs_is_not_waited_for_for_ever)
TEST(a_disk_that_is_not_there_at_start_is_waited_for)
TEST(a_row_that_suspect_shards_lack_waits_for_the_shard_that_is_away)
TEST(a_row_is_given_up_after_the_repair_wait)
TEST(a_disk_that_goes_away_during_replay_cuts_no_log)
TEST(a_disk_that_goes_away_during_replay_cuts_no_row)
TEST(a_shard_that_comes_back_short_is_rebuilt)
TEST(a_shard_that_comes_back_whole_is_not)
TEST(a_row_that_failed_disks_lost_with_the_power_is_given_up)
TEST(a_row_is_had_from_disks_that_failed_and_are_back)
TEST(an_open_that_ends_early_takes_no_rows_away)
TEST(what_is_on_one_copy_alone_is_not_read_before_its_end_is_on_record)
TEST(what_was_read_on_one_copy_alone_is_waited_for)
TEST(what_was_read_on_one_copy_alone_is_lost_with_its_disk)
TEST(what_was_not_found_while_a_copy_was_away_does_not_come_back)
TEST(a_close_does_not_wait_for_reads_that_wait_for_disks)
TEST(what_is_on_the_only_copy_that_is_left_is_read)
TEST(what_is_on_all_copies_is_read_while_no_log_can_be_made)

int main(void)
{
    log_set_level(getenv("SIM_LOG") ? LOG_LEVEL_DEBUG : LOG_LEVEL_ERROR);
    setenv("CMOCKA_TEST_ABORT", "1", 1); /* no way back from a failed assertion inside a fiber */
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_log_on_suspect_copies_alone_waits_for_the_one_that_is_away_),
        cmocka_unit_test(the_wait_ends_with_the_repair_wait_),
        cmocka_unit_test(the_wait_ends_when_the_disk_is_forgotten_),
        cmocka_unit_test(a_disk_that_hangs_is_not_waited_for_for_ever_),
        cmocka_unit_test(a_disk_that_is_not_there_at_start_is_waited_for_),
        cmocka_unit_test(a_row_that_suspect_shards_lack_waits_for_the_shard_that_is_away_),
        cmocka_unit_test(a_row_is_given_up_after_the_repair_wait_),
        cmocka_unit_test(a_disk_that_goes_away_during_replay_cuts_no_log_),
        cmocka_unit_test(a_disk_that_goes_away_during_replay_cuts_no_row_),
        cmocka_unit_test(a_shard_that_comes_back_short_is_rebuilt_),
        cmocka_unit_test(a_shard_that_comes_back_whole_is_not_),
        cmocka_unit_test(a_row_that_failed_disks_lost_with_the_power_is_given_up_),
        cmocka_unit_test(a_row_is_had_from_disks_that_failed_and_are_back_),
        cmocka_unit_test(an_open_that_ends_early_takes_no_rows_away_),
        cmocka_unit_test(what_is_on_one_copy_alone_is_not_read_before_its_end_is_on_record_),
        cmocka_unit_test(what_was_read_on_one_copy_alone_is_waited_for_),
        cmocka_unit_test(what_was_read_on_one_copy_alone_is_lost_with_its_disk_),
        cmocka_unit_test(what_was_not_found_while_a_copy_was_away_does_not_come_back_),
        cmocka_unit_test(a_close_does_not_wait_for_reads_that_wait_for_disks_),
        cmocka_unit_test(what_is_on_the_only_copy_that_is_left_is_read_),
        cmocka_unit_test(what_is_on_all_copies_is_read_while_no_log_can_be_made_),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
