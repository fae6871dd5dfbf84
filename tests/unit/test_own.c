/* SPDX-License-Identifier: Apache-2.0
 *
 * Who owns a volume, over disks in memory and two hosts in one process: X1-X5 and X8 of
 * blockd/volume/own.c one by one. What happens when all goes wrong at once is in sim_owner.
 */
#define FAKE_FIBERS 256
#include "fake_fixture.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "blockd/volume/map.h"
#include "blockd/volume/volume.h"
#include "common/log.h"
#include "common/mem.h"
#include "tests/lib/fake_disk.h"

#define SECOND_NS 1000000000ull
#define DISKS 4
#define SIZE_BYTES (1u << 20)

static struct store_mem *mem;
static struct store *store;
static struct fake_disk *fakes[DISKS];
static struct disk_list disks;
static uint64_t id;

static struct host {
    struct volume_host host;
    struct memory_budget budget;
    uint64_t session, valid_until_ns;
} a, b;

static uint64_t session_of(void *ctx)
{
    return ((struct host *)ctx)->session;
}

static uint64_t valid_until_ns(void *ctx)
{
    return ((struct host *)ctx)->valid_until_ns;
}

static void session_put(uint64_t session, bool there)
{
    char key[KEY_BYTES_MAX];
    struct store_op op = {there ? STORE_PUT : STORE_DELETE, key_session(session, key), "{}", 2};
    assert_int_equal(store_txn(store, NULL, 0, &op, 1, NULL), 0);
}

static void host_init(struct host *h, const char *name, uint64_t session)
{
    *h = (struct host){.session = session, .valid_until_ns = UINT64_MAX};
    memory_budget_init(&h->budget, MEMORY_BLOCKS_MIN, MEMORY_IO_MIN);
    h->host = (struct volume_host){.store = store,
        .node_name = name,
        .lease = {session_of, valid_until_ns, h},
        .disks = &disks,
        .budget = &h->budget,
        .map_cache = map_cache_new(64 * 1024),
        .row_blocks_max = 16};
    session_put(session, true);
}

static void host_fini(struct host *h)
{
    map_cache_free(h->host.map_cache);
    memory_budget_fini(&h->budget);
}

static int acquire(
    struct host *h, unsigned flags, struct volume **volume, struct volume_owner *owner)
{
    char *error = NULL;
    int r = volume_acquire(&h->host, id, flags, volume, owner, &error);
    if (r < 0)
        assert_true(error && error[0]);
    mem_free(error);
    return r;
}

static struct volume *must_acquire(struct host *h)
{
    struct volume *volume = NULL;
    assert_int_equal(acquire(h, 0, &volume, NULL), 0);
    return volume;
}

static struct fiber_group group;
static uint8_t page[BLOCK_BYTES] __attribute__((aligned(BLOCK_BYTES)));

static int read_one(struct volume *v)
{
    return volume_read(v, 0, BLOCK_BYTES, page);
}

static void setup(void)
{
    char key[KEY_BYTES_MAX], *error = NULL;
    mem = store_mem_new();
    store = store_mem_open(mem);
    disk_list_init(&disks);
    for (unsigned i = 0; i < DISKS; i++) {
        fakes[i] = fake_disk_new(i + 1, 65536);
        disk_list_add(&disks, &fakes[i]->disk);
    }
    struct pool pool = {.name = "pool", .code = {1, 1}, .shards_min = 2, .log_copies_min = 2};
    char *text = pool_encode(&pool, NULL);
    struct store_op op = {STORE_PUT, key_pool("pool", key), text, strlen(text)};
    assert_int_equal(store_txn(store, NULL, 0, &op, 1, NULL), 0);
    mem_free(text);
    host_init(&a, "a", 0xa);
    host_init(&b, "b", 0xb);
    assert_int_equal(volume_create(&a.host, "vol", SIZE_BYTES, "pool", &id, &error), 0);
}

static void teardown(void)
{
    host_fini(&a);
    host_fini(&b);
    for (unsigned i = 0; i < DISKS; i++)
        fake_disk_free(fakes[i]);
    store_close(store);
    store_mem_free(mem);
}

static struct volume_root root_now(void)
{
    struct volume_root root;
    assert_int_equal(volume_root_load(store, id, &root), 0);
    return root;
}

/* X1 */
BODY(a_living_owner_is_not_robbed)
{
    struct volume *v = must_acquire(&a), *w = NULL;
    struct volume_owner owner = {0};
    assert_int_equal(volume_epoch(v), 1);
    assert_int_equal(acquire(&b, 0, &w, &owner), -EBUSY);
    assert_string_equal(owner.node, "a");
    assert_int_equal(owner.session, 0xa);
    assert_int_equal(owner.epoch, 1);
    assert_int_equal(root_now().epoch, 1);
    session_put(0xa, false);
    b.valid_until_ns = 0; /* a taker without a lease would be robbed in its turn */
    assert_int_equal(acquire(&b, 0, &w, &owner), -EHOSTUNREACH);
    b.valid_until_ns = UINT64_MAX;
    w = must_acquire(&b);
    assert_int_equal(volume_epoch(w), 2);
    assert_int_equal(volume_write(v, 0, BLOCK_BYTES, page, 0, (struct request_id){0}), -ESHUTDOWN);
    assert_true(volume_halted(v));
    assert_int_equal(read_one(v), -ESHUTDOWN);
    volume_close(v);
    assert_int_equal(read_one(w), 0);
    assert_int_equal(volume_close(w), 0);
    assert_int_equal(root_now().state, VOLUME_RELEASED);
}

BODY(a_process_takes_its_own_volume_again)
{
    struct volume *v = must_acquire(&a);
    store_mem_set_fault(mem, -EHOSTUNREACH, 0);
    assert_true(volume_close(v) < 0); /* not released */
    store_mem_set_fault(mem, 0, 0);
    assert_int_equal(root_now().state, VOLUME_OWNED);
    v = must_acquire(&a);
    assert_int_equal(volume_epoch(v), 2);
    assert_int_equal(volume_close(v), 0);
}

/* X4, S20 */
BODY(a_volume_that_is_handed_over_waits_for_its_successor)
{
    struct volume *v = must_acquire(&a), *w = NULL;
    struct volume_owner owner = {0};
    uint64_t pause_ns = 0;
    memset(page, 7, sizeof(page));
    assert_int_equal(volume_write(v, 0, BLOCK_BYTES, page, 0, (struct request_id){0}), 0);
    assert_int_equal(volume_hand_over(v, "b", &pause_ns), 0);
    assert_true(volume_halted(v));
    assert_int_equal(volume_write(v, 0, BLOCK_BYTES, page, 0, (struct request_id){0}), -ESHUTDOWN);
    assert_int_equal(read_one(v), -ESHUTDOWN);
    assert_int_equal(volume_hand_over(v, "b", &pause_ns), -ESHUTDOWN);
    assert_int_equal(volume_close(v), 0);
    assert_int_equal(acquire(&a, 0, &w, &owner), -EBUSY);
    assert_string_equal(owner.node, "b");
    assert_int_equal(owner.session, 0);
    w = must_acquire(&b);
    assert_string_equal(root_now().successor, "");
    memset(page, 0, sizeof(page));
    assert_int_equal(read_one(w), 0);
    assert_int_equal(page[0], 7);
    assert_int_equal(volume_hand_over(w, "c", NULL), 0);
    volume_close(w);
    assert_int_equal(acquire(&a, 0, &v, &owner), -EBUSY);
    assert_int_equal(acquire(&a, VOLUME_ACQUIRE_FROM_SUCCESSOR, &v, &owner), 0);
    assert_int_equal(volume_close(v), 0);
}

static struct volume *reader_volume;

static void reader(void *arg)
{
    static uint8_t bufs[64][BLOCK_BYTES] __attribute__((aligned(BLOCK_BYTES)));
    fiber_group_done(&group, volume_read(reader_volume, 0, BLOCK_BYTES, bufs[(uintptr_t)arg]));
}

static uint64_t noops_of_reads(struct volume *v, unsigned count)
{
    uint64_t before = volume_stats(v)->read_noops;
    reader_volume = v;
    fiber_group_init(&group);
    fiber_group_add(&group, count);
    for (uintptr_t i = 0; i < count; i++)
        fiber_spawn("reader", reader, (void *)i);
    assert_int_equal(fiber_group_wait(&group), 0);
    return volume_stats(v)->read_noops - before;
}

struct late_write {
    struct volume *volume;
    unsigned len_bytes;
    bool given_up;
    int result;
};

static void write_late(void *arg)
{
    static uint8_t old[64 * BLOCK_BYTES] __attribute__((aligned(BLOCK_BYTES)));
    struct late_write *write = arg;
    memset(old, 2, sizeof(old));
    write->result = volume_write(write->volume, 0, write->len_bytes, old, VOLUME_STABLE,
        (struct request_id){7, 1, 1, &write->given_up});
    fiber_group_done(&group, 0);
}

/* E4, S19: a write that waits for disks; its connection breaks, the client sends it again in a new session,
 * then writes the block anew. The first one, had it its place now, would undo that. */
static void overtake(struct volume *v, unsigned len_bytes)
{
    struct late_write write = {.volume = v, .len_bytes = len_bytes};
    memset(page, 1, sizeof(page));
    assert_int_equal(volume_write(v, 0, BLOCK_BYTES, page, 0, (struct request_id){0}), 0);
    assert_int_equal(volume_destage(v), 0);
    for (unsigned i = 0; i < DISKS; i++)
        fakes[i]->latency_ns = SECOND_NS;
    fiber_group_init(&group);
    fiber_group_add(&group, 1);
    fiber_spawn("late", write_late, &write);
    env_sleep_ns(SECOND_NS / 2);
    assert_int_equal(group.pending, 1);
    write.given_up = true;
    for (unsigned i = 0; i < DISKS; i++)
        fakes[i]->latency_ns = 0;
    for (uint8_t tag = 2; tag <= 3; tag++) {
        memset(page, tag, sizeof(page));
        assert_int_equal(
            volume_write(v, 0, BLOCK_BYTES, page, 0, (struct request_id){len_bytes, tag, tag}), 0);
    }
    assert_int_equal(fiber_group_wait(&group), 0);
    assert_int_equal(write.result, -ECANCELED);
    assert_int_equal(read_one(v), 0);
    assert_int_equal(page[0], 3);
}

BODY(a_write_that_was_given_up_does_not_undo_a_later_one)
{
    struct volume *v = must_acquire(&a);
    overtake(v, 512);
    assert_int_equal(volume_close(v), 0);
    v = must_acquire(&a);
    overtake(v, 64 * BLOCK_BYTES); /* waits for a chunk */
    overtake(v, 63 * BLOCK_BYTES); /* has one, waits for its row */
    assert_int_equal(volume_close(v), 0);
}

/* X3 */
BODY(without_a_lease_reads_take_a_place_in_the_log)
{
    struct volume *v = must_acquire(&a);
    struct volume_extent extent;
    unsigned count;
    assert_int_equal(noops_of_reads(v, 5), 0);
    a.valid_until_ns = env_boottime_ns(); /* just over */
    assert_int_equal(noops_of_reads(v, 1), 1);
    uint64_t noops = noops_of_reads(v, 64);
    assert_in_range(noops, 1, 3); /* one serves all that came before it was sent */
    noops = volume_stats(v)->read_noops;
    assert_int_equal(volume_flush(v), 0);
    assert_int_equal(volume_block_status(v, 0, BLOCK_BYTES, &extent, 1, &count), 0);
    assert_int_equal(volume_stats(v)->read_noops - noops, 2);
    a.valid_until_ns = UINT64_MAX;
    assert_int_equal(noops_of_reads(v, 5), 0);
    /* A new session says nothing of the time between: the root has to be asserted first. */
    session_put(0xa, false);
    a.session = 0xaa;
    session_put(0xaa, true);
    assert_true(noops_of_reads(v, 5) > 0);
    assert_int_equal(volume_session_renewed(v), 0);
    assert_int_equal(noops_of_reads(v, 5), 0);
    assert_int_equal(root_now().owner_session, 0xaa);
    assert_int_equal(root_now().epoch, 1);
    assert_int_equal(volume_close(v), 0);
}

/* All disks but one: no log can be made. */
static void disks_away(struct volume *v, bool away)
{
    for (unsigned i = 1; i < DISKS; i++) {
        fakes[i]->error = away ? -EHOSTUNREACH : 0;
        fakes[i]->disk.state = away ? DISK_MISSING : DISK_IN;
        fakes[i]->disk.missing_since_ns = away ? env_now_ns() : 0;
    }
    volume_disk_changed(v);
}

/* A read without a lease, and its record has nowhere to go. */
static struct volume *with_a_read_that_waits(void)
{
    struct volume *v = must_acquire(&a);
    assert_int_equal(volume_write(v, 0, BLOCK_BYTES, page, 0, (struct request_id){0}), 0);
    a.valid_until_ns = env_boottime_ns();
    disks_away(v, true);
    reader_volume = v;
    fiber_group_init(&group);
    fiber_group_add(&group, 1);
    fiber_spawn("reader", reader, NULL);
    env_sleep_ns(SECOND_NS);
    assert_int_equal(group.pending, 1);
    return v;
}

/* X3: when the lease is back it need not wait any more; what comes later does not either. */
BODY(a_read_waits_for_its_record_or_for_the_lease)
{
    struct volume *v = with_a_read_that_waits();
    uint64_t noops = volume_stats(v)->read_noops;
    a.valid_until_ns = UINT64_MAX;
    env_sleep_ns(SECOND_NS / 10);
    assert_int_equal(group.pending, 0);
    assert_int_equal(group.error, 0);
    assert_int_equal(noops_of_reads(v, 5), 0);
    /* Over again: it is still the same record that they wait for. */
    a.valid_until_ns = env_boottime_ns();
    fiber_group_init(&group);
    fiber_group_add(&group, 1);
    fiber_spawn("reader", reader, NULL);
    env_sleep_ns(SECOND_NS);
    assert_int_equal(group.pending, 1);
    assert_int_equal(volume_stats(v)->read_noops, noops);
    disks_away(v, false);
    assert_int_equal(fiber_group_wait(&group), 0);
    assert_int_equal(noops_of_reads(v, 1), 1);
    a.valid_until_ns = UINT64_MAX;
    assert_int_equal(volume_close(v), 0);
}

/* The record is still there when nobody waits for it: for a close, a handover, a halt. */
BODY(a_record_that_no_read_waits_for_any_more_ends_with_its_volume)
{
    for (unsigned how = 0; how < 4; how++) {
        struct volume *v = with_a_read_that_waits();
        if (how < 3) {
            a.valid_until_ns = UINT64_MAX;
            assert_int_equal(fiber_group_wait(&group), 0);
        }
        uint64_t begin_ns = env_now_ns();
        if (how == 1)
            assert_int_equal(volume_hand_over(v, "a", NULL), 0);
        if (how == 2) /* it gets on */
            disks_away(v, false);
        int r = volume_close(v);
        assert_true(how == 1 || how == 2 ? r == 0 : r < 0);
        assert_true(env_now_ns() - begin_ns < 30 * SECOND_NS);
        if (how == 3)
            assert_int_equal(fiber_group_wait(&group), -ESHUTDOWN);
        a.valid_until_ns = UINT64_MAX;
        for (unsigned i = 0; i < DISKS; i++) {
            fakes[i]->error = 0;
            fakes[i]->disk.state = DISK_IN;
        }
    }
    assert_int_equal(volume_close(must_acquire(&a)), 0);
}

BODY(no_ops_alone_do_not_fill_the_log)
{
    struct volume_info info;
    a.host.log_bytes_max = 4 << 20;
    struct volume *v = must_acquire(&a);
    a.valid_until_ns = 0;
    for (unsigned i = 0; i < 3000; i++)
        assert_int_equal(read_one(v), 0);
    volume_get_info(v, &info);
    assert_true(info.log_bytes <= 8 << 20);
    a.valid_until_ns = UINT64_MAX;
    assert_int_equal(volume_write(v, 0, BLOCK_BYTES, page, 0, (struct request_id){0}), 0);
    assert_int_equal(volume_close(v), 0);
}

BODY(a_new_session_finds_that_somebody_else_has_it)
{
    struct volume *v = must_acquire(&a);
    session_put(0xa, false);
    a.session = 0xaa;
    session_put(0xaa, true);
    struct volume *w = must_acquire(&b);
    assert_int_equal(volume_session_renewed(v), -ESHUTDOWN);
    assert_true(volume_halted(v));
    volume_close(v);
    assert_int_equal(volume_close(w), 0);
}

BODY(an_unknown_outcome_is_resolved_by_a_later_one)
{
    struct volume *v = NULL, *w = NULL;
    struct volume_owner owner;
    store_mem_set_fault(mem, -ETIMEDOUT, 1000000);
    assert_int_equal(acquire(&a, 0, &v, &owner), -ETIMEDOUT);
    store_mem_set_fault(mem, 0, 0);
    v = must_acquire(&a); /* also if it had become ours */
    assert_int_equal(acquire(&b, 0, &w, &owner), -EBUSY);
    store_mem_set_fault(mem, -ETIMEDOUT, 1000000);
    assert_int_equal(volume_session_renewed(v), -EAGAIN);
    assert_int_equal(volume_hand_over(v, "b", NULL), -EHOSTUNREACH); /* not without a store */
    assert_false(volume_halted(v));
    assert_true(volume_close(v) < 0);
    store_mem_set_fault(mem, 0, 0);
    /* Released or not, one of the two has it now. */
    int r = acquire(&b, 0, &w, &owner);
    if (r == -EBUSY)
        w = must_acquire(&a);
    assert_int_equal(volume_close(w), 0);
}

static void store_goes_away(void *arg)
{
    env_sleep_ns(*(uint64_t *)arg);
    store_mem_set_fault(mem, -ETIMEDOUT, 0);
}

/* X4, S13: the release was sent and has no answer. With a lease, which another owner would not wait for. */
BODY(a_release_without_an_answer_ends_it_all_the_same)
{
    struct volume *v = must_acquire(&a), *w = NULL;
    uint64_t delay_ns = SECOND_NS / 10, until_ns = delay_ns + delay_ns / 4;
    memset(page, 4, sizeof(page));
    assert_int_equal(volume_write(v, 0, BLOCK_BYTES, page, 0, (struct request_id){0}), 0);
    assert_int_equal(volume_destage(v), 0);
    store_mem_set_fault(mem, 0, delay_ns); /* the root is read, then the release is sent */
    fiber_spawn("store", store_goes_away, &until_ns);
    assert_int_equal(volume_hand_over(v, "b", NULL), -ETIMEDOUT);
    store_mem_set_fault(mem, 0, 0);
    assert_int_equal(root_now().state, VOLUME_RELEASED); /* of so many tries one got through */
    assert_true(volume_halted(v));
    assert_int_equal(read_one(v), -ESHUTDOWN);
    assert_int_equal(volume_flush(v), -ESHUTDOWN);
    w = must_acquire(&b);
    memset(page, 5, sizeof(page));
    assert_int_equal(volume_write(w, 0, BLOCK_BYTES, page, 0, (struct request_id){0}), 0);
    assert_int_equal(read_one(v), -ESHUTDOWN);
    volume_close(v);
    assert_int_equal(volume_close(w), 0);
}

/* A deposed owner that does not know it yet: what it looks for its successor has freed. That is no error of the disk's,
 * of a write of a part of a block neither: the client asks the successor. */
BODY(what_a_deposed_owner_does_not_find_is_no_error)
{
    struct volume *v = must_acquire(&a);
    memset(page, 1, sizeof(page));
    assert_int_equal(volume_write(v, 0, BLOCK_BYTES, page, 0, (struct request_id){0}), 0);
    assert_int_equal(volume_destage(v), 0);
    session_put(0xa, false); /* the store has forgotten it; its own clock is behind */
    struct volume *w = must_acquire(&b);
    memset(page, 2, sizeof(page));
    assert_int_equal(volume_write(w, 0, BLOCK_BYTES, page, 0, (struct request_id){0}), 0);
    assert_int_equal(volume_clean(w), 0);
    assert_int_equal(volume_write(v, 512, 512, page, 0, (struct request_id){0}), -ESHUTDOWN);
    assert_true(volume_halted(v));
    volume_close(v);
    assert_int_equal(volume_close(w), 0);
}

static unsigned manifest_shards(const struct volume_root *root)
{
    unsigned there = 0;
    for (unsigned i = 0; i < root->manifest.count; i++)
        there += fake_disk_has(fakes[root->manifest.places[i].disk - 1],
            (struct shard_key){.volume = id, .chunk = root->manifest.chunk, .index = (uint8_t)i});
    return there;
}

static void write_and_destage(void *arg)
{
    struct volume *v = arg;
    int r = volume_write(v, 0, BLOCK_BYTES, page, 0, (struct request_id){0});
    fiber_group_done(&group, r == 0 ? volume_destage(v) : r);
}

/* N3, S13: the root names the new manifest or still the old one, and its owner dies before it knows. */
BODY(the_old_manifest_stays_until_the_new_one_is_known_to_be_current)
{
    unsigned switched = 0;
    for (unsigned i = 0; i < 12; i++) {
        session_put(0xa, true);
        struct volume *v = must_acquire(&a);
        struct volume_root before = root_now();
        store_mem_set_fault(mem, -ETIMEDOUT, 2 * SECOND_NS);
        fakes[before.manifest.places[0].disk - 1]->error = -EIO; /* a copy fails */
        memset(page, 10 + (int)i, sizeof(page));
        fiber_group_init(&group);
        fiber_group_add(&group, 1);
        fiber_spawn("write", write_and_destage, v);
        env_sleep_ns(SECOND_NS * 3); /* one CAS without an answer */
        fakes[before.manifest.places[0].disk - 1]->error = 0;
        assert_int_equal(manifest_shards(&before), 2);
        store_mem_set_fault(mem, 0, 0);
        struct volume_root now = root_now();
        switched += now.manifest.chunk != before.manifest.chunk;
        session_put(0xa, false);
        struct volume *w = must_acquire(&b);
        int r = fiber_group_wait(&group);
        assert_true(r == 0 || r == -ESHUTDOWN);
        volume_close(v);
        assert_int_equal(volume_close(w), 0);
    }
    assert_in_range(switched, 1, 11);
}

/* X5 */
BODY(a_store_that_was_set_back_halts_the_volume)
{
    struct volume *v = must_acquire(&a);
    assert_int_equal(volume_close(v), 0);
    struct volume_root root = root_now();
    for (unsigned i = 0; i < root.manifest.count; i++) {
        struct shard_key key = {.volume = id, .chunk = root.manifest.chunk, .index = (uint8_t)i};
        struct disk *disk = volume_host_disk(&a.host, root.manifest.places[i].disk);
        assert_int_equal(shard_fence(disk, key, 40, NULL), 0);
    }
    assert_int_equal(acquire(&a, 0, &v, NULL), -EUCLEAN);
    root = root_now();
    assert_int_equal(root.state, VOLUME_HALTED);
    for (unsigned i = 0; i < 50; i++) /* it does not creep up to the fence */
        assert_int_equal(acquire(&b, 0, &v, NULL), -EUCLEAN);
    assert_int_equal(root_now().epoch, root.epoch);
}

/* X5: another node came to the same epoch before the store was set back. */
BODY(a_fence_of_the_very_epoch_halts_the_volume)
{
    struct volume *v = must_acquire(&a);
    assert_int_equal(volume_close(v), 0);
    struct volume_root root = root_now();
    struct shard_key key = {.volume = id, .chunk = root.manifest.chunk, .index = 1};
    struct disk *disk = volume_host_disk(&a.host, root.manifest.places[1].disk);
    assert_int_equal(shard_fence(disk, key, root.epoch + 1, NULL), 0);
    assert_int_equal(acquire(&a, 0, &v, NULL), -EUCLEAN);
    assert_int_equal(root_now().state, VOLUME_HALTED);
}

/* The same, seen at a log: the manifest's copy was out of reach then. */
BODY(a_log_fenced_by_the_very_epoch_halts_the_volume)
{
    struct volume *v = must_acquire(&a);
    assert_int_equal(volume_write(v, 0, BLOCK_BYTES, page, 0, (struct request_id){0}), 0);
    session_put(0xa, false);
    unsigned fenced = 0;
    for (unsigned i = 0; i < DISKS; i++) {
        struct shard_info *list;
        unsigned count;
        assert_int_equal(shard_list(&fakes[i]->disk, id, &list, &count), 0);
        for (unsigned n = 0; n < count; n++)
            if (list[n].kind == SHARD_LOG)
                fenced += shard_fence(&fakes[i]->disk, list[n].key, 2, NULL) == 0;
        mem_free(list);
    }
    assert_true(fenced > 0);
    struct volume *w = NULL;
    assert_int_equal(acquire(&b, 0, &w, NULL), -EUCLEAN);
    assert_int_equal(root_now().state, VOLUME_HALTED);
    volume_close(v);
}

/* X8 */
BODY(opens_without_disks_use_up_no_epoch)
{
    struct volume *v = must_acquire(&a), *w = NULL;
    struct volume_owner owner = {0};
    struct volume_root root = root_now();
    for (unsigned i = 0; i < DISKS; i++)
        fakes[i]->disk.state = DISK_MISSING;
    assert_int_equal(acquire(&b, 0, &w, &owner), -EBUSY); /* to be forwarded to */
    assert_string_equal(owner.node, "a");
    session_put(0xa, false);
    for (unsigned i = 0; i < 50; i++)
        assert_int_equal(acquire(&b, 0, &w, &owner), -EHOSTUNREACH);
    assert_int_equal(root_now().epoch, root.epoch);
    for (unsigned i = 0; i < DISKS; i++)
        fakes[i]->disk.state = DISK_IN;
    w = must_acquire(&b);
    assert_int_equal(volume_epoch(w), root.epoch + 1);
    volume_close(v);
    assert_int_equal(volume_close(w), 0);
}

/* X3, H5: another node has the volume, and it has grown there. */
BODY(beyond_the_end_says_only_who_still_owns_it)
{
    struct volume *v = must_acquire(&a), *w;
    struct volume_extent extent;
    unsigned count;
    uint64_t end = root_now().size_bytes;
    assert_int_equal(volume_write(v, end, BLOCK_BYTES, page, 0, (struct request_id){0}), -EINVAL);
    assert_int_equal(volume_read(v, end, BLOCK_BYTES, page), -EINVAL);
    a.valid_until_ns = 0;
    session_put(0xa, false);
    w = must_acquire(&b);
    assert_int_equal(volume_grow(w, 2 * end), 0);
    assert_int_equal(volume_write(w, end, BLOCK_BYTES, page, 0, (struct request_id){0}), 0);
    assert_int_equal(volume_block_status(v, end, BLOCK_BYTES, &extent, 1, &count), -ESHUTDOWN);
    assert_int_equal(
        volume_write(v, end, BLOCK_BYTES, page, 0, (struct request_id){0}), -ESHUTDOWN);
    assert_int_equal(volume_read(v, end, BLOCK_BYTES, page), -ESHUTDOWN);
    volume_close(v);
    assert_int_equal(volume_close(w), 0);
    a.valid_until_ns = UINT64_MAX;
}

int main(void)
{
    setenv("CMOCKA_TEST_ABORT", "1", 1); /* no way back from a failed assertion inside a fiber */
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_living_owner_is_not_robbed),
        cmocka_unit_test(a_process_takes_its_own_volume_again),
        cmocka_unit_test(a_volume_that_is_handed_over_waits_for_its_successor),
        cmocka_unit_test(a_write_that_was_given_up_does_not_undo_a_later_one),
        cmocka_unit_test(without_a_lease_reads_take_a_place_in_the_log),
        cmocka_unit_test(a_read_waits_for_its_record_or_for_the_lease),
        cmocka_unit_test(a_record_that_no_read_waits_for_any_more_ends_with_its_volume),
        cmocka_unit_test(no_ops_alone_do_not_fill_the_log),
        cmocka_unit_test(a_new_session_finds_that_somebody_else_has_it),
        cmocka_unit_test(an_unknown_outcome_is_resolved_by_a_later_one),
        cmocka_unit_test(a_release_without_an_answer_ends_it_all_the_same),
        cmocka_unit_test(what_a_deposed_owner_does_not_find_is_no_error),
        cmocka_unit_test(the_old_manifest_stays_until_the_new_one_is_known_to_be_current),
        cmocka_unit_test(a_store_that_was_set_back_halts_the_volume),
        cmocka_unit_test(a_fence_of_the_very_epoch_halts_the_volume),
        cmocka_unit_test(a_log_fenced_by_the_very_epoch_halts_the_volume),
        cmocka_unit_test(opens_without_disks_use_up_no_epoch),
        cmocka_unit_test(beyond_the_end_says_only_who_still_owns_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
