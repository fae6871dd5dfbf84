/* SPDX-License-Identifier: Apache-2.0 */
#include "blockd/admin/server.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/check.h"
#include "common/env.h"
#include "common/log.h"
#include "common/mem.h"

#define KEEPALIVE_NS (5 * SECOND_NS)
#define BUFFER_BYTES_MIN 4096u
#define SECOND_NS 1000000000ull

struct admin_server {
    const struct admin_method *methods;
    unsigned method_count;
    void *ctx;
    struct admin_server_options options;
    struct env_listener *listener;
    struct list connections; /* longest idle first among the idle */
    unsigned connection_count;
    uint64_t buffer_bytes;
    bool accepting; /* the accept fiber lives */
    bool stopping;
    struct fiber_queue changed; /* a connection or the accept fiber has ended */
};

struct connection {
    struct list link;
    struct admin_server *server;
    struct env_stream *stream;
    char *buffer; /* bytes [0, used); no newline in [0, scanned) */
    size_t size, used, scanned;
    uint64_t began_ns; /* when the first byte of the buffered request came */
    bool in_method;
    bool broken; /* nothing more can be sent */
    struct fiber_mutex sending;
    struct env_timer keepalive; /* while a method runs */
    uint64_t method_began_ns;
    bool keepalive_sending; /* its fiber exists */
    struct fiber_queue keepalive_sent;
    const json_t *id; /* of the request under way */
};

/* --- Replies --------------------------------------------------------------------------------- */

/* {"id": ID, MEMBER: value} and a newline. `value` is stolen. */
static void send_line(struct connection *connection, const char *member, json_t *value)
{
    json_t *reply = json_object();
    const json_t *id = connection->id;
    json_object_set_new(reply, "id", id ? json_deep_copy(id) : json_null());
    CHECK_MSG(json_object_set_new(reply, member, value) == 0, "an admin reply is not text");
    char *text = json_dumps(reply, JSON_COMPACT);
    json_decref(reply);
    CHECK(text);
    struct iovec iov[] = {{text, strlen(text)}, {(void *)"\n", 1}};
    fiber_mutex_lock(&connection->sending);
    uint64_t deadline_ns = env_now_ns() + connection->server->options.reply_wait_ns;
    if (!connection->broken && env_send(connection->stream, iov, 2, deadline_ns) < 0)
        connection->broken = true;
    fiber_mutex_unlock(&connection->sending);
    free(text);
}

static void send_error(struct connection *connection, int error, const char *message)
{
    const char *code = strerrorname_np(-error);
    /* A message may quote what is not UTF-8 (a path of the configuration, say). */
    json_t *text = json_string(message);
    send_line(connection, "error",
        json_pack("{s:s, s:o}", "code", code ? code : "EIO", "message",
            text ? text : json_string("failed (the reason cannot be shown: not UTF-8)")));
}

void admin_call_progress(struct admin_call *call, json_t *progress)
{
    if (call->server)
        send_line(call->server, "progress", progress);
    else
        json_decref(progress); /* its client is at another node, which says that it waits */
}

/* --- Keepalive: a method that takes long says so, before the client gives up ---------------------
 */

static void keepalive_run(void *arg)
{
    struct connection *connection = arg;
    uint64_t elapsed_ns = env_now_ns() - connection->method_began_ns;
    send_line(connection, "progress",
        json_pack("{s:I}", "elapsed_s", (json_int_t)(elapsed_ns / SECOND_NS)));
    connection->keepalive_sending = false;
    fiber_queue_wake_all(&connection->keepalive_sent);
    if (connection->in_method)
        env_timer_arm(&connection->keepalive, env_now_ns() + KEEPALIVE_NS);
}

static void keepalive_fired(struct env_timer *timer)
{
    struct connection *connection = container_of(timer, struct connection, keepalive);
    connection->keepalive_sending = true;
    fiber_spawn("admin keepalive", keepalive_run, connection);
}

static void keepalive_stop(struct connection *connection)
{
    env_timer_cancel(&connection->keepalive);
    while (connection->keepalive_sending)
        fiber_queue_wait(&connection->keepalive_sent);
}

/* --- Requests -------------------------------------------------------------------------------- */

static const struct admin_method *method_find(const struct admin_server *server, const char *name)
{
    for (unsigned i = 0; i < server->method_count; i++)
        if (strcmp(server->methods[i].name, name) == 0)
            return &server->methods[i];
    return NULL;
}

static void run_method(struct connection *connection, const struct admin_request *request)
{
    struct admin_server *server = connection->server;
    const struct admin_method *method = method_find(server, request->method);
    if (!method) {
        CLEANUP_FREE char *message = mem_printf("there is no method '%.100s'; is this daemon older "
                                                "than the program that asks?",
            request->method);
        send_error(connection, -ENOSYS, message);
        return;
    }
    CLEANUP_FREE char *refusal = NULL;
    int refused =
        server->options.admit ? server->options.admit(server->ctx, method->name, &refusal) : 0;
    if (refused < 0) {
        send_error(connection, refused, refusal);
        return;
    }
    struct admin_call call = {.ctx = server->ctx, .server = connection};
    admin_params_init(&call.params, method->name, request->params);
    connection->in_method = true;
    connection->method_began_ns = env_now_ns();
    env_timer_arm(&connection->keepalive, env_now_ns() + KEEPALIVE_NS);
    int r = method->call(&call);
    connection->in_method = false;
    keepalive_stop(connection);
    mem_free(call.params.error);
    if (r < 0)
        send_error(connection, r, call.error ? call.error : strerror(-r));
    else
        send_line(connection, "result", call.result ? call.result : json_object());
    if (r < 0)
        json_decref(call.result);
    mem_free(call.error);
}

/* False: the connection is to end (A2). */
static bool handle_line(struct connection *connection, const char *line, size_t len_bytes)
{
    struct admin_request request;
    CLEANUP_FREE char *error = NULL;
    int r = admin_request_decode(line, len_bytes, &request, &error);
    connection->id = request.id;
    if (r < 0)
        send_error(connection, r, error);
    else
        run_method(connection, &request);
    connection->id = NULL;
    admin_request_fini(&request);
    return r == 0;
}

/* --- Connections ----------------------------------------------------------------------------- */

static void buffer_resize(struct connection *connection, size_t size)
{
    connection->server->buffer_bytes += size - connection->size;
    connection->buffer = mem_realloc(connection->buffer, size);
    connection->size = size;
}

/* Room for at least one byte more; false when that is beyond a limit. */
static bool buffer_room(struct connection *connection)
{
    size_t size = connection->size;
    if (connection->used < size)
        return true;
    size_t larger = size ? MIN(size * 4, ADMIN_REQUEST_BYTES_MAX + 1) : BUFFER_BYTES_MIN;
    if (larger == size || connection->server->buffer_bytes + larger - size >
                              connection->server->options.buffer_bytes_max)
        return false;
    buffer_resize(connection, larger);
    return true;
}

static void buffer_drop_front(struct connection *connection, size_t len_bytes)
{
    connection->used -= len_bytes;
    memmove(connection->buffer, connection->buffer + len_bytes, connection->used);
    connection->scanned = 0;
    connection->began_ns = env_now_ns();
    if (connection->used == 0 && connection->size > BUFFER_BYTES_MIN)
        buffer_resize(connection, BUFFER_BYTES_MIN);
}

/* Handles the whole lines that are there; false when the connection is to end. */
static bool handle_lines(struct connection *connection)
{
    for (;;) {
        char *end = memchr(
            connection->buffer + connection->scanned, '\n', connection->used - connection->scanned);
        if (!end) {
            connection->scanned = connection->used;
            return true;
        }
        size_t len = (size_t)(end - connection->buffer);
        bool go_on = handle_line(connection, connection->buffer, len);
        buffer_drop_front(connection, len + 1);
        if (!go_on || connection->broken || connection->server->stopping)
            return false;
    }
}

static int64_t receive(struct connection *connection)
{
    struct admin_server *server = connection->server;
    uint64_t deadline_ns = UINT64_MAX;
    if (connection->used > 0) {
        deadline_ns = connection->began_ns + server->options.request_wait_ns;
    } else { /* idle from now on: behind all others that are */
        list_remove(&connection->link);
        list_push_back(&server->connections, &connection->link);
    }
    int64_t n = env_recv(connection->stream, connection->buffer + connection->used,
        connection->size - connection->used, deadline_ns);
    if (n > 0 && connection->used == 0)
        connection->began_ns = env_now_ns();
    if (n > 0)
        connection->used += (size_t)n;
    return n;
}

static void serve(struct connection *connection)
{
    while (!connection->server->stopping) {
        if (!buffer_room(connection)) {
            bool own = connection->used > ADMIN_REQUEST_BYTES_MAX;
            send_error(connection, own ? -E2BIG : -EBUSY,
                own ? "a request is at most 1 MiB" : "too many large requests at once; try again");
            return;
        }
        int64_t n = receive(connection);
        if (n == -ETIMEDOUT)
            send_error(connection, -ETIMEDOUT, "the rest of the request did not come in time");
        if (n <= 0 || !handle_lines(connection))
            return;
    }
}

static void connection_run(void *arg)
{
    struct connection *connection = arg;
    struct admin_server *server = connection->server;
    serve(connection);
    list_remove(&connection->link);
    server->connection_count--;
    server->buffer_bytes -= connection->size;
    env_stream_close(connection->stream);
    mem_free(connection->buffer);
    mem_free(connection);
    fiber_queue_wake_all(&server->changed);
}

/* At the limit: the longest idle connection ends. False when all are at work. */
static bool make_room(struct admin_server *server)
{
    if (server->connection_count < server->options.connections_max)
        return true;
    list_for_each (it, &server->connections) {
        struct connection *connection = list_entry(it, struct connection, link);
        if (connection->in_method || connection->broken)
            continue;
        connection->broken = true;
        env_stream_shutdown(connection->stream);
        return true;
    }
    return false;
}

static void accept_run(void *arg)
{
    struct admin_server *server = arg;
    while (!server->stopping) {
        struct env_stream *stream;
        int r = env_accept(server->listener, &stream);
        if (r == -ECANCELED)
            break;
        if (r < 0) {
            log_warn_limited("admin socket: accept: %s", strerror(-r));
            env_sleep_ns(SECOND_NS / 10);
            continue;
        }
        if (server->stopping || !make_room(server)) {
            env_stream_close(stream);
            continue;
        }
        struct connection *connection = NEW(struct connection);
        connection->server = server;
        connection->stream = stream;
        fiber_mutex_init(&connection->sending);
        fiber_queue_init(&connection->keepalive_sent);
        env_timer_init(&connection->keepalive, keepalive_fired);
        list_push_back(&server->connections, &connection->link);
        server->connection_count++;
        fiber_spawn("admin connection", connection_run, connection);
    }
    server->accepting = false;
    fiber_queue_wake_all(&server->changed);
}

/* --- Life ------------------------------------------------------------------------------------ */

int admin_server_start(const char *address, const struct admin_method *methods,
    unsigned method_count, void *ctx, const struct admin_server_options *options,
    struct admin_server **ret_server, char **ret_error)
{
    struct env_listener *listener;
    int r = env_listen(address, 0600, &listener);
    if (r < 0) {
        *ret_error = mem_printf("admin socket %s: %s%s", address, strerror(-r),
            r == -EADDRINUSE ? "; another daemon listens there: stop it, or choose another "
                               "[admin] socket"
                             : "; check the path, or choose another [admin] socket");
        return r;
    }
    struct admin_server *server = NEW(struct admin_server);
    server->methods = methods;
    server->method_count = method_count;
    server->ctx = ctx;
    if (options)
        server->options = *options;
    if (!server->options.connections_max)
        server->options.connections_max = 128;
    if (!server->options.buffer_bytes_max)
        server->options.buffer_bytes_max = 8 << 20;
    if (!server->options.request_wait_ns)
        server->options.request_wait_ns = 30 * SECOND_NS;
    if (!server->options.reply_wait_ns)
        server->options.reply_wait_ns = 30 * SECOND_NS;
    server->listener = listener;
    list_init(&server->connections);
    fiber_queue_init(&server->changed);
    server->accepting = true;
    fiber_spawn("admin accept", accept_run, server);
    *ret_server = server;
    return 0;
}

void admin_server_stop(struct admin_server *server)
{
    server->stopping = true;
    env_listener_close(server->listener);
    list_for_each (it, &server->connections)
        env_stream_shutdown(list_entry(it, struct connection, link)->stream);
    while (server->accepting || server->connection_count > 0)
        fiber_queue_wait(&server->changed);
    mem_free(server);
}

unsigned admin_server_connections(const struct admin_server *server)
{
    return server->connection_count;
}
