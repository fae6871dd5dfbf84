/* SPDX-License-Identifier: Apache-2.0
 *
 * Attachments: whose the volume is, and the calls: one branch, then the volume's own, or the one that
 * forwards.
 */
#include <errno.h>
#include <string.h>

#include "blockd/attach_impl.h"
#include "blockd/cluster/peers.h"
#include "blockd/cluster/protocol.h"
#include "common/bufpool.h"
#include "common/check.h"
#include "common/env.h"
#include "common/mem.h"

#define SECOND_NS 1000000000ull
#define EXECUTING_MAX 4096u

/* --- The node's ------------------------------------------------------------------------------ */

struct attach *attach_new(const struct attach_options *options)
{
    struct attach *attach = NEW(struct attach);
    attach->options = *options;
    attach->options.handoff_after_ns = options->handoff_after_ns ?: SECOND_NS;
    attach->options.handoff_again_ns = options->handoff_again_ns ?: 10 * SECOND_NS;
    attach->options.forward_timeout_ns = options->forward_timeout_ns ?: 30 * SECOND_NS;
    attach->options.executing_max = options->executing_max ?: EXECUTING_MAX;
    list_init(&attach->attachments);
    list_init(&attach->waiters);
    list_init(&attach->remotes);
    list_init(&attach->sessions);
    list_init(&attach->waiting);
    list_init(&attach->recent);
    fiber_queue_init(&attach->gone);
    fiber_queue_init(&attach->buffers_put);
    return attach;
}

void attach_free(struct attach *attach)
{
    CHECK(list_empty(&attach->attachments) && list_empty(&attach->waiters));
    CHECK(list_empty(&attach->sessions) && attach->stats.attaching == 0);
    CHECK(attach->executing == 0);
    while (!list_empty(&attach->remotes))
        fiber_queue_wait(&attach->gone);
    struct list *link;
    while ((link = list_pop_front(&attach->recent)))
        mem_free(list_entry(link, struct handed, link));
    if (attach->buffers)
        bufpool_free(attach->buffers);
    mem_free(attach);
}

struct volumes *attach_volumes(const struct attach *attach)
{
    return attach->options.volumes;
}

void attach_changed(struct attach *attach)
{
    list_for_each_safe (it, &attach->waiters) {
        struct attach_waiter *waiter = list_entry(it, struct attach_waiter, link);
        waiter->woken(waiter);
    }
}

void attach_wait_begin(struct attach *attach, struct attach_waiter *waiter)
{
    list_push_back(&attach->waiters, &waiter->link);
}

void attach_wait_end(struct attach_waiter *waiter)
{
    list_remove(&waiter->link);
}

void attach_get_stats(const struct attach *attach, struct attach_stats *ret_stats)
{
    *ret_stats = attach->stats;
    ret_stats->attachments = ret_stats->remote_attachments = 0;
    list_for_each (it, &attach->attachments) {
        ret_stats->attachments++;
        ret_stats->remote_attachments += list_entry(it, struct attachment, link)->remote != NULL;
    }
}

void handed_note(struct attach *attach, uint64_t volume_id)
{
    struct handed *handed = NEW(struct handed);
    handed->volume_id = volume_id;
    handed->until_ns = env_now_ns() + attach->options.handoff_again_ns;
    list_push_back(&attach->recent, &handed->link);
}

bool handed_lately(struct attach *attach, uint64_t volume_id)
{
    uint64_t now_ns = env_now_ns();
    bool lately = false;
    list_for_each_safe (it, &attach->recent) {
        struct handed *handed = list_entry(it, struct handed, link);
        lately |= handed->until_ns > now_ns && handed->volume_id == volume_id;
        if (handed->until_ns > now_ns)
            continue;
        list_remove(it);
        mem_free(handed);
    }
    return lately;
}

/* --- What the registry tells ----------------------------------------------------------------- */

static struct attachment *listening(struct volumes_listener *listener)
{
    return container_of(listener, struct attachment, listener);
}

static void volume_resized(struct volumes_listener *listener)
{
    struct attachment *attachment = listening(listener);
    attachment->events->resized(attachment, attachment->ctx);
}

static void volume_removed(struct volumes_listener *listener)
{
    struct attachment *attachment = listening(listener);
    attachment->events->removed(attachment, attachment->ctx);
}

static void volume_has_halted(struct volumes_listener *listener)
{
    struct attachment *attachment = listening(listener);
    attachment->events->halted(attachment, attachment->ctx);
}

/* --- Get, put -------------------------------------------------------------------------------- */

static struct attachment *attachment_new(
    struct attach *attach, const struct attachment_events *events, void *ctx)
{
    struct attachment *attachment = NEW(struct attachment);
    attachment->attach = attach;
    attachment->events = events;
    attachment->ctx = ctx;
    list_init(&attachment->remote_link);
    list_push_back(&attach->attachments, &attachment->link);
    return attachment;
}

static void use_local(struct attachment *attachment, struct volume *volume)
{
    attachment->volume = volume;
    attachment->id = volume_id(volume);
    strcpy(attachment->name, volume_name(volume));
    attachment->listener = (struct volumes_listener){.volume = volume,
        .resized = volume_resized,
        .removed = volume_removed,
        .halted = volume_has_halted};
    if (attachment->events)
        volumes_listen(attachment->attach->options.volumes, &attachment->listener);
}

static void use_remote(struct attachment *attachment, struct remote *remote)
{
    attachment->remote = remote;
    attachment->id = remote->volume_id;
    strcpy(attachment->name, remote->name);
    list_push_back(&remote->attachments, &attachment->remote_link);
    struct volumes_name seen = {.pool = ""};
    volumes_recall(attachment->attach->options.volumes, remote->name, &seen);
    if (seen.id != remote->volume_id)
        seen.pool[0] = 0;
    seen.id = remote->volume_id;
    seen.size_bytes = remote->size_bytes;
    seen.state = VOLUME_OWNED;
    seen.epoch = remote->epoch;
    strcpy(seen.name, remote->name);
    strcpy(seen.owner, remote->node);
    volumes_remember(attachment->attach->options.volumes, &seen);
}

MAY_SUSPEND static bool get_from_last_owner(
    struct attach *attach, const struct volumes_name *seen, struct remote **ret_remote)
{
    struct volume_owner owner = {.session = seen->owner_session, .epoch = seen->epoch};
    CLEANUP_FREE char *error = NULL;
    strcpy(owner.node, seen->owner);
    return forwarded_get(attach, seen->name, &owner, ret_remote, &error) == 0;
}

/* S18: the store is away. Whoever was last seen to serve it is asked for it, and refuses if he does not have it;
 * then all that can be reached are asked what they serve. `ours_too`: it is not here, whatever was last
 * seen. True with *ret_remote counted. */
MAY_SUSPEND static bool get_without_store(
    struct attach *attach, const char *name, bool ours_too, struct remote **ret_remote)
{
    struct volumes_name seen;
    for (unsigned round = 0; round < 2; round++) {
        if (round == 1 && !attach->options.ask_others)
            return false;
        if (round == 1)
            attach->options.ask_others(attach->options.ctx);
        if (!volumes_recall(attach->options.volumes, name, &seen) || seen.state != VOLUME_OWNED)
            continue;
        bool ours = !peers_find(attach->options.peers, seen.owner);
        if (ours && !ours_too)
            return false;
        if (!ours && get_from_last_owner(attach, &seen, ret_remote))
            return true;
    }
    return false;
}

/* The volume, counted, where it is ours, else the remote, counted. */
MAY_SUSPEND static int find_by_store(struct attach *attach, const char *name,
    struct volume **ret_volume, struct remote **ret_remote, char **ret_error)
{
    struct volume_owner owner = {.node = ""};
    if (forwarded_handing_over(attach, name)) {
        *ret_error = mem_printf("volume '%s' is just being handed over to this node", name);
        return -EAGAIN;
    }
    int r = volumes_acquire(attach->options.volumes, name, 0, ret_volume, &owner, ret_error);
    if (r == -EBUSY && owner.node[0] && !attach->options.peers)
        return -EAGAIN; /* our own dead predecessor: until its session has run out */
    if (r == -EBUSY && owner.node[0]) {
        mem_free(*ret_error);
        *ret_error = NULL;
        r = forwarded_get(attach, name, &owner, ret_remote, ret_error);
    }
    return r;
}

MAY_SUSPEND static int find_owner(struct attach *attach, const char *name,
    struct volume **ret_volume, struct remote **ret_remote, char **ret_error)
{
    if (!attach->options.peers)
        return find_by_store(attach, name, ret_volume, ret_remote, ret_error);
    if (volumes_store_away(attach->options.volumes) &&
        get_without_store(attach, name, false, ret_remote))
        return 0;
    int r = find_by_store(attach, name, ret_volume, ret_remote, ret_error);
    if (!volumes_not_answered(r))
        return r;
    bool away = volumes_store_away(attach->options.volumes);
    if (!get_without_store(attach, name, true, ret_remote))
        return away ? -EAGAIN : r;
    mem_free(*ret_error);
    *ret_error = NULL;
    return 0;
}

int attach_get(struct attach *attach, const char *name, const struct attachment_events *events,
    void *ctx, struct attachment **ret_attachment, char **ret_error)
{
    struct volume *volume;
    struct remote *remote = NULL;
    attach->stats.attaching++;
    int r = find_owner(attach, name, &volume, &remote, ret_error);
    attach->stats.attaching--;
    if (r < 0)
        return r;
    struct attachment *attachment = attachment_new(attach, events, ctx);
    if (remote)
        use_remote(attachment, remote);
    else
        use_local(attachment, volume);
    *ret_attachment = attachment;
    return 0;
}

void attach_put(struct attachment *attachment)
{
    if (attachment->remote) {
        list_remove(&attachment->remote_link);
        forwarded_put(attachment->remote);
    } else {
        if (attachment->events)
            volumes_unlisten(&attachment->listener);
        volumes_put(attachment->attach->options.volumes, attachment->volume);
    }
    list_remove(&attachment->link);
    mem_free(attachment);
}

/* --- Calls ----------------------------------------------------------------------------------- */

int attach_read(struct attachment *attachment, uint64_t off_bytes, uint64_t len_bytes, void *buf)
{
    return attach_read_leaving(attachment, off_bytes, len_bytes, buf, false);
}

int attach_read_leaving(
    struct attachment *attachment, uint64_t off_bytes, uint64_t len_bytes, void *buf, bool leave)
{
    if (!attachment->volume)
        return forwarded_read(attachment->remote, off_bytes, len_bytes, buf);
    return volume_read_leaving(attachment->volume, off_bytes, len_bytes, buf, leave);
}

int attach_write(struct attachment *attachment, uint64_t off_bytes, uint64_t len_bytes,
    const void *buf, unsigned flags, struct request_id id)
{
    if (!attachment->volume)
        return forwarded_write(attachment->remote, off_bytes, len_bytes, buf, flags, id);
    return volume_write(attachment->volume, off_bytes, len_bytes, buf, flags, id);
}

int attach_trim(struct attachment *attachment, uint64_t off_bytes, uint64_t len_bytes,
    unsigned flags, struct request_id id)
{
    if (!attachment->volume)
        return forwarded_mark(
            attachment->remote, METHOD_VOLUME_TRIM, off_bytes, len_bytes, flags, id);
    return volume_trim(attachment->volume, off_bytes, len_bytes, flags, id);
}

int attach_write_zeroes(struct attachment *attachment, uint64_t off_bytes, uint64_t len_bytes,
    unsigned flags, struct request_id id)
{
    if (!attachment->volume)
        return forwarded_mark(
            attachment->remote, METHOD_VOLUME_WRITE_ZEROES, off_bytes, len_bytes, flags, id);
    return volume_write_zeroes(attachment->volume, off_bytes, len_bytes, flags, id);
}

int attach_flush(struct attachment *attachment)
{
    if (!attachment->volume)
        return forwarded_mark(
            attachment->remote, METHOD_VOLUME_FLUSH, 0, 0, 0, (struct request_id){0});
    return volume_flush(attachment->volume);
}

int attach_block_status(struct attachment *attachment, uint64_t off_bytes, uint64_t len_bytes,
    struct volume_extent *ret_extents, unsigned max, unsigned *ret_count)
{
    if (!attachment->volume)
        return forwarded_block_status(
            attachment->remote, off_bytes, len_bytes, ret_extents, max, ret_count);
    return volume_block_status(
        attachment->volume, off_bytes, len_bytes, ret_extents, max, ret_count);
}

/* --- Questions ------------------------------------------------------------------------------- */

uint64_t attach_volume_id(const struct attachment *attachment)
{
    return attachment->id;
}

const char *attach_volume_name(const struct attachment *attachment)
{
    return attachment->name;
}

uint64_t attach_size_bytes(const struct attachment *attachment)
{
    return attachment->volume ? volume_size_bytes(attachment->volume)
                              : attachment->remote->size_bytes;
}

const char *attach_owner(const struct attachment *attachment)
{
    return attachment->remote ? attachment->remote->node : "";
}
