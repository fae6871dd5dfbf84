/* SPDX-License-Identifier: Apache-2.0
 *
 * The I/O of one open volume: a queue of NBD commands that outlives connections. See session.c for
 * its rules (N1..N6).
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "fuse/link.h"
#include "fuse/loop.h"
#include "fuse/nbd_op.h"

struct session;

struct session_config {
    const char *nbd_path;
    unsigned connections; /* for each open volume, where the server allows several */
    int64_t timeout_ms;   /* how long to wait for a lost server; 0 = for ever */
};

/* Called from the loop; the session may not be closed inside them. */
struct session_events {
    /* A connection stands. Find out whether the export's name still means the same volume, then
     * call session_identified(). */
    void (*identify)(void *ctx);
    /* The session is up, for the first time or again: session_export() may have changed. */
    void (*up)(void *ctx);
    /* It will not come up: -ESTALE: the volume is gone; -EIO: no server for longer than the time
     * limit, or one that does not open the volume (the session goes on trying). Commands waiting
     * are answered with that. */
    void (*down)(void *ctx, int error);
    /* `op` waits for a lost connection; asked twice a second. True: nobody wants it any more, it is
     * answered with -EINTR (whether it was carried out is not known). */
    bool (*abandoned)(void *ctx, struct nbd_op *op);
};

/* Starts to connect at once. `name` is copied; `config` must outlive the session. */
struct session *session_new(struct loop *loop, const struct session_config *config,
    const char *name, const struct session_events *events, void *ctx);
/* Nothing may be unanswered. Disconnects with NBD_CMD_DISC. */
void session_close(struct session *session);

/* The answer to `identify`: 0: the volume is now named `name`; -ENOENT: there is no such volume any
 * more; any other error: not known, ask again. */
void session_identified(struct session *session, int error, const char *name);

/* op->done is called later, never from inside this call. */
void session_submit(struct session *session, struct nbd_op *op);
/* Connects afresh, after what is in flight was answered, to learn the export's new size. */
void session_renew(struct session *session);

bool session_is_up(const struct session *session);
/* The volume is gone for good: every command is answered with -ESTALE. */
bool session_is_gone(const struct session *session);
unsigned session_unanswered(const struct session *session);
/* As of the last handshake; all zero before the first. */
const struct link_export *session_export(const struct session *session);
