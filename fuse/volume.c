/* SPDX-License-Identifier: Apache-2.0
 *
 * A volume is freed when the kernel has forgotten it, no file of it is open, its session is closed
 * and no admin call for it is under way. The session closes only from `close_later`, at the end of
 * a loop's turn: never inside its own callbacks.
 */
#include "fuse/volume.h"

#include <errno.h>
#include <string.h>

#include "common/check.h"
#include "common/log.h"
#include "common/mem.h"
#include "fuse/request.h"

/* --- What the admin socket tells -------------------------------------------------------------- */

/* FNV-1a (Fowler, Noll, Vo), so that a volume keeps its inode number from mount to mount. */
uint64_t volume_ino(const char *id)
{
    uint64_t hash = 0xcbf29ce484222325u;
    for (; *id != 0; id++)
        hash = (hash ^ (uint8_t)*id) * 0x100000001b3u;
    return hash > FUSE_ROOT_ID ? hash : hash + 2;
}

json_t *volume_info_params(const char *name)
{
    return json_pack("{s:s, s:b}", "name", name, "open", false);
}

char *volume_id_of(const json_t *info)
{
    const json_t *id = json_object_get(info, "volume");
    if (json_is_integer(id))
        return mem_printf("%lld", (long long)json_integer_value(id));
    const char *text = json_string_value(id);
    if (text == NULL)
        text = json_string_value(json_object_get(info, "name"));
    return text != NULL ? mem_strdup(text) : NULL;
}

static bool has_grown(const struct volume *v)
{
    return v->session != NULL && v->size_bytes > session_export(v->session)->size_bytes;
}

/* Once for each size: an NBD server that never shows it must not be reconnected to for ever. */
static void renew_if_grown(struct volume *v)
{
    if (!has_grown(v) || !session_is_up(v->session) || v->renewed_for_bytes == v->size_bytes)
        return;
    v->renewed_for_bytes = v->size_bytes;
    session_renew(v->session);
}

static void close_later(struct loop_later *later);

static struct volume *volume_new(struct mount *mount, const char *id)
{
    struct volume *v = NEW(struct volume);
    v->mount = mount;
    v->id = mem_strdup(id);
    v->name = mem_strdup("");
    v->modified.tv_sec = mount->started;
    v->allocated_bytes = UINT64_MAX;
    list_init(&v->open_waiters);
    list_init(&v->size_waiters);
    range_locks_init(&v->range_locks);
    loop_later_init(&v->close_later, close_later);
    list_push_back(&mount->volumes, &v->link);
    return v;
}

static struct volume *volume_find(struct mount *mount, const char *id)
{
    list_for_each (it, &mount->volumes) {
        struct volume *v = list_entry(it, struct volume, link);
        if (strcmp(v->id, id) == 0)
            return v;
    }
    return NULL;
}

bool volume_is_known(const struct mount *mount, const char *name)
{
    list_for_each (it, &mount->volumes)
        if (strcmp(list_entry(it, struct volume, link)->name, name) == 0)
            return true;
    return false;
}

struct volume *volume_learn(struct mount *mount, const json_t *info)
{
    const char *name = json_string_value(json_object_get(info, "name"));
    const json_t *size = json_object_get(info, "size_bytes");
    const json_t *allocated = json_object_get(info, "allocated_bytes");
    CLEANUP_FREE char *id = volume_id_of(info);
    if (name == NULL || id == NULL || !json_is_integer(size))
        return NULL;
    struct volume *v = volume_find(mount, id);
    if (v == NULL)
        v = volume_new(mount, id);
    if (strcmp(v->name, name) != 0) {
        mem_free(v->name);
        v->name = mem_strdup(name);
    }
    v->size_bytes = (uint64_t)json_integer_value(size);
    if (json_is_integer(allocated))
        v->allocated_bytes = (uint64_t)json_integer_value(allocated);
    renew_if_grown(v);
    return v;
}

void volume_fill_attr(const struct volume *v, struct stat *attr)
{
    *attr = (struct stat){
        .st_ino = volume_ino(v->id),
        .st_mode = S_IFREG | v->mount->file_mode,
        .st_nlink = 1,
        .st_uid = v->mount->uid,
        .st_gid = v->mount->gid,
        .st_size = (off_t)v->size_bytes,
        .st_blocks = (blkcnt_t)(MIN(v->allocated_bytes, v->size_bytes) / 512),
        .st_blksize = 65536,
        .st_atim = v->modified,
        .st_mtim = v->modified,
        .st_ctim = v->modified,
    };
}

void volume_unref(struct volume *v)
{
    if (v->lookups > 0 || v->opens > 0 || v->pins > 0 || v->session != NULL)
        return;
    CHECK(list_empty(&v->open_waiters) && list_empty(&v->size_waiters));
    loop_later_cancel(&v->close_later);
    list_remove(&v->link);
    mem_free(v->id);
    mem_free(v->name);
    mem_free(v);
}

static void volume_unpin(struct volume *v)
{
    v->pins--;
    volume_unref(v);
}

void volume_forget(struct volume *v, uint64_t lookups)
{
    CHECK(v->lookups >= lookups);
    v->lookups -= lookups;
    volume_unref(v);
}

/* --- Session events --------------------------------------------------------------------------- */

static void resume_size_waiters(struct volume *v)
{
    struct list all;
    list_init(&all);
    list_splice_back(&all, &v->size_waiters);
    for (struct list *it; (it = list_pop_front(&all)) != NULL;) {
        struct size_waiter *waiter = list_entry(it, struct size_waiter, link);
        waiter->checked(waiter);
    }
}

static void answer_opens(struct volume *v, int error)
{
    struct list all;
    list_init(&all);
    list_splice_back(&all, &v->open_waiters);
    for (struct list *it; (it = list_pop_front(&all)) != NULL;) {
        struct open_waiter *waiter = list_entry(it, struct open_waiter, link);
        if (error != 0)
            v->opens--;
        waiter->opened(waiter, error);
    }
    if (v->opens == 0)
        loop_later_set(v->mount->loop, &v->close_later);
}

static void session_up(void *ctx)
{
    struct volume *v = ctx;
    resume_size_waiters(v);
    answer_opens(v, 0);
}

static void session_down(void *ctx, int error)
{
    struct volume *v = ctx;
    resume_size_waiters(v); /* to be answered with the session's error */
    answer_opens(v, error == -ESTALE ? -ENOENT : error);
}

static void listed_for_identity(void *ctx, int error, const json_t *result, const char *text)
{
    struct volume *v = ctx;
    if (v->session != NULL && error != 0) {
        session_identified(v->session, -EIO, NULL);
    } else if (v->session != NULL) {
        const json_t *list = json_object_get(result, "volumes"), *info;
        bool found = false;
        size_t i;
        json_array_foreach (list, i, info) {
            CLEANUP_FREE char *id = volume_id_of(info);
            if (id != NULL && strcmp(id, v->id) == 0)
                found = volume_learn(v->mount, info) == v;
        }
        /* While the store does not answer, what is not in the list may still be there. */
        bool recalled = json_is_true(json_object_get(result, "recalled"));
        session_identified(v->session, found ? 0 : recalled ? -EIO : -ENOENT, v->name);
    }
    volume_unpin(v);
}

static void told_for_identity(void *ctx, int error, const json_t *result, const char *text)
{
    struct volume *v = ctx;
    CLEANUP_FREE char *id = error == 0 ? volume_id_of(result) : NULL;
    if (id != NULL && strcmp(id, v->id) == 0) {
        if (v->session != NULL)
            session_identified(v->session, 0, v->name);
        volume_unpin(v);
        return;
    }
    /* Deleted, or renamed: the id tells. */
    admin_queue_call(v->mount->admin, "volume.list", NULL, ADMIN_WAIT, listed_for_identity, v);
}

static void session_identify(void *ctx)
{
    struct volume *v = ctx;
    v->pins++;
    admin_queue_call(v->mount->admin, "volume.info", volume_info_params(v->name), ADMIN_WAIT,
        told_for_identity, v);
}

static bool op_abandoned(void *ctx, struct nbd_op *op)
{
    struct volume *v = ctx;
    return op != &v->close_flush && request_op_abandoned(op);
}

static const struct session_events session_events = {
    .identify = session_identify,
    .up = session_up,
    .down = session_down,
    .abandoned = op_abandoned,
};

/* --- Open and close --------------------------------------------------------------------------- */

void volume_open(struct volume *v, struct open_waiter *waiter)
{
    if (v->session != NULL && session_is_gone(v->session)) {
        waiter->opened(waiter, -ESTALE); /* until the files of before are closed */
        return;
    }
    v->opens++;
    if (v->session != NULL && session_is_up(v->session)) {
        waiter->opened(waiter, 0);
        return;
    }
    list_push_back(&v->open_waiters, &waiter->link);
    if (v->session == NULL)
        v->session =
            session_new(v->mount->loop, &v->mount->session_config, v->name, &session_events, v);
}

void volume_open_cancel(struct volume *v, struct open_waiter *waiter)
{
    list_remove(&waiter->link);
    volume_close(v);
}

static void close_flush_done(struct nbd_op *op)
{
    struct volume *v = container_of(op, struct volume, close_flush);
    v->close_flushing = false;
    if (op->error == 0)
        v->writes_flushed = v->writes_at_flush;
    else
        log_warn("%s: flush at close: %s; the last writes may not survive a loss of power", v->name,
            strerror(-op->error));
    loop_later_set(v->mount->loop, &v->close_later);
    if (op->error != 0)
        v->writes_flushed = v->writes;
}

static void close_later(struct loop_later *later)
{
    struct volume *v = container_of(later, struct volume, close_later);
    if (v->opens > 0 || v->session == NULL || v->close_flushing)
        return;
    if (session_unanswered(v->session) > 0)
        return; /* request.c calls again at the last one's end */
    if (v->writes != v->writes_flushed && session_export(v->session)->can_flush) {
        v->close_flushing = true;
        v->writes_at_flush = v->writes;
        v->close_flush = (struct nbd_op){.kind = NBD_OP_FLUSH, .done = close_flush_done};
        session_submit(v->session, &v->close_flush);
        return;
    }
    session_close(v->session);
    v->session = NULL;
    volume_unref(v);
}

void volume_close(struct volume *v)
{
    CHECK(v->opens > 0);
    if (--v->opens == 0)
        loop_later_set(v->mount->loop, &v->close_later);
}

void volume_close_all(struct volume *v)
{
    v->opens = 0;
    loop_later_set(v->mount->loop, &v->close_later);
}

/* --- Size ------------------------------------------------------------------------------------- */

static void told_for_size(void *ctx, int error, const json_t *result, const char *text)
{
    struct size_waiter *waiter = ctx;
    struct volume *v = waiter->volume;
    if (error == 0)
        volume_learn(v->mount, result);
    if (error == -ETIMEDOUT && v->mount->session_config.timeout_ms == 0) {
        volume_check_size(v, waiter); /* I/O waits for blockd for ever */
        volume_unpin(v);
        return;
    }
    if (has_grown(v) && !session_is_up(v->session) && !session_is_gone(v->session))
        list_push_back(&v->size_waiters, &waiter->link); /* until the session is up again */
    else
        waiter->checked(waiter);
    volume_unpin(v);
}

void volume_check_size(struct volume *v, struct size_waiter *waiter)
{
    list_init(&waiter->link);
    waiter->volume = v;
    v->pins++;
    admin_queue_call(v->mount->admin, "volume.info", volume_info_params(v->name), ADMIN_WAIT,
        told_for_size, waiter);
}
