/* SPDX-License-Identifier: Apache-2.0
 *
 * Clients and servers over TCP loopback in the production env.
 */
#include "uring_run.h"

#include "common/log.h"
#include "rpc_fixture.h"

/* What a very busy machine may need. */
#define PATIENCE_NS (30000 * RPC_MS)

static struct rpc_options node_a, node_b;

static int run(int (*main_fn)(void *arg))
{
    node_a = rpc_options_of("a", 0xa);
    node_b = rpc_options_of("b", 0xb);
    node_a.silence_ns = node_b.silence_ns = PATIENCE_NS;
    return run_in_env(main_fn, (struct env_uring_options){.fiber_count_max = 256});
}

/* --- Calls -------------------------------------------------------------------------------------- */

static void fill(uint8_t *data, size_t len_bytes, uint64_t seed)
{
    for (size_t i = 0; i < len_bytes; i++)
        data[i] = (uint8_t)((i * 2654435761u + seed) >> 7);
}

/* A payload of `len_bytes` in pieces goes there and comes back in other pieces. */
static void echo_one(size_t len_bytes, unsigned pieces_out, unsigned pieces_in)
{
    uint8_t *out = mem_alloc(len_bytes + 1), *in = mem_alloc(len_bytes + 1), body[40], back[40];
    struct iovec iov_out[16], iov_in[16];
    fill(out, len_bytes, len_bytes);
    fill(body, sizeof(body), 7);
    memset(in, 0, len_bytes);
    for (unsigned i = 0; i < pieces_out; i++) {
        size_t at = len_bytes * i / pieces_out;
        iov_out[i] = (struct iovec){out + at, len_bytes * (i + 1) / pieces_out - at};
    }
    for (unsigned i = 0; i < pieces_in; i++) {
        size_t at = len_bytes * i / pieces_in;
        iov_in[i] = (struct iovec){in + at, len_bytes * (i + 1) / pieces_in - at};
    }
    struct rpc_call call = {.method = ECHO,
        .body = body,
        .body_len_bytes = sizeof(body),
        .payload = iov_out,
        .payload_count = pieces_out,
        .deadline_ns = env_now_ns() + 20000 * RPC_MS,
        .reply_body = back,
        .reply_body_max = sizeof(back),
        .reply_payload = iov_in,
        .reply_payload_count = pieces_in};
    CHECK(rpc_call(fx.client, &call) == 0);
    CHECK(call.ret_body_len_bytes == sizeof(body) && memcmp(body, back, sizeof(body)) == 0);
    CHECK(call.ret_payload_bytes == len_bytes && memcmp(out, in, len_bytes) == 0);
    mem_free(out);
    mem_free(in);
}

static int echo_main(void *arg)
{
    static const size_t lengths[] = {
        0, 1, 4095, 4096, 65535, 65536, 65537, 262144, 1000001, 4 << 20, RPC_PAYLOAD_BYTES_MAX};
    uint64_t before_bytes = mem_used_bytes(fiber_env());
    fixture_start(node_b, node_a);
    CHECK(strcmp(rpc_client_peer(fx.client)->node_name, "b") == 0);
    CHECK(rpc_client_peer(fx.client)->incarnation == 0xb * 1000ull);
    CHECK(rpc_client_problem(fx.client)[0] == 0);
    for (unsigned i = 0; i < ARRAY_SIZE(lengths); i++) {
        echo_one(lengths[i], 1, 1);
        echo_one(lengths[i], 3, 16);
        echo_one(lengths[i], 16, 1);
    }
    fixture_stop();
    CHECK(mem_used_bytes(fiber_env()) == before_bytes);
    return 0;
}

static void payloads_of_any_length_and_shape_go_there_and_back(void **state)
{
    assert_int_equal(run(echo_main), 0);
}

struct crc_call {
    struct rpc_call call;
    struct iovec iov, iov_back;
    bool done;
};

static void crc_done(struct rpc_call *call)
{
    struct crc_call *c = container_of(call, struct crc_call, call);
    if (call->result == 0)
        check_block_crcs(call->ret_block_crcs, c->iov_back.iov_base, c->iov_back.iov_len);
    c->done = true;
}

/* An echo of a payload whose CRC the caller says. */
static int echo_with_crc(size_t len_bytes, uint32_t wrong)
{
    uint8_t *data = mem_alloc_pages(len_bytes), *back = mem_alloc_pages(len_bytes);
    struct crc_call c = {.iov = {data, len_bytes}, .iov_back = {back, len_bytes}};
    fill(data, len_bytes, len_bytes);
    c.call = (struct rpc_call){.method = ECHO,
        .payload = &c.iov,
        .payload_count = 1,
        .payload_crc_known = true,
        .payload_crc = crc32c(0, data, len_bytes) ^ wrong,
        .reply_payload = &c.iov_back,
        .reply_payload_count = 1,
        .done = crc_done};
    rpc_call_submit(fx.client, &c.call);
    while (!c.done)
        env_sleep_ns(RPC_MS);
    CHECK(c.call.result < 0 || memcmp(data, back, len_bytes) == 0);
    mem_free_pages(data, len_bytes);
    mem_free_pages(back, len_bytes);
    return c.call.result;
}

static int crc_main(void *arg)
{
    static const size_t lengths[] = {4096, 5000, 65536, 69632, 1 << 20, (1 << 20) + 4096};
    fixture_start(node_b, node_a);
    for (unsigned i = 0; i < ARRAY_SIZE(lengths); i++)
        CHECK(echo_with_crc(lengths[i], 0) == 0);
    for (unsigned i = 0; i < ARRAY_SIZE(lengths); i++) {
        unsigned handled = fx.handled;
        CHECK(echo_with_crc(lengths[i], 1) < 0 && fx.handled == handled);
        while (!is_connected())
            env_sleep_ns(RPC_MS);
    }
    fixture_stop();
    return 0;
}

static void a_crc_that_the_caller_knows_is_what_the_peer_checks(void **state)
{
    assert_int_equal(run(crc_main), 0);
}

#define MANY 3000

static struct many {
    struct rpc_call call;
    uint64_t number, back;
    uint8_t data[512], data_back[512];
    struct iovec iov, iov_back;
} many[MANY];

static unsigned many_done;

static void one_of_many_done(struct rpc_call *call)
{
    struct many *m = container_of(call, struct many, call);
    CHECK(call->result == 0 && m->back == m->number);
    CHECK(memcmp(m->data, m->data_back, sizeof(m->data)) == 0);
    many_done++;
}

static bool all_done(void)
{
    return many_done == MANY;
}

/* More calls at once than the window has room for, both in number and in bytes. */
static int many_main(void *arg)
{
    node_b.window_calls = 64;
    node_b.window_bytes = 40 * 1024;
    fixture_start(node_b, node_a);
    fx.ordered = true;
    many_done = 0;
    for (uint64_t i = 0; i < MANY; i++) {
        struct many *m = &many[i];
        *m = (struct many){.number = i + 1};
        fill(m->data, sizeof(m->data), i);
        m->iov = (struct iovec){m->data, sizeof(m->data)};
        m->iov_back = (struct iovec){m->data_back, sizeof(m->data_back)};
        m->call = (struct rpc_call){.method = ECHO,
            .body = &m->number,
            .body_len_bytes = 8,
            .payload = &m->iov,
            .payload_count = 1,
            .reply_body = &m->back,
            .reply_body_max = 8,
            .reply_payload = &m->iov_back,
            .reply_payload_count = 1,
            .done = one_of_many_done};
        rpc_call_submit(fx.client, &m->call);
        CHECK(many_done == 0); /* never on the submitter's stack */
    }
    CHECK(wait_until(all_done, PATIENCE_NS));
    CHECK(fx.handled == MANY && fx.replies_sent == MANY);
    fixture_stop();
    return 0;
}

static unsigned waited;

static void one_waited(struct rpc_call *call)
{
    CHECK(call->result == 0);
    waited++;
}

#define PATIENT 24

static bool half_waits(void)
{
    return fx.waiting_count == 8;
}

/* C7: the window is full of calls that wait; another kind of call gets through, and their turn comes. */
static int patient_main(void *arg)
{
    static struct rpc_call calls[PATIENT];
    node_b.window_calls = 16;
    fixture_start(node_b, node_a);
    for (unsigned i = 0; i < PATIENT; i++) {
        calls[i] = (struct rpc_call){.method = WAIT, .patient = true, .done = one_waited};
        rpc_call_submit(fx.client, &calls[i]);
    }
    CHECK(wait_until(half_waits, PATIENCE_NS));
    for (unsigned i = 0; i < 20; i++)
        echo_one(4096, 1, 1);
    CHECK(fx.waiting_count == 8 && waited == 0);
    while (waited < PATIENT) {
        fixture_release();
        env_sleep_ns(RPC_MS);
    }
    fixture_stop();
    return 0;
}

static void calls_that_wait_leave_half_of_the_window(void **state)
{
    waited = 0;
    assert_int_equal(run(patient_main), 0);
}

static void many_calls_wait_for_the_window_and_are_handled_in_order(void **state)
{
    assert_int_equal(run(many_main), 0);
}

static int call_status(uint16_t method, const void *body, uint32_t len_bytes)
{
    struct rpc_call call = {.method = method, .body = body, .body_len_bytes = len_bytes};
    return rpc_call(fx.client, &call);
}

static int status_main(void *arg)
{
    static const int kept[] = {ENOENT, EBADMSG, EIO, EHOSTUNREACH, ESTALE, ENOSPC, ERANGE, EEXIST,
        EROFS, EREMOTEIO, EINVAL, EAGAIN, EBUSY, ESHUTDOWN, ECANCELED, ENOSYS, ENOTSUP, ETIMEDOUT,
        ENODEV, EMSGSIZE, ENOMEM, EACCES, 0};
    fixture_start(node_b, node_a);
    for (unsigned i = 0; i < ARRAY_SIZE(kept); i++)
        CHECK(call_status(ERROR, &(int){-kept[i]}, 4) == -kept[i]);
    CHECK(call_status(ERROR, &(int){-ETXTBSY}, 4) == -EIO);
    CHECK(call_status(999, NULL, 0) == -ENOSYS);
    CHECK(is_connected());
    /* More payload than there is room for is an error of that call only. */
    CHECK(call_status(FILL, &(uint32_t){5000}, 4) == -EMSGSIZE);
    CHECK(is_connected() && fx.disconnected == 0);
    /* A request that its method cannot be: the connection ends, the next attempt succeeds. */
    CHECK(call_status(STRICT, &(int){0}, 4) == -EHOSTUNREACH);
    CHECK(wait_until(is_connected, PATIENCE_NS));
    fixture_stop();
    return 0;
}

static void statuses_arrive_as_the_handler_gave_them(void **state)
{
    assert_int_equal(run(status_main), 0);
}

/* --- Deadlines, cancellation -------------------------------------------------------------------- */

static bool one_waits(void)
{
    return fx.waiting_count == 1;
}

static bool one_is_cancelled(void)
{
    return fx.waiting_count == 1 && fx.waiting[0]->cancelled;
}

static unsigned done_count;

static void count_done(struct rpc_call *call)
{
    done_count++;
}

static bool one_done(void)
{
    return done_count == 1;
}

static int deadline_main(void *arg)
{
    fixture_start(node_b, node_a);
    struct rpc_call call = {.method = WAIT, .deadline_ns = env_now_ns() + 50 * RPC_MS};
    uint64_t begin_ns = env_now_ns();
    CHECK(rpc_call(fx.client, &call) == -ETIMEDOUT);
    uint64_t took_ns = env_now_ns() - begin_ns;
    CHECK_MSG(took_ns >= 49 * RPC_MS && took_ns < 20000 * RPC_MS, "%lu ns", took_ns);
    CHECK(fx.waiting_count == 1);
    CHECK(fx.waiting[0]->deadline_ns < begin_ns + 20000 * RPC_MS);
    CHECK(wait_until(one_is_cancelled, PATIENCE_NS)); /* the server was told */
    fixture_release();

    done_count = 0;
    call = (struct rpc_call){.method = WAIT, .done = count_done};
    rpc_call_submit(fx.client, &call);
    CHECK(wait_until(one_waits, PATIENCE_NS));
    CHECK(fx.waiting[0]->deadline_ns == UINT64_MAX && !fx.waiting[0]->cancelled);
    rpc_call_cancel(fx.client, &call);
    CHECK(done_count == 0 && wait_until(one_done, PATIENCE_NS) && call.result == -ECANCELED);
    CHECK(wait_until(one_is_cancelled, PATIENCE_NS));
    fixture_release();
    echo_one(4096, 1, 1); /* and the connection is as good as before */
    CHECK(fx.disconnected == 0);
    fixture_stop();
    return 0;
}

static void a_late_or_cancelled_call_ends_and_the_server_is_told(void **state)
{
    assert_int_equal(run(deadline_main), 0);
}

/* --- Who may connect ---------------------------------------------------------------------------- */

static char log_seen[16][512];
static unsigned log_count;

static void keep_log(void *ctx, enum log_level level, const char *line)
{
    if (log_count < ARRAY_SIZE(log_seen))
        strncpy(log_seen[log_count++], line, sizeof(log_seen[0]) - 1);
}

static bool logged(const char *text)
{
    for (unsigned i = 0; i < log_count; i++)
        if (strstr(log_seen[i], text))
            return true;
    return false;
}

static void refused_with(struct rpc_options client, const char *name, const char *text)
{
    fx = (struct rpc_fixture){0};
    fixture_serve(&node_b, "tcp:127.0.0.1:0");
    log_count = 0;
    log_set_output(keep_log, NULL);
    fx.client =
        rpc_client_new(&client, rpc_server_address(fx.server), name, NULL, &fixture_client_events);
    uint64_t end_ns = env_now_ns() + PATIENCE_NS;
    while (!strstr(rpc_client_problem(fx.client), text) && env_now_ns() < end_ns)
        env_sleep_ns(RPC_MS);
    log_set_output(NULL, NULL);
    CHECK_MSG(strstr(rpc_client_problem(fx.client), text), "%s", rpc_client_problem(fx.client));
    CHECK(logged("was not let in") && logged("refuses us")); /* both sides said so */
    CHECK(call_status(ECHO, NULL, 0) == -EHOSTUNREACH);
    CHECK(fx.connected == 0 && fx.began == 0);
    fixture_stop();
}

static int refused_main(void *arg)
{
    struct rpc_options stranger = node_a;
    stranger.self.cluster.bytes[0] = 77;
    refused_with(stranger, "b", "belongs to cluster 01020300-");
    refused_with(node_a, "c", "this is node b and not c");
    return 0;
}

static void wrong_clusters_and_nodes_are_refused_in_words_on_both_sides(void **state)
{
    assert_int_equal(run(refused_main), 0);
}

static int nobody_main(void *arg)
{
    fx = (struct rpc_fixture){0};
    fx.client = rpc_client_new(&node_a, "tcp:127.0.0.1:1", "b", NULL, NULL);
    CHECK(call_status(ECHO, NULL, 0) == -EHOSTUNREACH);
    env_sleep_ns(50 * RPC_MS);
    CHECK(strstr(rpc_client_problem(fx.client), "cannot connect to b at tcp:127.0.0.1:1"));
    /* Its address becomes known. */
    fixture_serve(&node_b, "tcp:127.0.0.1:0");
    rpc_client_set_address(fx.client, rpc_server_address(fx.server));
    CHECK(wait_until(is_connected, PATIENCE_NS));
    fx.connected++;
    fx.disconnected++;
    fixture_stop();
    return 0;
}

static void without_a_connection_calls_end_and_attempts_go_on(void **state)
{
    assert_int_equal(run(nobody_main), 0);
}

static bool is_client_connected(void)
{
    return rpc_client_connected(fx.client);
}

static void release_soon(void *arg)
{
    env_sleep_ns(20 * RPC_MS);
    fixture_release();
}

static bool two_began(void)
{
    return fx.began == 2;
}

/* C3: the same node connects anew while a handler still works for its first connection. */
static int again_main(void *arg)
{
    fixture_start(node_b, node_a);
    done_count = 0;
    struct rpc_call call = {.method = WAIT, .done = count_done};
    rpc_call_submit(fx.client, &call);
    CHECK(wait_until(one_waits, PATIENCE_NS));
    struct rpc_client *first = fx.client;
    fx.client = rpc_client_new(&node_a, rpc_server_address(fx.server), "b", NULL, NULL);
    CHECK(wait_until(one_done, PATIENCE_NS) && call.result == -EHOSTUNREACH);
    rpc_client_free(first);
    CHECK(wait_until(one_is_cancelled, PATIENCE_NS));
    env_sleep_ns(1500 * RPC_MS); /* longer than connect_wait_ns */
    CHECK(fx.began == 1 && fx.ended == 0 && is_disconnected());
    fixture_release();
    CHECK(wait_until(two_began, PATIENCE_NS) && fx.ended == 1);
    CHECK(wait_until(is_connected, PATIENCE_NS));
    echo_one(100, 1, 1);
    fx.connected = fx.disconnected = 0;
    fixture_stop();
    return 0;
}

static void a_node_that_connects_again_waits_for_its_earlier_requests(void **state)
{
    assert_int_equal(run(again_main), 0);
}

/* C3: but not for what may be left behind; a stop waits for that too. */
static int left_main(void *arg)
{
    uint64_t before_bytes = mem_used_bytes(fiber_env());
    static uint8_t data[8192] __attribute__((aligned(4096)));
    struct iovec payload = {data, sizeof(data)};
    memset(data, 7, sizeof(data));
    fixture_start(node_b, node_a);
    done_count = 0;
    struct rpc_call call = {
        .method = WAIT, .payload = &payload, .payload_count = 1, .done = count_done};
    rpc_call_submit(fx.client, &call);
    CHECK(wait_until(one_waits, PATIENCE_NS));
    fx.waiting[0]->may_be_left = true;
    rpc_client_free(fx.client);
    fx.client = rpc_client_new(&node_a, rpc_server_address(fx.server), "b", NULL, NULL);
    CHECK(wait_until(two_began, PATIENCE_NS) && fx.ended == 1);
    CHECK(fx.waiting_count == 1 && fx.waiting[0]->cancelled && !fx.waiting[0]->session);
    CHECK(memcmp(fx.waiting[0]->payload, data, sizeof(data)) == 0); /* still the handler's */
    CHECK(wait_until(is_client_connected, PATIENCE_NS));
    echo_one(100, 1, 1);
    fixture_reply(fx.waiting[0], 4096, NULL, 'x'); /* to nowhere */
    fx.waiting_count = 0;

    rpc_call_submit(fx.client, &call);
    CHECK(wait_until(one_waits, PATIENCE_NS));
    fx.waiting[0]->may_be_left = true;
    rpc_client_free(fx.client);
    env_sleep_ns(20 * RPC_MS);
    fiber_spawn("release", release_soon, NULL);
    rpc_server_stop(fx.server);
    CHECK(fx.waiting_count == 0 && mem_used_bytes(fiber_env()) == before_bytes);
    return 0;
}

static void what_may_be_left_behind_does_not_hold_up_the_next_connection(void **state)
{
    assert_int_equal(run(left_main), 0);
}

static int stop_main(void *arg)
{
    uint64_t before_bytes = mem_used_bytes(fiber_env());
    fixture_start(node_b, node_a);
    done_count = 0;
    struct rpc_call call = {.method = WAIT, .done = count_done};
    rpc_call_submit(fx.client, &call);
    CHECK(wait_until(one_waits, PATIENCE_NS));
    rpc_client_free(fx.client);
    CHECK(done_count == 1 && call.result == -EHOSTUNREACH);
    CHECK(wait_until(one_is_cancelled, PATIENCE_NS));
    fixture_release();
    rpc_server_stop(fx.server);
    CHECK(fx.ended == 1 && mem_used_bytes(fiber_env()) == before_bytes);

    fixture_start(node_b, node_a);
    rpc_server_stop(fx.server);
    env_sleep_ns(20 * RPC_MS);
    CHECK(!is_connected() && fx.ended == 1);
    rpc_client_free(fx.client);

    fx = (struct rpc_fixture){0};
    fixture_serve(&node_b, "tcp:127.0.0.1:0");
    rpc_server_stop(fx.server); /* before its fibers have run */
    return 0;
}

static void ends_in_either_order_leave_nothing_behind(void **state)
{
    assert_int_equal(run(stop_main), 0);
}

int main(void)
{
    log_set_level(LOG_LEVEL_WARN);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(payloads_of_any_length_and_shape_go_there_and_back),
        cmocka_unit_test(many_calls_wait_for_the_window_and_are_handled_in_order),
        cmocka_unit_test(calls_that_wait_leave_half_of_the_window),
        cmocka_unit_test(statuses_arrive_as_the_handler_gave_them),
        cmocka_unit_test(a_late_or_cancelled_call_ends_and_the_server_is_told),
        cmocka_unit_test(wrong_clusters_and_nodes_are_refused_in_words_on_both_sides),
        cmocka_unit_test(without_a_connection_calls_end_and_attempts_go_on),
        cmocka_unit_test(a_node_that_connects_again_waits_for_its_earlier_requests),
        cmocka_unit_test(what_may_be_left_behind_does_not_hold_up_the_next_connection),
        cmocka_unit_test(ends_in_either_order_leave_nothing_behind),
        cmocka_unit_test(a_crc_that_the_caller_knows_is_what_the_peer_checks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
