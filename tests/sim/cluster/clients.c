/* SPDX-License-Identifier: Apache-2.0
 *
 * A client is a front end's connection on its node: it attaches by name, keeps a request that ended with
 * -ESHUTDOWN and repeats it under its id once it has attached again (as blockd/nbd does). When its node
 * dies, its request is unanswered for ever and it goes on elsewhere, as a VM that was started again.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/env.h"
#include "common/mem.h"
#include "tests/sim/cluster/cluster.h"

enum {
    WRITE_BLOCKS_MAX = 24,
    PIECE_BLOCKS = 16, /* are written whole or not at all (row_blocks) */
};

struct life {
    struct cluster_client *client;
    struct cluster_node *node;
    uint64_t life;
    struct attachment *attachment;
    uint64_t session, number;
    struct rng rng;
    void *buf;
};

static bool over(const struct life *l)
{
    return l->client->life != l->life;
}

static void let_go(struct life *l)
{
    if (l->attachment)
        attach_put(l->attachment);
    l->attachment = NULL;
}

/* -EAGAIN and -ESHUTDOWN pass; false when this life is over. */
static bool attach(struct life *l)
{
    while (!l->attachment) {
        CLEANUP_FREE char *error = NULL;
        if (over(l) || !l->node->node)
            return false;
        int r = attach_get(
            l->node->node->attach, l->client->volume->name, NULL, NULL, &l->attachment, &error);
        if (r == 0)
            return true;
        l->attachment = NULL;
        CHECK_MSG(r != -ENOENT && r != -EUCLEAN, "client %u on %s: %s", l->client->number,
            l->node->name, error);
        env_sleep_ns(20 * CLUSTER_MS);
    }
    return true;
}

static struct request_id request_id(const struct life *l)
{
    return (struct request_id){
        .session = l->session, .number = l->number, .answered_below = l->number};
}

/* Whether the request has its answer; else it is repeated. */
static bool answered(struct life *l, int r)
{
    if (r != -ESHUTDOWN)
        return true;
    l->client->cluster->resends++;
    let_go(l);
    return false;
}

/* Within what is surely there, or in what was asked for at least. */
static uint32_t some_block(struct life *l, uint32_t count)
{
    const struct history *history = l->client->volume->history;
    uint32_t blocks = rng_one_in(&l->rng, 4) ? history_size_max(history) : history_size(history);
    uint32_t hot = MAX(l->client->cluster->hot_blocks, count);
    return (uint32_t)rng_below(&l->rng, (rng_one_in(&l->rng, 2) ? hot : blocks) - count + 1);
}

/* H5. 1: the call went beyond the end, and rightly so. `size` was surely there when it began. */
static int check_size(struct life *l, uint32_t size, uint32_t end_block, int r)
{
    struct history *history = l->client->volume->history;
    CHECK_MSG(r != -EINVAL || end_block > size,
        "client %u: beyond the end at block %u; %u were there", l->client->number, end_block, size);
    if (r == 0)
        history_grown(history, MAX(end_block, history_size(history)));
    return r == -EINVAL;
}

static void do_write(struct life *l, bool zero)
{
    struct cluster *c = l->client->cluster;
    bool large = rng_below(&l->rng, 100) < c->large_percent;
    uint32_t count = 1 + (uint32_t)rng_below(&l->rng, large ? WRITE_BLOCKS_MAX : 4);
    uint32_t first = some_block(l, count);
    bool fua = rng_one_in(&l->rng, 16);
    uint64_t off = (uint64_t)first * BLOCK_BYTES, len = (uint64_t)count * BLOCK_BYTES;
    struct history *history = l->client->volume->history;
    uint64_t write = history_write(history, first, count, zero ? NULL : l->buf, fua);
    l->number++;
    for (bool again = false;; again = true) {
        if (!attach(l))
            return;
        unsigned flags = fua ? VOLUME_FUA : 0;
        uint32_t size = history_size(history);
        int r = zero ? attach_trim(l->attachment, off, len, flags, request_id(l))
                     : attach_write(l->attachment, off, len, l->buf, flags, request_id(l));
        if (!answered(l, r))
            continue;
        if (check_size(l, size, first + count, r))
            return;
        CHECK_MSG(r == 0 || (r == -ENOSPC && !zero && cluster_is_full(c)), "client %u: %s: %s",
            l->client->number, zero ? "trim" : "write", strerror(-r));
        if (r == 0)
            history_written(history, write);
        else if (!again && count <= PIECE_BLOCKS) /* an attempt, a part before may have happened */
            history_refused(history, write);
        cluster_totals->no_space += r < 0;
        return;
    }
}

static void do_read(struct life *l)
{
    uint32_t count = 1 + (uint32_t)rng_below(&l->rng, WRITE_BLOCKS_MAX);
    uint32_t first = some_block(l, count);
    struct history *history = l->client->volume->history;
    for (;;) {
        if (!attach(l))
            return;
        uint64_t since = history_now(history);
        uint32_t size = history_size(history);
        int r = attach_read_leaving(l->attachment, (uint64_t)first * BLOCK_BYTES,
            (uint64_t)count * BLOCK_BYTES, l->buf, true);
        if (env_memory_left(l->buf, WRITE_BLOCKS_MAX * BLOCK_BYTES)) { /* T2 */
            mem_free_pages(l->buf, WRITE_BLOCKS_MAX * BLOCK_BYTES);
            l->buf = mem_alloc_pages(WRITE_BLOCKS_MAX * BLOCK_BYTES);
            continue;
        }
        if (!answered(l, r))
            continue;
        if (check_size(l, size, first + count, r))
            return;
        CHECK_MSG(r == 0, "client %u: read: %s", l->client->number, strerror(-r));
        history_read(history, since, first, count, l->buf);
        return;
    }
}

static void do_flush(struct life *l)
{
    struct history *history = l->client->volume->history;
    for (;;) {
        if (!attach(l))
            return;
        uint64_t since = history_now(history);
        int r = attach_flush(l->attachment);
        if (!answered(l, r))
            continue;
        CHECK_MSG(r == 0, "client %u: flush: %s", l->client->number, strerror(-r));
        history_flushed(history, since);
        return;
    }
}

/* As an administrator does: at the node that owns the volume. On a fiber there. */
static void resize_main(void *arg)
{
    struct cluster_resize *resize = arg;
    CLEANUP_FREE char *error = NULL;
    struct cluster_volume *volume = resize->client->volume;
    resize->result = volumes_resize(
        resize->owner->node->volumes, volume->name, (uint64_t)resize->blocks * BLOCK_BYTES, &error);
    CHECK_MSG(resize->result != -EINVAL || history_size_max(volume->history) > resize->blocks,
        "%s: resize: %s", volume->name, error);
    if (resize->result == 0) {
        history_grown(volume->history, resize->blocks);
        cluster_totals->resizes++;
    }
    resize->done = true;
    resize->owner->resizes--;
}

/* Not answered yet, and it may still be. */
static bool resize_runs(const struct cluster_resize *resize)
{
    return resize->busy && !resize->done && resize->owner->starts == resize->owner_starts &&
           sim_node_is_up(resize->owner->env);
}

static struct cluster_node *owner_node(const struct life *l)
{
    const char *name = attach_owner(l->attachment);
    struct cluster *c = l->client->cluster;
    for (unsigned i = 0; i < c->node_count && name[0]; i++) {
        if (strcmp(c->nodes[i].name, name) == 0)
            return &c->nodes[i];
    }
    return l->node;
}

static void do_resize(struct life *l)
{
    struct cluster_resize *resize = &l->client->resize;
    struct history *history = l->client->volume->history;
    uint32_t blocks = history_size_max(history) + 1 + (uint32_t)rng_below(&l->rng, 16);
    if (resize_runs(resize) || blocks > CLUSTER_BLOCKS_MAX || !attach(l))
        return;
    struct cluster_node *owner = owner_node(l);
    if (!owner->node || owner->want_stop)
        return;
    *resize = (struct cluster_resize){.client = l->client,
        .owner = owner,
        .owner_starts = owner->starts,
        .blocks = blocks,
        .busy = true};
    history_grow(history, blocks);
    let_go(l); /* as who is told that it has halted does: meanwhile nobody else gets it (V3) */
    owner->resizes++;
    fiber_spawn_on(owner->env, "resize", resize_main, resize);
    while (resize_runs(resize))
        env_sleep_ns(5 * CLUSTER_MS);
}

static void life_main(void *arg)
{
    struct life life = *(struct life *)arg, *l = &life;
    free(arg);
    struct cluster *c = l->client->cluster;
    l->buf = mem_alloc_pages(WRITE_BLOCKS_MAX * BLOCK_BYTES);
    while (!over(l) && !c->clients_stop) {
        unsigned what = (unsigned)rng_below(&l->rng, 100);
        c->requests++;
        if (rng_below(&l->rng, 1000) < c->resize_permille)
            do_resize(l);
        else if (what < c->write_percent)
            do_write(l, false);
        else if (what < c->write_percent + c->trim_percent)
            do_write(l, true);
        else if (what < c->write_percent + c->trim_percent + c->flush_percent)
            do_flush(l);
        else
            do_read(l);
        if (rng_one_in(&l->rng, 60)) /* a new connection */
            let_go(l);
        env_sleep_ns(rng_below(&l->rng, c->think_ns_max));
    }
    let_go(l);
    mem_free_pages(l->buf, WRITE_BLOCKS_MAX * BLOCK_BYTES);
    if (!over(l))
        l->client->running = false;
}

static void client_start(struct cluster_client *client)
{
    struct cluster *c = client->cluster;
    struct cluster_node *node = &c->nodes[client->home];
    if (!node->node || c->clients_stop || client->left_out)
        return;
    struct life *l = malloc(sizeof(*l));
    CHECK(l);
    *l = (struct life){.client = client,
        .node = node,
        .life = ++client->life,
        .session = rng_u64(&client->rng) | 1};
    rng_init(&l->rng, rng_u64(&client->rng));
    client->running = true;
    fiber_spawn_on(node->env, "client", life_main, l);
}

/* --- The cluster's ----------------------------------------------------------------------------- */

static void client_init(struct cluster *c, unsigned number)
{
    struct cluster_client *client = &c->clients[number];
    char label[32];
    snprintf(label, sizeof(label), "client %u", number);
    *client = (struct cluster_client){.cluster = c,
        .number = number,
        .volume = &c->volumes[number % c->volume_count],
        .rng = rng_fork(c->seed, label),
        .left_out = !sim_part_wanted('c', number, "client")};
    client->home = (unsigned)rng_below(&client->rng, c->node_count);
}

void cluster_clients_start(struct cluster *c)
{
    c->clients_stop = false;
    for (unsigned i = 0; i < c->client_count; i++) {
        struct cluster_client *client = &c->clients[i];
        if (!client->cluster)
            client_init(c, i);
        client_start(client);
    }
}

static bool none_runs(struct cluster *c)
{
    for (unsigned i = 0; i < c->client_count; i++) {
        if (c->clients[i].running)
            return false;
    }
    return true;
}

void cluster_clients_stop(struct cluster *c)
{
    c->clients_stop = true;
    cluster_until(c, none_runs, 300, "clients end their requests");
}

void cluster_clients_node_up(struct cluster_node *node)
{
    struct cluster *c = node->cluster;
    for (unsigned i = 0; i < c->client_count && c->volumes_made; i++) {
        struct cluster_client *client = &c->clients[i];
        if (client->cluster && client->home == node->number && !client->running)
            client_start(client);
    }
}

/* They go on elsewhere, if there is one up. */
void cluster_clients_node_down(struct cluster_node *node)
{
    struct cluster *c = node->cluster;
    for (unsigned i = 0; i < c->client_count; i++) {
        struct cluster_client *client = &c->clients[i];
        if (!client->cluster || client->home != node->number)
            continue;
        client->life++;
        client->running = false;
        if (rng_one_in(&client->rng, 3))
            continue; /* it waits for the node */
        client->home = (unsigned)rng_below(&client->rng, c->node_count);
        if (client->home != node->number)
            client_start(client);
    }
}

struct attachment *cluster_attach(struct cluster_node *node, const char *name)
{
    struct attachment *attachment = NULL;
    uint64_t until_ns = env_now_ns() + 100 * CLUSTER_S;
    for (;;) {
        CLEANUP_FREE char *error = NULL;
        if (attach_get(node->node->attach, name, NULL, NULL, &attachment, &error) == 0)
            return attachment;
        CHECK_MSG(
            env_now_ns() < until_ns, "%s cannot be attached on %s: %s", name, node->name, error);
        env_sleep_ns(20 * CLUSTER_MS);
    }
}

/* H5: what an attachment says that was made after the size was known. */
static uint32_t size_of(
    struct attachment *attachment, struct cluster_volume *volume, uint32_t size_before)
{
    uint32_t blocks = (uint32_t)(attach_size_bytes(attachment) / BLOCK_BYTES);
    CHECK_MSG(blocks >= size_before, "%s has %u blocks; %u were there", volume->name, blocks,
        size_before);
    history_grown(volume->history, MAX(blocks, history_size(volume->history)));
    return blocks;
}

void cluster_read_all(struct cluster_node *node, struct cluster_volume *volume, bool settle)
{
    enum { PIECE = 32 };
    void *buf = mem_alloc_pages(PIECE * BLOCK_BYTES);
    uint32_t before = history_size(volume->history), count;
    struct attachment *attachment = cluster_attach(node, volume->name);
    uint32_t blocks = size_of(attachment, volume, before);
    for (uint32_t at = 0; at < blocks; at += count) {
        count = MIN(blocks - at, (uint32_t)PIECE);
        uint64_t since = history_now(volume->history);
        int r =
            attach_read(attachment, (uint64_t)at * BLOCK_BYTES, (uint64_t)count * BLOCK_BYTES, buf);
        if (r == -ESHUTDOWN) {
            attach_put(attachment);
            attachment = cluster_attach(node, volume->name);
            count = 0;
            continue;
        }
        CHECK_MSG(
            r == 0, "%s: read of %s at block %u: %s", node->name, volume->name, at, strerror(-r));
        if (settle)
            history_found(volume->history, at, count, buf);
        else
            history_read(volume->history, since, at, count, buf);
    }
    if (settle)
        history_found_size(volume->history, blocks);
    attach_put(attachment);
    mem_free_pages(buf, PIECE * BLOCK_BYTES);
}
