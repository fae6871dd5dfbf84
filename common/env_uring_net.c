/* SPDX-License-Identifier: Apache-2.0
 *
 * Streams of the production env. Sockets are in blocking mode as far as the ring is concerned: it
 * tries at once, and otherwise waits for readiness inside the kernel. A deadline is a timer that
 * cancels.
 */
#include "common/env_uring.h"

#include <arpa/inet.h>
#include <errno.h>
#include <limits.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/check.h"
#include "common/log.h"
#include "common/mem.h"

#define LISTEN_BACKLOG 1024
#define CONNECT_RETRY_NS 2000000ull
#define LISTEN_RETRY_NS 25000000ull
#define LISTEN_TRIES 40
/* Of a unix stream: the default of 208 KiB makes a 1 MiB payload a dozen wake-ups of both sides. */
#define UNIX_SEND_BUFFER_BYTES (2 << 20)

struct uring_listener {
    struct env_listener listener;
    struct uring_handle handle;
    char *address;
    struct list accepts; /* accept_op.link: fibers inside env_accept */
    bool closed;
};

struct accept_op {
    struct list link;
    struct uring_wait wait;
};

struct uring_stream {
    struct env_stream stream;
    struct uring_handle handle;
    char *peer;
    bool shut;
    bool receiving, sending;
    bool drained; /* the last receive took all that was there */
};

/* --- Addresses --------------------------------------------------------------------------------- */

struct address {
    union {
        struct sockaddr any;
        struct sockaddr_un un;
        struct sockaddr_storage storage;
    };
    socklen_t len;
};

static bool is_unix(const struct address *a)
{
    return a->any.sa_family == AF_UNIX;
}

static int parse_unix(const char *path, struct address *ret)
{
    size_t len = strlen(path);
    if (len == 0)
        return -EINVAL;
    if (len >= sizeof(ret->un.sun_path)) {
        log_warn("unix:%s: the path has %zu characters; the system takes at most %zu", path, len,
            sizeof(ret->un.sun_path) - 1);
        return -ENAMETOOLONG;
    }
    ret->un = (struct sockaddr_un){.sun_family = AF_UNIX};
    memcpy(ret->un.sun_path, path, len + 1);
    ret->len = offsetof(struct sockaddr_un, sun_path) + len + 1;
    return 0;
}

/* HOST:PORT; the host numeric, an IPv6 one in brackets. No resolver: that would block. */
static int parse_tcp(const char *text, struct address *ret)
{
    char host[64];
    const char *host_start = text, *host_end, *port;
    if (*text == '[') {
        host_start = text + 1;
        host_end = strchr(host_start, ']');
        port = host_end && host_end[1] == ':' ? host_end + 2 : NULL;
    } else {
        host_end = strrchr(text, ':');
        port = host_end ? host_end + 1 : NULL;
    }
    if (!port || !*port || host_end == host_start ||
        (size_t)(host_end - host_start) >= sizeof(host))
        return -EINVAL;
    char *end; /* getaddrinfo takes a port modulo 65536 */
    unsigned long number = strtoul(port, &end, 10);
    if (*end || number > UINT16_MAX)
        return -EINVAL;
    memcpy(host, host_start, host_end - host_start);
    host[host_end - host_start] = 0;

    struct addrinfo *found, hints = {
                                .ai_family = AF_UNSPEC,
                                .ai_socktype = SOCK_STREAM,
                                .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV,
                            };
    if (getaddrinfo(host, port, &hints, &found) != 0)
        return -EINVAL;
    memcpy(&ret->storage, found->ai_addr, found->ai_addrlen);
    ret->len = found->ai_addrlen;
    freeaddrinfo(found);
    return 0;
}

static int parse_address(const char *text, struct address *ret)
{
    int rc = -EINVAL;
    if (strncmp(text, "unix:", 5) == 0)
        rc = parse_unix(text + 5, ret);
    else if (strncmp(text, "tcp:", 4) == 0)
        rc = parse_tcp(text + 4, ret);
    if (rc == -EINVAL)
        log_warn("'%s' is no address: write unix:/PATH, tcp:1.2.3.4:PORT or tcp:[v6]:PORT", text);
    return rc;
}

static char *tcp_text(const struct address *a)
{
    char host[NI_MAXHOST], port[NI_MAXSERV];
    if (getnameinfo(&a->any, a->len, host, sizeof(host), port, sizeof(port),
            NI_NUMERICHOST | NI_NUMERICSERV) != 0)
        return mem_strdup("tcp:?");
    return mem_printf(a->any.sa_family == AF_INET6 ? "tcp:[%s]:%s" : "tcp:%s:%s", host, port);
}

static char *peer_text(int fd)
{
    struct address a = {.len = sizeof(a.storage)};
    struct ucred cred;
    socklen_t cred_len = sizeof(cred);
    if (getpeername(fd, &a.any, &a.len) < 0)
        return mem_strdup("gone");
    if (!is_unix(&a))
        return tcp_text(&a);
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &cred_len) < 0)
        return mem_strdup("unix:?");
    return mem_printf("unix:pid %d uid %u", (int)cred.pid, (unsigned)cred.uid);
}

/* --- Streams ----------------------------------------------------------------------------------- */

static struct uring_stream *stream_of(struct env_stream *stream)
{
    return container_of(stream, struct uring_stream, stream);
}

static void set_option(int fd, int level, int option, int value)
{
    setsockopt(fd, level, option, &value, sizeof(value));
}

/* BBR paces what it sends: where nodes are a switch or a loopback away that holds back what the peer could take at once,
 * and costs a timer every few segments, a third of the CPU of large sends. So where it is the system's choice, another one
 * is taken. Before the connection is made: pacing that has begun does not end with it. A listener's is its streams'. */
static void avoid_pacing(int fd)
{
    static const char *const others[] = {"cubic", "reno"};
    char name[16] = "";
    socklen_t len = sizeof(name);
    if (getsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, name, &len) < 0 || strncmp(name, "bbr", 3) != 0)
        return;
    for (unsigned i = 0; i < ARRAY_SIZE(others); i++) {
        if (setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, others[i], (socklen_t)strlen(others[i])) ==
            0)
            return;
    }
}

static struct env_stream *stream_new(struct env_uring *uring, int fd, bool tcp)
{
    struct uring_stream *s = NEW(struct uring_stream);
    s->stream.env = &uring->env;
    s->peer = peer_text(fd);
    uring_handle_open(uring, &s->handle, fd);
    if (tcp) {
        set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
        /* A peer whose machine is gone says nothing: found after half a minute even when idle. */
        set_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
        set_option(fd, IPPROTO_TCP, TCP_KEEPIDLE, 15);
        set_option(fd, IPPROTO_TCP, TCP_KEEPINTVL, 5);
        set_option(fd, IPPROTO_TCP, TCP_KEEPCNT, 3);
    } else if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &(int){UNIX_SEND_BUFFER_BYTES},
                   sizeof(int)) < 0) { /* not privileged: as much as net.core.wmem_max allows */
        set_option(fd, SOL_SOCKET, SO_SNDBUF, UNIX_SEND_BUFFER_BYTES);
    }
    return &s->stream;
}

enum env_peer_state uring_stream_peer_state(const struct env_stream *stream)
{
    struct uring_stream *s = stream_of((struct env_stream *)stream);
    struct pollfd pfd = {.fd = s->handle.fd, .events = POLLRDHUP};
    if (s->shut || poll(&pfd, 1, 0) < 0 || pfd.revents & (POLLHUP | POLLERR))
        return ENV_PEER_GONE;
    return pfd.revents & POLLRDHUP ? ENV_PEER_FINISHED : ENV_PEER_OPEN;
}

const char *uring_stream_peer(const struct env_stream *stream)
{
    return stream_of((struct env_stream *)stream)->peer;
}

int64_t uring_recv(struct env_stream *stream, void *buf, size_t len_bytes, uint64_t deadline_ns)
{
    struct uring_stream *s = stream_of(stream);
    struct uring_wait wait;
    int res;
    CHECK_MSG(!s->receiving, "%s: two receivers", s->peer);
    s->receiving = true;
    do {
        if (s->shut) {
            res = -ECONNRESET;
            break;
        }
        io_uring_prep_recv(&wait.op.sqe, s->handle.fd, buf, MIN(len_bytes, (size_t)INT_MAX), 0);
        if (s->drained) /* do not try at once, which would fail: wait for readiness first */
            wait.op.sqe.ioprio |= IORING_RECVSEND_POLL_FIRST;
        res = uring_wait(uring_of(stream->env), &wait, deadline_ns);
    } while (res == -EINTR || res == -EAGAIN);
    s->receiving = false;
    s->drained = res > 0 && (size_t)res < len_bytes;
    return res <= 0 && res != -ETIMEDOUT && s->shut ? -ECONNRESET : res;
}

/* Drops the first `len_bytes` of the vector. */
static void iov_advance(struct iovec **iov, unsigned *iov_count, size_t len_bytes)
{
    while (*iov_count > 0 && len_bytes >= (*iov)->iov_len) {
        len_bytes -= (*iov)->iov_len;
        (*iov)++;
        (*iov_count)--;
    }
    if (*iov_count > 0) {
        (*iov)->iov_base = (char *)(*iov)->iov_base + len_bytes;
        (*iov)->iov_len -= len_bytes;
    }
}

int uring_send(
    struct env_stream *stream, struct iovec *iov, unsigned iov_count, uint64_t deadline_ns)
{
    struct uring_stream *s = stream_of(stream);
    struct uring_wait wait;
    struct msghdr msg;
    int res = 0;
    CHECK_MSG(!s->sending, "%s: two senders", s->peer);
    s->sending = true;
    for (iov_advance(&iov, &iov_count, 0); iov_count > 0 && res >= 0;
         iov_advance(&iov, &iov_count, res > 0 ? res : 0)) {
        if (s->shut) {
            res = -ECONNRESET;
            break;
        }
        /* MSG_WAITALL: the ring itself goes on after a part was taken. */
        const unsigned flags = MSG_NOSIGNAL | MSG_WAITALL;
        if (iov_count == 1) {
            io_uring_prep_send(&wait.op.sqe, s->handle.fd, iov->iov_base, iov->iov_len, flags);
        } else {
            msg = (struct msghdr){.msg_iov = iov, .msg_iovlen = MIN(iov_count, IOV_MAX)};
            io_uring_prep_sendmsg(&wait.op.sqe, s->handle.fd, &msg, flags);
        }
        res = uring_wait(uring_of(stream->env), &wait, deadline_ns);
        if (res == -EINTR || res == -EAGAIN)
            res = 0;
        if (res >= 0 && wait.timed_out && (iov_count > 1 || (size_t)res < iov->iov_len))
            res = -ETIMEDOUT; /* cancelled after a part: progress does not extend the deadline */
    }
    s->sending = false;
    if (res >= 0)
        return 0;
    return s->shut && res != -ETIMEDOUT ? -ECONNRESET : res;
}

void uring_stream_shutdown(struct env_stream *stream)
{
    struct uring_stream *s = stream_of(stream);
    s->shut = true;
    shutdown(s->handle.fd, SHUT_RDWR);
}

void uring_stream_close(struct env_stream *stream)
{
    struct uring_stream *s = stream_of(stream);
    CHECK_MSG(!s->receiving && !s->sending, "%s: closed in use", s->peer);
    uring_handle_close(&s->handle);
    mem_free(s->peer);
    mem_free(s);
}

int uring_connect(
    struct env *env, const char *address, uint64_t deadline_ns, struct env_stream **ret_stream)
{
    struct env_uring *uring = uring_of(env);
    struct address a;
    int res = parse_address(address, &a);
    if (res < 0)
        return res;
    for (;;) {
        int fd = socket(a.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fd < 0)
            return -errno;
        if (!is_unix(&a))
            avoid_pacing(fd);
        struct uring_wait wait;
        io_uring_prep_connect(&wait.op.sqe, fd, &a.any, a.len);
        res = uring_wait(uring, &wait, deadline_ns);
        if (res == 0) {
            *ret_stream = stream_new(uring, fd, !is_unix(&a));
            return 0;
        }
        close(fd);
        if (res != -EAGAIN && res != -EINTR)
            return res;
        /* A unix listener's backlog is full, and no event tells when it is not. */
        if (env_now_ns() >= deadline_ns)
            return -ETIMEDOUT;
        env_sleep_ns(CONNECT_RETRY_NS);
    }
}

/* --- Listeners --------------------------------------------------------------------------------- */

static struct uring_listener *listener_of(struct env_listener *listener)
{
    return container_of(listener, struct uring_listener, listener);
}

/* Removes the socket file that a dead process left. */
static int remove_stale(const struct address *a)
{
    struct stat st;
    if (lstat(a->un.sun_path, &st) < 0)
        return errno == ENOENT ? 0 : -errno;
    if (!S_ISSOCK(st.st_mode)) {
        log_warn("%s is in the way: it is no socket", a->un.sun_path);
        return -EEXIST;
    }
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -errno;
    int rc = connect(fd, &a->any, a->len) < 0 ? -errno : 0;
    close(fd);
    if (rc == 0 || rc == -EAGAIN)
        return -EADDRINUSE;
    if (rc == -ECONNREFUSED)
        return unlink(a->un.sun_path) < 0 && errno != ENOENT ? -errno : 0;
    return rc;
}

static int bind_unix(int fd, const struct address *a, unsigned mode, struct uring_listener *l)
{
    struct stat st;
    int rc = remove_stale(a);
    if (rc < 0)
        return rc;
    /* Until listen() nobody can connect, so the mode is set in time. */
    if (bind(fd, &a->any, a->len) < 0 || (mode && chmod(a->un.sun_path, mode) < 0) ||
        stat(a->un.sun_path, &st) < 0)
        return -errno;
    l->handle.unlink_path = mem_strdup(a->un.sun_path);
    l->handle.unlink_dev = st.st_dev;
    l->handle.unlink_ino = st.st_ino;
    return 0;
}

static int bind_tcp(int fd, const struct address *a)
{
    set_option(fd, SOL_SOCKET, SO_REUSEADDR, 1);
    avoid_pacing(fd);
    return bind(fd, &a->any, a->len) < 0 ? -errno : 0;
}

static void listener_free(struct uring_listener *l)
{
    mem_free(l->address);
    mem_free(l);
}

static int listen_once(struct env *env, const char *address, const struct address *at,
    unsigned mode, struct env_listener **ret_listener)
{
    struct address a = *at;
    int rc;
    int fd = socket(a.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    struct uring_listener *l = NEW(struct uring_listener);
    l->listener.env = env;
    list_init(&l->accepts);
    uring_handle_open(uring_of(env), &l->handle, fd);
    rc = is_unix(&a) ? bind_unix(fd, &a, mode, l) : bind_tcp(fd, &a);
    if (rc == 0 && listen(fd, LISTEN_BACKLOG) < 0)
        rc = -errno;
    if (rc < 0) {
        uring_handle_close(&l->handle);
        listener_free(l);
        return rc;
    }
    if (is_unix(&a)) {
        l->address = mem_strdup(address);
    } else {
        a.len = sizeof(a.storage);
        CHECK(getsockname(fd, &a.any, &a.len) == 0);
        l->address = tcp_text(&a);
    }
    *ret_listener = &l->listener;
    return 0;
}

/* A process that was killed with an accept in its ring keeps the socket for a moment after it is gone: its ring is
 * taken down by a kernel thread. So an address in use is tried again for a while. */
int uring_listen(
    struct env *env, const char *address, unsigned mode, struct env_listener **ret_listener)
{
    struct address a;
    int rc = parse_address(address, &a);
    for (int tries = 0; rc == 0 && tries < LISTEN_TRIES; tries++) {
        rc = listen_once(env, address, &a, mode, ret_listener);
        if (rc != -EADDRINUSE || tries == LISTEN_TRIES - 1)
            return rc;
        env_sleep_ns(LISTEN_RETRY_NS);
        rc = 0;
    }
    return rc;
}

const char *uring_listener_address(const struct env_listener *listener)
{
    return listener_of((struct env_listener *)listener)->address;
}

int uring_accept(struct env_listener *listener, struct env_stream **ret_stream)
{
    struct env_uring *uring = uring_of(listener->env);
    struct uring_listener *l = listener_of(listener);
    CHECK_MSG(!l->closed, "accept on a closed listener");
    bool tcp = !l->handle.unlink_path;
    struct accept_op op;
    int res;
    list_push_back(&l->accepts, &op.link);
    do {
        io_uring_prep_accept(&op.wait.op.sqe, l->handle.fd, NULL, NULL, SOCK_CLOEXEC);
        res = uring_wait(uring, &op.wait, UINT64_MAX);
    } while (!l->closed && (res == -EINTR || res == -EAGAIN || res == -ECONNABORTED));
    list_remove(&op.link);
    if (l->closed) {
        if (res >= 0)
            close(res);
        if (list_empty(&l->accepts))
            listener_free(l);
        return -ECANCELED;
    }
    if (res < 0)
        return res;
    *ret_stream = stream_new(uring, res, tcp);
    return 0;
}

void uring_listener_close(struct env_listener *listener)
{
    struct uring_listener *l = listener_of(listener);
    CHECK_MSG(!l->closed, "listener closed twice");
    l->closed = true;
    list_for_each_safe (link, &l->accepts)
        uring_wait_cancel(uring_of(listener->env), &list_entry(link, struct accept_op, link)->wait);
    bool unused = list_empty(&l->accepts);
    uring_handle_close(&l->handle);
    if (unused)
        listener_free(l); /* else the last fiber in uring_accept does it */
}
