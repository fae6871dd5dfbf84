/* SPDX-License-Identifier: Apache-2.0
 *
 * What is read while too few disks are up to write (X7, X9), and that it stays so.
 */
#include "away_fixture.h"

#include "blockd/volume/state.h"
#include "common/bytes.h"

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

/* A record on disk i's copy of the manifest alone, on its way when the owner ended: it has left the log's copy on disk
 * `lost` behind and goes on in the next log. */
static void roll_on_one_copy(unsigned i, unsigned lost)
{
    struct shard_info *list, manifest = {.epoch = 0};
    struct wal sealed = {.sealed = true, .last_seq = 1, .copies = 2};
    struct records records = {0};
    uint8_t body[512];
    unsigned count, at[2] = {i, lost};
    for (unsigned n = 0; n < 2; n++) {
        CHECK(shard_list(&disks[at[n]]->disk, id, &list, &count) == 0);
        for (unsigned k = 0; k < count; k++) {
            if (list[k].kind == SHARD_MANIFEST && n == 0)
                manifest = list[k];
            if (list[k].kind != SHARD_LOG || list[k].length_blocks == 0)
                continue;
            sealed.chunk = list[k].key.chunk;
            sealed.epoch = list[k].epoch;
            sealed.capacity_blocks = list[k].capacity_blocks;
            sealed.length_blocks = n == 0 ? list[k].length_blocks : sealed.length_blocks;
            sealed.shards[list[k].key.index] = (struct chunk_shard){
                .place = {.disk = disks[at[n]]->disk.number, .instance = list[k].instance},
                .state = n == 0 ? CHUNK_SHARD_OK : CHUNK_SHARD_LOST};
        }
        mem_free(list);
    }
    record_wal(&records, &sealed);
    put_le16(body, 1); /* version, last of its group, length */
    put_le16(body + 2, 1);
    put_le32(body + 4, (uint32_t)records.len_bytes);
    CHECK(manifest.epoch && 8 + records.len_bytes <= sizeof(body));
    memcpy(body + 8, records.bytes, records.len_bytes);
    struct shard_append append = {.disk = &disks[i]->disk,
        .key = manifest.key,
        .epoch = manifest.epoch,
        .off_blocks = manifest.length_blocks,
        .inline_bytes = body,
        .inline_len_bytes = 8 + (unsigned)records.len_bytes};
    CHECK(shard_append(&append) == 0);
    records_fini(&records);
}

/* The owner ended while it left behind the copy that was then read alone: its record, which that copy's disk does not
 * have, does not take back what was read. */
static void what_was_read_counts_more_than_a_record_on_its_way(void)
{
    unsigned logs[DISKS], manifests[DISKS];
    set_up_disks((struct shard_code){1, 1}, 2, 2);
    write_old(1, 1);
    CHECK(disks_with(SHARD_LOG, logs) == 2 && disks_with(SHARD_MANIFEST, manifests) == 2);
    append_unacknowledged(0);
    roll_on_one_copy(1, 0);
    go_away(1);
    CHECK(inherit() == 0);
    start_reader();
    CHECK(read_done && read_result == 5);
    volume_close(volume);
    go_away(0);
    come_back(1);
    char *error = NULL;
    CHECK(volume_open(&heir.host, id, &volume, &error) == -EHOSTUNREACH);
    mem_free(error);
    come_back(0);
    CHECK(inherit() == 0);
    assert_int_equal(first_byte(), 5);
    assert_int_equal(info().loss_epoch, 0);
    tear_down();
}

/* A read that comes while the lease is gone for a moment is answered when there is one, not when there are disks. */
static void a_read_waits_for_the_lease_and_not_for_disks(void)
{
    unsigned other;
    (void)leave_one_copy(&other);
    CHECK(inherit() == 0);
    start_reader();
    CHECK(read_done && read_result == 5);
    heir.host.session = 0xc;
    session_put(0xc, true);
    start_reader();
    CHECK(!read_done);
    CHECK(volume_session_renewed(volume) == 0);
    env_sleep_ns(10 * SEC);
    CHECK(read_done && read_result == 5);
    for (unsigned i = 0; i < 3; i++)
        come_back(i);
    env_sleep_ns(SEC);
    tear_down();
}

/* More than m disks were lost: what was acknowledged is there. */
static void what_was_read_on_one_copy_alone_is_lost_with_its_disk(void)
{
    unsigned other, keep = read_on_one_copy(&other);
    forgotten = disks[keep]->disk.number;
    disk_list_remove(&present, &disks[keep]->disk);
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

TEST(what_is_on_one_copy_alone_is_not_read_before_its_end_is_on_record)
TEST(what_was_read_on_one_copy_alone_is_waited_for)
TEST(what_was_read_on_one_copy_alone_is_lost_with_its_disk)
TEST(what_was_read_counts_more_than_a_record_on_its_way)
TEST(a_read_waits_for_the_lease_and_not_for_disks)
TEST(what_was_not_found_while_a_copy_was_away_does_not_come_back)
TEST(a_close_does_not_wait_for_reads_that_wait_for_disks)
TEST(what_is_on_the_only_copy_that_is_left_is_read)
TEST(what_is_on_all_copies_is_read_while_no_log_can_be_made)

int main(void)
{
    log_set_level(getenv("SIM_LOG") ? LOG_LEVEL_DEBUG : LOG_LEVEL_ERROR);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_on_one_copy_alone_is_not_read_before_its_end_is_on_record_),
        cmocka_unit_test(what_was_read_on_one_copy_alone_is_waited_for_),
        cmocka_unit_test(what_was_read_on_one_copy_alone_is_lost_with_its_disk_),
        cmocka_unit_test(what_was_read_counts_more_than_a_record_on_its_way_),
        cmocka_unit_test(a_read_waits_for_the_lease_and_not_for_disks_),
        cmocka_unit_test(what_was_not_found_while_a_copy_was_away_does_not_come_back_),
        cmocka_unit_test(a_close_does_not_wait_for_reads_that_wait_for_disks_),
        cmocka_unit_test(what_is_on_the_only_copy_that_is_left_is_read_),
        cmocka_unit_test(what_is_on_all_copies_is_read_while_no_log_can_be_made_),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
