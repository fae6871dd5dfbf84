/* SPDX-License-Identifier: Apache-2.0 */
#include "blockd/cluster/remote_disk.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "blockd/cluster/remote_disk_impl.h"
#include "common/check.h"
#include "common/env.h"
#include "common/log.h"
#include "common/mem.h"

#define TIMEOUT_NS_DEFAULT (10ull * 1000000000)
#define LIST_SHARDS_MAX (16u << 20) /* more than any disk's table holds */

static const struct disk_ops remote_ops;

static const char *peer_name(const struct remote_disk *remote)
{
    return remote->base.node;
}

int remote_answer(const struct remote_disk *remote, uint16_t method, int result)
{
    switch (result) {
    case -ETIMEDOUT:
    case -ECANCELED:
        return -EHOSTUNREACH;
    case -ENOSYS:
        log_error_limited("node '%s' does not know method %u: it runs another version",
            peer_name(remote), method);
        return -EHOSTUNREACH;
    case -EMSGSIZE:
        return remote_nonsense(remote, method);
    default:
        return result;
    }
}

int remote_nonsense(const struct remote_disk *remote, uint16_t method)
{
    log_error_limited("node '%s', disk %" PRIu32 ": the answer to method %u makes no sense",
        peer_name(remote), remote->base.number, method);
    return -EIO;
}

/* --- Operations on fibers ---------------------------------------------------------------------- */

/* One call; *ret_len is the length of a successful reply's body. */
MAY_SUSPEND static int call(struct remote_disk *remote, uint16_t method, const uint8_t *body,
    unsigned body_len, uint8_t *reply, unsigned reply_max, unsigned *ret_len)
{
    struct rpc_call rpc = {
        .method = method,
        .body = body,
        .body_len_bytes = body_len,
        .reply_body = reply,
        .reply_body_max = reply_max,
        .deadline_ns = env_now_ns() + remote->timeout_ns,
    };
    remote->in_flight++;
    int r = remote_answer(remote, method, peer_call(remote->peer, &rpc));
    remote->in_flight--;
    if (r == 0)
        *ret_len = rpc.ret_body_len_bytes;
    return r;
}

MAY_SUSPEND static int call_for_info(struct remote_disk *remote, uint16_t method,
    const uint8_t *body, unsigned body_len, struct shard_key key, struct shard_info *ret_info)
{
    uint8_t reply[WIRE_INFO_BYTES];
    unsigned len;
    struct shard_info info;
    int r = call(remote, method, body, body_len, reply, sizeof(reply), &len);
    if (r < 0)
        return r;
    if (wire_info_decode(reply, len, &info) < 0 || info.key.volume != key.volume ||
        info.key.chunk != key.chunk || info.key.index != key.index)
        return remote_nonsense(remote, method);
    if (ret_info != NULL)
        *ret_info = info;
    return 0;
}

MAY_SUSPEND static int call_for_status(
    struct remote_disk *remote, uint16_t method, const uint8_t *body, unsigned body_len)
{
    unsigned len;
    int r = call(remote, method, body, body_len, NULL, 0, &len);
    return r == 0 && len != 0 ? remote_nonsense(remote, method) : r;
}

MAY_SUSPEND static int remote_create(
    struct disk *disk, const struct shard_create *create, struct shard_info *ret_info)
{
    uint8_t body[WIRE_CREATE_BYTES];
    struct wire_create request = {.disk = disk->number, .create = *create};
    unsigned len = wire_create_encode(&request, body);
    return call_for_info(
        remote_disk_of(disk), METHOD_SHARD_CREATE, body, len, create->key, ret_info);
}

MAY_SUSPEND static int remote_seal(
    struct disk *disk, struct shard_key key, uint32_t epoch, uint32_t length_blocks)
{
    uint8_t body[WIRE_LENGTH_BYTES];
    struct wire_length request = {
        .disk = disk->number, .key = key, .epoch = epoch, .length_blocks = length_blocks};
    unsigned len = wire_length_encode(&request, body);
    return call_for_status(remote_disk_of(disk), METHOD_SHARD_SEAL, body, len);
}

MAY_SUSPEND static int remote_remove(
    struct disk *disk, struct shard_key key, uint64_t instance, uint32_t epoch)
{
    uint8_t body[WIRE_REMOVE_BYTES];
    struct wire_remove request = {
        .disk = disk->number, .key = key, .instance = instance, .epoch = epoch};
    unsigned len = wire_remove_encode(&request, body);
    return call_for_status(remote_disk_of(disk), METHOD_SHARD_REMOVE, body, len);
}

MAY_SUSPEND static int remote_fence(
    struct disk *disk, struct shard_key key, uint32_t epoch, struct shard_info *ret_info)
{
    uint8_t body[WIRE_FENCE_BYTES];
    struct wire_fence request = {.disk = disk->number, .key = key, .epoch = epoch};
    unsigned len = wire_fence_encode(&request, body);
    return call_for_info(remote_disk_of(disk), METHOD_SHARD_FENCE, body, len, key, ret_info);
}

MAY_SUSPEND static int remote_stat(
    struct disk *disk, struct shard_key key, struct shard_info *ret_info)
{
    uint8_t body[WIRE_STAT_BYTES];
    struct wire_stat request = {.disk = disk->number, .key = key};
    unsigned len = wire_stat_encode(&request, body);
    return call_for_info(remote_disk_of(disk), METHOD_SHARD_STAT, body, len, key, ret_info);
}

/* The next page behind *cursor, at the end of the list. */
MAY_SUSPEND static int list_page(struct remote_disk *remote, uint64_t volume, uint32_t *cursor,
    uint8_t *reply, struct shard_info **list, unsigned *count)
{
    uint8_t body[WIRE_LIST_BYTES];
    struct wire_list request = {.disk = remote->base.number, .volume = volume, .cursor = *cursor};
    unsigned body_len = wire_list_encode(&request, body), len, page_count;
    int r = call(remote, METHOD_SHARD_LIST, body, body_len, reply, WIRE_LIST_REPLY_BYTES_MAX, &len);
    if (r < 0)
        return r;
    *list = mem_realloc(*list, (*count + WIRE_LIST_SHARDS_MAX) * sizeof(**list));
    r = wire_list_reply_decode(reply, len, *cursor, cursor, *list + *count, &page_count);
    if (r < 0 || page_count > LIST_SHARDS_MAX - *count)
        return remote_nonsense(remote, METHOD_SHARD_LIST);
    *count += page_count;
    return 0;
}

MAY_SUSPEND static int remote_list(
    struct disk *disk, uint64_t volume, struct shard_info **ret_list, unsigned *ret_count)
{
    CLEANUP_FREE uint8_t *reply = mem_alloc(WIRE_LIST_REPLY_BYTES_MAX);
    struct shard_info *list = NULL;
    unsigned count = 0;
    uint32_t cursor = 0;
    int r = 0;
    while (r == 0 && cursor != WIRE_LIST_END)
        r = list_page(remote_disk_of(disk), volume, &cursor, reply, &list, &count);
    if (r < 0) {
        mem_free(list);
        return r;
    }
    *ret_list = list;
    *ret_count = count;
    return 0;
}

/* --- Life -------------------------------------------------------------------------------------- */

static const struct disk_ops remote_ops = {
    .create = remote_create,
    .append = remote_append,
    .read = remote_read,
    .sync = remote_sync,
    .seal = remote_seal,
    .remove = remote_remove,
    .fence = remote_fence,
    .stat = remote_stat,
    .list = remote_list,
};

struct disk *remote_disk_new(
    struct peer *peer, const struct disk_record *record, const struct remote_disk_options *options)
{
    struct remote_disk *remote = NEW(struct remote_disk);
    remote->base.ops = &remote_ops;
    remote->base.uuid = record->uuid;
    remote->base.number = record->number;
    remote->base.state = DISK_MISSING;
    strcpy(remote->base.class_name, record->class_name);
    strcpy(remote->base.node, record->node);
    list_init(&remote->base.link);
    remote->peer = peer;
    remote->timeout_ns = options && options->timeout_ns ? options->timeout_ns : TIMEOUT_NS_DEFAULT;
    remote->base.home_state = DISK_IN;
    list_init(&remote->free_appends);
    list_init(&remote->free_reads);
    list_init(&remote->free_syncs);
    return &remote->base;
}

void remote_disk_free(struct disk *disk)
{
    struct remote_disk *remote = remote_disk_of(disk);
    CHECK(remote->in_flight == 0);
    remote_io_pools_free(remote);
    mem_free(remote);
}

/* --- Status ------------------------------------------------------------------------------------ */

static void take_over(struct remote_disk *remote, const struct wire_disk *status)
{
    struct disk *disk = &remote->base;
    if (!uuid_equal(&disk->uuid, &status->uuid)) {
        log_error_limited("node '%s': disk %" PRIu32 " is not the one on record there",
            peer_name(remote), disk->number);
        return;
    }
    remote->told_ns = env_now_ns();
    disk->home_state = status->state;
    disk->size_bytes = status->size_bytes;
    disk->free_bytes = status->free_bytes;
    disk->error_count = status->error_count;
    disk->damage_count = status->damage_count;
    /* Ours has the network in it, too; without appends of ours it would stay what it was for ever. */
    if (!remote->measured && remote->told_latency_ns != status->latency_ewma_ns) {
        disk->latency_ewma_ns = status->latency_ewma_ns;
        disk->latency_at_ns = env_now_ns();
    }
    remote->told_latency_ns = status->latency_ewma_ns;
    remote->measured = false;
}

static void take_over_page(
    struct peer *peer, struct disk_list *disks, const struct wire_disk *page, unsigned count)
{
    list_for_each (it, &disks->all) {
        struct disk *disk = list_entry(it, struct disk, link);
        if (disk->ops != &remote_ops || remote_disk_of(disk)->peer != peer)
            continue;
        for (unsigned i = 0; i < count; i++)
            if (page[i].number == disk->number)
                take_over(remote_disk_of(disk), &page[i]);
    }
}

/* What the node did not name it does not have open any more. */
static void finish_refresh(struct peer *peer, struct disk_list *disks, uint64_t begun_ns)
{
    list_for_each (it, &disks->all) {
        struct disk *disk = list_entry(it, struct disk, link);
        if (disk->ops != &remote_ops || remote_disk_of(disk)->peer != peer)
            continue;
        if (remote_disk_of(disk)->told_ns < begun_ns)
            disk->home_state = DISK_MISSING;
    }
}

MAY_SUSPEND static int status_page(
    struct peer *peer, uint32_t after, bool *ret_more, struct wire_disk *page, unsigned *ret_count)
{
    CLEANUP_FREE uint8_t *reply = mem_alloc(WIRE_STATUS_REPLY_BYTES_MAX);
    uint8_t body[WIRE_STATUS_BYTES];
    struct rpc_call rpc = {
        .method = METHOD_DISK_STATUS,
        .body = body,
        .body_len_bytes = wire_status_encode(after, body),
        .reply_body = reply,
        .reply_body_max = WIRE_STATUS_REPLY_BYTES_MAX,
        .deadline_ns = env_now_ns() + TIMEOUT_NS_DEFAULT,
    };
    int r = peer_call(peer, &rpc);
    if (r < 0)
        return r;
    r = wire_status_reply_decode(reply, rpc.ret_body_len_bytes, after, ret_more, page, ret_count);
    if (r < 0)
        log_error_limited("node '%s': the status of its disks makes no sense", peer->name);
    return r;
}

MAY_SUSPEND int remote_disks_refresh(struct peer *peer, struct disk_list *disks)
{
    uint64_t begun_ns = env_now_ns();
    CLEANUP_FREE struct wire_disk *page = mem_alloc(WIRE_STATUS_DISKS_MAX * sizeof(*page));
    bool more = true;
    for (uint32_t after = 0; more;) {
        unsigned count;
        int r = status_page(peer, after, &more, page, &count);
        if (r < 0)
            return r;
        take_over_page(peer, disks, page, count);
        after = count > 0 ? page[count - 1].number : after;
    }
    finish_refresh(peer, disks, begun_ns);
    peer->disk_status_ns = env_now_ns();
    return 0;
}
