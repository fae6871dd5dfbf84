/* SPDX-License-Identifier: Apache-2.0
 *
 * Attachments of two nodes, n1 and n2, to volumes in memory of which each is open on one of them. The
 * wire between them is a few functions here, in place of rpc.c and peers.c: it delivers, delays, loses
 * answers and breaks on order. Included once a program.
 */
#pragma once

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

static inline void exchange_free(struct exchange *exchange)
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

static inline const struct rpc_method *method_find(uint16_t number)
{
    for (unsigned i = 0; i < attach_method_count; i++)
        if (attach_methods[i].number == number)
            return &attach_methods[i];
    CHECK_MSG(false, "no method %u", number);
    return NULL;
}

static inline struct exchange *exchange_new(
    struct rpc_session *session, const struct rpc_call *call)
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

static inline int take_answer(struct rpc_call *call, struct exchange *exchange)
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

static inline void wire(
    struct node *from, struct node *to, const char *to_name, const char *from_name)
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
static inline bool must_wait(const struct rpc_session *session)
{
    list_for_each (it, &session->open)
        if (!list_entry(it, struct exchange, link)->base.may_be_left)
            return true;
    return false;
}

static inline void unwire(struct node *from)
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

static inline void rewire(struct node *from, struct node *to, const char *from_name)
{
    from->peers.session.user = attach_session_new(to->attach, from_name);
    from->peers.session.up = true;
    attach_changed(from->attach);
}

static inline void make_attach(struct node *node)
{
    node->attach = attach_new(&(struct attach_options){.volumes = node->volumes,
        .members = (struct members *)1,
        .peers = &node->peers,
        .forward_timeout_ns = 10 * SEC});
}

static inline void world(void *arg)
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

static inline bool is_finished(void *arg)
{
    return finished;
}

static inline void run(void (*body)(void))
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

static inline void count_resized(struct attachment *attachment, void *ctx)
{
    ((struct events *)ctx)->resized++;
}

static inline void count_removed(struct attachment *attachment, void *ctx)
{
    ((struct events *)ctx)->removed++;
}

static inline void count_halted(struct attachment *attachment, void *ctx)
{
    ((struct events *)ctx)->halted++;
}

static const struct attachment_events events = {count_resized, count_removed, count_halted};

static inline struct attachment *get(struct node *node, struct events *counts)
{
    struct attachment *attachment;
    char *error = NULL;
    int r = attach_get(node->attach, "vm1", &events, counts, &attachment, &error);
    if (r < 0)
        fail_msg("attach: %s: %s", strerror(-r), error);
    return attachment;
}

static inline int try_get(struct node *node, const char *want_in_error)
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

static inline const struct fake_counts *counts(void)
{
    return fake_volume_counts(n1.volumes, "vm1");
}

static inline void fill(uint8_t *buf, size_t len_bytes, unsigned tag)
{
    for (size_t i = 0; i < len_bytes; i++)
        buf[i] = (uint8_t)(tag + i / 5);
}

static inline struct request_id number(uint64_t n)
{
    return (struct request_id){.session = 7, .number = n, .answered_below = n};
}
