/* SPDX-License-Identifier: Apache-2.0
 *
 * Until a node knows who it is. A node alone finds that in its own store. A node of a cluster may
 * find no store yet (etcd starts at the same time), or no record of itself: it waits for both, and
 * says so on its admin socket, where init and join come in.
 */
#include <errno.h>
#include <string.h>

#include "blockd/admin/methods.h"
#include "blockd/node_impl.h"
#include "common/check.h"
#include "common/env.h"
#include "common/log.h"
#include "common/mem.h"

#define SECOND_NS 1000000000ull
#define STARTING_WAIT_NS (30 * SECOND_NS)

const char *node_phase_name(enum node_phase phase)
{
    static const char *const names[] = {[NODE_STARTING] = "starting",
        [NODE_WAITING_STORE] = "waiting for the store",
        [NODE_NOT_JOINED] = "not joined",
        [NODE_RUNNING] = "running",
        [NODE_STOPPING] = "stopping"};
    return names[phase];
}

void node_set_phase(struct node *node, enum node_phase phase, char *waits_for)
{
    bool changed = node->phase != phase;
    node->phase = phase;
    mem_free(node->waits_for);
    node->waits_for = waits_for;
    if (changed && waits_for)
        log_warn("%s", waits_for);
    fiber_queue_wake_all(&node->phase_queue);
    if (changed && node->options.phase_changed)
        node->options.phase_changed(node->options.ctx, node);
}

/* --- The admin socket -------------------------------------------------------------------------- */

/* A node that is just starting will run, or will know what it waits for, in a moment. */
MAY_SUSPEND static void wait_started(struct node *node)
{
    uint64_t deadline_ns = env_now_ns() + STARTING_WAIT_NS;
    while (node->phase == NODE_STARTING &&
           fiber_queue_wait_until(&node->phase_queue, deadline_ns) == 0)
        ;
}

/* What a node that does not run yet answers. */
MAY_SUSPEND static int admit(void *ctx, const char *method, char **ret_error)
{
    static const char *const early[] = {"status", "cluster.init", "cluster.join", "shutdown"};
    struct node *node = ctx;
    if (node->phase == NODE_RUNNING || node->phase == NODE_STOPPING)
        return 0;
    for (unsigned i = 0; i < ARRAY_SIZE(early); i++)
        if (strcmp(method, early[i]) == 0)
            return 0;
    wait_started(node);
    if (node->phase == NODE_RUNNING)
        return 0;
    *ret_error = node->waits_for ? mem_strdup(node->waits_for)
                                 : mem_strdup("this node is starting; try again soon");
    return -EAGAIN;
}

int node_start_admin(struct node *node, char **ret_error)
{
    struct admin_server_options options = {.admit = admit};
    if (node->admin)
        return 0;
    return admin_server_start(node->config->admin_address, admin_methods, admin_method_count, node,
        &options, &node->admin, ret_error);
}

/* --- Store ------------------------------------------------------------------------------------- */

static int open_etcd(struct node *node, char **ret_error)
{
    const struct node_config *config = node->config;
    struct store_etcd_options options = {.endpoints = (const char *const *)config->store_endpoints,
        .endpoint_count = config->store_endpoint_count,
        .ca_path = config->store_ca,
        .cert_path = config->store_cert,
        .key_path = config->store_key,
        .user = config->store_user,
        .password = config->store_password};
    return store_etcd_open(&options, &node->store, ret_error);
}

/* Sleeps until the next attempt; false when the node is to stop. */
static bool wait_store(struct node *node, const char *error)
{
    node_set_phase(node, NODE_WAITING_STORE, mem_printf("waiting for the store: %s", error));
    if (!node->stop_wanted)
        (void)fiber_queue_wait_until(&node->stop_queue, env_now_ns() + SECOND_NS);
    return !node->stop_wanted;
}

static int open_shared_store(struct node *node, char **ret_error)
{
    while (!node->store) {
        char *error = NULL;
        int r = open_etcd(node, &error);
        if (r < 0 && r != -EHOSTUNREACH && r != -ETIMEDOUT) {
            *ret_error = error;
            return r;
        }
        bool go_on = r == 0 || wait_store(node, error);
        mem_free(error);
        if (!go_on)
            return -ECANCELED;
    }
    return 0;
}

/* --- Identity ---------------------------------------------------------------------------------- */

static char *why_not_joined(enum identity_state state)
{
    return mem_strdup(
        state == IDENTITY_NO_CLUSTER
            ? "this node waits: there is no cluster in the store yet; 'holdfast cluster "
              "init' makes it and is needed once, on the first node"
            : "this node waits: it has not joined the cluster; 'holdfast cluster join' "
              "adds it");
}

/* Somebody's init or join wakes it, here or on another node (it looks now and then). */
static int wait_joined(struct node *node, char **ret_error)
{
    for (;;) {
        enum identity_state state;
        CLEANUP_FREE char *error = NULL;
        int r = identity_look(
            node->store, node->config->name, node->state, &state, &node->identity, &error);
        if (r == 0 && state == IDENTITY_JOINED)
            return 0;
        bool unreachable = r == -EHOSTUNREACH || r == -ETIMEDOUT;
        if (r < 0 && !unreachable) {
            *ret_error = mem_strdup(error);
            return r;
        }
        if (unreachable && wait_store(node, error))
            continue;
        if (!unreachable) {
            node_set_phase(node, NODE_NOT_JOINED, why_not_joined(state));
            (void)fiber_queue_wait_until(&node->phase_queue, env_now_ns() + 2 * SECOND_NS);
        }
        if (node->stop_wanted)
            return -ECANCELED;
    }
}

/* For the simulation: without a command. */
static int join_by_itself(struct node *node, char **ret_error)
{
    CLEANUP_FREE char *error = NULL;
    int r = identity_init(node->store, node->state, &error);
    if (r < 0 && r != -EEXIST) {
        *ret_error = mem_strdup(error);
        return r;
    }
    return identity_join(node->store, node->config->name, node->state, ret_error);
}

static int start_shared(struct node *node, char **ret_error)
{
    int r = 0;
    if (!node->options.join)
        r = node_start_admin(node, ret_error);
    if (r == 0)
        r = open_shared_store(node, ret_error);
    if (r == 0 && node->options.join)
        r = join_by_itself(node, ret_error);
    if (r == 0)
        r = wait_joined(node, ret_error);
    if (r == 0)
        node_set_phase(node, NODE_STARTING, NULL);
    return r;
}

static int start_alone(struct node *node, char **ret_error)
{
    int r = 0;
    if (!node->store)
        r = store_lmdb_open(node->config->store_path, &node->store, ret_error);
    if (r == 0)
        r = identity_alone(
            node->store, node->config->name, node->state, &node->identity, ret_error);
    return r;
}

int node_start_identity(struct node *node, char **ret_error)
{
    bool alone = node->config->store_type == STORE_TYPE_EMBEDDED;
    CLEANUP_FREE char *error = NULL;
    int r = state_file_open(node->config->state_dir, &node->state, &error);
    if (r == -EINVAL && alone) { /* the embedded store has a lock of its own */
        log_warn("%s; going on, since the store is this node's alone", error);
        r = 0;
    }
    if (r < 0)
        *ret_error = mem_strdup(error);
    if (r == 0)
        r = alone ? start_alone(node, ret_error) : start_shared(node, ret_error);
    return r;
}

/* --- Commands ---------------------------------------------------------------------------------- */

MAY_SUSPEND static int check_waits(struct node *node, char **ret_error)
{
    char cluster[UUID_TEXT_BYTES];
    wait_started(node);
    if (node->phase == NODE_NOT_JOINED)
        return 0;
    if (node->config->store_type == STORE_TYPE_EMBEDDED)
        *ret_error =
            mem_strdup("this node has a store of its own and is a cluster of one; for more "
                       "nodes, [store] type = etcd is needed in blockd.conf");
    else if (node->phase == NODE_RUNNING)
        *ret_error = mem_printf("this node has joined cluster %s already",
            uuid_format(&node->identity.cluster.uuid, cluster));
    else
        *ret_error =
            mem_strdup(node->waits_for ? node->waits_for : "this node is starting; try again soon");
    return node->phase == NODE_RUNNING ? -EEXIST : -EAGAIN;
}

/* Before the store knows it: a node that has joined and cannot listen ends, and stays in the list. */
MAY_SUSPEND static int check_address(struct node *node, char **ret_error)
{
    struct env_listener *listener;
    int r = env_listen(node->config->cluster_address, 0, &listener);
    if (r == 0)
        env_listener_close(listener);
    else
        *ret_error = mem_printf("cannot listen for other nodes at %s: %s; [cluster] address in "
                                "blockd.conf has to be one of this host's, with a free port",
            node->config->cluster_address, strerror(-r));
    return r;
}

static int wait_running(struct node *node, char **ret_error)
{
    fiber_queue_wake_all(&node->phase_queue);
    while (node->phase != NODE_RUNNING && node->phase != NODE_STOPPING)
        fiber_queue_wait(&node->phase_queue);
    if (node->phase == NODE_RUNNING)
        return 0;
    *ret_error = mem_strdup("this node has joined, but does not start: see its log");
    return -EIO;
}

int node_cluster_join(struct node *node, char **ret_error)
{
    int r = check_waits(node, ret_error);
    if (r == 0)
        r = check_address(node, ret_error);
    if (r == 0)
        r = identity_join(node->store, node->config->name, node->state, ret_error);
    return r == 0 ? wait_running(node, ret_error) : r;
}

int node_cluster_init(struct node *node, char **ret_error)
{
    int r = check_waits(node, ret_error);
    if (r == 0)
        r = check_address(node, ret_error);
    if (r == 0)
        r = identity_init(node->store, node->state, ret_error);
    return r == 0 ? node_cluster_join(node, ret_error) : r;
}
