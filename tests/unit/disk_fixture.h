/* SPDX-License-Identifier: Apache-2.0
 *
 * For tests of the shard store: a simulated machine with one disk, helpers that run a function as a
 * fiber of it, and appends with recognisable contents.
 */
#pragma once

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "blockd/disk/local_disk.h"
#include "common/check.h"
#include "common/env_sim.h"
#include "common/log.h"
#include "common/mem.h"
#include "disk_blocks.h"

#define FIXTURE_PATH "/dev/disk0" /* a device: format does not write zeros over all of it */

struct fixture {
    struct sim *sim;
    struct env *node;
    struct sim_disk *medium;
    struct uuid cluster, node_uuid;
    struct disk *disk; /* NULL when closed */
    unsigned failed_calls, damaged_calls;
    struct shard_key damaged_key;
    uint32_t damaged_block;
    uint64_t cache_bytes, io_timeout_ns;
    bool verify_appends;
};

/* For log_set_output, where thousands of lines would say the same. */
static inline void fixture_quiet(void *ctx, enum log_level level, const char *line)
{
}

struct fixture_job {
    void (*fn)(struct fixture *f);
    struct fixture *fixture;
    bool done;
};

static inline void fixture_job_main(void *arg)
{
    struct fixture_job *job = arg;
    job->fn(job->fixture);
    job->done = true;
}

static inline bool fixture_job_done(void *arg)
{
    return ((struct fixture_job *)arg)->done ||
           !sim_node_is_up(((struct fixture_job *)arg)->fixture->node);
}

/* Runs fn as a fiber of the machine to its end; false when the machine went down before. */
static inline bool fixture_run(struct fixture *f, void (*fn)(struct fixture *f))
{
    struct fixture_job job = {.fn = fn, .fixture = f};
    sim_node_start(f->node, "test", fixture_job_main, &job);
    enum sim_result result = sim_run(f->sim, fixture_job_done, &job, UINT64_MAX);
    CHECK_MSG(result == SIM_UNTIL, "simulation ended with %d", (int)result);
    return job.done;
}

static inline void fixture_failed(void *ctx, struct disk *disk, int error)
{
    (void)disk;
    (void)error;
    ((struct fixture *)ctx)->failed_calls++;
}

static inline void fixture_damaged(
    void *ctx, struct disk *disk, struct shard_key key, uint32_t block)
{
    struct fixture *f = ctx;
    (void)disk;
    f->damaged_calls++;
    f->damaged_key = key;
    f->damaged_block = block;
}

static inline int fixture_open_status(struct fixture *f, char **ret_error)
{
    struct local_disk_options options = {
        .trailer_cache_bytes = f->cache_bytes,
        .io_timeout_ns = f->io_timeout_ns,
        .verify_appends = f->verify_appends,
        .failed = fixture_failed,
        .damaged = fixture_damaged,
        .ctx = f,
    };
    return local_disk_open(FIXTURE_PATH, f->cluster, &options, &f->disk, ret_error);
}

static inline void fixture_open(struct fixture *f)
{
    char *error = NULL;
    int r = fixture_open_status(f, &error);
    CHECK_MSG(r == 0, "open: %d: %s", r, error ? error : "");
    local_disk_check(f->disk);
}

static inline void fixture_close(struct fixture *f)
{
    local_disk_check(f->disk);
    local_disk_close(f->disk);
    f->disk = NULL;
}

static inline void fixture_format(struct fixture *f)
{
    struct uuid disk;
    char *error = NULL;
    int r =
        local_disk_format(FIXTURE_PATH, 0, f->cluster, f->node_uuid, "ssd", false, &disk, &error);
    CHECK_MSG(r == 0, "format: %d: %s", r, error ? error : "");
    fixture_open(f);
}

/* A formatted, open disk. */
static inline void fixture_init(struct fixture *f, uint64_t seed, uint64_t size_bytes)
{
    *f = (struct fixture){.cache_bytes = 1 << 20};
    f->sim = sim_new(&(struct sim_options){.seed = seed, .strict_io = true});
    f->node = sim_node_new(f->sim, "a");
    f->medium = sim_disk_new(f->node, FIXTURE_PATH, size_bytes);
    memset(&f->cluster, 0xc1, sizeof(f->cluster));
    memset(&f->node_uuid, 0x0d, sizeof(f->node_uuid));
    CHECK(fixture_run(f, fixture_format));
}

static inline void fixture_fini(struct fixture *f)
{
    sim_free(f->sim);
}

/* A round of its own: a formatted disk, fn on it. */
static inline void on_disk(uint64_t size_bytes, void (*fn)(struct fixture *f))
{
    struct fixture f;
    fixture_init(&f, 1, size_bytes);
    assert_true(fixture_run(&f, fn));
    fixture_fini(&f);
}

/* Closed and opened again by another process of the same boot. */
static inline void reopen(struct fixture *f)
{
    fixture_close(f);
    fixture_open(f);
}

/* An append of one block that is on its way; who waits is woken when none is. */
struct pipe {
    struct shard_append append;
    struct shard_entry entry;
    struct iovec iov;
    struct fiber *fiber;
    unsigned *pending;
};

static inline void pipe_done(struct shard_append *append)
{
    struct pipe *pipe = container_of(append, struct pipe, append);
    if (--*pipe->pending == 0)
        fiber_wake(pipe->fiber);
}

static inline void pipe_init(struct pipe *pipe, struct disk *disk, struct shard_key key,
    uint32_t off_blocks, unsigned *pending, void *buf)
{
    fill_block(buf, key, off_blocks + 1, 0);
    pipe->entry = (struct shard_entry){.address = 1, .crc = crc32c(0, buf, BLOCK_BYTES)};
    pipe->iov = (struct iovec){.iov_base = buf, .iov_len = BLOCK_BYTES};
    pipe->fiber = fiber_self();
    pipe->pending = pending;
    pipe->append = (struct shard_append){
        .disk = disk,
        .key = key,
        .epoch = 1,
        .off_blocks = off_blocks,
        .entries = &pipe->entry,
        .entry_count = 1,
        .payload = &pipe->iov,
        .payload_count = 1,
        .done = pipe_done,
    };
    ++*pending;
}

/* A read that somebody waits for without being woken. */
struct slow_read {
    struct shard_read read;
    struct iovec iov;
    bool done;
};

static inline void slow_read_done(struct shard_read *read)
{
    container_of(read, struct slow_read, read)->done = true;
}

/* One of data and one of a log, with an append each. */
static inline void make_open_shards(struct disk *disk, struct shard_key data, struct shard_key log)
{
    assert_int_equal(create_simple(disk, data, SHARD_DATA, 100), 0);
    assert_int_equal(append_blocks(disk, data, 1, 0, 5, 0, 0), 0);
    assert_int_equal(create_simple(disk, log, SHARD_LOG, 100), 0);
    assert_int_equal(append_blocks(disk, log, 1, 0, 5, 0, SHARD_APPEND_DSYNC), 0);
}
