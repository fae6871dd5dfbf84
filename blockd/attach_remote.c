/* SPDX-License-Identifier: Apache-2.0
 *
 * A volume that another node owns. Each call is one RPC to its owner: a write's payload goes out of
 * the caller's buffer, a read's comes straight into it. Nothing is repeated here: what the owner may
 * or may not have done is -ESHUTDOWN, and the front end attaches again and repeats it under its id.
 *
 *   attach --> attached ---------------------------------------------> put by all: detach, freed
 *                  |   connection lost, another epoch, handed over        ^
 *                  +--> gone: calls answer -ESHUTDOWN, holders are told --+
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "blockd/attach_impl.h"
#include "blockd/cluster/members.h"
#include "blockd/cluster/peers.h"
#include "blockd/cluster/protocol.h"
#include "common/check.h"
#include "common/env.h"
#include "common/log.h"
#include "common/mem.h"

#define SECOND_NS 1000000000ull
/* Of an owner that has nothing to say: it is asked for news. */
#define NEWS_NS (1 * SECOND_NS)
#define NEWS_TIMEOUT_NS (5 * SECOND_NS)
#define DETACH_TIMEOUT_NS (5 * SECOND_NS)
/* A3: so much of our traffic says enough; so long may it take to come together. */
#define HANDOFF_TRAFFIC_MIN 16u
#define HANDOFF_WINDOWS_MAX 30u
#define ERROR_TEXT_BYTES 512u

uint64_t attach_traffic(uint64_t operations, uint64_t bytes)
{
    return operations + (bytes >> 16);
}

/* --- The owner has gone, or has news ----------------------------------------------------------- */

static void tell_halted(struct remote *remote)
{
    list_for_each_safe (it, &remote->attachments) {
        struct attachment *attachment = list_entry(it, struct attachment, remote_link);
        if (attachment->events)
            attachment->events->halted(attachment, attachment->ctx);
    }
}

static void tell_resized(struct remote *remote)
{
    list_for_each_safe (it, &remote->attachments) {
        struct attachment *attachment = list_entry(it, struct attachment, remote_link);
        if (attachment->events)
            attachment->events->resized(attachment, attachment->ctx);
    }
}

static void tell_removed(struct remote *remote)
{
    list_for_each_safe (it, &remote->attachments) {
        struct attachment *attachment = list_entry(it, struct attachment, remote_link);
        if (attachment->events)
            attachment->events->removed(attachment, attachment->ctx);
    }
}

static void lose(struct remote *remote, const char *why)
{
    if (remote->gone)
        return;
    remote->gone = true;
    remote->attach->stats.lost++;
    log_debug("volume %s: node %s serves it no more for us: %s", remote->name, remote->node, why);
    fiber_queue_wake_all(&remote->tick);
    tell_halted(remote);
}

static void hear(struct remote *remote, const struct wire_volume_state *state)
{
    remote->heard_ns = env_now_ns();
    remote->all = MAX(remote->all, state->traffic);
    if (state->size_bytes != remote->size_bytes) {
        remote->size_bytes = state->size_bytes;
        tell_resized(remote);
    }
    if (state->flags & WIRE_VOLUME_REMOVED)
        tell_removed(remote);
    if (state->flags & WIRE_VOLUME_HALTED)
        lose(remote, "it has halted there");
}

/* --- Calls ------------------------------------------------------------------------------------ */

struct exchange {
    uint16_t method;
    struct wire_volume_request request;
    struct iovec payload, reply_payload;
    uint64_t timeout_ns; /* 0 = of a forwarded call */
    uint64_t ret_payload_bytes;
    struct wire_volume_state state; /* out, with 0 */
};

/* What says nothing of the request: it is repeated by the front end, wherever the volume is then. */
static bool owner_lost(int r)
{
    return r == -ESTALE || r == -ESHUTDOWN || r == -EHOSTUNREACH || r == -ETIMEDOUT ||
           r == -ECANCELED || r == -ENOSYS;
}

MAY_SUSPEND static int exchange(struct remote *remote, struct exchange *x)
{
    uint8_t body[WIRE_VOLUME_REQUEST_BYTES], reply[ERROR_TEXT_BYTES];
    struct attach *attach = remote->attach;
    struct peer *peer = peers_find(attach->options.peers, remote->node);
    x->request.volume_id = remote->volume_id;
    x->request.attachment = remote->number;
    x->request.epoch = remote->epoch;
    wire_volume_request_encode(&x->request, body);
    struct rpc_call call = {.method = x->method,
        .patient = true,
        .body = body,
        .body_len_bytes = sizeof(body),
        .payload = &x->payload,
        .payload_count = x->payload.iov_len > 0,
        .deadline_ns = env_now_ns() + (x->timeout_ns ?: attach->options.forward_timeout_ns),
        .reply_body = reply,
        .reply_body_max = sizeof(reply),
        .reply_payload = &x->reply_payload,
        .reply_payload_count = x->reply_payload.iov_len > 0};
    int r = peer ? peer_call_unless(peer, &call, x->request.id.given_up) : -EHOSTUNREACH;
    x->ret_payload_bytes = call.ret_payload_bytes;
    if (r == 0 && (wire_volume_state_decode(reply, call.ret_body_len_bytes, &x->state) < 0 ||
                      x->state.volume_id != remote->volume_id || x->state.epoch != remote->epoch))
        r = -EBADMSG;
    return r;
}

/* -ESHUTDOWN: perhaps done (A1). */
MAY_SUSPEND static int forward(struct remote *remote, struct exchange *x)
{
    if (remote->gone)
        return -ESHUTDOWN;
    int r = exchange(remote, x);
    if (r == -ECANCELED && x->request.id.given_up && *x->request.id.given_up)
        return -ESHUTDOWN; /* by us: that says nothing of the owner (A4) */
    if (r == -EBADMSG)
        log_error_limited("volume %s: node %s answered what is no answer; do both run the same "
                          "version?",
            remote->name, remote->node);
    if (owner_lost(r) || r == -EBADMSG) {
        lose(remote, strerror(-r));
        return -ESHUTDOWN;
    }
    uint64_t bytes = x->payload.iov_len + x->reply_payload.iov_len;
    remote->attach->stats.forwarded++;
    remote->attach->stats.forwarded_bytes += bytes;
    if (x->method != METHOD_VOLUME_STATUS && x->method != METHOD_VOLUME_BLOCK_STATUS)
        remote->mine += attach_traffic(1, bytes);
    if (r == 0)
        hear(remote, &x->state);
    return r;
}

int forwarded_read(struct remote *remote, uint64_t off_bytes, uint64_t len_bytes, void *buf)
{
    int r = 0;
    for (uint64_t n; r == 0 && len_bytes > 0; off_bytes += n, len_bytes -= n) {
        n = MIN(len_bytes, WIRE_VOLUME_DATA_BYTES_MAX);
        struct exchange x = {.method = METHOD_VOLUME_READ,
            .request = {.off_bytes = off_bytes, .len_bytes = n},
            .reply_payload = {buf, n}};
        r = forward(remote, &x);
        if (r == 0 && x.ret_payload_bytes != n) {
            lose(remote, "it answered a read with another length");
            r = -ESHUTDOWN;
        }
        buf = (char *)buf + n;
    }
    return r;
}

/* One id names one request: the parts of what is longer than a frame (no front end sends that) have
 * none, and may be done twice if they are repeated. */
int forwarded_write(struct remote *remote, uint64_t off_bytes, uint64_t len_bytes, const void *buf,
    unsigned flags, struct request_id id)
{
    int r = 0;
    if (len_bytes > WIRE_VOLUME_DATA_BYTES_MAX)
        id = (struct request_id){0};
    for (uint64_t n; r == 0 && len_bytes > 0; off_bytes += n, len_bytes -= n) {
        n = MIN(len_bytes, WIRE_VOLUME_DATA_BYTES_MAX);
        struct exchange x = {.method = METHOD_VOLUME_WRITE,
            .request = {.flags = flags, .id = id, .off_bytes = off_bytes, .len_bytes = n},
            .payload = {(void *)buf, n}};
        r = forward(remote, &x);
        buf = (const char *)buf + n;
    }
    return r;
}

int forwarded_mark(struct remote *remote, uint16_t method, uint64_t off_bytes, uint64_t len_bytes,
    unsigned flags, struct request_id id)
{
    struct exchange x = {.method = method,
        .request = {.flags = flags, .id = id, .off_bytes = off_bytes, .len_bytes = len_bytes}};
    return forward(remote, &x);
}

int forwarded_block_status(struct remote *remote, uint64_t off_bytes, uint64_t len_bytes,
    struct volume_extent *ret_extents, unsigned max, unsigned *ret_count)
{
    max = MIN(max, WIRE_VOLUME_EXTENTS_MAX);
    struct exchange x = {.method = METHOD_VOLUME_BLOCK_STATUS,
        .request = {.off_bytes = off_bytes, .len_bytes = len_bytes, .extents_max = max},
        .reply_payload = {ret_extents, (size_t)max * WIRE_VOLUME_EXTENT_BYTES}};
    int r = forward(remote, &x);
    if (r < 0)
        return r;
    unsigned count = x.state.extents;
    if (count == 0 || count > max ||
        x.ret_payload_bytes != (uint64_t)count * WIRE_VOLUME_EXTENT_BYTES ||
        wire_volume_extents_decode((uint8_t *)ret_extents, count, len_bytes, ret_extents) < 0) {
        lose(remote, "its extents are none");
        return -ESHUTDOWN;
    }
    *ret_count = count;
    return 0;
}

/* --- Handoff (A3) ------------------------------------------------------------------------------ */

bool forwarded_handing_over(const struct attach *attach, const char *name)
{
    list_for_each (it, &attach->remotes) {
        const struct remote *remote = list_entry(it, struct remote, link);
        if (remote->handing_over && strcmp(remote->name, name) == 0)
            return true;
    }
    return false;
}

static void window_begin(struct remote *remote)
{
    remote->window_mine = remote->mine;
    remote->window_all = remote->all;
    remote->window_ns = env_now_ns();
}

/* Most of the volume's traffic since the window's start was ours: two of three. The window stays open
 * until there was enough of it. */
static bool wants_handoff(struct remote *remote)
{
    const struct attach_options *options = &remote->attach->options;
    uint64_t mine = remote->mine - remote->window_mine, all = remote->all - remote->window_all;
    uint64_t now_ns = env_now_ns(), age_ns = now_ns - remote->window_ns;
    if (age_ns < options->handoff_after_ns)
        return false;
    if (mine < HANDOFF_TRAFFIC_MIN && age_ns < HANDOFF_WINDOWS_MAX * options->handoff_after_ns)
        return false;
    window_begin(remote);
    return mine >= HANDOFF_TRAFFIC_MIN && mine * 3 >= all * 2 &&
           now_ns >= remote->handoff_next_ns && members_session(options->members) != 0;
}

MAY_SUSPEND static void ask_handoff(struct remote *remote)
{
    struct attach *attach = remote->attach;
    struct exchange x = {.method = METHOD_VOLUME_HANDOFF};
    remote->handing_over = true;
    int r = exchange(remote, &x);
    remote->handing_over = false;
    if (r == 0) {
        log_info("volume %s: taken over from node %s, where it had less traffic; it paused for "
                 "%" PRIu64 " ms",
            remote->name, remote->node, x.state.pause_ns / 1000000);
        attach->stats.handoffs_in++;
        handed_note(attach, remote->volume_id);
        lose(remote, "handed over");
    } else if (owner_lost(r)) {
        lose(remote, strerror(-r));
    } else {
        attach->stats.handoffs_refused++;
        remote->handoff_next_ns = env_now_ns() + attach->options.handoff_again_ns;
    }
    attach_changed(attach); /* whoever waited for it may open it now */
}

/* --- Life ------------------------------------------------------------------------------------- */

MAY_SUSPEND static void detach(struct remote *remote)
{
    struct exchange x = {.method = METHOD_VOLUME_DETACH, .timeout_ns = DETACH_TIMEOUT_NS};
    exchange(remote, &x); /* an owner that does not hear it notices the end of the connection */
}

static void remote_free(struct remote *remote)
{
    CHECK(list_empty(&remote->attachments) && remote->users == 0);
    list_remove(&remote->link);
    fiber_queue_wake_all(&remote->attach->gone);
    mem_free(remote);
}

MAY_SUSPEND static void remote_main(void *arg)
{
    struct remote *remote = arg;
    uint64_t period_ns = MIN(NEWS_NS, remote->attach->options.handoff_after_ns);
    window_begin(remote);
    while (remote->users > 0) {
        fiber_queue_wait_until(&remote->tick, remote->gone ? UINT64_MAX : env_now_ns() + period_ns);
        if (remote->gone || remote->users == 0)
            continue;
        if (env_now_ns() >= remote->heard_ns + NEWS_NS) {
            struct exchange x = {.method = METHOD_VOLUME_STATUS, .timeout_ns = NEWS_TIMEOUT_NS};
            forward(remote, &x);
        }
        if (!remote->gone && remote->users > 0 && wants_handoff(remote))
            ask_handoff(remote);
    }
    remote->gone = true; /* nobody joins it any more */
    detach(remote);
    remote_free(remote);
}

static struct remote *remote_new(
    struct attach *attach, const char *name, const struct volume_owner *owner)
{
    struct remote *remote = NEW(struct remote);
    remote->attach = attach;
    remote->number = ++attach->number;
    remote->epoch = owner->epoch;
    strcpy(remote->node, owner->node);
    strcpy(remote->name, name);
    list_init(&remote->attachments);
    fiber_queue_init(&remote->tick);
    list_push_back(&attach->remotes, &remote->link);
    return remote;
}

/* 0; -EAGAIN: try again soon; or the owner's error. */
MAY_SUSPEND static int attach_to_owner(struct remote *remote, struct peer *peer, char **ret_error)
{
    uint8_t body[WIRE_VOLUME_ATTACH_BYTES], reply[ERROR_TEXT_BYTES];
    struct wire_volume_attach request = {.attachment = remote->number};
    struct wire_volume_state state;
    strcpy(request.name, remote->name);
    wire_volume_attach_encode(&request, body);
    struct rpc_call call = {.method = METHOD_VOLUME_ATTACH,
        .body = body,
        .body_len_bytes = sizeof(body),
        .deadline_ns = env_now_ns() + remote->attach->options.forward_timeout_ns,
        .reply_body = reply,
        .reply_body_max = sizeof(reply)};
    int r = peer_call(peer, &call);
    if (r == 0 && wire_volume_state_decode(reply, call.ret_body_len_bytes, &state) < 0)
        r = -EBADMSG;
    if (r < 0) {
        bool told = !owner_lost(r) && r != -EBADMSG && call.ret_body_len_bytes > 0;
        *ret_error = told ? mem_printf("node '%s' says: %.*s", remote->node,
                                (int)call.ret_body_len_bytes, (const char *)reply)
                          : mem_printf("volume '%s' is owned by node '%s', which does not answer "
                                       "(%s)",
                                remote->name, remote->node, strerror(-r));
        return told ? r : -EAGAIN;
    }
    remote->attached = true;
    remote->volume_id = state.volume_id;
    remote->epoch = state.epoch;
    remote->size_bytes = state.size_bytes;
    remote->all = state.traffic;
    remote->heard_ns = env_now_ns();
    return 0;
}

static struct remote *find(
    struct attach *attach, const char *name, const struct volume_owner *owner)
{
    list_for_each (it, &attach->remotes) {
        struct remote *remote = list_entry(it, struct remote, link);
        if (remote->attached && !remote->gone && remote->epoch == owner->epoch &&
            strcmp(remote->name, name) == 0 && strcmp(remote->node, owner->node) == 0)
            return remote;
    }
    return NULL;
}

int forwarded_get(struct attach *attach, const char *name, const struct volume_owner *owner,
    struct remote **ret_remote, char **ret_error)
{
    struct remote *remote = find(attach, name, owner);
    struct peer *peer = peers_find(attach->options.peers, owner->node);
    if (!remote && (!peer || !peer_connected(peer))) {
        *ret_error = mem_printf("volume '%s' is owned by node '%s', which cannot be reached%s%s%s; "
                                "it is taken over when that node's lease has run out",
            name, owner->node, peer && peer->client ? " (" : "",
            peer && peer->client ? rpc_client_problem(peer->client) : "",
            peer && peer->client ? ")" : "");
        return -EAGAIN;
    }
    if (remote) {
        remote->users++;
        *ret_remote = remote;
        return 0;
    }
    remote = remote_new(attach, name, owner);
    int r = attach_to_owner(remote, peer, ret_error);
    remote->users = r == 0;
    fiber_spawn("remote volume", remote_main, remote); /* a failed one ends at once */
    if (r == 0)
        *ret_remote = remote;
    return r;
}

void forwarded_put(struct remote *remote)
{
    CHECK(remote->users > 0);
    if (--remote->users == 0)
        fiber_queue_wake_all(&remote->tick);
}
