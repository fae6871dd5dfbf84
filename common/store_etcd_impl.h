/* SPDX-License-Identifier: Apache-2.0
 *
 * What store_etcd.c, store_etcd_session.c and store_etcd_watch.c share.
 */
#pragma once

#include "common/store_etcd.h"
#include "common/store_etcd_http.h"
#include "common/store_etcd_json.h"
#include "common/store_impl.h"

struct store_etcd {
    struct store store;
    struct etcd_http *http;
    char *endpoints[STORE_ETCD_ENDPOINTS_MAX];
    unsigned endpoint_count;
    unsigned preferred; /* asked first; moves on when it fails */
    char *ca_path, *cert_path, *key_path, *user, *password, *probe_key;
    uint64_t request_timeout_ns;
    char *token; /* NULL: log in first, if there is a user */
    struct fiber_mutex login;
    struct list watches;     /* etcd_watch.link */
    struct etcd_header seen; /* the latest of all answers (E7) */

    /* store_etcd_session.c */
    uint64_t lease; /* 0 = no session */
    uint64_t ttl_ns, valid_until_ns;
    bool session_stop, session_running;
    struct fiber_queue session_wake, session_quiet;
};

static inline struct store_etcd *etcd_of(const struct store *store)
{
    return container_of(store, struct store_etcd, store);
}

/* --- store_etcd.c ---------------------------------------------------------------------------- */

struct etcd_call {
    const char *path; /* of the gateway: "/v3/..." */
    char *body;       /* freed by the call */
    uint64_t timeout_ns;
    bool repeatable; /* once or many times is the same */
};

/* Asks one member after the other. 0: an answer that is no error. -ETIMEDOUT only for what is not
 * `repeatable`; -ENOENT: there is no such lease; -ERANGE: the revision is compacted; the others are
 * those of store_etcd.h. `ret_why` (may be NULL; mem_free; set only for errors): in words. */
MAY_SUSPEND int etcd_call(struct store_etcd *etcd, const struct etcd_call *call,
    struct etcd_answer_json *ret_answer, char **ret_why);
/* Logs in if need be. `ret_why` as above. */
MAY_SUSPEND int etcd_login(struct store_etcd *etcd, char **ret_why);
/* The token is refused: the next request logs in again. */
void etcd_forget_token(struct store_etcd *etcd);
/* Whether an error answer says so. */
bool etcd_is_token_refused(const struct etcd_answer_json *answer);
/* `endpoint` does not answer: others are asked first, and its streams are ended. */
void etcd_endpoint_failed(struct store_etcd *etcd, unsigned endpoint);
/* As store_list_page; the revision in *ret_header is that of the whole list. */
MAY_SUSPEND int etcd_list(struct store_etcd *etcd, const char *prefix, const char *after,
    unsigned max, struct store_value **ret_values, unsigned *ret_count,
    struct etcd_header *ret_header);

/* --- store_etcd_session.c -------------------------------------------------------------------- */

MAY_SUSPEND int etcd_session_start(struct store *store, uint64_t ttl_ns);
uint64_t etcd_session_valid_until_ns(const struct store *store);
/* Ends the session, if it can, and its keepalive. */
MAY_SUSPEND void etcd_session_end(struct store_etcd *etcd);
/* etcd says that `lease` is gone. */
void etcd_session_lost(struct store_etcd *etcd, uint64_t lease);

/* --- store_etcd_watch.c ---------------------------------------------------------------------- */

MAY_SUSPEND int etcd_watch_start(struct store *store, struct store_watch *watch, const char *prefix,
    uint64_t revision, void **ret_remote);
MAY_SUSPEND void etcd_watch_stop(struct store *store, void *remote);
void etcd_watches_leave(struct store_etcd *etcd, unsigned endpoint);
/* All of them list their keys (E6). */
void etcd_watches_look_again(struct store_etcd *etcd);
