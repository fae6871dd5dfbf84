/* SPDX-License-Identifier: Apache-2.0
 *
 * The admin server on a real unix socket, met by clients of every bad kind. Runs in the production
 * env: inside fibers CHECK takes the place of assertions.
 */
#include "uring_run.h"

#include <errno.h>

#include "blockd/admin/server.h"
#include "common/mem.h"

#define SECOND_NS 1000000000ull

static struct fiber_queue gate;
static bool gate_open;
static unsigned gate_ended;

static int method_echo(struct admin_call *call)
{
    uint64_t n = admin_params_number(&call->params, "n", ADMIN_REQUIRED, 0, 1000000, 0);
    int r = admin_params_end(&call->params, &call->error);
    if (r < 0)
        return r;
    call->result = json_pack("{s:I}", "n", (json_int_t)n);
    return 0;
}

static int method_fail(struct admin_call *call)
{
    call->error = mem_strdup("it burns; put it out");
    return -EIO;
}

static int method_slow(struct admin_call *call)
{
    for (int i = 1; i <= 2; i++)
        admin_call_progress(call, json_pack("{s:i}", "percent", 50 * i));
    while (!gate_open)
        fiber_queue_wait(&gate);
    gate_ended++;
    return 0;
}

static int method_large(struct admin_call *call)
{
    char *text = malloc(4 << 20);
    memset(text, 'x', 4 << 20);
    call->result = json_pack("{s:s#}", "text", text, 4 << 20);
    free(text);
    return 0;
}

static const struct admin_method methods[] = {
    {"echo", method_echo},
    {"fail", method_fail},
    {"slow", method_slow},
    {"large", method_large},
};

static struct admin_server *start(struct admin_server_options options)
{
    struct admin_server *server;
    CLEANUP_FREE char *error = NULL;
    fiber_queue_init(&gate);
    gate_open = false;
    gate_ended = 0;
    int r = admin_server_start(scratch_path("unix:", "admin.sock"), methods, ARRAY_SIZE(methods),
        NULL, &options, &server, &error);
    CHECK_MSG(r == 0, "%s", error);
    return server;
}

static struct env_stream *dial(void)
{
    struct env_stream *stream;
    int r =
        env_connect(scratch_path("unix:", "admin.sock"), env_now_ns() + 30 * SECOND_NS, &stream);
    CHECK_MSG(r == 0, "%s", strerror(-r));
    return stream;
}

static void say(struct env_stream *stream, const char *text, size_t len_bytes)
{
    struct iovec iov = {(void *)text, len_bytes};
    /* The server may have hung up already: what it answered is what counts. */
    (void)env_send(stream, &iov, 1, env_now_ns() + 60 * SECOND_NS);
}

/* The next line without its newline into `buffer`; false when the connection has ended. */
static bool hear(struct env_stream *stream, char *buffer, size_t bytes_max)
{
    size_t used = 0;
    for (;;) {
        CHECK(used < bytes_max - 1);
        int64_t n = env_recv(stream, buffer + used, 1, env_now_ns() + 60 * SECOND_NS);
        CHECK(n != -ETIMEDOUT);
        if (n <= 0)
            return false;
        if (buffer[used] == '\n')
            break;
        used++;
    }
    buffer[used] = 0;
    return true;
}

static void expect(struct env_stream *stream, const char *part)
{
    char line[4096];
    CHECK_MSG(hear(stream, line, sizeof(line)), "ended instead of %s", part);
    CHECK_MSG(strstr(line, part), "'%s' is not in '%s'", part, line);
}

static void expect_end(struct env_stream *stream)
{
    char line[4096];
    CHECK_MSG(!hear(stream, line, sizeof(line)), "heard '%s'", line);
    env_stream_close(stream);
}

static void expect_connections(const struct admin_server *server, unsigned count)
{
    for (unsigned i = 0; i < 2000 && admin_server_connections(server) != count; i++)
        env_sleep_ns(SECOND_NS / 100);
    CHECK(admin_server_connections(server) == count);
}

static void say_text(struct env_stream *stream, const char *text)
{
    say(stream, text, strlen(text));
}

static int requests_are_answered_in_order_body(void *arg)
{
    struct admin_server *server = start((struct admin_server_options){0});
    struct env_stream *stream = dial();
    say_text(stream, "{\"id\":1,\"method\":\"echo\",\"params\":{\"n\":5}}\n{\"id\":\"b\",\"meth");
    expect(stream, "{\"id\":1,\"result\":{\"n\":5}}");
    env_sleep_ns(SECOND_NS / 100);
    say_text(stream, "od\":\"fail\"}\n{\"id\":3,\"method\":\"nope\"}\n");
    expect(
        stream, "{\"id\":\"b\",\"error\":{\"code\":\"EIO\",\"message\":\"it burns; put it out\"}}");
    expect(stream, "there is no method 'nope'");
    /* Wrong parameters do not end the connection. */
    say_text(stream, "{\"id\":4,\"method\":\"echo\",\"params\":{\"n\":-1}}\n");
    expect(stream, "echo: parameter 'n' is not an integer");
    say_text(stream,
        "{\"id\":5,\"method\":\"slow\"}\n{\"id\":6,\"method\":\"echo\",\"params\":{\"n\":6}}\n");
    expect(stream, "{\"id\":5,\"progress\":{\"percent\":50}}");
    expect(stream, "{\"id\":5,\"progress\":{\"percent\":100}}");
    gate_open = true;
    fiber_queue_wake_all(&gate);
    expect(stream, "{\"id\":5,\"result\":{}}");
    expect(stream, "{\"id\":6,\"result\":{\"n\":6}}");
    env_stream_close(stream);
    admin_server_stop(server);
    return 0;
}

static int garbage_is_answered_then_ends_its_connection_body(void *arg)
{
    struct admin_server *server = start((struct admin_server_options){0});
    struct env_stream *good = dial();
    static const char *const garbage[] = {
        "\n", "GET / HTTP/1.1\r\n\r\n", "{\"id\":1}\n", "\xff\xfe\n", "null\n"};
    for (unsigned i = 0; i < ARRAY_SIZE(garbage); i++) {
        struct env_stream *bad = dial();
        say_text(bad, garbage[i]);
        expect(bad, "a request is a line");
        expect_end(bad);
    }
    char *large = malloc(3 << 20);
    memset(large, '[', 3 << 20);
    struct env_stream *bad = dial();
    say(bad, large, 3 << 20);
    expect(bad, "at most 1 MiB");
    expect_end(bad);
    large[500000] = '\n';
    bad = dial();
    say(bad, large, 500001);
    expect(bad, "nested deeper");
    expect_end(bad);
    free(large);
    say_text(good, "{\"id\":1,\"method\":\"echo\",\"params\":{\"n\":1}}\n");
    expect(good, "\"n\":1");
    env_stream_close(good);
    admin_server_stop(server);
    return 0;
}

static int stalled_clients_lose_their_connection_body(void *arg)
{
    struct admin_server *server = start((struct admin_server_options){
        .request_wait_ns = SECOND_NS / 10, .reply_wait_ns = SECOND_NS / 10});
    struct env_stream *idle = dial(), *half = dial(), *deaf = dial();
    say_text(half, "{\"id\":1,");
    say_text(deaf, "{\"id\":1,\"method\":\"large\"}\n{\"id\":2,\"method\":\"large\"}\n");
    expect(half, "did not come in time");
    expect_end(half);
    expect_connections(server, 1); /* the idle one may stay */
    env_stream_close(deaf);
    say_text(idle, "{\"id\":1,\"method\":\"echo\",\"params\":{\"n\":1}}\n");
    expect(idle, "\"n\":1");
    env_stream_close(idle);
    admin_server_stop(server);
    return 0;
}

static int connections_and_buffers_are_bounded_body(void *arg)
{
    struct admin_server *server =
        start((struct admin_server_options){.connections_max = 4, .buffer_bytes_max = 300000});
    struct env_stream *streams[6];
    for (unsigned i = 0; i < 6; i++) {
        streams[i] = dial();
        if (i == 0) {
            say_text(streams[0], "{\"id\":1,\"method\":\"slow\"}\n");
            expect(streams[0], "50");
            expect(streams[0], "100");
        }
        env_sleep_ns(SECOND_NS / 100);
    }
    /* The first is at work; the longest idle two made room. */
    expect_end(streams[1]);
    expect_end(streams[2]);
    expect_connections(server, 4);
    static char part[200000];
    memset(part, ' ', sizeof(part));
    say(streams[3], part, sizeof(part));
    env_sleep_ns(SECOND_NS / 2);
    say(streams[4], part, sizeof(part));
    expect(streams[4], "too many large requests");
    expect_end(streams[4]);
    say_text(streams[5], "{\"id\":1,\"method\":\"echo\",\"params\":{\"n\":1}}\n");
    expect(streams[5], "\"n\":1");
    gate_open = true;
    fiber_queue_wake_all(&gate);
    expect(streams[0], "result");
    env_stream_close(streams[0]);
    env_stream_close(streams[3]);
    env_stream_close(streams[5]);
    admin_server_stop(server);
    return 0;
}

static void stop_soon(void *arg)
{
    env_sleep_ns(SECOND_NS / 10);
    CHECK(gate_ended == 0);
    gate_open = true;
    fiber_queue_wake_all(&gate);
}

static int stop_waits_for_methods_whose_client_has_gone_body(void *arg)
{
    struct admin_server *server = start((struct admin_server_options){0});
    struct env_stream *stream = dial(), *idle = dial();
    say_text(stream, "{\"id\":1,\"method\":\"slow\"}\n");
    expect(stream, "50");
    env_stream_close(stream);
    fiber_spawn("open gate", stop_soon, NULL);
    admin_server_stop(server);
    CHECK(gate_ended == 1);
    expect_end(idle);
    return 0;
}

static int second_server_is_refused_by_name_body(void *arg)
{
    struct admin_server *server = start((struct admin_server_options){0}), *second;
    CLEANUP_FREE char *error = NULL;
    CHECK(admin_server_start(scratch_path("unix:", "admin.sock"), methods, 1, NULL, NULL, &second,
              &error) == -EADDRINUSE);
    CHECK(strstr(error, "admin.sock") && strstr(error, "another daemon"));
    admin_server_stop(server);
    return 0;
}

#define TEST(name)                                                                   \
    static void name(void **state)                                                   \
    {                                                                                \
        assert_int_equal(run_in_env(name##_body, (struct env_uring_options){0}), 0); \
    }
TEST(requests_are_answered_in_order)
TEST(garbage_is_answered_then_ends_its_connection)
TEST(stalled_clients_lose_their_connection)
TEST(connections_and_buffers_are_bounded)
TEST(stop_waits_for_methods_whose_client_has_gone)
TEST(second_server_is_refused_by_name)

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, scratch_setup, scratch_teardown)
    const struct CMUnitTest tests[] = {
        T(requests_are_answered_in_order),
        T(garbage_is_answered_then_ends_its_connection),
        T(stalled_clients_lose_their_connection),
        T(connections_and_buffers_are_bounded),
        T(stop_waits_for_methods_whose_client_has_gone),
        T(second_server_is_refused_by_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
