/* SPDX-License-Identifier: Apache-2.0
 *
 * What the shard store costs over the bare file: appends and verified reads beside the same I/O by env alone.
 * Not a test, never run by default:  build/tests/bench_disk DIRECTORY [SECONDS]
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "blockd/disk/local_disk.h"
#include "common/check.h"
#include "common/crc32c.h"
#include "common/mem.h"

#define DISK_BYTES (1024ull << 20)
#define DATA_SHARDS 120
#define SHARD_BLOCKS 996 /* four rows of 248 and their headers */
#define DEPTH_MAX 128

static char path[256];
static double seconds = 1.5;
static struct disk *disk;
static const struct uuid CLUSTER = {.bytes = {1}};
static uint8_t *buffers;
static struct shard_entry entry_of_buffer[DEPTH_MAX];

/* --- Measuring -------------------------------------------------------------------------------- */

struct measure {
    uint64_t start_ns, end_ns;
    double cpu_start;
};

static double cpu_seconds(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_utime.tv_sec + usage.ru_stime.tv_sec +
           (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

static struct measure measure_start(void)
{
    uint64_t now_ns = env_now_ns();
    return (struct measure){now_ns, now_ns + (uint64_t)(seconds * 1e9), cpu_seconds()};
}

static void measure_print(struct measure m, const char *what, uint64_t count)
{
    double ns = (double)(env_now_ns() - m.start_ns), cpu = cpu_seconds() - m.cpu_start;
    printf("%-44s %9.0f/s %8.1f us each %8.2f us CPU each\n", what, count / ns * 1e9,
        ns / count / 1e3, cpu * 1e6 / count);
}

/* --- Appends ---------------------------------------------------------------------------------- */

static uint64_t completed;
static unsigned in_flight;
static struct fiber *driver;
static struct measure measure;

struct log {
    struct shard_append append;
    struct iovec iov;
    struct shard_key key;
    uint32_t capacity;
};
static struct log logs[DEPTH_MAX];

static void log_next(struct log *log)
{
    log->append.off_blocks += 2;
    if (log->append.off_blocks + 2 > log->capacity || env_now_ns() >= measure.end_ns) {
        if (--in_flight == 0)
            fiber_wake(driver);
        return;
    }
    shard_append_submit(&log->append);
}

static void log_done(struct shard_append *append)
{
    CHECK(append->result == 0);
    completed++;
    log_next(container_of(append, struct log, append));
}

/* `depth` logs with one append of 4 KiB in flight each. */
static void bench_append(unsigned depth, unsigned flags, const char *what)
{
    static uint64_t chunk = 1000;
    uint32_t capacity = MIN(LOG_CAPACITY_BLOCKS_MAX, (uint32_t)(200u * 1024 / depth / 1024 * 1024));
    for (unsigned i = 0; i < depth; i++) {
        struct log *log = &logs[i];
        log->key = (struct shard_key){.volume = 1, .chunk = chunk++, .index = 0};
        struct shard_create create = {.key = log->key,
            .kind = SHARD_LOG,
            .code = {1, 2},
            .instance = 1,
            .epoch = 1,
            .capacity_blocks = capacity,
            .capacity_blocks_min = 1,
            .priority = SHARD_PRIORITY_SYSTEM};
        struct shard_info info;
        CHECK(shard_create(disk, &create, &info) == 0);
        log->capacity = info.capacity_blocks;
        log->iov = (struct iovec){buffers + i * BLOCK_BYTES, BLOCK_BYTES};
        log->append = (struct shard_append){.disk = disk,
            .key = log->key,
            .epoch = 1,
            .entries = &entry_of_buffer[i],
            .entry_count = 1,
            .payload = &log->iov,
            .payload_count = 1,
            .flags = flags,
            .done = log_done};
    }
    driver = fiber_self();
    completed = 0;
    in_flight = depth;
    measure = measure_start();
    for (unsigned i = 0; i < depth; i++)
        shard_append_submit(&logs[i].append);
    while (in_flight > 0)
        fiber_suspend();
    measure_print(measure, what, completed);
    for (unsigned i = 0; i < depth; i++)
        CHECK(shard_remove(disk, logs[i].key, 0, 1) == 0);
}

/* --- The same by env -------------------------------------------------------------------------- */

struct raw {
    struct env_io io;
    struct iovec iov;
};
static struct raw raws[DEPTH_MAX];
static unsigned raw_blocks;
static uint64_t raw_end_bytes;

static void raw_next(struct raw *raw)
{
    if (env_now_ns() >= measure.end_ns) {
        if (--in_flight == 0)
            fiber_wake(driver);
        return;
    }
    if (raw->io.op == ENV_IO_READ)
        raw->io.off_bytes = env_random_u64() % (DATA_SHARDS * 1000) * BLOCK_BYTES + (64 << 20);
    else
        raw->io.off_bytes += raw_blocks * BLOCK_BYTES;
    if (raw->io.off_bytes + raw_blocks * BLOCK_BYTES > raw_end_bytes)
        raw->io.off_bytes = 64 << 20;
    env_io_submit(&raw->io);
}

static void raw_done(struct env_io *io)
{
    CHECK(io->result > 0);
    completed++;
    raw_next(container_of(io, struct raw, io));
}

static void bench_raw(
    struct env_file *file, enum env_io_op op, unsigned depth, unsigned blocks, const char *what)
{
    driver = fiber_self();
    completed = 0;
    in_flight = depth;
    raw_blocks = blocks;
    raw_end_bytes = env_file_size_bytes(file);
    measure = measure_start();
    for (unsigned i = 0; i < depth; i++) {
        raws[i].iov = (struct iovec){buffers + i * 2 * BLOCK_BYTES, blocks * BLOCK_BYTES};
        raws[i].io = (struct env_io){.op = op,
            .file = file,
            .iov = &raws[i].iov,
            .iov_count = 1,
            .off_bytes = (64 << 20) + i * (7ull << 20),
            .done = raw_done};
        raw_next(&raws[i]);
    }
    while (in_flight > 0)
        fiber_suspend();
    measure_print(measure, what, completed);
}

/* --- Reads ------------------------------------------------------------------------------------ */

struct get {
    struct shard_read read;
    struct iovec iov;
};
static struct get gets[DEPTH_MAX];

static void get_next(struct get *get)
{
    if (env_now_ns() >= measure.end_ns) {
        if (--in_flight == 0)
            fiber_wake(driver);
        return;
    }
    uint64_t random = env_random_u64();
    get->read.key.chunk = random % DATA_SHARDS;
    get->read.off_blocks = (uint32_t)((random >> 32) % SHARD_BLOCKS);
    shard_read_submit(&get->read);
}

static void get_done(struct shard_read *read)
{
    CHECK(read->result == 0);
    completed++;
    get_next(container_of(read, struct get, read));
}

static void bench_read(unsigned depth, const char *what)
{
    driver = fiber_self();
    completed = 0;
    in_flight = depth;
    measure = measure_start();
    for (unsigned i = 0; i < depth; i++) {
        gets[i].iov = (struct iovec){buffers + i * BLOCK_BYTES, BLOCK_BYTES};
        gets[i].read = (struct shard_read){.disk = disk,
            .key = {.volume = 2},
            .count = 1,
            .iov = &gets[i].iov,
            .iov_count = 1,
            .done = get_done};
        get_next(&gets[i]);
    }
    while (in_flight > 0)
        fiber_suspend();
    measure_print(measure, what, completed);
}

static void fill_shards(void)
{
    uint8_t *row = mem_alloc_pages(248 * BLOCK_BYTES);
    struct shard_entry entries[248];
    for (unsigned i = 0; i < 248; i++) {
        memset(row + i * BLOCK_BYTES, (int)i, BLOCK_BYTES);
        entries[i] = (struct shard_entry){
            .address = i, .crc = crc32c(0, row + i * BLOCK_BYTES, BLOCK_BYTES)};
    }
    struct iovec iov = {row, 248 * BLOCK_BYTES};
    for (uint64_t chunk = 0; chunk < DATA_SHARDS; chunk++) {
        struct shard_create create = {.key = {.volume = 2, .chunk = chunk},
            .kind = SHARD_DATA,
            .code = {4, 2},
            .instance = 1,
            .epoch = 1,
            .capacity_blocks = 1019,
            .capacity_blocks_min = 1019};
        CHECK(shard_create(disk, &create, NULL) == 0);
        for (uint32_t off = 0; off < SHARD_BLOCKS; off += 249) {
            struct shard_append append = {.disk = disk,
                .key = create.key,
                .epoch = 1,
                .off_blocks = off,
                .entries = entries,
                .entry_count = 248,
                .payload = &iov,
                .payload_count = 1};
            CHECK(shard_append(&append) == 0);
        }
        CHECK(shard_seal(disk, create.key, 1, SHARD_BLOCKS) == 0);
    }
    mem_free_pages(row, 248 * BLOCK_BYTES);
}

/* --- All -------------------------------------------------------------------------------------- */

static int bench(void *arg)
{
    struct uuid uuid;
    char *error = NULL;
    CHECK_MSG(
        local_disk_format(path, DISK_BYTES, CLUSTER, CLUSTER, "ssd", false, &uuid, &error) == 0,
        "%s", error);
    buffers = mem_alloc_pages(2 * DEPTH_MAX * BLOCK_BYTES);
    for (unsigned i = 0; i < 2 * DEPTH_MAX * BLOCK_BYTES; i++)
        buffers[i] = (uint8_t)(i * 7 + i / 4096);
    for (unsigned i = 0; i < DEPTH_MAX; i++)
        entry_of_buffer[i] =
            (struct shard_entry){.crc = crc32c(0, buffers + i * BLOCK_BYTES, BLOCK_BYTES)};
    struct local_disk_options options = {.trailer_cache_bytes = 64 << 20};
    CHECK_MSG(local_disk_open(path, CLUSTER, &options, &disk, &error) == 0, "%s", error);
    bench_append(1, 0, "append 4k, 1 in flight");
    bench_append(1, SHARD_APPEND_DSYNC, "append 4k, durable, 1 in flight");
    bench_append(32, 0, "append 4k, 32 shards in flight");
    uint64_t start_ns = env_now_ns();
    fill_shards();
    printf("%-44s %9.0f MB/s\n", "shards of 4 rows, sealed",
        DATA_SHARDS * SHARD_BLOCKS * 4096e3 / (double)(env_now_ns() - start_ns));
    bench_read(32, "read 4k warming, 32 in flight");
    bench_read(1, "read 4k, 1 in flight");
    bench_read(32, "read 4k, 32 in flight");
    local_disk_set_trailer_cache(disk, 32 << 10);
    bench_read(32, "read 4k, 32 in flight, 2 % of trailers cached");
    local_disk_close(disk);
    struct env_file *file;
    CHECK(env_file_open(path, 0, 0, &file) == 0);
    bench_raw(file, ENV_IO_WRITE, 1, 2, "bare file: write 8k, 1 in flight");
    bench_raw(file, ENV_IO_WRITE_DSYNC, 1, 2, "bare file: write 8k, durable, 1 in flight");
    bench_raw(file, ENV_IO_WRITE, 32, 2, "bare file: write 8k, 32 in flight");
    bench_raw(file, ENV_IO_READ, 1, 1, "bare file: read 4k, 1 in flight");
    bench_raw(file, ENV_IO_READ, 32, 1, "bare file: read 4k, 32 in flight");
    env_file_close(file);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        fprintf(stderr, "usage: %s DIRECTORY [SECONDS]\n", argv[0]);
        return 2;
    }
    if (argc > 2)
        seconds = atof(argv[2]);
    snprintf(path, sizeof(path), "%s/bench-disk-%d", argv[1], (int)getpid());
    int r = env_uring_run(&(struct env_uring_options){0}, bench, NULL);
    unlink(path);
    return r;
}
