/* SPDX-License-Identifier: Apache-2.0
 *
 * Streams between simulated nodes, and what crashes and partitions do to them.
 */
#include "tests/unit/sim_fixture.h"

/* --- Network ------------------------------------------------------------ */

static int64_t recv_whole(struct env_stream *stream, void *buf, size_t len)
{
    size_t got = 0;
    while (got < len) {
        int64_t n = env_recv(stream, (char *)buf + got, len - got, FOR_EVER);
        if (n <= 0)
            return n < 0 ? n : (int64_t)got;
        got += n;
    }
    return got;
}

struct echo_sender {
    struct env_stream *stream;
    const char *bytes;
    size_t len;
};

static void echo_send_all(void *arg)
{
    struct echo_sender *sender = arg;
    for (size_t at = 0; at < sender->len;) {
        size_t n = 1 + env_random_u64() % 150000;
        n = MIN(n, sender->len - at);
        assert_int_equal(send_bytes(sender->stream, sender->bytes + at, n, FOR_EVER), 0);
        at += n;
    }
}

static void echo_two_megabytes(void *arg)
{
    struct echo_sender sender = {.stream = connect_to(arg), .len = 2000000};
    char *bytes = mem_alloc(sender.len), *back = mem_alloc(sender.len);
    env_random(bytes, sender.len);
    sender.bytes = bytes;
    fiber_spawn("echo sender", echo_send_all, &sender);
    assert_int_equal(recv_whole(sender.stream, back, sender.len), sender.len);
    assert_memory_equal(bytes, back, sender.len);
    mem_free(bytes);
    mem_free(back);
    env_stream_close(sender.stream);
}

struct pair {
    struct sim *sim;
    struct env *server, *client;
};

static struct pair pair_new(uint64_t seed, const char *address)
{
    struct pair pair = {.sim = sim_with(seed)};
    pair.server = sim_node_new(pair.sim, "server");
    pair.client = sim_node_new(pair.sim, "client");
    sim_node_start(pair.server, "echo server", echo_server, (void *)address);
    sim_run_for(pair.sim, MS);
    return pair;
}

static void test_streams_keep_bytes_and_order_both_ways(void **state)
{
    for (uint64_t seed = 0; seed < 5; seed++) {
        struct pair pair = pair_new(seed, "tcp:10.0.0.1:7000");
        run_on(pair.client, echo_two_megabytes, "tcp:10.0.0.1:7000");
        sim_free(pair.sim);
    }
}

static void connect_here_and_there(void *arg)
{
    struct env_stream *stream;
    assert_int_equal(env_connect("tcp:10.0.0.1:1", FOR_EVER, &stream), -ECONNREFUSED);
    assert_int_equal(env_connect("unix:/run/x", FOR_EVER, &stream), -ECONNREFUSED);
    assert_int_equal(env_connect("tcp:127.0.0.1:7000", FOR_EVER, &stream), -ECONNREFUSED);
    assert_int_equal(env_connect("bad", FOR_EVER, &stream), -EINVAL);
    stream = connect_to("tcp:10.0.0.1:7000");
    assert_string_equal(env_stream_peer(stream), "tcp:10.0.0.1:7000");
    env_stream_close(stream);

    struct env_listener *listener, *other;
    assert_int_equal(env_listen("unix:/run/x", 0600, &listener), 0);
    assert_int_equal(env_listen("unix:/run/x", 0600, &other), -EADDRINUSE);
    env_stream_close(connect_to("unix:/run/x"));
    env_listener_close(listener);
    assert_int_equal(env_connect("unix:/run/x", FOR_EVER, &stream), -ECONNREFUSED);
    assert_int_equal(env_listen("tcp:127.0.0.1:0", 0, &listener), 0);
    env_stream_close(connect_to(env_listener_address(listener)));
    env_listener_close(listener);
}

static void test_addresses_are_global_or_of_the_machine(void **state)
{
    struct pair pair = pair_new(20, "tcp:0.0.0.0:7000");
    run_on(pair.client, connect_here_and_there, NULL);
    sim_free(pair.sim);
}

static void listen_and_ignore(void *arg)
{
    struct env_listener *listener;
    struct env_stream *stream;
    assert_int_equal(env_listen("tcp:name:1", 0, &listener), 0);
    assert_int_equal(env_accept(listener, &stream), 0);
    never(NULL);
}

static void send_until_full(void *arg)
{
    struct env_stream *stream = connect_to("tcp:name:1");
    size_t len = 4 << 20;
    char *bytes = mem_zalloc(1, len);
    uint64_t begin_ns = env_now_ns();
    assert_int_equal(send_bytes(stream, bytes, len, begin_ns + SEC), -ETIMEDOUT);
    assert_in_range(env_now_ns() - begin_ns, SEC, SEC + MS);
    char byte;
    assert_int_equal(env_recv(stream, &byte, 1, env_now_ns() + SEC), -ETIMEDOUT);
    env_stream_close(stream);
}

static void test_a_reader_that_stops_holds_up_the_sender(void **state)
{
    struct sim *sim = sim_with(21);
    struct env *server = sim_node_new(sim, "server");
    sim_node_start(server, "ignores", listen_and_ignore, NULL);
    sim_run_for(sim, MS);
    run_on(sim_node_new(sim, "client"), send_until_full, NULL);
    sim_free(sim);
}

static void end_streams(void *arg)
{
    struct env_listener *listener;
    struct env_stream *ours, *theirs;
    assert_int_equal(env_listen("unix:/x", 0, &listener), 0);
    ours = connect_to("unix:/x");
    assert_int_equal(env_accept(listener, &theirs), 0);
    char buf[100];
    assert_int_equal(send_bytes(ours, "hello", 5, FOR_EVER), 0);
    assert_int_equal(env_stream_peer_state(theirs), ENV_PEER_OPEN);
    env_stream_close(ours);
    assert_int_equal(recv_whole(theirs, buf, 100), 5);
    assert_int_equal(env_recv(theirs, buf, 1, FOR_EVER), 0);
    assert_int_equal(env_stream_peer_state(theirs), ENV_PEER_GONE);
    assert_int_equal(send_bytes(theirs, "x", 1, FOR_EVER), 0); /* met by a reset */
    env_sleep_ns(MS);
    assert_int_equal(send_bytes(theirs, "x", 1, FOR_EVER), -ECONNRESET);
    env_stream_close(theirs);
    *(struct env_listener **)arg = listener;
}

static void accept_until_closed(void *arg)
{
    struct env_stream *stream;
    assert_int_equal(env_accept(*(struct env_listener **)arg, &stream), -ECANCELED);
    *(struct env_listener **)arg = NULL;
}

static void close_listener(void *arg)
{
    struct env_listener **listener = arg;
    fiber_spawn("acceptor", accept_until_closed, listener);
    env_sleep_ns(MS);
    env_listener_close(*listener);
    env_sleep_ns(MS);
    assert_null(*listener);
}

static void shut_under_receiver(void *arg)
{
    env_sleep_ns(MS);
    env_stream_shutdown(arg);
}

static void receive_until_shut(void *arg)
{
    struct env_stream *stream = connect_to("tcp:10.0.0.1:7000");
    fiber_spawn("shuts", shut_under_receiver, stream);
    char byte;
    assert_int_equal(env_recv(stream, &byte, 1, FOR_EVER), -ECONNRESET);
    assert_int_equal(send_bytes(stream, "abc", 3, FOR_EVER), -ECONNRESET);
    env_stream_close(stream);
}

static void test_streams_and_listeners_end(void **state)
{
    struct pair pair = pair_new(22, "tcp:10.0.0.1:7000");
    struct env_listener *listener;
    run_on(pair.client, end_streams, &listener);
    run_on(pair.client, close_listener, &listener);
    run_on(pair.client, receive_until_shut, NULL);
    sim_free(pair.sim);
}

static void test_one_way_partition_holds_then_heals_or_breaks(void **state)
{
    struct pair pair = pair_new(23, "tcp:10.0.0.1:7000");
    struct pinger pinger = {0};
    sim_node_start(pair.client, "ping", ping, &pinger);
    sim_run_for(pair.sim, SEC);
    assert_in_range(pinger.echoed, 50, 100);
    sim_net_cut(pair.server, pair.client, true);
    sim_run_for(pair.sim, 10 * SEC);
    assert_true(sim_now_ns(pair.sim) - pinger.last_ns > 9 * SEC && pinger.end == 1);
    sim_net_cut(pair.server, pair.client, false);
    sim_run_for(pair.sim, SEC);
    assert_true(sim_now_ns(pair.sim) - pinger.last_ns < 100 * MS);
    sim_net_isolate(pair.client, true);
    sim_run_for(pair.sim, 100 * SEC);
    assert_int_equal(pinger.end, -ETIMEDOUT);
    sim_free(pair.sim);
}

static void test_peers_see_a_crash_and_after_a_power_cut_silence(void **state)
{
    struct pair pair = pair_new(24, "tcp:10.0.0.1:7000");
    struct pinger pinger = {0};
    sim_node_start(pair.client, "ping", ping, &pinger);
    sim_run_for(pair.sim, 100 * MS);
    sim_node_crash(pair.server);
    sim_run_for(pair.sim, 100 * MS);
    assert_true(pinger.end == 0 || pinger.end == -ECONNRESET);

    sim_node_start(pair.server, "echo server", echo_server, "tcp:10.0.0.1:7000");
    sim_run_for(pair.sim, 10 * MS);
    sim_node_start(pair.client, "ping", ping, &pinger);
    sim_run_for(pair.sim, 100 * MS);
    sim_node_power_cut(pair.server, SIM_CUT_RANDOM);
    sim_run_for(pair.sim, 20 * SEC);
    assert_int_equal(pinger.end, 1);
    sim_node_start(pair.server, "echo server", echo_server, "tcp:10.0.0.1:7000");
    sim_run_for(pair.sim, SEC);
    assert_true(pinger.end == -ECONNRESET || pinger.end == 1); /* 1: it had sent nothing since */
    sim_free(pair.sim);
}

static void test_slow_links_and_resets(void **state)
{
    struct pair pair = pair_new(25, "tcp:10.0.0.1:7000");
    struct pinger pinger = {0};
    sim_net_set_latency(pair.client, pair.server, &(struct sim_net_latency){.base_ns = 300 * MS});
    sim_node_start(pair.client, "ping", ping, &pinger);
    sim_run_for(pair.sim, 2 * SEC);
    assert_in_range(pinger.echoed, 4, 7);
    sim_net_reset(pair.client, pair.server);
    sim_run_for(pair.sim, SEC);
    assert_int_equal(pinger.end, -ECONNRESET);
    sim_free(pair.sim);
}

static void connect_with_deadline(void *arg)
{
    struct env_stream *stream;
    uint64_t begin_ns = env_now_ns();
    assert_int_equal(env_connect("tcp:10.0.0.1:7000", begin_ns + 3 * SEC, &stream), -ETIMEDOUT);
    assert_in_range(env_now_ns() - begin_ns, 3 * SEC, 3 * SEC + MS);
}

static void test_connecting_to_a_dead_machine_times_out(void **state)
{
    struct pair pair = pair_new(26, "tcp:10.0.0.1:7000");
    sim_node_power_cut(pair.server, SIM_CUT_LOSE_ALL);
    run_on(pair.client, connect_with_deadline, NULL);
    sim_free(pair.sim);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_streams_keep_bytes_and_order_both_ways),
        cmocka_unit_test(test_addresses_are_global_or_of_the_machine),
        cmocka_unit_test(test_a_reader_that_stops_holds_up_the_sender),
        cmocka_unit_test(test_streams_and_listeners_end),
        cmocka_unit_test(test_one_way_partition_holds_then_heals_or_breaks),
        cmocka_unit_test(test_peers_see_a_crash_and_after_a_power_cut_silence),
        cmocka_unit_test(test_slow_links_and_resets),
        cmocka_unit_test(test_connecting_to_a_dead_machine_times_out),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
