/* SPDX-License-Identifier: Apache-2.0
 *
 * The shard store alone, crashed at every write. Several lanes of shards go through their lives at
 * once: created, appended to (pipelined, some durable), synced, fenced, sealed, removed. At write N
 * the process is killed or the power fails, the write having happened, half happened or not. What
 * was answered before must hold afterwards: created, sealed, fenced and removed are for ever; synced
 * appends are there after a power cut, answered ones after a kill; what else is found is a prefix of
 * what was sent; every byte is what was written at its place.
 *
 *   test_local_disk_crash [SEED [WRITE]]   repeats one seed, or one crash of it
 */
#include "disk_fixture.h"

#include <stdio.h>

#include "common/rng.h"

#define MIB (1ull << 20)
#define LANES 4
#define SHARDS_MAX 12  /* a lane */
#define APPENDS_MAX 24 /* a shard */

enum state { NONE, OPEN, SEALED, REMOVED, TOMBSTONE };
enum op { IDLE, CREATE, SEAL, REMOVE, FENCE };

/* What was asked for and answered; outside the machine's memory. */
struct shard {
    struct shard_key key;
    enum shard_kind kind;
    enum state state; /* as answered */
    enum op pending;  /* asked, not answered */
    uint32_t epoch;   /* the owner's now */
    uint32_t created; /* epoch of creation */
    uint32_t fence;   /* answered */
    uint32_t length;  /* sent */
    uint32_t synced;  /* answered as durable */
    uint32_t sealed_length;
    unsigned append_count;
    struct {
        uint32_t off, count;
        bool answered, dsync;
    } appends[APPENDS_MAX];
};

struct lane {
    unsigned number;
    struct rng rng;
    struct shard shards[SHARDS_MAX];
    unsigned shard_count;
    bool done;
};

static struct lane lanes[LANES];
static struct fixture fixture;
static struct sim_image *formatted;

/* --- The workload ----------------------------------------------------------------------------- */

struct sent {
    struct shard_append append;
    struct shard *shard;
    unsigned number;
    struct shard_entry entries[8];
    struct iovec iov;
    struct fiber *fiber;
    unsigned *pending;
};

static void advance_synced(struct shard *s)
{
    for (unsigned i = 0; i < s->append_count; i++) {
        if (s->appends[i].answered && s->appends[i].dsync && s->appends[i].off == s->synced)
            s->synced += 1 + s->appends[i].count;
    }
}

static void append_answered(struct shard_append *append)
{
    struct sent *sent = container_of(append, struct sent, append);
    CHECK_MSG(append->result == 0, "append: %d", append->result);
    sent->shard->appends[sent->number].answered = true;
    advance_synced(sent->shard);
    if (--*sent->pending == 0)
        fiber_wake(sent->fiber);
}

static void send(struct sent *sent, struct shard *s, uint32_t count, bool dsync, uint8_t *buf)
{
    sent->shard = s;
    sent->number = s->append_count++;
    s->appends[sent->number].off = s->length;
    s->appends[sent->number].count = count;
    s->appends[sent->number].dsync = dsync;
    s->appends[sent->number].answered = false;
    for (uint32_t i = 0; i < count; i++) {
        fill_block(buf + i * BLOCK_BYTES, s->key, s->length + 1 + i, 0);
        sent->entries[i] = (struct shard_entry){
            .address = i, .crc = crc32c(0, buf + i * BLOCK_BYTES, BLOCK_BYTES)};
    }
    sent->iov = (struct iovec){.iov_base = buf, .iov_len = count * BLOCK_BYTES};
    sent->append = (struct shard_append){
        .disk = fixture.disk,
        .key = s->key,
        .epoch = s->epoch,
        .off_blocks = s->length,
        .entries = sent->entries,
        .entry_count = count,
        .payload = &sent->iov,
        .payload_count = count > 0,
        .flags = dsync ? SHARD_APPEND_DSYNC : 0,
        .done = append_answered,
    };
    s->length += 1 + count;
    shard_append_submit(&sent->append);
}

static void append_some(struct lane *lane, struct shard *s)
{
    struct sent sent[4];
    unsigned pending = 0, count = 1 + (unsigned)rng_below(&lane->rng, 4);
    count = MIN(count, APPENDS_MAX - s->append_count);
    uint8_t *buf = mem_alloc_pages(4 * 8 * BLOCK_BYTES);
    for (unsigned i = 0; i < count; i++) {
        pending++;
        sent[i].fiber = fiber_self();
        sent[i].pending = &pending;
        uint32_t blocks = (uint32_t)rng_below(&lane->rng, 9);
        send(&sent[i], s, blocks, rng_one_in(&lane->rng, 3), buf + i * 8 * BLOCK_BYTES);
    }
    while (pending > 0)
        fiber_suspend();
    mem_free_pages(buf, 4 * 8 * BLOCK_BYTES);
}

static void must(int r, const char *what)
{
    CHECK_MSG(r == 0, "%s: %d", what, r);
}

static void do_create(struct lane *lane, struct shard *s)
{
    struct shard_create create = create_of(s->key, s->kind, 250);
    create.epoch = s->created;
    create.instance = 1 + s->key.chunk;
    create.priority = SHARD_PRIORITY_SYSTEM;
    s->pending = CREATE;
    must(shard_create(fixture.disk, &create, NULL), "create");
    s->pending = IDLE;
    s->state = OPEN;
}

static void do_fence(struct lane *lane, struct shard *s, int wanted)
{
    s->pending = FENCE;
    s->epoch++;
    int r = shard_fence(fixture.disk, s->key, s->epoch, NULL);
    CHECK_MSG(r == wanted, "fence: %d", r);
    s->fence = s->epoch;
    s->pending = IDLE;
}

static void do_seal(struct lane *lane, struct shard *s)
{
    /* Mostly all of it, sometimes less. */
    s->sealed_length = s->length;
    if (s->append_count > 0 && rng_one_in(&lane->rng, 3))
        s->sealed_length = s->appends[rng_below(&lane->rng, s->append_count)].off;
    s->pending = SEAL;
    must(shard_seal(fixture.disk, s->key, s->epoch, s->sealed_length), "seal");
    s->pending = IDLE;
    s->state = SEALED;
}

static void one_life(struct lane *lane, struct shard *s)
{
    if (rng_one_in(&lane->rng, 6)) {
        do_fence(lane, s, -ENOENT);
        s->state = TOMBSTONE;
        if (rng_one_in(&lane->rng, 2))
            return;
        s->created = s->epoch;
    }
    do_create(lane, s);
    unsigned rounds = (unsigned)rng_below(&lane->rng, 5);
    for (unsigned i = 0; i < rounds && s->append_count < APPENDS_MAX; i++) {
        append_some(lane, s);
        if (rng_one_in(&lane->rng, 2)) {
            uint32_t length = s->length;
            must(shard_sync(fixture.disk, s->key, s->epoch, length), "sync");
            s->synced = MAX(s->synced, length);
        }
        if (rng_one_in(&lane->rng, 6))
            do_fence(lane, s, 0);
        must(s->length > 0 ? read_and_compare(fixture.disk, s->key, 0, s->length, 0) : 0, "read");
    }
    if (rng_one_in(&lane->rng, 3))
        return;
    do_seal(lane, s);
    if (rng_one_in(&lane->rng, 2))
        return;
    s->pending = REMOVE;
    must(shard_remove(fixture.disk, s->key, 0, s->epoch), "remove");
    s->pending = IDLE;
    s->state = REMOVED;
}

static void lane_main(void *arg)
{
    static const enum shard_kind kinds[] = {SHARD_DATA, SHARD_LOG, SHARD_META, SHARD_MANIFEST};
    struct lane *lane = arg;
    while (lane->shard_count < SHARDS_MAX) {
        struct shard *s = &lane->shards[lane->shard_count++];
        s->key = key_of(lane->number + 1, lane->shard_count, (uint8_t)rng_below(&lane->rng, 3));
        s->kind = kinds[rng_below(&lane->rng, 4)];
        s->epoch = s->created = 1;
        one_life(lane, s);
    }
    lane->done = true;
}

static void workload(struct fixture *f)
{
    fixture_open(f);
    for (unsigned i = 0; i < LANES; i++)
        fiber_spawn("lane", lane_main, &lanes[i]);
    for (unsigned i = 0; i < LANES; i++) {
        while (!lanes[i].done)
            env_sleep_ns(1000000);
    }
    fixture_close(f);
}

/* --- What must hold afterwards ---------------------------------------------------------------- */

static uint32_t answered_length(const struct shard *s)
{
    uint32_t length = 0;
    for (unsigned i = 0; i < s->append_count && s->appends[i].answered; i++)
        length = s->appends[i].off + 1 + s->appends[i].count;
    return length;
}

static bool is_boundary(const struct shard *s, uint32_t length)
{
    bool found = length == s->length;
    for (unsigned i = 0; i < s->append_count; i++)
        found = found || s->appends[i].off == length;
    return found;
}

static bool last_check;

static void expect_open(const struct shard *s, const struct shard_info *info, bool power_cut)
{
    CHECK_MSG(s->state == OPEN || (s->pending == CREATE && s->append_count == 0), "open again");
    CHECK(info->suspect == power_cut);
    uint32_t least = power_cut ? s->synced : MAX(s->synced, answered_length(s));
    if (s->pending ==
        SEAL) /* what lies beyond the cut is void from the moment the seal is asked for (D14) */
        least = MIN(least, s->sealed_length);
    CHECK_MSG(info->length_blocks >= least, "length %u, answered %u", info->length_blocks, least);
    CHECK_MSG(is_boundary(s, info->length_blocks), "length %u is no boundary", info->length_blocks);
    if (info->length_blocks > 0)
        must(read_and_compare(fixture.disk, s->key, 0, info->length_blocks, 0), "read open");
    if (!last_check)
        return; /* it must not find what it has written itself */
    int r = append_blocks(fixture.disk, s->key, s->epoch + 5, info->length_blocks, 3, 0, 0);
    bool was_cut = r == -EROFS && s->pending == SEAL && info->length_blocks == s->sealed_length;
    CHECK_MSG(was_cut || r == (power_cut ? -EREMOTEIO : 0), "append after: %d", r);
}

static void expect_sealed(const struct shard *s, const struct shard_info *info)
{
    CHECK_MSG(s->state == SEALED || s->pending == SEAL, "sealed by itself");
    CHECK(info->length_blocks == s->sealed_length);
    if (info->length_blocks > 0)
        must(read_and_compare(fixture.disk, s->key, 0, info->length_blocks, 0), "read sealed");
}

static void check_tombstone(const struct shard *s)
{
    struct shard_create create = create_of(s->key, s->kind, 15);
    create.instance = 999;
    create.epoch = s->fence - 1;
    if (create.epoch > 0)
        CHECK(shard_create(fixture.disk, &create, NULL) == -ESTALE);
}

static void check_shard(const struct shard *s, bool power_cut)
{
    struct shard_info info;
    int r = shard_stat(fixture.disk, s->key, &info);
    bool may_be_absent = s->state != OPEN && s->state != SEALED;
    bool must_be_absent = s->state == REMOVED || (may_be_absent && s->pending != CREATE);
    if (s->pending == REMOVE)
        may_be_absent = true;
    if (r == -ENOENT) {
        CHECK_MSG(may_be_absent, "volume %llu chunk %llu: state %d, pending %d: gone",
            (unsigned long long)s->key.volume, (unsigned long long)s->key.chunk, s->state,
            s->pending);
        if (s->state == TOMBSTONE)
            check_tombstone(s);
        return;
    }
    must(r, "stat");
    CHECK_MSG(!must_be_absent, "there again");
    CHECK(info.fence_epoch >= s->fence && info.fence_epoch <= s->epoch);
    CHECK(!info.damaged);
    if (info.sealed)
        expect_sealed(s, &info);
    else
        expect_open(s, &info, power_cut);
}

static bool last_was_power_cut;

static void verify(struct fixture *f)
{
    fixture_open(f);
    for (unsigned i = 0; i < LANES; i++) {
        for (unsigned j = 0; j < lanes[i].shard_count; j++)
            check_shard(&lanes[i].shards[j], last_was_power_cut);
    }
    CHECK(f->disk->damage_count == 0 && f->damaged_calls == 0 && f->failed_calls == 0);
    fixture_close(f);
}

/* --- Crashing --------------------------------------------------------------------------------- */

struct crash {
    uint64_t at; /* write number; 0 = never */
    struct rng rng;
    bool happened;
};

static void crash_hook(void *ctx, struct sim_io_point *point)
{
    struct crash *crash = ctx;
    if (point->number != crash->at)
        return;
    crash->happened = true;
    point->when = (unsigned)(SIM_POINT_BEFORE + rng_below(&crash->rng, 3));
    bool kill = rng_one_in(&crash->rng, 3);
    point->scope = kill ? SIM_SCOPE_NODE : SIM_SCOPE_MACHINE;
    point->mode = SIM_CUT_RANDOM;
    last_was_power_cut = last_was_power_cut || !kill;
}

/* One run: the workload to the crash, maybe a second crash while opening, then the checks. Returns the writes of a
 * run that was not crashed. */
static uint64_t run(uint64_t seed, uint64_t crash_at, uint64_t again_after)
{
    struct fixture *f = &fixture;
    memset(lanes, 0, sizeof(lanes));
    *f = (struct fixture){.cache_bytes = 1 << 20};
    f->sim = sim_new(&(struct sim_options){.seed = seed, .strict_io = true});
    f->node = sim_node_new(f->sim, "a");
    f->medium = sim_disk_new(f->node, FIXTURE_PATH, 64 * MIB);
    sim_disk_restore(f->medium, formatted);
    memset(&f->cluster, 0xc1, sizeof(f->cluster));
    for (unsigned i = 0; i < LANES; i++) {
        lanes[i].number = i;
        rng_init(&lanes[i].rng, seed * LANES + i);
    }
    struct crash crash = {.at = crash_at};
    rng_init(&crash.rng, seed ^ crash_at << 20);
    last_was_power_cut = last_check = false;
    sim_set_io_hook(f->sim, crash_hook, &crash);
    bool finished = fixture_run(f, workload);
    CHECK(finished == !crash.happened);
    uint64_t writes = sim_io_count(f->sim);
    if (again_after > 0) {
        crash.at = writes + again_after;
        (void)fixture_run(f, verify);
    }
    crash.at = 0;
    last_check = true;
    CHECK(fixture_run(f, verify));
    sim_free(f->sim);
    return writes;
}

static void make_formatted(void)
{
    fixture_init(&fixture, 1, 64 * MIB);
    CHECK(fixture_run(&fixture, fixture_close));
    formatted = sim_disk_snapshot(fixture.medium);
    fixture_fini(&fixture);
}

static void crash_everywhere(uint64_t seed)
{
    uint64_t writes = run(seed, 0, 0);
    for (uint64_t at = 1; at <= writes; at++) {
        fprintf(stderr, "\rseed %llu write %llu of %llu ", (unsigned long long)seed,
            (unsigned long long)at, (unsigned long long)writes);
        run(seed, at, at % 7);
    }
    fprintf(stderr, "\n");
}

static uint64_t seed_first = 1, seed_count = 2, only_write;

static void test_every_answer_survives_a_crash_at_every_write(void **state)
{
    if (only_write == 0)
        log_set_output(fixture_quiet, NULL);
    make_formatted();
    for (uint64_t seed = seed_first; seed < seed_first + seed_count; seed++) {
        if (only_write > 0)
            run(seed, only_write, only_write % 7);
        else
            crash_everywhere(seed);
    }
    sim_image_free(formatted);
    log_set_output(NULL, NULL);
}

int main(int argc, char **argv)
{
    if (argc > 1) {
        seed_first = strtoull(argv[1], NULL, 0);
        seed_count = 1;
    }
    if (argc > 2)
        only_write = strtoull(argv[2], NULL, 0);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_answer_survives_a_crash_at_every_write),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
