/* SPDX-License-Identifier: Apache-2.0
 *
 * The engine alone, without a front end: 4 KiB and 1 MiB I/O on a 4+2 volume over files in a directory.
 *   bench_volume DIR [CODE] [SECONDS]
 * Prints I/O per second and CPU us per I/O of each row. For profiling; fio-jobs/run measures the whole.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "blockd/disk/local_disk.h"
#include "blockd/volume/map.h"
#include "blockd/volume/volume.h"
#include "common/check.h"
#include "common/env.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/rng.h"

#define VOLUME_BYTES (2ull << 30)

static const char *dir;
static struct shard_code code = {4, 2};
static unsigned seconds = 5;
static struct volume *volume;

struct row {
    const char *name;
    bool write, sequential;
    unsigned depth, bytes, flush_every;
};

static const struct row rows[] = {
    {"seqwrite-1m-qd8", true, true, 8, 1 << 20, 0},
    {"randwrite-4k-qd1", true, false, 1, 4096, 0},
    {"randwrite-4k-qd1-fsync", true, false, 1, 4096, 1},
    {"randwrite-4k-qd32", true, false, 32, 4096, 0},
    {"randwrite-4k-qd32-fsync32", true, false, 32, 4096, 32},
    {"randread-4k-qd1", false, false, 1, 4096, 0},
    {"randread-4k-qd32", false, false, 32, 4096, 0},
    {"seqread-1m-qd8", false, true, 8, 1 << 20, 0},
};

static const struct row *row;
static struct rng rng;
static uint64_t position, done_ios, deadline_ns;
static unsigned running;

static void worker(void *arg)
{
    void *buf = mem_alloc_pages(row->bytes);
    rng_bytes(&rng, buf, row->bytes);
    while (env_now_ns() < deadline_ns) {
        uint64_t off =
            row->sequential ? position : rng_below(&rng, VOLUME_BYTES / row->bytes) * row->bytes;
        if (row->sequential)
            position = (position + row->bytes) % VOLUME_BYTES;
        int r = row->write ? volume_write(volume, off, row->bytes, buf, VOLUME_STABLE,
                                 (struct request_id){0})
                           : volume_read(volume, off, row->bytes, buf);
        CHECK_MSG(r == 0, "%s", strerror(-r));
        done_ios++;
        if (row->flush_every && done_ios % row->flush_every == 0)
            CHECK(volume_flush(volume) == 0);
    }
    mem_free_pages(buf, row->bytes);
    running--;
}

static double cpu_s(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_utime.tv_sec + usage.ru_stime.tv_sec +
           (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

static void run_row(const struct row *r)
{
    row = r;
    position = done_ios = 0;
    running = r->depth;
    uint64_t start_ns = env_now_ns();
    deadline_ns = start_ns + seconds * 1000000000ull;
    double cpu = cpu_s();
    for (unsigned i = 0; i < r->depth; i++)
        fiber_spawn("worker", worker, NULL);
    while (running > 0)
        env_sleep_ns(1000000);
    double took = (env_now_ns() - start_ns) / 1e9;
    printf("%-28s %9.0f IO/s %8.1f MB/s %7.1f us CPU per IO\n", r->name, done_ios / took,
        done_ios * r->bytes / took / 1e6, (cpu_s() - cpu) * 1e6 / done_ios);
    fflush(stdout);
}

static int bench(void *arg)
{
    struct disk_list disks;
    struct uuid cluster = {.bytes = {9}};
    struct memory_budget budget;
    disk_list_init(&disks);
    for (unsigned i = 0; i < (unsigned)code.k + code.m; i++) {
        CLEANUP_FREE char *path = mem_printf("%s/bench-disk%u", dir, i);
        char *error = NULL;
        struct uuid id;
        struct disk *disk;
        remove(path);
        int r = local_disk_format(path, 1536ull << 20, cluster, cluster, "ssd", true, &id, &error);
        CHECK_MSG(r == 0, "%s", error);
        struct local_disk_options options = {.trailer_cache_bytes = 64ull << 20};
        r = local_disk_open(path, cluster, &options, &disk, &error);
        CHECK_MSG(r == 0, "%s", error);
        disk->number = i + 1;
        disk_list_add(&disks, disk);
    }
    memory_budget_init(&budget, 256ull << 20, 64ull << 20);
    struct store_mem *mem = store_mem_new();
    struct volume_host host = {.store = store_mem_open(mem),
        .cluster = cluster,
        .node_name = "bench",
        .session = 1,
        .disks = &disks,
        .budget = &budget,
        .map_cache = map_cache_new(64ull << 20)};
    struct pool pool = {.name = "p", .code = code, .shards_min = code.k + 1, .log_copies_min = 2};
    CLEANUP_FREE char *text = pool_encode(&pool, NULL);
    char key[KEY_BYTES_MAX], *error = NULL;
    struct store_op op = {
        .type = STORE_PUT, .key = key_pool("p", key), .data = text, .len_bytes = strlen(text)};
    CHECK(store_txn(host.store, NULL, 0, &op, 1, NULL) == 0);
    uint64_t id;
    int r = volume_create(&host, "v", VOLUME_BYTES, "p", &id, &error);
    CHECK_MSG(r == 0, "%s", error);
    r = volume_open(&host, id, &volume, &error);
    CHECK_MSG(r == 0, "%s", error);
    rng_init(&rng, 1);
    const char *only = getenv("ROW");
    for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
        if (!only || i == 0 || strcmp(only, rows[i].name) == 0)
            run_row(&rows[i]);
    }
    CHECK(volume_close(volume) == 0);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        fprintf(stderr, "usage: %s DIR [CODE] [SECONDS]\n", argv[0]);
        return 2;
    }
    dir = argv[1];
    if (argc > 2 && code_parse(argv[2], &code) < 0)
        return 2;
    if (argc > 3)
        seconds = (unsigned)atoi(argv[3]);
    return env_uring_run(&(struct env_uring_options){0}, bench, NULL);
}
