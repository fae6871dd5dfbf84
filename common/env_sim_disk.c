/* SPDX-License-Identifier: Apache-2.0
 *
 * Simulated disks: open files, I/O under way, latency, faults. What an operation does happens at
 * one moment, its completion; until then it may still be lost to a crash. Order of completion is by
 * the latency drawn for each, so operations overtake one another.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/check.h"
#include "common/env_sim_impl.h"

struct fault {
    struct list link;
    struct sim_fault rule;
    uint64_t spared, applied;
};

struct sim_disk {
    struct list link; /* machine->disks */
    struct sim *sim;
    struct sim_machine *machine;
    char *path;
    struct sim_media media;
    struct sim_disk_latency latency;
    struct list faults;
    uint64_t faults_applied;
    unsigned open_count;
    bool locked, removed;
    struct list ios; /* under way, by any node */
};

struct sim_file {
    struct env_file file;
    struct sim_disk *disk;
    struct list link; /* node->files */
    bool holds_lock;
    unsigned io_count;
};

/* One env_io under way. */
struct sim_io {
    struct sim_event event;
    struct list link, disk_link; /* node->ios, disk->ios */
    struct sim_disk *disk;
    struct sim_file *file;
    struct env_io *io;
    int error;            /* known at submission: a malformed request */
    uint64_t hash;        /* of what is to be written (V3) */
    uint64_t sync_number; /* SYNC: the last write it covers */
    uint64_t len_bytes;
};

/* --- Buffers
 * ---------------------------------------------------------------------------------------- */

/* Calls visit for each page of the request, in order. */
static void io_each_page(
    const struct env_io *io, void (*visit)(void *ctx, uint64_t index, void *page), void *ctx)
{
    uint64_t index = 0;
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

/* --- Faults
 * ----------------------------------------------------------------------------------------- */

static unsigned op_bit(enum env_io_op op)
{
    return op == ENV_IO_READ ? SIM_OP_READ : op == ENV_IO_SYNC ? SIM_OP_SYNC : SIM_OP_WRITE;
}

static bool fault_matches(const struct sim_fault *rule, const struct sim_io *sio)
{
    if (!(rule->ops & op_bit(sio->io->op)))
        return false;
    if (rule->len_bytes == 0 || sio->io->op == ENV_IO_SYNC)
        return true;
    uint64_t off_bytes = sio->io->off_bytes;
    return off_bytes < rule->off_bytes + rule->len_bytes &&
           rule->off_bytes < off_bytes + sio->len_bytes;
}

/* The rule that applies to the operation now; DELAY rules apply at submission, others at
 * completion. */
static const struct sim_fault *fault_find(const struct sim_io *sio, bool at_submission)
{
    struct sim_disk *disk = sio->disk;
    list_for_each (it, &disk->faults) {
        struct fault *fault = list_entry(it, struct fault, link);
        const struct sim_fault *rule = &fault->rule;
        if ((rule->kind == SIM_FAULT_DELAY) != at_submission || !fault_matches(rule, sio))
            continue;
        if (rule->times && fault->applied == rule->times)
            continue;
        if (rule->ppm && !rng_ppm(&disk->sim->disk_rng, rule->ppm))
            continue;
        if (fault->spared < rule->after) {
            fault->spared++;
            continue;
        }
        fault->applied++;
        disk->faults_applied++;
        return rule;
    }
    return NULL;
}

void sim_disk_fault(struct sim_disk *disk, const struct sim_fault *rule)
{
    struct fault *fault = sim_zalloc(sizeof(*fault));
    fault->rule = *rule;
    list_push_back(&disk->faults, &fault->link);
}

void sim_disk_clear_faults(struct sim_disk *disk)
{
    struct list *link;
    while ((link = list_pop_front(&disk->faults)))
        free(list_entry(link, struct fault, link));
}

uint64_t sim_disk_faults_applied(const struct sim_disk *disk)
{
    return disk->faults_applied;
}

/* --- Completion
 * ------------------------------------------------------------------------------------- */

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
    const struct sim_fault *rule = fault_find(sio, false);
    switch (io->op) {
    case ENV_IO_READ:
        return do_read(sio, rule);
    case ENV_IO_SYNC:
        return do_sync(sio, rule);
    case ENV_IO_WRITE:
    case ENV_IO_WRITE_DSYNC:
        CHECK_MSG(io_hash(io) == sio->hash,
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
    if (!io_hook_lets_pass(sio))
        return;
    int error = io_perform(sio);
    io->result = error ? error : (int64_t)sio->len_bytes;
    io->done_bytes = error ? 0 : sio->len_bytes;
    uint64_t hash = io->op == ENV_IO_SYNC || error ? 0 : io_hash(io);
    sim_trace_node(sio->disk->sim, event->node, op_name(io->op), io->off_bytes, io->result);
    sio->disk->sim->trace_hash = rng_mix(sio->disk->sim->trace_hash ^ hash);
    io_free(sio);
    io->impl = NULL;
    io->done(io);
}

/* --- Submission
 * ------------------------------------------------------------------------------------- */

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
    const struct sim_fault *rule = fault_find(sio, true);
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

/* --- Files
 * ------------------------------------------------------------------------------------------ */

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

static const struct env_file_ops file_ops = {.submit = file_submit, .close = file_close};

static struct sim_disk *disk_find(struct sim_machine *machine, const char *path)
{
    list_for_each (it, &machine->disks) {
        struct sim_disk *disk = list_entry(it, struct sim_disk, link);
        if (strcmp(disk->path, path) == 0)
            return disk;
    }
    return NULL;
}

int sim_file_open(struct env *env, const char *path, unsigned flags, uint64_t size_bytes,
    struct env_file **ret_file)
{
    struct sim_node *node = sim_node_of(env);
    sim_delay(node, rng_between(&node->sim->disk_rng, 50000, 2000000), NULL, NULL);
    struct sim_disk *disk = disk_find(node->machine, path);
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

static void io_add_under_way(struct sim_io *sio, struct sim_media *media, uint64_t number)
{
    struct sim_disk into = {.media = *media, .sim = sio->disk->sim};
    struct transfer t = transfer_of(sio, NULL);
    t.disk = &into;
    t.extent = UNDER_WAY;
    t.number = number;
    io_each_page(sio->io, write_page, &t);
    *media = into.media;
}

static bool io_may_change(const struct sim_io *sio)
{
    return sio->io->op != ENV_IO_READ && sio->io->op != ENV_IO_SYNC && !sio->error &&
           !sio->disk->removed;
}

void sim_disk_node_gone(struct sim_node *node, bool power)
{
    list_for_each_safe (it, &node->ios) {
        struct sim_io *sio = list_entry(it, struct sim_io, link);
        if (io_may_change(sio)) {
            if (power)
                io_add_under_way(sio, &sio->disk->media, ++node->sim->write_number);
            else if (rng_one_in(&node->sim->disk_rng, 2))
                io_perform(sio);
        }
        io_free(sio);
    }
    list_for_each_safe (it, &node->files)
        file_free(list_entry(it, struct sim_file, link));
}

/* --- Disks
 * ------------------------------------------------------------------------------------------ */

struct sim_disk *sim_disk_new(struct env *env, const char *path, uint64_t size_bytes)
{
    struct sim_machine *machine = sim_node_of(env)->machine;
    CHECK_MSG(!disk_find(machine, path), "%s exists", path);
    CHECK(size_bytes > 0 && size_bytes % SIM_PAGE_BYTES == 0);
    struct sim_disk *disk = sim_zalloc(sizeof(*disk));
    disk->sim = machine->sim;
    disk->machine = machine;
    disk->path = sim_strdup(path);
    disk->latency = (struct sim_disk_latency){.read_ns = 80000,
        .write_ns = 30000,
        .sync_ns = 200000,
        .jitter_ns = 200000,
        .ns_per_page = 2000};
    list_init(&disk->faults);
    list_init(&disk->ios);
    sim_media_init(&disk->media, size_bytes / SIM_PAGE_BYTES);
    list_push_back(&machine->disks, &disk->link);
    return disk;
}

struct sim_disk *sim_disk_find(const struct env *node, const char *path)
{
    struct sim_disk *disk = disk_find(sim_node_of(node)->machine, path);
    return disk && !disk->removed ? disk : NULL;
}

const char *sim_disk_path(const struct sim_disk *disk)
{
    return disk->path;
}

uint64_t sim_disk_size_bytes(const struct sim_disk *disk)
{
    return disk->media.page_count * SIM_PAGE_BYTES;
}

void sim_disk_set_latency(struct sim_disk *disk, const struct sim_disk_latency *latency)
{
    disk->latency = *latency;
}

void sim_disks_power_cut(struct sim_machine *machine, enum sim_cut_mode mode)
{
    list_for_each (it, &machine->disks) {
        struct sim_disk *disk = list_entry(it, struct sim_disk, link);
        CHECK(list_empty(&disk->ios));
        sim_media_cut(&disk->media, mode, &machine->sim->disk_rng);
    }
}

void sim_disk_flip(struct sim_disk *disk, uint64_t off_bytes, unsigned bit)
{
    sim_media_flip(&disk->media, off_bytes, bit);
}

void sim_disk_peek(const struct sim_disk *disk, uint64_t off_bytes, void *buf, size_t len_bytes)
{
    uint8_t page[SIM_PAGE_BYTES];
    char *to = buf;
    while (len_bytes > 0) {
        uint64_t at = off_bytes % SIM_PAGE_BYTES, n = MIN(len_bytes, SIM_PAGE_BYTES - at);
        sim_media_read(&disk->media, off_bytes / SIM_PAGE_BYTES, page);
        memcpy(to, page + at, n);
        to += n;
        off_bytes += n;
        len_bytes -= n;
    }
}

void sim_disk_poke(struct sim_disk *disk, uint64_t off_bytes, const void *buf, size_t len_bytes)
{
    uint8_t page[SIM_PAGE_BYTES];
    const char *from = buf;
    while (len_bytes > 0) {
        uint64_t at = off_bytes % SIM_PAGE_BYTES, n = MIN(len_bytes, SIM_PAGE_BYTES - at);
        uint64_t number = off_bytes / SIM_PAGE_BYTES;
        sim_media_read(&disk->media, number, page);
        memcpy(page + at, from, n);
        sim_media_write(&disk->media, number, page, 0, 0, 0xff, true);
        from += n;
        off_bytes += n;
        len_bytes -= n;
    }
}

void sim_disk_remove(struct sim_disk *disk)
{
    disk->removed = true;
}

void sim_disk_return(struct sim_disk *disk)
{
    disk->removed = false;
}

void sim_disk_resize(struct sim_disk *disk, uint64_t size_bytes)
{
    CHECK(size_bytes % SIM_PAGE_BYTES == 0);
    sim_media_resize(&disk->media, size_bytes / SIM_PAGE_BYTES);
}

uint64_t sim_disk_volatile_pages(const struct sim_disk *disk)
{
    return disk->media.dirty_count;
}

void sim_set_io_hook(
    struct sim *sim, void (*hook)(void *ctx, struct sim_io_point *point), void *ctx)
{
    sim->io_hook = hook;
    sim->io_hook_ctx = ctx;
}

uint64_t sim_io_count(const struct sim *sim)
{
    return sim->io_number;
}

/* --- Images
 * ----------------------------------------------------------------------------------------- */

struct sim_image {
    struct sim_media media;
};

struct sim_image *sim_disk_snapshot(const struct sim_disk *disk)
{
    struct sim_image *image = sim_zalloc(sizeof(*image));
    sim_media_copy(&image->media, &disk->media);
    uint64_t number = disk->sim->write_number;
    list_for_each (it, &disk->ios) {
        struct sim_io *sio = list_entry(it, struct sim_io, disk_link);
        if (io_may_change(sio))
            io_add_under_way(sio, &image->media, ++number);
    }
    return image;
}

struct sim_image *sim_image_copy(const struct sim_image *image)
{
    struct sim_image *copy = sim_zalloc(sizeof(*copy));
    sim_media_copy(&copy->media, &image->media);
    return copy;
}

void sim_image_free(struct sim_image *image)
{
    if (!image)
        return;
    sim_media_fini(&image->media);
    free(image);
}

void sim_image_cut(struct sim_image *image, enum sim_cut_mode mode, uint64_t seed)
{
    struct rng rng;
    rng_init(&rng, seed);
    sim_media_cut(&image->media, mode, &rng);
}

void sim_disk_restore(struct sim_disk *disk, const struct sim_image *image)
{
    CHECK_MSG(disk->open_count == 0, "%s is open", disk->path);
    sim_media_fini(&disk->media);
    sim_media_copy(&disk->media, &image->media);
    /* A sync from now on covers what the image has (it may come from another simulation). */
    disk->sim->write_number = MAX(disk->sim->write_number, sim_media_number_max(&disk->media));
}

void sim_disks_free(struct sim_machine *machine)
{
    struct list *link;
    while ((link = list_pop_front(&machine->disks))) {
        struct sim_disk *disk = list_entry(link, struct sim_disk, link);
        sim_disk_clear_faults(disk);
        sim_media_fini(&disk->media);
        free(disk->path);
        free(disk);
    }
}
