/* SPDX-License-Identifier: Apache-2.0
 *
 * Option haggling, against a whole server in the simulation.
 */
#include "blockd/nbd/handshake.h"

#include "tests/unit/nbd_fixture.h"

static uint8_t reply[8192];
static uint32_t reply_bytes;

MAY_SUSPEND static uint32_t next_reply(struct nbd_client *c, uint32_t option)
{
    return nbd_client_option_reply(c, option, reply, sizeof(reply), &reply_bytes);
}

MAY_SUSPEND static uint32_t ask(
    struct nbd_client *c, uint32_t option, const void *data, uint32_t len_bytes)
{
    nbd_client_option(c, option, data, len_bytes);
    return next_reply(c, option);
}

static bool reply_is(uint32_t off, const char *text)
{
    return reply_bytes == off + strlen(text) && memcmp(reply + off, text, strlen(text)) == 0;
}

static void go_and_info(struct nbd_test *t)
{
    struct nbd_client *c = nbd_client_new(NBD_TEST_ADDRESS, 3);
    assert_int_equal(nbd_client_info(c, NBD_OPT_INFO, "vm1"), NBD_REP_ACK);
    assert_int_equal(c->size_bytes, NBD_TEST_BYTES);
    assert_int_equal(fake_volume_users(t->volumes, "vm1"), 0); /* INFO opens nothing */
    assert_int_equal(nbd_client_info(c, NBD_OPT_INFO, "vm2"), NBD_REP_ACK);
    assert_int_equal(c->size_bytes, 1 << 20);
    assert_int_equal(nbd_client_info(c, NBD_OPT_GO, "vm1"), NBD_REP_ACK);
    assert_int_equal(c->size_bytes, NBD_TEST_BYTES);
    assert_int_equal(c->flags, nbd_transmission_flags(false));
    assert_int_equal(fake_volume_users(t->volumes, "vm1"), 1);
    nbd_client_free(c);
    NBD_TEST_WAIT(fake_volume_users(t->volumes, "vm1") == 0);
}

static void test_go_and_info(void **state)
{
    nbd_test_run(go_and_info, (struct nbd_server_options){0});
}

static void info_items(struct nbd_test *t)
{
    struct nbd_client *c = nbd_client_new(NBD_TEST_ADDRESS, 3);
    static const uint8_t data[] = {0, 0, 0, 3, 'v', 'm', '2', 0, 4, 0, 1, 0, 2, 0, 3, 0, 77};
    assert_int_equal(ask(c, NBD_OPT_INFO, data, sizeof(data)), NBD_REP_INFO);
    assert_int_equal(reply_bytes, 12);
    assert_int_equal(get_be16(reply), NBD_INFO_EXPORT);
    assert_int_equal(next_reply(c, NBD_OPT_INFO), NBD_REP_INFO);
    assert_int_equal(get_be16(reply), NBD_INFO_NAME);
    assert_true(reply_is(2, "vm2"));
    assert_int_equal(next_reply(c, NBD_OPT_INFO), NBD_REP_INFO);
    assert_int_equal(get_be16(reply), NBD_INFO_DESCRIPTION);
    assert_int_equal(next_reply(c, NBD_OPT_INFO), NBD_REP_INFO);
    assert_int_equal(get_be16(reply), NBD_INFO_BLOCK_SIZE);
    assert_int_equal(reply_bytes, 14);
    assert_int_equal(get_be32(reply + 2), 1);
    assert_int_equal(get_be32(reply + 6), 4096);
    assert_int_equal(get_be32(reply + 10), 32 << 20);
    assert_int_equal(next_reply(c, NBD_OPT_INFO), NBD_REP_ACK);
    nbd_client_free(c);
}

static void test_information_is_given_as_asked(void **state)
{
    nbd_test_run(info_items, (struct nbd_server_options){0});
}

static void unknown_names(struct nbd_test *t)
{
    static const char *const bad[] = {"", "nope", "vm1/..", "../names/vm1", " vm1", "\x1b[2J",
        "vm1\xff", "VM1", "-vm1",
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
        "aaaa"
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"};
    struct nbd_client *c = nbd_client_new(NBD_TEST_ADDRESS, 3);
    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
        assert_int_equal(nbd_client_info(c, NBD_OPT_INFO, bad[i]), NBD_REP_ERR_UNKNOWN);
        assert_int_equal(nbd_client_info(c, NBD_OPT_GO, bad[i]), NBD_REP_ERR_UNKNOWN);
    }
    assert_int_equal(nbd_client_info(c, NBD_OPT_GO, "vm1"), NBD_REP_ACK);
    nbd_client_free(c);
}

static void test_unknown_names_are_refused_and_the_haggling_goes_on(void **state)
{
    nbd_test_run(unknown_names, (struct nbd_server_options){0});
}

static void default_export(struct nbd_test *t)
{
    char *error = NULL;
    static const uint8_t data[] = {0, 0, 0, 0, 0, 1, 0, 1};
    assert_int_equal(volumes_delete(t->volumes, "vm1", false, &error), 0);
    struct nbd_client *c = nbd_client_new(NBD_TEST_ADDRESS, 3);
    assert_int_equal(ask(c, NBD_OPT_GO, data, sizeof(data)), NBD_REP_INFO);
    assert_int_equal(next_reply(c, NBD_OPT_GO), NBD_REP_INFO);
    assert_int_equal(get_be16(reply), NBD_INFO_NAME);
    assert_true(reply_is(2, "vm2"));
    assert_int_equal(next_reply(c, NBD_OPT_GO), NBD_REP_ACK);
    nbd_client_free(c);
}

static void test_the_empty_name_is_the_only_volume(void **state)
{
    nbd_test_run(default_export, (struct nbd_server_options){0});
}

/* What this node has not seen may be there all the same. */
static void default_export_without_the_store(struct nbd_test *t)
{
    char *error = NULL;
    assert_int_equal(volumes_delete(t->volumes, "vm1", false, &error), 0);
    fake_volumes_recall(t->volumes);
    struct nbd_client *c = nbd_client_new(NBD_TEST_ADDRESS, 3);
    assert_int_equal(nbd_client_info(c, NBD_OPT_GO, ""), NBD_REP_ERR_UNKNOWN);
    assert_int_equal(nbd_client_info(c, NBD_OPT_GO, "vm2"), NBD_REP_ACK);
    nbd_client_free(c);
}

static void test_without_the_store_no_volume_is_the_only_one(void **state)
{
    nbd_test_run(default_export_without_the_store, (struct nbd_server_options){0});
}

static void export_name(struct nbd_test *t)
{
    for (unsigned no_zeroes = 0; no_zeroes < 2; no_zeroes++) {
        struct nbd_client *c = nbd_client_new(NBD_TEST_ADDRESS, no_zeroes ? 3 : 0);
        uint8_t wire[134];
        char block[512];
        nbd_client_option(c, NBD_OPT_EXPORT_NAME, "vm1", 3);
        assert_true(nbd_client_recv(c, wire, no_zeroes ? 10 : 134));
        assert_int_equal(get_be64(wire), NBD_TEST_BYTES);
        assert_int_equal(get_be16(wire + 8), nbd_transmission_flags(false));
        for (unsigned i = 10; !no_zeroes && i < 134; i++)
            assert_int_equal(wire[i], 0);
        assert_int_equal(nbd_client_call(c, NBD_CMD_READ, 0, 0, 512, block), 0);
        nbd_client_free(c);
    }
    struct nbd_client *c = nbd_client_new(NBD_TEST_ADDRESS, 3);
    nbd_client_option(c, NBD_OPT_EXPORT_NAME, "nope", 4);
    assert_true(nbd_client_closed(c, SEC));
    nbd_client_free(c);
}

static void test_export_name_with_and_without_zeroes(void **state)
{
    nbd_test_run(export_name, (struct nbd_server_options){0});
}

static void list(struct nbd_test *t)
{
    struct nbd_client *c = nbd_client_new(NBD_TEST_ADDRESS, 3);
    assert_int_equal(ask(c, NBD_OPT_LIST, "x", 1), NBD_REP_ERR_INVALID);
    assert_int_equal(ask(c, NBD_OPT_LIST, NULL, 0), NBD_REP_SERVER);
    assert_true(get_be32(reply) == 3 && reply_is(4, "vm1"));
    assert_int_equal(next_reply(c, NBD_OPT_LIST), NBD_REP_SERVER);
    assert_true(get_be32(reply) == 3 && reply_is(4, "vm2"));
    assert_int_equal(next_reply(c, NBD_OPT_LIST), NBD_REP_ACK);
    nbd_client_free(c);
    /* More than one buffer of them. */
    for (unsigned i = 0; i < 500; i++) {
        char name[32];
        snprintf(name, sizeof(name), "volume-number-%u", i);
        fake_volumes_add(t->volumes, name, 512);
    }
    c = nbd_client_new(NBD_TEST_ADDRESS, 3);
    unsigned count = 0;
    for (nbd_client_option(c, NBD_OPT_LIST, NULL, 0); next_reply(c, NBD_OPT_LIST) != NBD_REP_ACK;)
        count++;
    assert_int_equal(count, 502);
    nbd_client_free(c);
}

static void test_list_names_every_volume(void **state)
{
    nbd_test_run(list, (struct nbd_server_options){0});
}

static void contexts(struct nbd_test *t)
{
    static const char *const allocation[] = {"qemu:dirty", "base:allocation", "base:other"};
    static const char *const wildcard[] = {"base:"};
    uint8_t data[256];
    struct nbd_client *c = nbd_client_new(NBD_TEST_ADDRESS, 3);
    uint32_t len = nbd_client_meta_data(data, "vm1", allocation, 3);
    assert_int_equal(ask(c, NBD_OPT_SET_META_CONTEXT, data, len), NBD_REP_ERR_INVALID);
    assert_int_equal(ask(c, NBD_OPT_STRUCTURED_REPLY, "x", 1), NBD_REP_ERR_INVALID);
    assert_int_equal(ask(c, NBD_OPT_STRUCTURED_REPLY, NULL, 0), NBD_REP_ACK);
    assert_int_equal(ask(c, NBD_OPT_SET_META_CONTEXT, data, len), NBD_REP_META_CONTEXT);
    assert_true(get_be32(reply) == 1 && reply_is(4, "base:allocation"));
    assert_int_equal(next_reply(c, NBD_OPT_SET_META_CONTEXT), NBD_REP_ACK);
    assert_int_equal(ask(c, NBD_OPT_SET_META_CONTEXT, data, len - 1), NBD_REP_ERR_INVALID);
    /* "base:" lists, and sets nothing; no query lists all, and sets nothing. */
    len = nbd_client_meta_data(data, "vm1", wildcard, 1);
    assert_int_equal(ask(c, NBD_OPT_LIST_META_CONTEXT, data, len), NBD_REP_META_CONTEXT);
    assert_int_equal(next_reply(c, NBD_OPT_LIST_META_CONTEXT), NBD_REP_ACK);
    assert_int_equal(ask(c, NBD_OPT_SET_META_CONTEXT, data, len), NBD_REP_ACK);
    len = nbd_client_meta_data(data, "vm1", NULL, 0);
    assert_int_equal(ask(c, NBD_OPT_LIST_META_CONTEXT, data, len), NBD_REP_META_CONTEXT);
    assert_int_equal(next_reply(c, NBD_OPT_LIST_META_CONTEXT), NBD_REP_ACK);
    assert_int_equal(ask(c, NBD_OPT_SET_META_CONTEXT, data, len), NBD_REP_ACK);
    nbd_client_free(c);
}

static void test_metadata_contexts(void **state)
{
    nbd_test_run(contexts, (struct nbd_server_options){0});
}

/* A context counts only if it was selected for the export that is used in the end. */
static void context_of_another_export(struct nbd_test *t)
{
    static const char *const allocation[] = {"base:allocation"};
    for (unsigned same = 0; same < 2; same++) {
        uint8_t data[256], block[16];
        struct nbd_client *c = nbd_client_new(NBD_TEST_ADDRESS, 3);
        assert_int_equal(ask(c, NBD_OPT_STRUCTURED_REPLY, NULL, 0), NBD_REP_ACK);
        c->structured = true;
        uint32_t len = nbd_client_meta_data(data, same ? "vm1" : "vm2", allocation, 1);
        assert_int_equal(ask(c, NBD_OPT_SET_META_CONTEXT, data, len), NBD_REP_META_CONTEXT);
        assert_int_equal(next_reply(c, NBD_OPT_SET_META_CONTEXT), NBD_REP_ACK);
        assert_int_equal(nbd_client_info(c, NBD_OPT_GO, "vm1"), NBD_REP_ACK);
        assert_int_equal(nbd_client_call(c, NBD_CMD_BLOCK_STATUS, 0, 0, 512, block),
            same ? NBD_SUCCESS : NBD_EINVAL);
        nbd_client_free(c);
    }
}

static void test_a_context_counts_for_its_export_only(void **state)
{
    nbd_test_run(context_of_another_export, (struct nbd_server_options){0});
}

static void odd_options(struct nbd_test *t)
{
    static uint8_t junk[40000];
    static const uint32_t unknown[] = {0, 4, 11, 12, 1000, 0xffffffff};
    struct nbd_client *c = nbd_client_new(NBD_TEST_ADDRESS, 3);
    assert_int_equal(ask(c, NBD_OPT_STARTTLS, NULL, 0), NBD_REP_ERR_POLICY);
    assert_int_equal(ask(c, NBD_OPT_STARTTLS, "x", 1), NBD_REP_ERR_INVALID);
    for (unsigned i = 0; i < ARRAY_SIZE(unknown); i++)
        assert_int_equal(ask(c, unknown[i], junk, i * 100), NBD_REP_ERR_UNSUP);
    assert_int_equal(ask(c, NBD_OPT_GO, junk, 3), NBD_REP_ERR_INVALID);
    assert_int_equal(ask(c, NBD_OPT_GO, NULL, 0), NBD_REP_ERR_INVALID);
    assert_int_equal(ask(c, NBD_OPT_INFO, junk, sizeof(junk)), NBD_REP_ERR_TOO_BIG);
    assert_int_equal(ask(c, 1000, junk, sizeof(junk)), NBD_REP_ERR_TOO_BIG);
    assert_int_equal(ask(c, NBD_OPT_ABORT, "ignored", 7), NBD_REP_ACK);
    assert_true(nbd_client_closed(c, SEC));
    nbd_client_free(c);
}

static void test_unknown_and_malformed_options_are_answered(void **state)
{
    nbd_test_run(odd_options, (struct nbd_server_options){0});
}

static void violations(struct nbd_test *t)
{
    static const uint8_t wrong_magic[16] = "IHAVEOPX";
    uint8_t huge[16] = "IHAVEOPT";
    struct nbd_client *c = nbd_client_new(NBD_TEST_ADDRESS, 4); /* unknown client flag */
    assert_true(nbd_client_closed(c, SEC));
    nbd_client_free(c);
    c = nbd_client_new(NBD_TEST_ADDRESS, 3);
    nbd_client_send(c, wrong_magic, sizeof(wrong_magic));
    assert_true(nbd_client_closed(c, SEC));
    nbd_client_free(c);
    c = nbd_client_new(NBD_TEST_ADDRESS, 3);
    put_be32(huge + 8, NBD_OPT_LIST);
    put_be32(huge + 12, UINT32_MAX);
    nbd_client_send(c, huge, sizeof(huge));
    assert_true(nbd_client_closed(c, SEC));
    nbd_client_free(c);
    c = nbd_client_new(NBD_TEST_ADDRESS, 3);
    for (unsigned i = 0; i < 256; i++) /* for ever haggling */
        assert_int_equal(ask(c, 1000, NULL, 0), NBD_REP_ERR_UNSUP);
    nbd_client_option(c, 1000, NULL, 0);
    assert_true(nbd_client_closed(c, SEC));
    nbd_client_free(c);
    assert_int_equal(nbd_test_stats(t).handshakes_failed, 4);
}

static void test_violations_end_the_connection(void **state)
{
    nbd_test_run(violations, (struct nbd_server_options){0});
}

static void silence(struct nbd_test *t)
{
    /* Silent after the greeting, in an option's header, in an option's data. */
    for (unsigned where = 0; where < 3; where++) {
        struct nbd_client *c = nbd_client_new(NBD_TEST_ADDRESS, 3);
        uint64_t start_ns = env_now_ns();
        if (where == 1)
            nbd_client_send(c, "IHAVE", 5);
        if (where == 2)
            nbd_client_send(c, "IHAVEOPT\0\0\0\7\0\0\0\20abc", 19);
        assert_true(nbd_client_closed(c, 20 * SEC));
        assert_in_range(env_now_ns() - start_ns, 9 * SEC, 11 * SEC);
        nbd_client_free(c);
    }
    assert_int_equal(nbd_test_stats(t).handshakes_timed_out, 3);
    assert_int_equal(nbd_test_stats(t).connections, 0);
}

static void test_a_silent_client_is_dropped_after_ten_seconds(void **state)
{
    nbd_test_run(silence, (struct nbd_server_options){0});
}

static void drip(struct nbd_test *t)
{
    struct nbd_client *c = nbd_client_new(NBD_TEST_ADDRESS, 3);
    uint64_t start_ns = env_now_ns();
    while (nbd_client_send(c, "IHAVEOPT\0\0\0\3\0\0\0\0", 16)) /* the server is never idle */
        env_sleep_ns(500 * MS);
    assert_in_range(env_now_ns() - start_ns, 9 * SEC, 12 * SEC);
    nbd_client_free(c);
}

static void test_a_client_cannot_stay_by_being_slow(void **state)
{
    nbd_test_run(drip, (struct nbd_server_options){0});
}

static void crowd(struct nbd_test *t)
{
    struct nbd_client *clients[6];
    for (unsigned i = 0; i < 6; i++)
        clients[i] = nbd_client_new(NBD_TEST_ADDRESS, 3);
    /* Four may be in the handshake: the two oldest had to go. */
    for (unsigned i = 0; i < 6; i++) {
        uint32_t type = nbd_client_info(clients[i], NBD_OPT_GO, "vm1");
        assert_int_equal(type, i < 2 ? 0 : NBD_REP_ACK);
        if (i < 2)
            nbd_client_free(clients[i]);
    }
    /* Five connections at most: one more finds room, the next is closed at once. */
    struct nbd_client *last = nbd_client_use(NBD_TEST_ADDRESS, "vm1", false);
    struct env_stream *stream;
    char byte;
    assert_int_equal(env_connect(NBD_TEST_ADDRESS, UINT64_MAX, &stream), 0);
    assert_true(env_recv(stream, &byte, 1, env_now_ns() + SEC) <= 0);
    env_stream_close(stream);
    assert_int_equal(nbd_test_stats(t).connections_refused, 1);
    nbd_client_free(last);
    for (unsigned i = 2; i < 6; i++)
        nbd_client_free(clients[i]);
}

static void test_too_many_clients_push_out_handshakes_not_connections(void **state)
{
    nbd_test_run(crowd, (struct nbd_server_options){.connections_max = 5, .handshakes_max = 4});
}

static void open_fails(struct nbd_test *t)
{
    struct nbd_client *c = nbd_client_new(NBD_TEST_ADDRESS, 3);
    static const uint8_t data[] = {0, 0, 0, 3, 'v', 'm', '1', 0, 0};
    fake_volume_faults(t->volumes, "vm1")->open_error = -EIO;
    assert_int_equal(ask(c, NBD_OPT_GO, data, sizeof(data)), NBD_REP_ERR_UNKNOWN);
    reply[reply_bytes] = 0;
    assert_non_null(strstr((char *)reply, "a fault of the test"));
    fake_volume_faults(t->volumes, "vm1")->open_error = -ESHUTDOWN;
    assert_int_equal(ask(c, NBD_OPT_GO, data, sizeof(data)), NBD_REP_ERR_SHUTDOWN);
    fake_volume_faults(t->volumes, "vm1")->open_error = 0;
    assert_int_equal(nbd_client_info(c, NBD_OPT_GO, "vm1"), NBD_REP_ACK);
    nbd_client_free(c);
}

static void test_a_volume_that_cannot_be_opened_is_explained(void **state)
{
    nbd_test_run(open_fails, (struct nbd_server_options){0});
}

static void owner_comes_back(void *arg)
{
    struct nbd_test *t = arg;
    env_sleep_ns(3 * SEC);
    fake_volume_faults(t->volumes, "vm1")->open_error = 0;
}

/* As long as the handshake may take: a node that is being taken over is back by then. */
static void owner_away(struct nbd_test *t)
{
    struct nbd_client *c = nbd_client_new(NBD_TEST_ADDRESS, 3);
    static const uint8_t data[] = {0, 0, 0, 3, 'v', 'm', '1', 0, 0};
    uint64_t start_ns = env_now_ns();
    fake_volume_faults(t->volumes, "vm1")->open_error = -EAGAIN;
    assert_int_equal(ask(c, NBD_OPT_GO, data, sizeof(data)), NBD_REP_ERR_UNKNOWN);
    assert_in_range(env_now_ns() - start_ns, 10 * SEC, 11 * SEC);
    reply[reply_bytes] = 0;
    assert_non_null(strstr((char *)reply, "a fault of the test"));
    fiber_spawn("owner", owner_comes_back, t);
    start_ns = env_now_ns();
    assert_int_equal(nbd_client_info(c, NBD_OPT_GO, "vm1"), NBD_REP_ACK);
    assert_in_range(env_now_ns() - start_ns, 3 * SEC, 3 * SEC + 200 * MS);
    nbd_client_free(c);
}

static void test_a_volume_whose_owner_is_away_is_waited_for(void **state)
{
    nbd_test_run(owner_away, (struct nbd_server_options){0});
}

static void owner_tells(struct nbd_test *t)
{
    struct nbd_client *c = nbd_client_new(NBD_TEST_ADDRESS, 3);
    fake_volume_faults(t->volumes, "vm1")->open_error = -EAGAIN;
    fiber_spawn("owner", owner_comes_back, t);
    nbd_client_option(c, NBD_OPT_EXPORT_NAME, "vm1", 3);
    env_sleep_ns(3 * SEC + 1 * MS);
    attach_changed(t->attach);
    env_sleep_ns(5 * MS);
    assert_int_equal(fake_volume_users(t->volumes, "vm1"), 1);
    nbd_client_free(c);
}

static void test_news_of_the_cluster_shorten_the_wait(void **state)
{
    nbd_test_run(owner_tells, (struct nbd_server_options){0});
}

static void stopped_meanwhile(struct nbd_test *t)
{
    struct nbd_client *c = nbd_client_new(NBD_TEST_ADDRESS, 3);
    fake_volume_faults(t->volumes, "vm1")->open_error = -EAGAIN;
    nbd_client_option(c, NBD_OPT_EXPORT_NAME, "vm1", 3);
    env_sleep_ns(SEC);
    uint64_t start_ns = env_now_ns();
    nbd_server_stop(t->server);
    t->server = NULL;
    assert_true(env_now_ns() - start_ns < SEC);
    nbd_client_free(c);
}

static void test_a_server_that_stops_does_not_wait_for_owners(void **state)
{
    nbd_test_run(stopped_meanwhile, (struct nbd_server_options){0});
}

int main(void)
{
    log_set_level(LOG_LEVEL_ERROR);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_go_and_info),
        cmocka_unit_test(test_information_is_given_as_asked),
        cmocka_unit_test(test_unknown_names_are_refused_and_the_haggling_goes_on),
        cmocka_unit_test(test_the_empty_name_is_the_only_volume),
        cmocka_unit_test(test_without_the_store_no_volume_is_the_only_one),
        cmocka_unit_test(test_export_name_with_and_without_zeroes),
        cmocka_unit_test(test_list_names_every_volume),
        cmocka_unit_test(test_metadata_contexts),
        cmocka_unit_test(test_a_context_counts_for_its_export_only),
        cmocka_unit_test(test_unknown_and_malformed_options_are_answered),
        cmocka_unit_test(test_violations_end_the_connection),
        cmocka_unit_test(test_a_silent_client_is_dropped_after_ten_seconds),
        cmocka_unit_test(test_a_client_cannot_stay_by_being_slow),
        cmocka_unit_test(test_too_many_clients_push_out_handshakes_not_connections),
        cmocka_unit_test(test_a_volume_that_cannot_be_opened_is_explained),
        cmocka_unit_test(test_a_volume_whose_owner_is_away_is_waited_for),
        cmocka_unit_test(test_news_of_the_cluster_shorten_the_wait),
        cmocka_unit_test(test_a_server_that_stops_does_not_wait_for_owners),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
