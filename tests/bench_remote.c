/* SPDX-License-Identifier: Apache-2.0
 *
 * What a disk of another node costs over a local one: the same operations on both, two processes over
 * TCP loopback, both disks files of one directory. us an operation, operations a second, CPU of both
 * processes for each.
 * Not a test:  build/tests/bench_remote DIRECTORY [SECONDS [CASE]]   (CASE: "append 4k", ..: that one on the remote disk only)
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "blockd/cluster/identity.h"
#include "blockd/cluster/peers.h"
#include "blockd/cluster/remote_disk.h"
#include "blockd/cluster/server.h"
#include "blockd/cluster/shard_service.h"
#include "blockd/disks.h"
#include "common/check.h"
#include "common/crc32c.h"
#include "common/log.h"
#include "common/mem.h"

#define DISK_BYTES (512ull << 20)
#define DEPTH_MAX 32
#define GROUP_BLOCKS 16 /* of a group commit */

enum { METHOD_CPU = 1000 };

static char directory[128];
static double seconds = 1.5;
static const char *only;
static int pipe_fd[2]; /* the server tells its address and disk */

static uint64_t cpu_ns(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1000000000ull +
           (u.ru_utime.tv_usec + u.ru_stime.tv_usec) * 1000ull;
}

static struct rpc_options options_of(const char *name, uint8_t node)
{
    struct rpc_options options = {.self = {.cluster = {.bytes = {1}}, .node = {.bytes = {node}}}};
    strcpy(options.self.node_name, name);
    return options;
}

static const char *path_of(const char *name)
{
    static char path[256];
    snprintf(path, sizeof(path), "%s/bench-remote-%s-%d", directory, name, (int)getpid());
    return path;
}

/* --- Server ------------------------------------------------------------------------------------- */

static void handle_cpu(void *ctx, struct rpc_request *request)
{
    uint64_t ns = cpu_ns();
    rpc_reply(request, 0, &ns, sizeof(ns), NULL, 0, NULL, NULL);
}

static struct disk *make_disk(
    struct store *store, const char *name, struct disks **ret_disks, struct disk_record *ret_record)
{
    struct cluster_record cluster;
    struct uuid uuid;
    uint64_t size_bytes;
    char *error = NULL;
    CHECK(cluster_load_or_make(store, &cluster, &error) == 0);
    struct disks_options options = {
        .node_name = name, .cluster = cluster.uuid, .trailer_cache_bytes = 64 << 20};
    *ret_disks = disks_new(store, &options);
    CHECK_MSG(disks_format(*ret_disks, path_of(name), DISK_BYTES, "ssd", false, &uuid, &size_bytes,
                  &error) == 0,
        "%s", error);
    CHECK_MSG(disks_add(*ret_disks, path_of(name), ret_record, &error) == 0, "%s", error);
    return list_entry(disks_present(*ret_disks)->all.next, struct disk, link);
}

static int server_main(void *arg)
{
    struct rpc_method methods[32];
    struct disk_record record;
    struct disks *disks;
    struct rpc_options options = options_of("server", 1);
    struct cluster_server server = {0};
    char *error = NULL;
    struct store_mem *mem = store_mem_new();
    make_disk(store_mem_open(mem), "server", &disks, &record);
    server.shards = shard_service_new(disks);
    memcpy(methods, shard_methods, shard_method_count * sizeof(*methods));
    methods[shard_method_count] = (struct rpc_method){METHOD_CPU, "cpu", handle_cpu, 0, 0};
    CHECK_MSG(rpc_server_start(&options, "tcp:127.0.0.1:0", methods, shard_method_count + 1, NULL,
                  &server, &server.rpc, &error) == 0,
        "%s", error);
    dprintf(pipe_fd[1], "%s\n", rpc_server_address(server.rpc));
    int r = env_wait_signal();
    unlink(path_of("server"));
    return r;
}

/* --- Client ------------------------------------------------------------------------------------- */

static struct peer *peer;
static struct disk *disk; /* under test */
static uint8_t *buffers;
static struct shard_entry entries[DEPTH_MAX * GROUP_BLOCKS];
static uint64_t completed, begin_ns, end_ns, client_begin_ns, server_begin_ns;
static unsigned in_flight;
static struct fiber *driver;

static uint64_t server_cpu_ns(void)
{
    uint64_t ns = 0;
    struct rpc_call call = {.method = METHOD_CPU, .reply_body = &ns, .reply_body_max = sizeof(ns)};
    CHECK(peer_call(peer, &call) == 0);
    return ns;
}

static void begin(unsigned depth)
{
    server_begin_ns = server_cpu_ns();
    client_begin_ns = cpu_ns();
    begin_ns = env_now_ns();
    end_ns = begin_ns + (uint64_t)(seconds * 1e9);
    completed = 0;
    in_flight = depth;
    driver = fiber_self();
}

static void finish(const char *what, unsigned depth)
{
    while (in_flight > 0)
        fiber_suspend();
    double ns = (double)(env_now_ns() - begin_ns), n = (double)completed;
    double client = (double)(cpu_ns() - client_begin_ns) / 1000 / n;
    double server = (double)(server_cpu_ns() - server_begin_ns) / 1000 / n;
    printf("%-7s %-34s %8.0f/s %8.1f us each %7.2f us CPU each (here %.2f, there %.2f)\n",
        disk->local ? "local" : "remote", what, n / ns * 1e9, ns / 1000 * depth / n,
        client + (disk->local ? 0 : server), client, disk->local ? 0 : server);
}

static void ended(void)
{
    if (--in_flight == 0)
        fiber_wake(driver);
}

/* --- Appends ------------------------------------------------------------------------------------ */

static struct log {
    struct shard_append append;
    struct iovec iov;
    uint32_t capacity;
} logs[DEPTH_MAX];

static void log_done(struct shard_append *append)
{
    struct log *log = container_of(append, struct log, append);
    CHECK(append->result == 0);
    completed++;
    append->off_blocks += 1 + append->entry_count;
    if (append->off_blocks + 1 + append->entry_count > log->capacity || env_now_ns() >= end_ns)
        ended();
    else
        shard_append_submit(append);
}

static void bench_append(unsigned depth, unsigned blocks, unsigned flags, const char *what)
{
    static uint64_t chunk = 1000;
    if (only && strcmp(only, what) != 0)
        return;
    for (unsigned i = 0; i < depth; i++) {
        struct log *log = &logs[i];
        struct shard_info info;
        struct shard_create create = {.key = {.volume = 1, .chunk = chunk++},
            .kind = SHARD_LOG,
            .code = {1, 2},
            .instance = 1,
            .epoch = 1,
            .capacity_blocks = depth == 1 ? LOG_CAPACITY_BLOCKS_MAX : 2048,
            .capacity_blocks_min = 1,
            .priority = SHARD_PRIORITY_SYSTEM};
        CHECK(shard_create(disk, &create, &info) == 0);
        log->capacity = info.capacity_blocks;
        log->iov = (struct iovec){
            buffers + (size_t)i * GROUP_BLOCKS * BLOCK_BYTES, (size_t)blocks * BLOCK_BYTES};
        log->append = (struct shard_append){.disk = disk,
            .key = create.key,
            .epoch = 1,
            .entries = &entries[i * GROUP_BLOCKS],
            .entry_count = blocks,
            .payload = &log->iov,
            .payload_count = 1,
            .flags = flags,
            .done = log_done};
    }
    begin(depth);
    for (unsigned i = 0; i < depth; i++)
        shard_append_submit(&logs[i].append);
    finish(what, depth);
    for (unsigned i = 0; i < depth; i++)
        CHECK(shard_remove(disk, logs[i].append.key, 0, 1) == 0);
}

/* --- Reads -------------------------------------------------------------------------------------- */

#define ROW_BLOCKS 248
#define ROWS 4
static const struct shard_key DATA = {.volume = 2, .chunk = 1};

static struct get {
    struct shard_read read;
    struct iovec iov;
} gets[DEPTH_MAX];

static void get_next(struct get *get)
{
    get->read.off_blocks =
        (uint32_t)(env_random_u64() % (ROWS * (ROW_BLOCKS + 1) - get->read.count));
    shard_read_submit(&get->read);
}

static void get_done(struct shard_read *read)
{
    CHECK(read->result == 0);
    completed++;
    if (env_now_ns() < end_ns)
        get_next(container_of(read, struct get, read));
    else
        ended();
}

static void fill_shard(void)
{
    struct shard_create create = {.key = DATA,
        .kind = SHARD_DATA,
        .code = {4, 2},
        .instance = 1,
        .epoch = 1,
        .capacity_blocks = 1019,
        .capacity_blocks_min = 1019};
    CHECK(shard_create(disk, &create, NULL) == 0);
    for (uint32_t row = 0; row < ROWS; row++) {
        struct iovec iov = {buffers, ROW_BLOCKS * BLOCK_BYTES};
        struct shard_append append = {.disk = disk,
            .key = DATA,
            .epoch = 1,
            .off_blocks = row * (ROW_BLOCKS + 1),
            .entries = entries,
            .entry_count = ROW_BLOCKS,
            .payload = &iov,
            .payload_count = 1};
        CHECK(shard_append(&append) == 0);
    }
    CHECK(shard_seal(disk, DATA, 1, ROWS * (ROW_BLOCKS + 1)) == 0);
}

static void bench_read(unsigned depth, unsigned blocks, const char *what)
{
    if (only && strcmp(only, what) != 0)
        return;
    begin(depth);
    for (unsigned i = 0; i < depth; i++) {
        gets[i].iov = (struct iovec){
            buffers + (size_t)i * GROUP_BLOCKS * BLOCK_BYTES, (size_t)blocks * BLOCK_BYTES};
        gets[i].read = (struct shard_read){.disk = disk,
            .key = DATA,
            .count = blocks,
            .iov = &gets[i].iov,
            .iov_count = 1,
            .done = get_done};
        get_next(&gets[i]);
    }
    finish(what, depth);
}

/* --- All ---------------------------------------------------------------------------------------- */

static void bench(void)
{
    bench_append(1, 1, 0, "append 4k");
    bench_append(1, 1, SHARD_APPEND_DSYNC, "append 4k, durable");
    bench_append(1, GROUP_BLOCKS, SHARD_APPEND_DSYNC, "append 64k, durable");
    bench_append(32, 1, 0, "append 4k, 32 in flight");
    fill_shard();
    bench_read(1, 1, "read 4k");
    bench_read(32, 1, "read 4k, 32 in flight");
    bench_read(1, GROUP_BLOCKS, "read 64k");
    for (size_t i = 0; i < ARRAY_SIZE(entries); i++) /* reads left other bytes */
        entries[i].crc = crc32c(0, buffers + i * BLOCK_BYTES, BLOCK_BYTES);
}

static int client_main(void *arg)
{
    char address[128];
    FILE *file = fdopen(pipe_fd[0], "r");
    CHECK(file && fgets(address, sizeof(address), file));
    address[strcspn(address, "\n")] = 0;
    buffers = mem_alloc_pages(sizeof(entries) / sizeof(*entries) * (size_t)BLOCK_BYTES);
    for (size_t i = 0; i < ARRAY_SIZE(entries); i++) {
        memset(buffers + i * BLOCK_BYTES, (int)i, BLOCK_BYTES);
        entries[i].crc = crc32c(0, buffers + i * BLOCK_BYTES, BLOCK_BYTES);
    }
    struct peers_options options = {.rpc = options_of("client", 2)};
    struct peers *peers = peers_new(&options);
    struct node_record node = {.uuid = {.bytes = {1}}, .name = "server"};
    strcpy(node.address, address);
    peers_set(peers, &node);
    peer = peers_find(peers, "server");
    while (!peer_connected(peer))
        env_sleep_ns(1000000);
    struct disks *disks;
    struct disk_record record, there = {.number = 1, .node = "server", .class_name = "ssd"};
    struct store_mem *mem = store_mem_new();
    disk = make_disk(store_mem_open(mem), "client", &disks, &record);
    disk->local = true;
    if (!only)
        bench();
    disk = remote_disk_new(peer, &there, NULL);
    bench();
    unlink(path_of("client"));
    return 0;
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        fprintf(stderr, "usage: %s DIRECTORY [SECONDS]\n", argv[0]);
        return 2;
    }
    snprintf(directory, sizeof(directory), "%s", argv[1]);
    if (argc > 2)
        seconds = atof(argv[2]);
    if (argc > 3)
        only = argv[3];
    CHECK(pipe(pipe_fd) == 0);
    log_set_level(LOG_LEVEL_ERROR);
    pid_t pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        exit(env_uring_run(&(struct env_uring_options){0}, server_main, NULL) != SIGTERM);
    }
    int rc = env_uring_run(&(struct env_uring_options){0}, client_main, NULL);
    kill(pid, SIGTERM);
    waitpid(pid, NULL, 0);
    return rc != 0;
}
