/* SPDX-License-Identifier: Apache-2.0
 *
 * Networks and peers that misbehave, one at a time, in virtual time (all together: tests/sim/sim_rpc.c).
 */
#include "sim_fixture.h"

#include "common/log.h"
#include "rpc_fixture.h"

#define ADDRESS "tcp:10.0.0.2:7000"

/* What the two nodes of a test do; `client` runs when they are connected. */
static struct env *a, *b;
static bool over;

static void serve(void *arg)
{
    struct rpc_options options = rpc_options_of("b", 0xb);
    fixture_serve(&options, ADDRESS);
    while (!over)
        env_sleep_ns(10 * MS);
    fixture_release();
    rpc_server_stop(fx.server);
}

static void use(void *arg)
{
    struct rpc_options options = rpc_options_of("a", 0xa);
    fx.client = rpc_client_new(&options, ADDRESS, "b", NULL, &fixture_client_events);
    CHECK(wait_until(is_connected, 5 * SEC));
    ((void (*)(void))arg)();
    rpc_client_free(fx.client);
    over = true;
}

static void run_pair(void (*client)(void))
{
    struct sim *sim = sim_with(1);
    fx = (struct rpc_fixture){0};
    over = false;
    a = sim_node_new(sim, "a");
    b = sim_node_new(sim, "b");
    sim_node_start(b, "serve", serve, NULL);
    run_on(a, use, (void *)client);
    sim_run_for(sim, 1 * SEC);
    assert_int_equal(fx.began, fx.ended);
    sim_free(sim);
}

static int echo(uint32_t bytes, uint64_t deadline_ns)
{
    uint8_t *out = mem_alloc_pages(bytes), *in = mem_alloc_pages(bytes);
    memset(out, 'e', bytes);
    struct iovec iov_out = {out, bytes}, iov_in = {in, bytes};
    struct rpc_call call = {.method = ECHO,
        .payload = &iov_out,
        .payload_count = 1,
        .deadline_ns = deadline_ns,
        .reply_payload = &iov_in,
        .reply_payload_count = 1};
    int rc = rpc_call(fx.client, &call);
    CHECK(rc < 0 || memcmp(out, in, bytes) == 0);
    mem_free_pages(out, bytes);
    mem_free_pages(in, bytes);
    return rc;
}

/* A payload under way for longer than the silence, either way, is no silence. */
static void slow_link(void)
{
    const struct sim_net_latency slow = {.base_ns = 100 * MS, .ns_per_kib = 2 * MS};
    uint64_t begin_ns = env_now_ns();
    sim_net_set_latency(a, b, &slow);
    sim_net_set_latency(b, a, &slow);
    CHECK(echo(8 << 20, 0) == 0);
    CHECK(env_now_ns() - begin_ns > 6 * SEC);
    CHECK(fx.disconnected == 0);
}

static void a_slow_link_is_not_a_dead_one(void **state)
{
    run_pair(slow_link);
}

static void cut(struct env *from, struct env *to)
{
    uint64_t begin_ns = env_now_ns();
    sim_net_cut(from, to, true);
    CHECK(wait_until(is_disconnected, 10 * SEC));
    uint64_t took_ns = env_now_ns() - begin_ns;
    CHECK_MSG(took_ns > 1 * SEC && took_ns < 5 * SEC / 2, "%llu ms", took_ns / MS);
    env_sleep_ns(3 * SEC);
    CHECK(fx.disconnected == 1);
    CHECK(echo(4096, 0) == -EHOSTUNREACH);
    CHECK(rpc_client_problem(fx.client)[0]);
    sim_net_heal_all(sim_current());
    CHECK(wait_until(is_connected, 3 * SEC));
    CHECK(echo(4096, 0) == 0);
}

/* Its answer does not come: we hear nothing. */
static void cut_from_server(void)
{
    cut(b, a);
}

/* It hears nothing, and says so by ending the connection. */
static void cut_to_server(void)
{
    cut(a, b);
}

static void a_link_cut_one_way_is_noticed_within_the_silence(void **state)
{
    run_pair(cut_from_server);
    run_pair(cut_to_server);
}

/* A call with a long payload in a send that goes nowhere: its deadline passes, its memory stays in
 * use until the connection has ended. */
static void stuck_send(void)
{
    uint64_t begin_ns = env_now_ns();
    sim_net_cut(a, b, true);
    CHECK(echo(1 << 20, begin_ns + 100 * MS) == -ETIMEDOUT);
    uint64_t took_ns = env_now_ns() - begin_ns;
    CHECK_MSG(took_ns > 1 * SEC && took_ns < 5 * SEC / 2, "%llu ms", took_ns / MS);
    sim_net_heal_all(sim_current());
    CHECK(wait_until(is_connected, 3 * SEC));
    CHECK(echo(1 << 20, 0) == 0);
}

static void memory_in_a_send_is_not_given_back_before_its_end(void **state)
{
    run_pair(stuck_send);
}

/* We stand still for longer than the silence, the server does not know why. */
static void pauses(void)
{
    sim_node_pause(a, 5 * SEC);
    env_sleep_ns(1);
    CHECK(wait_until(is_disconnected, 1 * SEC) && wait_until(is_connected, 3 * SEC));
    CHECK(echo(4096, 0) == 0);
    sim_node_pause(b, 1 * SEC); /* shorter: nobody minds */
    CHECK(echo(4096, 0) == 0);
    CHECK(fx.disconnected == 1);
}

static void a_short_stall_is_sat_out(void **state)
{
    run_pair(pauses);
}

static void refused(void)
{
    fx.refuse = -EBUSY;
    sim_net_reset(a, b);
    CHECK(wait_until(is_disconnected, 1 * SEC));
    env_sleep_ns(3 * SEC);
    CHECK(strstr(rpc_client_problem(fx.client), "takes no session of node a now: Device or "));
    fx.refuse = 0;
    CHECK(wait_until(is_connected, 3 * SEC));
}

static void sessions_can_be_refused_for_a_while(void **state)
{
    run_pair(refused);
}

/* --- A client that is freed while its connection just ends --------------------------------------- */

static unsigned turns;
static bool call_ended;

static void note_end(struct rpc_call *call)
{
    CHECK(call->result == -EHOSTUNREACH);
    call_ended = true;
}

static void free_while_it_ends(void)
{
    const uint32_t bytes = 1 << 20;
    void *data = mem_alloc_pages(bytes);
    struct iovec iov = {data, bytes};
    struct rpc_call call = {.method = WAIT, .payload = &iov, .payload_count = 1, .done = note_end};
    call_ended = false;
    sim_net_cut(a, b, true);
    rpc_call_submit(fx.client, &call);
    while (rpc_client_connected(fx.client))
        fiber_yield();
    for (unsigned i = 0; i < turns; i++)
        fiber_yield();
    rpc_client_free(fx.client);
    fx.client = NULL;
    CHECK_MSG(call_ended, "after %u turns", turns); /* its memory goes now */
    mem_free_pages(data, bytes);
}

static void freeing_a_client_ends_its_calls_first(void **state)
{
    for (turns = 0; turns < 12; turns++)
        run_pair(free_while_it_ends);
}

int main(void)
{
    log_set_level(LOG_LEVEL_ERROR);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(freeing_a_client_ends_its_calls_first),
        cmocka_unit_test(a_slow_link_is_not_a_dead_one),
        cmocka_unit_test(a_link_cut_one_way_is_noticed_within_the_silence),
        cmocka_unit_test(memory_in_a_send_is_not_given_back_before_its_end),
        cmocka_unit_test(a_short_stall_is_sat_out),
        cmocka_unit_test(sessions_can_be_refused_for_a_while),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
