/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/sim/sim_proxy.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/check.h"
#include "common/mem.h"

enum call_op { CREATE, APPEND, READ, SYNC, SEAL, REMOVE, FENCE, STAT, LIST };

/* Plain memory: it outlives the client, who may be gone when the operation is carried out. */
struct call {
    struct list link, all;
    enum call_op op;
    struct sim_link *path;
    struct disk *target;
    uint64_t generation, arrives_ns;
    struct wait *wait; /* the client's memory; NULL: it has given up */
    bool sent;         /* the server has it */
    /* arguments */
    struct shard_create create;
    struct shard_append append;
    struct shard_read read;
    struct shard_sync sync;
    struct shard_key key;
    uint32_t epoch, length_blocks;
    uint64_t instance, volume;
    uint8_t inline_bytes[APPEND_BODY_BYTES];
    struct shard_entry *entries;
    struct iovec iov;
    void *payload;
    /* answers */
    int result;
    struct shard_info info;
    struct shard_info *list;
    unsigned count;
};

/* The client's side; its timer is what brings the answer, so that a paused client gets it later. */
struct wait {
    struct env_timer timer;
    struct call *call;
    bool answered;
    struct fiber *fiber; /* suspended, or NULL: one of these is done by callback */
    struct shard_append *append;
    struct shard_read *read;
    struct shard_sync *sync;
    bool over;
    int result;
};

static void *must(void *p)
{
    CHECK(p);
    return p;
}

void sim_link_init(struct sim_link *link, struct env *client, struct env *server)
{
    *link = (struct sim_link){
        .client = client, .server = server, .delay_ns = 50000, .timeout_ns = 1000000000};
    list_init(&link->queue);
    list_init(&link->calls);
    fiber_queue_init(&link->arrivals);
}

static void call_free(struct call *call)
{
    list_remove(&call->link);
    list_remove(&call->all);
    free(call->entries);
    free(call->payload);
    free(call->list);
    free(call);
}

void sim_link_fini(struct sim_link *link)
{
    while (!list_empty(&link->calls))
        call_free(list_entry(link->calls.next, struct call, all));
}

void sim_link_client_crashed(struct sim_link *link)
{
    link->generation++;
}

/* --- Client ------------------------------------------------------------------------------------- */

static void answer_read(struct shard_read *read, const struct call *call)
{
    const uint8_t *from = call->payload;
    for (unsigned i = 0; i < read->iov_count; i++) {
        memcpy(read->iov[i].iov_base, from, read->iov[i].iov_len);
        from += read->iov[i].iov_len;
    }
    if (read->ret_entries)
        memcpy(read->ret_entries, call->entries, read->count * sizeof(*call->entries));
}

static void wait_fired(struct env_timer *timer)
{
    struct wait *wait = container_of(timer, struct wait, timer);
    struct call *call = wait->call;
    int r = wait->answered ? call->result : -EHOSTUNREACH;
    wait->over = true;
    wait->result = r;
    if (!wait->answered)
        call->wait = NULL;
    if (wait->fiber) {
        fiber_wake(wait->fiber); /* it takes the answers and frees */
        return;
    }
    struct shard_append *append = wait->append;
    struct shard_read *read = wait->read;
    struct shard_sync *sync = wait->sync;
    if (append) {
        append->result = r;
        append->ret_header_crc = wait->answered ? call->append.ret_header_crc : 0;
    } else if (read) {
        read->result = r;
        if (wait->answered) {
            read->ret_damaged_block = call->read.ret_damaged_block;
            if (r == 0)
                answer_read(read, call);
        }
    } else {
        sync->result = r;
    }
    if (wait->answered)
        call_free(call);
    mem_free(wait);
    if (append)
        append->done(append);
    else if (read)
        read->done(read);
    else
        sync->done(sync);
}

static struct call *call_new(struct disk *disk, enum call_op op, struct shard_key key)
{
    struct sim_proxy *proxy = (struct sim_proxy *)disk;
    struct call *call = must(calloc(1, sizeof(*call)));
    call->op = op;
    call->path = proxy->proxy_link;
    call->target = proxy->target;
    call->generation = call->path->generation;
    call->key = key;
    list_init(&call->link);
    list_push_back(&call->path->calls, &call->all);
    return call;
}

static struct wait *call_send(struct call *call)
{
    struct sim_link *link = call->path;
    struct wait *wait = NEW(struct wait);
    wait->call = call;
    call->wait = wait;
    env_timer_init(&wait->timer, wait_fired);
    env_timer_arm(&wait->timer, env_now_ns() + link->timeout_ns);
    call->arrives_ns = sim_now_ns(sim_current()) + link->delay_ns;
    if (link->cut)
        return wait; /* lost */
    list_push_back(&link->queue, &call->link);
    fiber_queue_wake_all(&link->arrivals);
    return wait;
}

/* For operations that suspend their caller; the call is to be freed when *ret_answered. */
static int call_wait(struct call *call, bool *ret_answered)
{
    struct wait *wait = call_send(call);
    wait->fiber = fiber_self();
    while (!wait->over)
        fiber_suspend();
    int r = wait->result;
    *ret_answered = wait->answered;
    mem_free(wait);
    return r;
}

static int simple(struct call *call, struct shard_info *ret_info)
{
    bool answered;
    int r = call_wait(call, &answered);
    if (answered) {
        if (ret_info)
            *ret_info = call->info;
        call_free(call);
    }
    return r;
}

static int proxy_create(
    struct disk *disk, const struct shard_create *create, struct shard_info *ret_info)
{
    struct call *call = call_new(disk, CREATE, create->key);
    call->create = *create;
    return simple(call, ret_info);
}

static void proxy_append(struct shard_append *append)
{
    struct call *call = call_new(append->disk, APPEND, append->key);
    size_t bytes = (size_t)append->entry_count * BLOCK_BYTES;
    call->append = *append;
    if (append->inline_len_bytes > 0)
        memcpy(call->inline_bytes, append->inline_bytes, append->inline_len_bytes);
    call->append.inline_bytes = call->inline_bytes;
    if (bytes > 0) {
        call->entries = must(malloc(append->entry_count * sizeof(*call->entries)));
        memcpy(call->entries, append->entries, append->entry_count * sizeof(*call->entries));
        call->payload = must(aligned_alloc(BLOCK_BYTES, bytes));
        uint8_t *to = call->payload;
        for (unsigned i = 0; i < append->payload_count; i++) {
            memcpy(to, append->payload[i].iov_base, append->payload[i].iov_len);
            to += append->payload[i].iov_len;
        }
    }
    call->iov = (struct iovec){.iov_base = call->payload, .iov_len = bytes};
    call->append.entries = call->entries;
    call->append.payload = &call->iov;
    call->append.payload_count = bytes > 0;
    call_send(call)->append = append;
}

static void proxy_read(struct shard_read *read)
{
    struct call *call = call_new(read->disk, READ, read->key);
    size_t bytes = (size_t)read->count * BLOCK_BYTES;
    call->read = *read;
    call->payload = must(aligned_alloc(BLOCK_BYTES, bytes));
    call->entries = must(calloc(read->count, sizeof(*call->entries)));
    call->iov = (struct iovec){.iov_base = call->payload, .iov_len = bytes};
    call->read.iov = &call->iov;
    call->read.iov_count = 1;
    call->read.ret_entries = read->ret_entries ? call->entries : NULL;
    call_send(call)->read = read;
}

static void proxy_sync(struct shard_sync *sync)
{
    struct call *call = call_new(sync->disk, SYNC, sync->key);
    call->sync = *sync;
    call_send(call)->sync = sync;
}

static int proxy_seal(
    struct disk *disk, struct shard_key key, uint32_t epoch, uint32_t length_blocks)
{
    struct call *call = call_new(disk, SEAL, key);
    call->epoch = epoch;
    call->length_blocks = length_blocks;
    return simple(call, NULL);
}

static int proxy_remove(struct disk *disk, struct shard_key key, uint64_t instance, uint32_t epoch)
{
    struct call *call = call_new(disk, REMOVE, key);
    call->epoch = epoch;
    call->instance = instance;
    return simple(call, NULL);
}

static int proxy_fence(
    struct disk *disk, struct shard_key key, uint32_t epoch, struct shard_info *ret_info)
{
    struct call *call = call_new(disk, FENCE, key);
    call->epoch = epoch;
    return simple(call, ret_info);
}

static int proxy_stat(struct disk *disk, struct shard_key key, struct shard_info *ret_info)
{
    return simple(call_new(disk, STAT, key), ret_info);
}

static int proxy_list(
    struct disk *disk, uint64_t volume, struct shard_info **ret_list, unsigned *ret_count)
{
    bool answered;
    struct call *call = call_new(disk, LIST, (struct shard_key){0});
    call->volume = volume;
    int r = call_wait(call, &answered);
    if (answered && r == 0) {
        *ret_list = mem_alloc((call->count + 1) * sizeof(**ret_list));
        memcpy(*ret_list, call->list, call->count * sizeof(**ret_list));
        *ret_count = call->count;
    }
    if (answered)
        call_free(call);
    return r;
}

static const struct disk_ops proxy_ops = {.create = proxy_create,
    .append = proxy_append,
    .read = proxy_read,
    .sync = proxy_sync,
    .seal = proxy_seal,
    .remove = proxy_remove,
    .fence = proxy_fence,
    .stat = proxy_stat,
    .list = proxy_list};

void sim_proxy_init(struct sim_proxy *proxy, struct sim_link *link, struct disk *target)
{
    *proxy = (struct sim_proxy){.disk = *target, .proxy_link = link, .target = target};
    proxy->disk.ops = &proxy_ops;
    proxy->disk.local = false;
    list_init(&proxy->disk.link);
}

/* --- Server ------------------------------------------------------------------------------------- */

static void reply_run(void *arg)
{
    struct call *call = arg;
    struct sim_link *link = call->path;
    env_sleep_ns(link->delay_ns);
    if (link->cut || call->generation != link->generation || !call->wait) {
        if (call->generation == link->generation && call->wait)
            return; /* the answer is lost; the client gives up and forgets the call */
        call_free(call);
        return;
    }
    call->wait->answered = true;
    env_timer_arm(&call->wait->timer, 1); /* its time has come */
}

static void append_served(struct shard_append *append)
{
    struct call *call = container_of(append, struct call, append);
    call->result = append->result;
    fiber_spawn("reply", reply_run, call);
}

static void read_served(struct shard_read *read)
{
    struct call *call = container_of(read, struct call, read);
    call->result = read->result;
    fiber_spawn("reply", reply_run, call);
}

static void sync_served(struct shard_sync *sync)
{
    struct call *call = container_of(sync, struct call, sync);
    call->result = sync->result;
    fiber_spawn("reply", reply_run, call);
}

static int serve_list(struct call *call)
{
    struct shard_info *list;
    int r = shard_list(call->target, call->volume, &list, &call->count);
    if (r < 0)
        return r;
    call->list = must(malloc((call->count + 1) * sizeof(*list)));
    memcpy(call->list, list, call->count * sizeof(*list));
    mem_free(list);
    return 0;
}

static void serve_one(void *arg)
{
    struct call *call = arg;
    struct disk *disk = call->target;
    switch (call->op) {
    case CREATE:
        call->result = shard_create(disk, &call->create, &call->info);
        break;
    case SEAL:
        call->result = shard_seal(disk, call->key, call->epoch, call->length_blocks);
        break;
    case REMOVE:
        call->result = shard_remove(disk, call->key, call->instance, call->epoch);
        break;
    case FENCE:
        call->result = shard_fence(disk, call->key, call->epoch, &call->info);
        break;
    case STAT:
        call->result = shard_stat(disk, call->key, &call->info);
        break;
    default:
        call->result = serve_list(call);
        break;
    }
    reply_run(call);
}

static void serve(struct call *call)
{
    if (call->op == APPEND) {
        call->append.disk = call->target;
        call->append.done = append_served;
        shard_append_submit(&call->append);
    } else if (call->op == READ) {
        call->read.disk = call->target;
        call->read.done = read_served;
        shard_read_submit(&call->read);
    } else if (call->op == SYNC) {
        call->sync.disk = call->target;
        call->sync.done = sync_served;
        shard_sync_submit(&call->sync);
    } else {
        fiber_spawn("serve", serve_one, call);
    }
}

void sim_link_serve(void *arg)
{
    struct sim_link *link = arg;
    for (;;) {
        if (list_empty(&link->queue)) {
            fiber_queue_wait(&link->arrivals);
            continue;
        }
        struct call *call = list_entry(link->queue.next, struct call, link);
        uint64_t now_ns = sim_now_ns(sim_current());
        if (call->arrives_ns > now_ns) {
            env_sleep_ns(call->arrives_ns - now_ns);
            continue;
        }
        list_remove(&call->link);
        serve(call);
    }
}
