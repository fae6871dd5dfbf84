/* SPDX-License-Identifier: Apache-2.0
 *
 * What the runtime costs: ns a fiber switch, us a 4 KiB O_DIRECT write at queue depth 1, IOPS and CPU at depth 32.
 * Not a test, never run by default:  build/tests/bench_env DIRECTORY [SECONDS]
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "common/check.h"
#include "common/env.h"
#include "common/mem.h"

#define FILE_BYTES (256ull << 20)
#define DEPTH_MAX 128
#define SECOND_NS 1000000000ull

static char path[256];
static double seconds = 2;

struct measure {
    uint64_t start_ns;
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
    return (struct measure){env_now_ns(), cpu_seconds()};
}

static void measure_print(struct measure m, const char *what, uint64_t count)
{
    double ns = (double)(env_now_ns() - m.start_ns), cpu = cpu_seconds() - m.cpu_start;
    printf("%-34s %10.0f/s %9.1f ns each %9.1f ns CPU each\n", what, count / ns * 1e9, ns / count,
        cpu * 1e9 / count);
}

static uint64_t yields_left;
static struct fiber_group group;

static void yielder(void *arg)
{
    while (yields_left > 0) {
        yields_left--;
        fiber_yield();
    }
    fiber_group_done(&group, 0);
}

static struct fiber_queue ping_queue, pong_queue;

static void ponger(void *arg)
{
    for (uint64_t i = 0; i < 5000000; i++) {
        fiber_queue_wait(&ping_queue);
        fiber_queue_wake_one(&pong_queue);
    }
    fiber_group_done(&group, 0);
}

/* Wakes and switches, without the loop in between. */
static void bench_switch(void)
{
    fiber_group_init(&group);
    fiber_queue_init(&ping_queue);
    fiber_queue_init(&pong_queue);
    fiber_group_add(&group, 1);
    fiber_spawn("pong", ponger, NULL);
    fiber_yield();
    struct measure m = measure_start();
    for (uint64_t i = 0; i < 5000000; i++) {
        fiber_queue_wake_one(&ping_queue);
        fiber_queue_wait(&pong_queue);
    }
    measure_print(m, "switch to another fiber (wake, wait)", 10000000);
    CHECK(fiber_group_wait(&group) == 0);
}

/* A yield lets the loop look at the world: an io_uring_enter a round. */
static void bench_yield(void)
{
    fiber_group_init(&group);
    fiber_group_add(&group, 100);
    yields_left = 5000000;
    struct measure m = measure_start();
    for (int i = 0; i < 100; i++)
        fiber_spawn("yield", yielder, NULL);
    fiber_group_wait(&group);
    measure_print(m, "yield, 100 fibers a round", 5000000);
}

static void nothing(void *arg)
{
    fiber_group_done(&group, 0);
}

static void bench_spawn(void)
{
    struct measure m = measure_start();
    for (int i = 0; i < 1000000; i++) {
        fiber_group_init(&group);
        fiber_group_add(&group, 1);
        fiber_spawn("nothing", nothing, NULL);
        fiber_group_wait(&group);
    }
    measure_print(m, "spawn and wait", 1000000);
}

static int64_t nothing_on_thread(void *arg)
{
    return 0;
}

static void bench_offload(void)
{
    struct measure m = measure_start();
    for (int i = 0; i < 20000; i++)
        env_offload(nothing_on_thread, NULL);
    measure_print(m, "offload", 20000);
}

struct slot {
    struct env_io io;
    struct iovec iov;
};

static uint64_t end_ns, completed;
static unsigned in_flight;
static struct fiber *driver;

static void slot_submit(struct slot *slot)
{
    slot->io.off_bytes = env_random_u64() % (FILE_BYTES / 4096) * 4096;
    in_flight++;
    env_io_submit(&slot->io);
}

static void slot_done(struct env_io *io)
{
    CHECK(io->result == 4096);
    in_flight--;
    completed++;
    if (io->submitted_ns < end_ns)
        slot_submit(container_of(io, struct slot, io));
    else if (in_flight == 0)
        fiber_wake(driver);
}

static void bench_disk(struct env_file *file, enum env_io_op op, unsigned depth, const char *what)
{
    static struct slot slots[DEPTH_MAX];
    char *buf = mem_alloc_pages(DEPTH_MAX * 4096);
    for (int i = 0; i < DEPTH_MAX * 4096; i++)
        buf[i] = (char)(i * 7 + i / 4096);
    driver = fiber_self();
    completed = 0;
    struct measure m = measure_start();
    end_ns = m.start_ns + (uint64_t)(seconds * SECOND_NS);
    for (unsigned i = 0; i < depth; i++) {
        slots[i].iov = (struct iovec){buf + i * 4096, 4096};
        slots[i].io = (struct env_io){
            .op = op, .file = file, .iov = &slots[i].iov, .iov_count = 1, .done = slot_done};
        slot_submit(&slots[i]);
    }
    while (in_flight > 0)
        fiber_suspend();
    measure_print(m, what, completed);
    mem_free_pages(buf, DEPTH_MAX * 4096);
}

static void bench_disk_fiber(struct env_file *file)
{
    char *buf = mem_alloc_pages(4096);
    memset(buf, 1, 4096);
    uint64_t count = 0;
    struct measure m = measure_start();
    while (env_now_ns() < m.start_ns + (uint64_t)(seconds * SECOND_NS)) {
        uint64_t off_bytes = env_random_u64() % (FILE_BYTES / 4096) * 4096;
        CHECK(env_file_write(file, buf, 4096, off_bytes, false) == 0);
        count++;
    }
    measure_print(m, "4k write qd1, fiber form", count);
    mem_free_pages(buf, 4096);
}

static struct env_listener *listener;

static void echo(void *arg)
{
    struct env_stream *stream;
    char buf[64];
    int64_t n;
    CHECK(env_accept(listener, &stream) == 0);
    while ((n = env_recv(stream, buf, sizeof(buf), UINT64_MAX)) > 0) {
        struct iovec iov = {buf, n};
        CHECK(env_send(stream, &iov, 1, UINT64_MAX) == 0);
    }
    env_stream_close(stream);
    fiber_group_done(&group, 0);
}

static void bench_net(const char *address, const char *what)
{
    struct env_stream *stream;
    char buf[64] = "ping";
    CHECK(env_listen(address, 0600, &listener) == 0);
    fiber_group_init(&group);
    fiber_group_add(&group, 1);
    fiber_spawn("echo", echo, NULL);
    CHECK(env_connect(env_listener_address(listener), UINT64_MAX, &stream) == 0);
    struct measure m = measure_start();
    for (int i = 0; i < 100000; i++) {
        struct iovec iov = {buf, sizeof(buf)};
        CHECK(env_send(stream, &iov, 1, UINT64_MAX) == 0);
        CHECK(env_recv(stream, buf, sizeof(buf), UINT64_MAX) > 0);
    }
    measure_print(m, what, 100000);
    env_stream_close(stream);
    CHECK(fiber_group_wait(&group) == 0);
    env_listener_close(listener);
}

static int bench(void *arg)
{
    struct env_file *file;
    bench_switch();
    bench_spawn();
    bench_yield();
    bench_offload();
    bench_net("tcp:127.0.0.1:0", "tcp round trip in one loop");
    int rc = env_file_open(path, ENV_OPEN_CREATE | ENV_OPEN_EXCLUSIVE_LOCK, FILE_BYTES, &file);
    if (rc < 0)
        return 1;
    bench_disk_fiber(file);
    bench_disk(file, ENV_IO_WRITE, 1, "4k write qd1, callback form");
    bench_disk(file, ENV_IO_WRITE_DSYNC, 1, "4k dsync write qd1");
    bench_disk(file, ENV_IO_WRITE, 32, "4k write qd32");
    bench_disk(file, ENV_IO_READ, 1, "4k read qd1");
    bench_disk(file, ENV_IO_READ, 32, "4k read qd32");
    env_file_close(file);
    unlink(path);
    return 0;
}

int main(int argc, char **argv)
{
    struct env_uring_options options = {0};
    if (argc < 2) {
        fprintf(stderr, "usage: bench_env DIRECTORY [SECONDS]\n");
        return 2;
    }
    if (argc > 2)
        seconds = atof(argv[2]);
    snprintf(path, sizeof(path), "%s/bench_env.%d", argv[1], (int)getpid());
    return env_uring_run(&options, bench, NULL);
}
