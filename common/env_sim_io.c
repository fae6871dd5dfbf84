/* SPDX-License-Identifier: Apache-2.0
 *
 * Files on simulated disks and operations under way. What an operation does happens at one moment,
 * its completion; until then it may still be lost to a crash. Order of completion is by the latency
 * drawn for each, so operations overtake one another.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/check.h"
#include "common/env_sim_disk.h"

/* --- Buffers ------------------------------------------------------------ */

/* Calls visit for each page of the request, in order. */
static void io_each_page(
    const struct env_io *io, void (*visit)(void *ctx, uint64_t index, void *page), void *ctx)
{
    const struct sim_io *sio = io->impl;
    uint64_t index = 0;
    if (sio->abandoned && io->op != ENV_IO_READ) {
        uint8_t garbage[SIM_PAGE_BYTES];
        for (; index < sio->len_bytes / SIM_PAGE_BYTES; index++) {
            memset(garbage, 0xa5, sizeof(garbage));
            visit(ctx, index, garbage);
        }
        return;
    }
    for (unsigned i = 0; i < io->iov_count; i++) {
        char *at = io->iov[i].iov_base, *end = at + io->iov[i].iov_len;
        for (; at < end; at += SIM_PAGE_BYTES)
            visit(ctx, index++, at);
    }
}

static void hash_page(void *ctx, uint64_t index, void *page)
{
    uint64_t *hash = ctx;
    *hash = sim_hash(*hash, page, SIM_PAGE_BYTES);
}

static uint64_t io_hash(const struct env_io *io)
{
    uint64_t hash = 0;
    io_each_page(io, hash_page, &hash);
    return hash;
}

static void soil_page(void *ctx, uint64_t index, void *page)
{
    memset(page, 0xd5, SIM_PAGE_BYTES);
}

static uint64_t io_len_bytes(const struct env_io *io)
{
    uint64_t len_bytes = 0;
    for (unsigned i = 0; io->op != ENV_IO_SYNC && i < io->iov_count; i++)
        len_bytes += io->iov[i].iov_len;
    return len_bytes;
}

/* --- Completion --------------------------------------------------------- */

struct transfer {
    struct sim_disk *disk;
    uint64_t first_page;
    uint64_t number;
    bool durable;
    enum { WHOLE, SOME_SECTORS, FIRST_HALF, UNDER_WAY } extent;
    uint64_t half_sectors;
    uint64_t flip_page; /* of the request; UINT64_MAX: none */
    unsigned flip_at;
};

static uint8_t sectors_that_get_there(struct transfer *t, uint64_t index)
{
    uint8_t sectors = 0xff;
    if (t->extent == SOME_SECTORS)
        sectors = rng_u64(&t->disk->sim->disk_rng);
    if (t->extent == FIRST_HALF) {
        uint64_t first = index * 8;
        uint64_t n = t->half_sectors > first ? MIN(t->half_sectors - first, (uint64_t)8) : 0;
        sectors = (1u << n) - 1;
    }
    return sectors;
}

static void flip_in(uint8_t *page, unsigned bit)
{
    page[bit / 8] ^= 1u << bit % 8;
}

static void write_page(void *ctx, uint64_t index, void *buf)
{
    struct transfer *t = ctx;
    struct sim_media *media = &t->disk->media;
    uint8_t bytes[SIM_PAGE_BYTES];
    if (t->first_page + index >= media->page_count)
        return; /* shrunk meanwhile */
    if (index == t->flip_page) {
        memcpy(bytes, buf, SIM_PAGE_BYTES);
        flip_in(bytes, t->flip_at);
        buf = bytes;
    }
    if (t->extent == UNDER_WAY) {
        sim_media_add_under_way(media, t->first_page + index, buf, t->number, index);
        return;
    }
    uint8_t sectors = sectors_that_get_there(t, index);
    if (sectors)
        sim_media_write(media, t->first_page + index, buf, t->number, index, sectors, t->durable);
}

static void read_page(void *ctx, uint64_t index, void *buf)
{
    struct transfer *t = ctx;
    sim_media_read(&t->disk->media, t->first_page + index, buf);
    if (index == t->flip_page)
        flip_in(buf, t->flip_at);
}

static struct transfer transfer_of(const struct sim_io *sio, const struct sim_fault *rule)
{
    struct sim_disk *disk = sio->disk;
    struct rng *rng = &disk->sim->disk_rng;
    uint64_t pages = sio->len_bytes / SIM_PAGE_BYTES;
    struct transfer t = {
        .disk = disk,
        .first_page = sio->io->off_bytes / SIM_PAGE_BYTES,
        .number = disk->sim->write_number + 1,
        .durable = sio->io->op == ENV_IO_WRITE_DSYNC,
        .half_sectors = sio->len_bytes / SIM_SECTOR_BYTES / 2,
        .flip_page = UINT64_MAX,
    };
    if (rule && rule->kind == SIM_FAULT_FLIP) {
        t.flip_page = rng_below(rng, pages);
        t.flip_at = rng_below(rng, SIM_PAGE_BYTES * 8);
    }
    if (rule && rule->kind == SIM_FAULT_MISDIRECT) {
        uint64_t room = disk->media.page_count - pages + 1;
        uint64_t to = rule->target_off_bytes == UINT64_MAX
                          ? t.first_page + 1 + rng_below(rng, MAX(room, (uint64_t)2) - 1)
                          : rule->target_off_bytes / SIM_PAGE_BYTES;
        t.first_page = to % room;
    }
    return t;
}

static int do_write(struct sim_io *sio, const struct sim_fault *rule)
{
    struct transfer t = transfer_of(sio, rule);
    int error = 0;
    if (rule && rule->kind == SIM_FAULT_LOST)
        return 0;
    if (rule && rule->kind == SIM_FAULT_ERROR) {
        error = rule->error ? -rule->error : -EIO;
        t.extent = SOME_SECTORS;
        t.durable = false;
    }
    t.number = ++sio->disk->sim->write_number;
    io_each_page(sio->io, write_page, &t);
    return error;
}

static int do_read(struct sim_io *sio, const struct sim_fault *rule)
{
    if (rule && rule->kind == SIM_FAULT_ERROR)
        return rule->error ? -rule->error : -EIO;
    struct transfer t = transfer_of(sio, rule);
    io_each_page(sio->io, read_page, &t);
    return 0;
}

static int do_sync(struct sim_io *sio, const struct sim_fault *rule)
{
    if (rule && rule->kind == SIM_FAULT_ERROR) {
        sim_media_doom(&sio->disk->media, sio->sync_number);
        return rule->error ? -rule->error : -EIO;
    }
    if (!rule || rule->kind != SIM_FAULT_LOST)
        sim_media_sync(&sio->disk->media, sio->sync_number);
    return 0;
}

static int io_perform(struct sim_io *sio)
{
    struct sim_disk *disk = sio->disk;
    const struct env_io *io = sio->io;
    if (sio->error)
        return sio->error;
    if (disk->removed)
        return -ENODEV;
    if (io->off_bytes + sio->len_bytes > disk->media.page_count * SIM_PAGE_BYTES)
        return -EIO;
    const struct sim_fault *rule = sim_fault_find(sio, false);
    switch (io->op) {
    case ENV_IO_READ:
        return do_read(sio, rule);
    case ENV_IO_SYNC:
        return do_sync(sio, rule);
    case ENV_IO_WRITE:
    case ENV_IO_WRITE_DSYNC:
        CHECK_MSG(sio->abandoned || io_hash(io) == sio->hash,
            "buffer of a write to %s at %lu changed while under way (V3)", disk->path,
            io->off_bytes);
        return do_write(sio, rule);
    }
    CHECK(false);
}

static void io_free(struct sim_io *sio)
{
    sim_event_cancel(sio->disk->sim, &sio->event);
    list_remove(&sio->link);
    list_remove(&sio->disk_link);
    sio->file->io_count--;
    free(sio);
}

/* false: the hook ended the node; `sio` is gone. */
static bool io_hook_lets_pass(struct sim_io *sio)
{
    struct sim *sim = sio->disk->sim;
    if (sio->io->op == ENV_IO_READ || sio->error)
        return true;
    struct sim_io_point point = {
        .disk = sio->disk,
        .node = &sio->event.node->env,
        .op = sio->io->op,
        .number = ++sim->io_number,
        .off_bytes = sio->io->off_bytes,
        .len_bytes = sio->len_bytes,
    };
    if (!sim->io_hook)
        return true;
    sim->io_hook(sim->io_hook_ctx, &point);
    if (point.when == SIM_POINT_GO_ON)
        return true;
    sim_trace_node(sim, sio->event.node, "io point", point.number, point.when);
    if (point.when == SIM_POINT_AFTER) {
        io_perform(sio);
        io_free(sio);
    } else if (point.when == SIM_POINT_HALF && sio->io->op != ENV_IO_SYNC) {
        struct transfer t = transfer_of(sio, NULL);
        t.extent = FIRST_HALF;
        t.durable = true; /* else the cut might lose it: half is half */
        t.number = ++sim->write_number;
        io_each_page(sio->io, write_page, &t);
        io_free(sio);
    }
    sim_point_apply(&point);
    return false;
}

static const char *op_name(enum env_io_op op)
{
    static const char *const names[] = {"read", "write", "write dsync", "sync"};
    return names[op];
}

static void io_fire(struct sim_event *event)
{
    struct sim_io *sio = container_of(event, struct sim_io, event);
    struct env_io *io = sio->io;
    if (sio->disk->hung)
        return; /* until sim_disk_go_on() */
    if (!io_hook_lets_pass(sio))
        return;
    int error = io_perform(sio);
    io->result = error ? error : (int64_t)sio->len_bytes;
    io->done_bytes = error ? 0 : sio->len_bytes;
    uint64_t hash = io->op == ENV_IO_SYNC || error ? 0
                    : io->op == ENV_IO_READ        ? io_hash(io)
                                                   : sio->hash;
    sim_trace_node(sio->disk->sim, event->node, op_name(io->op), io->off_bytes, io->result);
    sio->disk->sim->trace_hash = rng_mix(sio->disk->sim->trace_hash ^ hash);
    io_free(sio);
    io->impl = NULL;
    io->done(io);
}

/* --- Submission --------------------------------------------------------- */

static uint64_t io_duration_ns(struct sim_io *sio)
{
    struct sim_disk *disk = sio->disk;
    struct rng *rng = &disk->sim->disk_rng;
    const struct sim_disk_latency *latency = &disk->latency;
    uint64_t base_ns = sio->io->op == ENV_IO_READ   ? latency->read_ns
                       : sio->io->op == ENV_IO_SYNC ? latency->sync_ns
                                                    : latency->write_ns;
    if (sio->io->op == ENV_IO_WRITE_DSYNC)
        base_ns += latency->sync_ns / 2;
    uint64_t jitter_ns = rng_below(rng, latency->jitter_ns + 1) * (rng_one_in(rng, 64) ? 10 : 1);
    const struct sim_fault *rule = sim_fault_find(sio, true);
    return base_ns + jitter_ns + sio->len_bytes / SIM_PAGE_BYTES * latency->ns_per_page +
           (rule ? rule->delay_ns : 0);
}

static void file_submit(struct env_io *io)
{
    struct sim_file *file = container_of(io->file, struct sim_file, file);
    struct sim_node *node = sim_node_of(io->env);
    struct sim_io *sio = sim_zalloc(sizeof(*sio));
    sio->event.node = node;
    sio->event.fire = io_fire;
    sio->disk = file->disk;
    sio->file = file;
    sio->io = io;
    sio->error = env_io_check(io);
    CHECK_MSG(!sio->error || !node->sim->options.strict_io,
        "malformed request to %s: operation %d at %lu, %u buffers", file->disk->path, io->op,
        io->off_bytes, io->iov_count);
    sio->sync_number = node->sim->write_number;
    sio->len_bytes = io_len_bytes(io);
    io->impl = sio;
    if (!sio->error && io->op == ENV_IO_READ)
        io_each_page(io, soil_page, NULL);
    else if (!sio->error && io->op != ENV_IO_SYNC)
        sio->hash = io_hash(io);
    file->io_count++;
    list_push_back(&node->ios, &sio->link);
    list_push_back(&file->disk->ios, &sio->disk_link);
    sim_event_arm(node->sim, &sio->event, node->sim->now_ns + io_duration_ns(sio));
}

/* The kernel has it, whatever becomes of the submitter. */
static bool file_abandon(struct env_io *io, bool buffers_stay)
{
    struct sim_io *sio = io->impl;
    sio->abandoned = !buffers_stay;
    return false;
}

/* --- Files -------------------------------------------------------------- */

static void file_free(struct sim_file *file)
{
    file->disk->open_count--;
    if (file->holds_lock)
        file->disk->locked = false;
    list_remove(&file->link);
    free(file->file.path);
    free(file);
}

static MAY_SUSPEND void file_close(struct env_file *env_file)
{
    struct sim_file *file = container_of(env_file, struct sim_file, file);
    CHECK_MSG(file->io_count == 0, "%s closed with %u operations under way", file->disk->path,
        file->io_count);
    file_free(file);
}

static const struct env_file_ops file_ops = {
    .submit = file_submit, .abandon = file_abandon, .close = file_close};

int sim_file_open(struct env *env, const char *path, unsigned flags, uint64_t size_bytes,
    struct env_file **ret_file)
{
    struct sim_node *node = sim_node_of(env);
    sim_delay(node, rng_between(&node->sim->disk_rng, 50000, 2000000), NULL, NULL);
    struct sim_disk *disk = sim_disk_lookup(node->machine, path);
    bool create = flags & ENV_OPEN_CREATE;
    if (create && disk)
        return -EEXIST;
    if (create && (size_bytes == 0 || size_bytes % SIM_PAGE_BYTES))
        return -EINVAL;
    if (!create && (!disk || disk->removed))
        return -ENOENT;
    if (create)
        disk = sim_disk_new(env, path, size_bytes);
    if (disk->locked && (flags & ENV_OPEN_EXCLUSIVE_LOCK))
        return -EBUSY;

    struct sim_file *file = sim_zalloc(sizeof(*file));
    file->file.env = env;
    file->file.ops = &file_ops;
    file->file.size_bytes = disk->media.page_count * SIM_PAGE_BYTES;
    file->file.path = sim_strdup(path);
    file->file.read_only = flags & ENV_OPEN_READ_ONLY;
    file->disk = disk;
    file->holds_lock = flags & ENV_OPEN_EXCLUSIVE_LOCK;
    disk->locked |= file->holds_lock;
    disk->open_count++;
    list_push_back(&node->files, &file->link);
    sim_trace_node(node->sim, node, "open", file->file.size_bytes, flags);
    *ret_file = &file->file;
    return 0;
}

void sim_io_add_under_way(struct sim_io *sio, struct sim_media *media, uint64_t number)
{
    struct sim_disk into = {.media = *media, .sim = sio->disk->sim};
    struct transfer t = transfer_of(sio, NULL);
    t.disk = &into;
    t.extent = UNDER_WAY;
    t.number = number;
    io_each_page(sio->io, write_page, &t);
    *media = into.media;
}

bool sim_io_may_change(const struct sim_io *sio)
{
    return sio->io->op != ENV_IO_READ && sio->io->op != ENV_IO_SYNC && !sio->error &&
           !sio->disk->removed;
}

void sim_disk_node_gone(struct sim_node *node, bool power)
{
    list_for_each_safe (it, &node->ios) {
        struct sim_io *sio = list_entry(it, struct sim_io, link);
        if (sim_io_may_change(sio)) {
            if (power)
                sim_io_add_under_way(sio, &sio->disk->media, ++node->sim->write_number);
            else if (rng_one_in(&node->sim->disk_rng, 2))
                io_perform(sio);
        }
        io_free(sio);
    }
    list_for_each_safe (it, &node->files)
        file_free(list_entry(it, struct sim_file, link));
}
