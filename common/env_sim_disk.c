/* SPDX-License-Identifier: Apache-2.0
 *
 * Simulated disks as the test sees them: contents, faults, images. Operations are in env_sim_io.c.
 */
#include <stdlib.h>
#include <string.h>

#include "common/check.h"
#include "common/env_sim_disk.h"

struct fault {
    struct list link;
    struct sim_fault rule;
    uint64_t spared, applied;
};

/* --- Faults ------------------------------------------------------------- */

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
const struct sim_fault *sim_fault_find(const struct sim_io *sio, bool at_submission)
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

/* --- Disks -------------------------------------------------------------- */

struct sim_disk *sim_disk_lookup(struct sim_machine *machine, const char *path)
{
    list_for_each (it, &machine->disks) {
        struct sim_disk *disk = list_entry(it, struct sim_disk, link);
        if (strcmp(disk->path, path) == 0)
            return disk;
    }
    return NULL;
}

struct sim_disk *sim_disk_new(struct env *env, const char *path, uint64_t size_bytes)
{
    struct sim_machine *machine = sim_node_of(env)->machine;
    CHECK_MSG(!sim_disk_lookup(machine, path), "%s exists", path);
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
    struct sim_disk *disk = sim_disk_lookup(sim_node_of(node)->machine, path);
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

void sim_disk_lose_cache(struct sim_disk *disk, enum sim_cut_mode mode)
{
    sim_media_cut(&disk->media, mode, &disk->sim->disk_rng);
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

void sim_disk_hang(struct sim_disk *disk)
{
    disk->hung = true;
}

bool sim_disk_hangs(const struct sim_disk *disk)
{
    return disk->hung;
}

void sim_disk_go_on(struct sim_disk *disk)
{
    disk->hung = false;
    list_for_each (it, &disk->ios) {
        struct sim_io *sio = list_entry(it, struct sim_io, disk_link);
        if (sio->event.heap_index == 0)
            sim_event_arm(disk->sim, &sio->event,
                disk->sim->now_ns + rng_below(&disk->sim->disk_rng, 20000000));
    }
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

/* --- Images ------------------------------------------------------------- */

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
        if (sim_io_may_change(sio))
            sim_io_add_under_way(sio, &image->media, ++number);
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
    sim_media_drop_under_way(&disk->media);
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
