/* SPDX-License-Identifier: Apache-2.0
 *
 * One directory, one file for each volume. Nothing is cached by the kernel: names and attributes
 * are valid for 0 s, files are opened direct_io; a write or a resize on another node shows at once.
 *
 * An inode number to FUSE (nodeid) is the address of its struct volume, which lives until the
 * kernel has forgotten it; FUSE_ROOT_ID is the directory. Metadata is asked of blockd each time
 * (admin_queue.c) and waits while it is away, except for what needs no blockd: the root's
 * attributes and statfs, so that df and umount do not hang.
 */
#include "fuse/ops.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/fuse.h>
#include <string.h>
#include <unistd.h>

#include "common/check.h"
#include "common/log.h"
#include "common/mem.h"
#include "fuse/buffer.h"
#include "fuse/request.h"
#include "fuse/volume.h"

static struct mount *mount_of(fuse_req_t fuse)
{
    return fuse_req_userdata(fuse);
}

static struct volume *volume_of(fuse_ino_t ino)
{
    CHECK(ino != FUSE_ROOT_ID);
    return (struct volume *)(uintptr_t)ino;
}

static fuse_ino_t ino_of(const struct volume *v)
{
    return (fuse_ino_t)(uintptr_t)v;
}

/* --- Requests that ask the admin socket ---------------------------------------------------------
 */

struct query {
    struct waiter waiter;
    struct mount *mount;
    struct admin_queue *queue;
    struct admin_call *call;
    struct volume *volume; /* pinned, or NULL */
    char *name;            /* LOOKUP */
    uint64_t new_size_bytes;
    /* READDIR */
    struct listing *listing;
    size_t size;
    off_t off;
};

static void query_free(struct query *q)
{
    waiter_remove(&q->waiter);
    if (q->volume != NULL) {
        q->volume->pins--;
        volume_unref(q->volume);
    }
    mem_free(q->name);
    mem_free(q);
}

static void query_fail(struct query *q, int error)
{
    fuse_reply_err(q->waiter.fuse, -error);
    query_free(q);
}

static void query_cancel(struct waiter *waiter)
{
    struct query *q = container_of(waiter, struct query, waiter);
    admin_queue_forget(q->queue, q->call);
    query_fail(q, -EINTR);
}

static struct query *query_new(fuse_req_t fuse, struct volume *volume)
{
    struct query *q = NEW(struct query);
    q->mount = mount_of(fuse);
    q->queue = q->mount->admin;
    q->volume = volume;
    if (volume != NULL)
        volume->pins++;
    waiter_add(q->mount, &q->waiter, fuse, query_cancel);
    return q;
}

static void query_ask(struct query *q, const char *method, json_t *params, admin_done_fn *done)
{
    q->call = admin_queue_call(q->queue, method, params, ADMIN_WAIT, done, q);
}

static void ask_info(struct query *q, const char *name, admin_done_fn *done)
{
    query_ask(q, "volume.info", volume_info_params(name), done);
}

/* --- Lookup, attributes -------------------------------------------------------------------------
 */

static void root_attr(const struct mount *mount, struct stat *attr)
{
    *attr = (struct stat){
        .st_ino = FUSE_ROOT_ID,
        .st_mode = S_IFDIR | 0755,
        .st_nlink = 2,
        .st_uid = mount->uid,
        .st_gid = mount->gid,
        .st_mtime = mount->started,
        .st_ctime = mount->started,
    };
}

static void looked_up(void *ctx, int error, const json_t *result, const char *text)
{
    struct query *q = ctx;
    if (error == -EINVAL || error == -ENAMETOOLONG) /* no name that a volume could have */
        error = -ENOENT;
    struct volume *v = error == 0 ? volume_learn(q->mount, result) : NULL;
    if (v == NULL) {
        query_fail(q, error != 0 ? error : -EIO);
        return;
    }
    struct fuse_entry_param entry = {.ino = ino_of(v)};
    volume_fill_attr(v, &entry.attr);
    v->lookups++;
    if (fuse_reply_entry(q->waiter.fuse, &entry) == -ENOENT) /* the caller is gone */
        volume_forget(v, 1);
    query_free(q);
}

static void op_lookup(fuse_req_t fuse, fuse_ino_t parent, const char *name)
{
    if (parent != FUSE_ROOT_ID) {
        fuse_reply_err(fuse, ENOTDIR);
        return;
    }
    struct query *q = query_new(fuse, NULL);
    if (!volume_is_known(q->mount, name))
        q->queue = q->mount->admin_new_names;
    ask_info(q, name, looked_up);
}

static void op_forget(fuse_req_t fuse, fuse_ino_t ino, uint64_t lookups)
{
    if (ino != FUSE_ROOT_ID)
        volume_forget(volume_of(ino), lookups);
    fuse_reply_none(fuse);
}

static void op_forget_multi(fuse_req_t fuse, size_t count, struct fuse_forget_data *forgets)
{
    for (size_t i = 0; i < count; i++)
        if (forgets[i].ino != FUSE_ROOT_ID)
            volume_forget(volume_of(forgets[i].ino), forgets[i].nlookup);
    fuse_reply_none(fuse);
}

static void reply_attr(fuse_req_t fuse, const struct volume *v)
{
    struct stat attr;
    volume_fill_attr(v, &attr);
    fuse_reply_attr(fuse, &attr, 0);
}

/* The name may have passed to another volume since: that one's size is not ours. */
static bool learn_own(struct query *q, int error, const json_t *result)
{
    return error == 0 && volume_learn(q->mount, result) == q->volume;
}

static void got_attr(void *ctx, int error, const json_t *result, const char *text)
{
    struct query *q = ctx;
    bool away = error == -ETIMEDOUT || error == -EAGAIN;
    if (error == 0 || error == -ENOENT || (away && q->volume->opens > 0)) {
        /* Gone or renamed, or nobody can say: an open file still has its attributes. */
        learn_own(q, error, result);
        reply_attr(q->waiter.fuse, q->volume);
        query_free(q);
    } else {
        query_fail(q, error);
    }
}

static void op_getattr(fuse_req_t fuse, fuse_ino_t ino, struct fuse_file_info *file)
{
    if (ino == FUSE_ROOT_ID) {
        struct stat attr;
        root_attr(mount_of(fuse), &attr);
        fuse_reply_attr(fuse, &attr, 0);
        return;
    }
    struct volume *v = volume_of(ino);
    ask_info(query_new(fuse, v), v->name, got_attr);
}

static void resized(void *ctx, int error, const json_t *result, const char *text)
{
    struct query *q = ctx;
    if (error != 0) {
        log_warn("%s: cannot grow to %llu bytes: %s", q->volume->name,
            (unsigned long long)q->new_size_bytes, text);
        query_fail(q, error);
        return;
    }
    /* Asked again: blockd may round sizes, and the session learns of the new one this way. */
    ask_info(q, q->volume->name, got_attr);
}

static void got_size_to_grow(void *ctx, int error, const json_t *result, const char *text)
{
    struct query *q = ctx;
    struct volume *v = q->volume;
    if (!learn_own(q, error, result)) {
        query_fail(q, error != 0 ? error : -ESTALE);
    } else if (q->new_size_bytes < v->size_bytes) {
        log_warn("%s: refused to shrink from %llu to %llu bytes: volumes only grow (opened with "
                 "O_TRUNC? use dd's conv=notrunc)",
            v->name, (unsigned long long)v->size_bytes, (unsigned long long)q->new_size_bytes);
        query_fail(q, -EINVAL);
    } else if (q->new_size_bytes == v->size_bytes) {
        reply_attr(q->waiter.fuse, v);
        query_free(q);
    } else {
        query_ask(q, "volume.resize",
            json_pack("{s:s, s:I}", "name", v->name, "size_bytes", (json_int_t)q->new_size_bytes),
            resized);
    }
}

static void op_setattr(
    fuse_req_t fuse, fuse_ino_t ino, struct stat *attr, int to_set, struct fuse_file_info *file)
{
    if (ino == FUSE_ROOT_ID ||
        (to_set & (FUSE_SET_ATTR_MODE | FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID)) != 0) {
        fuse_reply_err(fuse, EPERM); /* owner and mode are the mount's options */
        return;
    }
    struct volume *v = volume_of(ino);
    if (to_set & FUSE_SET_ATTR_MTIME_NOW)
        clock_gettime(CLOCK_REALTIME, &v->modified);
    else if (to_set & FUSE_SET_ATTR_MTIME)
        v->modified = attr->st_mtim;
    if (!(to_set & FUSE_SET_ATTR_SIZE)) {
        op_getattr(fuse, ino, file);
        return;
    }
    struct query *q = query_new(fuse, v);
    q->new_size_bytes = (uint64_t)attr->st_size;
    ask_info(q, v->name, got_size_to_grow);
}

/* --- The directory ------------------------------------------------------------------------------
 */

/* What readdir gives out, taken when the directory is read from its start. */
struct listing {
    char **names;
    uint64_t *inos;
    size_t count;
};

static void listing_clear(struct listing *listing)
{
    for (size_t i = 0; i < listing->count; i++)
        mem_free(listing->names[i]);
    mem_free(listing->names);
    mem_free(listing->inos);
    *listing = (struct listing){0};
}

static bool is_file_name(const char *name)
{
    size_t len = strlen(name);
    return len > 0 && len <= NAME_MAX && strchr(name, '/') == NULL && strcmp(name, ".") != 0 &&
           strcmp(name, "..") != 0;
}

static void listing_add(struct listing *listing, const char *name, uint64_t ino)
{
    listing->names[listing->count] = mem_strdup(name);
    listing->inos[listing->count++] = ino;
}

static void listing_fill(struct listing *listing, const json_t *volumes)
{
    listing_clear(listing);
    size_t max = json_array_size(volumes) + 2, i;
    listing->names = mem_zalloc(max, sizeof(*listing->names));
    listing->inos = mem_zalloc(max, sizeof(*listing->inos));
    listing_add(listing, ".", FUSE_ROOT_ID);
    listing_add(listing, "..", FUSE_ROOT_ID);
    const json_t *info;
    json_array_foreach (volumes, i, info) {
        const char *name = json_string_value(json_object_get(info, "name"));
        CLEANUP_FREE char *id = volume_id_of(info);
        if (name != NULL && is_file_name(name))
            listing_add(listing, name, volume_ino(id));
    }
}

static void reply_listing(fuse_req_t fuse, const struct listing *listing, size_t size, off_t off)
{
    CLEANUP_FREE char *buffer = mem_alloc(size);
    size_t used = 0;
    for (size_t i = (size_t)off; i < listing->count; i++) {
        struct stat attr = {.st_ino = listing->inos[i], .st_mode = i < 2 ? S_IFDIR : S_IFREG};
        size_t len = fuse_add_direntry(
            fuse, buffer + used, size - used, listing->names[i], &attr, (off_t)i + 1);
        if (len > size - used)
            break;
        used += len;
    }
    fuse_reply_buf(fuse, buffer, used);
}

static void op_opendir(fuse_req_t fuse, fuse_ino_t ino, struct fuse_file_info *file)
{
    struct listing *listing = NEW(struct listing);
    file->fh = (uintptr_t)listing;
    if (fuse_reply_open(fuse, file) == -ENOENT)
        mem_free(listing);
}

static void op_releasedir(fuse_req_t fuse, fuse_ino_t ino, struct fuse_file_info *file)
{
    struct listing *listing = (struct listing *)(uintptr_t)file->fh;
    listing_clear(listing);
    mem_free(listing);
    fuse_reply_err(fuse, 0);
}

static void listed(void *ctx, int error, const json_t *result, const char *text)
{
    struct query *q = ctx;
    if (error != 0) {
        query_fail(q, error);
        return;
    }
    listing_fill(q->listing, json_object_get(result, "volumes"));
    reply_listing(q->waiter.fuse, q->listing, q->size, q->off);
    query_free(q);
}

static void op_readdir(
    fuse_req_t fuse, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *file)
{
    struct listing *listing = (struct listing *)(uintptr_t)file->fh;
    if (off > 0) {
        reply_listing(fuse, listing, size, off);
        return;
    }
    struct query *q = query_new(fuse, NULL);
    q->listing = listing;
    q->size = size;
    q->off = off;
    query_ask(q, "volume.list", NULL, listed);
}

/* --- Space --------------------------------------------------------------------------------------
 */

static uint64_t json_bytes(const json_t *object, const char *key)
{
    json_int_t value = json_integer_value(json_object_get(object, key));
    return value > 0 ? (uint64_t)value : 0;
}

static void got_pools(void *ctx, int error, const json_t *result, const char *text)
{
    struct query *q = ctx;
    struct statvfs *st = &q->mount->last_statfs;
    *st = (struct statvfs){.f_bsize = 65536,
        .f_frsize = 4096,
        .f_namemax = NAME_MAX,
        .f_blocks = st->f_blocks,
        .f_bfree = st->f_bfree,
        .f_bavail = st->f_bavail};
    if (error == 0) {
        /* Pools are policies over the same disks: their sizes cannot be added. The largest it is.
         */
        uint64_t size = 0, free_bytes = 0;
        const json_t *pool;
        size_t i;
        json_array_foreach (json_object_get(result, "pools"), i, pool) {
            if (json_bytes(pool, "size_bytes") > size) {
                size = json_bytes(pool, "size_bytes");
                free_bytes = json_bytes(pool, "free_bytes");
            }
        }
        st->f_blocks = size / st->f_frsize;
        st->f_bfree = st->f_bavail = free_bytes / st->f_frsize;
    }
    fuse_reply_statfs(q->waiter.fuse, st);
    query_free(q);
}

static void op_statfs(fuse_req_t fuse, fuse_ino_t ino)
{
    struct query *q = query_new(fuse, NULL);
    q->call = admin_queue_call(q->queue, "pool.list", NULL, ADMIN_FAIL, got_pools, q);
}

/* --- Open files ---------------------------------------------------------------------------------
 */

struct open_query {
    struct waiter waiter;
    struct open_waiter open;
    struct volume *volume;
    bool for_write;
};

static void reply_open(struct open_query *o, int error)
{
    struct volume *v = o->volume;
    if (error == 0 && o->for_write && session_export(v->session)->read_only) {
        volume_close(v);
        error = -EROFS;
    }
    if (error != 0) {
        fuse_reply_err(o->waiter.fuse, -error);
    } else {
        /* Not fuse_reply_open(): it knows no FOPEN_PARALLEL_DIRECT_WRITES before libfuse 3.15, and
         * without that the kernel sends one write after the other. */
        struct fuse_open_out out = {
            .open_flags = FOPEN_DIRECT_IO | FOPEN_PARALLEL_DIRECT_WRITES | FOPEN_NOFLUSH};
        if (fuse_reply_buf(o->waiter.fuse, (const char *)&out, sizeof(out)) == -ENOENT)
            volume_close(v);
    }
    waiter_remove(&o->waiter);
    mem_free(o);
}

static void opened(struct open_waiter *open, int error)
{
    reply_open(container_of(open, struct open_query, open), error);
}

static void open_cancel(struct waiter *waiter)
{
    struct open_query *o = container_of(waiter, struct open_query, waiter);
    volume_open_cancel(o->volume, &o->open);
    reply_open(o, -EINTR);
}

static void op_open(fuse_req_t fuse, fuse_ino_t ino, struct fuse_file_info *file)
{
    struct open_query *o = NEW(struct open_query);
    o->volume = volume_of(ino);
    o->for_write = (file->flags & O_ACCMODE) != O_RDONLY;
    o->open.opened = opened;
    waiter_add(mount_of(fuse), &o->waiter, fuse, open_cancel);
    volume_open(o->volume, &o->open);
}

static void op_release(fuse_req_t fuse, fuse_ino_t ino, struct fuse_file_info *file)
{
    volume_close(volume_of(ino));
    fuse_reply_err(fuse, 0);
}

static void op_read(
    fuse_req_t fuse, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *file)
{
    request_read(volume_of(ino), fuse, (uint64_t)off, size);
}

static void op_write(fuse_req_t fuse, fuse_ino_t ino, const char *data, size_t size, off_t off,
    struct fuse_file_info *file)
{
    /* For direct_io files the kernel leaves O_DSYNC (and O_SYNC, which contains it) to us, also
     * that of RWF_DSYNC. */
    request_write(volume_of(ino), fuse, (const uint8_t *)data, (uint64_t)off, size,
        (file->flags & O_DSYNC) != 0);
}

static void op_fsync(fuse_req_t fuse, fuse_ino_t ino, int datasync, struct fuse_file_info *file)
{
    request_flush(volume_of(ino), fuse);
}

static void op_fallocate(
    fuse_req_t fuse, fuse_ino_t ino, int mode, off_t off, off_t len, struct fuse_file_info *file)
{
    request_allocate(volume_of(ino), fuse, mode, (uint64_t)off, (uint64_t)len);
}

static void op_lseek(
    fuse_req_t fuse, fuse_ino_t ino, off_t off, int whence, struct fuse_file_info *file)
{
    if (whence != SEEK_DATA && whence != SEEK_HOLE)
        fuse_reply_err(fuse, EINVAL);
    else
        request_seek(volume_of(ino), fuse, (uint64_t)off, whence);
}

/* --- What the mount does not do -----------------------------------------------------------------
 */

/* Volumes are made, renamed and deleted by the holdfast command: it takes more than a name. */
static void op_create(
    fuse_req_t fuse, fuse_ino_t parent, const char *name, mode_t mode, struct fuse_file_info *file)
{
    fuse_reply_err(fuse, EPERM);
}

static void op_mknod(fuse_req_t fuse, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev)
{
    fuse_reply_err(fuse, EPERM);
}

static void op_mkdir(fuse_req_t fuse, fuse_ino_t parent, const char *name, mode_t mode)
{
    fuse_reply_err(fuse, EPERM);
}

static void op_remove(fuse_req_t fuse, fuse_ino_t parent, const char *name)
{
    fuse_reply_err(fuse, EPERM);
}

static void op_rename(fuse_req_t fuse, fuse_ino_t parent, const char *name, fuse_ino_t new_parent,
    const char *new_name, unsigned flags)
{
    fuse_reply_err(fuse, EPERM);
}

static void op_symlink(fuse_req_t fuse, const char *target, fuse_ino_t parent, const char *name)
{
    fuse_reply_err(fuse, EPERM);
}

static void op_link(fuse_req_t fuse, fuse_ino_t ino, fuse_ino_t parent, const char *name)
{
    fuse_reply_err(fuse, EPERM);
}

static void op_init(void *ctx, struct fuse_conn_info *conn)
{
    /* O_TRUNC must come as a setattr, to be refused: the kernel would take it for done. */
    conn->want &=
        ~(unsigned)(FUSE_CAP_SPLICE_READ | FUSE_CAP_SPLICE_WRITE | FUSE_CAP_SPLICE_MOVE |
                    FUSE_CAP_WRITEBACK_CACHE | FUSE_CAP_READDIRPLUS | FUSE_CAP_ATOMIC_O_TRUNC);
    conn->want |= conn->capable & (FUSE_CAP_ASYNC_DIO | FUSE_CAP_PARALLEL_DIROPS);
    conn->max_write = MOUNT_IO_BYTES_MAX;
    /* Requests of asynchronous I/O in flight; the default of 12 would be the queue depth. */
    conn->max_background = 256;
    conn->congestion_threshold = 192;
}

const struct fuse_lowlevel_ops mount_ops = {
    .init = op_init,
    .lookup = op_lookup,
    .forget = op_forget,
    .forget_multi = op_forget_multi,
    .getattr = op_getattr,
    .setattr = op_setattr,
    .open = op_open,
    .release = op_release,
    .read = op_read,
    .write = op_write,
    .fsync = op_fsync,
    .fallocate = op_fallocate,
    .lseek = op_lseek,
    .opendir = op_opendir,
    .readdir = op_readdir,
    .releasedir = op_releasedir,
    .statfs = op_statfs,
    .create = op_create,
    .mknod = op_mknod,
    .mkdir = op_mkdir,
    .unlink = op_remove,
    .rmdir = op_remove,
    .rename = op_rename,
    .symlink = op_symlink,
    .link = op_link,
};
