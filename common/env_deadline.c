/* SPDX-License-Identifier: Apache-2.0
 *
 * A layer over a file of any env that answers every I/O in time (T1-T3 in env.h).
 *
 * Each I/O goes down as one of this layer's own, which stays until it is back, whoever waits for it. A timer ticks
 * eight times in the timeout while anything is under way; what has seen more than eight ticks has hung.
 * Ticks instead of the clock: after a pause of the process one tick is late, and the completions that came meanwhile are
 * taken before the next (T3).
 */
#include <errno.h>
#include <string.h>

#include "common/check.h"
#include "common/env_impl.h"
#include "common/mem.h"
#include "common/planted.h"

#define TICKS 8
#define PAGE_BYTES 4096u
#define SPARE_PAGES_MAX 64
#define BELOW_MAX 128

struct deadline_file {
    struct env_file file;
    struct env_file *inner;
    uint64_t tick_ns, ticks;
    struct env_timer timer;             /* the next tick, while anything is under way */
    struct env_timer later;             /* answers what is refused, from the loop */
    struct list under_way, away, spare; /* guarded; away: given up and not back */
    struct list refused;                /* env_io.link */
    struct list waiting;                /* env_io.link: BELOW_MAX are under way (T4) */
    unsigned below;                     /* in `under_way` */
    struct list spare_pages;            /* the link is in the page */
    unsigned spare_page_count;
    bool hung, closed;
    int late_error; /* of a write or flush that came back after it was given up; 0 = none */
    void (*on_hung)(void *ctx);
    void *ctx;
};

/* One I/O. */
struct guarded {
    struct env_io inner;
    struct list link;
    struct deadline_file *file;
    struct env_io *outer; /* NULL: given up */
    uint64_t tick;        /* at its submission */
    void *copy;           /* NULL: it works on the submitter's memory (T2) */
    size_t copy_bytes;
    struct iovec iov;  /* of the copy, or of a read with `leave` */
    struct left *left; /* given up: what stays of that read's buffer */
};

/* A read that was left behind. Until its owner gives the memory away it is on env->left, back or not. */
struct left {
    struct list link;        /* env->left, or lone */
    struct guarded *guarded; /* NULL: it is back */
    struct leaving *leaving; /* NULL: the owner still has the memory */
    const char *base;
    size_t len_bytes;
};

/* Memory that its owner has given away. */
struct leaving {
    unsigned pending;
    void (*back)(void *ctx);
    void *ctx;
};

static struct deadline_file *deadline_file_of(struct env_file *file)
{
    return container_of(file, struct deadline_file, file);
}

/* --- Copies -------------------------------------------------------------------------------------- */

static size_t io_len_bytes(const struct env_io *io)
{
    size_t len_bytes = 0;
    for (unsigned i = 0; i < io->iov_count; i++)
        len_bytes += io->iov[i].iov_len;
    return len_bytes;
}

static void *copy_alloc(struct deadline_file *f, size_t len_bytes)
{
    struct list *page = len_bytes == PAGE_BYTES ? list_pop_front(&f->spare_pages) : NULL;
    if (!page)
        return mem_alloc_pages(len_bytes);
    f->spare_page_count--;
    return page;
}

static void copy_free(struct deadline_file *f, void *copy, size_t len_bytes)
{
    if (len_bytes != PAGE_BYTES || f->spare_page_count == SPARE_PAGES_MAX) {
        mem_free_pages(copy, len_bytes);
        return;
    }
    list_push_front(&f->spare_pages, copy);
    f->spare_page_count++;
}

static void copy_in(const struct env_io *io, char *copy)
{
    for (unsigned i = 0; i < io->iov_count; copy += io->iov[i++].iov_len)
        memcpy(copy, io->iov[i].iov_base, io->iov[i].iov_len);
}

static void copy_out(const struct env_io *io, const char *copy)
{
    for (unsigned i = 0; i < io->iov_count; copy += io->iov[i++].iov_len)
        memcpy(io->iov[i].iov_base, copy, io->iov[i].iov_len);
}

/* --- Memory left behind (T2) --------------------------------------------------------------------- */

bool env_memory_left(const void *ptr, size_t len_bytes)
{
    struct env *env = fiber_env();
    if (!env || list_empty(&env->left))
        return false;
    const char *base = ptr;
    list_for_each (it, &env->left) {
        const struct left *left = list_entry(it, struct left, link);
        if (left->base < base + len_bytes && base < left->base + left->len_bytes)
            return true;
    }
    return false;
}

static void left_unref(struct leaving *leaving)
{
    if (--leaving->pending > 0)
        return;
    leaving->back(leaving->ctx);
    mem_free(leaving);
}

void env_memory_leave(void *ptr, size_t len_bytes, void (*back)(void *ctx), void *ctx)
{
    const char *base = ptr;
    struct leaving *leaving = NEW(struct leaving);
    *leaving = (struct leaving){.pending = 1, .back = back, .ctx = ctx};
    list_for_each_safe (it, &fiber_env()->left) {
        struct left *left = list_entry(it, struct left, link);
        if (left->base >= base + len_bytes || base >= left->base + left->len_bytes)
            continue;
        list_remove(&left->link);
        if (!left->guarded) {
            mem_free(left);
            continue;
        }
        left->leaving = leaving;
        leaving->pending++;
    }
    left_unref(leaving);
}

static void leave_behind(struct guarded *g)
{
    struct left *left = NEW(struct left);
    *left = (struct left){.guarded = g, .base = g->iov.iov_base, .len_bytes = g->iov.iov_len};
    g->left = left;
    list_push_back(&g->file->file.env->left, &left->link);
}

static void left_is_back(struct left *left)
{
    left->guarded = NULL;
    if (!left->leaving)
        return;
    left_unref(left->leaving);
    mem_free(left);
}

/* --- Life of one I/O ----------------------------------------------------------------------------- */

static void late_close(void *arg)
{
    struct deadline_file *f = arg;
    env_file_close(f->inner);
    mem_free(f);
}

static void spares_free(struct deadline_file *f)
{
    struct list *link;
    while ((link = list_pop_front(&f->spare)))
        mem_free(list_entry(link, struct guarded, link));
    while ((link = list_pop_front(&f->spare_pages)))
        mem_free_pages(link, PAGE_BYTES);
    f->spare_page_count = 0;
}

/* Nobody has waited for it since the file hung. */
static void given_up_done(struct guarded *g)
{
    struct deadline_file *f = g->file;
    int result = (int)MIN(g->inner.result, 0);
    /* -EINTR, -EAGAIN, -EFAULT (the memory is gone, T2): the kernel did nothing. */
    if (g->inner.op != ENV_IO_READ && result < 0 && result != -EINTR && result != -EAGAIN &&
        result != -EFAULT)
        f->late_error = result;
    list_remove(&g->link);
    if (g->left)
        left_is_back(g->left);
    if (g->copy)
        mem_free_pages(g->copy, g->copy_bytes);
    mem_free(g);
    if (f->closed && list_empty(&f->away))
        fiber_spawn("late close", late_close, f);
}

static void send_down(struct deadline_file *f, struct env_io *io);

static void guarded_done(struct env_io *inner)
{
    struct guarded *g = container_of(inner, struct guarded, inner);
    struct deadline_file *f = g->file;
    struct env_io *outer = g->outer;
    if (!outer) {
        given_up_done(g);
        return;
    }
    outer->result = inner->result;
    if (g->copy) {
        if (inner->op == ENV_IO_READ && inner->result >= 0)
            copy_out(outer, g->copy);
        copy_free(f, g->copy, g->copy_bytes);
    }
    list_remove(&g->link);
    list_push_front(&f->spare, &g->link);
    f->below--;
    struct list *next = list_pop_front(&f->waiting);
    if (next)
        send_down(f, list_entry(next, struct env_io, link));
    outer->done(outer);
}

static void use_copy(struct guarded *g, const struct env_io *io)
{
    g->copy_bytes = io_len_bytes(io);
    g->copy = copy_alloc(g->file, g->copy_bytes);
    if (io->op != ENV_IO_READ)
        copy_in(io, g->copy);
    g->iov = (struct iovec){g->copy, g->copy_bytes};
}

/* What the I/O below works on: `g->inner.iov`. */
static void choose_memory(struct guarded *g, const struct env_io *io)
{
    bool leave = io->leave && g->file->inner->ops->abandon;
    if (io->op == ENV_IO_SYNC || env_io_check(io) < 0)
        return; /* it has none, or will be refused */
    if (leave && io->op != ENV_IO_READ)
        return;
    if (leave && io->iov_count == 1)
        g->iov = io->iov[0];
    else
        use_copy(g, io);
    g->inner.iov = &g->iov;
    g->inner.iov_count = 1;
}

static void refuse(struct deadline_file *f, struct env_io *io)
{
    io->result = -ETIMEDOUT;
    list_push_back(&f->refused, &io->link);
    if (!env_timer_armed(&f->later))
        env_timer_arm(&f->later, io->submitted_ns);
}

static void send_down(struct deadline_file *f, struct env_io *io)
{
    struct list *link = list_pop_front(&f->spare);
    struct guarded *g = link ? list_entry(link, struct guarded, link) : mem_alloc(sizeof(*g));
    g->inner = (struct env_io){.op = io->op,
        .file = f->inner,
        .iov = io->iov,
        .iov_count = io->iov_count,
        .off_bytes = io->off_bytes,
        .done = guarded_done,
        .submitted_ns = io->submitted_ns,
        .env = io->env};
    g->file = f;
    g->outer = io;
    g->tick = f->ticks;
    g->copy = NULL;
    g->left = NULL;
    choose_memory(g, io);
    list_push_back(&f->under_way, &g->link);
    f->below++;
    if (!env_timer_armed(&f->timer))
        env_timer_arm(&f->timer, io->submitted_ns + f->tick_ns);
    f->inner->ops->submit(&g->inner);
}

static void deadline_submit(struct env_io *io)
{
    struct deadline_file *f = deadline_file_of(io->file);
    if (f->hung)
        refuse(f, io);
    else if (f->below == BELOW_MAX)
        list_push_back(&f->waiting, &io->link);
    else
        send_down(f, io);
}

/* --- The deadline -------------------------------------------------------------------------------- */

static void answer_refused(struct env_timer *timer)
{
    struct deadline_file *f = container_of(timer, struct deadline_file, later);
    struct list refused, *link;
    list_init(&refused);
    list_splice_back(&refused, &f->refused);
    while ((link = list_pop_front(&refused))) {
        struct env_io *io = list_entry(link, struct env_io, link);
        io->done(io);
    }
}

/* Nobody shall wait for it any more; its answer goes to f->refused. */
static void give_up(struct guarded *g)
{
    struct deadline_file *f = g->file;
    const struct env_file_ops *below = f->inner->ops;
    refuse(f, g->outer);
    g->outer = NULL;
    list_remove(&g->link);
    list_push_back(&f->away, &g->link);
    if (below->abandon && below->abandon(&g->inner, g->copy != NULL)) {
        g->inner.result = 0; /* the kernel never had it */
        given_up_done(g);
    } else if (g->inner.op == ENV_IO_READ && !g->copy)
        leave_behind(g);
}

static void hang(struct deadline_file *f)
{
    f->hung = true;
    if (f->on_hung)
        f->on_hung(f->ctx);
    while (!list_empty(&f->under_way))
        give_up(list_entry(f->under_way.next, struct guarded, link));
    struct list *link;
    while ((link = list_pop_front(&f->waiting)))
        refuse(f, list_entry(link, struct env_io, link));
}

static void tick(struct env_timer *timer)
{
    struct deadline_file *f = container_of(timer, struct deadline_file, timer);
    f->ticks++;
    if (list_empty(&f->under_way))
        return;
    bool hangs = f->ticks - list_entry(f->under_way.next, struct guarded, link)->tick > TICKS;
    if (hangs && !PLANTED(hang_is_waited_for))
        hang(f);
    else
        env_timer_arm(&f->timer, env_now_ns() + f->tick_ns);
}

/* --- The file ------------------------------------------------------------------------------------ */

static MAY_SUSPEND void deadline_close(struct env_file *file)
{
    struct deadline_file *f = deadline_file_of(file);
    CHECK_MSG(list_empty(&f->under_way) && list_empty(&f->refused) && list_empty(&f->waiting),
        "%s closed with I/O in flight", file->path);
    env_timer_cancel(&f->timer);
    env_timer_cancel(&f->later);
    spares_free(f);
    f->closed = true;
    if (list_empty(&f->away))
        late_close(f);
}

static const struct env_file_ops deadline_ops = {
    .submit = deadline_submit, .close = deadline_close};

struct env_file *env_file_deadline(struct env_file *inner, uint64_t timeout_ns)
{
    struct deadline_file *f = NEW(struct deadline_file);
    CHECK(timeout_ns >= TICKS);
    f->file = *inner; /* same env, size, path (the inner file's), read_only */
    f->file.ops = &deadline_ops;
    f->inner = inner;
    f->tick_ns = timeout_ns / TICKS;
    list_init(&f->under_way);
    list_init(&f->away);
    list_init(&f->spare);
    list_init(&f->refused);
    list_init(&f->waiting);
    list_init(&f->spare_pages);
    env_timer_init(&f->timer, tick);
    env_timer_init(&f->later, answer_refused);
    return &f->file;
}

void env_file_on_hung(struct env_file *file, void (*hung)(void *ctx), void *ctx)
{
    struct deadline_file *f = deadline_file_of(file);
    CHECK(file->ops == &deadline_ops);
    f->on_hung = hung;
    f->ctx = ctx;
}

bool env_file_hangs(const struct env_file *file)
{
    CHECK(file->ops == &deadline_ops);
    return container_of(file, const struct deadline_file, file)->hung;
}

int env_file_hung_back(const struct env_file *file)
{
    const struct deadline_file *f = container_of(file, const struct deadline_file, file);
    CHECK(file->ops == &deadline_ops);
    return f->late_error < 0 ? f->late_error : list_empty(&f->away);
}
