/* SPDX-License-Identifier: Apache-2.0
 *
 * The disks of other nodes in the list that volumes see. What a disk's state is follows from three
 * things: its record, whether its node is connected, and what that says of the disk (B3). Whoever changes one of them has it judged anew.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "blockd/cluster/members_impl.h"
#include "blockd/cluster/remote_disk.h"
#include "blockd/disks.h"
#include "common/check.h"
#include "common/env.h"
#include "common/log.h"
#include "common/mem.h"

#define SECOND_NS 1000000000ull
#define AGAIN_NS (60 * SECOND_NS) /* for nodes to put their records again (B6) */

/* --- Judging ----------------------------------------------------------------------------------- */

static struct peer *peer_of(const struct members *members, const char *node)
{
    return members->options.peers ? peers_find(members->options.peers, node) : NULL;
}

static bool node_up(const struct members *members, const char *node)
{
    const struct member *member = members_find(members, node);
    const struct peer *peer = peer_of(members, node);
    return member && peer && peer_connected(peer) && peer->disk_status_ns;
}

static enum disk_state state_of(const struct members *members, const struct remote_entry *entry)
{
    enum disk_state home = entry->disk->home_state;
    if (entry->removed)
        return DISK_MISSING;
    if (home == DISK_FAILED) /* also while its node is away: it will not get better */
        return DISK_FAILED;
    if (!node_up(members, entry->record.node))
        return DISK_MISSING;
    return home == DISK_IN ? entry->record.state : home;
}

static bool judge(struct members *members, struct remote_entry *entry)
{
    struct disk *disk = entry->disk;
    const struct member *member = members_find(members, entry->record.node);
    enum disk_state was = disk->state;
    if (member)
        strcpy(disk->rack, member->record.rack);
    disk->state = state_of(members, entry);
    if (disk->state != DISK_MISSING)
        disk->missing_since_ns = 0;
    else if (!disk->missing_since_ns)
        disk->missing_since_ns = env_now_ns();
    return disk->state != was;
}

/* The disk object can be made once its node is known. */
static bool make_disk(struct members *members, struct remote_entry *entry)
{
    struct peer *peer = peer_of(members, entry->record.node);
    if (entry->disk || entry->removed || !peer)
        return false;
    struct disk *disk = entry->disk = remote_disk_new(peer, &entry->record, NULL);
    disk->state = DISK_MISSING;
    disk->home_state = DISK_MISSING; /* until its node has said how it is, and how large */
    fiber_queue_wake_all(&members->wake);
    disk_list_add(members_disks(members), disk);
    return true;
}

void members_disks_judge(struct members *members, const char *node)
{
    bool changed = false;
    list_for_each (it, &members->remotes) {
        struct remote_entry *entry = list_entry(it, struct remote_entry, link);
        if (node && strcmp(entry->record.node, node) != 0)
            continue;
        changed |= make_disk(members, entry);
        if (entry->disk)
            changed |= judge(members, entry);
    }
    if (changed)
        members_tell(members);
}

void members_peer_changed(struct members *members, struct peer *peer)
{
    members_disks_judge(members, peer->name);
    fiber_queue_wake_all(&members->wake);
}

/* --- Records ------------------------------------------------------------------------------------- */

static struct remote_entry *entry_find(const struct members *members, uint32_t number)
{
    list_for_each (it, &members->remotes) {
        struct remote_entry *entry = list_entry(it, struct remote_entry, link);
        if (entry->record.number == number && !entry->removed)
            return entry;
    }
    return NULL;
}

static struct remote_entry *entry_new(struct members *members, const struct disk_record *record)
{
    struct remote_entry *entry = NEW(struct remote_entry);
    entry->record = *record;
    struct list *at = &members->remotes;
    list_for_each (it, &members->remotes)
        if (list_entry(it, struct remote_entry, link)->record.number > record->number) {
            at = it;
            break;
        }
    list_insert_before(at, &entry->link);
    return entry;
}

static void entry_remove(struct members *members, struct remote_entry *entry)
{
    entry->removed = true;
    if (!entry->disk)
        return;
    disk_list_set_number(members_disks(members), entry->disk, 0); /* B4 */
    entry->disk->state = DISK_MISSING;
}

static void disk_recorded(struct members *members, const struct disk_record *record)
{
    struct remote_entry *entry = entry_find(members, record->number);
    members->disk_number_max = MAX(members->disk_number_max, record->number);
    if (entry && strcmp(entry->record.node, record->node) != 0) { /* it was carried elsewhere */
        entry_remove(members, entry);
        entry = NULL;
    }
    if (strcmp(record->node, members->options.self.node_name) == 0) {
        disks_recorded(members->options.disks, record->number);
        return; /* disks.h has it */
    }
    disks_forgotten(members->options.disks, record->number); /* if it was ours */
    if (entry)
        entry->record = *record;
    else
        entry = entry_new(members, record);
    entry->histories = store_histories(members->options.store);
    entry->gone_ns = 0;
    members_disks_judge(members, record->node);
}

void members_disk_told(void *ctx, const struct store_value *value)
{
    struct members *members = ctx;
    struct disk_record record;
    CLEANUP_FREE char *error = NULL;
    if (value->data && disk_record_decode(value->data, &record, &error) < 0) {
        log_error_limited("store: %s: %s; the disk is not used", value->key, error);
        return;
    }
    if (value->data) {
        disk_recorded(members, &record);
        return; /* judged, and told if that was news */
    }
    uint32_t number = (uint32_t)strtoul(value->key + strlen(KEY_PREFIX_DISKS), NULL, 10);
    struct remote_entry *entry = entry_find(members, number);
    if (entry && entry->histories != store_histories(members->options.store))
        entry->gone_ns = env_now_ns();
    else if (entry)
        entry_remove(members, entry);
    else
        disks_forgotten(members->options.disks, number);
    members_tell(members);
}

const struct disk_record *members_disk_record(const struct members *members, uint32_t number)
{
    const struct remote_entry *entry = entry_find(members, number);
    return entry ? &entry->record : NULL;
}

bool members_disk_known(const struct members *members, uint32_t number)
{
    return number <= members->disk_number_max;
}

/* --- Status -------------------------------------------------------------------------------------- */

struct refresh {
    struct list link; /* members->refreshes */
    struct members *members;
    struct peer *peer;
};

static void refresh_run(void *arg)
{
    struct refresh *refresh = arg;
    struct members *members = refresh->members;
    (void)remote_disks_refresh(refresh->peer, members_disks(members));
    members_disks_judge(members, refresh->peer->name);
    list_remove(&refresh->link);
    mem_free(refresh);
    fiber_queue_wake_all(&members->ended);
}

static bool refreshing(const struct members *members, const struct peer *peer)
{
    list_for_each (it, &members->refreshes)
        if (list_entry(it, struct refresh, link)->peer == peer)
            return true;
    return false;
}

/* A slow peer holds up nobody but itself. */
static void refresh_start(struct members *members, struct peer *peer)
{
    if (!peer_connected(peer) || refreshing(members, peer))
        return;
    struct refresh *refresh = NEW(struct refresh);
    refresh->members = members;
    refresh->peer = peer;
    list_push_back(&members->refreshes, &refresh->link);
    fiber_spawn("disks refresh", refresh_run, refresh);
}

/* The peer of a node that was removed, unless disks of it are still in the list (B4). */
static struct peer *unneeded_peer(struct members *members)
{
    list_for_each (it, peers_all(members->options.peers)) {
        struct peer *peer = list_entry(it, struct peer, link);
        bool needed = members_find(members, peer->name) || refreshing(members, peer);
        list_for_each (entry, &members->remotes)
            needed = needed || strcmp(list_entry(entry, struct remote_entry, link)->record.node,
                                   peer->name) == 0;
        if (!needed)
            return peer;
    }
    return NULL;
}

/* B6: nobody has put its record again. */
static void remove_gone(struct members *members)
{
    bool removed = false;
    list_for_each (it, &members->remotes) {
        struct remote_entry *entry = list_entry(it, struct remote_entry, link);
        if (entry->removed || !entry->gone_ns || env_now_ns() < entry->gone_ns + AGAIN_NS)
            continue;
        entry_remove(members, entry);
        removed = true;
    }
    if (removed)
        members_tell(members);
}

void members_refresh_run(void *arg)
{
    struct members *members = arg;
    while (!members->stopping) {
        struct peer *peer;
        while ((peer = unneeded_peer(members)))
            peers_remove(members->options.peers, peer->name);
        list_for_each (it, peers_all(members->options.peers))
            refresh_start(members, list_entry(it, struct peer, link));
        remove_gone(members);
        (void)fiber_queue_wait_until(&members->wake, env_now_ns() + SECOND_NS);
    }
    while (!list_empty(&members->refreshes))
        fiber_queue_wait(&members->ended);
    members->fibers--;
    fiber_queue_wake_all(&members->ended);
}

/* --- Start and stop ------------------------------------------------------------------------------ */

static bool all_there(const struct members *members)
{
    list_for_each (it, &members->nodes) {
        const struct member *member = list_entry(it, struct member, link);
        if (member->session && strcmp(member->record.name, members->options.self.node_name) != 0 &&
            !node_up(members, member->record.name))
            return false;
    }
    return true;
}

void members_wait(struct members *members)
{
    uint64_t deadline_ns = env_now_ns() + members->options.peers_wait_ns;
    while (!all_there(members) && env_now_ns() < deadline_ns)
        env_sleep_ns(SECOND_NS / 50);
}

void members_disks_free(struct members *members)
{
    for (struct list *item; (item = list_pop_front(&members->remotes));) {
        struct remote_entry *entry = list_entry(item, struct remote_entry, link);
        if (entry->disk) {
            disk_list_remove(members_disks(members), entry->disk);
            remote_disk_free(entry->disk);
        }
        mem_free(entry);
    }
}
