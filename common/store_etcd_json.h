/* SPDX-License-Identifier: Apache-2.0
 *
 * What goes to etcd's JSON gateway and comes from it, as text. The messages are those of etcd's
 * rpc.proto in proto3's JSON mapping: 64-bit integers are strings, bytes are base64, members with
 * default values are left out. (https://etcd.io/docs/v3.4/dev-guide/api_grpc_gateway/)
 *
 * Encoders return text for free(). Decoders: 0; -EBADMSG: this is no such answer, *ret_ untouched.
 * They run on fibers; no answer, whatever it holds, makes them do more than fail.
 */
#pragma once

#include "common/store.h"

/* --- Requests -------------------------------------------------------------------------------- */

/* The keys of `prefix`, from `after` on (base64; NULL = the first; it comes again), at most `limit`,
 * as of `revision` (0 = now, linearizable). */
char *etcd_json_list(const char *prefix, const char *after, unsigned limit, uint64_t revision);
/* The key as `after` above wants it. mem_free. */
char *etcd_json_key(const char *key);
char *etcd_json_get(const char *key);
/* Session operations are attached to `lease`. */
char *etcd_json_txn(const struct store_compare *compares, unsigned compare_count,
    const struct store_op *ops, unsigned op_count, uint64_t lease);
char *etcd_json_grant(uint64_t ttl_s);
char *etcd_json_lease(uint64_t lease); /* keepalive, revoke */
char *etcd_json_watch(const char *prefix, uint64_t start_revision);
char *etcd_json_login(const char *user, const char *password);

/* --- Answers --------------------------------------------------------------------------------- */

/* Which member spoke, in which term and state. */
struct etcd_header {
    uint64_t cluster_id, member_id, revision, raft_term;
};

struct etcd_event {
    bool deleted;
    struct store_value value; /* a deleted key's data is NULL */
};

struct etcd_answer_json {
    struct etcd_header header;
    struct store_value *values; /* ranges */
    unsigned value_count;
    unsigned key_count; /* with those that store.h cannot name */
    char *last_key;     /* base64, as it came */
    bool more;
    bool succeeded;     /* transactions */
    uint64_t id, ttl_s; /* leases */
    char *token;        /* logins */
    /* A line of a watch. */
    bool created, canceled;
    uint64_t compact_revision;
    struct etcd_event *events;
    unsigned event_count;
    /* An error instead of an answer: the code of gRPC (0 = none), and words. */
    unsigned error_code;
    char *error_text;
};

/* One JSON object: any answer, also one that a stream wraps into "result" or "error". */
int etcd_json_decode(const char *text, size_t len_bytes, struct etcd_answer_json *ret_answer);
void etcd_answer_json_fini(struct etcd_answer_json *answer);
