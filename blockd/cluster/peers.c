/* SPDX-License-Identifier: Apache-2.0 */
#include "blockd/cluster/peers.h"

#include <errno.h>
#include <string.h>

#include "common/check.h"
#include "common/env.h"
#include "common/mem.h"

#define GIVEN_UP_LOOK_NS 100000000ull

struct peers {
    struct peers_options options;
    struct list peers;   /* by name */
    struct list removed; /* remote disks may still point there */
    unsigned hanging_up; /* clients that end on a fiber of their own */
    struct fiber_queue hung_up;
};

struct peers *peers_new(const struct peers_options *options)
{
    struct peers *peers = NEW(struct peers);
    peers->options = *options;
    list_init(&peers->peers);
    list_init(&peers->removed);
    fiber_queue_init(&peers->hung_up);
    return peers;
}

/* --- Connections ------------------------------------------------------------------------------- */

static void tell_changed(struct peer *peer)
{
    const struct peers_options *options = &peer->peers->options;
    if (options->changed != NULL)
        options->changed(options->ctx, peer);
}

static void peer_connected_event(void *ctx, const struct rpc_identity *identity)
{
    tell_changed(ctx);
}

static void peer_disconnected_event(void *ctx)
{
    tell_changed(ctx);
}

static void peer_dial(struct peer *peer, const struct node_record *record)
{
    struct rpc_client_events events = {
        .connected = peer_connected_event, .disconnected = peer_disconnected_event, .ctx = peer};
    peer->node = record->uuid;
    peer->client = rpc_client_new(
        &peer->peers->options.rpc, record->address, peer->name, &record->uuid, &events);
}

struct hang_up {
    struct peers *peers;
    struct rpc_client *client;
};

static void hang_up_main(void *arg)
{
    struct hang_up *hang_up = arg;
    struct peers *peers = hang_up->peers;
    rpc_client_free(hang_up->client);
    mem_free(hang_up);
    peers->hanging_up--;
    fiber_queue_wake_all(&peers->hung_up);
}

/* What is in flight ends with -EHOSTUNREACH, soon; operations that come after this are answered as
 * those of a node without an address. */
static void peer_hang_up(struct peer *peer)
{
    struct peers *peers = peer->peers;
    if (peer->client == NULL)
        return;
    struct hang_up *hang_up = NEW(struct hang_up);
    *hang_up = (struct hang_up){.peers = peers, .client = peer->client};
    peer->client = NULL;
    peer->disk_status_ns = 0;
    peers->hanging_up++;
    fiber_spawn("peer-hang-up", hang_up_main, hang_up);
}

MAY_SUSPEND static void wait_hung_up(struct peers *peers)
{
    while (peers->hanging_up > 0)
        fiber_queue_wait(&peers->hung_up);
}

/* --- The list ---------------------------------------------------------------------------------- */

static struct peer *find_in(struct list *list, const char *name)
{
    list_for_each (it, list) {
        struct peer *peer = list_entry(it, struct peer, link);
        if (strcmp(peer->name, name) == 0)
            return peer;
    }
    return NULL;
}

struct peer *peers_find(struct peers *peers, const char *name)
{
    return find_in(&peers->peers, name);
}

struct list *peers_all(struct peers *peers)
{
    return &peers->peers;
}

static void insert_by_name(struct peers *peers, struct peer *peer)
{
    struct list *at = &peers->peers;
    list_for_each (it, &peers->peers) {
        if (strcmp(list_entry(it, struct peer, link)->name, peer->name) > 0) {
            at = it;
            break;
        }
    }
    list_insert_before(at, &peer->link);
}

/* A node that comes back under its name is the same peer to those that still know it. */
static struct peer *peer_make(struct peers *peers, const char *name)
{
    struct peer *peer = find_in(&peers->removed, name);
    if (peer != NULL) {
        list_remove(&peer->link);
    } else {
        peer = NEW(struct peer);
        peer->peers = peers;
        CHECK(strlen(name) < sizeof(peer->name));
        strcpy(peer->name, name);
    }
    insert_by_name(peers, peer);
    return peer;
}

void peers_set(struct peers *peers, const struct node_record *record)
{
    struct peer *peer = peers_find(peers, record->name);
    if (peer == NULL)
        peer = peer_make(peers, record->name);
    if (record->address[0] == 0)
        return; /* an address that was known stays: the node may still be there */
    if (peer->client != NULL && !uuid_equal(&peer->node, &record->uuid))
        peer_hang_up(peer);
    if (peer->client == NULL)
        peer_dial(peer, record);
    else
        rpc_client_set_address(peer->client, record->address);
}

MAY_SUSPEND void peers_remove(struct peers *peers, const char *name)
{
    struct peer *peer = peers_find(peers, name);
    if (peer == NULL)
        return;
    list_remove(&peer->link);
    list_push_back(&peers->removed, &peer->link);
    peer_hang_up(peer);
    wait_hung_up(peers);
}

MAY_SUSPEND void peers_free(struct peers *peers)
{
    peers->options.changed = NULL;
    while (!list_empty(&peers->peers))
        peers_remove(peers, list_entry(peers->peers.next, struct peer, link)->name);
    wait_hung_up(peers);
    struct list *link;
    while ((link = list_pop_front(&peers->removed)) != NULL)
        mem_free(list_entry(link, struct peer, link));
    mem_free(peers);
}

/* --- Calls ------------------------------------------------------------------------------------- */

static void answer_unreachable(void *arg)
{
    struct rpc_call *call = arg;
    call->done(call);
}

void peer_submit(struct peer *peer, struct rpc_call *call)
{
    if (peer != NULL && peer->client != NULL) {
        rpc_call_submit(peer->client, call);
        return;
    }
    call->result = -EHOSTUNREACH;
    call->ret_body_len_bytes = 0;
    call->ret_payload_bytes = 0;
    fiber_spawn("unreachable", answer_unreachable, call); /* never from inside the submit */
}

MAY_SUSPEND int peer_call(struct peer *peer, struct rpc_call *call)
{
    if (peer != NULL && peer->client != NULL)
        return rpc_call(peer->client, call);
    call->ret_body_len_bytes = 0;
    call->ret_payload_bytes = 0;
    return call->result = -EHOSTUNREACH;
}

struct waiting_call {
    struct rpc_call call;
    struct fiber_queue ended;
    bool done;
};

static void waiting_done(struct rpc_call *call)
{
    struct waiting_call *waiting = container_of(call, struct waiting_call, call);
    waiting->done = true;
    fiber_queue_wake_all(&waiting->ended);
}

int peer_call_unless(struct peer *peer, struct rpc_call *call, const bool *given_up)
{
    struct rpc_client *client =
        peer != NULL ? peer->client : NULL; /* there until all calls have ended */
    if (client == NULL || given_up == NULL)
        return peer_call(peer, call);
    struct waiting_call waiting = {.call = *call};
    waiting.call.done = waiting_done;
    fiber_queue_init(&waiting.ended);
    rpc_call_submit(client, &waiting.call);
    for (bool cancelled = false; !waiting.done;) {
        uint64_t until_ns = cancelled ? UINT64_MAX : env_now_ns() + GIVEN_UP_LOOK_NS;
        (void)fiber_queue_wait_until(&waiting.ended, until_ns);
        if (!waiting.done && !cancelled && *given_up) {
            rpc_call_cancel(client, &waiting.call);
            cancelled = true;
        }
    }
    call->ret_body_len_bytes = waiting.call.ret_body_len_bytes;
    call->ret_payload_bytes = waiting.call.ret_payload_bytes;
    return call->result = waiting.call.result;
}

bool peer_connected(const struct peer *peer)
{
    return peer != NULL && peer->client != NULL && rpc_client_connected(peer->client);
}
