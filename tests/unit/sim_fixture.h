/* SPDX-License-Identifier: Apache-2.0
 *
 * What the tests of the simulated env share: one node that runs a fiber, pages filled with one byte, an
 * echo server and somebody who pings it.
 */
#pragma once

#include "common/env_sim.h"

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/check.h"
#include "common/mem.h"

#define MS 1000000ull
#define SEC 1000000000ull
#define PAGE 4096u

static inline struct sim *sim_with(uint64_t seed)
{
    return sim_new(&(struct sim_options){.seed = seed});
}

/* Runs fn(arg) as a fiber of `node` to its end. */
struct job {
    fiber_fn *fn;
    void *arg;
    bool done;
};

static inline void job_main(void *arg)
{
    struct job *job = arg;
    job->fn(job->arg);
    job->done = true;
}

static inline bool job_done(void *arg)
{
    return ((struct job *)arg)->done;
}

static inline void run_on(struct env *node, fiber_fn *fn, void *arg)
{
    struct job job = {.fn = fn, .arg = arg};
    sim_node_start(node, "job", job_main, &job);
    assert_int_equal(sim_run(sim_current(), job_done, &job, UINT64_MAX), SIM_UNTIL);
}

static inline void never(void *arg)
{
    struct fiber_queue queue;
    fiber_queue_init(&queue);
    fiber_queue_wait(&queue);
}

/* --- Disks -------------------------------------------------------------- */

static inline struct env_file *open_disk(const char *path)
{
    struct env_file *file = NULL;
    assert_int_equal(env_file_open(path, ENV_OPEN_EXCLUSIVE_LOCK, 0, &file), 0);
    return file;
}

static inline void *page_of(uint8_t byte)
{
    return memset(mem_alloc_pages(PAGE), byte, PAGE);
}

static inline int write_page(struct env_file *file, uint64_t page, uint8_t byte, bool dsync)
{
    void *buf = page_of(byte);
    int error = env_file_write(file, buf, PAGE, page * PAGE, dsync);
    mem_free_pages(buf, PAGE);
    return error;
}

/* The page's byte if all are equal, -1 otherwise, or -errno - 1000. */
static inline int read_page(struct env_file *file, uint64_t page)
{
    uint8_t *buf = page_of(0);
    int error = env_file_read(file, buf, PAGE, page * PAGE);
    int byte = buf[0];
    for (unsigned i = 1; i < PAGE; i++) {
        if (buf[i] != buf[0])
            byte = -1;
    }
    mem_free_pages(buf, PAGE);
    return error ? error - 1000 : byte;
}

static inline void run_with_disk(uint64_t seed, fiber_fn *fn)
{
    struct sim *sim = sim_with(seed);
    struct env *node = sim_node_new(sim, "a");
    struct sim_disk *disk = sim_disk_new(node, "/d", 256 * PAGE);
    run_on(node, fn, disk);
    sim_free(sim);
}

static inline uint8_t peek_byte(struct sim_disk *disk, uint64_t page)
{
    uint8_t byte;
    sim_disk_peek(disk, page * PAGE + 5, &byte, 1);
    return byte;
}

/* --- Streams ------------------------------------------------------------ */

#define FOR_EVER UINT64_MAX

static inline int send_bytes(
    struct env_stream *stream, const void *buf, size_t len, uint64_t deadline_ns)
{
    struct iovec iov[2] = {{(void *)buf, len / 3}, {(char *)buf + len / 3, len - len / 3}};
    return env_send(stream, iov, 2, deadline_ns);
}

/* Echoes each connection until it ends. */
static inline void echo_stream(void *arg)
{
    struct env_stream *stream = arg;
    char *buf = mem_alloc(100000);
    int64_t n;
    while ((n = env_recv(stream, buf, 100000, FOR_EVER)) > 0) {
        if (send_bytes(stream, buf, n, FOR_EVER))
            break;
    }
    mem_free(buf);
    env_stream_close(stream);
}

static inline void echo_server(void *arg)
{
    struct env_listener *listener;
    assert_int_equal(env_listen(arg, 0600, &listener), 0);
    struct env_stream *stream;
    while (env_accept(listener, &stream) == 0)
        fiber_spawn("echo", echo_stream, stream);
}

static inline struct env_stream *connect_to(const char *address)
{
    struct env_stream *stream = NULL;
    assert_int_equal(env_connect(address, FOR_EVER, &stream), 0);
    return stream;
}

/* Sends one byte every 10 ms until that fails; then keeps what recv says. */
struct pinger {
    uint64_t echoed;
    uint64_t last_ns;
    int64_t end;
};

static inline void ping(void *arg)
{
    struct pinger *pinger = arg;
    struct env_stream *stream = connect_to("tcp:10.0.0.1:7000");
    char byte = 1;
    pinger->end = 1;
    for (;;) {
        int64_t end = send_bytes(stream, &byte, 1, FOR_EVER);
        if (end == 0)
            end = env_recv(stream, &byte, 1, FOR_EVER);
        if (end <= 0) {
            pinger->end = end;
            env_stream_close(stream);
            return;
        }
        pinger->echoed++;
        pinger->last_ns = sim_now_ns(sim_current());
        env_sleep_ns(10 * MS);
    }
}
