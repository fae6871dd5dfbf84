/* SPDX-License-Identifier: Apache-2.0
 *
 * The NBD server over volumes in memory: for tests of the protocol with real clients, and to
 * measure the protocol alone.
 *
 *   nbd_memory_server --listen ADDRESS... --volume NAME:BYTES... [--control ADDRESS] [--OPTION N]...
 *
 * Prints "ready" when it serves. On the control address it takes lines of words and answers each
 * with one line, "ok ..." or "error ...":
 *   resize NAME BYTES | delete NAME | add NAME BYTES | depose NAME | set NAME FAULT N | counts NAME
 *   stats
 * FAULT: delay_ns, delay_every, error, open_error (positive errno), stuck.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "blockd/nbd/server.h"
#include "common/check.h"
#include "common/env.h"
#include "common/log.h"
#include "common/mem.h"
#include "tests/lib/fake_volume.h"

#define LIST_MAX 32

struct options {
    const char *listen[LIST_MAX], *volume[LIST_MAX], *control;
    unsigned listen_count, volume_count;
    struct nbd_server_options nbd;
};

struct main {
    struct options options;
    struct volumes *volumes;
    struct nbd_server *server;
};

/* --- Control -----------------------------------------------------------------------------------
 */

static int set_fault(struct volumes *volumes, char **words)
{
    struct fake_faults *faults = fake_volume_faults(volumes, words[1]);
    long value = atol(words[3]);
    if (strcmp(words[2], "delay_ns") == 0)
        faults->delay_ns = value;
    else if (strcmp(words[2], "delay_every") == 0)
        faults->delay_every = value;
    else if (strcmp(words[2], "error") == 0)
        faults->error = -value;
    else if (strcmp(words[2], "open_error") == 0)
        faults->open_error = -value;
    else if (strcmp(words[2], "stuck") == 0)
        faults->stuck = value;
    else
        return -EINVAL;
    return 0;
}

static char *counts_text(struct volumes *volumes, const char *name)
{
    const struct fake_counts *n = fake_volume_counts(volumes, name);
    return mem_printf("ok reads=%lu writes=%lu stable=%lu fua=%lu flushes=%lu trims=%lu zeroes=%lu "
                      "no_hole=%lu statuses=%lu now=%lu duplicates=%lu users=%u\n",
        n->reads, n->writes, n->stable_writes, n->fua_calls, n->flushes, n->trims, n->zeroes,
        n->no_hole, n->statuses, n->calls_now, n->duplicates, fake_volume_users(volumes, name));
}

static char *stats_text(const struct nbd_server *server)
{
    struct nbd_server_stats s;
    nbd_server_get_stats(server, &s);
    return mem_printf("ok connections=%u handshakes=%u in_flight=%u held=%u buffers=%lu "
                      "accepted=%lu refused=%lu failed=%lu timed_out=%lu protocol_errors=%lu "
                      "stalled=%lu resized=%lu requests=%lu errors=%lu sends=%lu receives=%lu\n",
        s.connections, s.handshakes, s.requests_in_flight, s.requests_held, s.buffer_bytes,
        s.connections_accepted, s.connections_refused, s.handshakes_failed, s.handshakes_timed_out,
        s.protocol_errors, s.stalled, s.dropped_for_resize, s.requests, s.request_errors, s.sends,
        s.receives);
}

MAY_SUSPEND static char *command(struct main *m, char **words, unsigned count)
{
    char *error = NULL;
    int rc = -EINVAL;
    if (count == 1 && strcmp(words[0], "stats") == 0)
        return stats_text(m->server);
    if (count == 2 && strcmp(words[0], "counts") == 0)
        return counts_text(m->volumes, words[1]);
    if (count == 3 && strcmp(words[0], "resize") == 0)
        rc = volumes_resize(m->volumes, words[1], atol(words[2]), &error);
    if (count == 3 && strcmp(words[0], "add") == 0) {
        fake_volumes_add(m->volumes, words[1], atol(words[2]));
        rc = 0;
    }
    if (count == 2 && strcmp(words[0], "delete") == 0)
        rc = volumes_delete(m->volumes, words[1], true, &error);
    if (count == 2 && strcmp(words[0], "depose") == 0) {
        fake_volume_depose(m->volumes, words[1]);
        rc = 0;
    }
    if (count == 4 && strcmp(words[0], "set") == 0)
        rc = set_fault(m->volumes, words);
    mem_free(error);
    return rc < 0 ? mem_printf("error %s\n", strerror(-rc)) : mem_strdup("ok\n");
}

struct control_client {
    struct main *main;
    struct env_stream *stream;
};

static void control_client_main(void *arg)
{
    struct control_client client = *(struct control_client *)arg;
    char line[512];
    size_t len = 0;
    mem_free(arg);
    for (;;) {
        int64_t n = env_recv(client.stream, line + len, sizeof(line) - 1 - len, UINT64_MAX);
        if (n <= 0)
            break;
        len += n;
        line[len] = 0;
        if (line[len - 1] != '\n')
            continue;
        char *words[8], *at = line, *word;
        unsigned count = 0;
        while (count < ARRAY_SIZE(words) && (word = strsep(&at, " \n")) && *word)
            words[count++] = word;
        char *answer = command(client.main, words, count);
        struct iovec iov = {answer, strlen(answer)};
        int rc = env_send(client.stream, &iov, 1, UINT64_MAX);
        mem_free(answer);
        len = 0;
        if (rc < 0)
            break;
    }
    env_stream_close(client.stream);
}

static void control_main(void *arg)
{
    struct main *m = arg;
    struct env_listener *listener;
    CHECK(env_listen(m->options.control, 0600, &listener) == 0);
    for (;;) {
        struct control_client *client = NEW(struct control_client);
        client->main = m;
        CHECK(env_accept(listener, &client->stream) == 0);
        fiber_spawn("control", control_client_main, client);
    }
}

/* --- Main --------------------------------------------------------------------------------------
 */

static int serve(void *arg)
{
    struct main *m = arg;
    char *error = NULL;
    m->volumes = fake_volumes_new();
    for (unsigned i = 0; i < m->options.volume_count; i++) {
        char *name = mem_strdup(m->options.volume[i]), *size = strchr(name, ':');
        CHECK(size);
        *size = 0;
        fake_volumes_add(m->volumes, name, strtoull(size + 1, NULL, 0));
        mem_free(name);
    }
    struct attach *attach = attach_new(&(struct attach_options){.volumes = m->volumes});
    int rc = nbd_server_start(
        attach, m->options.listen, m->options.listen_count, &m->options.nbd, &m->server, &error);
    if (rc < 0) {
        fprintf(stderr, "%s\n", error);
        mem_free(error);
        return 1;
    }
    if (m->options.control)
        fiber_spawn("control", control_main, m);
    for (unsigned i = 0; i < nbd_server_address_count(m->server); i++)
        printf("listening %s\n", nbd_server_address(m->server, i));
    printf("ready\n");
    fflush(stdout);
    env_wait_signal();
    nbd_server_stop(m->server);
    attach_free(attach);
    fake_volumes_free(m->volumes);
    return 0;
}

static bool number_option(struct nbd_server_options *o, const char *name, const char *value)
{
    const struct {
        const char *name;
        unsigned *small;
        uint64_t *large;
    } table[] = {
        {"--connections-max", &o->connections_max, NULL},
        {"--handshakes-max", &o->handshakes_max, NULL},
        {"--handshake-timeout-ns", NULL, &o->handshake_timeout_ns},
        {"--drain-timeout-ns", NULL, &o->drain_timeout_ns},
        {"--stall-timeout-ns", NULL, &o->stall_timeout_ns},
        {"--hold-timeout-ns", NULL, &o->hold_timeout_ns},
        {"--requests-max", &o->requests_max, NULL},
        {"--connection-requests-max", &o->connection_requests_max, NULL},
        {"--buffer-bytes-max", NULL, &o->buffer_bytes_max},
        {"--connection-buffer-bytes-max", NULL, &o->connection_buffer_bytes_max},
    };
    for (unsigned i = 0; i < ARRAY_SIZE(table); i++) {
        if (strcmp(name, table[i].name) != 0)
            continue;
        if (table[i].small)
            *table[i].small = strtoul(value, NULL, 0);
        else
            *table[i].large = strtoull(value, NULL, 0);
        return true;
    }
    return false;
}

int main(int argc, char **argv)
{
    struct main m = {0};
    struct options *o = &m.options;
    for (int i = 1; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--listen") == 0 && o->listen_count < LIST_MAX) {
            o->listen[o->listen_count++] = argv[i + 1];
        } else if (strcmp(argv[i], "--volume") == 0 && o->volume_count < LIST_MAX) {
            o->volume[o->volume_count++] = argv[i + 1];
        } else if (strcmp(argv[i], "--control") == 0) {
            o->control = argv[i + 1];
        } else if (!number_option(&o->nbd, argv[i], argv[i + 1])) {
            fprintf(stderr, "nbd_memory_server: unknown option %s\n", argv[i]);
            return 2;
        }
    }
    return env_uring_run(&(struct env_uring_options){0}, serve, &m);
}
