/* SPDX-License-Identifier: Apache-2.0
 *
 * The watches' callbacks only change this value and never suspend; what has to wait (asking peers,
 * renewing the session) is done by two fibers that they wake.
 */
#include "blockd/cluster/members_impl.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "blockd/disks.h"
#include "common/check.h"
#include "common/env.h"
#include "common/log.h"
#include "common/mem.h"

#define SECOND_NS 1000000000ull

void members_tell(struct members *members)
{
    if (members->started && members->options.changed)
        members->options.changed(members->options.ctx);
}

/* --- Nodes ----------------------------------------------------------------------------------- */

struct member *members_find_entry(const struct members *members, const char *name)
{
    list_for_each (it, &members->nodes)
        if (strcmp(list_entry(it, struct member, link)->record.name, name) == 0)
            return list_entry(it, struct member, link);
    return NULL;
}

/* The youngest session that names the node. */
static const struct session_entry *session_of_node(const struct members *members, const char *name)
{
    const struct session_entry *found = NULL;
    list_for_each (it, &members->sessions) {
        const struct session_entry *entry = list_entry(it, struct session_entry, link);
        if (strcmp(entry->record.node, name) == 0 && (!found || entry->revision > found->revision))
            found = entry;
    }
    return found;
}

/* After a change of sessions. */
static void member_judge(struct members *members, struct member *member)
{
    const struct session_entry *entry = session_of_node(members, member->record.name);
    uint64_t session = entry ? entry->record.id : 0, now_ns = env_now_ns();
    if (entry)
        member->process = entry->record;
    if (session == member->session)
        return;
    if (!session)
        member->down_since_ns = now_ns;
    else if (!member->session)
        member->since_ns = now_ns;
    if (members->started && strcmp(member->record.name, members->options.self.node_name) != 0)
        log_info("node %s is %s", member->record.name, session ? "up" : "down");
    member->session = session;
}

static struct member *member_new(struct members *members, const struct node_record *record)
{
    struct member *member = NEW(struct member);
    member->record = *record;
    member->down_since_ns = env_now_ns();
    struct list *at = &members->nodes;
    list_for_each (it, &members->nodes)
        if (strcmp(list_entry(it, struct member, link)->record.name, record->name) > 0) {
            at = it;
            break;
        }
    list_insert_before(at, &member->link);
    return member;
}

static void member_free(struct member *member)
{
    list_remove(&member->link);
    mem_free(member);
}

static bool is_self(const struct members *members, const char *name)
{
    return strcmp(name, members->options.self.node_name) == 0;
}

/* B6: not removed, but of a time before it joined? */
static void self_gone(struct members *members)
{
    if (members->self_record.name[0] &&
        members->self_histories != store_histories(members->options.store)) {
        members->self_again = true;
        return;
    }
    log_error("this node was removed from the cluster by another one ('holdfast node "
              "remove'); once its daemon is restarted, 'holdfast cluster join' takes it "
              "back");
}

static void self_told(struct members *members, const struct node_record *record)
{
    members->self_record = *record;
    members->self_histories = store_histories(members->options.store);
    members->self_again = false;
}

static void node_told(void *ctx, const struct store_value *value)
{
    struct members *members = ctx;
    const char *name = value->key + strlen(KEY_PREFIX_NODES);
    struct member *member = members_find_entry(members, name);
    struct node_record record;
    CLEANUP_FREE char *error = NULL;
    if (!value->data) {
        if (member && is_self(members, name))
            self_gone(members);
        if (member)
            member_free(member);
    } else if (node_record_decode(value->data, &record, &error) < 0 ||
               strcmp(record.name, name) != 0) {
        log_error_limited("store: %s: %s; the node is not known here", value->key,
            error ? error : "names another node");
        return;
    } else {
        if (!member)
            member = member_new(members, &record);
        member->record = record;
        member_judge(members, member);
        if (is_self(members, name))
            self_told(members, &record);
        else if (members->options.peers)
            peers_set(members->options.peers, &record);
    }
    members_disks_judge(members, name);
    fiber_queue_wake_all(&members->wake);
    members_tell(members);
}

const struct member *members_find(const struct members *members, const char *name)
{
    return members_find_entry(members, name);
}

struct list *members_all(struct members *members)
{
    return &members->nodes;
}

/* --- Sessions -------------------------------------------------------------------------------- */

static struct session_entry *session_find(const struct members *members, uint64_t id)
{
    list_for_each (it, &members->sessions)
        if (list_entry(it, struct session_entry, link)->record.id == id)
            return list_entry(it, struct session_entry, link);
    return NULL;
}

static void session_gone(struct members *members, uint64_t id)
{
    struct session_entry *entry = session_find(members, id);
    if (id == members->session && id != 0) {
        members->session_lost = true;
        fiber_queue_wake_all(&members->wake);
    }
    if (!entry)
        return;
    struct member *member = members_find_entry(members, entry->record.node);
    list_remove(&entry->link);
    mem_free(entry);
    if (member)
        member_judge(members, member);
}

static void session_there(
    struct members *members, const struct session_record *record, uint64_t revision)
{
    struct session_entry *entry = session_find(members, record->id);
    if (!entry) {
        entry = NEW(struct session_entry);
        list_push_back(&members->sessions, &entry->link);
    }
    entry->record = *record;
    entry->revision = revision;
    struct member *member = members_find_entry(members, record->node);
    if (member)
        member_judge(members, member);
    if (members->started && is_self(members, record->node) &&
        record->incarnation != members->options.self.incarnation)
        log_error_limited("another process says that it is node %s as well: two hosts must not "
                          "have copies of one state directory",
            record->node);
}

static void session_told(void *ctx, const struct store_value *value)
{
    struct members *members = ctx;
    uint64_t id;
    struct session_record record;
    CLEANUP_FREE char *error = NULL;
    if (id_parse(value->key + strlen(KEY_PREFIX_SESSIONS), &id) < 0)
        return;
    if (!value->data) {
        session_gone(members, id);
    } else if (session_record_decode(value->data, &record, &error) < 0 || record.id != id) {
        log_error_limited("store: %s: %s; the session is not known here", value->key,
            error ? error : "names another session");
        return;
    } else {
        session_there(members, &record, value->revision);
    }
    members_disks_judge(members, NULL);
    members_tell(members);
}

uint64_t members_session(const struct members *members)
{
    return members->session_lost ? 0 : members->session;
}

uint64_t members_valid_until_ns(const struct members *members)
{
    return members_session(members) ? store_session_valid_until_ns(members->options.store) : 0;
}

bool members_session_alive(const struct members *members, uint64_t session)
{
    return session != 0 && session_find(members, session);
}

/* --- Who cares for what nobody owns ------------------------------------------------------------ */

/* splitmix64's finisher, Steele et al. 2014 */
static uint64_t mix(uint64_t z)
{
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ z >> 27) * 0x94D049BB133111EBull;
    return z ^ z >> 31;
}

/* Highest random weight, Thaler and Ravishankar 1996. */
static uint64_t weight_of(const struct uuid *node, uint64_t volume_id)
{
    uint64_t halves[2];
    memcpy(halves, node->bytes, sizeof(halves));
    return mix(mix(volume_id + halves[0]) + halves[1]);
}

bool members_volume_is_ours(const struct members *members, uint64_t volume_id)
{
    const struct member *self = members_find(members, members->options.self.node_name);
    if (!self || !members->session)
        return false;
    uint64_t ours = weight_of(&self->record.uuid, volume_id);
    list_for_each (it, &members->nodes) {
        const struct member *member = list_entry(it, struct member, link);
        if (member != self && member->session && weight_of(&member->record.uuid, volume_id) > ours)
            return false;
    }
    return true;
}

/* --- Life -------------------------------------------------------------------------------------- */

struct disk_list *members_disks(struct members *members)
{
    return disks_present(members->options.disks);
}

static int start_watch(struct members *members, const char *prefix,
    void (*told)(void *ctx, const struct store_value *value), struct store_watch **ret_watch)
{
    int r = store_watch_start(members->options.store, prefix, 0, told, members, ret_watch);
    if (r == 0)
        store_watch_settle(*ret_watch);
    return r;
}

static int start_watches(struct members *members, char **ret_error)
{
    int r = start_watch(members, KEY_PREFIX_NODES, node_told, &members->watch_nodes);
    if (r == 0)
        r = start_watch(members, KEY_PREFIX_SESSIONS, session_told, &members->watch_sessions);
    if (r == 0)
        r = start_watch(members, KEY_PREFIX_DISKS, members_disk_told, &members->watch_disks);
    if (r == 0)
        disks_all_recorded(members->options.disks);
    if (r < 0)
        *ret_error = mem_printf("the store does not tell who is in the cluster: %s; is it "
                                "reachable from here?",
            store_strerror(r));
    return r;
}

static void spawn(struct members *members, const char *name, fiber_fn *fn)
{
    members->fibers++;
    fiber_spawn(name, fn, members);
}

int members_start(
    const struct members_options *options, struct members **ret_members, char **ret_error)
{
    struct members *members = NEW(struct members);
    members->options = *options;
    if (!members->options.peers_wait_ns)
        members->options.peers_wait_ns = 2 * SECOND_NS;
    list_init(&members->nodes);
    list_init(&members->sessions);
    list_init(&members->remotes);
    list_init(&members->refreshes);
    fiber_queue_init(&members->wake);
    fiber_queue_init(&members->ended);
    int r = members_remove_predecessor(members, ret_error);
    if (r == 0)
        r = members_session_begin(members, ret_error);
    if (r == 0)
        r = start_watches(members, ret_error);
    if (r < 0) {
        members_stop(members);
        return r;
    }
    spawn(members, "session", members_session_run);
    if (options->peers)
        spawn(members, "members refresh", members_refresh_run);
    members->started = true;
    *ret_members = members;
    return 0;
}

void members_stop(struct members *members)
{
    members->stopping = true;
    members->started = false;
    fiber_queue_wake_all(&members->wake);
    while (members->fibers > 0)
        fiber_queue_wait(&members->ended);
    struct store_watch *watches[] = {
        members->watch_nodes, members->watch_sessions, members->watch_disks};
    for (unsigned i = 0; i < ARRAY_SIZE(watches); i++)
        if (watches[i])
            store_watch_stop(watches[i]);
    members_session_end(members);
    members_disks_free(members);
    while (!list_empty(&members->nodes))
        member_free(list_entry(members->nodes.next, struct member, link));
    for (struct list *item; (item = list_pop_front(&members->sessions));)
        mem_free(list_entry(item, struct session_entry, link));
    mem_free(members);
}
