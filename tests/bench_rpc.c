/* SPDX-License-Identifier: Apache-2.0
 *
 * What a call costs: two processes over TCP loopback, requests with a payload (writes) or replies with one (reads),
 * one at a time and many. us a call, calls a second, and the CPU of both processes for each.
 * Not a test:  build/tests/bench_rpc [SECONDS]
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/check.h"
#include "common/env.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/rpc.h"

enum { WRITE = 1, READ = 2, CPU = 3, BODY_BYTES = 64, DEPTH_MAX = 128, LARGE_BYTES = 1 << 20 };

static double seconds = 2;
static int address_fd[2];
static uint8_t *large;

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

/* --- Server ------------------------------------------------------------------------------------- */

static void handle_write(void *ctx, struct rpc_request *request)
{
    rpc_reply(request, 0, request->body, 16, NULL, 0, NULL, NULL);
}

static void nothing(void *arg)
{
}

static void handle_read(void *ctx, struct rpc_request *request)
{
    uint32_t bytes;
    memcpy(&bytes, request->body, sizeof(bytes));
    struct iovec iov = {large, bytes};
    rpc_reply(request, 0, request->body, 16, &iov, 1, nothing, NULL);
}

static void handle_cpu(void *ctx, struct rpc_request *request)
{
    uint64_t ns = cpu_ns();
    rpc_reply(request, 0, &ns, sizeof(ns), NULL, 0, NULL, NULL);
}

static int server_main(void *arg)
{
    static const struct rpc_method methods[] = {{WRITE, "write", handle_write, 16, LARGE_BYTES},
        {READ, "read", handle_read, 16, 0}, {CPU, "cpu", handle_cpu, 0, 0}};
    struct rpc_options options = options_of("server", 1);
    struct rpc_server *server;
    char *error;
    large = mem_alloc_pages(LARGE_BYTES);
    memset(large, 'x', LARGE_BYTES);
    CHECK(rpc_server_start(&options, "tcp:127.0.0.1:0", methods, 3, NULL, NULL, &server, &error) ==
          0);
    dprintf(address_fd[1], "%s\n", rpc_server_address(server));
    return env_wait_signal();
}

/* --- Client ------------------------------------------------------------------------------------- */

static struct slot {
    struct rpc_call call;
    uint8_t body[BODY_BYTES], back[BODY_BYTES];
    struct iovec iov;
} slots[DEPTH_MAX];

static struct rpc_client *client;
static uint64_t completed, end_ns;
static unsigned in_flight;
static struct fiber *driver;

static void call_done(struct rpc_call *call)
{
    CHECK(call->result == 0);
    completed++;
    if (env_now_ns() < end_ns)
        rpc_call_submit(client, call);
    else if (--in_flight == 0)
        fiber_wake(driver);
}

static uint64_t server_cpu_ns(void)
{
    uint64_t ns;
    struct rpc_call call = {.method = CPU, .reply_body = &ns, .reply_body_max = sizeof(ns)};
    CHECK(rpc_call(client, &call) == 0);
    return ns;
}

static void bench(const char *what, uint16_t method, uint32_t bytes, unsigned depth)
{
    uint64_t server_ns = server_cpu_ns(), client_ns = cpu_ns(), begin_ns = env_now_ns();
    completed = 0;
    end_ns = begin_ns + (uint64_t)(seconds * 1e9);
    driver = fiber_self();
    in_flight = depth;
    for (unsigned i = 0; i < depth; i++) {
        struct slot *s = &slots[i];
        memcpy(s->body, &bytes, sizeof(bytes));
        s->iov = (struct iovec){large, bytes};
        s->call = (struct rpc_call){.method = method,
            .body = s->body,
            .body_len_bytes = BODY_BYTES,
            .deadline_ns = end_ns + 10000000000ull,
            .reply_body = s->back,
            .reply_body_max = BODY_BYTES,
            .done = call_done};
        if (method == WRITE) {
            s->call.payload = &s->iov;
            s->call.payload_count = 1;
        } else {
            s->call.reply_payload = &s->iov;
            s->call.reply_payload_count = 1;
        }
        rpc_call_submit(client, &s->call);
    }
    while (in_flight > 0)
        fiber_suspend();
    double ns = (double)(env_now_ns() - begin_ns);
    client_ns = cpu_ns() - client_ns;
    server_ns = server_cpu_ns() - server_ns;
    printf("%-24s %9.0f calls/s %8.1f us each %7.2f us CPU each (client %.2f, server %.2f)\n", what,
        completed / ns * 1e9, ns / 1000 * depth / completed,
        (client_ns + server_ns) / 1000.0 / completed, client_ns / 1000.0 / completed,
        server_ns / 1000.0 / completed);
}

static int client_main(void *arg)
{
    char address[128];
    FILE *file = fdopen(address_fd[0], "r");
    CHECK(file && fgets(address, sizeof(address), file));
    address[strcspn(address, "\n")] = 0;
    struct rpc_options options = options_of("client", 2);
    large = mem_alloc_pages(LARGE_BYTES);
    memset(large, 'y', LARGE_BYTES);
    client = rpc_client_new(&options, address, "server", NULL, NULL);
    while (!rpc_client_connected(client))
        env_sleep_ns(1000000);
    bench("write 4 KiB, depth 1", WRITE, 4096, 1);
    bench("write 4 KiB, depth 32", WRITE, 4096, 32);
    bench("read 4 KiB, depth 1", READ, 4096, 1);
    bench("read 4 KiB, depth 32", READ, 4096, 32);
    bench("no payload, depth 1", WRITE, 0, 1);
    bench("no payload, depth 128", WRITE, 0, 128);
    bench("write 1 MiB, depth 4", WRITE, LARGE_BYTES, 4);
    bench("read 1 MiB, depth 4", READ, LARGE_BYTES, 4);
    rpc_client_free(client);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc > 1)
        seconds = atof(argv[1]);
    CHECK(pipe(address_fd) == 0);
    pid_t pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        log_set_level(LOG_LEVEL_WARN);
        exit(env_uring_run(&(struct env_uring_options){0}, server_main, NULL) != SIGTERM);
    }
    log_set_level(LOG_LEVEL_WARN);
    int rc = env_uring_run(&(struct env_uring_options){0}, client_main, NULL);
    kill(pid, SIGTERM);
    waitpid(pid, NULL, 0);
    return rc != 0;
}
