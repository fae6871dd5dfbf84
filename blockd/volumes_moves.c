/* SPDX-License-Identifier: Apache-2.0
 *
 * Open volumes go to other nodes; their leases go on under a new session.
 */
#include "blockd/volumes_impl.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "blockd/volumes_purge.h"
#include "common/log.h"
#include "common/mem.h"

int volumes_handoff(struct volumes *volumes, uint64_t id, uint32_t epoch, const char *successor,
    uint64_t *ret_pause_ns, char **ret_error)
{
    struct volumes_entry *entry = volumes_entry_by_id(volumes, id);
    if (!entry || entry->busy || volume_halted(entry->volume) ||
        (epoch && volume_epoch(entry->volume) != epoch)) {
        *ret_error = mem_printf("volume %016" PRIx64 " is not served here", id);
        return -ENOENT;
    }
    if (entry->handing_over) {
        *ret_error = mem_printf("volume '%s' is being handed over already", entry->name);
        return -EBUSY;
    }
    entry->users++; /* so that it is not closed meanwhile */
    env_timer_cancel(&entry->idle);
    entry->handing_over = true;
    int r = volume_hand_over(entry->volume, successor, ret_pause_ns);
    entry->handing_over = false;
    if (r < 0)
        *ret_error =
            mem_printf("volume '%s' was not handed over to node '%s': %s", entry->name, successor,
                r == -EHOSTUNREACH
                    ? "the store does not answer, or too few of its disks are there just "
                      "now; it stays where it is"
                    : strerror(-r));
    else
        log_info("volume %s: handed over to node '%s'", entry->name, successor);
    if (r == 0)
        volumes_note_owner(entry, VOLUME_OWNED, successor);
    if (volume_halted(entry->volume))
        volumes_tell_halted(entry);
    volumes_put(volumes, entry->volume);
    return r;
}

struct renewal {
    struct volumes_entry *entry;
    struct fiber_group *group;
};

static void renew(void *arg)
{
    struct renewal renewal = *(struct renewal *)arg;
    struct volumes *volumes = renewal.entry->volumes;
    struct volume *volume = renewal.entry->volume;
    mem_free(arg);
    while (!volumes->closing && volume_session_renewed(volume) == -EAGAIN)
        log_warn_limited("volume %s: reads do not use the new session yet", volume_name(volume));
    if (volume_halted(volume))
        volumes_tell_halted(renewal.entry);
    volumes_put(volumes, volume);
    fiber_group_done(renewal.group, 0);
}

void volumes_session_renewed(struct volumes *volumes)
{
    struct fiber_group group;
    fiber_group_init(&group);
    volumes->renewals++;
    list_for_each (it, &volumes->entries) {
        struct volumes_entry *entry = list_entry(it, struct volumes_entry, link);
        if (entry->busy || volume_halted(entry->volume))
            continue; /* opening: it looks at the session when it is done */
        struct renewal *renewal = NEW(struct renewal);
        *renewal = (struct renewal){.entry = entry, .group = &group};
        entry->users++;
        env_timer_cancel(&entry->idle);
        fiber_group_add(&group, 1);
        fiber_spawn("renew session", renew, renewal);
    }
    fiber_group_wait(&group);
    volumes->renewals--;
    fiber_queue_wake_all(&volumes->changed);
}

void volumes_cluster_changed(struct volumes *volumes)
{
    volumes_purge_look(volumes->purge);
}
