/* SPDX-License-Identifier: Apache-2.0
 *
 * The coordination store (common/store.h) in etcd v3 (3.4 and later), through its JSON gateway.
 *
 * Of the errors in store.h: a request that reached no member, or that is a read, answers
 * -EHOSTUNREACH; a transaction that may have reached one and has no clear answer -ETIMEDOUT (S13).
 * A full etcd is such a case (-ETIMEDOUT, not -ENOSPC), since it answers the same whether the write
 * was carried out or not. -EACCES: etcd refuses this user, nothing happened. -EINVAL also: larger than etcd allows
 * (its --max-request-bytes, 1.5 MiB a transaction unless configured).
 *
 * Sessions are leases; TTLs are whole seconds, rounded up, and etcd may raise them (to about 2 s).
 * A session that could not be kept alive may be found alive again, with all its keys: they never
 * went then. store_session_valid_until_ns() is 0 once etcd has said that it ended.
 */
#pragma once

#include "common/store.h"

#define STORE_ETCD_ENDPOINTS_MAX 16

/* All is copied. */
struct store_etcd_options {
    /* "http://HOST:PORT" or "https://HOST:PORT": members of one cluster, tried in this order. */
    const char *const *endpoints;
    unsigned endpoint_count; /* 1..STORE_ETCD_ENDPOINTS_MAX */
    /* PEM files. ca NULL: the system's. cert and key NULL: no client certificate. */
    const char *ca_path, *cert_path, *key_path;
    const char *user, *password; /* NULL: no authentication */
    /* A key that nobody ever makes, and that `user` may delete: deleting it is the write that proves
     * a quorum (S16). NULL = "holdfast/nothing". */
    const char *probe_key;
    uint64_t request_timeout_ns; /* of a request, all its attempts together; 0 = 3 s */
    uint64_t connect_timeout_ns; /* 0 = 1 s */
};

/* Asks for something once: -EHOSTUNREACH when no member answers (with a majority), -EACCES,
 * -EINVAL for options that cannot be. *ret_error (mem_free) names the way out. Only in the
 * production env; close the store before the env ends. */
MAY_SUSPEND int store_etcd_open(
    const struct store_etcd_options *options, struct store **ret_store, char **ret_error);
