/* SPDX-License-Identifier: Apache-2.0
 *
 * Names as clients write them are anything; only what can be a volume's name reaches the registry,
 * and what goes into messages is printable.
 */
#include "blockd/nbd/export.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "common/check.h"
#include "common/env.h"
#include "common/mem.h"

/* How often to look for a volume whose owner is out of reach, when nothing tells. */
#define RETRY_NS 100000000ull

/* The client's text for a message: cut, and without what could disturb a terminal. */
static const char *printable(struct nbd_string s, char buf[NAME_BYTES_MAX])
{
    uint32_t n = MIN(s.len_bytes, NAME_BYTES_MAX - 1u);
    for (uint32_t i = 0; i < n; i++)
        buf[i] = s.text[i] >= 0x20 && s.text[i] < 0x7f ? s.text[i] : '?';
    buf[n] = 0;
    return buf;
}

static void export_fail(struct nbd_export *ret_export, uint32_t error, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static void export_fail(struct nbd_export *ret_export, uint32_t error, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(ret_export->message, sizeof(ret_export->message), format, args);
    va_end(args);
    ret_export->error = error;
}

uint32_t nbd_export_error(int rc)
{
    return rc == -ESHUTDOWN ? NBD_REP_ERR_SHUTDOWN : NBD_REP_ERR_UNKNOWN;
}

/* Names of volumes (records.h); nothing else reaches the registry. */
static bool is_volume_name(struct nbd_string s)
{
    for (uint32_t i = 0; i < s.len_bytes; i++) {
        char c = s.text[i];
        bool alnum = (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
        if (!alnum && (i == 0 || !strchr("._-", c)))
            return false;
    }
    return s.len_bytes > 0 && s.len_bytes < NAME_BYTES_MAX;
}

/* The empty name: "a default export, where specifying an export name makes no sense". */
static int find(struct volumes *volumes, struct nbd_string name, struct volumes_name *ret_found)
{
    char text[NAME_BYTES_MAX];
    if (name.len_bytes == 0)
        return volumes_find_only(volumes, ret_found);
    if (!is_volume_name(name))
        return -ENOENT;
    memcpy(text, name.text, name.len_bytes);
    text[name.len_bytes] = 0;
    return volumes_find(volumes, text, ret_found);
}

void nbd_export_find(struct volumes *volumes, struct nbd_string name, struct nbd_export *ret_export)
{
    struct volumes_name found;
    char text[NAME_BYTES_MAX];
    *ret_export = (struct nbd_export){0};
    int rc = find(volumes, name, &found);
    if (rc == 0) {
        memcpy(ret_export->name, found.name, sizeof(ret_export->name));
        ret_export->size_bytes = found.size_bytes;
    } else if (rc == -EEXIST) {
        export_fail(ret_export, NBD_REP_ERR_UNKNOWN,
            "there are several volumes here: name one (nbd://HOST/NAME; 'holdfast volume list')");
    } else if (rc == -ENOENT && name.len_bytes == 0) {
        export_fail(ret_export, NBD_REP_ERR_UNKNOWN,
            "there are no volumes here; make one with 'holdfast volume create'");
    } else if (volumes_not_answered(rc) &&
               name.len_bytes == 0) { /* others may be there, not seen here */
        export_fail(ret_export, NBD_REP_ERR_UNKNOWN,
            "the store does not answer, so nobody can tell which volume is the only one: name it "
            "(nbd://HOST/NAME)");
    } else if (rc == -ENOENT) {
        export_fail(ret_export, NBD_REP_ERR_UNKNOWN,
            "there is no volume named '%s' here; see 'holdfast volume list'",
            printable(name, text));
    } else {
        export_fail(ret_export, nbd_export_error(rc), "volume '%s' cannot be looked up: %s",
            printable(name, text), strerror(-rc));
    }
}

struct waiter {
    struct attach_waiter base;
    struct fiber_queue queue;
};

static void woken(struct attach_waiter *base)
{
    fiber_queue_wake_all(&container_of(base, struct waiter, base)->queue);
}

/* -EAGAIN: the time is over. */
MAY_SUSPEND static int get_when_there(struct attach *attach, const char *name,
    const struct nbd_export_user *user, struct attachment **ret_attachment, char **ret_error)
{
    struct waiter waiter = {.base.woken = woken};
    int rc;
    fiber_queue_init(&waiter.queue);
    attach_wait_begin(attach, &waiter.base);
    for (;;) {
        rc = attach_get(attach, name, user->events, user->ctx, ret_attachment, ret_error);
        uint64_t now_ns = env_now_ns();
        if (rc != -EAGAIN || now_ns >= user->deadline_ns || *user->gone)
            break;
        mem_free(*ret_error);
        *ret_error = NULL;
        fiber_queue_wait_until(&waiter.queue, MIN(now_ns + RETRY_NS, user->deadline_ns));
    }
    attach_wait_end(&waiter.base);
    return rc;
}

struct attachment *nbd_export_open(struct attach *attach, struct nbd_string name,
    const struct nbd_export_user *user, struct nbd_export *ret_export)
{
    CLEANUP_FREE char *error = NULL;
    struct attachment *attachment = NULL;
    char text[NAME_BYTES_MAX];
    *ret_export = (struct nbd_export){0};
    if (name.len_bytes == 0) {
        nbd_export_find(attach_volumes(attach), name, ret_export);
        if (ret_export->error)
            return NULL;
    } else if (!is_volume_name(name)) {
        export_fail(ret_export, NBD_REP_ERR_UNKNOWN,
            "'%s' cannot be a volume's name; see 'holdfast volume list'", printable(name, text));
        return NULL;
    } else {
        memcpy(ret_export->name, name.text, name.len_bytes);
        ret_export->name[name.len_bytes] = 0;
    }
    int rc = get_when_there(attach, ret_export->name, user, &attachment, &error);
    if (rc == -ENOENT)
        export_fail(ret_export, NBD_REP_ERR_UNKNOWN,
            "there is no volume named '%s' here; see 'holdfast volume list'",
            printable(name, text));
    else if (rc < 0)
        export_fail(ret_export, nbd_export_error(rc), "volume '%s' cannot be opened: %s",
            printable(name, text), error ? error : strerror(-rc));
    if (rc < 0)
        return NULL;
    ret_export->size_bytes = attach_size_bytes(attachment);
    return attachment;
}
