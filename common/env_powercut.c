/* SPDX-License-Identifier: Apache-2.0
 *
 * Tests only: makes kill -9 of the process a power cut of its disks. Between the daemon and each
 * disk file lies an overlay in process memory that holds every block written and not yet synced;
 * the file below gets a block only when a sync or a DSYNC write asks for it.
 *
 *  P1 A plain write completes in the overlay and touches the file below never by itself.
 *  P2 A sync writes the overlay's blocks that were first dirtied before its submission, then syncs
 * the file below. A block written again since then carries its newest bytes: a disk may persist
 * more than asked. P3 A DSYNC write makes its own range durable and nothing else. P4 Syncs and
 * DSYNC writes of a file run one after another, so that two versions of a block cannot race below.
 *  P5 A read is patched with the overlay as it was when the read was submitted: what left the
 * overlay before is below, what came later is concurrent. P6 Closing is not a power cut: it writes
 * what is left.
 */
#include <errno.h>
#include <string.h>

#include "common/check.h"
#include "common/env_uring.h"
#include "common/mem.h"

#define BLOCK_BYTES 4096u
#define RUN_BLOCKS_MAX 256u

/* One block's bytes; shared by the overlay, reads and syncs in flight, so never changed when refs
 * > 1. */
struct page {
    unsigned refs;
    char *data;
};

struct block {
    struct list link; /* powercut.dirty, oldest first */
    uint64_t index;
    uint64_t first_seq, last_seq; /* of the unsynced writes in it */
    struct page *page;
};

struct powercut {
    struct env_file file;
    struct env_file *inner;
    struct block **blocks; /* by index; NULL = not in the overlay */
    struct list dirty;
    uint64_t seq; /* of the newest write or sync submitted */
    struct list durables;
    bool durable_active;
    unsigned in_flight;
};

/* A block that a sync is writing, or that a read will be patched with. */
struct taken {
    struct block *block; /* syncs only */
    uint64_t index, seq;
    struct page *page;
};

/* One write of a sync: blocks that lie next to each other. */
struct run {
    struct env_io io;
    struct durable *durable;
};

/* A sync or DSYNC write, in line (P4). */
struct durable {
    struct list link;
    struct powercut *pc;
    struct env_io *outer;
    struct env_io inner; /* the DSYNC write, or the sync after the runs */
    uint64_t seq;
    struct taken *taken;
    struct iovec *iov;
    struct run *runs;
    unsigned taken_count, pending;
    int error;
};

struct patched_read {
    struct powercut *pc;
    struct env_io *outer;
    struct env_io inner;
    unsigned taken_count;
    struct taken taken[];
};

static struct powercut *powercut_of(struct env_file *file)
{
    return container_of(file, struct powercut, file);
}

/* --- The overlay ------------------------------------------------------------------------------- */

static struct page *page_new(void)
{
    struct page *page = NEW(struct page);
    page->refs = 1;
    page->data = mem_alloc_pages(BLOCK_BYTES);
    return page;
}

static struct page *page_get(struct page *page)
{
    page->refs++;
    return page;
}

static void page_put(struct page *page)
{
    if (--page->refs > 0)
        return;
    mem_free_pages(page->data, BLOCK_BYTES);
    mem_free(page);
}

static void block_free(struct powercut *pc, struct block *block)
{
    pc->blocks[block->index] = NULL;
    list_remove(&block->link);
    page_put(block->page);
    mem_free(block);
}

static void block_write(struct powercut *pc, uint64_t index, const void *data, uint64_t seq)
{
    struct block *block = pc->blocks[index];
    if (!block) {
        block = NEW(struct block);
        block->index = index;
        block->first_seq = seq;
        block->page = page_new();
        list_push_back(&pc->dirty, &block->link);
        pc->blocks[index] = block;
    } else if (block->page->refs > 1) {
        page_put(block->page);
        block->page = page_new();
    }
    block->last_seq = seq;
    memcpy(block->page->data, data, BLOCK_BYTES);
}

/* The bytes up to seq are durable. */
static void block_synced(struct powercut *pc, struct block *block, uint64_t seq)
{
    if (block->last_seq <= seq)
        block_free(pc, block);
    else
        block->first_seq = MAX(block->first_seq, seq + 1);
}

/* The address of byte `off_bytes` of the I/O (block aligned). */
static char *iov_at(const struct env_io *io, uint64_t off_bytes)
{
    const struct iovec *iov = io->iov;
    while (off_bytes >= iov->iov_len) {
        off_bytes -= iov->iov_len;
        iov++;
    }
    return (char *)iov->iov_base + off_bytes;
}

static uint64_t io_blocks(const struct env_io *io)
{
    uint64_t len_bytes = 0;
    for (unsigned i = 0; i < io->iov_count; i++)
        len_bytes += io->iov[i].iov_len;
    return len_bytes / BLOCK_BYTES;
}

static void finish(struct powercut *pc, struct env_io *outer, int64_t result)
{
    pc->in_flight--;
    outer->result = result;
    outer->done(outer);
}

/* --- Writes, reads ----------------------------------------------------------------------------- */

static void submit_write(struct powercut *pc, struct env_io *io)
{
    uint64_t seq = ++pc->seq, count = io_blocks(io), first = io->off_bytes / BLOCK_BYTES;
    for (uint64_t i = 0; i < count; i++)
        block_write(pc, first + i, iov_at(io, i * BLOCK_BYTES), seq);
    uring_io_complete_later(io, (int64_t)(count * BLOCK_BYTES)); /* P1 */
}

static void read_done(struct env_io *inner)
{
    struct patched_read *read = container_of(inner, struct patched_read, inner);
    struct env_io *outer = read->outer;
    for (unsigned i = 0; i < read->taken_count; i++) {
        uint64_t off_bytes = read->taken[i].index * BLOCK_BYTES - outer->off_bytes;
        memcpy(iov_at(outer, off_bytes), read->taken[i].page->data, BLOCK_BYTES);
        page_put(read->taken[i].page);
    }
    struct powercut *pc = read->pc;
    int64_t result = inner->result;
    mem_free(read);
    finish(pc, outer, result);
}

static void submit_read(struct powercut *pc, struct env_io *io)
{
    uint64_t count = io_blocks(io), first = io->off_bytes / BLOCK_BYTES;
    struct patched_read *read = mem_zalloc(1, sizeof(*read) + count * sizeof(read->taken[0]));
    read->pc = pc;
    read->outer = io;
    for (uint64_t i = first; i < first + count; i++)
        if (pc->blocks[i])
            read->taken[read->taken_count++] =
                (struct taken){.index = i, .page = page_get(pc->blocks[i]->page)};
    read->inner = (struct env_io){
        .op = ENV_IO_READ,
        .file = pc->inner,
        .iov = io->iov,
        .iov_count = io->iov_count,
        .off_bytes = io->off_bytes,
        .done = read_done,
    };
    pc->in_flight++;
    env_io_submit(&read->inner);
}

/* --- Syncs, DSYNC writes ----------------------------------------------------------------------- */

static void durable_start_next(struct powercut *pc);

static void durable_finish(struct durable *d, int64_t result)
{
    struct powercut *pc = d->pc;
    struct env_io *outer = d->outer;
    for (unsigned i = 0; i < d->taken_count; i++)
        page_put(d->taken[i].page);
    mem_free(d->taken);
    mem_free(d->iov);
    mem_free(d->runs);
    mem_free(d);
    pc->durable_active = false;
    durable_start_next(pc);
    finish(pc, outer, result); /* last: its owner may close the file */
}

static void dsync_done(struct env_io *inner)
{
    struct durable *d = container_of(inner, struct durable, inner);
    struct powercut *pc = d->pc;
    uint64_t first = inner->off_bytes / BLOCK_BYTES, end = first + io_blocks(inner);
    for (uint64_t i = first; i < end && inner->result >= 0; i++)
        if (pc->blocks[i])
            block_synced(pc, pc->blocks[i], d->seq);
    durable_finish(d, inner->result);
}

static void sync_done(struct env_io *inner)
{
    struct durable *d = container_of(inner, struct durable, inner);
    for (unsigned i = 0; i < d->taken_count && inner->result >= 0; i++)
        block_synced(d->pc, d->taken[i].block, d->taken[i].seq);
    durable_finish(d, inner->result);
}

static void sync_after_runs(struct durable *d)
{
    if (d->error) {
        durable_finish(d, d->error);
        return;
    }
    d->inner = (struct env_io){.op = ENV_IO_SYNC, .file = d->pc->inner, .done = sync_done};
    env_io_submit(&d->inner);
}

static void run_done(struct env_io *io)
{
    struct durable *d = container_of(io, struct run, io)->durable;
    if (io->result < 0 && !d->error)
        d->error = (int)io->result;
    if (--d->pending == 0)
        sync_after_runs(d);
}

/* Takes the blocks of P2 in dirtying order. */
static void sync_take(struct durable *d)
{
    unsigned count = 0;
    list_for_each (link, &d->pc->dirty)
        count += list_entry(link, struct block, link)->first_seq <= d->seq;
    d->taken = mem_zalloc(count, sizeof(d->taken[0]));
    d->iov = mem_zalloc(count, sizeof(d->iov[0]));
    d->runs = mem_zalloc(count, sizeof(d->runs[0]));
    list_for_each (link, &d->pc->dirty) {
        struct block *block = list_entry(link, struct block, link);
        if (block->first_seq > d->seq)
            continue;
        d->iov[d->taken_count] = (struct iovec){block->page->data, BLOCK_BYTES};
        d->taken[d->taken_count++] = (struct taken){
            .block = block,
            .index = block->index,
            .seq = block->last_seq,
            .page = page_get(block->page),
        };
    }
}

/* Neighbours that were dirtied one after another go down as one write. */
static void sync_start(struct durable *d)
{
    sync_take(d);
    unsigned run_count = 0;
    for (unsigned i = 0, n; i < d->taken_count; i += n) {
        for (n = 1; n < RUN_BLOCKS_MAX && i + n < d->taken_count; n++)
            if (d->taken[i + n].index != d->taken[i].index + n)
                break;
        struct run *run = &d->runs[run_count++];
        run->durable = d;
        run->io = (struct env_io){
            .op = ENV_IO_WRITE,
            .file = d->pc->inner,
            .iov = &d->iov[i],
            .iov_count = n,
            .off_bytes = d->taken[i].index * BLOCK_BYTES,
            .done = run_done,
        };
    }
    d->pending = run_count;
    if (run_count == 0)
        sync_after_runs(d);
    for (unsigned i = 0; i < run_count; i++)
        env_io_submit(&d->runs[i].io);
}

static void durable_start_next(struct powercut *pc)
{
    struct list *link = pc->durable_active ? NULL : list_pop_front(&pc->durables);
    if (!link)
        return;
    struct durable *d = list_entry(link, struct durable, link);
    pc->durable_active = true;
    if (d->outer->op == ENV_IO_SYNC) {
        sync_start(d);
        return;
    }
    d->inner = (struct env_io){
        .op = ENV_IO_WRITE_DSYNC,
        .file = pc->inner,
        .iov = d->outer->iov,
        .iov_count = d->outer->iov_count,
        .off_bytes = d->outer->off_bytes,
        .done = dsync_done,
    };
    env_io_submit(&d->inner);
}

static void submit_durable(struct powercut *pc, struct env_io *io)
{
    struct durable *d = NEW(struct durable);
    d->pc = pc;
    d->outer = io;
    d->seq = ++pc->seq;
    pc->in_flight++;
    list_push_back(&pc->durables, &d->link);
    durable_start_next(pc);
}

/* --- The file ---------------------------------------------------------------------------------- */

static void powercut_submit(struct env_io *io)
{
    struct powercut *pc = powercut_of(io->file);
    int error = env_io_check(io);
    if (error) {
        uring_io_complete_later(io, error);
        return;
    }
    switch (io->op) {
    case ENV_IO_READ:
        submit_read(pc, io);
        break;
    case ENV_IO_WRITE:
        submit_write(pc, io);
        break;
    case ENV_IO_WRITE_DSYNC:
    case ENV_IO_SYNC:
        submit_durable(pc, io);
        break;
    }
}

static void powercut_close(struct env_file *file)
{
    struct powercut *pc = powercut_of(file);
    CHECK_MSG(pc->in_flight == 0, "%s closed with %u I/Os in flight", file->path, pc->in_flight);
    while (!list_empty(&pc->dirty)) { /* P6 */
        struct block *block = list_entry(pc->dirty.next, struct block, link);
        env_file_write(
            pc->inner, block->page->data, BLOCK_BYTES, block->index * BLOCK_BYTES, false);
        block_free(pc, block);
    }
    env_file_close(pc->inner);
    mem_free(pc->blocks);
    mem_free(pc);
}

static const struct env_file_ops powercut_ops = {
    .submit = powercut_submit,
    .close = powercut_close,
};

struct env_file *powercut_wrap(struct env_file *inner)
{
    struct powercut *pc = NEW(struct powercut);
    pc->file = *inner; /* same env, size, path (the inner file's), read_only */
    pc->file.ops = &powercut_ops;
    pc->inner = inner;
    /* Untouched parts of this cost no memory. */
    pc->blocks = mem_zalloc(inner->size_bytes / BLOCK_BYTES, sizeof(pc->blocks[0]));
    list_init(&pc->dirty);
    list_init(&pc->durables);
    return &pc->file;
}
