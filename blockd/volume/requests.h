/* SPDX-License-Identifier: Apache-2.0
 *
 * Which requests have been done already, so that one that is sent again is done once (S19): a request
 * that changes data may come again, after its connection broke or its owner changed, under the same
 * (session, number), and others may have overwritten in between what it wrote.
 *
 * A request becomes one or more log records, one after the other, from its first block to its last:
 * how far it has come is one block address. That is remembered from the moment a record has its
 * place in the order until the session says that the number has been answered.
 *
 * Invariants
 *  E1 A request of a session runs at most once at a time; the same one that comes meanwhile waits
 *     for its result.
 *  E2 It goes on where its records in the order end, also on the next owner: they are found in the log
 *     by replay, and in the manifest (REC_REQUESTS) once the log up to them may be released. The
 *     manifest never claims a record above committed_seq: that one may still get lost with power.
 *  E3 At most REQUESTS_MAX are remembered a volume, of all sessions (beside those that run), so that
 *     the manifest's record can always hold them, and at most REQUEST_SESSIONS_MAX sessions. Then the
 *     oldest finished ones go, answered or not, of the session first that has been silent for longest:
 *     clients that left without a last word. One that keeps its window (attach.c) never gets there.
 *  E4 A request that was given up (request_id.given_up) gets no place in the order any more: looked at
 *     after every wait before that. The same one that waits for its result goes on in its stead.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "blockd/volume/idmap.h"
#include "common/fiber.h"
#include "common/list.h"
#include "common/planted.h"

struct records;
struct request_id;
struct state;

#define REQUESTS_MAX 65536
#define REQUEST_SESSIONS_MAX 16384

struct requests {          /* all zero: empty */
    struct idmap sessions; /* struct request_session */
    struct list by_use;    /* the same, the longest silent one first */
    unsigned count;        /* entries of all sessions */
};

struct request_entry;
struct request_session;

/* One that is being done; on the stack of who does it. */
struct request {
    uint64_t session, number; /* 0, 0 = not tracked: nothing below does anything, but E4 */
    const bool *given_up;
    struct request_session *of;
    struct request_entry *entry;
};

void requests_fini(struct requests *requests);

/* How often those who wait look at that. */
#define REQUEST_LOOK_NS 100000000ull

/* E4 */
static inline bool request_given_up(const struct request *request)
{
    return request->given_up && *request->given_up && !PLANTED(given_up_is_placed);
}

/* 0: it is the caller's to do, from block *ret_from on (0 = all of it), and to end with
 * request_end(). 1: it is done. Negative: its result, or -ESTALE: it was answered long ago. */
MAY_SUSPEND int request_begin(struct requests *requests, const struct request_id *id,
    struct request *ret_request, uint64_t *ret_from);
/* A record of it has its place in the order. */
void request_note(struct request *request, uint64_t end_block, uint64_t seq);
void request_end(struct requests *requests, struct request *request, int result);

/* Recovery: what the manifest says, then what the log says. */
void requests_load(struct requests *requests, const struct state *state);
void requests_replayed(
    struct requests *requests, uint64_t session, uint64_t number, uint64_t end_block, uint64_t seq);
/* The record that goes with one that commits up to committed_seq; none when there is nothing to
 * say. `state` as it is before. */
void requests_record(struct requests *requests, const struct state *state, uint64_t committed_seq,
    struct records *records);
