/* SPDX-License-Identifier: Apache-2.0
 *
 *             +--------------------------- link failed -----------------------------+
 *             v                                                                     |
 *   WAITING --timer--> CONNECTING --link ready--> IDENTIFYING --same volume--> UP --+
 *      ^                   |                        |    |                      | ^
 *      +------ no server --+------ unknown ---------+    +--> GONE     renew:   v |
 *                                                                     DRAINING -+-> CONNECTING
 *
 * Rules:
 *  N1 A command is answered exactly once. One that the server did not answer stays, in the order of
 *     submission, in front of all later ones, and is sent again on the next connection.
 *  N2 All connections of a session live and die together: the first to fail ends the others before
 *     anything is sent again, so that no command runs on two live connections. (That the server
 * ends a dead connection's requests before it serves a new one is its part: S19.) N3 A FLUSH that
 * has to be sent again waits until every command before it was answered: what it covers must
 * include the writes that are sent again. N4 Nothing is sent again before the volume's identity is
 * confirmed: after a restart the same name may mean another volume. N5 An answer of ESHUTDOWN is no
 * answer: the server is going away, the command waits for the next. N6 Several connections are used
 * only where the server says that a FLUSH on one covers all (CAN_MULTI_CONN). Writes that were
 * answered and not flushed are not kept: blockd promises that they survive its crash.
 */
#include "fuse/session.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "common/check.h"
#include "common/log.h"
#include "common/mem.h"

#define LINKS_MAX 16
#define RETRY_FIRST_MS 100
#define RETRY_MAX_MS 1000
#define TICK_MS 500
/* How long a server may refuse an export that exists before a first open fails. */
#define REFUSED_LIMIT_MS 5000

enum session_state {
    SESSION_WAITING,
    SESSION_CONNECTING,
    SESSION_IDENTIFYING,
    SESSION_UP,
    SESSION_DRAINING,
    SESSION_GONE,
};

struct session {
    struct loop *loop;
    const struct session_config *config;
    const struct session_events *events;
    void *ctx;
    char *name;
    enum session_state state;
    struct link_export export;

    struct list queue;     /* not sent */
    struct list in_flight; /* sent on a link of now */
    unsigned unanswered;   /* on both */

    /* links[0] is the first connection; the others join when their handshake is done. */
    struct link *links[LINKS_MAX];
    bool link_usable[LINKS_MAX];
    unsigned links_count;

    bool link_failed; /* noted in a callback, acted on in run() */
    int fail_error;
    char fail_text[160];

    struct loop_later later;
    struct loop_timer retry, tick;
    int64_t retry_ms, down_since_ms;
    int64_t refused_since_ms; /* 0: not refused */
    bool was_up, overdue, outage_logged;
};

static void session_connect(struct session *session);

/* --- Answers ---------------------------------------------------------------------------------- */

static void answer(struct session *session, struct nbd_op *op, int error)
{
    list_remove(&op->link);
    session->unanswered--;
    op->error = error;
    op->done(op);
}

static void answer_queue(struct session *session, int error)
{
    while (!list_empty(&session->queue))
        answer(session, list_entry(session->queue.next, struct nbd_op, link), error);
}

static void note_failure(struct session *session, int error, const char *text)
{
    if (session->link_failed)
        return;
    session->link_failed = true;
    session->fail_error = error;
    snprintf(session->fail_text, sizeof(session->fail_text), "%s", text);
    loop_later_set(session->loop, &session->later);
}

static void link_answered(void *ctx, struct nbd_op *op)
{
    struct session *session = ctx;
    if (op->error == -ESHUTDOWN) { /* N5 */
        note_failure(session, -ESHUTDOWN, "the server is shutting down");
        return;
    }
    answer(session, op, op->error);
    if (session->state == SESSION_DRAINING || !list_empty(&session->queue))
        loop_later_set(session->loop, &session->later);
}

/* --- Going down ------------------------------------------------------------------------------- */

static void drop_links(struct session *session, bool polite)
{
    for (unsigned i = 0; i < session->links_count; i++)
        link_free(session->links[i], polite);
    session->links_count = 0;
}

/* N1, N2, N3 */
static void take_back_in_flight(struct session *session)
{
    list_for_each (it, &session->in_flight) {
        struct nbd_op *op = list_entry(it, struct nbd_op, link);
        op->barrier = op->kind == NBD_OP_FLUSH;
    }
    list_splice_back(&session->in_flight, &session->queue);
    list_splice_back(&session->queue, &session->in_flight);
}

static void wait_and_retry(struct session *session)
{
    session->state = SESSION_WAITING;
    loop_timer_set(session->loop, &session->retry, session->retry_ms);
    session->retry_ms = MIN(MAX(2 * session->retry_ms, RETRY_FIRST_MS), RETRY_MAX_MS);
}

static void log_outage(struct session *session, const char *text)
{
    if (session->outage_logged)
        return;
    session->outage_logged = true;
    log_warn("%s: no connection to blockd at %s: %s; requests wait", session->name,
        session->config->nbd_path, text);
}

static void go_down(struct session *session)
{
    bool was_serving = session->state == SESSION_UP || session->state == SESSION_DRAINING;
    session->link_failed = false;
    drop_links(session, false);
    take_back_in_flight(session);
    if (was_serving) {
        session->down_since_ms = loop_now_ms();
        loop_timer_set(session->loop, &session->tick, TICK_MS);
        /* The server may have closed only to announce a new size: the first try is at once. */
        session->retry_ms = 0;
    } else {
        log_outage(session, session->fail_text);
    }
    if (session->fail_error == -ENOENT) {
        /* The server knows no such export: deleted or renamed? */
        session->state = SESSION_IDENTIFYING;
        session->events->identify(session->ctx);
        return;
    }
    wait_and_retry(session);
}

static void become_gone(struct session *session)
{
    log_error("%s: the volume is gone; its open files answer ESTALE", session->name);
    drop_links(session, true);
    loop_timer_cancel(&session->retry);
    loop_timer_cancel(&session->tick);
    session->state = SESSION_GONE;
    answer_queue(session, -ESTALE);
    session->events->down(session->ctx, -ESTALE);
}

static void check_overdue(struct session *session)
{
    int64_t timeout_ms = session->config->timeout_ms;
    if (timeout_ms == 0 || loop_now_ms() - session->down_since_ms < timeout_ms)
        return;
    if (!session->overdue)
        log_error("%s: no blockd for %lld s: requests fail until it is back", session->name,
            (long long)timeout_ms / 1000);
    session->overdue = true;
    answer_queue(session, -EIO);
    session->events->down(session->ctx, -EIO);
}

static void tick_fire(struct loop_timer *timer)
{
    struct session *session = container_of(timer, struct session, tick);
    loop_timer_set(session->loop, &session->tick, TICK_MS);
    check_overdue(session);
    list_for_each_safe (it, &session->queue) {
        struct nbd_op *op = list_entry(it, struct nbd_op, link);
        if (session->events->abandoned(session->ctx, op))
            answer(session, op, -EINTR);
    }
}

/* --- Coming up -------------------------------------------------------------------------------- */

static void become_up(struct session *session)
{
    loop_timer_cancel(&session->tick);
    if (session->outage_logged)
        log_info("%s: connected to blockd again after %.1f s, %u requests go on", session->name,
            (double)(loop_now_ms() - session->down_since_ms) / 1000, session->unanswered);
    session->state = SESSION_UP;
    session->retry_ms = session->refused_since_ms = 0;
    session->was_up = true;
    session->overdue = session->outage_logged = false;
    loop_later_set(session->loop, &session->later);
    session->events->up(session->ctx);
}

static unsigned link_index(const struct session *session, const struct link *link)
{
    for (unsigned i = 0; i < session->links_count; i++)
        if (session->links[i] == link)
            return i;
    CHECK(false);
    return 0;
}

static void link_ready(void *ctx, struct link *link)
{
    struct session *session = ctx;
    unsigned i = link_index(session, link);
    session->link_usable[i] = true;
    if (i > 0)
        return;
    session->export = *link_export(link);
    session->state = SESSION_IDENTIFYING;
    session->events->identify(session->ctx);
}

static void link_failed(void *ctx, struct link *link, int error, const char *text)
{
    struct session *session = ctx;
    unsigned i = link_index(session, link);
    if (i > 0 && !session->link_usable[i])
        return; /* refused another connection: those that stand are enough */
    note_failure(session, error, text);
}

static const struct link_events link_events = {
    .ready = link_ready,
    .failed = link_failed,
    .answered = link_answered,
};

static int add_link(struct session *session)
{
    unsigned i = session->links_count;
    int r = link_new(session->loop, session->config->nbd_path, session->name, &link_events, session,
        &session->links[i]);
    if (r < 0)
        return r;
    session->link_usable[i] = false;
    session->links_count++;
    return 0;
}

static void session_connect(struct session *session)
{
    int r = add_link(session);
    if (r < 0) {
        log_outage(session, strerror(-r));
        wait_and_retry(session);
        return;
    }
    session->state = SESSION_CONNECTING;
}

static void retry_fire(struct loop_timer *timer)
{
    session_connect(container_of(timer, struct session, retry));
}

/* The volume exists, and yet the server has no export of that name: it cannot open it (or not yet).
 * Who opens the file is told; what is open already waits. */
static void note_refused(struct session *session)
{
    if (session->refused_since_ms == 0)
        session->refused_since_ms = loop_now_ms();
    if (session->was_up || loop_now_ms() - session->refused_since_ms < REFUSED_LIMIT_MS)
        return;
    log_error_limited(
        "%s: blockd does not open it; see 'holdfast volume info %s'", session->name, session->name);
    session->events->down(session->ctx, -EIO);
}

void session_identified(struct session *session, int error, const char *name)
{
    if (session->state != SESSION_IDENTIFYING || session->link_failed)
        return; /* the connection went meanwhile: the next one asks again */
    if (error == -ENOENT) {
        become_gone(session);
    } else if (error == 0 && strcmp(name, session->name) == 0 && session->links_count > 0) {
        become_up(session);
        while (session->export.can_multi_conn && session->links_count < LINKS_MAX && /* N6 */
               session->links_count < session->config->connections && add_link(session) == 0)
            ;
    } else {
        if (error == 0 && strcmp(name, session->name) != 0) {
            log_info("%s: the volume is now named %s", session->name, name);
            mem_free(session->name);
            session->name = mem_strdup(name);
        } else if (error == 0 && session->links_count == 0) {
            note_refused(session);
        }
        drop_links(session, true);
        wait_and_retry(session);
    }
}

/* --- Sending ---------------------------------------------------------------------------------- */

static struct link *least_busy_link(const struct session *session)
{
    struct link *best = NULL;
    for (unsigned i = 0; i < session->links_count; i++) {
        struct link *link = session->links[i];
        if (session->link_usable[i] && link_has_room(link) &&
            (best == NULL || link_unanswered(link) < link_unanswered(best)))
            best = link;
    }
    return best;
}

static void send_queue(struct session *session)
{
    while (!list_empty(&session->queue)) {
        struct nbd_op *op = list_entry(session->queue.next, struct nbd_op, link);
        if (op->barrier && !list_empty(&session->in_flight)) /* N3 */
            break;
        struct link *link = least_busy_link(session);
        if (link == NULL)
            break;
        op->barrier = false;
        list_remove(&op->link);
        list_push_back(&session->in_flight, &op->link);
        link_submit(link, op);
    }
    for (unsigned i = 0; i < session->links_count; i++)
        if (session->link_usable[i])
            link_send(session->links[i]);
}

static void run(struct loop_later *later)
{
    struct session *session = container_of(later, struct session, later);
    if (session->link_failed)
        go_down(session);
    if (session->state == SESSION_UP) {
        send_queue(session);
    } else if (session->state == SESSION_DRAINING && list_empty(&session->in_flight)) {
        drop_links(session, true);
        session->down_since_ms = loop_now_ms();
        loop_timer_set(session->loop, &session->tick, TICK_MS);
        session_connect(session);
    } else if (session->state == SESSION_GONE) {
        answer_queue(session, -ESTALE);
    } else if (session->overdue) {
        answer_queue(session, -EIO);
    }
}

void session_submit(struct session *session, struct nbd_op *op)
{
    op->barrier = false;
    list_push_back(&session->queue, &op->link);
    session->unanswered++;
    loop_later_set(session->loop, &session->later);
}

void session_renew(struct session *session)
{
    if (session->state != SESSION_UP)
        return; /* on its way to a fresh connection already */
    session->state = SESSION_DRAINING;
    loop_later_set(session->loop, &session->later);
}

/* --- Life ------------------------------------------------------------------------------------- */

struct session *session_new(struct loop *loop, const struct session_config *config,
    const char *name, const struct session_events *events, void *ctx)
{
    struct session *session = NEW(struct session);
    session->loop = loop;
    session->config = config;
    session->events = events;
    session->ctx = ctx;
    session->name = mem_strdup(name);
    list_init(&session->queue);
    list_init(&session->in_flight);
    loop_later_init(&session->later, run);
    loop_timer_init(&session->retry, retry_fire);
    loop_timer_init(&session->tick, tick_fire);
    session->down_since_ms = loop_now_ms();
    loop_timer_set(loop, &session->tick, TICK_MS);
    session_connect(session);
    return session;
}

void session_close(struct session *session)
{
    CHECK(session->unanswered == 0);
    loop_later_cancel(&session->later);
    loop_timer_cancel(&session->retry);
    loop_timer_cancel(&session->tick);
    drop_links(session, true);
    mem_free(session->name);
    mem_free(session);
}

bool session_is_up(const struct session *session)
{
    return session->state == SESSION_UP;
}

bool session_is_gone(const struct session *session)
{
    return session->state == SESSION_GONE;
}

unsigned session_unanswered(const struct session *session)
{
    return session->unanswered;
}

const struct link_export *session_export(const struct session *session)
{
    return &session->export;
}
