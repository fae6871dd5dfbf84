/* SPDX-License-Identifier: Apache-2.0
 *
 *   CONNECTING --libnbd: greeting--> (OPT_GO) --libnbd: ready--> READY --> DEAD
 *        |                                                         ^
 *        +---- connect, handshake or time limit fails -------------+
 *
 * Up to READY libnbd owns the descriptor; it reads no byte more than each handshake message has, so
 * from READY on this file reads and writes the same descriptor itself and libnbd's handle only
 * keeps it open. An op is in `slots` from link_submit() to its answer, and on `sending` until its
 * last byte is with the kernel. A server may answer (with an error) before it has taken a whole
 * write: the op is held until both are done, since its buffer is still being sent.
 */
#include "fuse/link.h"

#include <errno.h>
#include <libnbd.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/check.h"
#include "common/mem.h"
#include "fuse/link_reply.h"

#define OPS_MAX 256u
#define SEND_IOVS_MAX 64
#define RECEIVE_BYTES (256u << 10)
#define HANDSHAKE_LIMIT_MS 10000
#define SOCKET_BUFFER_BYTES (2 << 20)
#define REQUEST_MAGIC 0x25609513u
#define BLOCK_MAX_DEFAULT_BYTES (32u << 20)

enum link_state { LINK_CONNECTING, LINK_READY, LINK_DEAD };

struct link {
    struct loop *loop;
    struct loop_source source;
    struct loop_timer limit;
    const struct link_events *events;
    void *ctx;
    struct nbd_handle *nbd;
    enum link_state state;
    bool go_asked;
    int go_error; /* the server's answer to OPT_GO, 0 = none or good */
    struct link_export export;

    struct nbd_op *slots[OPS_MAX];
    uint16_t free_slots[OPS_MAX];
    unsigned free_count;
    uint64_t generation;

    struct nbd_op *sending, *sending_last;
    size_t sent_bytes; /* of the first on `sending` */

    struct reply_decoder decoder;
    uint8_t *receive_buffer;
    size_t receive_start, receive_end;
};

static const uint16_t command_of_kind[] = {
    [NBD_OP_READ] = 0,
    [NBD_OP_WRITE] = 1,
    [NBD_OP_FLUSH] = 3,
    [NBD_OP_ZERO] = 6,
    [NBD_OP_STATUS] = 7,
};
#define COMMAND_DISC 2
#define COMMAND_FLAG_FUA 1u

static void link_fail(struct link *link, int error, const char *text)
{
    if (link->state == LINK_DEAD)
        return;
    link->state = LINK_DEAD;
    loop_unwatch(link->loop, &link->source);
    loop_timer_cancel(&link->limit);
    link->events->failed(link->ctx, link, error, text);
}

static void limit_fire(struct loop_timer *timer)
{
    struct link *link = container_of(timer, struct link, limit);
    link_fail(link, -ETIMEDOUT, "the server does not complete the NBD handshake");
}

/* --- Sending ---------------------------------------------------------------------------------- */

static size_t op_payload_bytes(const struct nbd_op *op)
{
    return op->kind == NBD_OP_WRITE ? op->len_bytes : 0;
}

static void encode_request(
    uint8_t *p, uint16_t flags, uint16_t command, uint64_t cookie, uint64_t off, uint32_t len)
{
    put_be32(p, REQUEST_MAGIC);
    put_be16(p + 4, flags);
    put_be16(p + 6, command);
    put_be64(p + 8, cookie);
    put_be64(p + 16, off);
    put_be32(p + 24, len);
}

bool link_has_room(const struct link *link)
{
    return link->state == LINK_READY && link->free_count > 0;
}

unsigned link_unanswered(const struct link *link)
{
    return OPS_MAX - link->free_count;
}

void link_submit(struct link *link, struct nbd_op *op)
{
    CHECK(link_has_room(link));
    uint16_t slot = link->free_slots[--link->free_count];
    link->slots[slot] = op;
    op->cookie = ++link->generation << 16 | slot;
    op->error = 0;
    op->received_bytes = 0;
    op->sent = op->answered = false;
    bool is_flush = op->kind == NBD_OP_FLUSH;
    encode_request(op->header, op->fua ? COMMAND_FLAG_FUA : 0, command_of_kind[op->kind],
        op->cookie, is_flush ? 0 : op->off_bytes, is_flush ? 0 : op->len_bytes);
    op->send_next = NULL;
    if (link->sending == NULL)
        link->sending = op;
    else
        link->sending_last->send_next = op;
    link->sending_last = op;
}

static unsigned fill_iovs(const struct link *link, struct iovec *iovs, size_t *ret_len)
{
    unsigned n = 0;
    size_t skip = link->sent_bytes, len = 0;
    for (struct nbd_op *op = link->sending; op != NULL && n + 2 <= SEND_IOVS_MAX;
         op = op->send_next) {
        if (skip < NBD_REQUEST_BYTES) {
            iovs[n++] = (struct iovec){op->header + skip, NBD_REQUEST_BYTES - skip};
            len += NBD_REQUEST_BYTES - skip;
            skip = NBD_REQUEST_BYTES;
        }
        size_t payload = op_payload_bytes(op), payload_skip = skip - NBD_REQUEST_BYTES;
        if (payload > payload_skip) {
            iovs[n++] = (struct iovec){op->buffer + payload_skip, payload - payload_skip};
            len += payload - payload_skip;
        }
        skip = 0;
    }
    *ret_len = len;
    return n;
}

static void complete_op(struct link *link, struct nbd_op *op)
{
    uint16_t slot = op->cookie & 0xffff;
    link->slots[slot] = NULL;
    link->free_slots[link->free_count++] = slot;
    link->events->answered(link->ctx, op);
}

static void account_sent(struct link *link, size_t n)
{
    link->sent_bytes += n;
    for (struct nbd_op *op; (op = link->sending) != NULL;) {
        size_t whole = NBD_REQUEST_BYTES + op_payload_bytes(op);
        if (link->sent_bytes < whole)
            break;
        link->sent_bytes -= whole;
        link->sending = op->send_next;
        op->sent = true;
        if (op->answered)
            complete_op(link, op);
    }
}

void link_send(struct link *link)
{
    while (link->state == LINK_READY && link->sending != NULL) {
        struct iovec iovs[SEND_IOVS_MAX];
        size_t len;
        struct msghdr message = {.msg_iov = iovs};
        message.msg_iovlen = fill_iovs(link, iovs, &len);
        ssize_t n = sendmsg(link->source.fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno != EAGAIN) {
            /* Reported from the loop: the end of the stream is about to be readable. */
            return;
        }
        if (n > 0)
            account_sent(link, (size_t)n);
        if (n < (ssize_t)len)
            break;
    }
    if (link->state == LINK_READY)
        loop_watch(link->loop, &link->source, link->sending != NULL ? EPOLLIN | EPOLLOUT : EPOLLIN);
}

/* --- Receiving -------------------------------------------------------------------------------- */

static struct nbd_op *find_op(void *ctx, uint64_t cookie)
{
    struct link *link = ctx;
    uint16_t slot = cookie & 0xffff;
    struct nbd_op *op = slot < OPS_MAX ? link->slots[slot] : NULL;
    return op != NULL && op->cookie == cookie && !op->answered ? op : NULL;
}

static void op_answered(void *ctx, struct nbd_op *op)
{
    op->answered = true;
    if (op->sent)
        complete_op(ctx, op);
}

static int decode(struct link *link, const uint8_t *bytes, size_t len)
{
    int64_t taken = reply_decode(&link->decoder, bytes, len);
    if (taken < 0) {
        char text[160];
        snprintf(text, sizeof(text), "the server sent %s", link->decoder.error_text);
        link_fail(link, (int)taken, text);
        return (int)taken;
    }
    link->receive_start += (size_t)taken;
    return 0;
}

/* One recvmsg: the rest of a payload under way goes to its place, what follows to the buffer. */
static ssize_t receive(struct link *link, size_t *ret_room)
{
    struct reply_decoder *d = &link->decoder;
    size_t kept = link->receive_end - link->receive_start;
    memmove(link->receive_buffer, link->receive_buffer + link->receive_start, kept);
    link->receive_start = 0;
    link->receive_end = kept;

    struct iovec iovs[2];
    struct msghdr message = {.msg_iov = iovs};
    size_t direct = d->state == REPLY_DATA ? d->left_bytes : 0;
    if (direct > 0) {
        CHECK(kept == 0);
        iovs[message.msg_iovlen++] = (struct iovec){d->target, direct};
    }
    iovs[message.msg_iovlen++] = (struct iovec){link->receive_buffer + kept, RECEIVE_BYTES - kept};
    *ret_room = direct + RECEIVE_BYTES - kept;
    ssize_t n = recvmsg(link->source.fd, &message, MSG_DONTWAIT);
    if (n <= 0)
        return n;
    size_t direct_got = MIN(direct, (size_t)n);
    link->receive_end += (size_t)n - direct_got;
    if (direct_got > 0) {
        if (decode(link, d->target, direct_got) < 0)
            return n;
        link->receive_start = 0; /* those bytes never were in the buffer */
    }
    if (link->receive_end > link->receive_start)
        decode(link, link->receive_buffer, link->receive_end);
    return n;
}

static void receive_all(struct link *link)
{
    /* Twice at most, so that a fast server cannot keep the loop from its other work. */
    for (int i = 0; i < 2 && link->state == LINK_READY; i++) {
        size_t room;
        ssize_t n = receive(link, &room);
        if (n == 0)
            link_fail(link, -ECONNRESET, "the server closed the connection");
        else if (n < 0 && errno != EAGAIN && errno != EINTR)
            link_fail(link, -errno, strerror(errno));
        if (n < (ssize_t)room)
            return;
    }
}

/* --- Handshake -------------------------------------------------------------------------------- */

static int note_go(void *ctx, int *error)
{
    struct link *link = ctx;
    link->go_error = *error;
    return 1;
}

static void read_export(struct link *link)
{
    struct nbd_handle *nbd = link->nbd;
    struct link_export *e = &link->export;
    int64_t block_min = nbd_get_block_size(nbd, LIBNBD_SIZE_MINIMUM);
    int64_t block_max = nbd_get_block_size(nbd, LIBNBD_SIZE_MAXIMUM);
    e->size_bytes = (uint64_t)nbd_get_size(nbd);
    e->block_min_bytes = block_min > 0 ? (uint32_t)block_min : 1;
    e->block_max_bytes =
        block_max > 0 ? (uint32_t)MIN(block_max, UINT32_MAX) : BLOCK_MAX_DEFAULT_BYTES;
    e->read_only = nbd_is_read_only(nbd) == 1;
    e->can_flush = nbd_can_flush(nbd) == 1;
    e->can_fua = nbd_can_fua(nbd) == 1;
    e->can_zero = nbd_can_zero(nbd) == 1;
    e->can_multi_conn = nbd_can_multi_conn(nbd) == 1;
    e->can_status = nbd_can_meta_context(nbd, LIBNBD_CONTEXT_BASE_ALLOCATION) == 1;
}

static void become_ready(struct link *link)
{
    loop_timer_cancel(&link->limit);
    read_export(link);
    link->receive_buffer = mem_alloc(RECEIVE_BYTES);
    link->decoder = (struct reply_decoder){.find = find_op, .complete = op_answered, .ctx = link};
    link->state = LINK_READY;
    loop_watch(link->loop, &link->source, EPOLLIN);
    link->events->ready(link->ctx, link);
}

static void handshake_step(struct link *link, uint32_t events)
{
    unsigned direction = nbd_aio_get_direction(link->nbd);
    if ((events & (EPOLLIN | EPOLLHUP | EPOLLERR)) && (direction & LIBNBD_AIO_DIRECTION_READ))
        nbd_aio_notify_read(link->nbd);
    else if ((events & (EPOLLOUT | EPOLLHUP | EPOLLERR)) &&
             (direction & LIBNBD_AIO_DIRECTION_WRITE))
        nbd_aio_notify_write(link->nbd);

    if (nbd_aio_is_negotiating(link->nbd) && !link->go_asked) {
        link->go_asked = true;
        nbd_aio_opt_go(
            link->nbd, (nbd_completion_callback){.callback = note_go, .user_data = link});
    }
    if (link->go_error != 0) {
        link_fail(link, -link->go_error,
            link->go_error == ENOENT ? "the server has no such export"
                                     : "the server refuses the export");
    } else if (nbd_aio_is_ready(link->nbd)) {
        become_ready(link);
    } else if (nbd_aio_is_dead(link->nbd) || nbd_aio_is_closed(link->nbd)) {
        const char *text = nbd_get_error();
        link_fail(link, -ECONNRESET, text != NULL ? text : "the NBD handshake failed");
    } else {
        direction = nbd_aio_get_direction(link->nbd);
        loop_watch(link->loop, &link->source,
            (direction & LIBNBD_AIO_DIRECTION_READ ? EPOLLIN : 0) |
                (direction & LIBNBD_AIO_DIRECTION_WRITE ? EPOLLOUT : 0));
    }
}

static void source_ready(struct loop_source *source, uint32_t events)
{
    struct link *link = container_of(source, struct link, source);
    if (link->state == LINK_CONNECTING) {
        handshake_step(link, events);
        return;
    }
    if (events & EPOLLOUT)
        link_send(link);
    if (events & (EPOLLIN | EPOLLHUP | EPOLLERR))
        receive_all(link);
}

static int connect_socket(const char *path, int *ret_fd)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof(address.sun_path))
        return -ENAMETOOLONG;
    memcpy(address.sun_path, path, strlen(path) + 1);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -errno;
    /* Room for whole 1 MiB requests, so that a large write does not need several turns. */
    int bytes = SOCKET_BUFFER_BYTES;
    if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &bytes, sizeof(bytes)) < 0)
        (void)setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
    if (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
        int error = errno;
        close(fd);
        return -error;
    }
    *ret_fd = fd;
    return 0;
}

static int start_handshake(struct link *link, int fd, const char *export_name)
{
    struct nbd_handle *nbd = nbd_create();
    CHECK_MSG(nbd != NULL, "nbd_create: %s", nbd_get_error());
    link->nbd = nbd;
    if (nbd_set_export_name(nbd, export_name) == -1 || nbd_set_opt_mode(nbd, true) == -1 ||
        nbd_add_meta_context(nbd, LIBNBD_CONTEXT_BASE_ALLOCATION) == -1) {
        close(fd);
        return nbd_get_errno() != 0 ? -nbd_get_errno() : -EINVAL;
    }
    if (nbd_aio_connect_socket(nbd, fd) == -1) /* takes fd in any case */
        return nbd_get_errno() != 0 ? -nbd_get_errno() : -ECONNRESET;
    link->source.fd = fd;
    /* A fast server's greeting may be read already; EPOLLOUT brings the loop here in any case. */
    loop_watch(link->loop, &link->source, EPOLLIN | EPOLLOUT);
    return 0;
}

int link_new(struct loop *loop, const char *socket_path, const char *export_name,
    const struct link_events *events, void *ctx, struct link **ret_link)
{
    int fd = -1;
    int r = connect_socket(socket_path, &fd);
    if (r < 0)
        return r;
    struct link *link = NEW(struct link);
    link->loop = loop;
    link->source.ready = source_ready;
    link->events = events;
    link->ctx = ctx;
    loop_timer_init(&link->limit, limit_fire);
    for (unsigned i = 0; i < OPS_MAX; i++)
        link->free_slots[i] = (uint16_t)(OPS_MAX - 1 - i);
    link->free_count = OPS_MAX;
    r = start_handshake(link, fd, export_name);
    if (r < 0) {
        link->state = LINK_DEAD;
        link_free(link, false);
        return r;
    }
    loop_timer_set(loop, &link->limit, HANDSHAKE_LIMIT_MS);
    *ret_link = link;
    return 0;
}

void link_free(struct link *link, bool polite)
{
    if (polite && link->state == LINK_READY && link_unanswered(link) == 0) {
        uint8_t request[NBD_REQUEST_BYTES];
        encode_request(request, 0, COMMAND_DISC, ++link->generation << 16, 0, 0);
        (void)send(link->source.fd, request, sizeof(request), MSG_NOSIGNAL | MSG_DONTWAIT);
    }
    loop_unwatch(link->loop, &link->source);
    loop_timer_cancel(&link->limit);
    nbd_close(link->nbd); /* closes the descriptor */
    mem_free(link->receive_buffer);
    mem_free(link);
}

const struct link_export *link_export(const struct link *link)
{
    return &link->export;
}
