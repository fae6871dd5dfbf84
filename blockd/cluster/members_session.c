/* SPDX-License-Identifier: Apache-2.0
 *
 * Our own session. It is lost when the store says so: its lease has ended, or its key is gone. That
 * the store cannot be reached loses nothing by itself: a session that is found alive again was
 * alive all the time, since its key never went.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "blockd/cluster/members_impl.h"
#include "common/check.h"
#include "common/env.h"
#include "common/log.h"
#include "common/mem.h"

#define SECOND_NS 1000000000ull
/* Between looks at the lease, and between attempts to get a new one. */
#define LOOK_NS (SECOND_NS / 4)

/* --- Predecessors ------------------------------------------------------------------------------ */

static int delete_session(struct members *members, const struct store_value *value)
{
    struct store_compare compare = {value->key, value->revision};
    struct store_op op = {.type = STORE_DELETE, .key = value->key};
    int r = store_txn(members->options.store, &compare, 1, &op, 1, NULL);
    if (r == 0)
        log_info("the session of this node's last process is ended: it is dead");
    return r == -ECANCELED ? 0 : r; /* its lease has ended meanwhile */
}

/* B2: what ran before this machine's boot, or on another machine with our name, is waited for: of a copy of
 * our state directory our locks say nothing. */
static bool on_this_boot(const struct members *members, const struct session_record *record)
{
    bool ours =
        memcmp(record->boot_id, members->options.self.boot_id, sizeof(record->boot_id)) == 0;
    if (!ours)
        log_warn("a session of node %s from before this boot, or from another host with its name, "
                 "is in the "
                 "store: what it owns is taken over when that has run out",
            record->node);
    return ours;
}

int members_remove_predecessor(struct members *members, char **ret_error)
{
    struct store_value *values;
    unsigned count;
    int r = store_list(members->options.store, KEY_PREFIX_SESSIONS, &values, &count);
    if (r == 0) {
        for (unsigned i = 0; i < count && r == 0; i++) {
            struct session_record record;
            CLEANUP_FREE char *error = NULL;
            if (session_record_decode(values[i].data, &record, &error) == 0 &&
                strcmp(record.node, members->options.self.node_name) == 0 &&
                on_this_boot(members, &record))
                r = delete_session(members, &values[i]);
        }
        store_list_free(values, count);
    }
    if (r < 0)
        *ret_error =
            mem_printf("the store does not end the session of this node's last process: %s",
                store_strerror(r));
    return r;
}

/* --- A new one --------------------------------------------------------------------------------- */

/* B5. -ENOENT: this node was removed. */
MAY_SUSPEND static int node_revision_get(struct members *members, uint64_t *ret_revision)
{
    char key[KEY_BYTES_MAX];
    struct store_value value;
    int r =
        store_get(members->options.store, key_node(members->options.self.node_name, key), &value);
    if (r < 0)
        return r;
    *ret_revision = value.revision;
    store_value_fini(&value);
    return 0;
}

/* Puts the key of a session that nobody has had (B1), and takes away what an attempt without an answer may
 * have left. */
MAY_SUSPEND static int put_key(struct members *members, uint64_t id)
{
    const struct members_options *options = &members->options;
    uint64_t node_revision;
    int r = node_revision_get(members, &node_revision);
    if (r < 0)
        return r;
    struct session_record record = {.id = id, .incarnation = options->self.incarnation};
    char key[KEY_BYTES_MAX], last_key[KEY_BYTES_MAX], node_key[KEY_BYTES_MAX];
    strcpy(record.node, options->self.node_name);
    memcpy(record.boot_id, options->self.boot_id, sizeof(record.boot_id));
    if (options->address)
        strcpy(record.address, options->address);
    if (options->software)
        strcpy(record.software, options->software);
    CLEANUP_FREE char *text = session_record_encode(&record);
    struct store_compare compares[] = {
        {key_session(id, key), 0}, {key_node(record.node, node_key), node_revision}};
    struct store_op ops[] = {{STORE_PUT, key, text, strlen(text), true},
        {.type = STORE_DELETE, .key = key_session(members->session_last, last_key)}};
    return store_txn(options->store, compares, 2, ops, members->session_last ? 2 : 1, NULL);
}

static int session_new(struct members *members)
{
    uint64_t id = env_random_u64() | 1;
    int r = store_session_start(members->options.store, members->options.session_ttl_ns);
    if (r == 0)
        r = put_key(members, id);
    if (r == 0) {
        members->session_lost = false;
        members->session_last = 0;
        members->session = id;
    } else if (r == -ETIMEDOUT) {
        members->session_last = id; /* of those only the last can be of a lease that lives */
    }
    return r;
}

int members_session_begin(struct members *members, char **ret_error)
{
    int r = session_new(members);
    if (r < 0)
        *ret_error = mem_printf("the store gives this node no session: %s",
            r == -ENOENT
                ? "it was removed from the cluster; start it again, then 'holdfast cluster "
                  "join'"
                : store_strerror(r));
    members->session_told = members->session;
    members->histories_told = store_histories(members->options.store);
    return r;
}

/* --- Keeping it -------------------------------------------------------------------------------- */

static bool lost(const struct members *members)
{
    return members->session_lost || store_session_valid_until_ns(members->options.store) == 0;
}

static void lose(struct members *members)
{
    log_warn("this node's session in the store has ended: getting a new one; until then volumes "
             "read with the consent of their disks");
    members->session_last = members->session;
    members->session = 0;
    members->lost_ns = env_now_ns();
    members_tell(members);
}

/* Another session, or the store has another history: what it has of this node's volumes may be of then. */
static bool to_be_told(const struct members *members)
{
    return members->session != members->session_told ||
           store_histories(members->options.store) != members->histories_told;
}

/* On a fiber of its own: what it does may wait for the store, and so for the next session. */
static void tell_renewed(void *arg)
{
    struct members *members = arg;
    while (members->session && to_be_told(members)) {
        members->session_told = members->session;
        members->histories_told = store_histories(members->options.store);
        members->options.session_renewed(members->options.ctx, members->session);
    }
    members->telling_renewed = false;
    members->fibers--;
    fiber_queue_wake_all(&members->ended);
}

static void tell_if_renewed(struct members *members)
{
    if (members->telling_renewed || !members->options.session_renewed || !members->session ||
        !to_be_told(members))
        return;
    members->telling_renewed = true;
    members->fibers++;
    fiber_spawn("session renewed", tell_renewed, members);
}

static void renew(struct members *members)
{
    int r = session_new(members);
    if (r < 0) {
        log_warn_limited("the store gives this node no new session: %s",
            r == -ENOENT ? "it was removed from the cluster" : store_strerror(r));
        return;
    }
    log_info("a new session in the store after %" PRIu64 " ms without",
        (env_now_ns() - members->lost_ns) / 1000000);
    members_disks_judge(members, NULL);
    members_tell(members);
}

/* B6. Tried again until the store has it, or somebody else's of that name. */
MAY_SUSPEND static void self_again(struct members *members)
{
    struct store *store = members->options.store;
    char key[KEY_BYTES_MAX];
    struct node_record record = members->self_record;
    struct store_value value;
    struct cluster_record cluster;
    CLEANUP_FREE char *error = NULL;
    if (store_get(store, key_cluster(), &value) < 0)
        return;
    struct store_compare compares[] = {
        {key_cluster(), value.revision}, {key_node(record.name, key), 0}};
    int r = cluster_record_decode(value.data, &cluster, &error);
    store_value_fini(&value);
    if (r < 0 || !uuid_equal(&cluster.uuid, &members->options.self.cluster))
        return;
    CLEANUP_FREE char *text = node_record_encode(&record, NULL);
    struct store_op op = {STORE_PUT, key, text, strlen(text), false};
    r = store_txn(store, compares, 2, &op, 1, NULL);
    if (r == 0)
        members->self_again = false;
    if (r == 0)
        log_warn("the store has been set back (restored from a backup?) and had no record of this "
                 "node: it is recorded again");
}

void members_session_run(void *arg)
{
    struct members *members = arg;
    while (!members->stopping) {
        if (members->session && lost(members))
            lose(members);
        if (members->self_again)
            self_again(members);
        if (!members->session)
            renew(members);
        tell_if_renewed(members);
        if (members->stopping)
            break;
        (void)fiber_queue_wait_until(&members->wake, env_now_ns() + LOOK_NS);
    }
    members->fibers--;
    fiber_queue_wake_all(&members->ended);
}

/* The others need not wait for the lease's end. Its failure is no matter: then they do. */
void members_session_end(struct members *members)
{
    char key[KEY_BYTES_MAX];
    if (!members->session)
        return;
    struct store_op op = {.type = STORE_DELETE, .key = key_session(members->session, key)};
    int r = store_txn(members->options.store, NULL, 0, &op, 1, NULL);
    if (r < 0)
        log_warn("the store was not told that this node ends: %s", store_strerror(r));
}
