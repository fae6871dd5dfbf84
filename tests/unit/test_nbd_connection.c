/* SPDX-License-Identifier: Apache-2.0
 *
 * What happens to connections and their requests when clients, volumes and the server do what they
 * may: invariants N1-N8 of blockd/nbd/README.md.
 */
#include "blockd/nbd/connection.h"

#include "tests/unit/nbd_fixture.h"

#define BLOCK 4096u

static void fill(void *buf, uint32_t len_bytes, unsigned tag)
{
    for (uint32_t i = 0; i < len_bytes; i++)
        ((uint8_t *)buf)[i] = tag + i / 7;
}

static struct fake_faults *faults(struct nbd_test *t)
{
    return fake_volume_faults(t->volumes, "vm1");
}

static const struct fake_counts *counts(struct nbd_test *t)
{
    return fake_volume_counts(t->volumes, "vm1");
}

MAY_SUSPEND static struct nbd_client *use(bool structured)
{
    return nbd_client_use(NBD_TEST_ADDRESS, "vm1", structured);
}

/* --- Hostile clients ---------------------------------------------------------------------------
 */

static void garbage(struct nbd_test *t)
{
    static uint8_t junk[1000];
    uint8_t block[512];
    struct nbd_client *good = use(false), *bad = use(false);
    memset(junk, 0x5a, sizeof(junk));
    nbd_client_send(bad, junk, sizeof(junk));
    assert_true(nbd_client_closed(bad, SEC));
    nbd_client_free(bad);
    assert_int_equal(nbd_test_stats(t).protocol_errors, 1);
    assert_int_equal(nbd_client_call(good, NBD_CMD_READ, 0, 0, 512, block), 0);
    nbd_client_free(good);
}

static void test_garbage_costs_its_sender_the_connection(void **state)
{
    nbd_test_run(garbage, (struct nbd_server_options){0});
}

/* Asks for 8 MiB again and again, and never takes an answer. */
MAY_SUSPEND static struct nbd_client *slow_reader(struct nbd_test *t, unsigned requests)
{
    struct nbd_client *c = use(false);
    for (unsigned i = 0; i < requests; i++)
        assert_true(nbd_client_request(c, NBD_CMD_READ, 0, i, 0, 8 << 20, NULL));
    env_sleep_ns(100 * MS);
    return c;
}

static void slow_readers(struct nbd_test *t)
{
    static uint8_t buf[4 << 20];
    struct nbd_client *slow[8];
    for (unsigned i = 0; i < 8; i++)
        slow[i] = slow_reader(t, 8);
    /* N7: 64 MiB of the 64 + 8 x 8 they asked for; the bound holds. */
    uint64_t bytes = nbd_test_stats(t).buffer_bytes;
    assert_true(bytes <= (64 << 20) + 9 * (320 << 10));
    /* A small request of somebody else fits into his reserve. */
    struct nbd_client *good = use(false);
    uint64_t start_ns = env_now_ns();
    assert_int_equal(nbd_client_call(good, NBD_CMD_READ, 0, 0, 4096, buf), 0);
    assert_true(env_now_ns() - start_ns < 100 * MS);
    assert_int_equal(nbd_test_stats(t).stalled, 0);
    /* A large one makes those go who hoard and do not move (N8). */
    assert_int_equal(nbd_client_call(good, NBD_CMD_READ, 0, 0, sizeof(buf), buf), 0);
    assert_true(env_now_ns() - start_ns < 10 * SEC);
    assert_true(nbd_test_stats(t).stalled > 0);
    nbd_client_free(good);
    for (unsigned i = 0; i < 8; i++)
        nbd_client_free(slow[i]);
}

static void test_clients_that_take_no_replies_only_block_themselves(void **state)
{
    nbd_test_run(slow_readers, (struct nbd_server_options){.buffer_bytes_max = 64 << 20});
}

static void half_payloads(struct nbd_test *t)
{
    static uint8_t buf[1 << 20];
    struct nbd_client *liars[3];
    for (unsigned i = 0; i < 3; i++) {
        liars[i] = use(false);
        assert_true(nbd_client_request(liars[i], NBD_CMD_WRITE, 0, 1, 0, 32 << 20, NULL));
        nbd_client_send(liars[i], buf, 1000);
    }
    env_sleep_ns(SEC);
    struct nbd_client *good = use(false);
    assert_int_equal(nbd_client_call(good, NBD_CMD_WRITE, 0, 0, sizeof(buf), buf), 0);
    assert_true(nbd_test_stats(t).stalled > 0);
    assert_int_equal(counts(t)->writes, 1);
    nbd_client_free(good);
    for (unsigned i = 0; i < 3; i++)
        nbd_client_free(liars[i]);
}

static void test_announced_payloads_that_never_come_are_not_waited_for(void **state)
{
    nbd_test_run(half_payloads, (struct nbd_server_options){.buffer_bytes_max = 64 << 20});
}

/* Without anybody who needs it, a stalled client (a stopped VM) may stay. */
static void patience(struct nbd_test *t)
{
    static uint8_t buf[8 << 20];
    struct nbd_client_reply r;
    struct nbd_client *c = slow_reader(t, 4);
    env_sleep_ns(600 * SEC);
    for (unsigned i = 0; i < 4; i++)
        assert_true(nbd_client_reply(c, 0, sizeof(buf), buf, &r));
    nbd_client_free(c);
}

static void test_a_stalled_client_stays_while_nobody_needs_its_memory(void **state)
{
    nbd_test_run(patience, (struct nbd_server_options){0});
}

/* --- Ends --------------------------------------------------------------------------------------
 */

static void disconnect(struct nbd_test *t)
{
    static uint8_t buf[BLOCK];
    struct nbd_client_reply r;
    struct nbd_client *c = use(false);
    faults(t)->delay_ns = 50 * MS;
    for (unsigned i = 0; i < 20; i++)
        assert_true(nbd_client_request(c, NBD_CMD_WRITE, 0, i, i * BLOCK, BLOCK, buf));
    assert_true(nbd_client_request(c, NBD_CMD_DISC, 0, 99, 0, 0, NULL));
    /* "The server MUST handle all outstanding requests". */
    for (unsigned i = 0; i < 20; i++)
        assert_true(nbd_client_reply(c, 0, 0, NULL, &r) && !r.error);
    assert_true(nbd_client_closed(c, SEC));
    assert_int_equal(counts(t)->writes, 20);
    nbd_client_free(c);
}

static void test_disconnect_answers_what_is_outstanding_first(void **state)
{
    nbd_test_run(disconnect, (struct nbd_server_options){0});
}

static void vanish(struct nbd_test *t)
{
    static uint8_t buf[BLOCK];
    struct nbd_client *c = use(false);
    faults(t)->stuck = true;
    for (unsigned i = 0; i < 20; i++)
        assert_true(nbd_client_request(c, NBD_CMD_WRITE, 0, i, i * BLOCK, BLOCK, buf));
    NBD_TEST_WAIT(counts(t)->calls_now == 20);
    nbd_client_free(c);
    env_sleep_ns(100 * SEC);
    assert_int_equal(nbd_test_stats(t).connections, 1); /* N2: not forgotten yet */
    assert_int_equal(nbd_test_stats(t).requests_in_flight, 20);
    faults(t)->stuck = false;
    NBD_TEST_WAIT(nbd_test_stats(t).connections == 0);
    assert_int_equal(counts(t)->writes, 0); /* none had its place in the order */
}

static void test_a_vanished_clients_requests_end_before_it_is_forgotten(void **state)
{
    nbd_test_run(vanish, (struct nbd_server_options){0});
}

/* N3: the old connection's write is stuck in the volume, further ones wait unread; the client gives
 * up, connects anew and writes the same block. The old write must not land on the new one. */
static void reconnect(struct nbd_test *t)
{
    static uint8_t old[BLOCK], new[BLOCK], back[BLOCK];
    memset(old, 1, sizeof(old));
    memset(new, 2, sizeof(new));
    struct nbd_client *c = use(false);
    faults(t)->stuck = true;
    for (unsigned i = 0; i < 20; i++) /* three are taken, the others lie in the socket */
        assert_true(nbd_client_request(c, NBD_CMD_WRITE, 0, i, 0, BLOCK, old));
    NBD_TEST_WAIT(counts(t)->calls_now == 3);
    nbd_client_free(c);
    struct nbd_client *again = use(false); /* the handshake is answered meanwhile (N9) */
    assert_true(nbd_client_request(again, NBD_CMD_WRITE, 0, 5, 0, BLOCK, new));
    env_sleep_ns(5 * SEC);
    assert_int_equal(counts(t)->calls_now, 3);
    faults(t)->stuck = false;
    struct nbd_client_reply r;
    assert_true(nbd_client_reply(again, 0, 0, NULL, &r) && !r.error);
    env_sleep_ns(SEC);
    assert_int_equal(nbd_client_call(again, NBD_CMD_READ, 0, 0, BLOCK, back), 0);
    assert_memory_equal(back, new, BLOCK);
    assert_int_equal(nbd_test_stats(t).connections, 1);
    nbd_client_free(again);
}

static void test_an_old_write_never_lands_on_its_successors(void **state)
{
    nbd_test_run(reconnect, (struct nbd_server_options){.connection_requests_max = 3});
}

/* N2: what has no place in the order when its client leaves gets none, and waits for nothing. */
static void leave_without_room(struct nbd_test *t)
{
    static uint8_t old[BLOCK], back[BLOCK];
    memset(old, 1, sizeof(old));
    struct nbd_client *c = use(false);
    faults(t)->full = true;
    assert_true(nbd_client_request(c, NBD_CMD_WRITE, 0, 1, 0, BLOCK, old));
    env_sleep_ns(5 * SEC);
    assert_int_equal(nbd_test_stats(t).requests_in_flight, 1);
    nbd_client_free(c);
    NBD_TEST_WAIT(nbd_test_stats(t).connections == 0);
    struct nbd_client *again = use(false);
    assert_int_equal(nbd_client_call(again, NBD_CMD_READ, 0, 0, BLOCK, back), 0);
    assert_int_equal(back[0], 0);
    faults(t)->full = false;
    assert_int_equal(nbd_client_call(again, NBD_CMD_READ, 0, 0, BLOCK, back), 0);
    assert_int_equal(back[0], 0);
    assert_int_equal(counts(t)->writes, 0);
    nbd_client_free(again);
}

static void test_a_write_without_a_place_goes_with_its_client(void **state)
{
    nbd_test_run(leave_without_room, (struct nbd_server_options){0});
}

static void multi_connection(struct nbd_test *t)
{
    static uint8_t buf[BLOCK];
    struct nbd_client *a = use(false), *b = use(false), *other;
    faults(t)->stuck = true;
    assert_true(nbd_client_request(a, NBD_CMD_WRITE, 0, 1, 0, BLOCK, buf));
    other = nbd_client_use(NBD_TEST_ADDRESS, "vm2", false);
    assert_int_equal(nbd_client_call(other, NBD_CMD_READ, 0, 0, BLOCK, buf), 0);
    faults(t)->stuck = false;
    struct nbd_client *third = use(false); /* a and b stay: nobody waits for them */
    assert_int_equal(nbd_client_call(b, NBD_CMD_FLUSH, 0, 0, 0, NULL), 0);
    assert_int_equal(nbd_client_call(third, NBD_CMD_READ, 0, 0, BLOCK, buf), 0);
    nbd_client_free(a);
    nbd_client_free(b);
    nbd_client_free(third);
    nbd_client_free(other);
}

static void test_connections_of_live_clients_do_not_wait_for_each_other(void **state)
{
    nbd_test_run(multi_connection, (struct nbd_server_options){0});
}

/* --- Volumes that change -----------------------------------------------------------------------
 */

static void grow(struct nbd_test *t)
{
    static uint8_t buf[BLOCK];
    char *error = NULL;
    struct nbd_client_reply r;
    struct nbd_client *c = use(false), *idle = use(false);
    faults(t)->delay_ns = 50 * MS;
    assert_true(nbd_client_request(c, NBD_CMD_WRITE, 0, 1, 0, BLOCK, buf));
    NBD_TEST_WAIT(counts(t)->calls_now == 1);
    assert_int_equal(volumes_resize(t->volumes, "vm1", NBD_TEST_BYTES + 4096, &error), 0);
    assert_true(nbd_client_closed(idle, SEC));
    assert_true(nbd_client_reply(c, 0, 0, NULL, &r) && !r.error); /* N5: in flight, so answered */
    assert_true(nbd_client_closed(c, SEC));
    nbd_client_free(c);
    nbd_client_free(idle);
    c = use(false);
    assert_int_equal(c->size_bytes, NBD_TEST_BYTES + 4096);
    nbd_client_free(c);
    assert_int_equal(nbd_test_stats(t).dropped_for_resize, 2);
}

static void test_growing_ends_connections_after_their_answers(void **state)
{
    nbd_test_run(grow, (struct nbd_server_options){0});
}

static void removal(struct nbd_test *t)
{
    char *error = NULL;
    struct nbd_client *c = use(false);
    assert_int_equal(volumes_delete(t->volumes, "vm1", false, &error), -EBUSY);
    assert_int_equal(volumes_delete(t->volumes, "vm1", true, &error), 0);
    assert_true(nbd_client_closed(c, SEC));
    nbd_client_free(c);
}

static void test_removal_ends_connections(void **state)
{
    nbd_test_run(removal, (struct nbd_server_options){0});
}

/* The volume is closed under a running load, and cannot be opened for a while. */
static void deposed(struct nbd_test *t)
{
    static uint8_t buf[200000], back[200000];
    struct nbd_client_reply r;
    struct nbd_client *c = use(true);
    faults(t)->delay_ns = 20 * MS;
    for (unsigned i = 0; i < 30; i++) {
        uint32_t len = i % 2 ? sizeof(buf) : 4096;
        fill(buf, len, i);
        assert_true(nbd_client_request(c, NBD_CMD_WRITE, 0, i, i * 200000ull, len, buf));
    }
    NBD_TEST_WAIT(counts(t)->calls_now > 0);
    faults(t)->open_error = -EBUSY;
    fake_volume_depose(t->volumes, "vm1");
    NBD_TEST_WAIT(nbd_test_stats(t).requests_held == 30);
    env_sleep_ns(1000 * SEC); /* for ever while the client stays */
    assert_int_equal(nbd_test_stats(t).requests_held, 30);
    assert_int_equal(fake_volume_users(t->volumes, "vm1"), 0);
    assert_int_equal(counts(t)->writes, 0);
    faults(t)->open_error = 0;
    for (unsigned i = 0; i < 30; i++)
        assert_true(nbd_client_reply(c, 0, 0, NULL, &r) && !r.error);
    assert_int_equal(counts(t)->duplicates, 0);
    for (unsigned i = 0; i < 30; i++) {
        uint32_t len = i % 2 ? sizeof(buf) : 4096;
        fill(buf, len, i);
        assert_int_equal(nbd_client_call(c, NBD_CMD_READ, 0, i * 200000ull, len, back), 0);
        assert_memory_equal(buf, back, len);
    }
    nbd_client_free(c);
}

static void test_requests_outlive_their_volumes_closing(void **state)
{
    nbd_test_run(deposed, (struct nbd_server_options){0});
}

/* The volume halts; of its three connections one has work, one has not, and one comes anew. */
static void idle_holders(struct nbd_test *t)
{
    uint8_t block[BLOCK];
    struct nbd_client *busy = use(false), *idle = use(false);
    fake_volume_depose(t->volumes, "vm1");
    assert_int_equal(nbd_client_call(busy, NBD_CMD_READ, 0, 0, BLOCK, block), 0);
    fake_volume_depose(t->volumes, "vm1");
    struct nbd_client *fresh = use(false);
    assert_int_equal(nbd_client_call(fresh, NBD_CMD_READ, 0, 0, BLOCK, block), 0);
    assert_int_equal(nbd_client_call(idle, NBD_CMD_READ, 0, 0, BLOCK, block), 0);
    assert_int_equal(nbd_client_call(busy, NBD_CMD_READ, 0, 0, BLOCK, block), 0);
    assert_int_equal(fake_volume_users(t->volumes, "vm1"), 3);
    nbd_client_free(busy);
    nbd_client_free(idle);
    nbd_client_free(fresh);
}

static void test_idle_connections_let_go_of_a_halted_volume(void **state)
{
    nbd_test_run(idle_holders, (struct nbd_server_options){0});
}

static void held_and_left(struct nbd_test *t)
{
    static uint8_t buf[BLOCK];
    struct nbd_client *c = use(false);
    faults(t)->open_error = -EBUSY;
    fake_volume_depose(t->volumes, "vm1");
    for (unsigned i = 0; i < 5; i++)
        assert_true(nbd_client_request(c, NBD_CMD_WRITE, 0, i, 0, BLOCK, buf));
    NBD_TEST_WAIT(nbd_test_stats(t).requests_held == 5);
    nbd_client_free(c);
    NBD_TEST_WAIT(nbd_test_stats(t).connections == 0);
    faults(t)->open_error = 0;
    env_sleep_ns(5 * SEC);
    assert_int_equal(counts(t)->writes, 0); /* N2: they never happen */
}

static void test_held_requests_go_with_their_client(void **state)
{
    nbd_test_run(held_and_left, (struct nbd_server_options){0});
    nbd_test_run(held_and_left, (struct nbd_server_options){.connection_requests_max = 5});
}

/* The second of three writes is slow: what is told of the third leaves it open. */
static void watermark(struct nbd_test *t)
{
    static uint8_t buf[BLOCK];
    struct nbd_client_reply r;
    struct nbd_client *c = use(false);
    faults(t)->delay_ns = 50 * MS;
    faults(t)->delay_every = 2;
    for (unsigned i = 0; i < 3; i++)
        assert_true(nbd_client_request(c, NBD_CMD_WRITE, 0, i, 0, BLOCK, buf));
    NBD_TEST_WAIT(counts(t)->writes == 2);
    struct request_id third = counts(t)->last_id;
    assert_int_equal(third.number, 3);
    assert_in_range(third.answered_below, 1, 2);
    for (unsigned i = 0; i < 3; i++)
        assert_true(nbd_client_reply(c, 0, 0, NULL, &r) && !r.error);
    env_sleep_ns(MS);
    assert_int_equal(nbd_client_call(c, NBD_CMD_WRITE, 0, 0, BLOCK, buf), 0);
    assert_int_equal(counts(t)->last_id.number, 4);
    assert_int_equal(counts(t)->last_id.answered_below, 4);
    assert_int_equal(counts(t)->last_id.session, third.session);
    nbd_client_free(c);
}

static void test_requests_tell_which_before_them_are_answered(void **state)
{
    nbd_test_run(watermark, (struct nbd_server_options){0});
}

/* The retries of a held connection are a second apart by now: news come sooner. */
static void news_while_held(struct nbd_test *t)
{
    static uint8_t buf[BLOCK];
    struct nbd_client_reply r;
    struct nbd_client *c = use(false);
    faults(t)->open_error = -EAGAIN;
    fake_volume_depose(t->volumes, "vm1");
    assert_true(nbd_client_request(c, NBD_CMD_WRITE, 0, 7, 0, BLOCK, buf));
    env_sleep_ns(10 * SEC);
    for (int i = 0; i < 10; i++) {
        attach_changed(t->attach); /* also when it is no help */
        env_sleep_ns(50 * MS);
    }
    env_sleep_ns(5 * SEC + 100 * MS);
    faults(t)->open_error = 0;
    uint64_t start_ns = env_now_ns();
    attach_changed(t->attach);
    assert_true(nbd_client_reply(c, 0, 0, NULL, &r) && !r.error);
    assert_true(env_now_ns() - start_ns < 10 * MS);
    nbd_client_free(c);
}

static void test_news_of_the_cluster_end_the_holding(void **state)
{
    nbd_test_run(news_while_held, (struct nbd_server_options){0});
}

static void hold_timeout(struct nbd_test *t)
{
    struct nbd_client *c = use(false);
    faults(t)->open_error = -EBUSY;
    fake_volume_depose(t->volumes, "vm1");
    assert_true(nbd_client_request(c, NBD_CMD_FLUSH, 0, 1, 0, 0, NULL));
    uint64_t start_ns = env_now_ns();
    assert_true(nbd_client_closed(c, 60 * SEC)); /* never an error: the connection goes */
    assert_in_range(env_now_ns() - start_ns, 29 * SEC, 33 * SEC);
    nbd_client_free(c);
    faults(t)->open_error = 0;
}

static void test_holding_can_be_limited(void **state)
{
    nbd_test_run(hold_timeout, (struct nbd_server_options){.hold_timeout_ns = 30 * SEC});
}

static void came_back_larger(struct nbd_test *t)
{
    char *error = NULL;
    struct nbd_client *c = use(false);
    fake_volume_depose(t->volumes, "vm1");
    assert_int_equal(volumes_resize(t->volumes, "vm1", NBD_TEST_BYTES + 512, &error), 0);
    assert_true(nbd_client_request(c, NBD_CMD_FLUSH, 0, 1, 0, 0, NULL));
    assert_true(nbd_client_closed(c, 5 * SEC));
    nbd_client_free(c);
}

static void test_a_volume_that_comes_back_with_another_size_ends_the_connection(void **state)
{
    nbd_test_run(came_back_larger, (struct nbd_server_options){0});
}

/* --- The end of the server ---------------------------------------------------------------------
 */

static void stop(struct nbd_test *t)
{
    static uint8_t buf[BLOCK];
    struct nbd_client_reply r;
    struct env_stream *stream;
    struct nbd_client *busy = use(false), *idle = use(false),
                      *new = nbd_client_new(NBD_TEST_ADDRESS, 3), *stalled = slow_reader(t, 1);
    faults(t)->delay_ns = 100 * MS;
    for (unsigned i = 0; i < 10; i++)
        assert_true(nbd_client_request(busy, NBD_CMD_WRITE, 0, i, 0, BLOCK, buf));
    NBD_TEST_WAIT(counts(t)->calls_now == 10);
    uint64_t start_ns = env_now_ns();
    nbd_server_stop(t->server);
    t->server = NULL;
    assert_in_range(env_now_ns() - start_ns, 9 * SEC, 12 * SEC); /* for the stalled one */
    assert_int_equal(counts(t)->writes, 10);
    for (unsigned i = 0; i < 10; i++)
        assert_true(nbd_client_reply(busy, 0, 0, NULL, &r) && !r.error);
    assert_true(nbd_client_closed(busy, SEC));
    assert_true(nbd_client_closed(idle, SEC));
    assert_true(nbd_client_closed(new, SEC));
    assert_int_equal(env_connect(NBD_TEST_ADDRESS, UINT64_MAX, &stream), -ECONNREFUSED);
    nbd_client_free(busy);
    nbd_client_free(idle);
    nbd_client_free(new);
    nbd_client_free(stalled);
}

static void test_stop_answers_what_is_in_flight(void **state)
{
    nbd_test_run(stop, (struct nbd_server_options){0});
}

int main(void)
{
    log_set_level(LOG_LEVEL_ERROR);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_garbage_costs_its_sender_the_connection),
        cmocka_unit_test(test_clients_that_take_no_replies_only_block_themselves),
        cmocka_unit_test(test_announced_payloads_that_never_come_are_not_waited_for),
        cmocka_unit_test(test_a_stalled_client_stays_while_nobody_needs_its_memory),
        cmocka_unit_test(test_disconnect_answers_what_is_outstanding_first),
        cmocka_unit_test(test_a_vanished_clients_requests_end_before_it_is_forgotten),
        cmocka_unit_test(test_a_write_without_a_place_goes_with_its_client),
        cmocka_unit_test(test_an_old_write_never_lands_on_its_successors),
        cmocka_unit_test(test_connections_of_live_clients_do_not_wait_for_each_other),
        cmocka_unit_test(test_growing_ends_connections_after_their_answers),
        cmocka_unit_test(test_removal_ends_connections),
        cmocka_unit_test(test_requests_outlive_their_volumes_closing),
        cmocka_unit_test(test_idle_connections_let_go_of_a_halted_volume),
        cmocka_unit_test(test_held_requests_go_with_their_client),
        cmocka_unit_test(test_requests_tell_which_before_them_are_answered),
        cmocka_unit_test(test_news_of_the_cluster_end_the_holding),
        cmocka_unit_test(test_holding_can_be_limited),
        cmocka_unit_test(test_a_volume_that_comes_back_with_another_size_ends_the_connection),
        cmocka_unit_test(test_stop_answers_what_is_in_flight),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
