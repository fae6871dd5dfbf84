/* SPDX-License-Identifier: Apache-2.0
 *
 * The calls of a client: queue, window, slots, deadlines, replies. Invariants C1, C2, C5 of rpc.h;
 * states in rpc_client_impl.h.
 *
 * One timer serves all deadlines: it stands at the earliest one it has heard of, and when it fires
 * everything is looked through. Calls of one kind have deadlines in the order of their submission, and
 * nearly all are answered in time, so it fires once in a long while.
 */
#include <errno.h>
#include <string.h>

#include "common/check.h"
#include "common/mem.h"
#include "common/rpc_client_impl.h"

static struct rpc_client *client_of(struct rpc_conn *conn)
{
    return container_of(conn, struct rpc_client, conn);
}

static uint64_t iov_bytes(const struct iovec *iov, unsigned count)
{
    uint64_t bytes = 0;
    for (unsigned i = 0; i < count; i++)
        bytes += iov[i].iov_len;
    return bytes;
}

static uint32_t reply_bytes_max(const struct rpc_call *call)
{
    uint64_t bytes = iov_bytes(call->reply_payload, call->reply_payload_count);
    return (uint32_t)MIN(bytes, (uint64_t)RPC_PAYLOAD_BYTES_MAX);
}

/* --- Ending calls ------------------------------------------------------------------------------- */

static void call_done(struct rpc_call *call)
{
    call->state = RPC_CALL_DONE;
    call->done(call);
}

/* done() comes from the loop. */
static void call_settled(struct rpc_client *client, struct rpc_call *call)
{
    call->state = RPC_CALL_ENDED;
    list_push_back(&client->ended, &call->link);
    if (!env_timer_armed(&client->ended_timer))
        env_timer_arm(&client->ended_timer, 0);
}

static void call_end(struct rpc_client *client, struct rpc_call *call, int result)
{
    call->result = result;
    call->ret_body_len_bytes = 0;
    call->ret_payload_bytes = 0;
    call_settled(client, call);
}

/* Those that end while this runs have their own turn of the loop. */
static void ended_fired(struct env_timer *timer)
{
    struct rpc_client *client = container_of(timer, struct rpc_client, ended_timer);
    struct list now, *link;
    list_init(&now);
    list_splice_back(&now, &client->ended);
    while ((link = list_pop_front(&now)))
        call_done(list_entry(link, struct rpc_call, link));
}

/* --- Slots -------------------------------------------------------------------------------------- */

static struct rpc_slot *slot_get(struct rpc_client *client)
{
    struct list *link = list_pop_front(&client->free_slots);
    struct rpc_slot *slot;
    if (link) {
        slot = list_entry(link, struct rpc_slot, link);
    } else {
        CHECK(client->slot_count < RPC_SLOTS_MAX);
        if (client->slot_count == client->slot_capacity) {
            client->slot_capacity = MAX(64u, client->slot_capacity * 2);
            client->slots =
                mem_realloc(client->slots, client->slot_capacity * sizeof(client->slots[0]));
        }
        slot = NEW(struct rpc_slot);
        slot->id = client->slot_count;
        client->slots[client->slot_count++] = slot;
    }
    uint64_t index = slot->id & 0xffff;
    *slot = (struct rpc_slot){.used = true, .id = ++client->generation << 16 | index};
    return slot;
}

static void slot_put(struct rpc_client *client, struct rpc_slot *slot)
{
    CHECK(slot->used && !slot->call && slot->out.state == RPC_OUT_IDLE);
    for (int kind = 0; kind <= slot->patient; kind++) {
        CHECK(client->open_calls[kind] > 0 && client->open_bytes[kind] >= slot->charge_bytes);
        client->open_calls[kind]--;
        client->open_bytes[kind] -= slot->charge_bytes;
    }
    slot->used = false;
    list_push_front(&client->free_slots, &slot->link);
}

static struct rpc_slot *slot_find(struct rpc_client *client, uint64_t id)
{
    unsigned index = id & 0xffff;
    struct rpc_slot *slot = index < client->slot_count ? client->slots[index] : NULL;
    return slot && slot->used && slot->id == id ? slot : NULL;
}

/* C5; patient calls have half of it (C7). */
static bool window_allows(const struct rpc_client *client, bool patient, uint64_t charge_bytes)
{
    unsigned calls_max = MIN(client->peer.window_calls, RPC_SLOTS_MAX);
    if (client->open_calls[0] == 0)
        return true;
    if (client->open_calls[0] >= calls_max ||
        client->open_bytes[0] + charge_bytes > client->peer.window_bytes)
        return false;
    return !patient || client->open_calls[1] == 0 ||
           (client->open_calls[1] < calls_max / 2 &&
               client->open_bytes[1] + charge_bytes <= client->peer.window_bytes / 2);
}

static void slot_open(struct rpc_client *client, struct rpc_call *call, uint64_t charge_bytes)
{
    struct rpc_slot *slot = slot_get(client);
    slot->call = call;
    slot->charge_bytes = charge_bytes;
    slot->out.header = (struct rpc_header){.type = RPC_FRAME_REQUEST,
        .code = call->method,
        .id = slot->id,
        .body_len_bytes = call->body_len_bytes,
        .reply_bytes_max = reply_bytes_max(call)};
    slot->out.body = call->body;
    slot->out.payload = call->payload;
    slot->out.payload_count = call->payload_count;
    slot->out.payload_crc_known = call->payload_crc_known;
    slot->out.header.payload_crc = call->payload_crc;
    slot->patient = call->patient;
    for (int kind = 0; kind <= call->patient; kind++) {
        client->open_calls[kind]++;
        client->open_bytes[kind] += charge_bytes;
    }
    call->id = slot->id;
    call->state = RPC_CALL_OPEN;
    rpc_conn_queue(&client->conn, &slot->out);
}

/* Gives slots to those whose turn it is (C2, C5, C7). */
static void pump(struct rpc_client *client)
{
    for (int kind = 0; kind < 2; kind++) {
        struct list *queue = &client->queued[kind];
        while (!list_empty(queue) && client->connected && rpc_conn_open(&client->conn)) {
            struct rpc_call *call = list_entry(queue->next, struct rpc_call, link);
            uint64_t charge_bytes =
                iov_bytes(call->payload, call->payload_count) + reply_bytes_max(call);
            if (!window_allows(client, call->patient, charge_bytes))
                break;
            list_remove(&call->link);
            slot_open(client, call, charge_bytes);
        }
    }
}

/* Its caller has been told; the server has not: one frame more. */
static void queue_cancel(struct rpc_client *client, struct rpc_slot *slot)
{
    if (!rpc_conn_open(&client->conn))
        return;
    slot->out = (struct rpc_out){.header = {.type = RPC_FRAME_CANCEL, .id = slot->id}};
    rpc_conn_queue(&client->conn, &slot->out);
}

/* Ends the slot's call for its caller, as soon as none of its memory is in use. */
static void give_up(struct rpc_client *client, struct rpc_slot *slot, int result)
{
    struct rpc_call *call = slot->call;
    if (slot->answered || slot->given_up)
        return; /* its result stands */
    if (!slot->begun && rpc_conn_unqueue(&client->conn, &slot->out)) {
        slot->call = NULL;
        slot_put(client, slot);
        call_end(client, call, result);
        return;
    }
    if (slot->receiving || slot->out.state != RPC_OUT_IDLE) {
        call->result = result;
        slot->given_up = true;
        if (slot->receiving)
            rpc_conn_drop_payload(&client->conn);
        return;
    }
    slot->call = NULL;
    call_end(client, call, result);
    queue_cancel(client, slot);
}

/* --- Deadlines ---------------------------------------------------------------------------------- */

static void deadline_heard(struct rpc_client *client, uint64_t deadline_ns)
{
    if (deadline_ns == 0)
        return;
    struct env_timer *timer = &client->deadline_timer;
    if (!env_timer_armed(timer) || deadline_ns < timer->deadline_ns)
        env_timer_arm(timer, deadline_ns);
}

static bool is_late(struct rpc_client *client, const struct rpc_call *call, uint64_t now_ns)
{
    if (call->deadline_ns != 0 && call->deadline_ns <= now_ns)
        return true;
    deadline_heard(client, call->deadline_ns);
    return false;
}

static void deadline_fired(struct env_timer *timer)
{
    struct rpc_client *client = container_of(timer, struct rpc_client, deadline_timer);
    uint64_t now_ns = env_now_ns();
    for (unsigned i = 0; i < client->slot_count; i++) {
        struct rpc_slot *slot = client->slots[i];
        if (slot->used && slot->call && !slot->given_up && is_late(client, slot->call, now_ns))
            give_up(client, slot, -ETIMEDOUT);
    }
    for (int kind = 0; kind < 2; kind++) {
        list_for_each_safe (link, &client->queued[kind]) {
            struct rpc_call *call = list_entry(link, struct rpc_call, link);
            if (is_late(client, call, now_ns)) {
                list_remove(link);
                call_end(client, call, -ETIMEDOUT);
            }
        }
    }
    pump(client);
}

/* --- What the connection tells ------------------------------------------------------------------ */

static void request_starting(struct rpc_conn *conn, struct rpc_out *out, uint64_t now_ns)
{
    struct rpc_slot *slot = container_of(out, struct rpc_slot, out);
    if (out->header.type != RPC_FRAME_REQUEST)
        return;
    uint64_t deadline_ns = slot->call->deadline_ns;
    slot->begun = true;
    if (deadline_ns != 0)
        out->header.deadline_us = deadline_ns > now_ns ? (deadline_ns - now_ns) / 1000 + 1 : 1;
}

/* The caller's memory is in nobody's hands any more. */
static void request_sent(struct rpc_conn *conn, struct rpc_out *out)
{
    struct rpc_client *client = client_of(conn);
    struct rpc_slot *slot = container_of(out, struct rpc_slot, out);
    struct rpc_call *call = slot->call;
    if (!rpc_conn_open(conn))
        return; /* rpc_calls_end() ends it */
    if (!call) {
        if (slot->answered) /* while its cancel was in a send */
            slot_put(client, slot);
    } else if (slot->answered) {
        slot->call = NULL;
        slot_put(client, slot);
        call_done(call);
    } else if (slot->given_up && !slot->receiving) {
        slot->call = NULL;
        slot->given_up = false;
        queue_cancel(client, slot);
        call_done(call);
    }
    pump(client);
}

static const char *reply_frame(struct rpc_conn *conn, const struct rpc_header *header,
    const uint8_t *body, struct rpc_to *ret_to)
{
    struct rpc_client *client = client_of(conn);
    if (header->type != RPC_FRAME_REPLY)
        return "a request over a connection that it did not make";
    struct rpc_slot *slot = slot_find(client, header->id);
    if (!slot || !slot->begun || slot->answered)
        return "a reply to nothing that was asked";
    if (header->payload_bytes > slot->out.header.reply_bytes_max &&
        slot->out.header.type == RPC_FRAME_REQUEST)
        return "a reply with more payload than there is room for";
    client->incoming = slot;
    struct rpc_call *call = slot->call;
    if (!call || slot->given_up)
        return NULL;
    if (header->body_len_bytes > (call->reply_body ? call->reply_body_max : 0))
        return "a reply with a longer body than there is room for";
    if (header->body_len_bytes > 0)
        memcpy(call->reply_body, body, header->body_len_bytes);
    call->result = rpc_status_decode(header->code);
    call->ret_body_len_bytes = header->body_len_bytes;
    call->ret_payload_bytes = header->payload_bytes;
    slot->receiving = true;
    *ret_to = (struct rpc_to){call->reply_payload, call->reply_payload_count, 0};
    return NULL;
}

static void reply_whole(struct rpc_conn *conn, const struct rpc_header *header)
{
    struct rpc_client *client = client_of(conn);
    struct rpc_slot *slot = client->incoming;
    struct rpc_call *call = slot->call;
    client->incoming = NULL;
    slot->receiving = false;
    if (call &&
        slot->given_up) { /* in use by a send all the while, or given up just before the end */
        call->ret_body_len_bytes = 0;
        call->ret_payload_bytes = 0;
    }
    rpc_conn_unqueue(conn, &slot->out); /* a cancel that is not needed any more */
    if (slot->out.state != RPC_OUT_IDLE) {
        slot->answered = true; /* request_sent() goes on */
        return;
    }
    slot->call = NULL;
    slot_put(client, slot);
    if (call) {
        call->ret_block_crcs = conn->block_crcs;
        call_done(call);
    }
    pump(client);
}

static void reply_dropped(struct rpc_conn *conn)
{
    struct rpc_client *client = client_of(conn);
    struct rpc_slot *slot = client->incoming;
    struct rpc_call *call = slot->call;
    CHECK(slot->given_up && slot->receiving);
    slot->receiving = false;
    if (slot->out.state != RPC_OUT_IDLE)
        return;
    slot->call = NULL;
    slot->given_up = false;
    call->ret_body_len_bytes = 0;
    call->ret_payload_bytes = 0;
    call_done(call);
}

const struct rpc_conn_ops rpc_client_conn_ops = {
    .starting = request_starting,
    .sent = request_sent,
    .frame = reply_frame,
    .whole = reply_whole,
    .dropped = reply_dropped,
};

/* --- For callers -------------------------------------------------------------------------------- */

void rpc_call_submit(struct rpc_client *client, struct rpc_call *call)
{
    CHECK(call->body_len_bytes <= RPC_BODY_BYTES_MAX && call->payload_count <= 1024);
    CHECK(iov_bytes(call->payload, call->payload_count) <= RPC_PAYLOAD_BYTES_MAX);
    list_init(&call->link);
    call->id = 0;
    call->ret_body_len_bytes = 0;
    call->ret_payload_bytes = 0;
    call->ret_block_crcs = NULL;
    if (!client->connected || !rpc_conn_open(&client->conn)) {
        call_end(client, call, -EHOSTUNREACH);
        return;
    }
    call->state = RPC_CALL_QUEUED;
    list_push_back(&client->queued[call->patient], &call->link);
    deadline_heard(client, call->deadline_ns);
    pump(client);
}

void rpc_call_cancel(struct rpc_client *client, struct rpc_call *call)
{
    if (call->state == RPC_CALL_QUEUED) {
        list_remove(&call->link);
        call_end(client, call, -ECANCELED);
        pump(client);
    } else if (call->state == RPC_CALL_OPEN) {
        struct rpc_slot *slot = slot_find(client, call->id);
        CHECK(slot && slot->call == call);
        give_up(client, slot, -ECANCELED);
        pump(client);
    } else {
        CHECK(call->state == RPC_CALL_ENDED);
    }
}

static void wake_caller(struct rpc_call *call)
{
    fiber_wake(call->impl);
}

int rpc_call(struct rpc_client *client, struct rpc_call *call)
{
    call->done = wake_caller;
    call->impl = fiber_self();
    rpc_call_submit(client, call);
    while (call->state != RPC_CALL_DONE)
        fiber_suspend();
    return call->result;
}

/* --- Life --------------------------------------------------------------------------------------- */

void rpc_calls_init(struct rpc_client *client)
{
    list_init(&client->queued[0]);
    list_init(&client->queued[1]);
    list_init(&client->ended);
    list_init(&client->free_slots);
    env_timer_init(&client->ended_timer, ended_fired);
    env_timer_init(&client->deadline_timer, deadline_fired);
}

void rpc_calls_end(struct rpc_client *client)
{
    struct list *link;
    for (unsigned i = 0; i < client->slot_count; i++) {
        struct rpc_slot *slot = client->slots[i];
        if (!slot->used)
            continue;
        struct rpc_call *call = slot->call;
        bool settled = slot->answered || slot->given_up;
        if (call && slot->given_up)
            call->ret_body_len_bytes = call->ret_payload_bytes = 0;
        slot->call = NULL;
        slot_put(client, slot);
        if (call && settled)
            call_settled(client, call);
        else if (call)
            call_end(client, call, -EHOSTUNREACH);
    }
    for (int kind = 0; kind < 2; kind++)
        while ((link = list_pop_front(&client->queued[kind])))
            call_end(client, list_entry(link, struct rpc_call, link), -EHOSTUNREACH);
    client->incoming = NULL;
    CHECK(client->open_calls[0] == 0 && client->open_bytes[0] == 0);
    CHECK(client->open_calls[1] == 0 && client->open_bytes[1] == 0);
    env_timer_cancel(&client->deadline_timer);
    env_timer_cancel(&client->ended_timer);
    ended_fired(&client->ended_timer);
}

void rpc_calls_fini(struct rpc_client *client)
{
    CHECK(client->open_calls[0] == 0 && list_empty(&client->queued[0]));
    CHECK(list_empty(&client->queued[1]) && list_empty(&client->ended));
    env_timer_cancel(&client->deadline_timer);
    env_timer_cancel(&client->ended_timer);
    for (unsigned i = 0; i < client->slot_count; i++)
        mem_free(client->slots[i]);
    mem_free(client->slots);
}
