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
    uint64_t cache_bytes;
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
