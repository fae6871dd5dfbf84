/* SPDX-License-Identifier: Apache-2.0
 *
 * session.c over links that this file plays: what is sent, in which order, after which loss.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/check.h"
#include "common/log.h"
#include "fuse/session.h"

/* --- Links ------------------------------------------------------------------------------------ */

struct link {
    const struct link_events *events;
    void *ctx;
    char name[16];
    struct nbd_op *sent[32];
    unsigned count;
};

static struct link *links[8]; /* those that live */
static unsigned links_count, links_made, links_polite, sent_total;
static struct link_export the_export;
static int connect_error;

int link_new(struct loop *loop, const char *socket_path, const char *export_name,
    const struct link_events *events, void *ctx, struct link **ret_link)
{
    if (connect_error != 0)
        return connect_error;
    struct link *link = calloc(1, sizeof(*link));
    link->events = events;
    link->ctx = ctx;
    strcpy(link->name, export_name);
    links[links_count++] = link;
    links_made++;
    *ret_link = link;
    return 0;
}

void link_free(struct link *link, bool polite)
{
    for (unsigned i = 0; i < links_count; i++)
        if (links[i] == link)
            links[i] = links[--links_count];
    links_polite += polite && link->count == 0;
    free(link);
}

const struct link_export *link_export(const struct link *link)
{
    return &the_export;
}

bool link_has_room(const struct link *link)
{
    return link->count < 32;
}

unsigned link_unanswered(const struct link *link)
{
    return link->count;
}

void link_submit(struct link *link, struct nbd_op *op)
{
    op->error = 0;
    link->sent[link->count++] = op;
    sent_total++;
}

void link_send(struct link *link)
{
}

/* The server answers the op that is `i`th on this link. */
static void answer(struct link *link, unsigned i, int error)
{
    struct nbd_op *op = link->sent[i];
    memmove(&link->sent[i], &link->sent[i + 1], (--link->count - i) * sizeof(op));
    op->error = error;
    link->events->answered(link->ctx, op);
}

static void lose(struct link *link, int error)
{
    link->events->failed(link->ctx, link, error, "test");
}

/* --- The session under test ------------------------------------------------------------------- */

static struct loop *loop;
static struct session *session;
static struct session_config config;
static unsigned identifies, ups, downs, done_count;
static int down_error;
static struct nbd_op ops[16], *abandoned_op;

static void identify(void *ctx)
{
    identifies++;
}

static void up(void *ctx)
{
    ups++;
}

static void down(void *ctx, int error)
{
    downs++;
    down_error = error;
}

static bool abandoned(void *ctx, struct nbd_op *op)
{
    return op == abandoned_op;
}

static const struct session_events events = {
    .identify = identify, .up = up, .down = down, .abandoned = abandoned};

static void op_done(struct nbd_op *op)
{
    done_count++;
}

static void submit(unsigned i, enum nbd_op_kind kind)
{
    ops[i] = (struct nbd_op){.kind = kind, .done = op_done};
    session_submit(session, &ops[i]);
}

static void nothing(struct loop_timer *timer)
{
}

/* Turns of the loop that do not wait. */
static void turns(unsigned n)
{
    struct loop_timer timer;
    loop_timer_init(&timer, nothing);
    for (unsigned i = 0; i < n; i++) {
        loop_timer_set(loop, &timer, 0);
        loop_turn(loop);
    }
}

/* Turns until `links_made` is `n` (the retries' timers run). */
static void wait_links(unsigned n)
{
    while (links_made < n)
        loop_turn(loop);
}

static void come_up(void)
{
    links[0]->events->ready(links[0]->ctx, links[0]);
    session_identified(session, 0, "vol");
    turns(1);
}

static int setup(void **state)
{
    log_set_level(LOG_LEVEL_ERROR);
    links_count = links_made = links_polite = sent_total = 0;
    identifies = ups = downs = done_count = 0;
    connect_error = 0;
    abandoned_op = NULL;
    the_export = (struct link_export){.size_bytes = 1 << 20, .can_multi_conn = true};
    config = (struct session_config){.nbd_path = "nowhere", .connections = 1};
    loop = loop_new();
    session = session_new(loop, &config, "vol", &events, NULL);
    return 0;
}

static int teardown(void **state)
{
    session_close(session);
    assert_int_equal(links_count, 0);
    loop_free(loop);
    return 0;
}

static void nothing_is_sent_before_the_volume_is_known_to_be_the_same(void **state)
{
    submit(0, NBD_OP_WRITE);
    turns(1);
    links[0]->events->ready(links[0]->ctx, links[0]);
    turns(1);
    assert_int_equal(identifies, 1);
    assert_int_equal(sent_total, 0);
    session_identified(session, 0, "vol");
    turns(1);
    assert_int_equal(ups, 1);
    assert_ptr_equal(links[0]->sent[0], &ops[0]);
    answer(links[0], 0, 0);
    assert_int_equal(done_count, 1);
}

static void unanswered_commands_are_sent_again_in_order_before_later_ones(void **state)
{
    come_up();
    for (unsigned i = 0; i < 4; i++)
        submit(i, NBD_OP_WRITE);
    turns(1);
    answer(links[0], 1, 0);
    lose(links[0], -ECONNRESET);
    submit(4, NBD_OP_WRITE);
    wait_links(2);
    assert_int_equal(links_count, 1);
    submit(5, NBD_OP_READ);
    come_up();
    struct nbd_op *expected[] = {&ops[0], &ops[2], &ops[3], &ops[4], &ops[5]};
    assert_int_equal(links[0]->count, 5);
    assert_memory_equal(links[0]->sent, expected, sizeof(expected));
    for (unsigned i = 0; i < 5; i++)
        answer(links[0], 0, 0);
    assert_int_equal(done_count, 6);
}

static void a_flush_sent_again_waits_for_all_before_it(void **state)
{
    come_up();
    submit(0, NBD_OP_WRITE);
    submit(1, NBD_OP_WRITE);
    submit(2, NBD_OP_FLUSH);
    submit(3, NBD_OP_WRITE);
    turns(1);
    assert_int_equal(links[0]->count, 4);
    lose(links[0], -ECONNRESET);
    wait_links(2);
    come_up();
    assert_int_equal(links[0]->count, 2);
    answer(links[0], 0, 0);
    turns(1);
    assert_int_equal(links[0]->count, 1);
    answer(links[0], 0, 0);
    turns(1);
    assert_ptr_equal(links[0]->sent[0], &ops[2]);
    assert_ptr_equal(links[0]->sent[1], &ops[3]);
    answer(links[0], 0, 0);
    answer(links[0], 0, 0);
    assert_int_equal(done_count, 4);
}

static void a_server_that_shuts_down_has_not_answered(void **state)
{
    come_up();
    submit(0, NBD_OP_WRITE);
    turns(1);
    answer(links[0], 0, -ESHUTDOWN);
    assert_int_equal(done_count, 0);
    wait_links(2);
    come_up();
    assert_ptr_equal(links[0]->sent[0], &ops[0]);
    answer(links[0], 0, -EIO);
    assert_int_equal(done_count, 1);
    assert_int_equal(ops[0].error, -EIO);
}

static void connections_die_together(void **state)
{
    config.connections = 3;
    come_up();
    assert_int_equal(links_count, 3);
    links[1]->events->ready(links[1]->ctx, links[1]);
    /* The third is refused: the others are enough. */
    lose(links[2], -ECONNRESET);
    submit(0, NBD_OP_WRITE);
    submit(1, NBD_OP_WRITE);
    turns(1);
    assert_int_equal(links[0]->count, 1);
    assert_int_equal(links[1]->count, 1);
    config.connections = 1;
    lose(links[1], -ECONNRESET);
    wait_links(4);
    assert_int_equal(links_count, 1);
    come_up();
    assert_int_equal(links[0]->count, 2);
    answer(links[0], 0, 0);
    answer(links[0], 0, 0);
}

static void one_connection_where_flush_does_not_cover_all(void **state)
{
    config.connections = 3;
    the_export.can_multi_conn = false;
    come_up();
    assert_int_equal(links_count, 1);
}

static void renewing_waits_for_what_is_in_flight(void **state)
{
    come_up();
    submit(0, NBD_OP_WRITE);
    turns(1);
    session_renew(session);
    submit(1, NBD_OP_WRITE);
    turns(1);
    assert_int_equal(links_made, 1);
    assert_int_equal(links[0]->count, 1);
    answer(links[0], 0, 0);
    the_export.size_bytes = 2 << 20;
    turns(1);
    assert_int_equal(links_made, 2);
    assert_int_equal(links_polite, 1);
    come_up();
    assert_int_equal(session_export(session)->size_bytes, 2 << 20);
    assert_ptr_equal(links[0]->sent[0], &ops[1]);
    answer(links[0], 0, 0);
}

static void a_volume_that_is_gone_answers_estale(void **state)
{
    come_up();
    submit(0, NBD_OP_WRITE);
    turns(1);
    lose(links[0], -ECONNRESET);
    wait_links(2);
    lose(links[0], -ENOENT);
    turns(1);
    assert_int_equal(identifies, 2);
    session_identified(session, -ENOENT, NULL);
    assert_int_equal(ops[0].error, -ESTALE);
    assert_int_equal(down_error, -ESTALE);
    submit(1, NBD_OP_READ);
    turns(1);
    assert_int_equal(ops[1].error, -ESTALE);
    assert_int_equal(done_count, 2);
}

static void a_renamed_volume_is_connected_to_by_its_new_name(void **state)
{
    come_up();
    submit(0, NBD_OP_WRITE);
    turns(1);
    lose(links[0], -ECONNRESET);
    wait_links(2);
    lose(links[0], -ENOENT);
    turns(1);
    session_identified(session, 0, "new");
    wait_links(3);
    assert_string_equal(links[0]->name, "new");
    links[0]->events->ready(links[0]->ctx, links[0]);
    session_identified(session, 0, "new");
    turns(1);
    answer(links[0], 0, 0);
    assert_int_equal(done_count, 1);
}

static void after_the_time_limit_commands_fail_until_the_server_is_back(void **state)
{
    config.timeout_ms = 300;
    come_up();
    submit(0, NBD_OP_WRITE);
    turns(1);
    connect_error = -ECONNREFUSED;
    lose(links[0], -ECONNRESET);
    while (downs == 0)
        loop_turn(loop);
    assert_int_equal(ops[0].error, -EIO);
    assert_int_equal(down_error, -EIO);
    submit(1, NBD_OP_WRITE);
    turns(1);
    assert_int_equal(ops[1].error, -EIO);
    connect_error = 0;
    wait_links(2);
    come_up();
    submit(2, NBD_OP_WRITE);
    turns(1);
    answer(links[0], 0, 0);
    assert_int_equal(ops[2].error, 0);
}

static void a_command_nobody_waits_for_is_given_up_while_it_waits(void **state)
{
    come_up();
    submit(0, NBD_OP_WRITE);
    submit(1, NBD_OP_WRITE);
    turns(1);
    connect_error = -ECONNREFUSED;
    lose(links[0], -ECONNRESET);
    abandoned_op = &ops[0];
    while (done_count == 0)
        loop_turn(loop);
    assert_int_equal(ops[0].error, -EINTR);
    connect_error = 0;
    wait_links(2);
    come_up();
    assert_int_equal(links[0]->count, 1);
    assert_ptr_equal(links[0]->sent[0], &ops[1]);
    answer(links[0], 0, 0);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(nothing_is_sent_before_the_volume_is_known_to_be_the_same),
        TEST(unanswered_commands_are_sent_again_in_order_before_later_ones),
        TEST(a_flush_sent_again_waits_for_all_before_it),
        TEST(a_server_that_shuts_down_has_not_answered),
        TEST(connections_die_together),
        TEST(one_connection_where_flush_does_not_cover_all),
        TEST(renewing_waits_for_what_is_in_flight),
        TEST(a_volume_that_is_gone_answers_estale),
        TEST(a_renamed_volume_is_connected_to_by_its_new_name),
        TEST(after_the_time_limit_commands_fail_until_the_server_is_back),
        TEST(a_command_nobody_waits_for_is_given_up_while_it_waits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
