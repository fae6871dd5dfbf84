/* SPDX-License-Identifier: Apache-2.0
 *
 * The requests of a session: from frames to handlers, from rpc_reply() to frames. Memory: a task
 * a request, reused; payloads in pages of the server's pool. A session's requests and replies count
 * against its window until the reply's turn to be sent has come (C5): a client that takes no replies
 * gets no further.
 */
#include <errno.h>
#include <string.h>

#include "common/check.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/rpc_server_impl.h"

#define FREE_TASKS_MAX 1024u
/* Of all requests left behind, payload and room for replies: beyond it a session's end waits again. */
#define LEFT_BYTES_MAX (128ull << 20)
#define LEFT_TASK_BYTES 4096u /* that one counts for itself */
/* Larger ones come from the system. */
#define POOLED_BYTES_MAX (1u << 20)

static struct rpc_session *session_of(struct rpc_conn *conn)
{
    return container_of(conn, struct rpc_session, conn);
}

/* --- Tasks -------------------------------------------------------------------------------------- */

static struct rpc_task *task_new(struct rpc_session *session)
{
    struct rpc_server *server = session->server;
    struct list *link = list_pop_front(&server->free_tasks);
    struct rpc_task *task;
    if (link) {
        server->free_task_count--;
        task = list_entry(link, struct rpc_task, link);
    } else {
        task = mem_alloc(sizeof(*task));
    }
    memset(task, 0, offsetof(struct rpc_task, own_iov));
    task->sent = NULL;
    task->server = server;
    task->session = session;
    list_init(&task->link);
    session->task_count++;
    return task;
}

static void payload_get(struct rpc_task *task, uint32_t bytes)
{
    struct bufpool *pool = task->server->pool;
    void *payload = bytes <= BUFPOOL_BLOCK_BYTES ? bufpool_get(pool)
                    : bytes <= POOLED_BYTES_MAX  ? bufpool_get_run(pool, bytes)
                                                 : NULL;
    task->payload_pooled = payload != NULL;
    task->request.payload = payload ? payload : mem_alloc_pages(bytes);
    task->request.payload_bytes = bytes;
}

static void payload_put(struct rpc_task *task)
{
    struct bufpool *pool = task->server->pool;
    void *payload = task->request.payload;
    uint32_t bytes = task->request.payload_bytes;
    task->request.payload = NULL;
    task->request.payload_bytes = 0;
    if (!payload)
        return;
    if (!task->payload_pooled)
        mem_free_pages(payload, bytes);
    else if (bytes <= BUFPOOL_BLOCK_BYTES)
        bufpool_put(pool, payload);
    else
        bufpool_put_run(pool, payload, bytes);
}

static uint8_t *body_room(struct rpc_task *task, uint32_t len_bytes)
{
    if (task->long_body)
        return task->long_body;
    if (len_bytes <= sizeof(task->body))
        return task->body;
    return task->long_body = mem_alloc(RPC_BODY_BYTES_MAX);
}

static void uncharge(struct rpc_task *task)
{
    struct rpc_session *session = task->session;
    if (!task->charged)
        return;
    task->charged = false;
    CHECK(session->open_calls > 0 && session->open_bytes >= task->charge_bytes);
    session->open_calls--;
    session->open_bytes -= task->charge_bytes;
}

static uint64_t left_bytes(const struct rpc_task *task)
{
    return task->charge_bytes + LEFT_TASK_BYTES;
}

static void task_free(struct rpc_task *task)
{
    struct rpc_session *session = task->session;
    struct rpc_server *server = task->server;
    CHECK(task->out.state == RPC_OUT_IDLE && !task->sent);
    payload_put(task);
    uncharge(task);
    mem_free(task->long_body);
    if (task->iov != task->own_iov)
        mem_free(task->iov);
    list_remove(&task->link);
    if (!session)
        server->left_bytes -= left_bytes(task);
    if (server->free_task_count < FREE_TASKS_MAX) {
        server->free_task_count++;
        list_push_front(&server->free_tasks, &task->link);
    } else {
        mem_free(task);
    }
    if (!session)
        fiber_queue_wake_all(&server->gone);
    else if (--session->task_count == 0)
        fiber_queue_wake_all(&session->quiet);
}

void rpc_server_free_tasks(struct rpc_server *server)
{
    struct list *link;
    while ((link = list_pop_front(&server->free_tasks)))
        mem_free(list_entry(link, struct rpc_task, link));
}

/* --- Requests ----------------------------------------------------------------------------------- */

static const struct rpc_method *find_method(const struct rpc_server *server, uint16_t number)
{
    for (unsigned i = 0; i < server->method_count; i++)
        if (server->methods[i].number == number)
            return &server->methods[i];
    return NULL;
}

/* In our own clock. */
static uint64_t deadline_ns(uint64_t deadline_us)
{
    uint64_t ns;
    if (deadline_us == 0 || __builtin_mul_overflow(deadline_us, 1000, &ns) ||
        __builtin_add_overflow(ns, env_now_ns(), &ns))
        return UINT64_MAX;
    return ns;
}

static const char *check_request(const struct rpc_session *session, const struct rpc_method *method,
    const struct rpc_header *h, uint64_t charge_bytes)
{
    const struct rpc_options *options = &session->server->options;
    bool full = session->open_calls >= options->window_calls ||
                session->open_bytes + charge_bytes > options->window_bytes;
    if (full && session->open_calls > 0)
        return "more than its window allows";
    if (method && h->body_len_bytes < method->body_bytes_min)
        return "a request with a body that is too short for its method";
    if (method && h->payload_bytes > method->payload_bytes_max)
        return "a request with a payload that is too long for its method";
    return NULL;
}

static const char *take_request(struct rpc_session *session, const struct rpc_header *h,
    const uint8_t *body, struct rpc_to *ret_to)
{
    const struct rpc_method *method = find_method(session->server, h->code);
    uint64_t charge_bytes = (uint64_t)h->payload_bytes + h->reply_bytes_max;
    const char *wrong = check_request(session, method, h, charge_bytes);
    if (wrong)
        return wrong;
    struct rpc_task *task = task_new(session);
    task->method = method;
    task->id = h->id;
    task->reply_bytes_max = h->reply_bytes_max;
    task->charge_bytes = charge_bytes;
    task->charged = true;
    session->open_calls++;
    session->open_bytes += charge_bytes;
    uint8_t *own_body = body_room(task, h->body_len_bytes);
    memcpy(own_body, body, h->body_len_bytes);
    task->request = (struct rpc_request){.method = h->code,
        .body = own_body,
        .body_len_bytes = h->body_len_bytes,
        .deadline_ns = deadline_ns(h->deadline_us),
        .session = session,
        .impl = task};
    if (h->payload_bytes > 0 && method) {
        payload_get(task, h->payload_bytes);
        task->payload_to = (struct iovec){task->request.payload, h->payload_bytes};
        *ret_to = (struct rpc_to){&task->payload_to, 1, 0};
    }
    session->incoming = task;
    return NULL;
}

static void take_cancel(struct rpc_session *session, uint64_t id)
{
    list_for_each (link, &session->open) {
        struct rpc_task *task = list_entry(link, struct rpc_task, link);
        if (task->id == id)
            task->request.cancelled = true;
    }
}

static const char *request_frame(struct rpc_conn *conn, const struct rpc_header *header,
    const uint8_t *body, struct rpc_to *ret_to)
{
    struct rpc_session *session = session_of(conn);
    if (header->type == RPC_FRAME_REQUEST)
        return take_request(session, header, body, ret_to);
    if (header->type != RPC_FRAME_CANCEL)
        return "a reply to what we never asked";
    take_cancel(session, header->id);
    return NULL;
}

static void request_whole(struct rpc_conn *conn, const struct rpc_header *header)
{
    struct rpc_session *session = session_of(conn);
    struct rpc_task *task = session->incoming;
    if (!task)
        return;
    session->incoming = NULL;
    list_push_back(&session->open, &task->link);
    task->request.block_crcs = conn->block_crcs;
    if (task->method)
        task->method->handle(session->server->ctx, &task->request);
    else
        rpc_reply(&task->request, -ENOSYS, NULL, 0, NULL, 0, NULL, NULL);
}

/* --- Replies ------------------------------------------------------------------------------------ */

static void reply_starting(struct rpc_conn *conn, struct rpc_out *out, uint64_t now_ns)
{
    uncharge(container_of(out, struct rpc_task, out));
}

static void reply_sent(struct rpc_conn *conn, struct rpc_out *out)
{
    struct rpc_task *task = container_of(out, struct rpc_task, out);
    void (*sent)(void *arg) = task->sent;
    void *arg = task->sent_arg;
    task->sent = NULL;
    task_free(task);
    if (sent)
        sent(arg);
}

const struct rpc_conn_ops rpc_session_conn_ops = {
    .starting = reply_starting,
    .sent = reply_sent,
    .frame = request_frame,
    .whole = request_whole,
};

static void reply_payload(struct rpc_task *task, const struct iovec *payload, unsigned count)
{
    size_t bytes = count * sizeof(payload[0]);
    task->iov = count <= RPC_TASK_IOV ? task->own_iov : mem_alloc(bytes);
    memcpy(task->iov, payload, bytes);
    task->out.payload = task->iov;
    task->out.payload_count = count;
}

void rpc_reply(struct rpc_request *request, int status, const void *body, uint32_t body_len_bytes,
    const struct iovec *payload, unsigned payload_count, void (*sent)(void *arg), void *arg)
{
    struct rpc_task *task = container_of(request, struct rpc_task, request);
    struct rpc_session *session = task->session;
    uint64_t bytes = 0;
    CHECK(body_len_bytes <= RPC_BODY_BYTES_MAX);
    for (unsigned i = 0; i < payload_count; i++)
        bytes += payload[i].iov_len;
    if (bytes > task->reply_bytes_max && !request->cancelled) {
        log_error_limited("rpc: the reply to method %u has %llu bytes of payload, node %s has room "
                          "for %u",
            request->method, (unsigned long long)bytes, session->peer.self.node_name,
            task->reply_bytes_max);
        status = -EMSGSIZE;
        bytes = body_len_bytes = 0;
    }
    bool keeps = bytes > 0 && !request->cancelled && rpc_conn_open(&session->conn);
    list_remove(&task->link);
    task->out.header = (struct rpc_header){.type = RPC_FRAME_REPLY,
        .code = rpc_status_encode(status),
        .id = task->id,
        .body_len_bytes = body_len_bytes,
        .payload_crc = request->reply_crc};
    if (body_len_bytes > 0)
        task->out.body = memmove(body_room(task, body_len_bytes), body, body_len_bytes);
    payload_put(task);
    if (keeps) {
        reply_payload(task, payload, payload_count);
        task->out.payload_crc_known = request->reply_crc_known;
        task->sent = sent;
        task->sent_arg = arg;
    }
    if (session && rpc_conn_open(&session->conn))
        rpc_conn_queue(&session->conn, &task->out);
    else
        task_free(task);
    if (sent && !keeps)
        sent(arg);
}

/* --- The end ------------------------------------------------------------------------------------ */

void rpc_session_cancel(struct rpc_session *session)
{
    list_for_each (link, &session->open)
        list_entry(link, struct rpc_task, link)->request.cancelled = true;
    if (session->incoming)
        task_free(session->incoming); /* no handler knows it */
    session->incoming = NULL;
}

/* C3. Its payload stays the request's; nobody hears of its end but rpc_server_stop(). */
static void leave_behind(struct rpc_session *session, struct rpc_task *task)
{
    struct rpc_server *server = session->server;
    CHECK(task->request.cancelled);
    uncharge(task);
    list_remove(&task->link);
    list_push_back(&server->left, &task->link);
    server->left_bytes += left_bytes(task);
    session->task_count--;
    task->session = task->request.session = NULL;
}

void rpc_session_drain(struct rpc_session *session)
{
    struct rpc_server *server = session->server;
    list_for_each_safe (link, &session->open) {
        struct rpc_task *task = list_entry(link, struct rpc_task, link);
        if (task->request.may_be_left && server->left_bytes + left_bytes(task) <= LEFT_BYTES_MAX)
            leave_behind(session, task);
    }
    while (session->task_count > 0)
        fiber_queue_wait(&session->quiet);
    CHECK(session->open_calls == 0 && session->open_bytes == 0);
}

const struct rpc_identity *rpc_session_peer(const struct rpc_session *session)
{
    return &session->peer.self;
}

void *rpc_session_user(const struct rpc_session *session)
{
    return session->user;
}

void rpc_session_set_user(struct rpc_session *session, void *user)
{
    session->user = user;
}
