/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/nbd_link.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>

#include "common/check.h"
#include "common/mem.h"

/* --- Addresses ------------------------------------------------------------------------------- */

/* Names of volumes need no escaping in URIs; paths do. */
static char *uri_escape(const char *text)
{
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                                "-._~/:[]";
    char *out = mem_alloc(3 * strlen(text) + 1), *end = out;
    for (; *text; text++) {
        unsigned char c = (unsigned char)*text;
        if (strchr(plain, c))
            *end++ = (char)c;
        else
            end += sprintf(end, "%%%02X", c);
    }
    *end = 0;
    return out;
}

/* "nbd://host:port", "nbd://host:port/", "nbd+unix://?socket=..": the name goes where it belongs. */
static char *uri_with_name(const char *uri, const char *name)
{
    const char *authority = strstr(uri, "://") + 3;
    const char *query = uri + strcspn(uri, "?");
    const char *slash = memchr(authority, '/', (size_t)(query - authority));
    if (slash && slash + 1 < query)
        return mem_strdup(uri); /* it names an export itself */
    const char *end = slash ? slash : query;
    return mem_printf("%.*s/%s%s", (int)(end - uri), uri, name, query);
}

char *nbd_link_uri(const char *address, const char *export_name)
{
    CLEANUP_FREE char *name = uri_escape(export_name);
    if (strstr(address, "://"))
        return uri_with_name(address, name);
    bool tcp = strncmp(address, "tcp:", 4) == 0;
    const char *where = address + (tcp ? 4 : strncmp(address, "unix:", 5) == 0 ? 5 : 0);
    /* Where a server listens on all addresses, this machine's own is one. */
    if (tcp && strncmp(where, "0.0.0.0:", 8) == 0)
        return mem_printf("nbd://localhost:%s/%s", where + 8, name);
    if (tcp && strncmp(where, "[::]:", 5) == 0)
        return mem_printf("nbd://localhost:%s/%s", where + 5, name);
    CLEANUP_FREE char *escaped = uri_escape(where);
    return tcp ? mem_printf("nbd://%s/%s", escaped, name)
               : mem_printf("nbd+unix:///%s?socket=%s", name, escaped);
}

/* --- Connections ----------------------------------------------------------------------------- */

static char *libnbd_error(void)
{
    const char *text = nbd_get_error();
    return mem_strdup(text ? text : "unknown error of libnbd");
}

static int connect_one(const char *uri, struct nbd_handle **ret_handle)
{
    struct nbd_handle *handle = nbd_create();
    CHECK_MSG(handle, "out of memory");
    /* Buffers are filled by us or by the server: no second pass over them. */
    if (nbd_set_pread_initialize(handle, false) == 0 &&
        nbd_add_meta_context(handle, LIBNBD_CONTEXT_BASE_ALLOCATION) == 0 &&
        nbd_set_uri_allow_local_file(handle, true) == 0 && nbd_connect_uri(handle, uri) == 0) {
        *ret_handle = handle;
        return 0;
    }
    nbd_close(handle);
    return -EIO;
}

static void learn(struct nbd_link *link)
{
    struct nbd_handle *handle = link->handles[0];
    int64_t block = nbd_get_block_size(handle, LIBNBD_SIZE_MINIMUM);
    link->size_bytes = (uint64_t)MAX(nbd_get_size(handle), 0);
    link->block_bytes = block > 0 ? (uint32_t)block : 1;
    link->read_only = nbd_is_read_only(handle) == 1;
    link->can_zero = nbd_can_zero(handle) == 1;
    link->can_flush = nbd_can_flush(handle) == 1;
    link->has_extents = nbd_can_meta_context(handle, LIBNBD_CONTEXT_BASE_ALLOCATION) == 1;
}

int nbd_link_open(struct nbd_link *link, const char *address, const char *export_name,
    unsigned connections, char **ret_error)
{
    *link = (struct nbd_link){0};
    CLEANUP_FREE char *uri = nbd_link_uri(address, export_name);
    if (connect_one(uri, &link->handles[0]) < 0) {
        CLEANUP_FREE char *error = libnbd_error();
        *ret_error = mem_printf("cannot open %s: %s", uri, error);
        return -EIO;
    }
    link->count = 1;
    learn(link);
    unsigned wanted = nbd_can_multi_conn(link->handles[0]) == 1 ? connections : 1;
    wanted = MIN(wanted, NBD_LINK_CONNECTIONS_MAX);
    /* One is enough where the server has no more to give. */
    while (link->count < wanted && connect_one(uri, &link->handles[link->count]) == 0)
        link->count++;
    return 0;
}

void nbd_link_close(struct nbd_link *link)
{
    for (unsigned i = 0; i < link->count; i++)
        nbd_close(link->handles[i]);
    link->count = 0;
}

struct nbd_handle *nbd_link_next(struct nbd_link *link)
{
    return link->handles[link->next++ % link->count];
}

/* --- Waiting --------------------------------------------------------------------------------- */

static int notify(struct nbd_handle *handle, short revents)
{
    unsigned direction = nbd_aio_get_direction(handle);
    if ((revents & (POLLIN | POLLHUP | POLLERR)) && (direction & LIBNBD_AIO_DIRECTION_READ))
        return nbd_aio_notify_read(handle);
    if ((revents & (POLLOUT | POLLHUP | POLLERR)) && (direction & LIBNBD_AIO_DIRECTION_WRITE))
        return nbd_aio_notify_write(handle);
    return 0;
}

int nbd_link_wait(struct nbd_link *link, char **ret_error)
{
    struct pollfd fds[NBD_LINK_CONNECTIONS_MAX];
    for (unsigned i = 0; i < link->count; i++) {
        unsigned direction = nbd_aio_get_direction(link->handles[i]);
        fds[i] = (struct pollfd){.fd = nbd_aio_get_fd(link->handles[i]),
            .events = (short)((direction & LIBNBD_AIO_DIRECTION_READ ? POLLIN : 0) |
                              (direction & LIBNBD_AIO_DIRECTION_WRITE ? POLLOUT : 0))};
    }
    if (poll(fds, link->count, -1) < 0)
        return errno == EINTR ? -EINTR : -errno;
    for (unsigned i = 0; i < link->count; i++) {
        struct nbd_handle *handle = link->handles[i];
        if (fds[i].revents && notify(handle, fds[i].revents) < 0) {
            *ret_error = libnbd_error();
            return -EIO;
        }
        if (nbd_aio_is_dead(handle) || nbd_aio_is_closed(handle)) {
            *ret_error = mem_strdup("the daemon closed the connection");
            return -ECONNRESET;
        }
    }
    return 0;
}

int nbd_link_flush(struct nbd_link *link, char **ret_error)
{
    for (unsigned i = 0; link->can_flush && i < link->count; i++)
        if (nbd_flush(link->handles[i], 0) < 0) {
            *ret_error = libnbd_error();
            return -EIO;
        }
    return 0;
}
