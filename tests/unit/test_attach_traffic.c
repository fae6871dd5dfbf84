/* SPDX-License-Identifier: Apache-2.0
 *
 * What a node may take of another one (A5), and handoffs (A3).
 */
#include "attach_fixture.h"

/* --- Bounds (A5) ---------------------------------------------------------------------------------- */

#define LONG_BYTES (16u << 20)

static unsigned long_reads;

static void read_long(void *arg)
{
    uint8_t *buf = mem_alloc_pages(LONG_BYTES);
    assert_int_equal(attach_read(arg, 0, LONG_BYTES, buf), 0);
    mem_free_pages(buf, LONG_BYTES);
    long_reads++;
}

static void take_replies(struct rpc_session *session)
{
    session->takes_nothing = false;
    while (session->unsent_count > 0) {
        struct unsent unsent = session->unsent[--session->unsent_count];
        unsent.sent(unsent.arg);
    }
}

static void greedy_body(void)
{
    struct node n3 = {.volumes = fake_volumes_join(n1.volumes, "n3")};
    struct events e = {0};
    make_attach(&n3);
    wire(&n3, &n1, "n1", "n3");
    struct attachment *a1 = get(&n1, &e), *a2 = get(&n2, &e), *a3 = get(&n3, &e);
    no_handoffs = true;
    n2.peers.session.takes_nothing = true;
    long_reads = 0;
    for (unsigned i = 0; i < 12; i++)
        fiber_spawn("read", read_long, a2);
    env_sleep_ns(SEC);
    assert_in_range(long_reads, 2, 6); /* half of all buffers */
    unsigned had = long_reads;
    for (unsigned i = 0; i < 12; i++)
        fiber_spawn("read", read_long, a3);
    env_sleep_ns(SEC);
    assert_int_equal(long_reads, had + 12);
    take_replies(&n2.peers.session);
    env_sleep_ns(SEC);
    assert_int_equal(long_reads, 24);
    attach_put(a3);
    attach_put(a2);
    attach_put(a1);
    env_sleep_ns(SEC);
    no_handoffs = false;
    unwire(&n3);
    attach_free(n3.attach);
    fake_volumes_free(n3.volumes);
}

static void test_a_node_that_takes_no_replies_does_not_hold_up_others(void **state)
{
    run(greedy_body);
}

static void many_body(void)
{
    struct events e = {0};
    struct attachment *a1 = get(&n1, &e);
    uint8_t body[WIRE_VOLUME_ATTACH_BYTES], reply[512];
    struct wire_volume_attach request = {.name = "vm1"};
    unsigned refused = 0;
    for (unsigned i = 0; i < 5000; i++) {
        request.attachment = 1000 + i;
        wire_volume_attach_encode(&request, body);
        struct rpc_call call = {.method = METHOD_VOLUME_ATTACH,
            .body = body,
            .body_len_bytes = sizeof(body),
            .deadline_ns = UINT64_MAX,
            .reply_body = reply,
            .reply_body_max = sizeof(reply)};
        int r = peer_call(&n2.peers.peer, &call);
        CHECK(r == 0 || r == -EAGAIN);
        refused += r < 0;
    }
    assert_int_equal(refused, 5000 - 4096);
    unwire(&n2);
    rewire(&n2, &n1, "n2");
    assert_int_equal(fake_volume_users(n1.volumes, "vm1"), 1);
    attach_put(a1);
}

static void test_what_a_node_may_use_is_bounded(void **state)
{
    run(many_body);
}

/* --- Handoff (A3) --------------------------------------------------------------------------------- */

struct load {
    struct node *node;
    struct attachment *attachment;
    struct events events;
    uint64_t pause_ns, session, number, errors;
    bool stop, stopped;
};

/* One write after the other, as a front end does it: attaches again and repeats. */
static void load_main(void *arg)
{
    static uint8_t buf[BLOCK];
    struct load *load = arg;
    char *error;
    while (!load->stop) {
        struct request_id id = {load->session, ++load->number, load->number};
        while (!load->attachment || attach_write(load->attachment, 0, BLOCK, buf, 0, id) < 0) {
            if (load->attachment)
                attach_put(load->attachment);
            load->attachment = NULL;
            error = NULL;
            int r = attach_get(
                load->node->attach, "vm1", &events, &load->events, &load->attachment, &error);
            mem_free(error);
            load->errors += r < 0 && r != -EAGAIN;
            env_sleep_ns(r < 0 ? 2 * MS : 0);
        }
        env_sleep_ns(load->pause_ns);
    }
    attach_put(load->attachment);
    load->stopped = true;
}

static void load_end(struct load *load)
{
    load->stop = true;
    while (!load->stopped)
        env_sleep_ns(MS);
    assert_int_equal(load->errors, 0);
}

static void follow_body(void)
{
    struct events e = {0};
    struct attachment *a1 = get(&n1, &e); /* idle, as after a migration */
    struct load load = {.node = &n2, .session = 2, .pause_ns = 5 * MS};
    fake_volume_faults(n1.volumes, "vm1")->successor = n2.volumes;
    fiber_spawn("load", load_main, &load);
    for (int i = 0; i < 100 && e.halted == 0; i++)
        env_sleep_ns(50 * MS);
    assert_true(e.halted > 0);
    attach_put(a1);
    env_sleep_ns(SEC);
    assert_non_null(load.attachment);
    assert_string_equal(attach_owner(load.attachment), "");
    a1 = get(&n1, &e);
    assert_string_equal(attach_owner(a1), "n2");
    attach_put(a1);
    load_end(&load);
    struct attach_stats s1, s2;
    attach_get_stats(n1.attach, &s1);
    attach_get_stats(n2.attach, &s2);
    assert_int_equal(s1.handoffs_out, 1);
    assert_int_equal(s2.handoffs_in, 1);
    assert_int_equal(counts()->duplicates, 0);
    assert_int_equal(counts()->writes, load.number);
}

static void test_ownership_follows_traffic(void **state)
{
    run(follow_body);
}

/* Both write as much: it stays. */
static void shared_load_body(void)
{
    struct events e = {0};
    struct attachment *a1 = get(&n1, &e);
    struct load here = {.node = &n1, .session = 1, .pause_ns = 5 * MS};
    struct load there = {.node = &n2, .session = 2, .pause_ns = 5 * MS};
    fake_volume_faults(n1.volumes, "vm1")->successor = n2.volumes;
    fiber_spawn("load", load_main, &here);
    fiber_spawn("load", load_main, &there);
    env_sleep_ns(60 * SEC);
    assert_int_equal(e.halted, 0);
    assert_int_equal(counts()->handoffs, 0);
    load_end(&here);
    load_end(&there);
    attach_put(a1);
}

static void test_a_volume_used_from_two_nodes_stays(void **state)
{
    run(shared_load_body);
}

/* The traffic goes to n2, then back to n1: the way back is allowed after handoff_again_ns only. */
static void again_body(void)
{
    struct events e = {0};
    struct attachment *a1 = get(&n1, &e);
    struct load there = {.node = &n2, .session = 2, .pause_ns = 5 * MS};
    struct load back = {.node = &n1, .session = 1, .pause_ns = 5 * MS};
    fake_volume_faults(n1.volumes, "vm1")->successor = n2.volumes;
    fiber_spawn("load", load_main, &there);
    while (e.halted == 0)
        env_sleep_ns(50 * MS);
    attach_put(a1);
    load_end(&there);
    struct attachment *a2 = get(&n2, &e); /* stays open there */
    fake_volume_faults(n1.volumes, "vm1")->successor = n1.volumes;
    uint64_t start_ns = env_now_ns();
    e.halted = 0;
    fiber_spawn("load", load_main, &back);
    while (e.halted == 0)
        env_sleep_ns(50 * MS);
    assert_in_range(env_now_ns() - start_ns, 8 * SEC, 25 * SEC);
    attach_put(a2);
    env_sleep_ns(SEC);
    load_end(&back);
    assert_int_equal(counts()->handoffs, 2);
}

static void test_handoffs_of_a_volume_keep_a_distance(void **state)
{
    run(again_body);
}

int main(void)
{
    log_set_level(LOG_LEVEL_ERROR);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_node_that_takes_no_replies_does_not_hold_up_others),
        cmocka_unit_test(test_what_a_node_may_use_is_bounded),
        cmocka_unit_test(test_ownership_follows_traffic),
        cmocka_unit_test(test_a_volume_used_from_two_nodes_stays),
        cmocka_unit_test(test_handoffs_of_a_volume_keep_a_distance),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
