/* SPDX-License-Identifier: Apache-2.0
 *
 * Owners that go away, and requests that are left behind there (A1, A2, A4).
 */
#include "attach_fixture.h"

/* --- Owners that go away ------------------------------------------------------------------------- */

static void shared_body(void)
{
    struct events e = {0};
    struct attachment *a1 = get(&n1, &e), *a2 = get(&n2, &e), *a3 = get(&n2, &e), *a4;
    struct attach_stats stats;
    assert_int_equal(n2.peers.session.calls[METHOD_VOLUME_ATTACH], 1);
    assert_int_equal(fake_volume_users(n1.volumes, "vm1"), 2);
    attach_get_stats(n2.attach, &stats);
    assert_int_equal(stats.remote_attachments, 2);
    attach_put(a2);
    attach_put(a3);
    env_sleep_ns(MS);
    assert_int_equal(fake_volume_users(n1.volumes, "vm1"), 1);
    attach_get_stats(n1.attach, &stats);
    assert_int_equal(stats.served, 0);
    a4 = get(&n2, &e);
    assert_int_equal(n2.peers.session.calls[METHOD_VOLUME_ATTACH], 2);
    attach_put(a4);
    attach_put(a1);
}

static void test_a_node_counts_once_as_a_user_and_says_when_it_is_none(void **state)
{
    run(shared_body);
}

struct late_write {
    struct attachment *attachment;
    uint64_t number;
    int result;
    bool done;
};

static void late_write(void *arg)
{
    static uint8_t buf[BLOCK];
    struct late_write *write = arg;
    write->result = attach_write(write->attachment, 0, BLOCK, buf, 0, number(write->number));
    write->done = true;
}

/* The write was executed when its connection broke: -ESHUTDOWN, and the same again is not done twice. */
static void broken_body(void)
{
    static uint8_t buf[BLOCK];
    struct events e1 = {0}, e2 = {0};
    struct attachment *a1 = get(&n1, &e1), *a2 = get(&n2, &e2);
    n2.peers.session.lose_answers = 1;
    assert_int_equal(attach_write(a2, 0, BLOCK, buf, 0, number(5)), -ESHUTDOWN);
    unwire(&n2);
    assert_int_equal(e2.halted, 1);
    assert_int_equal(e1.halted, 0);
    assert_int_equal(counts()->writes, 1);
    assert_int_equal(attach_read(a2, 0, BLOCK, buf), -ESHUTDOWN); /* for good */
    assert_int_equal(fake_volume_users(n1.volumes, "vm1"), 1);
    attach_put(a2);
    assert_int_equal(try_get(&n2, "cannot be reached"), -EAGAIN);
    rewire(&n2, &n1, "n2");
    a2 = get(&n2, &e2);
    assert_int_equal(attach_write(a2, 0, BLOCK, buf, 0, number(5)), 0);
    assert_int_equal(counts()->writes, 1);
    assert_int_equal(counts()->duplicates, 1);
    attach_put(a1);
    attach_put(a2);
}

static void test_a_broken_connection_leaves_the_outcome_open(void **state)
{
    run(broken_body);
}

/* C3, A4: the write waits at its owner when its connection breaks. A new one does not wait for it, and it is
 * not executed any more. */
static void left_body(void)
{
    static uint8_t buf[BLOCK];
    struct events e1 = {0}, e2 = {0};
    struct attachment *a1 = get(&n1, &e1), *a2 = get(&n2, &e2);
    struct late_write write = {.attachment = a2, .number = 5};
    fake_volume_faults(n1.volumes, "vm1")->stuck = true;
    fiber_spawn("write", late_write, &write);
    env_sleep_ns(10 * MS);
    uint64_t start_ns = env_now_ns();
    unwire(&n2);
    assert_true(env_now_ns() == start_ns);
    assert_true(fake_volume_users(n1.volumes, "vm1") == 2); /* it still has the volume */
    env_sleep_ns(MS);
    assert_true(write.done);
    assert_int_equal(write.result, -ESHUTDOWN);
    attach_put(a2);
    rewire(&n2, &n1, "n2");
    a2 = get(&n2, &e2);
    fake_volume_faults(n1.volumes, "vm1")->stuck = false;
    assert_int_equal(attach_write(a2, 0, BLOCK, buf, 0, number(6)), 0);
    env_sleep_ns(10 * MS);
    assert_int_equal(counts()->writes, 1);
    assert_int_equal(counts()->last_id.number, 6);
    assert_int_equal(fake_volume_users(n1.volumes, "vm1"), 2);
    attach_put(a1);
    attach_put(a2);
}

static void test_what_waits_is_left_behind_and_gets_no_place(void **state)
{
    run(left_body);
}

static void timeout_body(void)
{
    struct events e1 = {0}, e2 = {0};
    struct attachment *a1 = get(&n1, &e1), *a2 = get(&n2, &e2);
    struct late_write write = {.attachment = a2, .number = 5};
    fake_volume_faults(n1.volumes, "vm1")->stuck = true;
    fiber_spawn("write", late_write, &write);
    env_sleep_ns(9 * SEC);
    assert_false(write.done);
    env_sleep_ns(2 * SEC);
    assert_true(write.done);
    assert_int_equal(write.result, -ESHUTDOWN);
    assert_int_equal(e2.halted, 1);
    fake_volume_faults(n1.volumes, "vm1")->stuck = false;
    attach_put(a1);
    attach_put(a2);
}

static void test_an_owner_that_does_not_answer_is_left(void **state)
{
    run(timeout_body);
}

struct given_up_write {
    struct attachment *attachment;
    bool given_up, done;
    int result;
};

static void given_up_write(void *arg)
{
    static uint8_t buf[BLOCK];
    struct given_up_write *write = arg;
    struct request_id id = number(5);
    id.given_up = &write->given_up;
    write->result = attach_write(write->attachment, 0, BLOCK, buf, 0, id);
    write->done = true;
}

/* A4: its client has gone. It ends here, gets no place there, and its owner is as good as before. */
static void given_up_body(void)
{
    static uint8_t buf[BLOCK];
    struct events e1 = {0}, e2 = {0};
    struct attachment *a1 = get(&n1, &e1), *a2 = get(&n2, &e2);
    struct given_up_write write = {.attachment = a2};
    fake_volume_faults(n1.volumes, "vm1")->full = true;
    fiber_spawn("write", given_up_write, &write);
    env_sleep_ns(2 * SEC);
    assert_false(write.done);
    write.given_up = true;
    env_sleep_ns(SEC / 2);
    assert_true(write.done);
    assert_int_equal(write.result, -ESHUTDOWN);
    assert_int_equal(e2.halted, 0);
    fake_volume_faults(n1.volumes, "vm1")->full = false;
    env_sleep_ns(SEC / 2);
    assert_int_equal(counts()->writes, 0);
    assert_int_equal(attach_write(a2, 0, BLOCK, buf, 0, number(6)), 0);
    attach_put(a1);
    attach_put(a2);
}

static void test_what_its_client_has_given_up_gets_no_place_at_the_owner(void **state)
{
    run(given_up_body);
}

/* n1 lets the volume go; both attach again, and n2 is first. */
static void epoch_body(void)
{
    static uint8_t buf[BLOCK];
    struct events e1 = {0}, e2 = {0};
    struct attachment *a1 = get(&n1, &e1), *a2 = get(&n2, &e2);
    fake_volume_depose(n1.volumes, "vm1");
    assert_int_equal(attach_write(a2, 0, BLOCK, buf, 0, number(1)), -ESHUTDOWN);
    attach_put(a1);
    attach_put(a2);
    env_sleep_ns(MS);
    a2 = get(&n2, &e2);
    assert_string_equal(attach_owner(a2), "");
    a1 = get(&n1, &e1);
    assert_string_equal(attach_owner(a1), "n2");
    assert_int_equal(attach_write(a1, 0, BLOCK, buf, 0, number(1)), 0);
    attach_put(a1);
    attach_put(a2);
}

static void test_each_epoch_has_its_own_attachments(void **state)
{
    run(epoch_body);
}

/* An idle holder on another node must not keep a halted volume from being opened anew (V3). */
static void idle_body(void)
{
    struct events e1 = {0}, e2 = {0};
    struct attachment *a1 = get(&n1, &e1), *a2 = get(&n2, &e2);
    fake_volume_depose(n1.volumes, "vm1");
    attach_put(a1);
    a1 = get(&n1, &e1); /* waits until the old one is let go */
    env_sleep_ns(1500 * MS);
    assert_int_equal(e2.halted, 1);
    attach_put(a2);
    attach_put(a1);
}

static void test_an_idle_holder_elsewhere_lets_go_of_a_halted_volume(void **state)
{
    run(idle_body);
}

static void garbled_body(void)
{
    static uint8_t buf[BLOCK];
    struct events e1 = {0}, e2 = {0};
    struct attachment *a1 = get(&n1, &e1), *a2 = get(&n2, &e2);
    n2.peers.session.cut_short = true;
    assert_int_equal(attach_read(a2, 0, BLOCK, buf), -ESHUTDOWN);
    attach_put(a2);
    env_sleep_ns(MS); /* the detach */
    n2.peers.session.cut_short = true;
    assert_int_equal(try_get(&n2, "does not answer"), -EAGAIN);
    env_sleep_ns(MS);
    n2.peers.session.lose_answers = 1;
    assert_int_equal(try_get(&n2, "does not answer"), -EAGAIN);
    env_sleep_ns(MS);
    assert_int_equal(fake_volume_users(n1.volumes, "vm1"), 1); /* those two are detached */
    a2 = get(&n2, &e2);
    assert_int_equal(attach_read(a2, 0, BLOCK, buf), 0);
    attach_put(a2);
    attach_put(a1);
}

static void test_an_answer_that_is_none_ends_the_attachment(void **state)
{
    run(garbled_body);
}

struct beyond {
    struct attachment *attachment;
    int result;
};

static void read_beyond(void *arg)
{
    static uint8_t buf[BLOCK];
    struct beyond *beyond = arg;
    beyond->result = attach_read(beyond->attachment, VOLUME_BYTES, BLOCK, buf);
}

/* X3: its successor may have grown the volume. */
static void beyond_body(void)
{
    struct events e1 = {0}, e2 = {0};
    struct attachment *a1 = get(&n1, &e1), *a2 = get(&n2, &e2);
    fake_volume_faults(n1.volumes, "vm1")->delay_ns = 20 * MS;
    struct beyond beyond = {.attachment = a2, .result = 1};
    fiber_spawn("beyond", read_beyond, &beyond);
    env_sleep_ns(10 * MS);
    assert_int_equal(beyond.result, 1);
    fake_volume_depose(n1.volumes, "vm1");
    env_sleep_ns(20 * MS);
    assert_int_equal(beyond.result, -ESHUTDOWN);
    attach_put(a2);
    attach_put(a1);
}

static void test_only_the_volume_says_what_is_beyond_its_end(void **state)
{
    run(beyond_body);
}

int main(void)
{
    log_set_level(LOG_LEVEL_ERROR);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_node_counts_once_as_a_user_and_says_when_it_is_none),
        cmocka_unit_test(test_a_broken_connection_leaves_the_outcome_open),
        cmocka_unit_test(test_what_waits_is_left_behind_and_gets_no_place),
        cmocka_unit_test(test_an_owner_that_does_not_answer_is_left),
        cmocka_unit_test(test_what_its_client_has_given_up_gets_no_place_at_the_owner),
        cmocka_unit_test(test_each_epoch_has_its_own_attachments),
        cmocka_unit_test(test_an_idle_holder_elsewhere_lets_go_of_a_halted_volume),
        cmocka_unit_test(test_an_answer_that_is_none_ends_the_attachment),
        cmocka_unit_test(test_only_the_volume_says_what_is_beyond_its_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
