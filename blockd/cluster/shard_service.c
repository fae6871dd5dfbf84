/* SPDX-License-Identifier: Apache-2.0 */
#include "blockd/cluster/shard_service.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "blockd/cluster/protocol.h"
#include "blockd/cluster/shard_service_impl.h"
#include "common/check.h"
#include "common/log.h"
#include "common/mem.h"

void shard_refuse(struct rpc_request *request, const char *what)
{
    log_warn_limited("node '%s': %s with fields that make no sense: refused",
        rpc_session_peer(request->session)->node_name, what);
    rpc_reply(request, -EINVAL, NULL, 0, NULL, 0, NULL, NULL);
}

struct disks_entry *shard_disk_of(
    struct shard_service *service, struct rpc_request *request, uint32_t number)
{
    struct disks_entry *entry = disks_hold_open(service->disks, number);
    if (entry == NULL) {
        log_warn_limited("node '%s' asks for disk %" PRIu32 ", which is not open here",
            rpc_session_peer(request->session)->node_name, number);
        rpc_reply(request, -EHOSTUNREACH, NULL, 0, NULL, 0, NULL, NULL);
    }
    return entry;
}

/* --- Operations on fibers ---------------------------------------------------------------------- */

struct control_op {
    struct shard_service *service;
    struct rpc_request *request;
    struct disks_entry *entry;
    MAY_SUSPEND int (*run)(struct control_op *op, struct shard_info *ret_info);
    bool has_info; /* a reply of success has it */
    union {
        struct wire_create create;
        struct wire_length length;
        struct wire_remove remove;
        struct wire_fence fence;
        struct wire_stat stat;
    };
};

static void control_main(void *arg)
{
    struct control_op *op = arg;
    struct shard_info info;
    uint8_t body[WIRE_INFO_BYTES];
    int r = op->run(op, &info);
    unsigned len = r == 0 && op->has_info ? wire_info_encode(&info, body) : 0;
    rpc_reply(op->request, r, body, len, NULL, 0, NULL, NULL);
    disks_release(op->entry);
    op->service->in_flight--;
    mem_free(op);
}

/* `op` is copied. */
static void control_start(
    void *ctx, struct rpc_request *request, uint32_t disk, const struct control_op *op)
{
    struct shard_service *service = shard_service_of(ctx);
    struct disks_entry *entry = shard_disk_of(service, request, disk);
    if (entry == NULL)
        return;
    struct control_op *copy = NEW(struct control_op);
    *copy = *op;
    copy->service = service;
    copy->request = request;
    copy->entry = entry;
    service->in_flight++;
    request->may_be_left = true; /* shards keep the order of what is done to them, whoever asks */
    fiber_spawn("shard-service", control_main, copy);
}

MAY_SUSPEND static int run_create(struct control_op *op, struct shard_info *ret_info)
{
    return shard_create(op->entry->disk, &op->create.create, ret_info);
}

static void handle_create(void *ctx, struct rpc_request *request)
{
    struct control_op op = {.run = run_create, .has_info = true};
    if (wire_create_decode(request->body, request->body_len_bytes, &op.create) < 0)
        shard_refuse(request, "shard create");
    else
        control_start(ctx, request, op.create.disk, &op);
}

MAY_SUSPEND static int run_seal(struct control_op *op, struct shard_info *ret_info)
{
    return shard_seal(op->entry->disk, op->length.key, op->length.epoch, op->length.length_blocks);
}

static void handle_seal(void *ctx, struct rpc_request *request)
{
    struct control_op op = {.run = run_seal};
    if (wire_length_decode(request->body, request->body_len_bytes, &op.length) < 0)
        shard_refuse(request, "shard seal");
    else
        control_start(ctx, request, op.length.disk, &op);
}

MAY_SUSPEND static int run_remove(struct control_op *op, struct shard_info *ret_info)
{
    return shard_remove(op->entry->disk, op->remove.key, op->remove.instance, op->remove.epoch);
}

static void handle_remove(void *ctx, struct rpc_request *request)
{
    struct control_op op = {.run = run_remove};
    if (wire_remove_decode(request->body, request->body_len_bytes, &op.remove) < 0)
        shard_refuse(request, "shard remove");
    else
        control_start(ctx, request, op.remove.disk, &op);
}

MAY_SUSPEND static int run_fence(struct control_op *op, struct shard_info *ret_info)
{
    return shard_fence(op->entry->disk, op->fence.key, op->fence.epoch, ret_info);
}

static void handle_fence(void *ctx, struct rpc_request *request)
{
    struct control_op op = {.run = run_fence, .has_info = true};
    if (wire_fence_decode(request->body, request->body_len_bytes, &op.fence) < 0)
        shard_refuse(request, "shard fence");
    else
        control_start(ctx, request, op.fence.disk, &op);
}

MAY_SUSPEND static int run_stat(struct control_op *op, struct shard_info *ret_info)
{
    return shard_stat(op->entry->disk, op->stat.key, ret_info);
}

static void handle_stat(void *ctx, struct rpc_request *request)
{
    struct control_op op = {.run = run_stat, .has_info = true};
    if (wire_stat_decode(request->body, request->body_len_bytes, &op.stat) < 0)
        shard_refuse(request, "shard stat");
    else
        control_start(ctx, request, op.stat.disk, &op);
}

/* --- Lists, answered at once ------------------------------------------------------------------- */

static void handle_list(void *ctx, struct rpc_request *request)
{
    struct shard_service *service = shard_service_of(ctx);
    struct wire_list list;
    if (wire_list_decode(request->body, request->body_len_bytes, &list) < 0) {
        shard_refuse(request, "shard list");
        return;
    }
    struct disks_entry *entry = shard_disk_of(service, request, list.disk);
    if (entry == NULL)
        return;
    struct shard_info *page = mem_alloc(WIRE_LIST_SHARDS_MAX * sizeof(*page));
    uint32_t cursor = list.cursor;
    int count = local_disk_list_page(entry->disk, list.volume, &cursor, page, WIRE_LIST_SHARDS_MAX);
    unsigned len =
        count < 0 ? 0 : wire_list_reply_encode(cursor, page, (unsigned)count, service->scratch);
    mem_free(page);
    disks_release(entry);
    rpc_reply(request, MIN(count, 0), service->scratch, len, NULL, 0, NULL, NULL);
}

static void fill_status(const struct disks_entry *entry, struct wire_disk *ret_status)
{
    const struct disk *disk = entry->disk;
    *ret_status = (struct wire_disk){
        .number = entry->record.number, .state = entry->state, .uuid = entry->record.uuid};
    memcpy(ret_status->class_name, entry->record.class_name, sizeof(ret_status->class_name));
    if (disk == NULL)
        return;
    ret_status->size_bytes = disk->size_bytes;
    ret_status->free_bytes = disk->free_bytes;
    ret_status->error_count = disk->error_count;
    ret_status->damage_count = disk->damage_count;
    ret_status->latency_ewma_ns = disk->latency_ewma_ns;
}

static void handle_status(void *ctx, struct rpc_request *request)
{
    struct shard_service *service = shard_service_of(ctx);
    uint32_t after;
    if (wire_status_decode(request->body, request->body_len_bytes, &after) < 0) {
        shard_refuse(request, "disk status");
        return;
    }
    struct wire_disk *page = mem_alloc(WIRE_STATUS_DISKS_MAX * sizeof(*page));
    unsigned count = 0;
    bool more = false;
    list_for_each (it, disks_entries(service->disks)) {
        const struct disks_entry *entry = list_entry(it, struct disks_entry, link);
        if (entry->record.number <= after || entry->leaving)
            continue;
        more = count == WIRE_STATUS_DISKS_MAX;
        if (more)
            break;
        fill_status(entry, &page[count++]);
    }
    unsigned len = wire_status_reply_encode(more, page, count, service->scratch);
    mem_free(page);
    rpc_reply(request, 0, service->scratch, len, NULL, 0, NULL, NULL);
}

/* --- Life -------------------------------------------------------------------------------------- */

const struct rpc_method shard_methods[] = {
    {METHOD_SHARD_CREATE, "shard-create", handle_create, WIRE_CREATE_BYTES, 0},
    {METHOD_SHARD_APPEND, "shard-append", shard_handle_append, WIRE_APPEND_BYTES,
        APPEND_ENTRIES_MAX *BLOCK_BYTES},
    {METHOD_SHARD_READ, "shard-read", shard_handle_read, WIRE_READ_BYTES, 0},
    {METHOD_SHARD_SYNC, "shard-sync", shard_handle_sync, WIRE_LENGTH_BYTES, 0},
    {METHOD_SHARD_SEAL, "shard-seal", handle_seal, WIRE_LENGTH_BYTES, 0},
    {METHOD_SHARD_REMOVE, "shard-remove", handle_remove, WIRE_REMOVE_BYTES, 0},
    {METHOD_SHARD_FENCE, "shard-fence", handle_fence, WIRE_FENCE_BYTES, 0},
    {METHOD_SHARD_STAT, "shard-stat", handle_stat, WIRE_STAT_BYTES, 0},
    {METHOD_SHARD_LIST, "shard-list", handle_list, WIRE_LIST_BYTES, 0},
    {METHOD_DISK_STATUS, "disk-status", handle_status, WIRE_STATUS_BYTES, 0},
};
const unsigned shard_method_count = ARRAY_SIZE(shard_methods);

struct shard_service *shard_service_new(struct disks *disks)
{
    struct shard_service *service = NEW(struct shard_service);
    service->disks = disks;
    service->read_pool = bufpool_new(READ_BYTES_MAX_ALL);
    list_init(&service->waiting_reads);
    list_init(&service->free_appends);
    list_init(&service->free_reads);
    list_init(&service->free_syncs);
    return service;
}

void shard_service_free(struct shard_service *service)
{
    CHECK(service->in_flight == 0);
    shard_io_pools_free(service);
    bufpool_free(service->read_pool);
    mem_free(service);
}
