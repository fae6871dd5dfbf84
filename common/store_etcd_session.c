/* SPDX-License-Identifier: Apache-2.0
 *
 * The session of a store in etcd: a lease, kept alive by one fiber.
 *
 *  E4 The validity (S16) is extended by a pair: a keepalive sent at T, and after its answer a write
 *     that a majority commits, both answered by the same member in the same term of raft. Then the
 *     session lives at least until T + TTL, of which 0.8 are used (T is before the write was sent).
 *
 * Why the pair. A keepalive is answered by whoever believes to lead, without asking the others: a
 * leader that was cut off renews what the real one lets expire. The write alone renews nothing. If
 * a write of term t is committed after the keepalive of term t was answered, then its leader was
 * the leader when it renewed; a later one gives every lease its full time again when it begins.
 *
 * The write deletes a key that does not exist: it goes through raft's log, but makes no revision
 * and wakes no watch.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/check.h"
#include "common/env.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/store_etcd_impl.h"

#define SECOND_NS 1000000000ull

uint64_t etcd_session_valid_until_ns(const struct store *store)
{
    return etcd_of(store)->valid_until_ns;
}

void etcd_session_lost(struct store_etcd *etcd, uint64_t lease)
{
    if (lease != etcd->lease)
        return;
    log_warn("etcd: this node's session has ended (its lease was not renewed in time)");
    etcd->lease = 0;
    etcd->valid_until_ns = 0;
    fiber_queue_wake_all(&etcd->session_wake);
}

/* --- Keeping alive --------------------------------------------------------------------------- */

static uint64_t round_timeout_ns(const struct store_etcd *etcd)
{
    return MIN(etcd->request_timeout_ns, etcd->ttl_ns / 2);
}

static MAY_SUSPEND int keepalive(
    struct store_etcd *etcd, uint64_t lease, struct etcd_header *ret_header)
{
    struct etcd_call call = {
        "/v3/lease/keepalive", etcd_json_lease(lease), round_timeout_ns(etcd), .repeatable = true};
    struct etcd_answer_json answer;
    CLEANUP_FREE char *why = NULL;
    int r = etcd_call(etcd, &call, &answer, &why);
    if (r < 0) {
        log_warn_limited("etcd: the session is not kept alive: %s", why ? why : strerror(-r));
        return r;
    }
    *ret_header = answer.header;
    r = answer.ttl_s > 0 ? 0 : -ENOENT;
    etcd_answer_json_fini(&answer);
    return r;
}

static MAY_SUSPEND int prove_majority(struct store_etcd *etcd, struct etcd_header *ret_header)
{
    struct store_op op = {.type = STORE_DELETE, .key = etcd->probe_key};
    struct etcd_call call = {"/v3/kv/txn", etcd_json_txn(NULL, 0, &op, 1, 0),
        round_timeout_ns(etcd), .repeatable = true};
    struct etcd_answer_json answer;
    CLEANUP_FREE char *why = NULL;
    int r = etcd_call(etcd, &call, &answer, &why);
    if (r < 0) {
        log_warn_limited("etcd: the session cannot be confirmed: %s", why ? why : strerror(-r));
        return r;
    }
    *ret_header = answer.header;
    r = answer.succeeded ? 0 : -EAGAIN;
    etcd_answer_json_fini(&answer);
    return r;
}

/* E4. -EAGAIN: the members changed their roles in between. */
static MAY_SUSPEND int extend(struct store_etcd *etcd, uint64_t lease)
{
    struct etcd_header renewed, committed;
    uint64_t sent_ns = env_boottime_ns();
    int r = keepalive(etcd, lease, &renewed);
    if (r == 0)
        r = prove_majority(etcd, &committed);
    if (r < 0)
        return r;
    if (renewed.member_id != committed.member_id || renewed.raft_term != committed.raft_term)
        return -EAGAIN;
    if (etcd->lease == lease)
        etcd->valid_until_ns = MAX(etcd->valid_until_ns, sent_ns + etcd->ttl_ns / 5 * 4);
    return 0;
}

static void keep_alive_fiber(void *arg)
{
    struct store_etcd *etcd = arg;
    uint64_t lease = etcd->lease;
    int r = 0;
    while (!etcd->session_stop && etcd->lease == lease) {
        uint64_t pause_ns = r < 0 ? etcd->ttl_ns / 20 : etcd->ttl_ns / 5;
        fiber_queue_wait_until(&etcd->session_wake, env_now_ns() + pause_ns);
        if (etcd->session_stop || etcd->lease != lease)
            break;
        r = extend(etcd, lease);
        if (r == -ENOENT)
            etcd_session_lost(etcd, lease);
    }
    etcd->session_running = false;
    fiber_queue_wake_all(&etcd->session_quiet);
}

/* --- Begin, end ------------------------------------------------------------------------------ */

static MAY_SUSPEND void stop_fiber(struct store_etcd *etcd)
{
    etcd->session_stop = true;
    fiber_queue_wake_all(&etcd->session_wake);
    while (etcd->session_running)
        fiber_queue_wait(&etcd->session_quiet);
    etcd->session_stop = false;
}

void etcd_session_end(struct store_etcd *etcd)
{
    stop_fiber(etcd);
    uint64_t lease = etcd->lease;
    if (!lease)
        return;
    etcd->lease = 0;
    etcd->valid_until_ns = 0;
    struct etcd_call call = {"/v3/lease/revoke", etcd_json_lease(lease),
        MIN(etcd->request_timeout_ns, SECOND_NS), .repeatable = true};
    struct etcd_answer_json answer;
    CLEANUP_FREE char *why = NULL;
    int r = etcd_call(etcd, &call, &answer, &why);
    if (r == 0)
        etcd_answer_json_fini(&answer);
    else if (r != -ENOENT)
        log_info("etcd: the session ends by its time to live (%s)", why ? why : strerror(-r));
}

int etcd_session_start(struct store *store, uint64_t ttl_ns)
{
    struct store_etcd *etcd = etcd_of(store);
    etcd_session_end(etcd);
    uint64_t ttl_s = MAX(DIV_ROUND_UP(ttl_ns, SECOND_NS), 1);
    uint64_t sent_ns = env_boottime_ns();
    /* A lease that was granted and not answered has no key, and ends by itself. */
    struct etcd_call call = {
        "/v3/lease/grant", etcd_json_grant(ttl_s), etcd->request_timeout_ns, .repeatable = true};
    struct etcd_answer_json answer;
    CLEANUP_FREE char *why = NULL;
    int r = etcd_call(etcd, &call, &answer, &why);
    if (r < 0) {
        log_warn("etcd: no session: %s", why ? why : strerror(-r));
        return r == -EACCES || r == -ENOSPC || r == -EINVAL ? r : -EHOSTUNREACH;
    }
    uint64_t lease = answer.id, granted_s = MIN(answer.ttl_s, ttl_s);
    etcd_answer_json_fini(&answer);
    if (lease == 0 || granted_s == 0)
        return -EHOSTUNREACH;
    etcd->lease = lease;
    etcd->ttl_ns = granted_s * SECOND_NS;
    etcd->valid_until_ns = sent_ns + etcd->ttl_ns / 5 * 4; /* the grant is a committed write */
    etcd->session_running = true;
    fiber_spawn("etcd session", keep_alive_fiber, etcd);
    return 0;
}
