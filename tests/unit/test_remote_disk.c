/* SPDX-License-Identifier: Apache-2.0
 *
 * A disk of another node: the same operations and answers as a local disk, through the real service
 * and RPC in simulation. Faults: tests/sim/sim_remote.c; bodies: test_wire_shard.c.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "blockd/cluster/protocol.h"
#include "blockd/cluster/wire_shard.h"
#include "common/log.h"
#include "disk_blocks.h"
#include "tests/lib/remote_world.h"

#define MIB (1ull << 20)
#define MS 1000000ull

static const struct shard_key A = {.volume = 7, .chunk = (1ull << 32) | 1, .index = 2};
static const struct shard_key L = {.volume = 7, .chunk = (1ull << 32) | 2, .index = 1};

static struct remote_world w;

struct job {
    void (*fn)(void);
    bool done;
};

static void job_main(void *arg)
{
    struct job *job = arg;
    job->fn();
    job->done = true;
}

static bool job_done(void *arg)
{
    return ((struct job *)arg)->done;
}

static void run_on(struct env *node, void (*fn)(void))
{
    struct job job = {.fn = fn};
    sim_node_start(node, "test", job_main, &job);
    CHECK(sim_run(w.sim, job_done, &job, UINT64_MAX) == SIM_UNTIL);
}

static void connect_client(void)
{
    remote_world_connect(&w);
}

static void disconnect_client(void)
{
    remote_world_disconnect(&w);
}

static void stop_server(void)
{
    remote_world_stop_server(&w);
}

/* Runs fn on the client, then ends both in order. */
static void with_remote_disk(uint64_t disk_bytes, void (*fn)(void))
{
    remote_world_init(&w, 1, disk_bytes, false);
    remote_world_start_server(&w);
    run_on(w.client_node, connect_client);
    run_on(w.client_node, fn);
    run_on(w.client_node, disconnect_client);
    run_on(w.server_node, stop_server);
    remote_world_fini(&w);
}

/* --- The operations ---------------------------------------------------------------------------- */

static void appends_and_reads(void)
{
    struct shard_info info;
    struct shard_create create = create_of(A, SHARD_DATA, 200);
    CHECK(shard_create(w.disk, &create, &info) == 0);
    CHECK(info.capacity_blocks >= 200 && info.instance == create.instance && info.epoch == 1);
    CHECK(append_blocks(w.disk, A, 1, 0, 10, 0, 0) == 0);
    CHECK(append_blocks(w.disk, A, 1, 11, 0, 0, 0) == 0);
    CHECK(append_blocks(w.disk, A, 1, 12, 100, 0, SHARD_APPEND_DSYNC) == 0);
    CHECK(append_blocks(w.disk, A, 1, 12, 100, 0, 0) == 0); /* again */
    CHECK(append_blocks(w.disk, A, 1, 12, 100, 1, 0) == -ERANGE);
    CHECK(read_and_compare(w.disk, A, 0, 113, 0) == 0);
    CHECK(read_and_compare(w.disk, A, 5, 1, 0) == 0);
    CHECK(read_and_compare(w.disk, A, 5, 0, 0) == 0);
    CHECK(read_and_compare(w.disk, A, 100, 14, 0) == -ERANGE);
    CHECK(shard_stat(w.disk, A, &info) == 0 && info.length_blocks == 113 && !info.sealed);
    CHECK(shard_sync(w.disk, A, 1, 113) == 0);
    CHECK(shard_sync(w.disk, A, 1, 114) == -ERANGE);
    CHECK(shard_seal(w.disk, A, 1, 50) == -ERANGE);
    CHECK(shard_seal(w.disk, A, 1, 12) == 0);
    CHECK(append_blocks(w.disk, A, 1, 12, 1, 0, 0) == -EROFS);
    CHECK(shard_stat(w.disk, A, &info) == 0 && info.length_blocks == 12 && info.sealed);
    CHECK(read_and_compare(w.disk, A, 0, 12, 0) == 0);
    CHECK(w.disk->latency_ewma_ns > 0);
}

static void test_appends_seals_and_reads_are_those_of_the_disk(void **state)
{
    with_remote_disk(64 * MIB, appends_and_reads);
}

static void fences_and_removes(void)
{
    struct shard_info info;
    CHECK(shard_stat(w.disk, A, &info) == -ENOENT);
    CHECK(read_and_compare(w.disk, A, 0, 1, 0) == -ENOENT);
    CHECK(append_blocks(w.disk, A, 1, 0, 1, 0, 0) == -ENOENT);
    CHECK(shard_sync(w.disk, A, 1, 0) == -ENOENT);
    CHECK(shard_seal(w.disk, A, 1, 0) == -ENOENT);
    CHECK(shard_remove(w.disk, A, 0, 1) == -ENOENT);
    CHECK(create_simple(w.disk, A, SHARD_DATA, 200) == 0);
    CHECK(append_blocks(w.disk, A, 1, 0, 3, 0, 0) == 0);
    CHECK(shard_fence(w.disk, A, 5, &info) == 0 && info.fence_epoch == 5);
    CHECK(info.length_blocks == 4);
    CHECK(append_blocks(w.disk, A, 1, 4, 3, 0, 0) == -ESTALE);
    CHECK(shard_sync(w.disk, A, 4, 4) == -ESTALE);
    CHECK(shard_fence(w.disk, A, 4, NULL) == -ESTALE);
    CHECK(shard_remove(w.disk, A, 0, 4) == -ESTALE);
    CHECK(shard_remove(w.disk, A, 12345, 5) == -ENOENT);
    CHECK(shard_remove(w.disk, A, 0, 5) == 0);
    CHECK(shard_fence(w.disk, L, 3, &info) == -ENOENT); /* leaves a tombstone (S7) */
    CHECK(create_simple(w.disk, L, SHARD_LOG, 100) == -ESTALE);
    struct shard_create create = create_of(L, SHARD_LOG, 100);
    create.epoch = 3;
    CHECK(shard_create(w.disk, &create, NULL) == 0);
    create.instance++;
    CHECK(shard_create(w.disk, &create, NULL) == -EEXIST);
    create.key.index = 100; /* beyond every code: an answer, not a crash */
    CHECK(shard_create(w.disk, &create, NULL) == -EINVAL);
}

static void test_fences_removes_and_creates_are_those_of_the_disk(void **state)
{
    with_remote_disk(64 * MIB, fences_and_removes);
}

/* --- Sizes ------------------------------------------------------------------------------------- */

enum { LONG_APPENDS = 6, LONG_BLOCKS = LONG_APPENDS * (APPEND_ENTRIES_MAX + 1) };

/* In pieces whose borders are not those of the messages. */
static void read_scattered(void)
{
    uint8_t *buf = mem_alloc_pages((size_t)LONG_BLOCKS * BLOCK_BYTES);
    uint8_t *whole = mem_alloc_pages((size_t)LONG_BLOCKS * BLOCK_BYTES);
    struct iovec iov[64];
    unsigned count = 0;
    size_t off = 0, end = (size_t)LONG_BLOCKS * BLOCK_BYTES;
    for (; count < 63; count++) {
        iov[count] = (struct iovec){buf + off, (1 + count % 5) * BLOCK_BYTES};
        off += iov[count].iov_len;
    }
    iov[count++] = (struct iovec){buf + off, end - off};
    CHECK(shard_read(w.disk, L, 0, LONG_BLOCKS, whole, NULL) == 0);
    for (unsigned i = 0; i < count; i++) {
        uint32_t at = (uint32_t)(((uint8_t *)iov[i].iov_base - buf) / BLOCK_BYTES);
        CHECK(shard_read(w.disk, L, at, (uint32_t)(iov[i].iov_len / BLOCK_BYTES), iov[i].iov_base,
                  NULL) == 0);
    }
    CHECK(memcmp(buf, whole, end) == 0);
    mem_free_pages(buf, end);
    mem_free_pages(whole, end);
}

static bool read_answered;
static struct fiber *reader;

static void scattered_done(struct shard_read *read)
{
    read_answered = true;
    fiber_wake(reader);
}

/* One read of all, into many pieces. */
static void read_into_pieces(void)
{
    struct iovec iov[LONG_BLOCKS / 7 + 1];
    uint8_t *buf = mem_alloc_pages((size_t)LONG_BLOCKS * BLOCK_BYTES);
    struct shard_entry *entries = mem_alloc(LONG_BLOCKS * sizeof(*entries));
    unsigned count = 0;
    for (uint32_t at = 0; at < LONG_BLOCKS; at += 7)
        iov[count++] = (struct iovec){
            buf + (size_t)at * BLOCK_BYTES, (size_t)MIN(7u, LONG_BLOCKS - at) * BLOCK_BYTES};
    struct shard_read read = {.disk = w.disk,
        .key = L,
        .count = LONG_BLOCKS,
        .iov = iov,
        .iov_count = count,
        .ret_entries = entries,
        .done = scattered_done};
    reader = fiber_self();
    read_answered = false;
    shard_read_submit(&read);
    CHECK(!read_answered); /* P2 */
    while (!read_answered)
        fiber_suspend();
    CHECK(read.result == 0);
    uint8_t *expected = mem_alloc_pages(BLOCK_BYTES);
    for (uint32_t i = 0; i < LONG_BLOCKS; i++) {
        CHECK((entries[i].address == UINT64_MAX) == (i % (APPEND_ENTRIES_MAX + 1) == 0));
        fill_block(expected, L, i, 0);
        CHECK(entries[i].address == UINT64_MAX ||
              memcmp(expected, buf + (size_t)i * BLOCK_BYTES, BLOCK_BYTES) == 0);
    }
    mem_free_pages(expected, BLOCK_BYTES);
    mem_free(entries);
    mem_free_pages(buf, (size_t)LONG_BLOCKS * BLOCK_BYTES);
}

static void long_reads(void)
{
    CHECK(LONG_BLOCKS > 2 * WIRE_READ_BLOCKS_MAX);
    CHECK(create_simple(w.disk, L, SHARD_LOG, LONG_BLOCKS) == 0);
    for (uint32_t i = 0; i < LONG_APPENDS; i++)
        CHECK(append_blocks(w.disk, L, 1, i * (APPEND_ENTRIES_MAX + 1), APPEND_ENTRIES_MAX, 0, 0) ==
              0);
    CHECK(read_and_compare(w.disk, L, 0, LONG_BLOCKS, 0) == 0);
    CHECK(read_and_compare(w.disk, L, 1, WIRE_READ_BLOCKS_MAX, 0) == 0);
    CHECK(read_and_compare(w.disk, L, 1, WIRE_READ_BLOCKS_MAX + 1, 0) == 0);
    CHECK(read_and_compare(w.disk, L, 1, LONG_BLOCKS, 0) == -ERANGE);
    read_scattered();
    read_into_pieces();
}

static void test_reads_longer_than_a_message_go_in_parts(void **state)
{
    with_remote_disk(64 * MIB, long_reads);
}

/* More than the service's memory for reads at once (V4). */
static struct many {
    struct shard_read read;
    struct iovec iov;
} many[80];
static unsigned many_left;

static void many_done(struct shard_read *read)
{
    CHECK(read->result == 0);
    if (--many_left == 0)
        fiber_wake(reader);
}

static void many_reads(void)
{
    CHECK(create_simple(w.disk, L, SHARD_LOG, LONG_BLOCKS) == 0);
    for (uint32_t i = 0; i < LONG_APPENDS; i++)
        CHECK(append_blocks(w.disk, L, 1, i * (APPEND_ENTRIES_MAX + 1), APPEND_ENTRIES_MAX, 0, 0) ==
              0);
    reader = fiber_self();
    many_left = ARRAY_SIZE(many);
    size_t len = WIRE_READ_BLOCKS_MAX * (size_t)BLOCK_BYTES;
    uint8_t *all = mem_alloc_pages(ARRAY_SIZE(many) * len);
    for (unsigned i = 0; i < ARRAY_SIZE(many); i++) {
        many[i].iov = (struct iovec){all + i * len, len};
        many[i].read = (struct shard_read){.disk = w.disk,
            .key = L,
            .off_blocks = i,
            .count = WIRE_READ_BLOCKS_MAX,
            .iov = &many[i].iov,
            .iov_count = 1,
            .done = many_done};
        shard_read_submit(&many[i].read);
    }
    while (many_left > 0)
        fiber_suspend();
    for (unsigned i = 1; i < ARRAY_SIZE(many); i++)
        CHECK(memcmp(all + i * len, all + i * BLOCK_BYTES, BLOCK_BYTES) == 0);
    mem_free_pages(all, ARRAY_SIZE(many) * len);
}

static void test_reads_beyond_the_memory_for_them_wait(void **state)
{
    remote_world_init(&w, 1, 64 * MIB, false);
    w.server_options.window_bytes = 1024 * MIB; /* the RPC's own bound is out of the way */
    remote_world_start_server(&w);
    run_on(w.client_node, connect_client);
    run_on(w.client_node, many_reads);
    run_on(w.client_node, disconnect_client);
    run_on(w.server_node, stop_server);
    remote_world_fini(&w);
}

enum { MANY_SHARDS = 2 * WIRE_LIST_SHARDS_MAX + 17 };

static void lists(void)
{
    struct shard_info *list;
    unsigned count;
    CHECK(shard_list(w.disk, 0, &list, &count) == 0 && count == 0);
    mem_free(list);
    for (uint64_t i = 0; i < MANY_SHARDS; i++)
        CHECK(create_simple(w.disk, key_of(1 + i % 3, i, 0), SHARD_META, 8) == 0);
    static bool seen[MANY_SHARDS];
    memset(seen, 0, sizeof(seen));
    CHECK(shard_list(w.disk, 0, &list, &count) == 0 && count == MANY_SHARDS);
    for (unsigned i = 0; i < count; i++) {
        CHECK(list[i].key.chunk < MANY_SHARDS && !seen[list[i].key.chunk]);
        CHECK(list[i].key.volume == 1 + list[i].key.chunk % 3);
        seen[list[i].key.chunk] = true;
    }
    mem_free(list);
    CHECK(shard_list(w.disk, 2, &list, &count) == 0 && count == (MANY_SHARDS + 1) / 3);
    mem_free(list);
    CHECK(shard_list(w.disk, 9, &list, &count) == 0 && count == 0);
    mem_free(list);
}

static void test_lists_come_in_pages(void **state)
{
    with_remote_disk(1024 * MIB, lists);
}

/* --- Damage ------------------------------------------------------------------------------------ */

static struct shard_read damaged_read;

static void damage_done(struct shard_read *read)
{
    read_answered = true;
    fiber_wake(reader);
}

static void find_and_flip(uint32_t block)
{
    uint8_t expected[BLOCK_BYTES], found[BLOCK_BYTES];
    fill_block(expected, A, block, 0);
    for (uint64_t off = 0; off < sim_disk_size_bytes(w.medium); off += BLOCK_BYTES) {
        sim_disk_peek(w.medium, off, found, sizeof(found));
        if (memcmp(found, expected, sizeof(found)) == 0) {
            sim_disk_flip(w.medium, off + 77, 3);
            return;
        }
    }
    CHECK(false);
}

static void damage(void)
{
    CHECK(create_simple(w.disk, A, SHARD_DATA, 200) == 0);
    CHECK(append_blocks(w.disk, A, 1, 0, 100, 0, SHARD_APPEND_DSYNC) == 0);
    find_and_flip(42);
    uint8_t *buf = mem_alloc_pages(80 * BLOCK_BYTES);
    struct iovec iov = {buf, 80 * BLOCK_BYTES};
    damaged_read = (struct shard_read){.disk = w.disk,
        .key = A,
        .off_blocks = 10,
        .count = 80,
        .iov = &iov,
        .iov_count = 1,
        .done = damage_done};
    reader = fiber_self();
    read_answered = false;
    shard_read_submit(&damaged_read);
    while (!read_answered)
        fiber_suspend();
    CHECK(damaged_read.result == -EBADMSG && damaged_read.ret_damaged_block == 42);
    CHECK(read_and_compare(w.disk, A, 43, 58, 0) == 0);
    mem_free_pages(buf, 80 * BLOCK_BYTES);
}

static void test_damage_is_reported_with_its_block(void **state)
{
    with_remote_disk(64 * MIB, damage);
}

/* --- Status ------------------------------------------------------------------------------------ */

static void status(void)
{
    struct disk_list disks;
    disk_list_init(&disks);
    disk_list_add(&disks, w.disk);
    struct disk_record unknown = w.record;
    unknown.number = 99;
    struct disk *other = remote_disk_new(w.peer, &unknown, NULL);
    disk_list_add(&disks, other);
    CHECK(w.disk->state == DISK_MISSING && w.disk->size_bytes == 0 && !w.disk->local);
    CHECK(strcmp(w.disk->class_name, "ssd") == 0 && strcmp(w.disk->node, "s") == 0);
    CHECK(remote_disks_refresh(w.peer, &disks) == 0);
    struct disk *real = disks_hold_next(w.disks, 0)->disk;
    CHECK(w.disk->size_bytes == real->size_bytes && w.disk->free_bytes == real->free_bytes);
    CHECK(w.disk->home_state == DISK_IN && other->home_state == DISK_MISSING);
    CHECK(w.peer->disk_status_ns > 0);
    CHECK(create_simple(w.disk, A, SHARD_DATA, 200) == 0);
    CHECK(remote_disks_refresh(w.peer, &disks) == 0);
    CHECK(w.disk->free_bytes == real->free_bytes && w.disk->free_bytes < w.disk->size_bytes);
    disks_release(list_entry(disks_entries(w.disks)->next, struct disks_entry, link));
    disk_list_remove(&disks, other);
    remote_disk_free(other);
    disk_list_remove(&disks, w.disk);
}

static void test_the_status_of_the_node_s_disks_is_taken_over(void **state)
{
    with_remote_disk(64 * MIB, status);
}

static void fail_disk(void)
{
    local_disk_fail(list_entry(disks_entries(w.disks)->next, struct disks_entry, link)->disk, -EIO);
}

static void prepare_failure(void)
{
    CHECK(create_simple(w.disk, A, SHARD_DATA, 200) == 0);
    CHECK(append_blocks(w.disk, A, 1, 0, 100, 0, 0) == 0);
}

static void after_failure(void)
{
    struct disk_list disks;
    disk_list_init(&disks);
    disk_list_add(&disks, w.disk);
    CHECK(append_blocks(w.disk, A, 1, 101, 1, 0, 0) == -EIO);
    CHECK(shard_sync(w.disk, A, 1, 101) == -EIO);
    CHECK(create_simple(w.disk, L, SHARD_LOG, 200) == -EIO);
    CHECK(read_and_compare(w.disk, A, 0, 101, 0) == 0); /* D2: reads go on */
    CHECK(remote_disks_refresh(w.peer, &disks) == 0 && w.disk->home_state == DISK_FAILED);
    disk_list_remove(&disks, w.disk);
}

static void test_a_failed_disk_answers_for_itself(void **state)
{
    remote_world_init(&w, 1, 64 * MIB, false);
    remote_world_start_server(&w);
    run_on(w.client_node, connect_client);
    run_on(w.client_node, prepare_failure);
    run_on(w.server_node, fail_disk);
    run_on(w.client_node, after_failure);
    run_on(w.client_node, disconnect_client);
    run_on(w.server_node, stop_server);
    remote_world_fini(&w);
}

/* --- What cannot be ---------------------------------------------------------------------------- */

static int call_raw(uint16_t method, const void *body, uint32_t len, const struct iovec *payload)
{
    uint8_t reply[64];
    struct rpc_call call = {.method = method,
        .body = body,
        .body_len_bytes = len,
        .payload = payload,
        .payload_count = payload ? 1 : 0,
        .reply_body = reply,
        .reply_body_max = sizeof(reply)};
    return peer_call(w.peer, &call);
}

static void nonsense(void)
{
    uint8_t body[WIRE_APPEND_BYTES_MAX];
    static const uint16_t methods[] = {METHOD_SHARD_CREATE, METHOD_SHARD_APPEND, METHOD_SHARD_READ,
        METHOD_SHARD_SYNC, METHOD_SHARD_SEAL, METHOD_SHARD_REMOVE, METHOD_SHARD_FENCE,
        METHOD_SHARD_STAT, METHOD_SHARD_LIST, METHOD_DISK_STATUS};
    memset(body, 0xff, sizeof(body));
    for (unsigned i = 0; i < ARRAY_SIZE(methods); i++)
        CHECK(call_raw(methods[i], body, 60, NULL) == -EINVAL);
    CHECK(create_simple(w.disk, A, SHARD_DATA, 200) == 0);
    /* A block that is not what its entry says. */
    uint8_t *block = mem_alloc_pages(BLOCK_BYTES);
    fill_block(block, A, 1, 0);
    struct iovec iov = {block, BLOCK_BYTES};
    struct shard_entry entry = {.crc = crc32c(0, block, BLOCK_BYTES) ^ 1};
    struct wire_append append = {.disk = w.disk->number, .key = A, .epoch = 1, .entry_count = 1};
    unsigned len = wire_append_encode(&append, &entry, body);
    CHECK(call_raw(METHOD_SHARD_APPEND, body, len, &iov) == -EINVAL);
    entry.crc ^= 1;
    len = wire_append_encode(&append, &entry, body);
    CHECK(call_raw(METHOD_SHARD_APPEND, body, len, NULL) == -EINVAL);
    CHECK(call_raw(METHOD_SHARD_APPEND, body, len, &iov) == 0);
    mem_free_pages(block, BLOCK_BYTES);
    CHECK(w.peer_changes == 1 && peer_connected(w.peer)); /* no connection broke over it */
}

static void test_nonsense_is_refused_and_harms_nobody(void **state)
{
    with_remote_disk(64 * MIB, nonsense);
}

static void quiet_output(void *ctx, enum log_level level, const char *line)
{
}

/* --- A peer that talks nonsense ---------------------------------------------------------------- */

/* What every method answers. */
static struct {
    int status;
    uint8_t body[WIRE_LIST_REPLY_BYTES_MAX];
    uint32_t body_len, payload_len;
} lie;

static void handle_lying(void *ctx, struct rpc_request *request)
{
    static uint8_t payload[4 * BLOCK_BYTES];
    struct iovec iov = {payload, lie.payload_len};
    fill_block(payload, A, 0, 0);
    rpc_reply(request, lie.status, lie.body, lie.body_len, &iov, lie.payload_len > 0, NULL, NULL);
}

static void assert_all_refused(void)
{
    struct shard_info info;
    struct shard_info *list;
    unsigned count;
    CHECK(create_simple(w.disk, A, SHARD_DATA, 200) == -EIO);
    CHECK(append_blocks(w.disk, A, 1, 0, 1, 0, 0) == -EIO);
    CHECK(read_and_compare(w.disk, A, 0, 1, 0) == -EIO);
    CHECK(shard_fence(w.disk, A, 1, &info) == -EIO);
    CHECK(shard_stat(w.disk, A, &info) == -EIO);
    CHECK(shard_list(w.disk, 0, &list, &count) == -EIO);
    /* Where no body is expected, one ends the connection. */
    CHECK(shard_seal(w.disk, A, 1, 1) == -EHOSTUNREACH);
    while (!peer_connected(w.peer))
        env_sleep_ns(MS);
    CHECK(shard_remove(w.disk, A, 1, 1) == -EHOSTUNREACH);
    while (!peer_connected(w.peer))
        env_sleep_ns(MS);
}

static void lies(void)
{
    struct shard_info info;
    struct disk_list disks;
    disk_list_init(&disks);
    lie.body_len = 1;
    assert_all_refused();
    CHECK(remote_disks_refresh(w.peer, &disks) == -EBADMSG);
    /* A shard, but another one. */
    struct shard_info other = {.key = L, .kind = SHARD_LOG, .code = {1, 2}, .instance = 1};
    lie.body_len = wire_info_encode(&other, lie.body);
    CHECK(shard_stat(w.disk, A, &info) == -EIO && shard_fence(w.disk, A, 1, NULL) == -EIO);
    CHECK(shard_stat(w.disk, L, &info) == 0);
    /* Blocks that are not what their entries say; too few of them. */
    uint8_t block[BLOCK_BYTES];
    fill_block(block, A, 0, 0);
    struct shard_entry right[2] = {{.crc = crc32c(0, block, sizeof(block))}}, wrong = {.crc = 1};
    lie.payload_len = BLOCK_BYTES;
    lie.body_len = wire_entries_encode(right, 1, lie.body);
    CHECK(read_and_compare(w.disk, A, 0, 1, 0) == 0);
    lie.body_len = wire_entries_encode(&wrong, 1, lie.body);
    CHECK(read_and_compare(w.disk, A, 0, 1, 0) == -EIO);
    lie.body_len = wire_entries_encode(right, 2, lie.body);
    CHECK(read_and_compare(w.disk, A, 0, 2, 0) == -EIO);
    lie.payload_len = 4 * BLOCK_BYTES; /* more than there is room for */
    CHECK(read_and_compare(w.disk, A, 0, 2, 0) == -EIO);
    lie.payload_len = lie.body_len = 0;
    CHECK(read_and_compare(w.disk, A, 0, 1, 0) == -EIO);
    lie.status = -EBADMSG; /* damage has a place */
    CHECK(read_and_compare(w.disk, A, 0, 1, 0) == -EIO);
    lie.status = -ENOSYS; /* an older one that has no such method */
    CHECK(shard_stat(w.disk, A, &info) == -EHOSTUNREACH);
    lie.status = 0;
    /* A list that never ends. */
    lie.body_len = wire_list_reply_encode(5, NULL, 0, lie.body);
    struct shard_info *list;
    unsigned count;
    CHECK(shard_list(w.disk, 0, &list, &count) == -EIO);
}

static void test_nonsense_from_a_peer_is_an_error_and_no_statement(void **state)
{
    static const uint16_t numbers[] = {METHOD_SHARD_CREATE, METHOD_SHARD_APPEND, METHOD_SHARD_READ,
        METHOD_SHARD_SYNC, METHOD_SHARD_SEAL, METHOD_SHARD_REMOVE, METHOD_SHARD_FENCE,
        METHOD_SHARD_STAT, METHOD_SHARD_LIST, METHOD_DISK_STATUS};
    struct rpc_method methods[ARRAY_SIZE(numbers)];
    for (unsigned i = 0; i < ARRAY_SIZE(numbers); i++)
        methods[i] = (struct rpc_method){numbers[i], "lie", handle_lying, 0, 1 << 20};
    memset(&lie, 0, sizeof(lie));
    remote_world_init(&w, 1, 64 * MIB, false);
    w.methods = methods;
    w.method_count = ARRAY_SIZE(methods);
    log_set_output(quiet_output, NULL);
    remote_world_start_server(&w);
    run_on(w.client_node, connect_client);
    run_on(w.client_node, lies);
    run_on(w.client_node, disconnect_client);
    run_on(w.server_node, stop_server);
    log_set_output(NULL, NULL);
    remote_world_fini(&w);
}

static void unreachable(void)
{
    struct shard_info info;
    struct shard_info *list;
    unsigned count;
    struct disk_record record = w.record;
    record.number = 99;
    struct disk *disks[] = {
        remote_disk_new(w.peer, &record, NULL), /* a disk the node does not have */
        remote_disk_new(NULL, &w.record, NULL), /* a node that nobody knows */
    };
    for (unsigned i = 0; i < ARRAY_SIZE(disks); i++) {
        struct disk *disk = disks[i];
        CHECK(create_simple(disk, A, SHARD_DATA, 200) == -EHOSTUNREACH);
        CHECK(append_blocks(disk, A, 1, 0, 1, 0, 0) == -EHOSTUNREACH);
        CHECK(read_and_compare(disk, A, 0, 1, 0) == -EHOSTUNREACH);
        CHECK(shard_sync(disk, A, 1, 1) == -EHOSTUNREACH);
        CHECK(shard_seal(disk, A, 1, 1) == -EHOSTUNREACH);
        CHECK(shard_remove(disk, A, 1, 1) == -EHOSTUNREACH);
        CHECK(shard_fence(disk, A, 1, &info) == -EHOSTUNREACH);
        CHECK(shard_stat(disk, A, &info) == -EHOSTUNREACH);
        CHECK(shard_list(disk, 0, &list, &count) == -EHOSTUNREACH);
        remote_disk_free(disk);
    }
}

static void test_what_cannot_be_reached_says_nothing_of_shards(void **state)
{
    with_remote_disk(64 * MIB, unreachable);
}

/* --- Peers ------------------------------------------------------------------------------------- */

static void removed_and_back(void)
{
    struct peer *peer = w.peer;
    CHECK(w.peer_changes == 1);
    CHECK(create_simple(w.disk, A, SHARD_DATA, 200) == 0);
    struct node_record record = {.name = "s"};
    peers_set(w.peers, &record); /* without an address: what is known stays */
    CHECK(peer_connected(peer));
    peers_remove(w.peers, "s");
    CHECK(peers_find(w.peers, "s") == NULL && list_empty(peers_all(w.peers)));
    CHECK(!peer_connected(peer));
    CHECK(append_blocks(w.disk, A, 1, 0, 1, 0, 0) == -EHOSTUNREACH);
    peers_set(w.peers, &record);
    CHECK(peers_find(w.peers, "s") == peer && !peer_connected(peer)); /* P1 */
    strcpy(record.address, "tcp:10.0.0.1:7000");
    memset(&record.uuid, 5, sizeof(record.uuid));
    peers_set(w.peers, &record);
    while (!peer_connected(peer))
        env_sleep_ns(MS);
    CHECK(append_blocks(w.disk, A, 1, 0, 1, 0, 0) == 0);
    /* Another node under its name is not there: the one that is must not be spoken to. */
    memset(&record.uuid, 6, sizeof(record.uuid));
    peers_set(w.peers, &record);
    CHECK(append_blocks(w.disk, A, 1, 2, 1, 0, 0) == -EHOSTUNREACH);
    env_sleep_ns(500 * MS);
    CHECK(!peer_connected(peer));
    memset(&record.uuid, 5, sizeof(record.uuid));
    peers_set(w.peers, &record);
    while (!peer_connected(peer))
        env_sleep_ns(MS);
    CHECK(append_blocks(w.disk, A, 1, 2, 1, 0, 0) == 0);
    strcpy(record.name, "b");
    peers_set(w.peers, &record);
    CHECK(strcmp(list_entry(peers_all(w.peers)->next, struct peer, link)->name, "b") == 0);
}

static void test_a_peer_that_was_removed_comes_back_in_its_place(void **state)
{
    with_remote_disk(64 * MIB, removed_and_back);
}

static int quiet(void **state)
{
    log_set_level(LOG_LEVEL_ERROR);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_appends_seals_and_reads_are_those_of_the_disk),
        cmocka_unit_test(test_fences_removes_and_creates_are_those_of_the_disk),
        cmocka_unit_test(test_reads_longer_than_a_message_go_in_parts),
        cmocka_unit_test(test_reads_beyond_the_memory_for_them_wait),
        cmocka_unit_test(test_lists_come_in_pages),
        cmocka_unit_test(test_damage_is_reported_with_its_block),
        cmocka_unit_test(test_the_status_of_the_node_s_disks_is_taken_over),
        cmocka_unit_test(test_a_failed_disk_answers_for_itself),
        cmocka_unit_test(test_nonsense_is_refused_and_harms_nobody),
        cmocka_unit_test(test_nonsense_from_a_peer_is_an_error_and_no_statement),
        cmocka_unit_test(test_what_cannot_be_reached_says_nothing_of_shards),
        cmocka_unit_test(test_a_peer_that_was_removed_comes_back_in_its_place),
    };
    return cmocka_run_group_tests(tests, quiet, NULL);
}
