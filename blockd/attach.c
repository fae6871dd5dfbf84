/* SPDX-License-Identifier: Apache-2.0
 *
 * Attachments to volumes that this node owns: one branch, then the volume's call.
 */
#include <errno.h>
#include <string.h>

#include "blockd/attach_impl.h"
#include "common/check.h"
#include "common/mem.h"

#define SECOND_NS 1000000000ull

/* --- The node's ------------------------------------------------------------------------------ */

struct attach *attach_new(const struct attach_options *options)
{
    struct attach *attach = NEW(struct attach);
    attach->options = *options;
    attach->options.handoff_after_ns = options->handoff_after_ns ?: SECOND_NS;
    attach->options.handoff_again_ns = options->handoff_again_ns ?: 10 * SECOND_NS;
    attach->options.forward_timeout_ns = options->forward_timeout_ns ?: 30 * SECOND_NS;
    list_init(&attach->attachments);
    list_init(&attach->waiters);
    return attach;
}

void attach_free(struct attach *attach)
{
    CHECK(list_empty(&attach->attachments) && list_empty(&attach->waiters));
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

int attach_get(struct attach *attach, const char *name, const struct attachment_events *events,
    void *ctx, struct attachment **ret_attachment, char **ret_error)
{
    struct volume *volume;
    int r = volumes_get(attach->options.volumes, name, &volume, ret_error);
    if (r < 0)
        return r;
    struct attachment *attachment = attachment_new(attach, events, ctx);
    use_local(attachment, volume);
    *ret_attachment = attachment;
    return 0;
}

void attach_put(struct attachment *attachment)
{
    if (attachment->events)
        volumes_unlisten(&attachment->listener);
    volumes_put(attachment->attach->options.volumes, attachment->volume);
    list_remove(&attachment->link);
    mem_free(attachment);
}

/* --- Calls ----------------------------------------------------------------------------------- */

int attach_read(struct attachment *attachment, uint64_t off_bytes, uint64_t len_bytes, void *buf)
{
    return volume_read(attachment->volume, off_bytes, len_bytes, buf);
}

int attach_write(struct attachment *attachment, uint64_t off_bytes, uint64_t len_bytes,
    const void *buf, unsigned flags, struct request_id id)
{
    return volume_write(attachment->volume, off_bytes, len_bytes, buf, flags, id);
}

int attach_trim(struct attachment *attachment, uint64_t off_bytes, uint64_t len_bytes,
    unsigned flags, struct request_id id)
{
    return volume_trim(attachment->volume, off_bytes, len_bytes, flags, id);
}

int attach_write_zeroes(struct attachment *attachment, uint64_t off_bytes, uint64_t len_bytes,
    unsigned flags, struct request_id id)
{
    return volume_write_zeroes(attachment->volume, off_bytes, len_bytes, flags, id);
}

int attach_flush(struct attachment *attachment)
{
    return volume_flush(attachment->volume);
}

int attach_block_status(struct attachment *attachment, uint64_t off_bytes, uint64_t len_bytes,
    struct volume_extent *ret_extents, unsigned max, unsigned *ret_count)
{
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
    return volume_size_bytes(attachment->volume);
}

const char *attach_owner(const struct attachment *attachment)
{
    return "";
}
