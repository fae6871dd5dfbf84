/* SPDX-License-Identifier: Apache-2.0
 *
 * Attachments of two nodes, n1 and n2, to volumes in memory of which each is open on one of them. The
 * wire between them is a few functions here, in place of rpc.c and peers.c: it delivers, delays, loses
 * answers and breaks on order.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "blockd/attach.h"
#include "blockd/cluster/members.h"
#include "blockd/cluster/peers.h"
#include "blockd/cluster/protocol.h"
#include "blockd/cluster/wire_volume.h"
#include "common/check.h"
#include "common/env.h"
#include "common/env_sim.h"
#include "common/log.h"
#include "common/mem.h"
#include "tests/lib/fake_volume.h"

#define MS 1000000ull
#define SEC 1000000000ull
#define VOLUME_BYTES ((64ull << 20) + 512)
#define BLOCK 4096u

/* --- The wire ------------------------------------------------------------------------------------ */

struct rpc_session { /* what one node's client is at the other's server */
    struct attach_session *user;
    struct fiber_queue changed;
    struct list open; /* exchange.link: what the server's handlers have */
    bool up;
    uint64_t delay_ns;
    unsigned calls[64];
    unsigned lose_answers; /* of so many of the next calls: executed, then the connection breaks */
    bool cut_short;        /* the next answer is too short */
    bool takes_nothing;    /* replies are not sent: */
    unsigned unsent_count;
    struct unsent {
        void (*sent)(void *arg);
        void *arg;
    } unsent[32];
};

struct peers {
    struct peer peer; /* the other node */
    struct rpc_session session;
    struct attach *server;
};

struct exchange {
    struct rpc_request base;
    struct list link;
    struct rpc_session *session;
    bool answered, abandoned;
    int status;
    uint8_t body[RPC_BODY_BYTES_MAX];
    uint32_t body_len_bytes;
    uint8_t *payload;
    uint64_t payload_bytes;
    size_t in_bytes;
    uint8_t *in_body;
};

struct peer *peers_find(struct peers *peers, const char *name)
{
    return strcmp(peers->peer.name, name) == 0 ? &peers->peer : NULL;
}

bool peer_connected(const struct peer *peer)
{
    return peer->peers->session.up;
}

const char *rpc_client_problem(const struct rpc_client *client)
{
    return "cut by the test";
}

static bool no_handoffs; /* nobody has a session, and asks for one */

uint64_t members_session(const struct members *members)
{
    return !no_handoffs;
}

void *rpc_session_user(const struct rpc_session *session)
{
    return session->user;
}

static void exchange_free(struct exchange *exchange)
{
    mem_free(exchange->payload);
    mem_free(exchange->in_body);
    if (exchange->base.payload)
        mem_free_pages(exchange->base.payload, exchange->in_bytes);
    mem_free(exchange);
}

void rpc_reply(struct rpc_request *request, int status, const void *body, uint32_t body_len_bytes,
    const struct iovec *payload, unsigned payload_count, void (*sent)(void *arg), void *arg)
{
    struct exchange *exchange = (struct exchange *)request;
    struct rpc_session *session = exchange->session;
    CHECK(!exchange->answered && payload_count <= 1 && body_len_bytes <= sizeof(exchange->body));
    exchange->answered = true;
    exchange->status = status;
    memcpy(exchange->body, body, body_len_bytes);
    exchange->body_len_bytes = body_len_bytes;
    if (payload_count > 0) {
        exchange->payload_bytes = payload->iov_len;
        exchange->payload = mem_alloc(payload->iov_len);
        memcpy(exchange->payload, payload->iov_base, payload->iov_len);
    }
    if (sent && session->takes_nothing) {
        CHECK(session->unsent_count < ARRAY_SIZE(session->unsent));
        session->unsent[session->unsent_count++] = (struct unsent){sent, arg};
    } else if (sent) {
        sent(arg);
    }
    list_remove(&exchange->link);
    if (exchange->abandoned)
        exchange_free(exchange);
    fiber_queue_wake_all(&session->changed);
}

static const struct rpc_method *method_find(uint16_t number)
{
    for (unsigned i = 0; i < attach_method_count; i++)
        if (attach_methods[i].number == number)
            return &attach_methods[i];
    CHECK_MSG(false, "no method %u", number);
    return NULL;
}

static struct exchange *exchange_new(struct rpc_session *session, const struct rpc_call *call)
{
    struct exchange *exchange = NEW(struct exchange);
    exchange->session = session;
    exchange->in_body = mem_alloc(call->body_len_bytes);
    memcpy(exchange->in_body, call->body, call->body_len_bytes);
    exchange->base = (struct rpc_request){.method = call->method,
        .body = exchange->in_body,
        .body_len_bytes = call->body_len_bytes,
        .deadline_ns = call->deadline_ns,
        .session = session};
    if (call->payload_count > 0) {
        exchange->in_bytes = call->payload->iov_len;
        exchange->base.payload = mem_alloc_pages(exchange->in_bytes);
        exchange->base.payload_bytes = (uint32_t)exchange->in_bytes;
        memcpy(exchange->base.payload, call->payload->iov_base, exchange->in_bytes);
    }
    return exchange;
}

static int take_answer(struct rpc_call *call, struct exchange *exchange)
{
    int status = exchange->status;
    if (exchange->session->cut_short) {
        exchange->session->cut_short = false;
        exchange->body_len_bytes /= 2;
    }
    CHECK(exchange->body_len_bytes <= call->reply_body_max);
    memcpy(call->reply_body, exchange->body, exchange->body_len_bytes);
    call->ret_body_len_bytes = exchange->body_len_bytes;
    call->ret_payload_bytes = exchange->payload_bytes;
    if (exchange->payload_bytes > 0) {
        CHECK(call->reply_payload_count == 1 &&
              exchange->payload_bytes <= call->reply_payload->iov_len);
        memcpy(call->reply_payload->iov_base, exchange->payload, exchange->payload_bytes);
    }
    exchange_free(exchange);
    return status;
}

int peer_call_unless(struct peer *peer, struct rpc_call *call, const bool *given_up)
{
    struct rpc_session *session = &peer->peers->session;
    const struct rpc_method *method = method_find(call->method);
    if (session->up && session->delay_ns)
        env_sleep_ns(session->delay_ns);
    if (!session->up)
        return -EHOSTUNREACH;
    CHECK(call->body_len_bytes >= method->body_bytes_min);
    struct exchange *exchange = exchange_new(session, call);
    CHECK(exchange->in_bytes <= method->payload_bytes_max);
    session->calls[call->method]++;
    list_push_back(&session->open, &exchange->link);
    struct attach_session *user = session->user;
    method->handle(NULL, &exchange->base);
    int r = 0;
    while (!exchange->answered && session->up && session->user == user && r == 0 &&
           !(given_up && *given_up)) {
        uint64_t look_ns = env_now_ns() + 100 * MS;
        r = fiber_queue_wait_until(&session->changed, MIN(look_ns, call->deadline_ns));
        r = env_now_ns() < call->deadline_ns ? 0 : r;
    }
    if (exchange->answered && session->up && session->lose_answers == 0)
        return take_answer(call, exchange);
    if (exchange->answered) {
        session->lose_answers -= session->lose_answers > 0;
        exchange_free(exchange);
        return -EHOSTUNREACH;
    }
    exchange->base.cancelled = true;
    exchange->abandoned = true;
    return given_up && *given_up ? -ECANCELED : session->up ? -ETIMEDOUT : -EHOSTUNREACH;
}

int peer_call(struct peer *peer, struct rpc_call *call)
{
    return peer_call_unless(peer, call, NULL);
}

/* --- The world ----------------------------------------------------------------------------------- */

struct node {
    struct volumes *volumes;
    struct attach *attach;
    struct peers peers; /* to the other */
};

static struct node n1, n2;
static bool finished;

static void wire(struct node *from, struct node *to, const char *to_name, const char *from_name)
{
    memset(&from->peers, 0, sizeof(from->peers));
    strcpy(from->peers.peer.name, to_name);
    from->peers.peer.peers = &from->peers;
    fiber_queue_init(&from->peers.session.changed);
    list_init(&from->peers.session.open);
    from->peers.session.up = true;
    from->peers.session.user = attach_session_new(to->attach, from_name);
}

/* C3: the session is over when its requests are, or have been left behind; then a new one can begin. */
static bool must_wait(const struct rpc_session *session)
{
    list_for_each (it, &session->open)
        if (!list_entry(it, struct exchange, link)->base.may_be_left)
            return true;
    return false;
}

static void unwire(struct node *from)
{
    struct rpc_session *session = &from->peers.session;
    session->up = false;
    list_for_each (it, &session->open)
        list_entry(it, struct exchange, link)->base.cancelled = true;
    fiber_queue_wake_all(&session->changed);
    while (must_wait(session))
        fiber_queue_wait(&session->changed);
    attach_session_end(session->user);
    session->user = NULL;
}

static void rewire(struct node *from, struct node *to, const char *from_name)
{
    from->peers.session.user = attach_session_new(to->attach, from_name);
    from->peers.session.up = true;
    attach_changed(from->attach);
}

static void make_attach(struct node *node)
{
    node->attach = attach_new(&(struct attach_options){.volumes = node->volumes,
        .members = (struct members *)1,
        .peers = &node->peers,
        .forward_timeout_ns = 10 * SEC});
}

static void world(void *arg)
{
    void (*body)(void) = *(void (**)(void))arg;
    uint64_t before_bytes = mem_used_bytes(fiber_env());
    n1.volumes = fake_volumes_new();
    n2.volumes = fake_volumes_join(n1.volumes, "n2");
    fake_volumes_add(n1.volumes, "vm1", VOLUME_BYTES);
    fake_volumes_add(n1.volumes, "vm2", VOLUME_BYTES);
    make_attach(&n1);
    make_attach(&n2);
    wire(&n1, &n2, "n2", "n1");
    wire(&n2, &n1, "n1", "n2");
    body();
    env_sleep_ns(10 * SEC); /* remotes detach */
    assert_int_equal(fake_volume_users(n1.volumes, "vm1"), 0);
    unwire(&n1);
    unwire(&n2);
    attach_free(n2.attach);
    attach_free(n1.attach);
    fake_volumes_free(n2.volumes);
    fake_volumes_free(n1.volumes);
    assert_int_equal(mem_used_bytes(fiber_env()), before_bytes);
    finished = true;
}

static bool is_finished(void *arg)
{
    return finished;
}

static void run(void (*body)(void))
{
    for (uint64_t seed = 1; seed <= 3; seed++) {
        struct sim *sim = sim_new(&(struct sim_options){.seed = seed});
        finished = false;
        sim_node_start(sim_node_new(sim, "n"), "test", world, &body);
        assert_int_equal(sim_run(sim, is_finished, NULL, 3600 * SEC), SIM_UNTIL);
        sim_free(sim);
    }
}

struct events {
    unsigned resized, removed, halted;
};

static void count_resized(struct attachment *attachment, void *ctx)
{
    ((struct events *)ctx)->resized++;
}

static void count_removed(struct attachment *attachment, void *ctx)
{
    ((struct events *)ctx)->removed++;
}

static void count_halted(struct attachment *attachment, void *ctx)
{
    ((struct events *)ctx)->halted++;
}

static const struct attachment_events events = {count_resized, count_removed, count_halted};

static struct attachment *get(struct node *node, struct events *counts)
{
    struct attachment *attachment;
    char *error = NULL;
    int r = attach_get(node->attach, "vm1", &events, counts, &attachment, &error);
    if (r < 0)
        fail_msg("attach: %s: %s", strerror(-r), error);
    return attachment;
}

static int try_get(struct node *node, const char *want_in_error)
{
    struct attachment *attachment = NULL;
    char *error = NULL;
    int r = attach_get(node->attach, "vm1", NULL, NULL, &attachment, &error);
    if (r == 0)
        attach_put(attachment);
    else if (want_in_error && !strstr(error, want_in_error))
        fail_msg("'%s' says nothing of '%s'", error, want_in_error);
    mem_free(error);
    return r;
}

static const struct fake_counts *counts(void)
{
    return fake_volume_counts(n1.volumes, "vm1");
}

static void fill(uint8_t *buf, size_t len_bytes, unsigned tag)
{
    for (size_t i = 0; i < len_bytes; i++)
        buf[i] = (uint8_t)(tag + i / 5);
}

static struct request_id number(uint64_t n)
{
    return (struct request_id){.session = 7, .number = n, .answered_below = n};
}

/* --- Calls --------------------------------------------------------------------------------------- */

static void calls_body(void)
{
    static uint8_t out[200000], in[200000];
    struct events e1 = {0}, e2 = {0};
    struct attachment *a1 = get(&n1, &e1), *a2 = get(&n2, &e2);
    assert_string_equal(attach_owner(a1), "");
    assert_string_equal(attach_owner(a2), "n1");
    assert_true(attach_size_bytes(a2) == VOLUME_BYTES);
    assert_string_equal(attach_volume_name(a2), "vm1");
    assert_true(attach_volume_id(a1) == attach_volume_id(a2));
    assert_int_equal(fake_volume_users(n1.volumes, "vm1"), 2);
    fill(out, sizeof(out), 3);
    assert_int_equal(attach_write(a2, 512, sizeof(out), out, VOLUME_FUA, number(1)), 0);
    assert_int_equal(counts()->fua_calls, 1);
    assert_int_equal(counts()->last_id.session, 7);
    assert_int_equal(counts()->last_id.number, 1);
    assert_int_equal(attach_read(a1, 512, sizeof(in), in), 0);
    assert_memory_equal(in, out, sizeof(in));
    assert_int_equal(attach_write_zeroes(a2, 4096, 8192, VOLUME_NO_HOLE, number(2)), 0);
    assert_int_equal(counts()->no_hole, 1);
    memset(out + 4096 - 512, 0, 8192);
    assert_int_equal(attach_read(a2, 512, sizeof(in), in), 0);
    assert_memory_equal(in, out, sizeof(in));
    assert_int_equal(attach_trim(a2, 0, VOLUME_BYTES, 0, number(3)), 0);
    assert_int_equal(counts()->trims, 1);
    assert_int_equal(attach_flush(a2), 0);
    assert_int_equal(counts()->flushes, 1);
    attach_put(a1);
    attach_put(a2);
}

static void test_calls_reach_the_volume_wherever_it_is(void **state)
{
    run(calls_body);
}

static void large_body(void)
{
    size_t len_bytes = (40u << 20) + 512;
    uint8_t *out = mem_alloc(len_bytes), *in = mem_alloc(len_bytes);
    struct events e = {0};
    struct attachment *a1 = get(&n1, &e), *a2 = get(&n2, &e);
    fill(out, len_bytes, 9);
    assert_int_equal(attach_write(a2, 0, len_bytes, out, 0, number(1)), 0);
    assert_int_equal(counts()->writes, 2);
    assert_int_equal(counts()->duplicates, 0);
    assert_int_equal(attach_read(a2, 0, len_bytes, in), 0);
    assert_memory_equal(in, out, len_bytes);
    mem_free(out);
    mem_free(in);
    attach_put(a2);
    attach_put(a1);
}

static void test_what_is_longer_than_a_frame_is_split(void **state)
{
    run(large_body);
}

static void status_body(void)
{
    static uint8_t out[BLOCK];
    struct volume_extent here[100], there[100];
    unsigned here_count, there_count;
    struct events e = {0};
    struct attachment *a1 = get(&n1, &e), *a2 = get(&n2, &e);
    for (unsigned i = 0; i < 30; i++)
        assert_int_equal(attach_write(a1, i * 3 * BLOCK, BLOCK, out, 0, (struct request_id){0}), 0);
    assert_int_equal(attach_block_status(a1, 0, VOLUME_BYTES, here, 100, &here_count), 0);
    assert_int_equal(attach_block_status(a2, 0, VOLUME_BYTES, there, 100, &there_count), 0);
    assert_int_equal(here_count, there_count);
    for (unsigned i = 0; i < here_count; i++) {
        assert_true(here[i].len_bytes == there[i].len_bytes);
        assert_true(here[i].hole == there[i].hole);
    }
    assert_int_equal(attach_block_status(a2, 0, VOLUME_BYTES, there, 1, &there_count), 0);
    assert_int_equal(there_count, 1);
    attach_put(a1);
    attach_put(a2);
}

static void test_block_status_comes_as_extents(void **state)
{
    run(status_body);
}

static void errors_body(void)
{
    static uint8_t buf[BLOCK];
    struct events e = {0};
    struct attachment *a1 = get(&n1, &e), *a2 = get(&n2, &e);
    fake_volume_faults(n1.volumes, "vm1")->error = -ENOSPC;
    assert_int_equal(attach_write(a2, 0, BLOCK, buf, 0, number(1)), -ENOSPC);
    fake_volume_faults(n1.volumes, "vm1")->error = -EIO;
    assert_int_equal(attach_read(a2, 0, BLOCK, buf), -EIO);
    fake_volume_faults(n1.volumes, "vm1")->error = 0;
    assert_int_equal(attach_read(a2, VOLUME_BYTES - 512, BLOCK, buf), -EINVAL);
    assert_int_equal(attach_trim(a2, UINT64_MAX - 5, 10, 0, number(2)), -EINVAL);
    assert_int_equal(attach_read(a2, 0, BLOCK, buf), 0);
    assert_int_equal(e.halted, 0);
    attach_put(a1);
    attach_put(a2);
}

static void test_the_owners_errors_are_the_callers(void **state)
{
    run(errors_body);
}

/* --- News ---------------------------------------------------------------------------------------- */

static void resize_body(void)
{
    static uint8_t buf[BLOCK];
    char *error = NULL;
    struct events e1 = {0}, e2 = {0};
    struct attachment *a1 = get(&n1, &e1), *a2 = get(&n2, &e2);
    assert_int_equal(volumes_resize(n1.volumes, "vm1", VOLUME_BYTES + 4096, &error), 0);
    assert_int_equal(e1.resized, 1);
    env_sleep_ns(2500 * MS); /* nothing is read or written */
    assert_int_equal(e2.resized, 1);
    assert_true(attach_size_bytes(a2) == VOLUME_BYTES + 4096);
    assert_int_equal(volumes_resize(n1.volumes, "vm1", VOLUME_BYTES + 8192, &error), 0);
    assert_int_equal(attach_read(a2, 0, BLOCK, buf), 0); /* at once with an answer */
    assert_int_equal(e2.resized, 2);
    attach_put(a1);
    attach_put(a2);
}

static void test_growth_is_seen_everywhere(void **state)
{
    run(resize_body);
}

static void delete_vm1(void *arg)
{
    char *error = NULL;
    assert_int_equal(volumes_delete(n1.volumes, "vm1", true, &error), 0);
    fake_volumes_add(n1.volumes, "vm1", VOLUME_BYTES); /* for the end of the test */
    *(bool *)arg = true;
}

static void removed_body(void)
{
    struct events e1 = {0}, e2 = {0};
    struct attachment *a1 = get(&n1, &e1), *a2 = get(&n2, &e2);
    bool deleted = false;
    fiber_spawn("delete", delete_vm1, &deleted);
    env_sleep_ns(2500 * MS);
    assert_int_equal(e1.removed, 1);
    assert_true(e2.removed > 0);
    attach_put(a1);
    attach_put(a2);
    env_sleep_ns(SEC);
    assert_true(deleted);
}

static void test_a_forced_delete_reaches_all_nodes(void **state)
{
    run(removed_body);
}

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

/* --- What comes off the wire is not trusted -------------------------------------------------------- */

static int raw(uint16_t method, const struct wire_volume_request *request, const void *payload,
    size_t payload_bytes)
{
    uint8_t body[WIRE_VOLUME_REQUEST_BYTES], reply[512];
    static uint8_t data[BLOCK];
    struct iovec in = {(void *)payload, payload_bytes}, out = {data, sizeof(data)};
    wire_volume_request_encode(request, body);
    struct rpc_call call = {.method = method,
        .body = body,
        .body_len_bytes = sizeof(body),
        .payload = &in,
        .payload_count = payload_bytes > 0,
        .deadline_ns = UINT64_MAX,
        .reply_body = reply,
        .reply_body_max = sizeof(reply),
        .reply_payload = &out,
        .reply_payload_count = 1};
    return peer_call(&n2.peers.peer, &call);
}

static void hostile_body(void)
{
    static uint8_t buf[BLOCK];
    struct events e = {0};
    struct attachment *a1 = get(&n1, &e), *a2 = get(&n2, &e);
    struct wire_volume_request good = {
        .volume_id = attach_volume_id(a1), .attachment = 1, .epoch = 1, .len_bytes = BLOCK};
    assert_int_equal(raw(METHOD_VOLUME_READ, &good, NULL, 0), 0);
    struct wire_volume_request bad = good;
    bad.epoch = 2;
    assert_int_equal(raw(METHOD_VOLUME_READ, &bad, NULL, 0), -ESTALE);
    bad = good;
    bad.volume_id = 99;
    assert_int_equal(raw(METHOD_VOLUME_READ, &bad, NULL, 0), -ESTALE);
    bad = good;
    bad.attachment = 99;
    assert_int_equal(raw(METHOD_VOLUME_READ, &bad, NULL, 0), -ESTALE);
    assert_int_equal(raw(METHOD_VOLUME_HANDOFF, &bad, NULL, 0), -ESTALE);
    assert_int_equal(raw(METHOD_VOLUME_DETACH, &bad, NULL, 0), 0);
    bad = good;
    bad.len_bytes = WIRE_VOLUME_DATA_BYTES_MAX + 512;
    assert_int_equal(raw(METHOD_VOLUME_READ, &bad, NULL, 0), -EINVAL);
    bad.len_bytes = 2 * BLOCK; /* more than came */
    assert_int_equal(raw(METHOD_VOLUME_WRITE, &bad, buf, BLOCK), -EINVAL);
    bad.off_bytes = UINT64_MAX;
    assert_int_equal(raw(METHOD_VOLUME_TRIM, &bad, NULL, 0), -EINVAL);
    bad = good;
    assert_int_equal(raw(METHOD_VOLUME_BLOCK_STATUS, &bad, NULL, 0), -EINVAL); /* no extents_max */
    bad.extents_max = WIRE_VOLUME_EXTENTS_MAX + 1;
    assert_int_equal(raw(METHOD_VOLUME_BLOCK_STATUS, &bad, NULL, 0), -EBADMSG);
    attach_put(a1);
    attach_put(a2);
}

static void test_requests_name_only_what_their_session_attached(void **state)
{
    run(hostile_body);
}

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
        cmocka_unit_test(test_calls_reach_the_volume_wherever_it_is),
        cmocka_unit_test(test_what_is_longer_than_a_frame_is_split),
        cmocka_unit_test(test_block_status_comes_as_extents),
        cmocka_unit_test(test_the_owners_errors_are_the_callers),
        cmocka_unit_test(test_growth_is_seen_everywhere),
        cmocka_unit_test(test_a_forced_delete_reaches_all_nodes),
        cmocka_unit_test(test_a_node_counts_once_as_a_user_and_says_when_it_is_none),
        cmocka_unit_test(test_a_broken_connection_leaves_the_outcome_open),
        cmocka_unit_test(test_what_waits_is_left_behind_and_gets_no_place),
        cmocka_unit_test(test_an_owner_that_does_not_answer_is_left),
        cmocka_unit_test(test_what_its_client_has_given_up_gets_no_place_at_the_owner),
        cmocka_unit_test(test_each_epoch_has_its_own_attachments),
        cmocka_unit_test(test_an_idle_holder_elsewhere_lets_go_of_a_halted_volume),
        cmocka_unit_test(test_an_answer_that_is_none_ends_the_attachment),
        cmocka_unit_test(test_requests_name_only_what_their_session_attached),
        cmocka_unit_test(test_a_node_that_takes_no_replies_does_not_hold_up_others),
        cmocka_unit_test(test_what_a_node_may_use_is_bounded),
        cmocka_unit_test(test_ownership_follows_traffic),
        cmocka_unit_test(test_a_volume_used_from_two_nodes_stays),
        cmocka_unit_test(test_handoffs_of_a_volume_keep_a_distance),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
