/* SPDX-License-Identifier: Apache-2.0
 *
 * Requests of other nodes on volumes that this node owns. What a session has attached is a list of
 * struct served; a request names one of them by its number, and by the volume and epoch that it
 * means. It is looked up when the request comes, in the order of the client's submissions, and counts
 * as a call of it until it is answered: so the volume it runs on is of the epoch it was sent for, or
 * it is refused (A2). A fiber each.
 */
#include <errno.h>
#include <string.h>

#include "blockd/attach_impl.h"
#include "blockd/cluster/protocol.h"
#include "blockd/cluster/server.h"
#include "common/bufpool.h"
#include "common/check.h"
#include "common/env.h"
#include "common/log.h"
#include "common/mem.h"

/* Of read data that waits for the wire, all sessions; a single read has at most a quarter of it (A5). */
#define BUFFER_BYTES_MAX (128ull << 20)
#define SERVED_MAX 4096u /* of one session: volumes of this node that the other one has in use */
#define ERROR_TEXT_BYTES 512u

struct attach_session {
    struct list link; /* attach->sessions */
    struct attach *attach;
    char node[RPC_NODE_NAME_BYTES_MAX];
    struct list served;
    unsigned served_count;
    uint64_t out_bytes; /* of its replies that are being read, or wait for the wire */
    struct fiber_mutex out_turn;
    bool ended; /* gone with the last of `served`, and of its replies */
};

struct served {
    struct list link; /* session->served */
    struct attach_session *session;
    uint64_t attachment;   /* the client's number */
    struct volume *volume; /* counted; NULL: being opened, or let go */
    uint64_t volume_id;
    uint32_t epoch;
    struct volumes_listener listener;
    unsigned calls;
    bool opening, detached;
    bool removed; /* the client is told, and lets go */
    bool halted;  /* we let go as soon as no call is under way */
};

/* --- Sessions, and what they hold ---------------------------------------------------------------- */

struct attach_session *attach_session_new(struct attach *attach, const char *node)
{
    struct attach_session *session = NEW(struct attach_session);
    session->attach = attach;
    strncpy(session->node, node, sizeof(session->node) - 1);
    list_init(&session->served);
    fiber_mutex_init(&session->out_turn);
    list_push_back(&attach->sessions, &session->link);
    return session;
}

static void session_settle(struct attach_session *session)
{
    if (!session->ended || !list_empty(&session->served) || session->out_bytes > 0)
        return;
    list_remove(&session->link);
    mem_free(session);
}

/* Lets go of what is not needed any more; it may be gone afterwards. */
static void served_settle(struct served *served)
{
    struct attach *attach = served->session->attach;
    if (served->opening || served->calls > 0)
        return;
    if (served->volume && (served->halted || served->detached)) {
        struct volume *volume = served->volume;
        served->volume = NULL;
        volumes_unlisten(&served->listener);
        volumes_put(attach->options.volumes, volume);
    }
    if (served->detached) {
        struct attach_session *session = served->session;
        list_remove(&served->link);
        attach->stats.served--;
        session->served_count--;
        mem_free(served);
        session_settle(session);
    }
}

void attach_session_end(struct attach_session *session)
{
    list_for_each_safe (it, &session->served) {
        struct served *served = list_entry(it, struct served, link);
        served->detached = true;
        served_settle(served);
    }
    session->ended = true;
    session_settle(session);
}

static struct served *served_find(struct attach_session *session, uint64_t attachment)
{
    list_for_each (it, &session->served) {
        struct served *served = list_entry(it, struct served, link);
        if (served->attachment == attachment && !served->detached)
            return served;
    }
    return NULL;
}

void attach_each_served(
    struct attach *attach, uint64_t volume_id, void (*fn)(void *ctx, const char *node), void *ctx)
{
    list_for_each (it, &attach->sessions) {
        struct attach_session *session = list_entry(it, struct attach_session, link);
        list_for_each (served_it, &session->served) {
            const struct served *served = list_entry(served_it, struct served, link);
            if (served->volume && served->volume_id == volume_id && !session->ended)
                fn(ctx, session->node);
        }
    }
}

/* The client sees it by the next reply, or when it asks for news. */
static void volume_resized(struct volumes_listener *listener)
{
}

static void volume_removed(struct volumes_listener *listener)
{
    container_of(listener, struct served, listener)->removed = true;
}

static void volume_has_halted(struct volumes_listener *listener)
{
    struct served *served = container_of(listener, struct served, listener);
    served->halted = true;
    served_settle(served); /* at once when no call is under way */
}

/* --- Replies ------------------------------------------------------------------------------------- */

static struct wire_volume_state state_of(const struct served *served)
{
    const struct volume_stats *stats = volume_stats(served->volume);
    uint64_t operations = stats->reads + stats->writes + stats->trims + stats->flushes;
    return (struct wire_volume_state){.volume_id = served->volume_id,
        .size_bytes = volume_size_bytes(served->volume),
        .epoch = served->epoch,
        .flags =
            (served->removed ? WIRE_VOLUME_REMOVED : 0) | (served->halted ? WIRE_VOLUME_HALTED : 0),
        .traffic = attach_traffic(operations, stats->read_bytes + stats->written_bytes)};
}

/* Read data on its way out. */
struct out {
    struct attach_session *session;
    void *run;
    size_t run_bytes;
    bool pooled;
    struct iovec payload; /* of `run` */
};

static void out_free(void *arg)
{
    struct out *out = arg;
    struct attach_session *session = out->session;
    struct attach *attach = session->attach;
    if (out->pooled)
        bufpool_put_run(attach->buffers, out->run, out->run_bytes);
    else
        mem_free_pages(out->run, out->run_bytes);
    session->out_bytes -= out->run_bytes;
    attach->out_bytes -= out->run_bytes;
    fiber_queue_wake_all(&attach->buffers_put);
    mem_free(out);
    session_settle(session);
}

/* Ends a call of `served`, which was counted and may be gone afterwards, its session too. `out` may be
 * NULL. */
static void reply(struct rpc_request *request, struct served *served, int status, unsigned extents,
    struct out *out)
{
    uint8_t body[WIRE_VOLUME_STATE_BYTES];
    struct wire_volume_state state = state_of(served);
    state.extents = extents;
    wire_volume_state_encode(&state, body);
    served->calls--;
    served_settle(served);
    if (out)
        rpc_reply(request, status, body, sizeof(body), &out->payload, 1, out_free, out);
    else
        rpc_reply(request, status, body, sizeof(body), NULL, 0, NULL, NULL);
}

static void reply_text(struct rpc_request *request, int status, const char *text)
{
    rpc_reply(
        request, status, text, (uint32_t)strnlen(text, ERROR_TEXT_BYTES), NULL, 0, NULL, NULL);
}

/* --- Read data -----------------------------------------------------------------------------------
 * Payload that comes in is bounded by the rpc window; what goes out is bounded here (A5): a session may have
 * as much as it leaves free, so one that takes none of its replies has half of all, two have a third
 * each; and one that has nothing yet always gets its buffer. */

static bool out_allowed(const struct attach_session *session, size_t len_bytes)
{
    uint64_t used = session->attach->out_bytes;
    return used + session->out_bytes + len_bytes <= BUFFER_BYTES_MAX;
}

static bool out_take(struct out *out, size_t len_bytes)
{
    struct attach_session *session = out->session;
    struct attach *attach = session->attach;
    if (out_allowed(session, len_bytes))
        out->run = bufpool_get_run(attach->buffers, len_bytes);
    out->pooled = out->run != NULL;
    if (!out->run && session->out_bytes == 0)
        out->run = mem_alloc_pages(ROUND_UP(len_bytes, (size_t)BLOCK_BYTES));
    return out->run != NULL;
}

MAY_SUSPEND static struct out *out_new(struct attach_session *session, size_t len_bytes)
{
    struct attach *attach = session->attach;
    struct out *out = NEW(struct out);
    out->session = session;
    if (!attach->buffers)
        attach->buffers = bufpool_new(BUFFER_BYTES_MAX);
    fiber_mutex_lock(&session->out_turn);
    while (!out_take(out, len_bytes))
        fiber_queue_wait(&attach->buffers_put);
    out->run_bytes = out->pooled ? len_bytes : ROUND_UP(len_bytes, (size_t)BLOCK_BYTES);
    out->payload = (struct iovec){out->run, len_bytes};
    session->out_bytes += out->run_bytes;
    attach->out_bytes += out->run_bytes;
    fiber_mutex_unlock(&session->out_turn);
    return out;
}

/* --- Calls --------------------------------------------------------------------------------------- */

MAY_SUSPEND static void do_read(
    struct rpc_request *request, struct served *served, const struct wire_volume_request *wanted)
{
    if (wanted->len_bytes == 0 || wanted->len_bytes > WIRE_VOLUME_DATA_BYTES_MAX) {
        reply(request, served, wanted->len_bytes ? -EINVAL : 0, 0, NULL);
        return;
    }
    struct out *out;
    int r;
    bool again = false;
    do {
        out = out_new(served->session, wanted->len_bytes);
        bool leave = out->pooled && bufpool_left_bytes(served->session->attach->buffers) == 0;
        r = request->cancelled ? -ECANCELED
                               : volume_read_leaving(served->volume, wanted->off_bytes,
                                     wanted->len_bytes, out->run, leave);
        again = env_memory_left(out->run, out->run_bytes); /* a disk hangs: T2 */
        if (again)
            out_free(out);
    } while (again);
    if (r < 0)
        out_free(out);
    else
        served->session->attach->stats.executed_bytes += wanted->len_bytes;
    reply(request, served, r, 0, r < 0 ? NULL : out);
}

MAY_SUSPEND static void do_block_status(
    struct rpc_request *request, struct served *served, const struct wire_volume_request *wanted)
{
    if (wanted->extents_max == 0 || wanted->len_bytes == 0) {
        reply(request, served, -EINVAL, 0, NULL);
        return;
    }
    struct out *out =
        out_new(served->session, (size_t)wanted->extents_max * sizeof(struct volume_extent));
    struct volume_extent *extents = out->run;
    unsigned count = 0;
    int r = volume_block_status(
        served->volume, wanted->off_bytes, wanted->len_bytes, extents, wanted->extents_max, &count);
    wire_volume_extents_encode(extents, count, (uint8_t *)extents);
    out->payload.iov_len = (size_t)count * WIRE_VOLUME_EXTENT_BYTES;
    if (r < 0)
        out_free(out);
    reply(request, served, r, count, r < 0 ? NULL : out);
}

/* Those whose answer is a status alone. */
MAY_SUSPEND static int change(
    struct rpc_request *request, struct volume *volume, const struct wire_volume_request *wanted)
{
    uint64_t off_bytes = wanted->off_bytes, len_bytes = wanted->len_bytes;
    struct request_id id = wanted->id;
    id.given_up = &request->cancelled; /* A4 */
    switch (request->method) {
    case METHOD_VOLUME_WRITE:
        if (len_bytes != request->payload_bytes)
            return -EINVAL;
        return volume_write(
            volume, off_bytes, len_bytes, request->payload, wanted->flags | VOLUME_STABLE, id);
    case METHOD_VOLUME_TRIM:
        return volume_trim(volume, off_bytes, len_bytes, wanted->flags, id);
    case METHOD_VOLUME_WRITE_ZEROES:
        return volume_write_zeroes(volume, off_bytes, len_bytes, wanted->flags, id);
    case METHOD_VOLUME_FLUSH:
        return volume_flush(volume);
    default:
        return 0; /* METHOD_VOLUME_STATUS: the news go with every answer */
    }
}

/* Of many nodes each may have its window full of requests: more than there shall be fibers for (F5).
 * They begin in the order of their coming. */
struct waiting_call {
    struct list link; /* attach->waiting */
    struct rpc_request *request;
};

static void execute_main(void *arg);

static void execute(struct attach *attach, struct rpc_request *request)
{
    if (attach->executing < attach->options.executing_max) {
        attach->executing++;
        fiber_spawn("forwarded", execute_main, request);
        return;
    }
    struct waiting_call *call = NEW(struct waiting_call);
    call->request = request;
    list_push_back(&attach->waiting, &call->link);
}

static void executed(struct attach *attach)
{
    attach->executing--;
    struct list *link = list_pop_front(&attach->waiting);
    if (!link)
        return;
    struct waiting_call *call = list_entry(link, struct waiting_call, link);
    execute(attach, call->request);
    mem_free(call);
}

MAY_SUSPEND static void execute_main(void *arg)
{
    struct rpc_request *request = arg;
    struct served *served = request->user;
    struct attach *attach = served->session->attach;
    struct wire_volume_request wanted;
    int r = wire_volume_request_decode(request->body, request->body_len_bytes, &wanted);
    CHECK(r == 0); /* handle_call() has looked */
    attach->stats.executed++;
    attach->stats.executed_bytes += request->payload_bytes;
    if (request->method == METHOD_VOLUME_READ)
        do_read(request, served, &wanted);
    else if (request->method == METHOD_VOLUME_BLOCK_STATUS)
        do_block_status(request, served, &wanted);
    else
        reply(request, served, change(request, served->volume, &wanted), 0, NULL);
    executed(attach);
}

/* What the request means, counted; NULL: answered with what is wrong. */
static struct served *begin_call(
    struct rpc_request *request, struct wire_volume_request *ret_wanted)
{
    struct attach_session *session = rpc_session_user(request->session);
    int r = wire_volume_request_decode(request->body, request->body_len_bytes, ret_wanted);
    struct served *served = r == 0 ? served_find(session, ret_wanted->attachment) : NULL;
    if (r < 0) {
        reply_text(request, -EBADMSG, "not a request about a volume");
        return NULL;
    }
    if (!served || !served->volume || served->halted || served->epoch != ret_wanted->epoch ||
        served->volume_id != ret_wanted->volume_id) {
        reply_text(request, -ESTALE, "the volume is not served here, or not under that epoch");
        return NULL;
    }
    served->calls++;
    return served;
}

static void handle_call(void *ctx, struct rpc_request *request)
{
    struct wire_volume_request wanted;
    struct served *served = begin_call(request, &wanted);
    if (!served)
        return;
    request->user = served;
    request->may_be_left = true; /* A4 */
    if (request->method == METHOD_VOLUME_STATUS)
        reply(request, served, 0, 0, NULL);
    else
        execute(served->session->attach, request);
}

/* --- Attach, detach ------------------------------------------------------------------------------ */

static void use_volume(struct served *served, struct volume *volume)
{
    served->volume = volume;
    served->volume_id = volume_id(volume);
    served->epoch = volume_epoch(volume);
    served->listener = (struct volumes_listener){.volume = volume,
        .resized = volume_resized,
        .removed = volume_removed,
        .halted = volume_has_halted};
    volumes_listen(served->session->attach->options.volumes, &served->listener);
}

/* What we do not own is for the client to find: it looks at the root again. */
MAY_SUSPEND static void attach_main(void *arg)
{
    struct rpc_request *request = arg;
    struct served *served = request->user;
    struct wire_volume_attach wanted;
    struct volume_owner owner;
    struct volume *volume;
    CLEANUP_FREE char *error = NULL;
    int r = wire_volume_attach_decode(request->body, request->body_len_bytes, &wanted);
    CHECK(r == 0);
    r = volumes_acquire(
        served->session->attach->options.volumes, wanted.name, 0, &volume, &owner, &error);
    served->opening = false;
    if (r == 0) {
        use_volume(served, volume);
        served->calls++;
        reply(request, served, 0, 0, NULL);
        return;
    }
    served->detached = true;
    served_settle(served);
    if (r == -EBUSY || r == -ESHUTDOWN)
        r = -EAGAIN;
    reply_text(request, r, error ? error : strerror(-r));
}

static void handle_attach(void *ctx, struct rpc_request *request)
{
    struct attach_session *session = rpc_session_user(request->session);
    struct wire_volume_attach wanted;
    int r = wire_volume_attach_decode(request->body, request->body_len_bytes, &wanted);
    if (r < 0 || served_find(session, wanted.attachment)) {
        reply_text(request, -EBADMSG, "not a request to attach, or one that was made before");
        return;
    }
    if (session->served_count >= SERVED_MAX) {
        log_warn_limited(
            "node '%s' wants to use more than %u volumes of this one", session->node, SERVED_MAX);
        reply_text(request, -EAGAIN, "your node uses too many volumes of this one already");
        return;
    }
    struct served *served = NEW(struct served);
    session->served_count++;
    served->session = session;
    served->attachment = wanted.attachment;
    served->opening = true;
    list_push_back(&session->served, &served->link);
    session->attach->stats.served++;
    request->user = served;
    request->may_be_left = true;
    fiber_spawn("forwarded attach", attach_main, request);
}

/* Nothing is wrong with one that is not there: it was let go already. */
static void handle_detach(void *ctx, struct rpc_request *request)
{
    struct attach_session *session = rpc_session_user(request->session);
    struct wire_volume_request wanted;
    int r = wire_volume_request_decode(request->body, request->body_len_bytes, &wanted);
    struct served *served = r == 0 ? served_find(session, wanted.attachment) : NULL;
    if (served) {
        served->detached = true;
        served_settle(served);
    }
    reply_text(request, r, "");
}

/* --- Handoff (A3) -------------------------------------------------------------------------------- */

struct handoff {
    struct rpc_request *request;
    struct attach *attach;
    char node[64];
    uint64_t volume_id;
    uint32_t epoch;
};

/* Without a hold on the volume: all holders have to let go. */
MAY_SUSPEND static void handoff_main(void *arg)
{
    struct handoff *handoff = arg;
    struct attach *attach = handoff->attach;
    uint8_t body[WIRE_VOLUME_STATE_BYTES];
    struct wire_volume_state state = {
        .volume_id = handoff->volume_id, .epoch = handoff->epoch, .flags = WIRE_VOLUME_HALTED};
    CLEANUP_FREE char *error = NULL;
    int r = volumes_handoff(attach->options.volumes, handoff->volume_id, handoff->epoch,
        handoff->node, &state.pause_ns, &error);
    if (r == 0) {
        attach->stats.handoffs_out++;
        attach->stats.handoff_pause_ns_max =
            MAX(attach->stats.handoff_pause_ns_max, state.pause_ns);
        wire_volume_state_encode(&state, body);
        rpc_reply(handoff->request, 0, body, sizeof(body), NULL, 0, NULL, NULL);
    } else {
        attach->stats.handoffs_refused++;
        reply_text(handoff->request, r == -ENOENT ? -ESTALE : r, error ? error : strerror(-r));
    }
    mem_free(handoff);
}

static void handle_handoff(void *ctx, struct rpc_request *request)
{
    struct attach_session *session = rpc_session_user(request->session);
    struct wire_volume_request wanted;
    struct served *served = begin_call(request, &wanted);
    if (!served)
        return;
    served->calls--;
    if (handed_lately(session->attach, wanted.volume_id)) {
        session->attach->stats.handoffs_refused++;
        reply_text(request, -EAGAIN, "the volume was handed over a short while ago");
        return;
    }
    struct handoff *handoff = NEW(struct handoff);
    *handoff = (struct handoff){request, session->attach, "", wanted.volume_id, wanted.epoch};
    strcpy(handoff->node, session->node);
    request->may_be_left = true; /* what it does is for the store to decide */
    fiber_spawn("handoff", handoff_main, handoff);
}

/* --- The methods --------------------------------------------------------------------------------- */

#define CALL(number, name, payload)                                   \
    {                                                                 \
        number, name, handle_call, WIRE_VOLUME_REQUEST_BYTES, payload \
    }

const struct rpc_method attach_methods[] = {
    {METHOD_VOLUME_ATTACH, "volume attach", handle_attach, WIRE_VOLUME_ATTACH_BYTES, 0},
    {METHOD_VOLUME_DETACH, "volume detach", handle_detach, WIRE_VOLUME_REQUEST_BYTES, 0},
    {METHOD_VOLUME_HANDOFF, "volume handoff", handle_handoff, WIRE_VOLUME_REQUEST_BYTES, 0},
    CALL(METHOD_VOLUME_READ, "volume read", 0),
    CALL(METHOD_VOLUME_WRITE, "volume write", WIRE_VOLUME_DATA_BYTES_MAX),
    CALL(METHOD_VOLUME_TRIM, "volume trim", 0),
    CALL(METHOD_VOLUME_WRITE_ZEROES, "volume write zeroes", 0),
    CALL(METHOD_VOLUME_FLUSH, "volume flush", 0),
    CALL(METHOD_VOLUME_BLOCK_STATUS, "volume block status", 0),
    CALL(METHOD_VOLUME_STATUS, "volume status", 0),
};
const unsigned attach_method_count = ARRAY_SIZE(attach_methods);
