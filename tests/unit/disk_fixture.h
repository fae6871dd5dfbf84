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

#include "blockd/disk/append_header.h"
#include "blockd/disk/local_disk.h"
#include "common/check.h"
#include "common/crc32c.h"
#include "common/env_sim.h"
#include "common/log.h"
#include "common/mem.h"

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
}

static inline void fixture_close(struct fixture *f)
{
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
    f->sim = sim_new(&(struct sim_options){.seed = seed});
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

/* --- Shards with known contents --------------------------------------------------------------- */

static inline struct shard_key key_of(uint64_t volume, uint64_t chunk, uint8_t index)
{
    return (struct shard_key){.volume = volume, .chunk = chunk, .index = index};
}

static inline struct shard_create create_of(
    struct shard_key key, enum shard_kind kind, uint32_t capacity_blocks)
{
    bool coded = kind == SHARD_DATA;
    return (struct shard_create){
        .key = key,
        .kind = kind,
        .code = {.k = coded ? 4 : 1, .m = 2},
        .instance = key.chunk * 100 + key.index + 1,
        .epoch = 1,
        .capacity_blocks = capacity_blocks,
        .capacity_blocks_min = capacity_blocks,
        .priority = SHARD_PRIORITY_USER,
    };
}

static inline int create_simple(
    struct disk *disk, struct shard_key key, enum shard_kind kind, uint32_t capacity_blocks)
{
    struct shard_create create = create_of(key, kind, capacity_blocks);
    return shard_create(disk, &create, NULL);
}

/* The block of `key` at `block`, version `salt`. */
static inline void fill_block(void *buf, struct shard_key key, uint32_t block, uint32_t salt)
{
    uint64_t x = key.volume * 0x9e3779b97f4a7c15 + key.chunk * 1000003 + key.index * 7919 +
                 block * 31 + salt;
    uint64_t *words = buf;
    for (unsigned i = 0; i < BLOCK_BYTES / 8; i++) {
        x = x * 6364136223846793005u + 1442695040888963407u;
        words[i] = x ^ (x >> 29);
    }
}

/* Appends `count` blocks at off_blocks in the contents of fill_block. */
static inline int append_blocks(struct disk *disk, struct shard_key key, uint32_t epoch,
    uint32_t off_blocks, unsigned count, uint32_t salt, unsigned flags)
{
    uint8_t *buf = mem_alloc_pages(MAX(count, 1u) * BLOCK_BYTES);
    struct shard_entry entries[APPEND_ENTRIES_MAX];
    for (unsigned i = 0; i < count; i++) {
        uint8_t *block = buf + i * BLOCK_BYTES;
        fill_block(block, key, off_blocks + 1 + i, salt);
        entries[i] = (struct shard_entry){
            .address = 1000 + off_blocks + i, .crc = crc32c(0, block, BLOCK_BYTES), .aux = salt};
    }
    struct iovec iov = {.iov_base = buf, .iov_len = count * BLOCK_BYTES};
    struct shard_append append = {
        .disk = disk,
        .key = key,
        .epoch = epoch,
        .off_blocks = off_blocks,
        .base_seq = off_blocks,
        .entries = entries,
        .entry_count = count,
        .inline_bytes = "inline",
        .inline_len_bytes = count < 200 ? 6 : 0,
        .payload = &iov,
        .payload_count = count > 0 ? 1 : 0,
        .flags = flags,
    };
    int r = shard_append(&append);
    mem_free_pages(buf, MAX(count, 1u) * BLOCK_BYTES);
    return r;
}

/* Reads [off, off+count) and compares payload blocks with fill_block; headers are parsed. Returns
 * the read's answer; wrong bytes abort. */
static inline int read_and_compare(
    struct disk *disk, struct shard_key key, uint32_t off_blocks, uint32_t count, uint32_t salt)
{
    uint8_t *buf = mem_alloc_pages(count * BLOCK_BYTES);
    struct shard_entry *entries = mem_alloc(count * sizeof(*entries));
    uint8_t *expected = mem_alloc_pages(BLOCK_BYTES);
    int r = shard_read(disk, key, off_blocks, count, buf, entries);
    for (uint32_t i = 0; r == 0 && i < count; i++) {
        if (entries[i].address == UINT64_MAX) {
            struct append_header header;
            CHECK(append_header_parse(buf + i * BLOCK_BYTES, &header) == 0);
            CHECK(header.off_blocks == off_blocks + i && header.key.chunk == key.chunk);
            continue;
        }
        fill_block(expected, key, off_blocks + i, salt);
        CHECK_MSG(memcmp(expected, buf + i * BLOCK_BYTES, BLOCK_BYTES) == 0,
            "wrong bytes in block %u", off_blocks + i);
    }
    mem_free_pages(expected, BLOCK_BYTES);
    mem_free(entries);
    mem_free_pages(buf, count * BLOCK_BYTES);
    return r;
}
